//! How the numbers that engines count add up, over vCPUs and over lives.

use vcpu::{EngineStatistics, Unit};

/// Everything adds up over vCPUs but what they share.
pub(crate) fn add_vcpu(sum: &mut EngineStatistics, more: &EngineStatistics) {
    merge(sum, more, |unit, total, value| match unit {
        Unit::Count | Unit::Bytes => total + value,
        Unit::SharedCount | Unit::SharedBytes => total.max(value),
    });
}

/// Counts add up over lives; bytes are what the last one held.
pub(crate) fn add_life(sum: &mut EngineStatistics, more: &EngineStatistics) {
    merge(sum, more, |unit, total, value| match unit {
        Unit::Count | Unit::SharedCount => total + value,
        Unit::Bytes | Unit::SharedBytes => value,
    });
}

fn merge(sum: &mut EngineStatistics, more: &EngineStatistics, add: impl Fn(Unit, u64, u64) -> u64) {
    for &(name, unit, value) in &more.0 {
        match sum.0.iter_mut().find(|(known, ..)| *known == name) {
            Some((_, _, total)) => *total = add(unit, *total, value),
            None => sum.0.push((name, unit, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_vcpus_share_is_counted_once() {
        let vcpu = |own, shared| {
            EngineStatistics(vec![
                ("misses", Unit::Count, own),
                ("tables", Unit::Bytes, own),
                ("blocks", Unit::SharedCount, shared),
                ("cache", Unit::SharedBytes, shared),
            ])
        };
        let mut sum = EngineStatistics::default();
        for _ in 0..2 {
            let mut life = EngineStatistics::default();
            add_vcpu(&mut life, &vcpu(3, 10));
            add_vcpu(&mut life, &vcpu(4, 11));
            add_life(&mut sum, &life);
        }
        let found = ["misses", "tables", "blocks", "cache"].map(|name| sum.get(name));
        assert_eq!(found, [Some(14), Some(7), Some(22), Some(11)]);
    }
}
