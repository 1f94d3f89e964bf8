//! What both directions know about the wire.

/// Longest frame: 65,535 bytes of IP, an Ethernet header and a VLAN tag.
pub(super) const FRAME_BYTES_MAX: usize = 65_535 + 18;

/// Shortest: an Ethernet header.
pub(super) const FRAME_BYTES_MIN: usize = 14;

/// The length before a frame in a stream: 32 bits in network byte order.
pub(super) const PREFIX_BYTES: usize = 4;

/// The backend is gone or cannot be understood any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Lost;
