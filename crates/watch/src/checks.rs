//! What is looked for in a guest again and again: code that was changed, and what hides.
//!
//! All of the code is compared once. Then, for whoever watches for long, the VM's process tells which of its pages were
//! written, and only those are compared again; where the host cannot tell, and for a few readings, a part at a time.

use std::cell::Cell;
use std::time::{Duration, Instant};

use fleet::{ClientError, Record};
use insight::Look;
use insight::integrity::Scope;
use insight::verdict::View;
use x86::Gpa;

use crate::live::LiveMemory;
use crate::{hidden, views};

/// Bytes of the guest's code that are compared in one reading, after the first one has compared all, where nobody says
/// which pages were written.
const COMPARED_BYTES: u64 = 2 << 20;

/// How long a search for hidden modules that found nothing holds: it reads all memory where modules are mapped.
const MODULES_HOLD: Duration = Duration::from_secs(15);

/// Checks of one VM.
pub(crate) struct Checks {
    record: Record,
    life: u64,
    /// Whether all of the guest's code has been compared in this life.
    has_compared_all: bool,
    writes: Writes,
    modules: Option<Modules>,
}

/// How the VM's process is asked which pages were written. That lets its pager protect them, which is not worth it for
/// a few readings.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writes {
    /// Not at all.
    Unasked,
    /// Every time.
    Asked,
    /// Not any more in this life: the host cannot tell.
    Untold,
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

impl Checks {
    pub(crate) fn new(record: Record) -> Checks {
        Checks {
            record,
            life: 0,
            has_compared_all: false,
            writes: Writes::Unasked,
            modules: None,
        }
    }

    /// From now on the VM's process is asked which pages were written.
    pub(crate) fn hear_of_writes(&mut self) {
        self.writes = Writes::Asked;
    }

    /// This is the guest's life now; true if it is another than before.
    pub(crate) fn meet(&mut self, life: u64) -> bool {
        let is_new = self.life != life;
        if is_new {
            (self.life, self.has_compared_all, self.modules) = (life, false, None);
            if self.writes == Writes::Untold {
                self.writes = Writes::Asked;
            }
        }
        is_new
    }

    /// Everything that is checked, in the order of rows.
    pub(crate) fn views(&mut self, look: &Look<'_>, memory: &LiveMemory) -> Vec<View> {
        let mut all = self.integrity(look, memory);
        // A module that left the list is looked for at once, in every other way too.
        let has_left = all.iter().any(hidden::has_module_that_left);
        if has_left || self.modules.as_ref().is_none_or(Modules::is_due) {
            self.modules = Some(Modules {
                view: hidden::modules(look),
                at: Instant::now(),
            });
        }
        all.push(hidden::tasks(look));
        all.extend(self.modules.as_ref().map(|known| known.view.clone()));
        hidden::tell_once(&mut all);
        all
    }

    fn integrity(&mut self, look: &Look<'_>, memory: &LiveMemory) -> Vec<View> {
        let is_untold = Cell::new(false);
        let has_compared_all = self.has_compared_all;
        let written = |pages: &[Gpa]| {
            let told = memory.written(pages);
            is_untold.set(matches!(told, Err(ClientError::Refused { .. })));
            // Who begins, or was told nothing, compares everything; the next write is noticed.
            told.ok()
                .filter(|_| has_compared_all)
                .unwrap_or_else(|| vec![true; pages.len()])
        };
        let scope = match (self.writes, self.has_compared_all) {
            (Writes::Asked, _) => Scope::Written(&written),
            (_, true) => Scope::Part(COMPARED_BYTES),
            (_, false) => Scope::All,
        };
        let views = views::integrity(look, self.record.folder(), &self.name_of_life(), scope);
        // What could not be compared, while a guest boots, is still to be.
        self.has_compared_all = views
            .iter()
            .all(|view| view.why_not.is_none() || view.rule == views::NOT_CHECKED);
        if is_untold.get() {
            self.writes = Writes::Untold;
        }
        views
    }

    /// Which life of which VM: a name is used again.
    fn name_of_life(&self) -> String {
        let vm = self
            .record
            .info()
            .map(|info| format!("{} {}", info.pid, info.started_at));
        format!("{} {}", vm.unwrap_or_default(), self.life)
    }
}
