//! Amounts as a person reads them, spelled in one way in every table and every sentence.

/// A unit of bytes: by how many bits it is larger than a byte, and its names in a table and in a sentence.
const UNITS: [(u32, &str, &str); 3] = [(30, "G", "GiB"), (20, "M", "MiB"), (10, "K", "KiB")];

/// Bytes in a table: `512M`, `83.3M`, `1.50G`, below 1,024 the number alone.
pub fn size(bytes: u64) -> String {
    match in_units(bytes) {
        Some((number, unit, _)) => format!("{number}{unit}"),
        None => bytes.to_string(),
    }
}

/// Bytes in a sentence: `512 MiB`, `83.3 MiB`, `1.50 GiB`, `17 bytes`.
pub fn size_in_words(bytes: u64) -> String {
    match in_units(bytes) {
        Some((number, _, unit)) => format!("{number} {unit}"),
        None => format!("{bytes} bytes"),
    }
}

/// The number before the largest unit that fits, and the unit: whole where it is, else to about a thousandth.
fn in_units(bytes: u64) -> Option<(String, &'static str, &'static str)> {
    let fits = |(shift, ..): &&(u32, _, _)| bytes >> shift > 0;
    let &(shift, short, long) = UNITS.iter().find(fits)?;
    let number = bytes as f64 / f64::from(1_u32 << shift);
    let number = match shift {
        _ if bytes.is_multiple_of(1 << shift) => (bytes >> shift).to_string(),
        30 => format!("{number:.2}"),
        _ => format!("{number:.1}"),
    };
    Some((number, short, long))
}

/// A time with its two largest units: `59.9s`, `1m01s`, `2d07h`.
pub fn time(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        0..60 => format!("{seconds:.1}s"),
        60..3600 => format!("{}m{:02}s", whole / 60, whole % 60),
        3600..86400 => format!("{}h{:02}m", whole / 3600, whole % 3600 / 60),
        _ => format!("{}d{:02}h", whole / 86400, whole % 86400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short_and_the_same_in_tables_and_in_sentences() {
        let check = |bytes: u64, table: &str, sentence: &str| {
            assert_eq!(size(bytes), table, "{bytes}");
            assert_eq!(size_in_words(bytes), sentence, "{bytes}");
        };
        check(0, "0", "0 bytes");
        check(1023, "1023", "1023 bytes");
        check(1024, "1K", "1 KiB");
        check(1536, "1.5K", "1.5 KiB");
        check(512 << 20, "512M", "512 MiB");
        check(87_300_000, "83.3M", "83.3 MiB");
        check((1 << 30) - 1, "1024.0M", "1024.0 MiB");
        check(3 << 29, "1.50G", "1.50 GiB");
        check(48 << 30, "48G", "48 GiB");
        check(u64::MAX, "17179869184.00G", "17179869184.00 GiB");
    }

    #[test]
    fn times_have_their_two_largest_units() {
        let check = |seconds: f64, expected: &str| assert_eq!(time(seconds), expected);
        check(0.04, "0.0s");
        check(59.94, "59.9s");
        check(61.0, "1m01s");
        check(7300.0, "2h01m");
        check(200_000.0, "2d07h");
    }
}
