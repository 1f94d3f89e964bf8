//! LiME's format: for each stretch of memory a header and what is in it (LiME's documentation, "LiME Memory Range Header").

use crate::dump::elf::put;
use crate::dump::output::Output;
use crate::dump::pages::Pages;
use crate::dump::{DumpError, Dumped, Guest};

const MAGIC: u32 = 0x4c69_4d45;
const VERSION: u32 = 1;

pub(super) fn write(
    guest: &Guest<'_>,
    to: &mut dyn Output,
    progress: &mut dyn FnMut(u64),
) -> Result<Dumped, DumpError> {
    let mut pages = Pages::new(guest.memory, progress);
    for extent in guest.memory.extents() {
        let mut header = Vec::new();
        header.extend(MAGIC.to_le_bytes());
        header.extend(VERSION.to_le_bytes());
        header.extend(extent.start.0.to_le_bytes());
        // The last byte, not the one behind it.
        header.extend((extent.start.0 + (extent.len_bytes - 1)).to_le_bytes());
        header.extend(0_u64.to_le_bytes());
        to.write_all(&header)?;
        pages.read(extent, &mut |_, piece| put(to, piece))?;
    }
    Ok(pages.dumped())
}
