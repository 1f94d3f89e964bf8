//! Adds up what the lives of a VM cost, for its report.

use std::time::{Duration, Instant};

use api::{DeviceStatus, Metrics};
use vcpu::EngineStatistics;

use crate::console::output::Output;
use crate::life::Life;
use crate::outcome::ending::Ending;
use crate::outcome::exits::ExitCounts;
use crate::plan::VmPlan;
use crate::report::{Marker, MemoryReport, Report, Sample, Unmapped, VmmMemory};
use crate::report::{metrics, profile, sums};
use crate::run::vcpu_thread::VcpuAccount;

/// Sums over all lives so far.
pub(crate) struct Accounts {
    /// When the VM started.
    pub(crate) start: Instant,
    /// How often the guest started again.
    pub(crate) reboots: u64,
    exits: ExitCounts,
    statistics: EngineStatistics,
    vcpu_time: Duration,
    samples: Vec<(usize, Sample)>,
    unmapped: Unmapped,
    resident_bytes: u64,
    vmm_memory: Option<VmmMemory>,
    profile: Option<profile::Cpu>,
    kernel: Option<[u8; 32]>,
}

impl Accounts {
    pub(crate) fn new(start: Instant, reboots: u64) -> Accounts {
        Accounts {
            start,
            reboots,
            exits: ExitCounts::default(),
            statistics: EngineStatistics::default(),
            vcpu_time: Duration::ZERO,
            samples: Vec::new(),
            unmapped: Unmapped::default(),
            resident_bytes: 0,
            vmm_memory: None,
            profile: None,
            kernel: None,
        }
    }

    /// Adds what the threads of all vCPUs did in one life; where the first one's kernel had its entry for system calls, if it is
    /// known.
    pub(crate) fn add(&mut self, vcpus: Vec<VcpuAccount>) -> Option<u64> {
        let entry = vcpus.first().and_then(|account| account.entry);
        let mut life = EngineStatistics::default();
        for account in vcpus {
            self.exits += account.exits;
            sums::add_vcpu(&mut life, &account.statistics);
            self.samples.extend(account.samples);
            self.vcpu_time += account.cpu_time;
            self.vmm_memory = account.vmm_memory;
        }
        sums::add_life(&mut self.statistics, &life);
        entry
    }

    /// What a profiler has seen in all lives.
    pub(crate) fn profiled(&mut self, profile: profile::Cpu) {
        let kernel = self.kernel;
        self.profile = Some(profile::Cpu { kernel, ..profile });
    }

    /// Adds what the board of a life that is over counted, and measures its memory while that is still there.
    pub(crate) fn life_ended(&mut self, life: &Life) {
        let room = life.room();
        let counters = room.board.counters();
        self.unmapped.pio += counters.pio.unmapped_reads + counters.pio.unmapped_writes;
        self.unmapped.mmio += counters.mmio.unmapped_reads + counters.mmio.unmapped_writes;
        self.unmapped.msr += room.msrs.unknown_count();
        self.resident_bytes = life.memory.resident_bytes().unwrap_or(0);
        if life.seats.is_some() {
            self.kernel = life.kernel().file().map(|(_, digest)| digest);
        }
    }

    /// What is known in the end.
    pub(crate) fn report(
        self,
        plan: &VmPlan,
        ending: Ending,
        output: &Output,
        devices: Vec<DeviceStatus>,
        mut metrics: Metrics,
    ) -> Report {
        metrics::engine(&mut metrics, &self.statistics);
        let marker = |text: &String| Marker {
            text: text.clone(),
            seen: None,
        };
        let mut markers: Vec<Marker> = plan.markers.iter().map(marker).collect();
        for (at, sample) in self.samples {
            markers[at].seen = Some(sample);
        }
        Report {
            name: plan.name.clone(),
            ending,
            start_failed: None,
            engine: plan.engine.clone(),
            engine_limit_bytes: None,
            host_cost: None,
            first_output: output.first_byte(),
            markers,
            memory: MemoryReport {
                configured_bytes: plan.memory_bytes,
                resident_bytes: self.resident_bytes,
            },
            vmm_memory: self.vmm_memory,
            exits: self.exits,
            vcpu_time: self.vcpu_time,
            cpu_time: host::cpu::process_cpu_time(),
            wall_time: self.start.elapsed(),
            statistics: self.statistics,
            reboots: self.reboots,
            unmapped: self.unmapped,
            devices,
            metrics: metrics.into_vec(),
            profile: self.profile,
        }
    }
}
