//! The messages of a console with several ports (5.3.6.2).

/// Events of a control message (5.3.6.2).
pub(super) const DEVICE_READY: u16 = 0;
pub(super) const DEVICE_ADD: u16 = 1;
pub(super) const PORT_READY: u16 = 3;
pub(super) const CONSOLE_PORT: u16 = 4;
pub(super) const RESIZE: u16 = 5;
pub(super) const PORT_OPEN: u16 = 6;
pub(super) const PORT_NAME: u16 = 7;
/// Bytes of a message without what follows it.
pub(super) const LEN: usize = 8;

/// A message from the driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Received {
    pub(super) port: u32,
    pub(super) event: u16,
    pub(super) value: u16,
}

impl Received {
    pub(super) fn parse(bytes: [u8; LEN]) -> Received {
        let [a, b, c, d, e, f, g, h] = bytes;
        Received {
            port: u32::from_le_bytes([a, b, c, d]),
            event: u16::from_le_bytes([e, f]),
            value: u16::from_le_bytes([g, h]),
        }
    }
}

/// A message to the driver.
pub(super) fn message(port: usize, event: u16, value: u16, rest: &[u8]) -> Vec<u8> {
    let mut bytes = (port as u32).to_le_bytes().to_vec();
    bytes.extend(event.to_le_bytes());
    bytes.extend(value.to_le_bytes());
    bytes.extend(rest);
    bytes
}

/// A window's size: columns, then rows (5.3.6.2.1). For years Linux took them the other way round; today's kernels,
/// and the stable ones, read them as the text says.
pub(super) fn resize(port: usize, (rows, columns): (u16, u16)) -> Vec<u8> {
    let size = [columns.to_le_bytes(), rows.to_le_bytes()].concat();
    message(port, RESIZE, 0, &size)
}
