//! CPU time as the guest's kernel counts it, of all CPUs together: the numbers of `/proc/stat`.
//!
//! An idle CPU has no ticks, and its time of idling is brought up to date only when it wakes, so idling is not told here.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use x86::Gva;

use crate::blind::Blind;
use crate::look::Look;
use crate::observed::Observed;

/// CPU time in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct CpuTimes {
    /// In programs of usual priority.
    pub user_ns: u64,
    /// Programs of low priority.
    pub nice_ns: u64,
    /// The kernel.
    pub system_ns: u64,
    /// Interrupts, soft and hard.
    pub interrupts_ns: u64,
    /// What the kernel was told that its host kept from it.
    pub steal_ns: u64,
}

impl CpuTimes {
    /// Everything that is work.
    pub fn busy_ns(&self) -> u64 {
        [
            self.user_ns,
            self.nice_ns,
            self.system_ns,
            self.interrupts_ns,
        ]
        .iter()
        .fold(0, |sum, ns| sum.saturating_add(*ns))
    }
}

impl Look<'_> {
    /// CPU time since the start, all CPUs together.
    pub fn cpu_times(&self) -> Observed<CpuTimes> {
        self.observed(self.read_cpu_times())
    }

    fn read_cpu_times(&self) -> Result<CpuTimes, Blind> {
        let variable = self.symbol("kernel_cpustat")?;
        let mut sum = CpuTimes::default();
        let index = |name| self.layouts()?.enumerator("cpu_usage_stat", name);
        let names = [
            "CPUTIME_USER",
            "CPUTIME_NICE",
            "CPUTIME_SYSTEM",
            "CPUTIME_SOFTIRQ",
            "CPUTIME_IRQ",
            "CPUTIME_STEAL",
        ];
        let mut places = [0; 6];
        for (place, name) in places.iter_mut().zip(names) {
            *place = index(name)?;
        }
        for cpu in self.possible_cpus()? {
            let array = self.per_cpu(variable, cpu)?;
            let mut times = [0; 6];
            for (time, place) in times.iter_mut().zip(places) {
                *time = self
                    .space()
                    .u64(Gva(array.0.wrapping_add(8 * (place as u64 & 0xff))))?;
            }
            let [user, nice, system, soft, hard, steal] = times;
            sum.user_ns = sum.user_ns.saturating_add(user);
            sum.nice_ns = sum.nice_ns.saturating_add(nice);
            sum.system_ns = sum.system_ns.saturating_add(system);
            sum.interrupts_ns = sum.interrupts_ns.saturating_add(soft).saturating_add(hard);
            sum.steal_ns = sum.steal_ns.saturating_add(steal);
        }
        Ok(sum)
    }
}
