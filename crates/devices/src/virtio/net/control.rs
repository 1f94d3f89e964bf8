//! The control queue (5.1.6.5): what a driver asks of the device itself.
//!
//! The device filters nothing, so every receive mode is granted by doing nothing: it is allowed to give more than was
//! asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mem::VmMemory;

use crate::virtio::Chain;
use crate::virtio::mac::MacAddress;
use crate::virtio::segments::{Half, Segments};

/// `VIRTIO_NET_OK`.
const OK: u8 = 0;
/// `VIRTIO_NET_ERR`.
const ERROR: u8 = 1;

/// `VIRTIO_NET_CTRL_RX` (5.1.6.5.1), commands 0 to 5.
const CLASS_RECEIVE: u8 = 0;
const RECEIVE_COMMANDS: u8 = 6;
/// `VIRTIO_NET_CTRL_MAC` (5.1.6.5.2).
const CLASS_MAC: u8 = 1;
const MAC_TABLE_SET: u8 = 0;
const MAC_ADDRESS_SET: u8 = 1;

/// Longest command that is looked at: class, command, and an address.
const COMMAND_BYTES: usize = 8;

/// The device's present MAC address, which front and worker share.
#[derive(Clone, Debug)]
pub(super) struct SharedMac(Arc<AtomicU64>);

impl SharedMac {
    pub(super) fn new(mac: MacAddress) -> SharedMac {
        let shared = SharedMac(Arc::default());
        shared.set(mac);
        shared
    }

    pub(super) fn get(&self) -> MacAddress {
        let [_, _, mac @ ..] = self.0.load(Ordering::Relaxed).to_be_bytes();
        MacAddress(mac)
    }

    pub(super) fn set(&self, MacAddress([a, b, c, d, e, f]): MacAddress) {
        self.0.store(
            u64::from_be_bytes([0, 0, a, b, c, d, e, f]),
            Ordering::Relaxed,
        );
    }
}

/// Does what a chain of the control queue asks; how many bytes were written, or `None` if there is no room for an
/// answer in guest memory.
pub(super) fn serve(chain: Chain<'_>, memory: &VmMemory, mac: &SharedMac) -> Option<u32> {
    let mut request = Segments::default();
    let mut answer = Segments::default();
    request.add(chain.clone(), Half::Readable, COMMAND_BYTES);
    answer.add(chain, Half::Writable, 1);
    let mut command = [0; COMMAND_BYTES];
    let len_bytes = request.len_bytes().min(COMMAND_BYTES);
    request.read(memory, 0, &mut command[..len_bytes])?;
    let result = if obey(&command[..len_bytes], mac) {
        OK
    } else {
        ERROR
    };
    answer.write(memory, 0, &[result]).map(|()| 1)
}

fn obey(command: &[u8], mac: &SharedMac) -> bool {
    match command {
        [CLASS_RECEIVE, command, _, ..] => *command < RECEIVE_COMMANDS,
        [CLASS_MAC, MAC_TABLE_SET, ..] => true,
        [CLASS_MAC, MAC_ADDRESS_SET, address @ ..] => match address.first_chunk() {
            Some(address) => {
                mac.set(MacAddress(*address));
                true
            }
            None => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_is_obeyed_or_told_no() {
        let before = MacAddress([2, 0, 0, 0, 0, 1]);
        let check = |command: &[u8], obeyed, mac: [u8; 6]| {
            let shared = SharedMac::new(before);
            assert_eq!(obey(command, &shared), obeyed, "{command:?}");
            assert_eq!(shared.get(), MacAddress(mac), "{command:?}");
        };
        check(&[0, 0, 1], true, before.0);
        check(&[0, 5, 0], true, before.0);
        check(&[0, 6, 0], false, before.0);
        check(&[0, 0], false, before.0);
        check(&[1, 0, 0, 0, 0, 0], true, before.0);
        check(&[1, 1, 2, 9, 8, 7, 6, 5], true, [2, 9, 8, 7, 6, 5]);
        check(&[1, 1, 2, 9, 8, 7, 6], false, before.0);
        check(&[4, 0, 1, 0], false, before.0);
        check(&[], false, before.0);
    }
}
