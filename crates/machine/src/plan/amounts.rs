//! Amounts as people write them: memory sizes and times.

use std::time::Duration;

use x86::PAGE_SIZE;

use super::{Trouble, trouble};

/// Smallest guest memory: less does not hold a stock kernel.
pub(crate) const MEMORY_MIN_BYTES: u64 = 32 << 20;
/// Largest guest memory.
pub(crate) const MEMORY_MAX_BYTES: u64 = 16 << 30;

/// Longest time limit: a year.
const TIMEOUT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Splits `12M` into 12 and `M`.
fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit))
}

/// Bytes as the largest unit that divides them.
pub(super) fn shown(bytes: u64) -> String {
    let units = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];
    let fits =
        |&&(shift, _): &&(u32, &str)| bytes >= 1 << shift && bytes.is_multiple_of(1 << shift);
    match units.iter().find(fits) {
        Some((shift, unit)) => format!("{}{unit}", bytes >> shift),
        None => format!("{bytes} bytes"),
    }
}

/// Bytes; `None` if it is no number of them, or more than 64 bits hold.
pub(super) fn size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let shift = match unit.to_ascii_uppercase().as_str() {
        "" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        "T" | "TB" | "TIB" => 40,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}

/// Guest memory in bytes.
pub(super) fn memory(text: &str) -> Result<u64, Trouble> {
    let limits = format!(
        "give between {} and {}",
        shown(MEMORY_MIN_BYTES),
        shown(MEMORY_MAX_BYTES)
    );
    let not_a_size = || {
        trouble(
            format!("\"{}\" is not a memory size", text.escape_debug()),
            format!("write a number with K, M or G behind it, such as 512M; {limits}"),
        )
    };
    let is_number = split(text).is_some_and(|(_, unit)| size(&format!("0{unit}")).is_some());
    if !is_number {
        return not_a_size();
    }
    let bytes = size(text).unwrap_or(u64::MAX);
    if bytes == 0 {
        return trouble("a guest cannot run without memory", limits);
    }
    if bytes < MEMORY_MIN_BYTES {
        return trouble(
            format!("{} is too little for a guest to start", shown(bytes)),
            limits,
        );
    }
    if bytes > MEMORY_MAX_BYTES {
        let asked = if bytes == u64::MAX {
            text.to_owned()
        } else {
            shown(bytes)
        };
        return trouble(format!("{asked} is more than a guest can have"), limits);
    }
    if !bytes.is_multiple_of(PAGE_SIZE) {
        return trouble(
            format!("{bytes} bytes are not whole pages of {PAGE_SIZE} bytes"),
            limits,
        );
    }
    Ok(bytes)
}

/// A time limit.
pub(super) fn timeout(text: &str) -> Result<Duration, Trouble> {
    let help = "write seconds, or a number with s, m or h behind it, such as 60s, 5m or 1h";
    let not_a_time = || trouble(format!("\"{}\" is not a time", text.escape_debug()), help);
    let Some((number, unit)) = split(text) else {
        return not_a_time();
    };
    let seconds = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return not_a_time(),
    };
    let limit = Duration::from_secs(number.saturating_mul(seconds));
    if limit.is_zero() {
        return trouble("no guest gets anything done in no time", help);
    }
    if limit > TIMEOUT_MAX {
        return trouble(
            format!("\"{text}\" is more than a year"),
            "leave the timeout out to let the guest run on",
        );
    }
    Ok(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_understood_or_explained() {
        let check = |text, expected: Result<u64, &str>| {
            let got = memory(text).map_err(|trouble| trouble.what);
            assert_eq!(got, expected.map_err(str::to_owned), "{text}");
        };
        check("32M", Ok(32 << 20));
        check("16G", Ok(16 << 30));
        check("131072K", Ok(128 << 20));
        check("512m", Ok(512 << 20));
        check("1GiB", Ok(1 << 30));
        check("536870912", Ok(512 << 20));
        check("0", Err("a guest cannot run without memory"));
        check("0G", Err("a guest cannot run without memory"));
        check("3M", Err("3M is too little for a guest to start"));
        check("512", Err("512 bytes is too little for a guest to start"));
        check("17G", Err("17G is more than a guest can have"));
        check("10T", Err("10T is more than a guest can have"));
        check(
            "99999999999G",
            Err("99999999999G is more than a guest can have"),
        );
        check(
            "33554433",
            Err("33554433 bytes are not whole pages of 4096 bytes"),
        );
        check("abc", Err("\"abc\" is not a memory size"));
        check("", Err("\"\" is not a memory size"));
        check("-5M", Err("\"-5M\" is not a memory size"));
        check("1.5G", Err("\"1.5G\" is not a memory size"));
        check(
            "99999999999999999999",
            Err("\"99999999999999999999\" is not a memory size"),
        );
    }

    #[test]
    fn a_timeout_is_understood_or_explained() {
        let check = |text, expected: Result<u64, &str>| {
            let got = timeout(text)
                .map(|limit| limit.as_secs())
                .map_err(|trouble| trouble.what);
            assert_eq!(got, expected.map_err(str::to_owned), "{text}");
        };
        check("60s", Ok(60));
        check("5m", Ok(300));
        check("1h", Ok(3600));
        check("90", Ok(90));
        check("0", Err("no guest gets anything done in no time"));
        check("soon", Err("\"soon\" is not a time"));
        check("5d", Err("\"5d\" is not a time"));
        check("99999999h", Err("\"99999999h\" is more than a year"));
    }
}
