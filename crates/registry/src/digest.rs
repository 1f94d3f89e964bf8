//! What names a part: its SHA-256 (image-spec, descriptor.md). Registries may have others; nobody has seen one.

use std::fmt;

use sha2::Digest as _;

/// A SHA-256, which is 64 hexadecimal digits in lower case: plain enough to be a file's name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Digest(String);

impl Digest {
    /// Reads `sha256:` and 64 digits.
    pub fn parse(text: &str) -> Option<Digest> {
        let digits = text.strip_prefix("sha256:")?;
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        (digits.len() == 64 && digits.bytes().all(is_digit)).then(|| Digest(digits.to_owned()))
    }

    /// That of these bytes.
    pub fn of(bytes: &[u8]) -> Digest {
        let mut hasher = Hasher::default();
        hasher.take(bytes);
        hasher.finish()
    }

    /// Its 64 digits.
    pub fn digits(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "sha256:{}", self.0)
    }
}

/// Takes bytes as they come.
#[derive(Clone, Default)]
pub(crate) struct Hasher(sha2::Sha256);

impl Hasher {
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> Digest {
        let digits = self.0.finalize();
        Digest(digits.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_sha256_is_a_digest() {
        let check = |text: &str, expected: bool| {
            assert_eq!(Digest::parse(text).is_some(), expected, "{text}");
        };
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        check(&format!("sha256:{empty}"), true);
        check(empty, false);
        check(&format!("sha256:{}", &empty[1..]), false);
        check(&format!("sha256:{}", empty.to_uppercase()), false);
        check(&format!("sha512:{empty}"), false);
        check(&format!("sha256:../../{}", &empty[6..]), false);
        assert_eq!(Digest::of(b"").to_string(), format!("sha256:{empty}"));
    }
}
