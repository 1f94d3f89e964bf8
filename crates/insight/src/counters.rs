//! Counters that the kernel keeps in parts, one on every CPU.

use x86::Gva;

use crate::blind::Blind;
use crate::look::Look;

impl Look<'_> {
    /// A `struct percpu_counter`: what was summed up, and what CPUs have not added yet.
    pub(crate) fn percpu_counter(&self, counter: Gva) -> Result<i64, Blind> {
        let object = self.object("percpu_counter", counter)?;
        let mut sum = object.number("count")? as i64;
        let parts = object.pointer("counters")?;
        for cpu in self.possible_cpus()? {
            sum = sum.saturating_add(i64::from(
                self.space().u32(self.per_cpu(parts, cpu)?)? as i32
            ));
        }
        Ok(sum)
    }
}
