//! Times as Redfish writes them (DSP0266, "Date-time values").

/// Seconds since 1970-01-01 UTC as `2026-11-30T21:46:06+00:00`.
pub(super) fn date_time(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    let (year, month, day) = civil(seconds / 86_400);
    let hour = seconds / 3600 % 24;
    let minute = seconds / 60 % 60;
    let second = seconds % 60;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}+00:00")
}

/// Year, month and day of a number of days since 1970-01-01, in the Gregorian calendar.
fn civil(days: u64) -> (u64, u64, u64) {
    // Counted from March 1 of the year 0, a leap day is the last day of its year, and all 400 years are alike.
    let days = days + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    (400 * era + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let check = |seconds: f64, expected: &str| assert_eq!(date_time(seconds), expected);
        check(0.0, "1970-01-01T00:00:00+00:00");
        check(951_782_399.9, "2000-02-28T23:59:59+00:00");
        check(951_782_400.0, "2000-02-29T00:00:00+00:00");
        check(1_709_251_200.0, "2024-03-01T00:00:00+00:00");
        check(1_796_075_166.0, "2026-11-30T21:46:06+00:00");
        check(-1.0, "1970-01-01T00:00:00+00:00");
    }
}
