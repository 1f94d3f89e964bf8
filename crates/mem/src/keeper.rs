//! Who keeps pages that are not in guest memory has to know when the guest gives some back.

use std::io;

use x86::PAGE_SIZE;

/// The bytes of a page.
pub type PageBytes = [u8; PAGE_SIZE as usize];

/// Who has to know when pages are given back to the host.
pub trait PageKeeper: Send + Sync {
    /// The contents of these pages do not matter any more. Calls `punch`, which makes holes of them, at a time when
    /// nobody puts one of them away or brings one back, and forgets what it keeps of them. Returns how many bytes of the
    /// guest's were given back: those that `punch` says, and those that were away.
    ///
    /// # Errors
    /// What `punch` says.
    fn forget(
        &self,
        first: u64,
        count: u64,
        punch: &mut dyn FnMut() -> io::Result<u64>,
    ) -> io::Result<u64>;
}
