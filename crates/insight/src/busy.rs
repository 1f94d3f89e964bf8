//! CPUs that let nobody else have them: in the kernel, with interrupts off, and not asleep.

use x86::Gva;

use crate::look::Look;
use crate::registers::Registers;

/// A CPU that no interrupt reaches right now, as every one is for a moment again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeafCpu {
    /// Which vCPU.
    pub vcpu_id: u32,
    /// What its scheduler's clock showed when it ran last (`struct rq`, kernel/sched/sched.h): at every tick, whenever it has
    /// work to hand out.
    pub clock_ns: u64,
    /// Where it is.
    pub place: String,
}

impl Registers {
    /// Whether it runs the kernel and can take no interrupt.
    fn is_deaf(&self) -> bool {
        const IF: u64 = 1 << 9;
        self.is_long_mode()
            && self.cpl == 0
            && !self.is_halted
            && self.rflags & IF == 0
            && self.rip >> 63 != 0
    }
}

impl Look<'_> {
    /// CPUs that no interrupt reaches right now.
    pub fn deaf_cpus(&self) -> Vec<DeafCpu> {
        let deaf = |vcpu: &Registers| {
            let queues = self.symbol("runqueues").ok()?;
            let queue = self.per_cpu(queues, vcpu.vcpu_id).ok()?;
            Some(DeafCpu {
                vcpu_id: vcpu.vcpu_id,
                clock_ns: self.member("rq", Gva(queue.0), "clock").ok()?,
                place: self.whereabouts(vcpu.rip),
            })
        };
        let all = self.registers().iter();
        all.filter(|vcpu| vcpu.is_deaf()).filter_map(deaf).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_is_deaf_in_the_kernel_with_interrupts_off_and_awake() {
        let check = |change: &dyn Fn(&mut Registers), expected| {
            let mut registers = Registers {
                cr0: 1 << 31,
                efer: 1 << 10,
                rip: 0xffff_ffff_8100_0000,
                rflags: 0x46,
                ..Registers::default()
            };
            change(&mut registers);
            assert_eq!(registers.is_deaf(), expected, "{registers:x?}");
        };
        check(&|_| (), true);
        check(&|vcpu| vcpu.rflags = 0x246, false);
        check(&|vcpu| vcpu.is_halted = true, false);
        check(&|vcpu| vcpu.cpl = 3, false);
        check(&|vcpu| vcpu.rip = 0x40_1000, false);
        check(&|vcpu| vcpu.cr0 = 0, false);
    }
}
