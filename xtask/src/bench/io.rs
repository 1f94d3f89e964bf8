//! `cargo xtask bench io`: what a guest's devices carry, part by part; each part compares with QEMU by itself.

use anyhow::Result;

use super::{disk, login};

/// Every part; whether all keep their promises.
pub fn run(run_count: usize) -> Result<bool> {
    let is_disk_fast = disk::compare(run_count)?;
    println!();
    Ok(login::compare(run_count)? && is_disk_fast)
}
