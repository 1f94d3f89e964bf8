//! FUSE's words on the wire (`include/uapi/linux/fuse.h`, version 7.31): little-endian here, as the guest is x86-64.

use rustix::io::Errno;

/// Bytes of `fuse_in_header`.
pub const HEADER_BYTES: usize = 40;

/// Bytes of `fuse_out_header`.
pub const ANSWER_HEADER_BYTES: usize = 16;

/// The longest answer.
pub const ANSWER_BYTES_MAX: usize = ANSWER_HEADER_BYTES + DATA_BYTES_MAX;

/// The most that one read or write carries.
pub(crate) const DATA_BYTES_MAX: usize = 1 << 20;

/// The longest message that is read: the most data, and its header and fields.
pub const REQUEST_BYTES_MAX: usize = DATA_BYTES_MAX + 4096;

/// `NAME_MAX`.
const NAME_BYTES_MAX: usize = 255;

/// `fuse_in_header`, as far as it is used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) opcode: u32,
    pub(crate) unique: u64,
    pub(crate) node_id: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// The header and what follows it; `None` of what is no message, or not of the length that it says.
pub(crate) fn split(message: &[u8]) -> Option<(Header, Body<'_>)> {
    if message.len() < HEADER_BYTES || message.len() > REQUEST_BYTES_MAX {
        return None;
    }
    let mut body = Body(message);
    let mut read = || -> Result<(u32, Header), Errno> {
        let len_bytes = body.u32()?;
        let header = Header {
            opcode: body.u32()?,
            unique: body.u64()?,
            node_id: body.u64()?,
            uid: body.u32()?,
            gid: body.u32()?,
        };
        // The process, and lengths of extensions, none of which is agreed on.
        body.skip(8)?;
        Ok((len_bytes, header))
    };
    let (len_bytes, header) = read().ok()?;
    (len_bytes as usize == message.len()).then_some((header, body))
}

/// What of a message has not been read yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Errno> {
        let (first, rest) = self.0.split_first_chunk().ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(*first)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Errno> {
        self.take().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Errno> {
        self.take().map(u64::from_le_bytes)
    }

    pub(crate) fn skip(&mut self, bytes: usize) -> Result<(), Errno> {
        self.bytes(bytes).map(drop)
    }

    /// So many bytes.
    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Errno> {
        let (first, rest) = self.0.split_at_checked(count).ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(first)
    }

    /// Up to the next NUL, which is skipped.
    pub(crate) fn text(&mut self) -> Result<&'a [u8], Errno> {
        let end = self.0.iter().position(|byte| *byte == 0);
        let text = self.bytes(end.ok_or(Errno::INVAL)?)?;
        self.skip(1)?;
        Ok(text)
    }

    /// A name that may be given to something in a folder: one part, which leads nowhere else.
    pub(crate) fn name(&mut self) -> Result<&'a [u8], Errno> {
        let name = self.text()?;
        if name.len() > NAME_BYTES_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') {
            return Err(Errno::INVAL);
        }
        Ok(name)
    }
}

/// A body that is written.
#[derive(Default, Debug)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn u16(mut self, value: u16) -> Writer {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(crate) fn u32(mut self, value: u32) -> Writer {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(crate) fn u64(mut self, value: u64) -> Writer {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(crate) fn zeros(mut self, count: usize) -> Writer {
        self.0.resize(self.0.len() + count, 0);
        self
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Writer {
        self.0.extend(bytes);
        self
    }
}

/// A whole answer: `fuse_out_header` and a body, or an error and none.
pub(crate) fn answer(unique: u64, outcome: Result<Vec<u8>, Errno>) -> Vec<u8> {
    let error = outcome
        .as_ref()
        .err()
        .map_or(0, |error| -error.raw_os_error());
    let body = outcome.unwrap_or_default();
    let len_bytes = u32::try_from(ANSWER_HEADER_BYTES + body.len())
        .expect("bodies are bounded by what one read may carry");
    let header = Writer::default().u32(len_bytes).u32(error as u32);
    header.u64(unique).bytes(&body).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_part() {
        let check = |bytes: &[u8], expected: Result<&[u8], Errno>| {
            assert_eq!(Body(bytes).name(), expected, "{bytes:?}");
        };
        check(b"a\0", Ok(b"a"));
        check(b"..a\0rest", Ok(b"..a"));
        check(b"...\0", Ok(b"..."));
        check(b"a", Err(Errno::INVAL));
        check(b"", Err(Errno::INVAL));
        check(b"\0", Err(Errno::INVAL));
        check(b".\0", Err(Errno::INVAL));
        check(b"..\0", Err(Errno::INVAL));
        check(b"a/b\0", Err(Errno::INVAL));
        check(b"/\0", Err(Errno::INVAL));
        check(b"../a\0", Err(Errno::INVAL));
        check(&[&[b'a'; 255][..], &[0]].concat(), Ok(&[b'a'; 255]));
        check(&[&[b'a'; 256][..], &[0]].concat(), Err(Errno::NAMETOOLONG));
    }

    #[test]
    fn a_message_has_the_length_that_it_says() {
        let message = |said: u32, bytes: usize| {
            let mut message = said.to_le_bytes().to_vec();
            message.resize(bytes, 0);
            split(&message).is_some()
        };
        assert!(message(40, 40) && message(56, 56));
        assert!(!message(0, 0) && !message(39, 39) && !message(41, 40) && !message(40, 41));
        let most = REQUEST_BYTES_MAX as u32;
        assert!(message(most, REQUEST_BYTES_MAX));
        assert!(!message(most + 1, REQUEST_BYTES_MAX + 1));
    }
}
