//! The Internet checksum (RFC 1071), computed by the host for guests that leave it to the device.

/// Ethernet header without a VLAN tag.
const ETHERNET_BYTES: usize = 14;
/// Protocol numbers of the two transports that have a checksum over a pseudo header.
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Sum of the 16-bit words of `bytes`, not folded. Words are added in memory order: the sum of swapped words is the
/// swapped sum (RFC 1071, 2.B), so only the folded result is turned.
fn sum(bytes: &[u8]) -> u64 {
    let mut chunks = bytes.chunks_exact(64);
    // Independent lanes, so that the compiler can use vector registers.
    let mut lanes = [0_u64; 16];
    for chunk in &mut chunks {
        for (lane, word) in lanes.iter_mut().zip(chunk.chunks_exact(4)) {
            *lane += u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
        }
    }
    let mut total = lanes.iter().sum::<u64>();
    let mut words = chunks.remainder().chunks_exact(2);
    for word in &mut words {
        total += u64::from(u16::from_ne_bytes([word[0], word[1]]));
    }
    if let [last] = words.remainder() {
        total += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    total
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::from_be(sum as u16)
}

/// Finishes a checksum as VIRTIO 5.1.6.2 says: from `start` to the end, into the field at `start + offset`, where the
/// driver has left the sum of the pseudo header. `None` if the field lies outside the frame.
pub(super) fn finish(frame: &mut [u8], start: usize, offset: usize) -> Option<()> {
    let at = start.checked_add(offset)?;
    if start >= frame.len() || at.checked_add(2)? > frame.len() {
        return None;
    }
    let checksum = match !fold(sum(&frame[start..])) {
        // Zero would mean that there is none (RFC 768).
        0 => 0xffff,
        checksum => checksum,
    };
    frame[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    Some(())
}

/// Whether the frame is a whole TCP or UDP packet whose checksum has been found right.
pub(super) fn is_right(frame: &[u8]) -> bool {
    transport_sum(frame).is_some_and(|sum| fold(sum) == 0xffff)
}

/// Sum of a segment and its pseudo header.
fn transport_sum(frame: &[u8]) -> Option<u64> {
    let packet = frame.get(ETHERNET_BYTES..)?;
    let (addresses, segment, protocol) = match [frame[12], frame[13]] {
        [0x08, 0x00] => ipv4(packet)?,
        [0x86, 0xdd] => ipv6(packet)?,
        _ => return None,
    };
    if protocol == UDP && segment.get(6..8)? == [0, 0] {
        return None;
    }
    if protocol != TCP && protocol != UDP {
        return None;
    }
    let len_bytes = u32::try_from(segment.len()).ok()?;
    Some(sum(addresses) + sum(&len_bytes.to_be_bytes()) + sum(&[0, protocol]) + sum(segment))
}

/// Addresses, payload and protocol of a packet that is no fragment (RFC 791).
fn ipv4(packet: &[u8]) -> Option<(&[u8], &[u8], u8)> {
    let header = packet.get(..20)?;
    let header_bytes = usize::from(header[0] & 15) * 4;
    let total_bytes = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff;
    if header[0] >> 4 != 4 || header_bytes < 20 || fragment != 0 {
        return None;
    }
    Some((
        &header[12..20],
        packet.get(header_bytes..total_bytes)?,
        header[9],
    ))
}

/// The same of a packet without extension headers (RFC 8200).
fn ipv6(packet: &[u8]) -> Option<(&[u8], &[u8], u8)> {
    let header = packet.get(..40)?;
    let len_bytes = usize::from(u16::from_be_bytes([header[4], header[5]]));
    Some((&header[8..40], packet.get(40..40 + len_bytes)?, header[6]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The plain way, word by word.
    fn slowly(bytes: &[u8]) -> u16 {
        let mut sum = 0_u32;
        for word in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([
                word[0],
                word.get(1).copied().unwrap_or(0),
            ]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn the_fast_sum_is_the_plain_sum() {
        let bytes: Vec<u8> = (0..2000_u32).map(|n| (n * 7 + n / 13) as u8).collect();
        for len in (0..200).chain([1460, 1999, 2000]) {
            assert_eq!(
                fold(sum(&bytes[..len])),
                slowly(&bytes[..len]),
                "{len} bytes"
            );
        }
    }

    /// A UDP packet from 10.0.2.15 to 10.0.2.3 with `payload`, its checksum field holding what a driver leaves there.
    fn udp(payload: &[u8]) -> Vec<u8> {
        let len = 8 + payload.len() as u16;
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0];
        frame.extend((len + 20).to_be_bytes());
        frame.extend([0, 0, 0x40, 0, 64, UDP, 0, 0, 10, 0, 2, 15, 10, 0, 2, 3]);
        let mut pseudo = vec![10, 0, 2, 15, 10, 0, 2, 3, 0, UDP];
        pseudo.extend(len.to_be_bytes());
        frame.extend([0x9c, 0x40, 0, 53]);
        frame.extend(len.to_be_bytes());
        frame.extend(slowly(&pseudo).to_be_bytes());
        frame.extend(payload);
        frame
    }

    #[test]
    fn what_the_device_finishes_is_found_right() {
        for payload in [&b"odd"[..], b"even", &[0xff; 1400], b""] {
            let mut frame = udp(payload);
            assert!(!is_right(&frame));
            finish(&mut frame, 34, 6).unwrap();
            assert!(is_right(&frame), "{} bytes", payload.len());
            *frame.last_mut().unwrap() ^= 1;
            assert!(!is_right(&frame), "one bit wrong");
        }
    }

    #[test]
    fn a_field_outside_the_frame_is_refused() {
        let check = |start, offset, ok: bool| {
            assert_eq!(
                finish(&mut udp(b"data"), start, offset).is_some(),
                ok,
                "{start} + {offset}"
            );
        };
        check(34, 6, true);
        check(34, 10, true);
        check(34, 11, false);
        check(46, 0, false);
        check(usize::MAX, usize::MAX, false);
    }

    #[test]
    fn cut_frames_are_not_found_right_and_not_a_panic() {
        let mut frame = udp(b"payload");
        finish(&mut frame, 34, 6).unwrap();
        for len in 0..frame.len() {
            assert!(!is_right(&frame[..len]), "{len} bytes");
        }
    }
}
