//! What a guest may use of its host per second.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use clap::Args;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::amounts::ByteSize;
use super::text::{BadText, Text, bad, written_as_text};

/// What a guest may use per second; what is not said stays as it is, and at the start is not limited.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema, Args)]
#[serde(default, deny_unknown_fields)]
pub struct Rates {
    /// CPU time of its process, vCPUs and devices together, as a share of one core of the host: 50%, 150%, or none for no limit
    #[arg(long, value_name = "SHARE")]
    pub cpu_limit: Option<CpuLimit>,
    /// How much CPU time it gets against others when all want more than there is, from 1 to 10000; a VM of which nothing is said has 100
    #[arg(long, value_name = "WEIGHT")]
    pub cpu_weight: Option<CpuWeight>,
    /// Bytes per second that its disks read and write together: a size such as 20M, or none
    #[arg(long, value_name = "SIZE")]
    pub disk_rate: Option<ByteRate>,
    /// Requests per second that its disks serve together, or none
    #[arg(long, value_name = "N")]
    pub disk_ops: Option<CountRate>,
    /// Bytes per second that its network card sends, and as many that it receives: a size such as 5M, or none
    #[arg(long, value_name = "SIZE")]
    pub net_rate: Option<ByteRate>,
    /// Packets per second that its network card sends, and as many that it receives, or none
    #[arg(long, value_name = "N")]
    pub net_packets: Option<CountRate>,
    /// Bytes per second that come from its consoles: a size such as 64K, or none
    #[arg(long, value_name = "SIZE")]
    pub console_rate: Option<ByteRate>,
}

impl Rates {
    /// Whether nothing is said.
    pub fn is_silent(&self) -> bool {
        *self == Rates::default()
    }
}

/// CPU time for the time by the clock.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CpuLimit {
    /// As much as the host gives.
    None,
    /// In hundredths of one core.
    Percent(u32),
}

impl CpuLimit {
    /// A hundred cores: more than any guest has vCPUs.
    const PERCENT_MAX: u32 = 10_000;

    /// In hundredths of one core; `None` is no limit.
    pub fn percent(self) -> Option<u32> {
        match self {
            CpuLimit::None => None,
            CpuLimit::Percent(percent) => Some(percent),
        }
    }
}

impl fmt::Display for CpuLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CpuLimit::None => f.write_str("none"),
            CpuLimit::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl FromStr for CpuLimit {
    type Err = BadText;

    fn from_str(text: &str) -> Result<CpuLimit, BadText> {
        if text == "none" {
            return Ok(CpuLimit::None);
        }
        let percent = text.strip_suffix('%').and_then(number);
        match percent {
            Some(percent) if (1..=u64::from(CpuLimit::PERCENT_MAX)).contains(&percent) => {
                Ok(CpuLimit::Percent(percent as u32))
            }
            _ => bad(
                format!("\"{}\" is no share of a core", text.escape_debug()),
                format!(
                    "write hundredths of one core, such as 50% or 150%, or none; from 1% to {}%",
                    CpuLimit::PERCENT_MAX
                ),
            ),
        }
    }
}

impl Text for CpuLimit {
    const NAME: &'static str = "CpuLimit";
    const EXAMPLES: &'static [&'static str] = &["50%", "150%", "none"];
}

written_as_text!(CpuLimit);

/// What a VM gets of CPU time that others want too, against them: twice the weight, twice the time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct CpuWeight(u32);

impl CpuWeight {
    /// What a VM has of which nothing is said, and every other program of the host.
    pub const DEFAULT: u32 = 100;
    /// The highest that there is, as cgroups have it.
    pub const MAX: u32 = 10_000;

    /// From 1 to [`CpuWeight::MAX`].
    pub fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for CpuWeight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for CpuWeight {
    type Err = BadText;

    fn from_str(text: &str) -> Result<CpuWeight, BadText> {
        match number(text).and_then(|weight| u32::try_from(weight).ok()) {
            Some(weight) if (1..=CpuWeight::MAX).contains(&weight) => Ok(CpuWeight(weight)),
            _ => bad(
                format!("\"{}\" is no weight", text.escape_debug()),
                format!(
                    "write a number from 1 to {}; others have {}",
                    CpuWeight::MAX,
                    CpuWeight::DEFAULT
                ),
            ),
        }
    }
}

impl Text for CpuWeight {
    const NAME: &'static str = "CpuWeight";
    const EXAMPLES: &'static [&'static str] = &["50", "200"];
    const NUMBERS: Option<RangeInclusive<u64>> = Some(1..=CpuWeight::MAX as u64);
}

written_as_text!(CpuWeight);

/// Digits alone: Rust reads `+5` too.
fn number(text: &str) -> Option<u64> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

/// Bytes per second.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ByteRate {
    /// As many as the host gives.
    None,
    /// At least [`ByteRate::MIN`].
    Bytes(u64),
}

impl ByteRate {
    /// Less is no device that a driver would wait for.
    pub const MIN: u64 = 1024;

    /// `None` is no limit.
    pub fn bytes(self) -> Option<u64> {
        match self {
            ByteRate::None => None,
            ByteRate::Bytes(bytes) => Some(bytes),
        }
    }
}

impl fmt::Display for ByteRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ByteRate::None => f.write_str("none"),
            ByteRate::Bytes(bytes) => ByteSize(*bytes).fmt(f),
        }
    }
}

impl FromStr for ByteRate {
    type Err = BadText;

    fn from_str(text: &str) -> Result<ByteRate, BadText> {
        let help = "write bytes per second, such as 64K or 20M, or none; at least 1K";
        if text == "none" {
            return Ok(ByteRate::None);
        }
        match text.parse() {
            Ok(ByteSize(bytes)) if bytes >= ByteRate::MIN => Ok(ByteRate::Bytes(bytes)),
            Ok(size) => bad(format!("{} a second is too little", size.in_words()), help),
            Err(BadText { .. }) => bad(
                format!(
                    "\"{}\" is no number of bytes per second",
                    text.escape_debug()
                ),
                help,
            ),
        }
    }
}

impl Text for ByteRate {
    const NAME: &'static str = "ByteRate";
    const EXAMPLES: &'static [&'static str] = &["20M", "none"];
    const NUMBERS: Option<RangeInclusive<u64>> = Some(ByteRate::MIN..=u64::MAX);
}

written_as_text!(ByteRate);

/// Requests or packets per second.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CountRate {
    /// As many as the host gives.
    None,
    /// At least one.
    Count(u32),
}

impl CountRate {
    /// `None` is no limit.
    pub fn count(self) -> Option<u64> {
        match self {
            CountRate::None => None,
            CountRate::Count(count) => Some(count.into()),
        }
    }
}

impl fmt::Display for CountRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CountRate::None => f.write_str("none"),
            CountRate::Count(count) => count.fmt(f),
        }
    }
}

impl FromStr for CountRate {
    type Err = BadText;

    fn from_str(text: &str) -> Result<CountRate, BadText> {
        if text == "none" {
            return Ok(CountRate::None);
        }
        match number(text).and_then(|count| u32::try_from(count).ok()) {
            Some(count) if count > 0 => Ok(CountRate::Count(count)),
            _ => bad(
                format!("\"{}\" is no number per second", text.escape_debug()),
                "write a number such as 500, or none; at least 1",
            ),
        }
    }
}

impl Text for CountRate {
    const NAME: &'static str = "CountRate";
    const EXAMPLES: &'static [&'static str] = &["500", "none"];
    const NUMBERS: Option<RangeInclusive<u64>> = Some(1..=u32::MAX as u64);
}

written_as_text!(CountRate);

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: Text>(cases: &[(&str, Result<&str, &str>)]) {
        for &(text, expected) in cases {
            let got = text.parse::<T>();
            let got = got.map(|it| it.to_string()).map_err(|error| error.what);
            let expected = expected.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(got, expected, "{text}");
        }
    }

    #[test]
    fn rates_are_understood_or_explained() {
        check::<CpuLimit>(&[
            ("50%", Ok("50%")),
            ("150%", Ok("150%")),
            ("none", Ok("none")),
            ("0%", Err("\"0%\" is no share of a core")),
            ("10001%", Err("\"10001%\" is no share of a core")),
            ("50", Err("\"50\" is no share of a core")),
            ("+5%", Err("\"+5%\" is no share of a core")),
            ("", Err("\"\" is no share of a core")),
        ]);
        check::<CpuWeight>(&[
            ("1", Ok("1")),
            ("10000", Ok("10000")),
            ("0", Err("\"0\" is no weight")),
            ("10001", Err("\"10001\" is no weight")),
            ("50%", Err("\"50%\" is no weight")),
        ]);
        check::<ByteRate>(&[
            ("1K", Ok("1K")),
            ("20M", Ok("20M")),
            ("1500000", Ok("1500000")),
            ("none", Ok("none")),
            ("1023", Err("1023 bytes a second is too little")),
            ("fast", Err("\"fast\" is no number of bytes per second")),
        ]);
        check::<CountRate>(&[
            ("1", Ok("1")),
            ("4000000000", Ok("4000000000")),
            ("none", Ok("none")),
            ("0", Err("\"0\" is no number per second")),
            ("-3", Err("\"-3\" is no number per second")),
            (
                "99999999999999999999",
                Err("\"99999999999999999999\" is no number per second"),
            ),
        ]);
    }
}
