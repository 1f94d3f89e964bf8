//! Bytes that are no text, as text: hexadecimal digits, two for each.

use std::fmt;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes of a guest's, with what they mean being somebody else's to say.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Bytes(pub Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digits = |byte: &u8| [byte >> 4, byte & 15].map(|digit| DIGITS[usize::from(digit)]);
        let text: String = self.0.iter().flat_map(digits).map(char::from).collect();
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        deserializer.deserialize_str(Digits)
    }
}

struct Digits;

impl Visitor<'_> for Digits {
    type Value = Bytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hexadecimal digits, two for each byte")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Bytes, E> {
        let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let byte = |[high, low]: &[u8; 2]| Some(digit(*high)? << 4 | digit(*low)?);
        let bytes: Option<Vec<u8>> = pairs.iter().map(byte).collect();
        bytes
            .filter(|_| rest.is_empty())
            .map(Bytes)
            .ok_or_else(|| E::custom("not hexadecimal digits, two for each byte"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_digits_and_nothing_else_is() {
        let check = |text: &str, expected: Option<&[u8]>| {
            let read = serde_json::from_str::<Bytes>(text).ok();
            assert_eq!(read.as_ref().map(|bytes| &bytes.0[..]), expected, "{text}");
        };
        check(r#""00ff7a""#, Some(&[0, 0xff, 0x7a]));
        check(r#""FF""#, Some(&[0xff]));
        check(r#""""#, Some(&[]));
        check(r#""0""#, None);
        check(r#""0g""#, None);
        check(r#""é""#, None);
        check("7", None);
    }
}
