//! Somebody who judges one VM again and again: the last readings, and what comes of them.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use api::{HostBooks, VcpuView};
use insight::integrity::Scope;
use insight::verdict::{READINGS_NEEDED, Reading, Row, View, judge};
use insight::{Cost, Rung};
use serde::Serialize;

use crate::client::ClientError;
use crate::hidden;
use crate::live::LiveCost;
use crate::observer::Observer;
use crate::reading::reading;
use crate::record::Record;
use crate::views;

/// Readings that are kept.
const READINGS_KEPT: usize = 2 * READINGS_NEEDED;

/// Bytes of the guest's code that are compared in one reading, after the first one has compared all.
const COMPARED_BYTES: u64 = 2 << 20;

/// How long a search for hidden modules that found nothing holds: it reads all memory where modules are mapped.
const MODULES_HOLD: Duration = Duration::from_secs(15);

/// Judges one VM.
pub struct Watcher {
    observer: Observer,
    record: Record,
    life: u64,
    /// Whether all of the guest's code has been compared in this life.
    has_compared_all: bool,
    readings: VecDeque<Reading>,
    modules: Option<Modules>,
}

/// The last search for hidden modules.
struct Modules {
    view: View,
    at: Instant,
}

impl Modules {
    /// A search that found something is repeated at once: it may have been skew.
    fn is_due(&self) -> bool {
        !self.view.findings.is_empty() || self.at.elapsed() > MODULES_HOLD
    }
}

/// What a watcher knows after one more reading.
#[derive(Clone, Debug, Serialize)]
pub struct Glance {
    /// The host's own books.
    pub books: HostBooks,
    /// Registers.
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
#[derive(Clone, Debug, Default, Serialize)]
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
    /// Why it is not known.
    pub why_not: Option<String>,
}

/// What watching costs.
#[derive(Clone, Copy, Debug, Default, Serialize)]
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
        let observer = Observer::connect(record.clone(), cache)?;
        Ok(Watcher {
            observer,
            record,
            life: 0,
            has_compared_all: false,
            readings: VecDeque::new(),
            modules: None,
        })
    }

    /// One more reading.
    ///
    /// # Errors
    /// [`ClientError`]: the VM has ended, or its process does not answer.
    pub fn glance(&mut self) -> Result<Glance, ClientError> {
        let moment = self.observer.observe()?;
        if moment.books.life != self.life {
            self.readings.clear();
            self.life = moment.books.life;
            self.has_compared_all = false;
            self.modules = None;
        }
        let (reading, kernel, look, attach) = match moment.kernel {
            Ok(kernel) => {
                let account = kernel.account();
                let look = kernel.look(&account, &moment.registers);
                let mut reading = reading(&moment.books, Ok(&look));
                let scope = if self.has_compared_all { Scope::Part(COMPARED_BYTES) } else { Scope::All };
                let life = life(&self.record, self.life);
                reading.kernel.views.extend(views::integrity(&look, self.record.folder(), &life, scope));
                self.has_compared_all = true;
                if self.modules.as_ref().is_none_or(Modules::is_due) {
                    self.modules = Some(Modules { view: hidden::modules(&look), at: Instant::now() });
                }
                reading.kernel.views.push(hidden::tasks(&look));
                reading.kernel.views.extend(self.modules.as_ref().map(|known| known.view.clone()));
                let facts = KernelFacts {
                    release: Some(kernel.release().to_owned()),
                    build_id: kernel.build_id(),
                    rung: Some(kernel.rung()),
                    disputes: kernel.disputes().to_vec(),
                    kaslr_slide: Some(kernel.kaslr_slide()),
                    why_not: None,
                };
                (reading, facts, look.cost(), kernel.attach_cost())
            }
            Err(not) => {
                let facts = KernelFacts { why_not: Some(not.to_string()), ..KernelFacts::default() };
                (reading(&moment.books, Err(not)), facts, Cost::default(), Cost::default())
            }
        };
        let cost = WatchCost { look, attach, memory: moment.cost };
        let (books, vcpus) = (moment.books, moment.vcpus);
        self.readings.push_back(reading.clone());
        if self.readings.len() > READINGS_KEPT {
            self.readings.pop_front();
        }
        let rows = judge(self.readings.make_contiguous());
        Ok(Glance { books, vcpus, kernel, reading, rows, cost })
    }

    /// For questions that verdicts do not ask.
    pub fn observer(&mut self) -> &mut Observer {
        &mut self.observer
    }
}

/// Which life of which VM: a name is used again.
fn life(record: &Record, life: u64) -> String {
    let vm = record.info().map(|info| format!("{} {}", info.pid, info.started_at));
    format!("{} {life}", vm.unwrap_or_default())
}
