//! Numbers taken from the front of bytes that are not believed: what is missing is `None`.

/// Takes bytes from the front; every loop over it ends because the bytes do.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(len)?;
        self.bytes = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    /// A length of 32 bits, and so many bytes of text.
    pub(crate) fn text(&mut self) -> Option<String> {
        let len = self.u32()? as usize;
        String::from_utf8(self.take(len)?.to_vec()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_off_is_not_read_and_takes_nothing() {
        let bytes = [3, 0, 0, 0, b'a', b'b', b'c', 0xfe, 0xff];
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.text().as_deref(), Some("abc"));
        assert_eq!((reader.u32(), reader.u64()), (None, None));
        assert_eq!(reader.take(2), Some(&[0xfe, 0xff][..]));
        assert!(reader.is_empty());
        assert_eq!(Reader::new(&[0xff; 8]).i64(), Some(-1));
        let longer_than_there_is = [4, 0, 0, 0, b'a'];
        assert_eq!(Reader::new(&longer_than_there_is).text(), None);
        let not_text = [1, 0, 0, 0, 0xff];
        assert_eq!(Reader::new(&not_text).text(), None);
    }
}
