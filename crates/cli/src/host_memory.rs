//! All memory of this host.

use std::fs;

/// In bytes; 0 where the host does not say.
pub fn bytes() -> u64 {
    total(&fs::read_to_string("/proc/meminfo").unwrap_or_default()).unwrap_or(0)
}

/// MemTotal (proc_meminfo(5)).
fn total(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim()
        .strip_suffix(" kB")?
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_memory_is_what_its_kernel_counts() {
        assert_eq!(
            total("MemTotal:       24653324 kB\nMemFree: 1 kB\n"),
            Some(24_653_324 << 10)
        );
        assert_eq!(total("MemFree: 1 kB\n"), None);
        assert!(bytes() > 0);
    }
}
