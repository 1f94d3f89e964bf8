//! Somebody who judges one VM again and again: the last readings, and what comes of them.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use api::{HostBooks, VcpuView};
use fleet::{ClientError, Record};
use insight::verdict::{READINGS_NEEDED, Reading, Row, judge};
use insight::{Cost, Kernel, Loaded, NotRecognised, Rung};
use schemars::JsonSchema;
use serde::Serialize;

use crate::checks::Checks;
use crate::live::LiveCost;
use crate::observer::Observer;
use crate::reading::reading;
use crate::views;

/// Readings that are kept.
const READINGS_KEPT: usize = 2 * READINGS_NEEDED;

/// Judges one VM.
pub struct Watcher {
    observer: Observer,
    checks: Checks,
    readings: VecDeque<Reading>,
}

/// What a watcher knows after one more reading.
#[derive(Clone, Debug, JsonSchema, Serialize)]
pub struct Assessment {
    /// The host's own books.
    pub books: HostBooks,
    /// Registers of each vCPU, as its own thread laid them down.
    pub vcpus: Vec<VcpuView>,
    /// The guest's kernel.
    pub kernel: KernelFacts,
    /// The reading.
    pub reading: Reading,
    /// What comes of the last readings.
    pub rows: Vec<Row>,
    /// What watching costs.
    pub cost: WatchCost,
}

/// What is known of a guest's kernel as a whole.
#[derive(Clone, Debug, Default, JsonSchema, Serialize)]
pub struct KernelFacts {
    /// As `uname -r` says.
    pub release: Option<String>,
    /// The build-id.
    pub build_id: Option<String>,
    /// On what it stands that this is the kernel.
    pub rung: Option<Rung>,
    /// What does not agree about it.
    pub disputes: Vec<String>,
    /// How far it was moved from where it was linked.
    pub kaslr_slide: Option<u64>,
    /// The kernel that was loaded.
    pub loaded: LoadedFacts,
    /// Why it is not known.
    pub why_not: Option<String>,
}

/// What is known of the kernel that was loaded, before the guest's first instruction.
#[derive(Clone, Debug, Default, JsonSchema, Serialize)]
pub struct LoadedFacts {
    /// As `uname -r` says.
    pub release: Option<String>,
    /// The build-id.
    pub build_id: Option<String>,
    /// SHA-256 of the kernel file.
    pub sha256: Option<String>,
    /// Why its file tells nothing.
    pub why_not: Option<String>,
}

impl KernelFacts {
    /// Of a kernel, or of none, when it is not known which one was loaded, and why that is so.
    pub fn alone(kernel: Result<&Kernel, &NotRecognised>, loaded: &str) -> KernelFacts {
        KernelFacts::new(kernel, LoadedFacts::new(Err(loaded)))
    }

    fn new(kernel: Result<&Kernel, &NotRecognised>, loaded: LoadedFacts) -> KernelFacts {
        match kernel {
            Ok(kernel) => KernelFacts {
                release: Some(kernel.release().to_owned()),
                build_id: kernel.build_id(),
                rung: Some(kernel.rung()),
                disputes: kernel.disputes().to_vec(),
                kaslr_slide: Some(kernel.kaslr_slide()),
                loaded,
                why_not: None,
            },
            Err(not) => KernelFacts {
                release: not.release().map(str::to_owned),
                rung: not.banner.as_ref().map(|_| Rung::Banner),
                loaded,
                why_not: Some(not.to_string()),
                ..KernelFacts::default()
            },
        }
    }
}

impl LoadedFacts {
    fn new(loaded: Result<&Loaded, &str>) -> LoadedFacts {
        match loaded {
            Ok(loaded) => LoadedFacts {
                release: Some(loaded.profile().release().to_owned()),
                build_id: loaded.profile().build_id_hex(),
                sha256: Some(
                    loaded
                        .digest()
                        .iter()
                        .map(|byte| format!("{byte:02x}"))
                        .collect(),
                ),
                why_not: None,
            },
            Err(why) => LoadedFacts {
                why_not: Some(why.to_owned()),
                ..LoadedFacts::default()
            },
        }
    }
}

/// What watching costs.
#[derive(Clone, Copy, Debug, Default, JsonSchema, Serialize)]
pub struct WatchCost {
    /// The last look.
    pub look: Cost,
    /// To find the kernel, once for each life.
    pub attach: Cost,
    /// Everything that was read of the guest so far.
    pub memory: LiveCost,
}

impl Watcher {
    /// Connects to the VM of `record`; what is learned about kernels is kept in `cache`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn connect(record: Record, cache: Option<PathBuf>) -> Result<Watcher, ClientError> {
        let observer = Observer::connect(record, cache)?;
        Ok(Watcher {
            checks: Checks::new(observer.vm().clone()),
            observer,
            readings: VecDeque::new(),
        })
    }

    /// The same for many readings: code is compared again when it was written, not because time has passed.
    #[must_use]
    pub fn for_long(mut self) -> Watcher {
        self.checks.last_for_long();
        self
    }

    /// One more reading.
    ///
    /// # Errors
    /// [`ClientError`]: the VM has ended, or its process does not answer.
    pub fn assess(&mut self) -> Result<Assessment, ClientError> {
        let snapshot = self.observer.observe()?;
        if self.checks.meet(snapshot.books.life) {
            self.readings.clear();
        }
        let loaded = LoadedFacts::new(snapshot.loaded);
        let (reading, kernel, look, attach) = match snapshot.kernel {
            Ok(kernel) => {
                let account = kernel.account();
                let look = kernel.look(&account, &snapshot.registers);
                let mut reading = reading(&snapshot.books, Ok(&look));
                reading.kernel.views = vec![views::identity(Ok(kernel), snapshot.loaded)];
                let checked = self.checks.views(&look, snapshot.memory, &snapshot.books);
                reading.kernel.views.extend(checked);
                let facts = KernelFacts::new(Ok(kernel), loaded);
                (reading, facts, look.cost(), kernel.attach_cost())
            }
            Err(not) => {
                let facts = KernelFacts::new(Err(not), loaded);
                let mut reading = reading(&snapshot.books, Err(not));
                reading.kernel.views = vec![views::identity(Err(not), snapshot.loaded)];
                (reading, facts, Cost::default(), Cost::default())
            }
        };
        let cost = WatchCost {
            look,
            attach,
            memory: snapshot.cost,
        };
        let books = snapshot.books;
        let vcpus = snapshot.vcpus;
        self.readings.push_back(reading.clone());
        if self.readings.len() > READINGS_KEPT {
            self.readings.pop_front();
        }
        let rows = judge(self.readings.make_contiguous());
        Ok(Assessment {
            books,
            vcpus,
            kernel,
            reading,
            rows,
            cost,
        })
    }

    /// Whether code of the guest's kernel was written lately that is what it was: it is worth looking at for longer.
    pub fn is_restless(&self) -> bool {
        !self.checks.restless().is_empty()
    }

    /// Lets time pass until the next reading, and looks meanwhile for what comes and goes.
    pub fn wait(&mut self, time: Duration) {
        let end = Instant::now() + time;
        if let Ok(snapshot) = self.observer.observe()
            && let Ok(kernel) = snapshot.kernel
        {
            let account = kernel.account();
            let look = kernel.look(&account, &snapshot.registers);
            let left = end.saturating_duration_since(Instant::now());
            self.checks.wait(&look, left);
        }
        thread::sleep(end.saturating_duration_since(Instant::now()));
    }

    /// For questions that verdicts do not ask.
    pub fn observer(&mut self) -> &mut Observer {
        &mut self.observer
    }
}
