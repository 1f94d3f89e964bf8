//! A vCPU that plays a script instead of running a guest: exits in, replies out. Tests of the run loop stand on it.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use api::{ConsoleKind, JailWish};
use vcpu::{
    Engine, EngineError, EngineStatistics, Exit, Injection, Kick, Reply, Unit, Vcpu, VcpuState,
};

use crate::attach::broker::{Broker, InProcess};
use crate::boot::Protocol;
use crate::boot::test_images::bzimage;
use crate::build::Machine;
use crate::build::descriptors::collect;
use crate::build::opened::open_for;
use crate::console::Console;
use crate::engine::{EngineChoice, EngineKind};
use crate::life::{MakeVcpus, VcpuMaker};
use crate::plan::{ImagePlan, OnReset, PagingPlan, VmPlan};

/// One exit and the reply it must get.
pub(crate) type Step = (Exit, Reply);

/// What happens when the script is at its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Then {
    /// The guest computes for ever: only a kick brings it out.
    Spin,
    /// The guest halts for ever.
    Halt,
}

/// What the vCPU was given, across all lives.
pub(crate) type Injected = Arc<Mutex<Vec<Injection>>>;

#[derive(Default)]
struct Kicker {
    kicked: Mutex<bool>,
    changed: Condvar,
}

impl Kick for Kicker {
    fn kick(&self) {
        *self.kicked.lock().unwrap() = true;
        self.changed.notify_all();
    }
}

pub(crate) struct Scripted {
    steps: std::vec::IntoIter<Step>,
    wanted: Reply,
    then: Then,
    kicker: Arc<Kicker>,
    state: VcpuState,
    injected: Injected,
    halted: bool,
    runs: u64,
}

impl Vcpu for Scripted {
    fn run(&mut self, reply: Reply) -> Result<Exit, EngineError> {
        assert_eq!(reply, self.wanted, "the reply to exit {}", self.runs);
        self.runs += 1;
        self.wanted = Reply::Done;
        if let Some((exit, wanted)) = self.steps.next() {
            self.wanted = wanted;
            self.halted = exit == Exit::Halt;
            self.state.halted = self.halted;
            self.state.interrupt_pending = None;
            return Ok(exit);
        }
        if self.then == Then::Halt {
            return Ok(Exit::Halt);
        }
        let kicked = self.kicker.kicked.lock().unwrap();
        let mut kicked = self
            .kicker
            .changed
            .wait_while(kicked, |kicked| !*kicked)
            .unwrap();
        *kicked = false;
        Ok(Exit::Kicked)
    }

    /// The guest takes interrupts only where it sleeps, so that none comes before the script expects it; what was given is
    /// delivered with the next step.
    fn can_inject(&self) -> bool {
        self.halted
    }

    fn inject(&mut self, event: Injection) {
        self.halted = false;
        if let Injection::Interrupt(vector) = event {
            self.state.interrupt_pending = Some(vector);
        }
        self.injected.lock().unwrap().push(event);
    }

    fn set_interrupt_window(&mut self, _wanted: bool) {}

    fn state(&mut self) -> Result<VcpuState, EngineError> {
        Ok(self.state.clone())
    }

    fn set_state(&mut self, state: &VcpuState) -> Result<(), EngineError> {
        self.state = state.clone();
        Ok(())
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        Arc::clone(&self.kicker) as Arc<dyn Kick>
    }

    fn statistics(&self) -> EngineStatistics {
        EngineStatistics(vec![("runs", Unit::Count, self.runs)])
    }
}

/// A plan for a guest with 64 MiB and a kernel that is a file in memory.
pub(crate) fn plan(kernel: &host::MemFd) -> VmPlan {
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::FileExt;
    let bytes = bzimage();
    kernel.file().write_all_at(&bytes, 0).unwrap();
    let path = format!("/proc/self/fd/{}", kernel.file().as_raw_fd()).into();
    VmPlan {
        network: None,
        folders: Vec::new(),
        vsock: None,
        name: "test".to_owned(),
        kernel: ImagePlan {
            path,
            len_bytes: bytes.len() as u64,
            string: String::new(),
        },
        protocol: Protocol::Linux64,
        modules: Vec::new(),
        cmdline: "console=ttyS0".to_owned(),
        memory_bytes: 64 << 20,
        vcpu_count: 1,
        engine: EngineChoice {
            kind: EngineKind::Soft,
            why: "scripted".to_owned(),
        },
        engines: Vec::new(),
        engine_memory_bytes: None,
        host_limit_bytes: None,
        timeout: Some(Duration::from_secs(60)),
        debug_exit: true,
        on_reset: OnReset::End,
        console: ConsoleKind::Serial,
        jail: JailWish::Off,
        agent: false,
        rates: api::Rates::default(),
        profile: None,
        restore: None,
        markers: Vec::new(),
        disks: Vec::new(),
        paging: PagingPlan {
            limit_bytes: None,
            huge_pages: false,
            store_memory_bytes: 64 << 20,
            file: None,
        },
    }
}

/// A machine whose vCPUs play `scripts`, one for each vCPU of each life.
pub(crate) fn machine(
    adjust: impl FnOnce(&mut VmPlan),
    scripts: Vec<Vec<Step>>,
    then: Then,
    console: Console,
) -> (Machine, Injected) {
    let kernel = host::MemFd::new(c"kernel", 1024 + 0x1000).unwrap();
    let mut plan = plan(&kernel);
    adjust(&mut plan);
    let injected = Injected::default();
    let given = Arc::clone(&injected);
    let scripts = Mutex::new(scripts.into_iter());
    let make: Box<MakeVcpus> = Box::new(move |_, _, tables| {
        let mut scripts = scripts.lock().unwrap();
        let scripted = |_| Scripted {
            steps: scripts.next().unwrap_or_default().into_iter(),
            wanted: Reply::Done,
            then,
            kicker: Arc::default(),
            state: VcpuState::reset(),
            injected: Arc::clone(&given),
            halted: false,
            runs: 0,
        };
        let vcpus = tables
            .into_iter()
            .map(scripted)
            .map(|vcpu| Box::new(vcpu) as Box<dyn Vcpu>)
            .collect();
        Ok(Engine {
            memory: None,
            vcpus,
            local_apics: None,
            wires: None,
        })
    });
    let maker = |_| VcpuMaker {
        kind: EngineKind::Soft,
        make,
        limit: None,
    };
    let broker: Arc<dyn Broker> = Arc::new(InProcess::default());
    let nobody: Arc<dyn Fn() + Send + Sync> = Arc::new(|| ());
    let (descriptors, kept) = collect(&plan, &nobody).unwrap();
    let opened = open_for(plan, descriptors, &broker, false, maker).unwrap();
    let machine = opened.assemble(console).unwrap();
    (machine.keep(kept), injected)
}
