//! `--disk FILE[,key=value]...`: from what was typed to what is asked for.
//!
//! A comma in a file's name is written twice, as QEMU's users know it.

use std::path::PathBuf;

use api::DiskSpec;
use thiserror::Error;

/// What is wrong with the text itself; what is wrong with the disk, the plan says.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum DiskTextError {
    /// Nothing before the first comma.
    #[error("it names no file; write FILE first, then its options")]
    NoFile,
    /// An option that there is not.
    #[error(
        "\"{0}\" is no option of a disk; there are format=, readonly, serial=, base= and base-format= (a comma in a \
         file's name is written twice)"
    )]
    Unknown(String),
    /// An option without its value.
    #[error("{0} needs a value, such as {0}={1}")]
    NoValue(&'static str, &'static str),
    /// A value where there is none.
    #[error("readonly takes no value; leave it out for a disk that the guest may write")]
    Value,
    /// An option more than once.
    #[error("{0} is given twice")]
    Twice(&'static str),
}

/// Reads one `--disk`.
pub fn disk(text: &str) -> Result<DiskSpec, DiskTextError> {
    let mut words = split(text).into_iter();
    let path = PathBuf::from(words.next().unwrap_or_default());
    if path.as_os_str().is_empty() {
        return Err(DiskTextError::NoFile);
    }
    let mut spec = DiskSpec {
        path,
        ..DiskSpec::default()
    };
    let (mut base, mut is_read_only) = (None, None);
    for word in words {
        let (key, value) = match word.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (word.as_str(), None),
        };
        match key {
            "format" => set(&mut spec.format, "format", "raw", value)?,
            "serial" => set(&mut spec.serial, "serial", "data1", value)?,
            "base" => set(&mut base, "base", "FILE", value)?,
            "base-format" => set(&mut spec.base_format, "base-format", "raw", value)?,
            "readonly" if value.is_some() => return Err(DiskTextError::Value),
            "readonly" => set(&mut is_read_only, "readonly", "", Some("yes"))?,
            _ => return Err(DiskTextError::Unknown(word)),
        }
    }
    spec.base = base.map(PathBuf::from);
    spec.read_only = is_read_only.is_some();
    Ok(spec)
}

fn set(
    place: &mut Option<String>,
    key: &'static str,
    example: &'static str,
    value: Option<&str>,
) -> Result<(), DiskTextError> {
    let value = value
        .filter(|value| !value.is_empty())
        .ok_or(DiskTextError::NoValue(key, example))?;
    match place.replace(value.to_owned()) {
        Some(_) => Err(DiskTextError::Twice(key)),
        None => Ok(()),
    }
}

/// The words between single commas; a double comma is one in a word.
fn split(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter == ',' && letters.next_if_eq(&',').is_none() {
            words.push(String::new());
        } else if let Some(word) = words.last_mut() {
            word.push(letter);
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(path: &str) -> DiskSpec {
        DiskSpec {
            path: path.into(),
            ..DiskSpec::default()
        }
    }

    #[test]
    fn a_disk_is_a_file_and_its_options() {
        let check = |text: &str, expected| assert_eq!(disk(text), Ok(expected), "{text}");
        check("a.img", spec("a.img"));
        check("/x/a=b.img", spec("/x/a=b.img"));
        check("a,,b", spec("a,b"));
        check(
            "a,,,readonly",
            DiskSpec {
                read_only: true,
                ..spec("a,")
            },
        );
        check(
            "a,format=qcow2,readonly,serial=one",
            DiskSpec {
                format: Some("qcow2".to_owned()),
                read_only: true,
                serial: Some("one".to_owned()),
                ..spec("a")
            },
        );
        check(
            "top,base=under,base-format=raw",
            DiskSpec {
                base: Some("under".into()),
                base_format: Some("raw".to_owned()),
                ..spec("top")
            },
        );
    }

    #[test]
    fn a_typing_mistake_is_named() {
        let check = |text: &str, expected: &str| {
            assert_eq!(
                disk(text).map_err(|error| error.to_string()),
                Err(expected.to_owned())
            );
        };
        check("", "it names no file; write FILE first, then its options");
        check(
            ",readonly",
            "it names no file; write FILE first, then its options",
        );
        check("a,format", "format needs a value, such as format=raw");
        check("a,serial=", "serial needs a value, such as serial=data1");
        check(
            "a,readonly=no",
            "readonly takes no value; leave it out for a disk that the guest may write",
        );
        check("a,readonly,readonly", "readonly is given twice");
        check("a,format=raw,format=raw", "format is given twice");
        let options = "is no option of a disk; there are format=, readonly, serial=, base= and base-format= (a comma \
                       in a file's name is written twice)";
        check("a,ro", &format!("\"ro\" {options}"));
        check("a,", &format!("\"\" {options}"));
        check("a,b.img", &format!("\"b.img\" {options}"));
    }
}
