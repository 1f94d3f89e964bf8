//! The header before every packet (5.1.6): `struct virtio_net_hdr`, 12 bytes in a device of version 1.

/// Its size.
pub(super) const HEADER_BYTES: usize = 12;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`: the checksum is to be finished.
const NEEDS_CHECKSUM: u8 = 1;
/// `VIRTIO_NET_HDR_F_DATA_VALID`: the checksum was found right.
const DATA_VALID: u8 = 2;
/// `VIRTIO_NET_HDR_GSO_NONE`: one packet, not one to be cut.
const GSO_NONE: u8 = 0;

/// What a driver says about a packet that it sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Header(pub(super) [u8; HEADER_BYTES]);

impl Header {
    /// The header of a received packet that is as it is on the wire.
    pub(super) fn received(checksum_is_right: bool) -> Header {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0] = if checksum_is_right { DATA_VALID } else { 0 };
        Header(bytes).with_buffers(1)
    }

    /// With the number of merged buffers (5.1.6.3.1).
    pub(super) fn with_buffers(mut self, count: u16) -> Header {
        self.0[10..12].copy_from_slice(&count.to_le_bytes());
        self
    }

    /// Where the checksum starts and where, from there, its field is; `None` if nothing is to be done.
    pub(super) fn checksum(&self) -> Option<(usize, usize)> {
        (self.0[0] & NEEDS_CHECKSUM != 0).then(|| (self.word(6), self.word(8)))
    }

    /// Whether the packet is to be cut into several.
    pub(super) fn is_segmented(&self) -> bool {
        self.0[1] != GSO_NONE
    }

    fn word(&self, at: usize) -> usize {
        usize::from(u16::from_le_bytes([self.0[at], self.0[at + 1]]))
    }
}
