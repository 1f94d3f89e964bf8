//! Memory as it is from address 0 on: a place in the file is the physical address, and zeros are where there is no memory.

use crate::dump::elf::put;
use crate::dump::output::Output;
use crate::dump::pages::Pages;
use crate::dump::{DumpError, Dumped, Guest};

pub(super) fn write(
    guest: &Guest<'_>,
    to: &mut dyn Output,
    progress: &mut dyn FnMut(u64),
) -> Result<Dumped, DumpError> {
    let mut pages = Pages::new(guest.memory, progress);
    let mut at = 0;
    for extent in guest.memory.extents() {
        to.zeros(extent.start.0.saturating_sub(at))?;
        pages.read(extent, &mut |_, piece| put(to, piece))?;
        at = extent.start.0.saturating_add(extent.len_bytes);
    }
    Ok(pages.dumped())
}
