//! Paths in JSON and TOML: text where they are text, and their bytes where they are not.
//!
//! A path on Linux is any bytes without a zero (path_resolution(7)). serde refuses what is not UTF-8, and a VM whose
//! disk has such a name would be one that can be started and not be written down. For fields, beside
//! `#[serde(with = "api::host_path")]`: a path, or an `Option`, a `Vec` or a pair of one.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A path: text, or the bytes of one that is not UTF-8
#[derive(Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Path")]
#[serde(
    untagged,
    expecting = "a path: text, or the bytes of one that is not UTF-8"
)]
pub enum Written {
    /// UTF-8.
    Text(String),
    /// Anything else.
    Bytes(Vec<u8>),
}

/// What has a path in it.
pub trait Shape: Sized {
    /// The same with the path written down.
    type Written: Serialize + for<'de> Deserialize<'de>;

    /// Writes it down.
    fn written(&self) -> Self::Written;

    /// Reads it.
    fn read(written: Self::Written) -> Self;
}

impl Shape for PathBuf {
    type Written = Written;

    fn written(&self) -> Written {
        match self.to_str() {
            Some(text) => Written::Text(text.to_owned()),
            None => Written::Bytes(self.as_os_str().as_bytes().to_vec()),
        }
    }

    fn read(written: Written) -> PathBuf {
        match written {
            Written::Text(text) => PathBuf::from(text),
            Written::Bytes(bytes) => PathBuf::from(OsString::from_vec(bytes)),
        }
    }
}

impl<T: Shape> Shape for Option<T> {
    type Written = Option<T::Written>;

    fn written(&self) -> Self::Written {
        self.as_ref().map(T::written)
    }

    fn read(written: Self::Written) -> Self {
        written.map(T::read)
    }
}

impl<T: Shape> Shape for Vec<T> {
    type Written = Vec<T::Written>;

    fn written(&self) -> Self::Written {
        self.iter().map(T::written).collect()
    }

    fn read(written: Self::Written) -> Self {
        written.into_iter().map(T::read).collect()
    }
}

impl<T: Shape> Shape for (T, u64) {
    type Written = (T::Written, u64);

    fn written(&self) -> Self::Written {
        (self.0.written(), self.1)
    }

    fn read((path, number): Self::Written) -> Self {
        (T::read(path), number)
    }
}

/// Writes a field.
///
/// # Errors
/// The serializer's.
pub fn serialize<T: Shape, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    value.written().serialize(serializer)
}

/// Reads a field.
///
/// # Errors
/// The deserializer's.
pub fn deserialize<'de, T: Shape, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    T::Written::deserialize(deserializer).map(T::read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Paths {
        #[serde(with = "super")]
        one: PathBuf,
        #[serde(with = "super", default)]
        perhaps: Option<PathBuf>,
        #[serde(with = "super")]
        many: Vec<PathBuf>,
        #[serde(with = "super")]
        pair: Option<(PathBuf, u64)>,
    }

    #[test]
    fn a_path_of_any_bytes_comes_back() {
        let check = |bytes: &[u8], written: &str| {
            let path = PathBuf::from(OsString::from_vec(bytes.to_vec()));
            let paths = Paths {
                one: path.clone(),
                perhaps: Some(path.clone()),
                many: vec![path.clone(), path.clone()],
                pair: Some((path, 7)),
            };
            let text = serde_json::to_string(&paths).unwrap();
            let expected = format!(
                r#"{{"one":{written},"perhaps":{written},"many":[{written},{written}],"pair":[{written},7]}}"#
            );
            assert_eq!(text, expected);
            assert_eq!(serde_json::from_str::<Paths>(&text).unwrap(), paths);
        };
        check(b"/a b", r#""/a b""#);
        check("/größe".as_bytes(), r#""/größe""#);
        check(b"/\xff", "[47,255]");
        check(b"", r#""""#);
    }

    #[test]
    fn what_is_no_path_is_told() {
        let error = serde_json::from_str::<Paths>(r#"{"one":7,"many":[],"pair":null}"#);
        let told = error.unwrap_err().to_string();
        assert!(
            told.starts_with("a path: text, or the bytes of one"),
            "{told}"
        );
    }
}
