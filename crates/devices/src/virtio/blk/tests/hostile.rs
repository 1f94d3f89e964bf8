//! Drivers that mean harm: random rings and requests, and a parser compared with a naive one.

use super::*;
use crate::virtio::blk::request::{Malformed, Request, len_bytes};

/// A small generator, so that a failure can be repeated by its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// One of these, most of the time.
    fn among(&mut self, usual: &[u64]) -> u64 {
        if self.below(8) == 0 {
            self.next()
        } else {
            usual[self.below(usual.len() as u64) as usize]
        }
    }
}

/// What a request is, byte by byte, with no care for speed: the readable addresses in order, then the writable ones.
fn naive(
    chain: &[(u64, u32, bool)],
    memory: &GuestMemory,
) -> Result<(u32, u64, u64, u64, u64), Malformed> {
    let first_writable = chain.iter().position(|part| part.2).unwrap_or(chain.len());
    if chain[first_writable..].iter().any(|part| !part.2) {
        return Err(Malformed::Disorder);
    }
    let addresses = |&(gpa, len, _): &(u64, u32, bool)| {
        (0..u64::from(len))
            .map(|n| gpa.wrapping_add(n))
            .collect::<Vec<u64>>()
    };
    let readable: Vec<u64> = chain[..first_writable].iter().flat_map(addresses).collect();
    let writable: Vec<u64> = chain[first_writable..].iter().flat_map(addresses).collect();
    let mut header = [0; 16];
    for (n, byte) in header.iter_mut().enumerate() {
        let at = readable.get(n);
        // A buffer that leaves memory within the header is refused before its end is missed.
        let at = at.ok_or(Malformed::NoHeader)?;
        *byte = memory
            .read_value(Gpa(*at), 1)
            .map_err(|_| Malformed::HeaderNotMemory)? as u8;
    }
    let status = *writable.last().ok_or(Malformed::NoStatus)?;
    memory
        .read_value(Gpa(status), 1)
        .map_err(|_| Malformed::StatusNotMemory)?;
    let kind = u32::from_le_bytes(header[..4].try_into().unwrap());
    let sector = u64::from_le_bytes(header[8..].try_into().unwrap());
    Ok((
        kind,
        sector,
        readable.len() as u64 - 16,
        writable.len() as u64 - 1,
        status,
    ))
}

#[test]
fn requests_are_parsed_as_a_naive_reader_would() {
    let memory = GuestMemory::flat(0x4000).unwrap();
    let mut random = Random(0x5eed);
    for at in 0..0x400 {
        memory
            .write(Gpa(at * 8), &random.next().to_le_bytes())
            .unwrap();
    }
    let mut good = 0;
    for round in 0..50_000 {
        let parts = random.below(6);
        let mut chain = Vec::new();
        for n in 0..parts {
            let gpa = [random.below(0x3f00), 0x3ff0 + random.below(32)]
                [usize::from(random.below(10) == 0)];
            let len = random.among(&[0, 1, 2, 7, 15, 16, 17, 40]) as u32 % 64;
            chain.push((gpa, len, n + random.below(2) > parts / 2));
        }
        let descriptors = chain.iter().map(|&(gpa, len, is_writable)| {
            virtio_queue::desc::split::Descriptor::new(
                gpa,
                len,
                if is_writable { WRITE } else { 0 },
                0,
            )
        });
        let kinds = [
            (0, "Read"),
            (1, "Write"),
            (4, "Flush"),
            (8, "GetId"),
            (11, "Discard"),
            (13, "WriteZeroes"),
        ];
        let got = Request::parse(descriptors, &memory).map(|request| {
            let data = (len_bytes(&request.readable), len_bytes(&request.writable));
            (
                format!("{:?}", request.kind),
                request.sector,
                data.0,
                data.1,
                request.status.0,
            )
        });
        let expected = naive(&chain, &memory).map(|(kind, sector, readable, writable, status)| {
            let name = kinds.iter().find(|(number, _)| *number == kind);
            let name = name.map_or_else(
                || format!("Unknown({kind})"),
                |(_, name)| (*name).to_owned(),
            );
            (name, sector, readable, writable, status)
        });
        good += u32::from(expected.is_ok());
        // Which of two mistakes is named does not matter.
        match (&got, &expected) {
            (Err(_), Err(_)) => {}
            _ => assert_eq!(got, expected, "round {round}: {chain:x?}"),
        }
    }
    assert!(good > 5_000, "only {good} good requests");
}

#[test]
fn no_ring_makes_the_worker_panic_or_leave_the_disk() {
    let mut random = Random(0xb10c);
    let file = memory_file(&[0x5a; 64 * 512]);
    for _ in 0..300 {
        let mut driver = Driver::new(
            raw(&file),
            DiskOptions {
                is_read_only: true,
                ..options()
            },
        );
        for _ in 0..100 {
            scribble(&mut driver, &mut random);
            if driver.notify().is_err() {
                break;
            }
        }
    }
    assert!(contents(&file) == [0x5a; 64 * 512], "a read-only disk");
    let file = memory_file(&[0; 64 * 512]);
    for _ in 0..300 {
        let mut driver = Driver::new(raw(&file), options());
        for _ in 0..100 {
            scribble(&mut driver, &mut random);
            if driver.notify().is_err() {
                break;
            }
        }
        assert_eq!(contents(&file).len(), 64 * 512);
    }
}

/// Random descriptors and headers, a few of them made available.
fn scribble(driver: &mut Driver, random: &mut Random) {
    let write = |at: u64, bytes: &[u8]| driver.memory.write(Gpa(at), bytes).unwrap();
    for n in 0..8 {
        let at = DESCRIPTORS + 16 * n;
        write(
            at,
            &random
                .among(&[BUFFERS, BUFFERS + 16, BUFFERS + 512, MEMORY_BYTES - 16])
                .to_le_bytes(),
        );
        write(
            at + 8,
            &(random.among(&[1, 16, 16, 20, 512, 512, 1024, 0xffff_ffff]) as u32).to_le_bytes(),
        );
        write(
            at + 12,
            &(random.among(&[0, 1, 1, 2, 3, 3]) as u16).to_le_bytes(),
        );
        write(
            at + 14,
            &(random.among(&[0, 1, 2, 3, 4, 5, 6, 7]) as u16).to_le_bytes(),
        );
    }
    write(
        BUFFERS,
        &(random.among(&[0, 1, 4, 8, 11, 13]) as u32).to_le_bytes(),
    );
    write(BUFFERS + 8, &random.among(&[0, 1, 63, 64]).to_le_bytes());
    for n in 0..4 {
        write(
            AVAIL + 4 + 2 * n,
            &(random.among(&[0, 1, 2, 3, 4]) as u16).to_le_bytes(),
        );
    }
    let more = random.among(&[1, 1, 2, 4]) as u16;
    driver.available = driver.available.wrapping_add(more);
    write(AVAIL + 2, &driver.available.to_le_bytes());
}
