//! How long to wait before something that ended is started again.

use std::time::Duration;

/// The first wait: short enough for a guest's connections to go on, if they can.
const FIRST: Duration = Duration::from_millis(200);

/// The longest one.
const LONGEST: Duration = Duration::from_secs(60);

/// What has lived this long begins anew with the first.
const GOOD_LIFE: Duration = Duration::from_secs(60);

/// The waits so far: each is twice the one before, so that what ends at once, by a guest's doing perhaps, costs little.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Again {
    next: Duration,
}

impl Default for Again {
    fn default() -> Again {
        Again { next: FIRST }
    }
}

impl Again {
    /// The wait for what has `lived` so long.
    pub(super) fn after(&mut self, lived: Duration) -> Duration {
        if lived >= GOOD_LIFE {
            self.next = FIRST;
        }
        let wait = self.next;
        self.next = (wait * 2).min(LONGEST);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_again_and_again_is_waited_for_longer_and_longer() {
        let mut again = Again::default();
        let mut wait = |lived_s| again.after(Duration::from_secs(lived_s)).as_millis();
        let first: Vec<_> = [0, 0, 0, 59, 1].map(&mut wait).into();
        assert_eq!(first, [200, 400, 800, 1600, 3200]);
        let longest = (0..10).map(|_| wait(0)).last();
        assert_eq!(longest, Some(60_000));
        assert_eq!([wait(60), wait(0)], [200, 400]);
    }
}
