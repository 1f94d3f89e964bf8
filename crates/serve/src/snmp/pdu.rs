//! AgentX (RFC 2741): packets between a subagent and SNMP's master agent, as far as a subagent that is only read needs them.
//!
//! What comes is checked: a length is never believed beyond what is there, and what is no packet is an error.

use thiserror::Error;

/// Bytes in front of each packet (RFC 2741, 6.1).
pub(super) const HEADER_BYTES: usize = 20;
/// Longest packet that is taken.
pub(super) const PAYLOAD_BYTES_MAX: usize = 256 << 10;
/// Longest name (RFC 2578, 3.5).
const SUBIDS_MAX: usize = 128;

const VERSION: u8 = 1;
const BIG_ENDIAN: u8 = 0x10;
const HAS_CONTEXT: u8 = 0x08;
/// What a name that is shortened begins with: iso.org.dod.internet.
const INTERNET: [u32; 4] = [1, 3, 6, 1];

/// The name of an object.
pub(super) type Oid = Vec<u32>;

/// Kinds of packets (RFC 2741, 6.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Open = 1,
    Close = 2,
    Register = 3,
    Get = 5,
    GetNext = 6,
    GetBulk = 7,
    TestSet = 8,
    CommitSet = 9,
    UndoSet = 10,
    CleanupSet = 11,
    Notify = 12,
    Ping = 13,
    Response = 18,
}

const KINDS: [Kind; 13] = [
    Kind::Open,
    Kind::Close,
    Kind::Register,
    Kind::Get,
    Kind::GetNext,
    Kind::GetBulk,
    Kind::TestSet,
    Kind::CommitSet,
    Kind::UndoSet,
    Kind::CleanupSet,
    Kind::Notify,
    Kind::Ping,
    Kind::Response,
];

/// What an object is (RFC 2741, 5.4).
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Value {
    Integer(i32),
    Text(Vec<u8>),
    Name(Oid),
    Ticks(u32),
    Counter(u64),
    NoSuchObject,
    NoSuchInstance,
    EndOfView,
}

/// A part of the tree that is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Range {
    pub(super) start: Oid,
    /// Whether the start itself is meant too.
    pub(super) includes_start: bool,
    /// Not meant any more; empty for no end.
    pub(super) end: Oid,
}

/// Numbers at the head of a packet, which an answer repeats.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Numbers {
    pub(super) session: u32,
    pub(super) transaction: u32,
    pub(super) packet: u32,
}

/// A head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Head {
    /// None for one that nobody here knows.
    pub(super) kind: Option<Kind>,
    pub(super) numbers: Numbers,
    pub(super) len: usize,
    is_big: bool,
    has_context: bool,
}

/// Why something is no packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub(super) enum Wrong {
    #[error("a packet of version {0}")]
    Version(u8),
    #[error("a packet of {0} bytes")]
    Long(usize),
    #[error("a packet that ends too early")]
    Short,
    #[error("a name of {0} parts")]
    Name(usize),
}

impl Head {
    /// Reads what is in front of a packet.
    pub(super) fn read(bytes: &[u8; HEADER_BYTES]) -> Result<Head, Wrong> {
        let [version, kind, flags, _, rest @ ..] = *bytes;
        if version != VERSION {
            return Err(Wrong::Version(version));
        }
        let is_big = flags & BIG_ENDIAN != 0;
        let mut reader = Reader {
            bytes: &rest,
            is_big,
        };
        let numbers = Numbers {
            session: reader.u32()?,
            transaction: reader.u32()?,
            packet: reader.u32()?,
        };
        let len = reader.u32()? as usize;
        if len > PAYLOAD_BYTES_MAX || !len.is_multiple_of(4) {
            return Err(Wrong::Long(len));
        }
        Ok(Head {
            kind: KINDS.into_iter().find(|known| *known as u8 == kind),
            numbers,
            len,
            is_big,
            has_context: flags & HAS_CONTEXT != 0,
        })
    }

    /// What follows it, behind the context.
    pub(super) fn payload<'a>(&self, bytes: &'a [u8]) -> Result<Reader<'a>, Wrong> {
        let mut reader = Reader {
            bytes,
            is_big: self.is_big,
        };
        if self.has_context {
            reader.text()?;
        }
        Ok(reader)
    }
}

/// Reads a payload.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    is_big: bool,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Wrong> {
        let (some, rest) = self.bytes.split_first_chunk().ok_or(Wrong::Short)?;
        self.bytes = rest;
        Ok(*some)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Wrong> {
        let bytes = self.take()?;
        Ok(match self.is_big {
            true => u32::from_be_bytes(bytes),
            false => u32::from_le_bytes(bytes),
        })
    }

    pub(super) fn u16(&mut self) -> Result<u16, Wrong> {
        let bytes = self.take()?;
        Ok(match self.is_big {
            true => u16::from_be_bytes(bytes),
            false => u16::from_le_bytes(bytes),
        })
    }

    fn text(&mut self) -> Result<Vec<u8>, Wrong> {
        let len = self.u32()? as usize;
        let padded = len.checked_next_multiple_of(4).ok_or(Wrong::Short)?;
        let some = self.bytes.get(..len).ok_or(Wrong::Short)?.to_vec();
        self.bytes = self.bytes.get(padded..).ok_or(Wrong::Short)?;
        Ok(some)
    }

    /// A name, and the byte that says whether it is meant itself (RFC 2741, 5.1).
    fn name(&mut self) -> Result<(Oid, bool), Wrong> {
        let [count, prefix, include, _] = self.take()?;
        if usize::from(count) > SUBIDS_MAX {
            return Err(Wrong::Name(count.into()));
        }
        let mut name = Oid::new();
        if prefix != 0 {
            name.extend(INTERNET);
            name.push(prefix.into());
        }
        for _ in 0..count {
            name.push(self.u32()?);
        }
        Ok((name, include != 0))
    }

    /// All ranges to the end.
    pub(super) fn ranges(&mut self) -> Result<Vec<Range>, Wrong> {
        let mut ranges = Vec::new();
        while !self.bytes.is_empty() {
            let (start, includes_start) = self.name()?;
            let (end, _) = self.name()?;
            ranges.push(Range {
                start,
                includes_start,
                end,
            });
        }
        Ok(ranges)
    }
}

/// Writes a packet.
#[derive(Debug)]
pub(super) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    pub(super) fn new(kind: Kind, numbers: Numbers) -> Writer {
        let mut writer = Writer {
            bytes: vec![VERSION, kind as u8, BIG_ENDIAN, 0],
        };
        for number in [numbers.session, numbers.transaction, numbers.packet, 0] {
            writer.u32(number);
        }
        writer
    }

    pub(super) fn bytes4(&mut self, bytes: [u8; 4]) {
        self.bytes.extend(bytes);
    }

    pub(super) fn u32(&mut self, number: u32) {
        self.bytes4(number.to_be_bytes());
    }

    pub(super) fn text(&mut self, text: &[u8]) {
        self.u32(text.len() as u32);
        self.bytes.extend(text);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    pub(super) fn name(&mut self, name: &[u32]) {
        self.bytes4([name.len() as u8, 0, 0, 0]);
        name.iter().for_each(|part| self.u32(*part));
    }

    /// An object and what it is (RFC 2741, 5.4).
    pub(super) fn object(&mut self, name: &[u32], value: &Value) {
        let kind: u16 = match value {
            Value::Integer(_) => 2,
            Value::Text(_) => 4,
            Value::Name(_) => 6,
            Value::Ticks(_) => 67,
            Value::Counter(_) => 70,
            Value::NoSuchObject => 128,
            Value::NoSuchInstance => 129,
            Value::EndOfView => 130,
        };
        let [high, low] = kind.to_be_bytes();
        self.bytes4([high, low, 0, 0]);
        self.name(name);
        match value {
            Value::Integer(number) => self.u32(*number as u32),
            Value::Text(text) => self.text(text),
            Value::Name(name) => self.name(name),
            Value::Ticks(ticks) => self.u32(*ticks),
            Value::Counter(count) => self.bytes.extend(count.to_be_bytes()),
            Value::NoSuchObject | Value::NoSuchInstance | Value::EndOfView => {}
        }
    }

    /// The packet, whose length is known now.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let len = (self.bytes.len() - HEADER_BYTES) as u32;
        if let Some(place) = self.bytes.get_mut(HEADER_BYTES - 4..HEADER_BYTES) {
            place.copy_from_slice(&len.to_be_bytes());
        }
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(bytes: &[u8]) -> Result<Head, Wrong> {
        Head::read(bytes[..HEADER_BYTES].try_into().unwrap())
    }

    #[test]
    fn a_request_is_read_in_either_order_of_bytes_with_its_names_made_whole() {
        // A GetNext from 1.3.6.1.2.1.236 to 1.3.6.1.2.1.237, shortened, as net-snmp sends it on this host.
        let little = [
            &[1, 6, 0, 0][..],
            &[7, 0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0, 24, 0, 0, 0],
            &[2, 2, 1, 0, 1, 0, 0, 0, 236, 0, 0, 0],
            &[2, 2, 0, 0, 1, 0, 0, 0, 237, 0, 0, 0],
        ]
        .concat();
        let big = [
            &[1, 6, 0x18, 0][..],
            &[0, 0, 0, 7, 0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0, 32],
            &[0, 0, 0, 3, b'a', b'l', b'l', 0],
            &[2, 2, 1, 0, 0, 0, 0, 1, 0, 0, 0, 236],
            &[2, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 237],
        ]
        .concat();
        for bytes in [little, big] {
            let head = head(&bytes).unwrap();
            assert_eq!(head.kind, Some(Kind::GetNext));
            assert_eq!((head.numbers.session, head.numbers.packet), (7, 9));
            assert_eq!(head.len, bytes.len() - HEADER_BYTES);
            let mut payload = head.payload(&bytes[HEADER_BYTES..]).unwrap();
            let expected = Range {
                start: vec![1, 3, 6, 1, 2, 1, 236],
                includes_start: true,
                end: vec![1, 3, 6, 1, 2, 1, 237],
            };
            assert_eq!(payload.ranges().unwrap(), [expected]);
        }
    }

    #[test]
    fn what_is_written_is_as_the_standard_has_it() {
        let numbers = Numbers {
            session: 1,
            transaction: 2,
            packet: 3,
        };
        let mut writer = Writer::new(Kind::Response, numbers);
        writer.object(&[1, 3], &Value::Text(b"web".to_vec()));
        writer.object(&[1], &Value::Counter(1 << 32));
        let expected = [
            &[1, 18, 0x10, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3][..],
            &[0, 0, 0, 44],
            &[0, 4, 0, 0, 2, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 3],
            &[0, 0, 0, 3, b'w', b'e', b'b', 0],
            &[0, 70, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1],
            &[0, 0, 0, 1, 0, 0, 0, 0],
        ]
        .concat();
        assert_eq!(writer.finish(), expected);
    }

    #[test]
    fn what_is_no_packet_is_refused() {
        let check = |bytes: &[u8], expected: Wrong| {
            let found = head(bytes).and_then(|head| {
                let mut payload = head.payload(&bytes[HEADER_BYTES..])?;
                payload.ranges().map(drop)
            });
            assert_eq!(found, Err(expected), "{bytes:?}");
        };
        let with = |flags: u8, len: u8, payload: &[u8]| {
            let mut bytes = vec![1, 6, flags, 0];
            bytes.resize(HEADER_BYTES, 0);
            bytes[16] = len;
            bytes.extend(payload);
            bytes
        };
        let mut other = with(0, 0, &[]);
        other[0] = 2;
        check(&other, Wrong::Version(2));
        check(&with(0, 3, &[]), Wrong::Long(3));
        let mut long = with(0, 0, &[]);
        long[19] = 0xff;
        check(&long, Wrong::Long(0xff00_0000));
        check(&with(0, 4, &[1, 2, 0, 0]), Wrong::Short);
        check(&with(0, 4, &[200, 2, 0, 0]), Wrong::Name(200));
        // A context that says that it is longer than everything.
        check(&with(8, 4, &[0xff, 0xff, 0xff, 0xff]), Wrong::Short);
        check(&with(8, 8, &[9, 0, 0, 0, 1, 2, 3, 4]), Wrong::Short);
    }
}
