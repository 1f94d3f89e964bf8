//! The limits of a VM that runs, which may be others than it was started with.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{MemoryLimit, Rates, ResidentLimit, StoreSize, VmSpec};

/// All limits of a VM, as they were said last: at its start, or since.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, JsonSchema, Serialize, Deserialize)]
#[serde(default)]
pub struct LimitsSaid {
    /// Guest memory that the host may hold.
    pub resident_bytes: Option<u64>,
    /// What compressed pages may take.
    pub page_memory_bytes: Option<u64>,
    /// What the engine may hold.
    pub engine_bytes: Option<u64>,
    /// What the VM may cost in all.
    pub host_bytes: Option<u64>,
    /// What it may use per second.
    pub rates: Rates,
}

impl VmSpec {
    /// Has the description of a VM with so much memory say these limits; one that is as it was keeps its words.
    pub fn set_limits(&mut self, limits: &LimitsSaid, memory_bytes: u64) {
        let LimitsSaid {
            resident_bytes,
            page_memory_bytes,
            engine_bytes,
            host_bytes,
            rates,
        } = *limits;
        let was = self.resident_limit.and_then(|it| it.of(memory_bytes).ok()?);
        if was != resident_bytes {
            self.resident_limit = resident_bytes.map(ResidentLimit::Bytes);
        }
        // Without a limit nothing is put away, and the host of the next VM need not be able to.
        if self.page_memory.is_some() || resident_bytes.is_some() || host_bytes.is_some() {
            let usual = self.page_memory.is_none() && page_memory_bytes == Some(memory_bytes);
            self.page_memory = page_memory_bytes
                .filter(|_| !usual)
                .map(StoreSize::of_bytes);
        }
        for (said, bytes) in [
            (&mut self.engine_memory, engine_bytes),
            (&mut self.host_limit, host_bytes),
        ] {
            if said.and_then(MemoryLimit::bytes) != bytes {
                *said = bytes.map(MemoryLimit::Bytes);
            }
        }
        self.cpu_limit = rates.cpu_limit;
        self.cpu_weight = rates.cpu_weight;
        self.disk_rate = rates.disk_rate;
        self.disk_ops = rates.disk_ops;
        self.net_rate = rates.net_rate;
        self.net_packets = rates.net_packets;
        self.console_rate = rates.console_rate;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY_BYTES: u64 = 128 << 20;

    #[track_caller]
    fn check(started: &str, limits: LimitsSaid, expected: &str) {
        let read = |text: &str| crate::PartialSpec::from_file(text, "f").spec;
        let mut spec = read(started);
        spec.set_limits(&limits, MEMORY_BYTES);
        assert_eq!(spec, read(expected), "{started}");
    }

    #[test]
    fn what_was_limited_since_is_said_and_what_is_as_it_was_keeps_its_words() {
        let said = LimitsSaid {
            page_memory_bytes: Some(MEMORY_BYTES),
            ..LimitsSaid::default()
        };
        check("", said, "");
        check(
            "resident-limit = \"none\"\nhost-limit = \"none\"",
            said,
            "resident-limit = \"none\"\nhost-limit = \"none\"",
        );
        let tenth = LimitsSaid {
            resident_bytes: Some((MEMORY_BYTES / 100 * 10) & !0xfff),
            ..said
        };
        check(
            "resident-limit = \"10%\"",
            tenth,
            "resident-limit = \"10%\"",
        );
        check("resident-limit = \"10%\"", said, "");
        check(
            "resident-limit = \"50%\"\nhost-limit = \"90M\"",
            LimitsSaid {
                resident_bytes: Some(20 << 20),
                page_memory_bytes: Some(7 << 20),
                engine_bytes: Some(9 << 20),
                ..said
            },
            "resident-limit = \"20M\"\npage-memory = \"7M\"\nengine-memory = \"9M\"",
        );
        let rates = Rates {
            cpu_limit: Some("50%".parse().unwrap()),
            disk_ops: Some("none".parse().unwrap()),
            ..Rates::default()
        };
        check(
            "cpu-limit = \"150%\"\nhost-limit = \"90M\"",
            LimitsSaid {
                rates,
                host_bytes: Some(90 << 20),
                ..said
            },
            "cpu-limit = \"50%\"\ndisk-ops = \"none\"\nhost-limit = \"90M\"",
        );
    }
}
