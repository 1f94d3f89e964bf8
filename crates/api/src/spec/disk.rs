//! Disks: `FILE[,key=value]...` in one word, or a table of the same.
//!
//! A comma in a file's name is written twice, as QEMU's users know it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::text::{BadText, Text, bad, written_as_text};

/// How a disk lies in its file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskFormat {
    /// Byte for byte.
    Raw,
    /// QEMU's copy-on-write format.
    Qcow2,
}

impl fmt::Display for DiskFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DiskFormat::Raw => "raw",
            DiskFormat::Qcow2 => "qcow2",
        })
    }
}

impl FromStr for DiskFormat {
    type Err = BadText;

    fn from_str(text: &str) -> Result<DiskFormat, BadText> {
        match text {
            "raw" => Ok(DiskFormat::Raw),
            "qcow2" => Ok(DiskFormat::Qcow2),
            other => bad(
                format!("\"{}\" is no format of disks", other.escape_debug()),
                "write `raw` or `qcow2`",
            ),
        }
    }
}

impl Text for DiskFormat {
    const NAME: &'static str = "DiskFormat";
    const EXAMPLES: &'static [&'static str] = &["raw", "qcow2"];
    const IS_CLOSED: bool = true;
}

written_as_text!(DiskFormat);

/// What a guest sees as a disk's serial number: 1 to 20 visible characters of ASCII.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskSerial(String);

impl DiskSerial {
    /// As many as the device shows (VIRTIO 1.2, 5.2.6, `VIRTIO_BLK_T_GET_ID`).
    const BYTES_MAX: usize = 20;

    /// Of the disk with this number, for which none was said.
    pub fn of_number(number: usize) -> DiskSerial {
        DiskSerial(format!("disk{number}"))
    }

    /// Of the disk that the guest's root file system is on: our initrd finds it by this.
    pub fn root() -> DiskSerial {
        DiskSerial("root".to_owned())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DiskSerial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for DiskSerial {
    type Err = BadText;

    fn from_str(text: &str) -> Result<DiskSerial, BadText> {
        let shown = text.escape_debug();
        if text.len() > DiskSerial::BYTES_MAX {
            let what = format!(
                "the serial number \"{shown}\" has {} characters, more than {}",
                text.len(),
                DiskSerial::BYTES_MAX
            );
            return bad(what, "shorten it");
        }
        if text.is_empty() || !text.chars().all(|c| c.is_ascii_graphic()) {
            return bad(
                format!("the serial number \"{shown}\" cannot be shown to a guest"),
                "use letters, digits and signs of ASCII, no spaces",
            );
        }
        Ok(DiskSerial(text.to_owned()))
    }
}

impl Text for DiskSerial {
    const NAME: &'static str = "DiskSerial";
    const EXAMPLES: &'static [&'static str] = &["data1"];
}

written_as_text!(DiskSerial);

/// A disk of the guest.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", deny_unknown_fields, rename_all = "kebab-case")]
pub struct DiskSpec {
    /// The image.
    #[serde(with = "crate::host_path")]
    #[schemars(with = "crate::host_path::Written")]
    pub path: PathBuf,
    /// How it lies in its file [default: what the first bytes say]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<DiskFormat>,
    /// Whether the guest may not write
    #[serde(
        default,
        rename = "readonly",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub read_only: bool,
    /// For an overlay (qcow2): the image it lies over, which is only read; an overlay is never opened over the file
    /// that its own header names
    #[serde(
        default,
        with = "crate::host_path",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(with = "Option<crate::host_path::Written>")]
    pub base: Option<PathBuf>,
    /// How the base lies in its file [default: what its first bytes say]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_format: Option<DiskFormat>,
    /// What the guest sees as the disk's serial number [default: `disk` and its number]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<DiskSerial>,
    /// Whether the VM starts what this disk's own boot entries say
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub boot: bool,
}

impl fmt::Display for DiskSpec {
    /// As it is written on the command line. A path that is not UTF-8 can be shown and not be read back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |path: &Path| path.to_string_lossy().replace(',', ",,");
        f.write_str(&name(&self.path))?;
        if let Some(format) = self.format {
            write!(f, ",format={format}")?;
        }
        if self.read_only {
            f.write_str(",readonly")?;
        }
        if let Some(serial) = &self.serial {
            write!(f, ",serial={}", serial.as_str().replace(',', ",,"))?;
        }
        if let Some(base) = &self.base {
            write!(f, ",base={}", name(base))?;
        }
        if let Some(format) = self.base_format {
            write!(f, ",base-format={format}")?;
        }
        if self.boot {
            f.write_str(",boot")?;
        }
        Ok(())
    }
}

const OPTIONS: &str = "there are format=, readonly, serial=, base=, base-format= and boot (a comma in a file's \
                       name is written twice)";

impl FromStr for DiskSpec {
    type Err = BadText;

    fn from_str(text: &str) -> Result<DiskSpec, BadText> {
        let mut words = split(text).into_iter();
        let path = PathBuf::from(words.next().unwrap_or_default());
        if path.as_os_str().is_empty() {
            return bad("it names no file", "write FILE first, then its options");
        }
        let mut spec = DiskSpec {
            path,
            ..DiskSpec::default()
        };
        let mut seen = Vec::new();
        for word in words {
            let key = spec.take(&word)?;
            if seen.contains(&key) {
                return bad(format!("{key} is given twice"), "leave one of them out");
            }
            seen.push(key);
        }
        Ok(spec)
    }
}

impl DiskSpec {
    /// Takes one option; its key.
    fn take(&mut self, word: &str) -> Result<&'static str, BadText> {
        let (key, value) = match word.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (word, None),
        };
        let needed = |key: &'static str, example: &str| {
            let value = value.filter(|value| !value.is_empty());
            value.map_or_else(
                || {
                    bad(
                        format!("{key} needs a value"),
                        format!("write {key}={example}"),
                    )
                },
                Ok,
            )
        };
        match key {
            "format" => {
                self.format = Some(needed("format", "raw")?.parse()?);
                Ok("format")
            }
            "serial" => {
                self.serial = Some(needed("serial", "data1")?.parse()?);
                Ok("serial")
            }
            "base" => {
                self.base = Some(needed("base", "FILE")?.into());
                Ok("base")
            }
            "base-format" => {
                self.base_format = Some(needed("base-format", "raw")?.parse()?);
                Ok("base-format")
            }
            "readonly" if value.is_some() => bad(
                "readonly takes no value",
                "leave it out for a disk that the guest may write",
            ),
            "readonly" => {
                self.read_only = true;
                Ok("readonly")
            }
            "boot" if value.is_some() => bad(
                "boot takes no value",
                "leave it out for a disk that the VM does not start from",
            ),
            "boot" => {
                self.boot = true;
                Ok("boot")
            }
            _ => bad(
                format!("\"{}\" is no option of a disk", word.escape_debug()),
                OPTIONS,
            ),
        }
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

impl Serialize for DiskSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        DiskSpec::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for DiskSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<DiskSpec, D::Error> {
        struct WordOrTable;

        impl<'de> Visitor<'de> for WordOrTable {
            type Value = DiskSpec;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text such as \"disk.qcow2,readonly\", or a table with the key path")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<DiskSpec, E> {
                text.parse()
                    .map_err(|error: BadText| E::custom(error.in_one()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<DiskSpec, A::Error> {
                DiskSpec::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer.deserialize_any(WordOrTable)
    }
}

/// The keys of a table.
pub(crate) fn keys() -> &'static [&'static str] {
    super::keys::of(|catcher| DiskSpec::deserialize(catcher).map(drop))
}

/// For the schema: a disk is a word or a table.
#[derive(JsonSchema)]
#[schemars(untagged, rename = "DiskOrText")]
#[allow(
    dead_code,
    reason = "a shape for the schema; no value of it is ever made"
)]
pub(super) enum DiskShape {
    /// `FILE[,format=raw|qcow2][,readonly][,boot][,serial=S][,base=FILE[,base-format=F]]`
    Text(#[schemars(length(min = 1))] String),
    /// The same in keys
    Table(DiskSpec),
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    use proptest::prelude::*;

    use super::super::text::{check, come_back};
    use super::*;

    fn spec(path: &str) -> DiskSpec {
        DiskSpec {
            path: path.into(),
            ..DiskSpec::default()
        }
    }

    #[test]
    fn a_disk_is_a_file_and_its_options() {
        let check = |text: &str, expected: DiskSpec| {
            let read = text.parse::<DiskSpec>();
            assert_eq!(read.as_ref(), Ok(&expected), "{text}");
            assert_eq!(expected.to_string().parse::<DiskSpec>(), read);
            let word = serde_json::to_string(text).unwrap();
            assert_eq!(serde_json::from_str::<DiskSpec>(&word).unwrap(), expected);
            let table = serde_json::to_string(&expected).unwrap();
            assert_eq!(serde_json::from_str::<DiskSpec>(&table).unwrap(), expected);
        };
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
                format: Some(DiskFormat::Qcow2),
                read_only: true,
                serial: Some("one".parse().unwrap()),
                ..spec("a")
            },
        );
        check(
            "top,base=under,,over,base-format=raw,boot",
            DiskSpec {
                boot: true,
                base: Some("under,over".into()),
                base_format: Some(DiskFormat::Raw),
                ..spec("top")
            },
        );
    }

    #[test]
    fn a_typing_mistake_is_named() {
        let check = |text: &str, what: &str, help: &str| {
            let error = text.parse::<DiskSpec>().unwrap_err();
            assert_eq!(
                (error.what.as_str(), error.help.as_str()),
                (what, help),
                "{text}"
            );
        };
        let file_first = "write FILE first, then its options";
        check("", "it names no file", file_first);
        check(",readonly", "it names no file", file_first);
        check("a,format", "format needs a value", "write format=raw");
        check("a,serial=", "serial needs a value", "write serial=data1");
        check(
            "a,readonly=no",
            "readonly takes no value",
            "leave it out for a disk that the guest may write",
        );
        let once = "leave one of them out";
        check("a,readonly,readonly", "readonly is given twice", once);
        check("a,format=raw,format=raw", "format is given twice", once);
        check("a,ro", "\"ro\" is no option of a disk", OPTIONS);
        check("a,", "\"\" is no option of a disk", OPTIONS);
        check("a,b.img", "\"b.img\" is no option of a disk", OPTIONS);
        check(
            "a,format=vmdk",
            "\"vmdk\" is no format of disks",
            "write `raw` or `qcow2`",
        );
    }

    #[test]
    fn a_format_is_one_of_two_words() {
        check::<DiskFormat>(&[
            ("raw", Ok("raw")),
            ("qcow2", Ok("qcow2")),
            ("RAW", Err("\"RAW\" is no format of disks")),
            ("", Err("\"\" is no format of disks")),
        ]);
    }

    #[test]
    fn a_serial_number_is_visible_and_short() {
        check::<DiskSerial>(&[
            ("12345678901234567890", Ok("12345678901234567890")),
            ("a,b", Ok("a,b")),
            (
                "123456789012345678901",
                Err("the serial number \"123456789012345678901\" has 21 characters, more than 20"),
            ),
            (
                "a b",
                Err("the serial number \"a b\" cannot be shown to a guest"),
            ),
            ("", Err("the serial number \"\" cannot be shown to a guest")),
            (
                "ä",
                Err("the serial number \"ä\" cannot be shown to a guest"),
            ),
        ]);
        assert_eq!(DiskSerial::of_number(3).as_str(), "disk3");
    }

    #[test]
    fn a_table_has_these_keys_and_no_others() {
        let expected = [
            "path",
            "format",
            "readonly",
            "base",
            "base-format",
            "serial",
            "boot",
        ];
        assert_eq!(keys(), expected);
        let refused = serde_json::from_str::<DiskSpec>(r#"{"path":"a","ro":true}"#).unwrap_err();
        assert!(
            refused.to_string().starts_with("unknown field `ro`"),
            "{refused}"
        );
        let refused = serde_json::from_str::<DiskSpec>("{}").unwrap_err();
        assert!(
            refused.to_string().starts_with("missing field `path`"),
            "{refused}"
        );
        let refused = serde_json::from_str::<DiskSpec>("7").unwrap_err();
        assert!(refused.to_string().contains("or a table with the key path"));
    }

    proptest! {
        #[test]
        fn disks_come_back(
            path in "\\PC{1,40}",
            base in proptest::option::of("\\PC{1,40}"),
            serial in "[!-~]{1,20}",
            is_raw in any::<bool>(),
            bytes in any::<Vec<u8>>(),
        ) {
            let format = if is_raw { DiskFormat::Raw } else { DiskFormat::Qcow2 };
            let disk = DiskSpec {
                path: path.into(),
                format: Some(format),
                read_only: is_raw,
                base: base.map(PathBuf::from),
                base_format: (!is_raw).then_some(format),
                serial: Some(serial.parse().unwrap()),
                boot: is_raw,
            };
            prop_assert_eq!(disk.to_string().parse::<DiskSpec>(), Ok(disk.clone()));
            come_back(&DiskSerial(serial));
            // A path of any bytes comes back from a table, if not from a word.
            let disk = DiskSpec { path: OsString::from_vec(bytes).into(), ..disk };
            let table = serde_json::to_string(&disk).unwrap();
            prop_assert_eq!(serde_json::from_str::<DiskSpec>(&table).unwrap(), disk);
        }
    }
}
