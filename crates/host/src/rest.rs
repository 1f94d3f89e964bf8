//! How threads of a VM's process rest: by waiting for nothing (ppoll(2)), which they may call anyway; to sleep by a clock is one
//! call more that a process that was taken over could make ([`crate::jail`]).

use std::time::{Duration, Instant};

use rustix::event::{Timespec, poll};

/// Has the calling thread rest for that long at least, whatever signals come.
pub fn rest(duration: Duration) {
    let end = Instant::now() + duration;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        let Ok(left) = Timespec::try_from(left) else {
            return;
        };
        // It fails where a signal came, and then goes on.
        let _ = poll(&mut [], Some(&left));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_rests_is_back_in_time_and_not_before() {
        for milliseconds in [0, 1, 30] {
            let wanted = Duration::from_millis(milliseconds);
            let start = Instant::now();
            rest(wanted);
            let took = start.elapsed();
            assert!(
                took >= wanted && took < wanted + Duration::from_secs(5),
                "{wanted:?}: {took:?}"
            );
        }
    }
}
