//! Limits of what a VM costs its host in memory.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::amounts::ByteSize;
use super::text::{BadText, Text, bad, written_as_text};

/// How much memory of the host a VM, or a part of it, may take: a size, or `none` for no limit. What the least is depends on the
/// VM, and is said when it is planned.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MemoryLimit {
    /// There is no limit.
    None,
    /// In bytes, at least [`MemoryLimit::MIN_BYTES`].
    Bytes(u64),
}

impl MemoryLimit {
    /// Less is too little for any VM.
    pub const MIN_BYTES: u64 = 1 << 20;

    /// In bytes; `None` is no limit.
    pub fn bytes(self) -> Option<u64> {
        match self {
            MemoryLimit::None => None,
            MemoryLimit::Bytes(bytes) => Some(bytes),
        }
    }
}

impl fmt::Display for MemoryLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MemoryLimit::None => f.write_str("none"),
            MemoryLimit::Bytes(bytes) => ByteSize(*bytes).fmt(f),
        }
    }
}

impl FromStr for MemoryLimit {
    type Err = BadText;

    fn from_str(text: &str) -> Result<MemoryLimit, BadText> {
        let help = "write a size such as 96M, or none";
        match (text, text.parse()) {
            ("none", _) => Ok(MemoryLimit::None),
            (_, Err(_)) => bad(format!("\"{}\" is no limit", text.escape_debug()), help),
            (_, Ok(ByteSize(bytes))) if bytes < MemoryLimit::MIN_BYTES => bad(
                format!("{} is too little for any VM", ByteSize(bytes).in_words()),
                help,
            ),
            (_, Ok(ByteSize(bytes))) => Ok(MemoryLimit::Bytes(bytes)),
        }
    }
}

impl Text for MemoryLimit {
    const NAME: &'static str = "MemoryLimit";
    const EXAMPLES: &'static [&'static str] = &["96M", "1G", "none"];
    const NUMBERS: Option<RangeInclusive<u64>> = Some(MemoryLimit::MIN_BYTES..=u64::MAX);
}

written_as_text!(MemoryLimit);

#[cfg(test)]
mod tests {
    use super::super::text::check;
    use super::*;

    #[test]
    fn a_limit_of_the_hosts_memory_is_understood_or_explained() {
        check::<MemoryLimit>(&[
            ("none", Ok("none")),
            ("96M", Ok("96M")),
            ("1048576", Ok("1M")),
            ("1023K", Err("1023K is too little for any VM")),
            ("0", Err("0 bytes is too little for any VM")),
            ("10%", Err("\"10%\" is no limit")),
            ("", Err("\"\" is no limit")),
        ]);
        let limits = ["none", "2M"].map(|text| text.parse::<MemoryLimit>().unwrap().bytes());
        assert_eq!(limits, [None, Some(2 << 20)]);
    }
}
