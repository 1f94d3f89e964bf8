//! Dates of the Gregorian calendar and seconds since 1970.

use serde::{Deserialize, Serialize};

/// A date and time of day. A guest may put any number anywhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Calendar {
    pub(super) year: u16,
    pub(super) month: u8,
    pub(super) day: u8,
    pub(super) hour: u8,
    pub(super) minute: u8,
    pub(super) second: u8,
}

const SECONDS_PER_DAY: i64 = 86_400;

/// Days from 1970-01-01 to the first of March of `year`. Years that start in March have their leap day last.
fn days_to_march(year: i64) -> i64 {
    let leaps = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leaps - 719_468
}

/// Days from the first of March to the first of the month `months` later, 0 to 11.
fn days_into_year(months: i64) -> i64 {
    (153 * months + 2) / 5
}

impl Calendar {
    /// The date `seconds` after 1970 began; outside the years 0 to 9999 the nearest in there.
    pub(super) fn of_seconds(seconds: i64) -> Calendar {
        let last = days_to_march(10_000) * SECONDS_PER_DAY - 1;
        let seconds = seconds.clamp(days_to_march(0) * SECONDS_PER_DAY, last);
        let days = seconds.div_euclid(SECONDS_PER_DAY);
        let rest = seconds.rem_euclid(SECONDS_PER_DAY);
        // 400 years have 146097 days: the estimate is at most one year too late.
        let mut year = (days + 719_468) * 400 / 146_097;
        while days_to_march(year) > days {
            year -= 1;
        }
        while days_to_march(year + 1) <= days {
            year += 1;
        }
        let day_of_year = days - days_to_march(year);
        let months = (5 * day_of_year + 2) / 153;
        let month = if months < 10 { months + 3 } else { months - 9 };
        Calendar {
            year: (year + i64::from(month <= 2)) as u16,
            month: month as u8,
            day: (day_of_year - days_into_year(months) + 1) as u8,
            hour: (rest / 3600) as u8,
            minute: (rest / 60 % 60) as u8,
            second: (rest % 60) as u8,
        }
    }

    /// Seconds since 1970 began. Fields beyond their range carry over.
    pub(super) fn seconds(self) -> i64 {
        let months = i64::from(self.month) - 3;
        let year = i64::from(self.year) + months.div_euclid(12);
        let days =
            days_to_march(year) + days_into_year(months.rem_euclid(12)) + i64::from(self.day) - 1;
        let time =
            i64::from(self.hour) * 3600 + i64::from(self.minute) * 60 + i64::from(self.second);
        days * SECONDS_PER_DAY + time
    }

    /// 1 is Sunday.
    pub(super) fn weekday(self) -> u8 {
        // 1970 began on a Thursday.
        let days = self.seconds().div_euclid(SECONDS_PER_DAY);
        ((days + 4).rem_euclid(7) + 1) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_seconds_agree() {
        let check = |seconds, date: (u16, u8, u8), time: (u8, u8, u8), weekday| {
            let calendar = Calendar::of_seconds(seconds);
            assert_eq!(
                (calendar.year, calendar.month, calendar.day),
                date,
                "{seconds}"
            );
            assert_eq!(
                (calendar.hour, calendar.minute, calendar.second),
                time,
                "{seconds}"
            );
            assert_eq!(calendar.weekday(), weekday, "{seconds}");
            assert_eq!(calendar.seconds(), seconds);
        };
        check(0, (1970, 1, 1), (0, 0, 0), 5);
        check(951_782_399, (2000, 2, 28), (23, 59, 59), 2);
        check(951_782_400, (2000, 2, 29), (0, 0, 0), 3);
        check(1_709_164_800, (2024, 2, 29), (0, 0, 0), 5);
        check(4_107_542_400, (2100, 3, 1), (0, 0, 0), 2);
        check(-1, (1969, 12, 31), (23, 59, 59), 4);
    }

    #[test]
    fn every_day_of_eight_centuries_comes_back() {
        for days in -200_000..100_000 {
            let calendar = Calendar::of_seconds(days * SECONDS_PER_DAY);
            assert_eq!(calendar.seconds(), days * SECONDS_PER_DAY, "{calendar:?}");
            assert!(
                (1..=12).contains(&calendar.month) && (1..=31).contains(&calendar.day),
                "{calendar:?}"
            );
        }
    }

    #[test]
    fn nonsense_carries_over_and_never_overflows() {
        let nonsense = Calendar {
            year: u16::MAX,
            month: 255,
            day: 255,
            hour: 255,
            minute: 255,
            second: 255,
        };
        assert!(Calendar::of_seconds(nonsense.seconds()).year >= 9999);
        Calendar::of_seconds(i64::MAX);
        Calendar::of_seconds(i64::MIN);
        let zero = Calendar {
            year: 0,
            month: 0,
            day: 0,
            hour: 0,
            minute: 0,
            second: 0,
        };
        Calendar::of_seconds(zero.seconds());
    }
}
