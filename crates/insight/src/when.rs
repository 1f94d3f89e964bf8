//! Moments as text.

/// Date and time in UTC (ISO 8601).
pub(crate) fn clock(seconds: f64) -> String {
    /// Days from 0000-03-01 to 1970-01-01, and in 400 years.
    const EPOCH: i64 = 719_468;
    const ERA: i64 = 146_097;
    let days = (seconds / 86400.0).floor() as i64;
    let day = seconds.rem_euclid(86400.0) as u64;
    // Years that begin in March: the day that some have more is their last.
    let days = days.saturating_add(EPOCH);
    let era = days.div_euclid(ERA);
    let of_era = days.rem_euclid(ERA);
    let year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    let year = year + 400 * era + i64::from(month >= 10);
    let month = (month + 2) % 12 + 1;
    format!(
        "{year:04}-{month:02}-{of_month:02} {:02}:{:02}:{:02}",
        day / 3600,
        day / 60 % 60,
        day % 60
    )
}

/// A time in nanoseconds since 1970-01-01 UTC as RFC 3339 has it, to the microsecond.
pub fn timestamp(at_ns: u64) -> String {
    let date = clock((at_ns / 1_000_000_000) as f64).replace(' ', "T");
    format!("{date}.{:06}Z", at_ns / 1000 % 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_has_a_date() {
        let check = |seconds: f64, expected| assert_eq!(clock(seconds), expected);
        check(0.0, "1970-01-01 00:00:00");
        check(951_782_399.0, "2000-02-28 23:59:59");
        check(951_868_799.9, "2000-02-29 23:59:59");
        check(951_868_800.0, "2000-03-01 00:00:00");
        check(1_893_456_000.0, "2030-01-01 00:00:00");
        check(4_107_542_399.0, "2100-02-28 23:59:59");
        check(4_107_542_400.0, "2100-03-01 00:00:00");
        check(-1.0, "1969-12-31 23:59:59");
    }

    #[test]
    fn a_moment_is_told_to_the_microsecond() {
        let at = 951_868_799_123_456_789;
        assert_eq!(timestamp(at), "2000-02-29T23:59:59.123456Z");
        assert_eq!(timestamp(1_999), "1970-01-01T00:00:00.000001Z");
    }
}
