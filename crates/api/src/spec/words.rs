//! One of a few words: engines, consoles; a number of vCPUs; and texts with a rule or two.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::text::{BadText, Text, bad, written_as_text};

/// What shall execute the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum EngineWish {
    /// The best that works on this host.
    #[default]
    Auto,
    /// Hardware virtualization.
    Kvm,
    /// The software CPU.
    Soft,
}

impl EngineWish {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            EngineWish::Auto => "auto",
            EngineWish::Kvm => "kvm",
            EngineWish::Soft => "soft",
        }
    }
}

impl fmt::Display for EngineWish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for EngineWish {
    type Err = BadText;

    fn from_str(text: &str) -> Result<EngineWish, BadText> {
        match text {
            "auto" => Ok(EngineWish::Auto),
            "kvm" => Ok(EngineWish::Kvm),
            "soft" => Ok(EngineWish::Soft),
            other => bad(
                format!("there is no engine \"{}\"", other.escape_debug()),
                "write auto, kvm or soft",
            ),
        }
    }
}

impl Text for EngineWish {
    const NAME: &'static str = "Engine";
    const EXAMPLES: &'static [&'static str] = &["auto", "kvm", "soft"];
    const IS_CLOSED: bool = true;
}

written_as_text!(EngineWish);

/// Whether the guest agent runs in a guest that Mother makes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AgentWish {
    /// It does.
    #[default]
    On,
    /// It does not, and the guest has no socket device for it.
    Off,
}

impl fmt::Display for AgentWish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AgentWish::On => "on",
            AgentWish::Off => "off",
        })
    }
}

impl FromStr for AgentWish {
    type Err = BadText;

    fn from_str(text: &str) -> Result<AgentWish, BadText> {
        match text {
            "on" => Ok(AgentWish::On),
            "off" => Ok(AgentWish::Off),
            other => bad(
                format!("an agent is not \"{}\"", other.escape_debug()),
                "write on or off",
            ),
        }
    }
}

impl Text for AgentWish {
    const NAME: &'static str = "Agent";
    const EXAMPLES: &'static [&'static str] = &["on", "off"];
    const IS_CLOSED: bool = true;
}

written_as_text!(AgentWish);

/// Which of the guest's consoles the VM's terminal or pipe is connected to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ConsoleKind {
    /// COM1: `ttyS0` in Linux. Every kernel knows it, from its first line on.
    #[default]
    Serial,
    /// virtio-console: `hvc0` in Linux. Fast, and knows the size of the window.
    Virtio,
}

impl fmt::Display for ConsoleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ConsoleKind::Serial => "serial",
            ConsoleKind::Virtio => "virtio",
        })
    }
}

impl FromStr for ConsoleKind {
    type Err = BadText;

    fn from_str(text: &str) -> Result<ConsoleKind, BadText> {
        match text {
            "serial" => Ok(ConsoleKind::Serial),
            "virtio" => Ok(ConsoleKind::Virtio),
            _ => bad(
                format!("there is no console \"{}\"", text.escape_debug()),
                "write `--console serial` or `--console virtio`",
            ),
        }
    }
}

impl Text for ConsoleKind {
    const NAME: &'static str = "Console";
    const EXAMPLES: &'static [&'static str] = &["serial", "virtio"];
    const IS_CLOSED: bool = true;
}

written_as_text!(ConsoleKind);

/// How much of a jail a VM is to have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum JailWish {
    /// Every wall that the host gives.
    #[default]
    Auto,
    /// Namespaces of its own, or it is not started.
    Require,
    /// None.
    Off,
}

impl fmt::Display for JailWish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            JailWish::Auto => "auto",
            JailWish::Require => "require",
            JailWish::Off => "off",
        })
    }
}

impl FromStr for JailWish {
    type Err = BadText;

    fn from_str(text: &str) -> Result<JailWish, BadText> {
        match text {
            "auto" => Ok(JailWish::Auto),
            "require" => Ok(JailWish::Require),
            "off" => Ok(JailWish::Off),
            other => bad(
                format!("there is no jail \"{}\"", other.escape_debug()),
                "write auto, require or off",
            ),
        }
    }
}

impl Text for JailWish {
    const NAME: &'static str = "JailWish";
    const EXAMPLES: &'static [&'static str] = &["auto", "require", "off"];
    const IS_CLOSED: bool = true;
}

written_as_text!(JailWish);

/// A number of vCPUs: 1 to 8, as many as have been tried.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct VcpuCount(u32);

impl VcpuCount {
    /// What a guest has for which nothing was said.
    pub const ONE: VcpuCount = VcpuCount(1);
    /// As many as have been tried.
    pub const MAX: VcpuCount = VcpuCount(8);

    /// The number.
    pub fn get(self) -> u32 {
        self.0
    }

    /// So many, or the nearest number that a guest can have.
    pub const fn of(count: u32) -> VcpuCount {
        match count {
            0 => VcpuCount::ONE,
            count if count > VcpuCount::MAX.0 => VcpuCount::MAX,
            count => VcpuCount(count),
        }
    }
}

impl fmt::Display for VcpuCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for VcpuCount {
    type Err = BadText;

    fn from_str(text: &str) -> Result<VcpuCount, BadText> {
        let help = format!("write a number from 1 to {}", VcpuCount::MAX);
        match text.parse::<u32>() {
            Err(_) => bad(
                format!("\"{}\" is not a number of vCPUs", text.escape_debug()),
                help,
            ),
            Ok(0) => bad("a guest needs a vCPU", help),
            Ok(count) if count > VcpuCount::MAX.0 => bad(
                format!("{count} vCPUs are more than a guest can have"),
                help,
            ),
            Ok(count) => Ok(VcpuCount(count)),
        }
    }
}

impl Text for VcpuCount {
    const NAME: &'static str = "VcpuCount";
    const EXAMPLES: &'static [&'static str] = &["1", "8"];
    const NUMBERS: Option<RangeInclusive<u64>> = Some(1..=VcpuCount::MAX.0 as u64);
}

impl Serialize for VcpuCount {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(self.0)
    }
}

impl<'de> Deserialize<'de> for VcpuCount {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        super::text::read(deserializer)
    }
}

impl schemars::JsonSchema for VcpuCount {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        VcpuCount::NAME.into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": ["integer", "string"],
            "minimum": 1,
            "maximum": VcpuCount::MAX.0,
        })
    }
}

/// What a guest is called on its network: names of letters, digits and `-`, with dots between them (RFC 1123, 2.1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostName(String);

impl HostName {
    /// Longest part between dots, and longest whole (RFC 1035, 2.3.4).
    const PART_BYTES_MAX: usize = 63;
    const BYTES_MAX: usize = 253;

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for HostName {
    type Err = BadText;

    fn from_str(text: &str) -> Result<HostName, BadText> {
        let is_part = |part: &str| {
            (1..=HostName::PART_BYTES_MAX).contains(&part.len())
                && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
                && !part.starts_with('-')
                && !part.ends_with('-')
        };
        if text.len() > HostName::BYTES_MAX || !text.split('.').all(is_part) {
            return bad(
                format!("\"{}\" is no name of a host", text.escape_debug()),
                "use letters, digits and `-` between them, such as web1 or web1.example.org",
            );
        }
        Ok(HostName(text.to_owned()))
    }
}

impl Text for HostName {
    const NAME: &'static str = "HostName";
    const EXAMPLES: &'static [&'static str] = &["web1", "web1.example.org"];
}

written_as_text!(HostName);

/// A boot module: `FILE` or `FILE WORDS...`; the whole text is the module's string.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ModuleSpec(String);

impl ModuleSpec {
    /// The file.
    pub fn path(&self) -> &Path {
        Path::new(self.0.split_whitespace().next().unwrap_or_default())
    }

    /// The string that the kernel gets with it.
    pub fn string(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModuleSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ModuleSpec {
    type Err = BadText;

    fn from_str(text: &str) -> Result<ModuleSpec, BadText> {
        match text.trim() {
            "" => bad(
                "it names no file",
                "write FILE first, then the module's words",
            ),
            text => Ok(ModuleSpec(text.to_owned())),
        }
    }
}

impl Text for ModuleSpec {
    const NAME: &'static str = "Module";
    const EXAMPLES: &'static [&'static str] = &["data.bin", "data.bin some words"];
}

written_as_text!(ModuleSpec);

/// A text to watch for on the guest's console: part of a line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Marker(String);

impl Marker {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Marker {
    type Err = BadText;

    fn from_str(text: &str) -> Result<Marker, BadText> {
        if text.is_empty() || text.contains('\n') {
            return bad(
                format!(
                    "\"{}\" can never be seen in one line of the console",
                    text.escape_debug()
                ),
                "give a part of a line",
            );
        }
        Ok(Marker(text.to_owned()))
    }
}

impl Text for Marker {
    const NAME: &'static str = "Marker";
    const EXAMPLES: &'static [&'static str] = &["login:"];
}

written_as_text!(Marker);

/// A label of a VM: `KEY=VALUE`. The key has 1 to 63 of `a-z A-Z 0-9 - _ . /`; the value has at most 255 bytes and no
/// control characters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Label {
    key: String,
    value: String,
}

impl Label {
    const KEY_BYTES_MAX: usize = 63;
    const VALUE_BYTES_MAX: usize = 255;

    /// What is said.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// What it is.
    pub fn value(&self) -> &str {
        &self.value
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.key, self.value)
    }
}

impl FromStr for Label {
    type Err = BadText;

    fn from_str(text: &str) -> Result<Label, BadText> {
        let shown = text.escape_debug();
        let help =
            "write KEY=VALUE, such as team=web; a key has letters, digits, `-`, `_`, `.` and `/`";
        let Some((key, value)) = text.split_once('=') else {
            return bad(format!("\"{shown}\" is not a label"), help);
        };
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        if key.is_empty() || key.len() > Label::KEY_BYTES_MAX || !key.chars().all(is_plain) {
            let key = key.escape_debug();
            return bad(format!("\"{key}\" cannot be the key of a label"), help);
        }
        if value.len() > Label::VALUE_BYTES_MAX || value.chars().any(char::is_control) {
            return bad(
                format!("\"{shown}\": that cannot be the value of a label"),
                "give at most 255 bytes of text without control characters",
            );
        }
        Ok(Label {
            key: key.to_owned(),
            value: value.to_owned(),
        })
    }
}

impl Text for Label {
    const NAME: &'static str = "Label";
    const EXAMPLES: &'static [&'static str] = &["team=web"];
}

written_as_text!(Label);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::text::{check, come_back};
    use super::*;

    #[test]
    fn an_engine_is_one_of_three_words() {
        check::<EngineWish>(&[
            ("auto", Ok("auto")),
            ("kvm", Ok("kvm")),
            ("soft", Ok("soft")),
            ("KVM", Err("there is no engine \"KVM\"")),
            ("", Err("there is no engine \"\"")),
            ("tcg\u{1b}", Err("there is no engine \"tcg\\u{1b}\"")),
        ]);
    }

    #[test]
    fn a_name_of_a_host_can_stand_in_a_name_service() {
        let long = "a".repeat(64);
        check::<HostName>(&[
            ("web1", Ok("web1")),
            ("Web-1.example.org", Ok("Web-1.example.org")),
            ("a b", Err("\"a b\" is no name of a host")),
            ("-web", Err("\"-web\" is no name of a host")),
            ("web_1", Err("\"web_1\" is no name of a host")),
            ("web..org", Err("\"web..org\" is no name of a host")),
            ("", Err("\"\" is no name of a host")),
            (&long, Err(&format!("\"{long}\" is no name of a host"))),
        ]);
    }

    #[test]
    fn a_console_is_one_of_two_words() {
        check::<ConsoleKind>(&[
            ("serial", Ok("serial")),
            ("virtio", Ok("virtio")),
            ("vga", Err("there is no console \"vga\"")),
        ]);
    }

    #[test]
    fn a_guest_has_one_to_eight_vcpus() {
        check::<VcpuCount>(&[
            ("1", Ok("1")),
            ("8", Ok("8")),
            ("0", Err("a guest needs a vCPU")),
            ("9", Err("9 vCPUs are more than a guest can have")),
            ("two", Err("\"two\" is not a number of vCPUs")),
            ("-1", Err("\"-1\" is not a number of vCPUs")),
            ("1.5", Err("\"1.5\" is not a number of vCPUs")),
            ("", Err("\"\" is not a number of vCPUs")),
        ]);
        let counts = [0, 3, 99].map(|count| VcpuCount::of(count).get());
        assert_eq!(counts, [1, 3, 8]);
    }

    #[test]
    fn a_module_is_a_file_and_its_words() {
        check::<ModuleSpec>(&[
            ("a.bin", Ok("a.bin")),
            (" a.bin  some words ", Ok("a.bin  some words")),
            ("", Err("it names no file")),
            (" ", Err("it names no file")),
        ]);
        let module = "a.bin some words".parse::<ModuleSpec>().unwrap();
        assert_eq!(module.path(), Path::new("a.bin"));
        assert_eq!(module.string(), "a.bin some words");
    }

    #[test]
    fn a_marker_is_part_of_a_line() {
        check::<Marker>(&[
            ("login:", Ok("login:")),
            (" a b ", Ok(" a b ")),
            ("", Err("\"\" can never be seen in one line of the console")),
            (
                "a\nb",
                Err("\"a\\nb\" can never be seen in one line of the console"),
            ),
        ]);
    }

    #[test]
    fn a_label_is_a_key_and_a_value() {
        check::<Label>(&[
            ("a=b", Ok("a=b")),
            ("example.org/team-1=", Ok("example.org/team-1=")),
            ("a=b=c d", Ok("a=b=c d")),
            ("a", Err("\"a\" is not a label")),
            ("=b", Err("\"\" cannot be the key of a label")),
            ("a b=c", Err("\"a b\" cannot be the key of a label")),
            (
                "a=\u{1b}",
                Err("\"a=\\u{1b}\": that cannot be the value of a label"),
            ),
        ]);
    }

    proptest! {
        #[test]
        fn words_come_back(count in 0..9_u32, text in "\\PC*") {
            come_back(&VcpuCount::of(count));
            if let Ok(module) = text.parse::<ModuleSpec>() {
                come_back(&module);
            }
            if let Ok(marker) = text.parse::<Marker>() {
                come_back(&marker);
            }
        }
    }
}
