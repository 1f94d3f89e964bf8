//! Debug registers: breakpoints that the processor itself stops at (SDM vol. 3, 18.2; APM vol. 2, 13.1).

/// How many addresses the processor compares with: DR0 to DR3.
pub const BREAKPOINTS: usize = 4;

/// DR6: which breakpoints were met.
pub const DR6_MET: u64 = 0xf;
/// DR6: an instruction was about to touch a debug register, which DR7 forbids.
pub const DR6_BD: u64 = 1 << 13;
/// DR6: an instruction was executed with RFLAGS.TF.
pub const DR6_BS: u64 = 1 << 14;
/// DR6: bits that are 1 where nothing is told.
pub const DR6_IDLE: u64 = 0xffff_0ff0;

/// DR7: bits that are always 1.
pub const DR7_FIXED: u64 = 1 << 10;
/// DR7: whoever touches a debug register gets #DB first.
pub const DR7_GD: u64 = 1 << 13;
/// DR7: breakpoints in use, two bits for each.
pub const DR7_USED: u64 = 0xff;

/// DR7's bit that makes the processor stop before the instruction at a breakpoint's address, whatever the task.
pub fn dr7_executes(breakpoint: usize) -> u64 {
    2 << (2 * breakpoint)
}

/// DR6 after a #DB for what `told` says, which has the form of DR6: what was met is replaced, what else was told stays until
/// software clears it.
pub fn dr6_after(old: u64, told: u64) -> u64 {
    let changed = told ^ DR6_IDLE;
    ((old & !DR6_MET) | DR6_IDLE | changed) ^ (changed & DR6_IDLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_before_stays_but_for_what_was_met() {
        let check = |old, told, expected| assert_eq!(dr6_after(old, told), expected, "{told:#x}");
        check(DR6_IDLE, DR6_IDLE | DR6_BS, DR6_IDLE | DR6_BS);
        check(DR6_IDLE | 3, DR6_IDLE | 4, DR6_IDLE | 4);
        check(DR6_IDLE | DR6_BS, DR6_IDLE | 1, DR6_IDLE | DR6_BS | 1);
        // A bit that says something by being 0: a transaction (RTM).
        let transaction = DR6_IDLE & !(1 << 16);
        check(DR6_IDLE, transaction, transaction);
        check(0, DR6_IDLE, DR6_IDLE);
    }

    #[test]
    fn breakpoints_have_their_bits() {
        let all = (0..BREAKPOINTS).fold(0, |bits, breakpoint| bits | dr7_executes(breakpoint));
        assert_eq!((all, all & DR7_USED), (0xaa, 0xaa));
    }
}
