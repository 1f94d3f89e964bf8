//! How long a device's thread looks for its next call before it sleeps.
//!
//! Going to sleep and being woken costs the driver a system call for each notification and the request the time
//! of a wake-up, on a virtual host an exit to its hypervisor each. A thread whose calls come a few microseconds after one
//! another does better to look a little longer. But looking takes a core's time. So the span grows only while calls
//! are seen to come within [`SPAN_MAX`], is gone with the first that does not, and there is none at all on a host with
//! no core to spare. KVM's halt polling and QEMU's I/O threads do the same.

use std::time::Duration;

/// Longest span: several times what a call that wakes costs.
const SPAN_MAX: Duration = Duration::from_micros(48);
/// What a span starts with.
const SPAN_MIN: Duration = Duration::from_micros(6);

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    has_spare_core: bool,
    span: Duration,
}

impl Patience {
    /// For a VM of `vcpu_count` vCPUs on a host that gives us `core_count` cores.
    pub(crate) fn new(vcpu_count: u32, core_count: usize) -> Patience {
        Patience {
            has_spare_core: core_count > vcpu_count as usize,
            span: Duration::ZERO,
        }
    }

    /// How long to look before the next sleep.
    pub(crate) fn span(self) -> Duration {
        self.span
    }

    /// A call came `after` the thread had begun to wait: looking for [`Patience::span`] of that, asleep for the rest.
    pub(crate) fn called(&mut self, after: Duration) {
        self.span = match after {
            _ if !self.has_spare_core || after > SPAN_MAX => Duration::ZERO,
            _ if after <= self.span => self.span,
            _ => (self.span * 2).clamp(SPAN_MIN, SPAN_MAX),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        name: &str,
        (vcpu_count, core_count): (u32, usize),
        calls_us: &[u64],
        expected_us: u64,
    ) {
        let mut patience = Patience::new(vcpu_count, core_count);
        calls_us
            .iter()
            .for_each(|&after| patience.called(Duration::from_micros(after)));
        assert_eq!(
            patience.span(),
            Duration::from_micros(expected_us),
            "{name}"
        );
    }

    #[test]
    fn a_busy_queue_is_looked_at_longer_and_an_idle_one_not_at_all() {
        check("nothing was seen yet", (1, 2), &[], 0);
        check("one call came soon", (1, 2), &[30], 6);
        check("they keep coming", (1, 2), &[30, 30, 30, 30, 30], 48);
        check("no longer than it takes", (1, 2), &[5, 5, 5], 6);
        check("never longer than the most", (1, 2), &[48; 20], 48);
        check("one came late", (1, 2), &[30, 30, 30, 500], 0);
        check("every core runs a vCPU", (2, 2), &[30, 30, 30], 0);
        check("the only core", (1, 1), &[30, 30, 30], 0);
    }
}
