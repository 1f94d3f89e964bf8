//! Whether a kernel has given up.

use crate::blind::Blind;
use crate::look::Look;
use crate::observed::Observed;

/// No CPU has panicked (`PANIC_CPU_INVALID`, include/linux/panic.h).
const NOBODY: u32 = u32::MAX;
/// What a kernel says first then (kernel/panic.c).
const WORDS: &str = "Kernel panic - not syncing: ";
/// Longest line that is told.
const MAX_LINE: usize = 200;

impl Look<'_> {
    /// What the kernel said when it panicked; empty if its log does not tell, none if it has not panicked.
    pub fn panic(&self) -> Observed<Option<String>> {
        self.observed(self.read_panic())
    }

    fn read_panic(&self) -> Result<Option<String>, Blind> {
        if self.space().u32(self.symbol("panic_cpu")?)? == NOBODY {
            return Ok(None);
        }
        let log = self.kernel_log().into_value().unwrap_or_default();
        let line = log
            .iter()
            .rev()
            .find_map(|record| Some(record.text.split_once(WORDS)?.1))
            .unwrap_or_default();
        Ok(Some(line.chars().take(MAX_LINE).collect()))
    }
}
