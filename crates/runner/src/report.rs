//! What Mother knows about a run, for programs: the file that `--report` names, and what a client is told at the end.
//!
//! Times are in seconds, sizes in bytes, and what was not measured is null. A field that is here keeps its name and
//! meaning; others may come.

use std::time::Duration;

use api::{Jail, Metric};
use machine::{Ending, Report, Sample, VmmMemory};
use serde::{Deserialize, Serialize};
use vcpu::{EngineStatistics, Unit};

use self::numbers::Numbers;
use crate::profile::ProfileReport;

/// The kind of a power-off.
const POWERED_OFF: &str = "powered off";

/// A run that is over.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RunReport {
    /// The VM.
    pub name: String,
    /// How it ended.
    pub ending: EndingReport,
    /// What executed the guest.
    pub engine: EngineReport,
    /// What stood around its process.
    pub jail: Option<Jail>,
    /// From the start to the first byte on the console.
    pub first_output: Option<f64>,
    /// The texts that were watched for.
    pub markers: Vec<MarkerReport>,
    /// Guest memory.
    pub guest_memory: GuestMemoryReport,
    /// Memory of the VM's process at the end.
    pub vmm_memory: Option<VmmMemoryReport>,
    /// What the VM cost its host in all, where that had a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_cost: Option<HostCostReport>,
    /// Exits by kind.
    pub exits: Numbers,
    /// CPU time of the vCPUs' threads.
    pub vcpu_time: f64,
    /// From the start to the end.
    pub wall_time: f64,
    /// What the engine counted.
    pub engine_statistics: Numbers,
    /// Which of those are sizes.
    pub engine_statistics_in_bytes: Vec<String>,
    /// How often the guest started again.
    pub reboots: u64,
    /// Accesses to nothing.
    pub unmapped: UnmappedReport,
    /// What each device counted.
    pub devices: Devices,
    /// Every number, with its unit and what it means.
    pub metrics: Vec<Metric>,
    /// Where the CPU time of the vCPUs went, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<ProfileReport>,
}

/// How a run ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EndingReport {
    /// `powered off`, `exited`, `debug exit`, `crashed`, `timed out`, `stopped`.
    pub kind: String,
    /// Of a debug exit, or of the program that the guest was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u8>,
    /// Of a crash: what the guest looked like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crash: Option<String>,
}

impl RunReport {
    /// The same of a guest whose program ended with this status, which is how it ended.
    pub(crate) fn exited(mut self, status: u8) -> RunReport {
        self.ending = EndingReport {
            kind: "exited".to_owned(),
            status: Some(status),
            crash: None,
        };
        self
    }
}

impl EndingReport {
    /// Whether the guest powered itself off.
    pub fn is_power_off(&self) -> bool {
        self.kind == POWERED_OFF
    }
}

/// An engine, and why that one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EngineReport {
    /// `kvm` or `soft`.
    pub kind: String,
    /// The reason.
    pub why: String,
    /// How much the software CPU might hold beside the guest's pages; its parts are among what it counted.
    #[serde(default)]
    pub memory_limit: Option<u64>,
}

/// A text that was watched for on the console.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct MarkerReport {
    /// The text.
    pub text: String,
    /// What was measured when it first stood in a line.
    pub seen: Option<SampleReport>,
}

/// What was measured at a moment.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SampleReport {
    /// Seconds from the start.
    pub at: f64,
    /// Guest memory that the host held.
    pub guest_memory_touched: Option<u64>,
    /// Memory of the VM's process.
    pub vmm_memory: Option<VmmMemoryReport>,
    /// CPU time of the vCPUs' threads.
    pub vcpu_time: f64,
    /// What the engine had counted.
    pub engine_statistics: Numbers,
}

/// Guest memory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GuestMemoryReport {
    /// What the guest believes to have.
    pub configured: u64,
    /// What it ever touched.
    pub touched: u64,
}

/// Memory of the VM's process, by what it is for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VmmMemoryReport {
    /// All of it.
    pub total: u64,
    /// The guest's.
    pub guest: u64,
    /// Translated code.
    pub code_cache: u64,
    /// Heap and tables.
    pub heap: u64,
    /// The program and its libraries.
    pub program: u64,
}

/// What the VM cost its host in memory, against the limit that it had last.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct HostCostReport {
    /// What all of it might be.
    pub limit: u64,
    /// The least that it cost as things were when it was last looked at.
    pub least: u64,
    /// The most that it cost since the limit was set.
    pub highest: u64,
    /// For how many seconds it cost more than the limit.
    pub over: f64,
    /// All of it, when it was last looked at.
    pub total: u64,
    /// Guest memory that the host held.
    pub guest: u64,
    /// Compressed pages of the guest.
    pub store: u64,
    /// Code that the engine made, and its tables.
    pub engine: u64,
    /// What else was the process's own.
    pub own: u64,
    /// The program and its libraries.
    pub program: u64,
}

impl VmmMemoryReport {
    /// All but the guest's.
    pub fn overhead_bytes(&self) -> u64 {
        self.total.saturating_sub(self.guest)
    }
}

/// Accesses to addresses where the board has nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UnmappedReport {
    /// Accesses to I/O ports.
    pub pio: u64,
    /// Physical addresses.
    pub mmio: u64,
    /// MSRs.
    pub msr: u64,
}

/// Counters by device.
pub type Devices = numbers::Named<Numbers>;

impl From<&Report> for RunReport {
    fn from(report: &Report) -> RunReport {
        let marker = |marker: &machine::Marker| MarkerReport {
            text: marker.text.clone(),
            seen: marker.seen.as_ref().map(sample),
        };
        let exits = report.exits.by_kind().into_iter();
        RunReport {
            name: report.name.clone(),
            ending: ending(&report.ending),
            engine: EngineReport {
                kind: report.engine.kind.to_string(),
                why: report.engine.why.clone(),
                memory_limit: report.engine_limit_bytes,
            },
            jail: None,
            first_output: report.first_output.map(seconds),
            markers: report.markers.iter().map(marker).collect(),
            guest_memory: GuestMemoryReport {
                configured: report.memory.configured_bytes,
                touched: report.memory.resident_bytes,
            },
            vmm_memory: report.vmm_memory.as_ref().map(vmm_memory),
            host_cost: report.host_cost.as_ref().map(host_cost),
            exits: exits
                .map(|(kind, count)| (kind.to_owned(), count))
                .collect(),
            vcpu_time: seconds(report.vcpu_time),
            wall_time: seconds(report.wall_time),
            engine_statistics: statistics(&report.statistics),
            engine_statistics_in_bytes: sizes(&report.statistics),
            reboots: report.reboots,
            unmapped: UnmappedReport {
                pio: report.unmapped.pio,
                mmio: report.unmapped.mmio,
                msr: report.unmapped.msr,
            },
            devices: devices(report),
            metrics: report.metrics.clone(),
            profile: report.profile.as_ref().map(ProfileReport::new),
        }
    }
}

/// Devices by name, their counters by name.
fn devices(report: &Report) -> Devices {
    let device = |device: &api::DeviceStatus| {
        let counters = device.counters.iter();
        let counters = counters.map(|counter| (counter.name.clone(), counter.value));
        (device.name.clone(), counters.collect())
    };
    report.devices.iter().map(device).collect()
}

fn ending(ending: &Ending) -> EndingReport {
    let (kind, status, crash) = match ending {
        Ending::PoweredOff => (POWERED_OFF, None, None),
        Ending::DebugExit(status) => ("debug exit", Some(*status), None),
        Ending::Crashed(crash) => ("crashed", None, Some(crash.to_string())),
        Ending::TimedOut => ("timed out", None, None),
        Ending::Stopped(_) => ("stopped", None, None),
    };
    EndingReport {
        kind: kind.to_owned(),
        status,
        crash,
    }
}

fn sample(sample: &Sample) -> SampleReport {
    SampleReport {
        at: seconds(sample.at),
        guest_memory_touched: sample.resident_bytes,
        vmm_memory: sample.vmm_memory.as_ref().map(vmm_memory),
        vcpu_time: seconds(sample.vcpu_time),
        engine_statistics: statistics(&sample.statistics),
    }
}

fn host_cost(cost: &api::HostCostBook) -> HostCostReport {
    HostCostReport {
        limit: cost.limit_bytes,
        least: cost.least_bytes,
        highest: cost.highest_bytes,
        over: cost.over_ms as f64 / 1e3,
        total: cost.total_bytes,
        guest: cost.guest_bytes,
        store: cost.store_bytes,
        engine: cost.engine_bytes,
        own: cost.own_bytes,
        program: cost.program_bytes,
    }
}

fn vmm_memory(memory: &VmmMemory) -> VmmMemoryReport {
    VmmMemoryReport {
        total: memory.total_bytes,
        guest: memory.guest_bytes,
        code_cache: memory.code_cache_bytes,
        heap: memory.heap_bytes,
        program: memory.program_bytes,
    }
}

fn statistics(statistics: &EngineStatistics) -> Numbers {
    let all = statistics.0.iter();
    all.map(|&(name, _, value)| (name.to_owned(), value))
        .collect()
}

fn sizes(statistics: &EngineStatistics) -> Vec<String> {
    let is_size = |unit: Unit| matches!(unit, Unit::Bytes | Unit::SharedBytes);
    let all = statistics.0.iter();
    all.filter(|(_, unit, _)| is_size(*unit))
        .map(|(name, ..)| (*name).to_owned())
        .collect()
}

fn seconds(time: Duration) -> f64 {
    time.as_secs_f64()
}

/// Named values that keep their order: JSON has them as an object.
pub mod numbers {
    use std::fmt;
    use std::marker::PhantomData;

    use serde::de::{MapAccess, Visitor};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// Numbers by name.
    pub type Numbers = Named<u64>;

    /// Values by name, in the order to be shown.
    #[derive(Clone, PartialEq, Eq, Debug)]
    pub struct Named<T>(pub Vec<(String, T)>);

    impl<T> FromIterator<(String, T)> for Named<T> {
        fn from_iter<I: IntoIterator<Item = (String, T)>>(values: I) -> Named<T> {
            Named(values.into_iter().collect())
        }
    }

    impl<T: Serialize> Serialize for Named<T> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
        }
    }

    impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Named<T>, D::Error> {
            deserializer.deserialize_map(InOrder(PhantomData))
        }
    }

    struct InOrder<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for InOrder<T> {
        type Value = Named<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Named<T>, A::Error> {
            let mut values = Vec::new();
            while let Some(entry) = map.next_entry()? {
                values.push(entry);
            }
            Ok(Named(values))
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn names_keep_their_order_on_the_way() {
            let named: Numbers = [("z", 1), ("a", 2), ("m", 3)]
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect();
            let text = serde_json::to_string(&named).unwrap();
            assert_eq!(text, "{\"z\":1,\"a\":2,\"m\":3}");
            assert_eq!(serde_json::from_str::<Numbers>(&text).unwrap(), named);
        }
    }
}
