//! Amounts as people write them: sizes of memory, and times.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use super::text::{BadText, Text, bad, written_as_text};

/// A page of x86-64 (SDM vol. 3, 5.1): what memory is given and taken in.
const PAGE_BYTES: u64 = 4096;

/// Splits `12M` into 12 and `M`.
fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit))
}

/// By how many bits a unit shifts a number of bytes.
fn shift_of(unit: &str) -> Option<u32> {
    match unit.to_ascii_uppercase().as_str() {
        "" => Some(0),
        "K" | "KB" | "KIB" => Some(10),
        "M" | "MB" | "MIB" => Some(20),
        "G" | "GB" | "GIB" => Some(30),
        "T" | "TB" | "TIB" => Some(40),
        _ => None,
    }
}

/// A number of bytes, written as `512M`, `512MB`, `512MiB` or `536870912`: all units are powers of 1024.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// The same in words: `512M`, or `1000 bytes` for what no unit divides.
    pub fn in_words(self) -> String {
        match self.in_unit() {
            Some(_) => self.to_string(),
            None => format!("{self} bytes"),
        }
    }

    /// The largest unit that divides it, and how many of them it is.
    fn in_unit(self) -> Option<(u64, &'static str)> {
        let bytes = self.0;
        let units = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];
        let fits =
            |&&(shift, _): &&(u32, &str)| bytes >= 1 << shift && bytes.is_multiple_of(1 << shift);
        let (shift, unit) = units.iter().find(fits)?;
        Some((bytes >> shift, unit))
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.in_unit() {
            Some((number, unit)) => write!(f, "{number}{unit}"),
            None => write!(f, "{}", self.0),
        }
    }
}

impl FromStr for ByteSize {
    type Err = BadText;

    fn from_str(text: &str) -> Result<ByteSize, BadText> {
        let bytes = split(text)
            .and_then(|(number, unit)| number.checked_mul(1 << shift_of(unit)?))
            .map(ByteSize);
        bytes.map_or_else(
            || {
                bad(
                    format!("\"{}\" is not a size", text.escape_debug()),
                    "write a number with K, M, G or T behind it, such as 512M",
                )
            },
            Ok,
        )
    }
}

impl Text for ByteSize {
    const NAME: &'static str = "ByteSize";
    const EXAMPLES: &'static [&'static str] = &["512M", "10G"];
    const NUMBERS: Option<RangeInclusive<u64>> = Some(0..=u64::MAX);
}

written_as_text!(ByteSize);

/// How much memory a guest has: 32M to 16G, whole pages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MemorySize(u64);

impl MemorySize {
    /// Less does not hold a stock kernel.
    pub const MIN: MemorySize = MemorySize(32 << 20);
    /// More has not been tried.
    pub const MAX: MemorySize = MemorySize(16 << 30);
    /// Of a guest for which nothing was said.
    pub const DEFAULT: MemorySize = MemorySize(512 << 20);

    /// In bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// So many MiB, or the nearest that a guest can have.
    pub const fn of_mib(mib: u64) -> MemorySize {
        let bytes = mib.saturating_mul(1 << 20);
        if bytes < MemorySize::MIN.0 {
            MemorySize::MIN
        } else if bytes > MemorySize::MAX.0 {
            MemorySize::MAX
        } else {
            MemorySize(bytes)
        }
    }
}

impl fmt::Display for MemorySize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        ByteSize(self.0).fmt(f)
    }
}

impl FromStr for MemorySize {
    type Err = BadText;

    fn from_str(text: &str) -> Result<MemorySize, BadText> {
        let limits = format!("give between {} and {}", MemorySize::MIN, MemorySize::MAX);
        let Some((number, shift)) =
            split(text).and_then(|(number, unit)| Some((number, shift_of(unit)?)))
        else {
            return bad(
                format!("\"{}\" is not a memory size", text.escape_debug()),
                format!("write a number with K, M or G behind it, such as 512M; {limits}"),
            );
        };
        let Some(bytes) = number.checked_mul(1 << shift) else {
            return bad(format!("{text} is more than a guest can have"), limits);
        };
        let shown = ByteSize(bytes).in_words();
        if bytes == 0 {
            return bad("a guest cannot run without memory", limits);
        }
        if bytes < MemorySize::MIN.0 {
            return bad(
                format!("{shown} is too little for a guest to start"),
                limits,
            );
        }
        if bytes > MemorySize::MAX.0 {
            return bad(format!("{shown} is more than a guest can have"), limits);
        }
        if !bytes.is_multiple_of(PAGE_BYTES) {
            return bad(
                format!("{bytes} bytes are not whole pages of {PAGE_BYTES} bytes"),
                limits,
            );
        }
        Ok(MemorySize(bytes))
    }
}

impl Text for MemorySize {
    const NAME: &'static str = "MemorySize";
    const EXAMPLES: &'static [&'static str] = &["512M", "2G"];
    const NUMBERS: Option<RangeInclusive<u64>> = Some(MemorySize::MIN.0..=MemorySize::MAX.0);
    const NUMBER_STEP: u64 = PAGE_BYTES;
}

written_as_text!(MemorySize);

/// Room for pages that are away: at least 1M.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct StoreSize(u64);

impl StoreSize {
    /// Less is no room.
    pub const MIN: StoreSize = StoreSize(1 << 20);

    /// So many, or the least that is room.
    pub fn of_bytes(bytes: u64) -> StoreSize {
        StoreSize(bytes).max(StoreSize::MIN)
    }

    /// In bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for StoreSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        ByteSize(self.0).fmt(f)
    }
}

impl FromStr for StoreSize {
    type Err = BadText;

    fn from_str(text: &str) -> Result<StoreSize, BadText> {
        let least = StoreSize::MIN;
        match text.parse() {
            Err(BadText { what, help }) => bad(what, format!("{help}; at least {least}")),
            Ok(size) if size < ByteSize(least.0) => bad(
                format!("{} is too little to keep pages in", size.in_words()),
                format!(
                    "write a number with K, M, G or T behind it, such as 512M; at least {least}"
                ),
            ),
            Ok(ByteSize(bytes)) => Ok(StoreSize(bytes)),
        }
    }
}

impl Text for StoreSize {
    const NAME: &'static str = "StoreSize";
    const EXAMPLES: &'static [&'static str] = &["256M", "10G"];
    const NUMBERS: Option<RangeInclusive<u64>> = Some(StoreSize::MIN.0..=u64::MAX);
}

written_as_text!(StoreSize);

/// How much of its memory the host may hold of a guest: a size, a share such as `10%`, or `none` for no limit.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ResidentLimit {
    /// There is no limit.
    None,
    /// So many hundredths of the guest's memory, 1 to 100.
    Share(u8),
    /// At least [`ResidentLimit::MIN_BYTES`].
    Bytes(u64),
}

impl ResidentLimit {
    /// Least memory that a guest can run in, however little it knows of it.
    pub const MIN_BYTES: u64 = 4 << 20;

    fn help() -> String {
        format!(
            "write a size such as 100M, a share of the guest's memory such as 10%, or none; at least {}",
            ByteSize(ResidentLimit::MIN_BYTES)
        )
    }

    fn checked(bytes: u64) -> Result<u64, BadText> {
        if bytes < ResidentLimit::MIN_BYTES {
            let shown = ByteSize(bytes).in_words();
            return bad(
                format!("{shown} is too little for a guest to get on"),
                ResidentLimit::help(),
            );
        }
        Ok(bytes)
    }

    /// In whole pages, for a guest with so much memory; `None` is no limit. All of the memory is as good as no limit,
    /// but it may be meant to be lowered.
    ///
    /// # Errors
    /// A share of less than [`ResidentLimit::MIN_BYTES`].
    pub fn of(self, memory_bytes: u64) -> Result<Option<u64>, BadText> {
        let bytes = match self {
            ResidentLimit::None => return Ok(None),
            ResidentLimit::Share(share) => {
                let bytes = memory_bytes / 100 * u64::from(share) / PAGE_BYTES * PAGE_BYTES;
                ResidentLimit::checked(bytes)?
            }
            ResidentLimit::Bytes(bytes) => bytes,
        };
        Ok(Some((bytes / PAGE_BYTES * PAGE_BYTES).min(memory_bytes)))
    }
}

impl fmt::Display for ResidentLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ResidentLimit::None => f.write_str("none"),
            ResidentLimit::Share(share) => write!(f, "{share}%"),
            ResidentLimit::Bytes(bytes) => ByteSize(*bytes).fmt(f),
        }
    }
}

impl FromStr for ResidentLimit {
    type Err = BadText;

    fn from_str(text: &str) -> Result<ResidentLimit, BadText> {
        let no_limit = || {
            bad(
                format!("\"{}\" is no limit", text.escape_debug()),
                ResidentLimit::help(),
            )
        };
        if text == "none" {
            return Ok(ResidentLimit::None);
        }
        if let Some(share) = text.strip_suffix('%') {
            let is_number = share.bytes().all(|byte| byte.is_ascii_digit());
            let share = share.parse().ok().filter(|share| (1..=100).contains(share));
            return match share {
                Some(share) if is_number => Ok(ResidentLimit::Share(share)),
                _ => no_limit(),
            };
        }
        match text.parse() {
            Err(_) => no_limit(),
            Ok(ByteSize(bytes)) => ResidentLimit::checked(bytes).map(ResidentLimit::Bytes),
        }
    }
}

impl Text for ResidentLimit {
    const NAME: &'static str = "ResidentLimit";
    const EXAMPLES: &'static [&'static str] = &["100M", "10%", "none"];
    const NUMBERS: Option<RangeInclusive<u64>> = Some(ResidentLimit::MIN_BYTES..=u64::MAX);
}

written_as_text!(ResidentLimit);

/// How long a guest may run: whole seconds, at least one and at most a year; written as `60s`, `5m`, `1h` or `60`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Timeout(u64);

impl Timeout {
    /// A year.
    pub const MAX_SECONDS: u64 = 365 * 24 * 3600;

    /// As long as so many seconds, but at least one and at most a year.
    pub const fn of_seconds(seconds: u64) -> Timeout {
        match seconds {
            0 => Timeout(1),
            Timeout::MAX_SECONDS.. => Timeout(Timeout::MAX_SECONDS),
            _ => Timeout(seconds),
        }
    }

    /// The time.
    pub fn duration(self) -> Duration {
        Duration::from_secs(self.0)
    }
}

impl fmt::Display for Timeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            hours if hours.is_multiple_of(3600) => write!(f, "{}h", hours / 3600),
            minutes if minutes.is_multiple_of(60) => write!(f, "{}m", minutes / 60),
            seconds => write!(f, "{seconds}s"),
        }
    }
}

impl FromStr for Timeout {
    type Err = BadText;

    fn from_str(text: &str) -> Result<Timeout, BadText> {
        let help = "write seconds, or a number with s, m or h behind it, such as 60s, 5m or 1h";
        let unit_of = |unit| match unit {
            "" | "s" => Some(1),
            "m" => Some(60),
            "h" => Some(3600),
            _ => None,
        };
        let Some((number, unit)) =
            split(text).and_then(|(number, unit)| Some((number, unit_of(unit)?)))
        else {
            return bad(format!("\"{}\" is not a time", text.escape_debug()), help);
        };
        match number.saturating_mul(unit) {
            0 => bad("no guest gets anything done in no time", help),
            seconds if seconds > Timeout::MAX_SECONDS => bad(
                format!("\"{text}\" is more than a year"),
                "leave the timeout out to let the guest run on",
            ),
            seconds => Ok(Timeout(seconds)),
        }
    }
}

impl Text for Timeout {
    const NAME: &'static str = "Timeout";
    const EXAMPLES: &'static [&'static str] = &["60s", "5m", "1h"];
    const NUMBERS: Option<RangeInclusive<u64>> = Some(1..=Timeout::MAX_SECONDS);
}

written_as_text!(Timeout);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::text::{check, come_back};
    use super::*;

    #[test]
    fn a_size_is_understood_or_explained() {
        check::<ByteSize>(&[
            ("0", Ok("0")),
            ("1000", Ok("1000")),
            ("1024", Ok("1K")),
            ("1536K", Ok("1536K")),
            ("2048k", Ok("2M")),
            ("3GB", Ok("3G")),
            ("3GiB", Ok("3G")),
            ("5T", Ok("5T")),
            ("", Err("\"\" is not a size")),
            ("G", Err("\"G\" is not a size")),
            ("1.5G", Err("\"1.5G\" is not a size")),
            ("1 G", Err("\"1 G\" is not a size")),
            ("+1G", Err("\"+1G\" is not a size")),
            ("1P", Err("\"1P\" is not a size")),
            ("16777216T", Err("\"16777216T\" is not a size")),
            (
                "99999999999999999999",
                Err("\"99999999999999999999\" is not a size"),
            ),
            ("1\n", Err("\"1\\n\" is not a size")),
        ]);
    }

    #[test]
    fn memory_is_understood_or_explained() {
        check::<MemorySize>(&[
            ("32M", Ok("32M")),
            ("16G", Ok("16G")),
            ("131072K", Ok("128M")),
            ("512m", Ok("512M")),
            ("1GiB", Ok("1G")),
            ("536870912", Ok("512M")),
            ("32772K", Ok("32772K")),
            ("0", Err("a guest cannot run without memory")),
            ("0G", Err("a guest cannot run without memory")),
            ("3M", Err("3M is too little for a guest to start")),
            ("512", Err("512 bytes is too little for a guest to start")),
            ("17G", Err("17G is more than a guest can have")),
            ("10T", Err("10T is more than a guest can have")),
            (
                "99999999999G",
                Err("99999999999G is more than a guest can have"),
            ),
            (
                "33554433",
                Err("33554433 bytes are not whole pages of 4096 bytes"),
            ),
            ("abc", Err("\"abc\" is not a memory size")),
            ("", Err("\"\" is not a memory size")),
            ("-5M", Err("\"-5M\" is not a memory size")),
            ("1.5G", Err("\"1.5G\" is not a memory size")),
            (
                "99999999999999999999",
                Err("\"99999999999999999999\" is not a memory size"),
            ),
        ]);
        assert_eq!(MemorySize::of_mib(1), MemorySize::MIN);
        assert_eq!(MemorySize::of_mib(512), MemorySize::DEFAULT);
        assert_eq!(MemorySize::of_mib(u64::MAX), MemorySize::MAX);
    }

    #[test]
    fn a_number_without_quotes_is_an_amount() {
        let memory = serde_json::from_str::<MemorySize>("536870912").unwrap();
        assert_eq!(memory, MemorySize::DEFAULT);
        assert_eq!(
            serde_json::from_str::<Timeout>("90").unwrap(),
            Timeout::of_seconds(90)
        );
        let refused = serde_json::from_str::<MemorySize>("-5").unwrap_err();
        assert!(refused.to_string().contains("\"-5\" is not a memory size"));
        let refused = serde_json::from_str::<MemorySize>("[1]").unwrap_err();
        let expected = "expected a text such as \"512M\" or \"2G\" or a number";
        assert!(refused.to_string().contains(expected), "{refused}");
    }

    #[test]
    fn room_for_pages_is_understood_or_explained() {
        check::<StoreSize>(&[
            ("1M", Ok("1M")),
            ("2T", Ok("2T")),
            ("1048577", Ok("1048577")),
            ("1023K", Err("1023K is too little to keep pages in")),
            ("0", Err("0 bytes is too little to keep pages in")),
            ("much", Err("\"much\" is not a size")),
        ]);
    }

    #[test]
    fn a_limit_is_understood_or_explained() {
        check::<ResidentLimit>(&[
            ("none", Ok("none")),
            ("100M", Ok("100M")),
            ("10%", Ok("10%")),
            ("100%", Ok("100%")),
            ("5000001", Ok("5000001")),
            ("3M", Err("3M is too little for a guest to get on")),
            ("0", Err("0 bytes is too little for a guest to get on")),
            ("0%", Err("\"0%\" is no limit")),
            ("101%", Err("\"101%\" is no limit")),
            ("+5%", Err("\"+5%\" is no limit")),
            ("ten", Err("\"ten\" is no limit")),
            ("", Err("\"\" is no limit")),
            (
                "99999999999999999999",
                Err("\"99999999999999999999\" is no limit"),
            ),
        ]);
    }

    #[test]
    fn a_limit_is_whole_pages_of_the_guests_memory() {
        let check = |text: &str, memory_bytes, expected: Result<Option<u64>, &str>| {
            let limit = text.parse::<ResidentLimit>().unwrap();
            let got = limit.of(memory_bytes).map_err(|error| error.what);
            assert_eq!(got, expected.map_err(str::to_owned), "{text}");
        };
        check("none", 1 << 30, Ok(None));
        check("100M", 1 << 30, Ok(Some(100 << 20)));
        check("10%", 1 << 30, Ok(Some(107_372_544)));
        check(
            "100%",
            1 << 30,
            Ok(Some(1_073_741_824 / 100 * 100 / 4096 * 4096)),
        );
        check("2G", 1 << 30, Ok(Some(1 << 30)));
        check("5000001", 1 << 30, Ok(Some(5_000_001 / 4096 * 4096)));
        check(
            "10%",
            32 << 20,
            Err("3276K is too little for a guest to get on"),
        );
    }

    #[test]
    fn a_timeout_is_understood_or_explained() {
        check::<Timeout>(&[
            ("60s", Ok("1m")),
            ("5m", Ok("5m")),
            ("1h", Ok("1h")),
            ("90", Ok("90s")),
            ("8760h", Ok("8760h")),
            ("0", Err("no guest gets anything done in no time")),
            ("soon", Err("\"soon\" is not a time")),
            ("5d", Err("\"5d\" is not a time")),
            ("-1", Err("\"-1\" is not a time")),
            ("8761h", Err("\"8761h\" is more than a year")),
            ("99999999h", Err("\"99999999h\" is more than a year")),
        ]);
        assert_eq!(Timeout::of_seconds(0).duration(), Duration::from_secs(1));
    }

    proptest! {
        #[test]
        fn amounts_come_back(bytes in any::<u64>(), small in 0..1_u64 << 40, share in 1..=100_u8) {
            come_back(&ByteSize(bytes));
            come_back(&ByteSize(small << 10));
            come_back(&MemorySize((small % (4 << 20)).max(8192) * PAGE_BYTES));
            come_back(&StoreSize(bytes.max(StoreSize::MIN.0)));
            come_back(&ResidentLimit::Share(share));
            come_back(&ResidentLimit::Bytes(small.max(ResidentLimit::MIN_BYTES)));
            come_back(&Timeout::of_seconds(small % Timeout::MAX_SECONDS));
        }
    }
}
