//! How much memory of the host a VM may cost beside its guest's pages.

use api::{ByteSize, MemoryLimit};

use super::{Trouble, trouble};
use crate::shares::{least_cost_bytes, stored_more_bytes};

/// What the software CPU may hold, of a VM with so many vCPUs. On KVM it holds nothing, and the guest may come to it.
pub(crate) fn engine_memory(limit: MemoryLimit, vcpu_count: u32) -> Result<Option<u64>, Trouble> {
    let least = soft::least_bytes(vcpu_count);
    match limit.bytes() {
        Some(bytes) if bytes < least => trouble(
            format!(
                "{} is less than the software CPU can work in with {vcpu_count} vCPU{}",
                ByteSize(bytes),
                if vcpu_count == 1 { "" } else { "s" }
            ),
            format!("write at least {}, or none", ByteSize(least)),
        ),
        limit => Ok(limit),
    }
}

/// What the VM may cost its host in all, of which so many bytes are pages in a store that has no file to go to.
pub(crate) fn host_limit(
    limit: MemoryLimit,
    memory_bytes: u64,
    vcpu_count: u32,
    store_bytes: u64,
) -> Result<Option<u64>, Trouble> {
    let least = least_cost_bytes(memory_bytes, vcpu_count) + stored_more_bytes(store_bytes);
    match limit.bytes() {
        Some(bytes) if bytes < least => trouble(
            format!(
                "{} is less than such a VM costs its host at least",
                ByteSize(bytes)
            ),
            format!("write at least {}, or none", ByteSize(least)),
        ),
        limit => Ok(limit),
    }
}

/// The same as people write it.
pub(crate) fn host_limit_as_written(
    text: &str,
    memory_bytes: u64,
    vcpu_count: u32,
    store_bytes: u64,
) -> Result<Option<u64>, Trouble> {
    host_limit(text.parse()?, memory_bytes, vcpu_count, store_bytes)
}

/// The same as people write it.
pub(crate) fn engine_memory_as_written(
    text: &str,
    vcpu_count: u32,
) -> Result<Option<u64>, Trouble> {
    engine_memory(text.parse()?, vcpu_count)
}
