//! Files with holes in archives of the pax format, as GNU tar and libarchive write them.
//!
//! Source: the manual of GNU tar, "Storing Sparse Files", "PAX Format, Versions 0.0 and 0.1" and "PAX Format,
//! Version 1.0". (The older form, in headers of their own, is the tar library's affair.)

use std::io::{self, BufRead, BufReader, Read};

/// What the names of all these pax headers begin with.
const PREFIX: &str = "GNU.sparse.";

/// Parts of data that one file may have.
const PARTS_MAX: usize = 1 << 20;

/// What a map in front of the data is filled up to.
const BLOCK_BYTES: u64 = 512;

/// Longest number in such a map, with its end of line.
const NUMBER_BYTES_MAX: u64 = 24;

/// Where data are in a file, and how many; zeros are around them.
type Part = (u64, u64);

/// What the headers of one file say about its holes.
#[derive(Debug, Default)]
pub(super) struct SparseHeaders {
    /// The file's own name, if another stands in its place.
    pub(super) name: Option<Vec<u8>>,
    /// Of the file with its holes.
    size_bytes: Option<u64>,
    offsets: Vec<u64>,
    lens: Vec<u64>,
    /// The map stands in front of the data.
    is_map_inside: bool,
}

impl SparseHeaders {
    /// Takes one pax header, if it is of a file with holes.
    pub(super) fn take(&mut self, key: &str, value: &[u8]) -> io::Result<()> {
        let Some(key) = key.strip_prefix(PREFIX) else {
            return Ok(());
        };
        match key {
            "name" => self.name = Some(value.to_vec()),
            "size" | "realsize" => self.size_bytes = Some(number(value)?),
            "offset" => self.offsets.push(number(value)?),
            "numbytes" => self.lens.push(number(value)?),
            "map" => {
                let numbers: Vec<u64> = value
                    .split(|&byte| byte == b',')
                    .map(number)
                    .collect::<io::Result<_>>()?;
                self.offsets = numbers.iter().step_by(2).copied().collect();
                self.lens = numbers.iter().skip(1).step_by(2).copied().collect();
            }
            "major" => self.is_map_inside = number(value)? >= 1,
            _ => {}
        }
        if self.offsets.len() > PARTS_MAX || self.lens.len() > PARTS_MAX {
            return Err(bad("it has too many parts"));
        }
        Ok(())
    }

    /// The file with its holes, if it has any.
    pub(super) fn fill<R: Read>(self, packed: R) -> io::Result<Option<Filled<BufReader<R>>>> {
        let Some(size_bytes) = self.size_bytes else {
            return Ok(None);
        };
        let mut packed = BufReader::new(packed);
        let parts: Vec<Part> = if self.is_map_inside {
            read_map(&mut packed)?
        } else if self.offsets.len() == self.lens.len() {
            self.offsets.into_iter().zip(self.lens).collect()
        } else {
            return Err(bad("a part has no length"));
        };
        let mut end = 0;
        for (offset, len) in &parts {
            if *offset < end {
                return Err(bad("its parts are not in order"));
            }
            end = offset
                .checked_add(*len)
                .filter(|end| *end <= size_bytes)
                .ok_or_else(|| bad("a part lies behind the file's end"))?;
        }
        Ok(Some(Filled {
            packed,
            parts: parts.into_iter(),
            part: None,
            at: 0,
            size_bytes,
        }))
    }
}

/// Reads a file as it was: zeros where it has holes.
pub(super) struct Filled<R> {
    packed: R,
    parts: std::vec::IntoIter<Part>,
    /// The part that is being read, or comes next.
    part: Option<Part>,
    at: u64,
    size_bytes: u64,
}

impl<R: Read> Read for Filled<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self
            .part
            .is_none_or(|(offset, len)| self.at >= offset + len)
        {
            let Some(part) = self.parts.next() else {
                self.part = None;
                break;
            };
            self.part = Some(part);
        }
        let (is_hole, until) = match self.part {
            Some((offset, len)) if self.at >= offset => (false, offset + len),
            Some((offset, _)) => (true, offset),
            None => (true, self.size_bytes),
        };
        let count = buffer
            .len()
            .min(usize::try_from(until - self.at).unwrap_or(usize::MAX));
        let buffer = &mut buffer[..count];
        if is_hole {
            buffer.fill(0);
        } else {
            self.packed.read_exact(buffer)?;
        }
        self.at += count as u64;
        Ok(count)
    }
}

/// The map in front of the data: a number of parts, then offset and length of each, every number on a line of its own.
fn read_map(packed: &mut impl BufRead) -> io::Result<Vec<Part>> {
    let mut read_bytes = 0;
    let mut next = || -> io::Result<u64> {
        let mut line = Vec::new();
        packed
            .by_ref()
            .take(NUMBER_BYTES_MAX)
            .read_until(b'\n', &mut line)?;
        read_bytes += line.len() as u64;
        number(line.strip_suffix(b"\n").unwrap_or_default())
    };
    let count = usize::try_from(next()?).unwrap_or(usize::MAX);
    if count > PARTS_MAX {
        return Err(bad("it has too many parts"));
    }
    let mut parts = Vec::new();
    for _ in 0..count {
        parts.push((next()?, next()?));
    }
    let rest = read_bytes.next_multiple_of(BLOCK_BYTES) - read_bytes;
    io::copy(&mut packed.take(rest), &mut io::sink())?;
    Ok(parts)
}

fn number(text: &[u8]) -> io::Result<u64> {
    std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .ok_or_else(|| bad("a number is none"))
}

fn bad(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the map of a file with holes is damaged: {what}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(headers: &[(&str, &str)], packed: &[u8], expected: Result<&[u8], &str>) {
        let read = || -> io::Result<Vec<u8>> {
            let mut sparse = SparseHeaders::default();
            for (key, value) in headers {
                sparse.take(&format!("{PREFIX}{key}"), value.as_bytes())?;
            }
            let mut bytes = Vec::new();
            let filled = sparse.fill(packed)?;
            filled
                .expect("the file has holes")
                .read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        match (read(), expected) {
            (Ok(bytes), Ok(expected)) => assert_eq!(bytes, expected, "{headers:?}"),
            (Err(error), Err(expected)) => {
                assert!(error.to_string().contains(expected), "{error}");
            }
            (got, _) => panic!("{headers:?}: {got:?}"),
        }
    }

    #[test]
    fn holes_are_zeros_in_every_version_of_the_format() {
        let whole: &[u8] = b"\0\0ab\0c\0\0";
        let old = [
            ("size", "8"),
            ("numblocks", "2"),
            ("offset", "2"),
            ("numbytes", "2"),
            ("offset", "5"),
            ("numbytes", "1"),
        ];
        check(&old, b"abc", Ok(whole));
        let newer = [("size", "8"), ("map", "2,2,5,1")];
        check(&newer, b"abc", Ok(whole));
        let newest = [("major", "1"), ("minor", "0"), ("realsize", "8")];
        let mut packed = b"2\n2\n2\n5\n1\n".to_vec();
        packed.resize(512, 0);
        packed.extend(b"abc");
        check(&newest, &packed, Ok(whole));
        check(&[("size", "3"), ("map", "0,0,3,0")], b"", Ok(&[0; 3]));
        check(&[("size", "0")], b"", Ok(b""));
    }

    #[test]
    fn a_damaged_map_is_an_error() {
        check(&[("size", "x")], b"", Err("a number is none"));
        check(&[("size", "8"), ("map", "5,1,2,1")], b"ab", Err("in order"));
        check(&[("size", "8"), ("map", "5,4")], b"abcd", Err("file's end"));
        check(
            &[("size", "8"), ("map", "18446744073709551615,2")],
            b"ab",
            Err("file's end"),
        );
        check(&[("size", "8"), ("map", "5")], b"ab", Err("has no length"));
        check(&[("size", "8"), ("map", "0,8")], b"abc", Err("fill"));
        check(
            &[("major", "1"), ("realsize", "8")],
            b"99999999\n",
            Err("too many"),
        );
        check(
            &[("major", "1"), ("realsize", "8")],
            b"1\n2",
            Err("a number is none"),
        );
    }
}
