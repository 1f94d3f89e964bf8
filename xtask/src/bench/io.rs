//! `cargo xtask bench io`: what a guest's devices carry, part by part; each part compares with QEMU by itself.

use anyhow::Result;

use super::disk;

/// Every part; whether all keep their promises.
pub fn run(run_count: usize) -> Result<bool> {
    disk::compare(run_count)
}
