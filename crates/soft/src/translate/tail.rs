//! What lies behind a block's straight path, before it is emitted.

use crate::block::ExitReason;
use crate::emit::{Fixup, Reg};

/// One piece.
pub(super) enum Tail {
    /// TLB miss of a site.
    Miss { from: Fixup, site: u32 },
    /// The same where the check stands for several accesses: what is missed may be a page, or that it is one page.
    SharedMiss {
        from: Fixup,
        site: u32,
        address: Reg,
        rip: u64,
        borrowed: u16,
    },
    /// FP state wanted at a site.
    FpState { from: Fixup, site: u32 },
    /// A jump out of the middle of a block, with flags in their place.
    Aside {
        from: Fixup,
        rip: u64,
        borrowed: u16,
        may_chain: bool,
    },
    /// Leave with `rip` and a reason.
    Leave {
        from: Fixup,
        rip: u64,
        reason: ExitReason,
    },
    /// A chainable jump that starts out as an exit.
    Chain { from: Fixup, rip: u64, link: u32 },
}
