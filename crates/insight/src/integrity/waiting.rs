//! Whether the kernel still waits to give something back: what it has taken out of every list is there until nobody can use
//! it any more.

use x86::Gva;

use crate::look::Look;

/// The kernel's grace periods (`struct rcu_state`, kernel/rcu/tree.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GracePeriods {
    /// How many have ended.
    pub ended: u64,
    /// None is under way: nobody waits for one.
    pub is_idle: bool,
}

impl GracePeriods {
    /// Whether all that was waited for at `before` has been waited for.
    pub fn has_passed(self, before: GracePeriods) -> bool {
        self.is_idle || self.ended.wrapping_sub(before.ended) >= 2
    }
}

impl Look<'_> {
    /// The kernel's grace periods; none if they cannot be read.
    pub fn grace_periods(&self) -> Option<GracePeriods> {
        /// Bits of the sequence that say what the one under way does (`RCU_SEQ_CTR_SHIFT`, kernel/rcu/rcu.h).
        const STATE_BITS: u32 = 2;
        let state = self.symbol("rcu_state").ok()?;
        let sequence = self.member("rcu_state", Gva(state.0), "gp_seq").ok()?;
        Some(GracePeriods {
            ended: sequence >> STATE_BITS,
            is_idle: sequence & ((1 << STATE_BITS) - 1) == 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_grace_periods_later_nobody_waits_any_more() {
        let at = |ended, is_idle| GracePeriods { ended, is_idle };
        let check = |before, now: GracePeriods, expected| {
            assert_eq!(now.has_passed(before), expected, "{before:?} {now:?}");
        };
        check(at(5, false), at(5, false), false);
        check(at(5, false), at(6, false), false);
        check(at(5, false), at(7, false), true);
        check(at(5, false), at(6, true), true);
        check(at(5, true), at(5, true), true);
        check(at(u64::MAX, false), at(1, false), true);
    }
}
