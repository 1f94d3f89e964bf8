//! What is looked for in a guest again and again: code that was changed, and what hides.
//!
//! All of the code is compared once. Then the VM's process tells which of its pages were written, and only those are compared
//! again; where the host cannot tell, a part at a time.

use std::cell::{Cell, RefCell};
use std::thread;
use std::time::{Duration, Instant};

use api::HostBooks;
use fleet::{ClientError, OneVm};
use host::lock::Lock;
use insight::Look;
use insight::hidden::Depth;
use insight::integrity::Scope;
use insight::modules::Stretch;
use insight::verdict::View;
use x86::Gpa;

use crate::code::Known;
use crate::live::LiveMemory;
use crate::people::Deaf;
use crate::{code, hidden, people, views};

/// Bytes of the guest's code that are compared in one reading, after the first one has compared all, where nobody says
/// which pages were written.
const COMPARED_BYTES: u64 = 2 << 20;

/// Pages of the kernel's code that are looked at by themselves, at most.
const RESTLESS_PAGES: usize = 64;

/// How long a search for hidden modules that found nothing holds: it reads all memory where modules are mapped.
const MODULES_HOLD: Duration = Duration::from_secs(15);
/// The same of a search of all memory that tasks are made from.
const SLABS_HOLD: Duration = Duration::from_secs(60);

/// Held by who compares all code of a guest: the kernel file's code, which that takes, is fifty megabytes as it is, and many guests
/// that boot at the same time are compared at the same time otherwise.
static COMPARING: Lock<()> = Lock::new(());

/// Checks of one VM.
pub(crate) struct Checks {
    vm: OneVm,
    life: u64,
    /// Whether all of the guest's code has been compared in this life.
    has_compared_all: bool,
    writes: Writes,
    /// Many readings follow, one a second.
    is_for_long: bool,
    modules: Option<Modules>,
    slabs: Option<Slabs>,
    code: Option<Code>,
    known_code: Known,
    deaf: Deaf,
    /// Pages of the kernel's code that were written and are what they were.
    rewritten: Vec<u64>,
}

/// How the VM's process is asked which pages were written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writes {
    /// Every time.
    Asked,
    /// Not any more in this life: the host cannot tell.
    Untold,
}

/// The last search for hidden modules.
struct Modules {
    view: View,
    /// Where the code of those is that are told.
    code: Vec<Stretch>,
    at: Instant,
}

impl Modules {
    /// A search that found something is repeated at once: it may have been skew.
    fn is_due(&self) -> bool {
        !self.view.findings.is_empty() || self.at.elapsed() > MODULES_HOLD
    }
}

/// The last walk through page tables.
struct Code {
    views: Vec<View>,
    at: Instant,
}

impl Code {
    fn is_due(&self) -> bool {
        let has_found = self.views.iter().any(|view| !view.findings.is_empty());
        let is_blind = self.views.iter().any(|view| view.why_not.is_some());
        has_found || is_blind || self.at.elapsed() > MODULES_HOLD
    }
}

/// The last search of the slabs of tasks.
struct Slabs {
    at: Instant,
    has_found: bool,
    /// Why it could not be made.
    why_not: Option<String>,
}

impl Slabs {
    fn is_due(&self) -> bool {
        self.has_found || self.at.elapsed() > SLABS_HOLD
    }
}

impl Checks {
    pub(crate) fn new(vm: OneVm) -> Checks {
        Checks {
            vm,
            life: 0,
            has_compared_all: false,
            writes: Writes::Asked,
            is_for_long: false,
            modules: None,
            slabs: None,
            code: None,
            known_code: Known::default(),
            deaf: Deaf::default(),
            rewritten: Vec::new(),
        }
    }

    /// Many readings follow, one a second.
    pub(crate) fn last_for_long(&mut self) {
        self.is_for_long = true;
    }

    /// Pages of the kernel's code that were written lately, by whomever, and are what they were: since anybody looked last,
    /// in a few readings; between two of many.
    pub(crate) fn restless(&self) -> &[u64] {
        &self.rewritten
    }

    /// This is the guest's life now; true if it is another than before.
    pub(crate) fn meet(&mut self, life: u64) -> bool {
        let is_new = self.life != life;
        if is_new {
            (self.life, self.has_compared_all) = (life, false);
            (self.modules, self.slabs, self.code) = (None, None, None);
            self.known_code = Known::default();
            self.deaf = Deaf::default();
            if self.writes == Writes::Untold {
                self.writes = Writes::Asked;
            }
        }
        is_new
    }

    /// Everything that is checked, in the order of rows.
    pub(crate) fn views(
        &mut self,
        look: &Look<'_>,
        memory: &LiveMemory,
        books: &HostBooks,
    ) -> Vec<View> {
        let guest_seconds = books.clock.guest_seconds;
        let mut all: Vec<View> = people::panicked(look).into_iter().collect();
        all.extend(people::hung(look, &mut self.deaf, books).filter(|_| all.is_empty()));
        all.extend(self.integrity(look, memory));
        // A module that left the list is looked for at once, in every other way too.
        let has_left = all.iter().any(hidden::has_module_that_left);
        if has_left || self.modules.as_ref().is_none_or(Modules::is_due) {
            let (view, code) = hidden::modules(look);
            let at = Instant::now();
            self.modules = Some(Modules { view, code, at });
        }
        if self.code.as_ref().is_none_or(Code::is_due) {
            let told = self.modules.as_ref().map(|known| known.code.as_slice());
            let told = told.unwrap_or_default();
            let mut views = code::views(look, &mut self.known_code, guest_seconds, told);
            views.extend(people::views(look));
            self.code = Some(Code {
                views,
                at: Instant::now(),
            });
        }
        all.extend(self.code.iter().flat_map(|known| known.views.clone()));
        all.extend(self.tasks(look));
        all.extend(self.modules.as_ref().map(|known| known.view.clone()));
        hidden::tell_once(&mut all);
        all
    }

    /// Tasks, now and then with a search of all memory that they are made from. Where that cannot be made, the books are
    /// compared, and what could not is told.
    fn tasks(&mut self, look: &Look<'_>) -> Vec<View> {
        if self.slabs.as_ref().is_none_or(Slabs::is_due) {
            let view = hidden::tasks(look, Depth::Slabs);
            let books = view
                .why_not
                .is_some()
                .then(|| hidden::tasks(look, Depth::Books));
            // A guest that cannot be looked at at all is asked again.
            let is_blind = books.as_ref().is_some_and(|books| books.why_not.is_some());
            self.slabs = (!is_blind).then(|| Slabs {
                at: Instant::now(),
                has_found: !view.findings.is_empty(),
                why_not: view.why_not.clone(),
            });
            return match books {
                Some(books) if !is_blind => vec![books, hidden::without_slabs(view.why_not)],
                _ => vec![view],
            };
        }
        let why_not = self.slabs.as_ref().and_then(|slabs| slabs.why_not.clone());
        let unseen = why_not.map(|why| hidden::without_slabs(Some(why)));
        [hidden::tasks(look, Depth::Books)]
            .into_iter()
            .chain(unseen)
            .collect()
    }

    fn integrity(&mut self, look: &Look<'_>, memory: &LiveMemory) -> Vec<View> {
        let _one = (!self.has_compared_all).then(|| COMPARING.lock());
        let is_untold = Cell::new(false);
        let told_at_first = RefCell::new(Vec::new());
        let has_compared_all = self.has_compared_all;
        let written = |pages: &[Gpa]| {
            let told = memory.written(pages);
            is_untold.set(matches!(told, Err(ClientError::Refused { .. })));
            if let (Ok(told), false) = (&told, has_compared_all) {
                let all = pages.iter().zip(told).filter(|(_, told)| **told);
                *told_at_first.borrow_mut() = all.map(|(page, _)| *page).collect();
            }
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
        let (views, rewritten) =
            views::integrity(look, self.vm.record().folder(), &self.name_of_life(), scope);
        // Who begins compares everything, and hears what was written since somebody looked last.
        let told_at_first = told_at_first.into_inner();
        let first = told_at_first.iter().filter_map(|page| look.code_at(*page));
        let mut lately: Vec<u64> = match has_compared_all {
            true => rewritten,
            false => first.collect(),
        };
        // So many, and the kernel has rewritten itself.
        lately.truncate(if lately.len() > RESTLESS_PAGES {
            0
        } else {
            RESTLESS_PAGES
        });
        if !self.is_for_long {
            lately.append(&mut self.rewritten);
        }
        self.rewritten = lately;
        // What could not be compared, while a guest boots, is still to be.
        self.has_compared_all = views
            .iter()
            .all(|view| view.why_not.is_none() || view.rule == views::NOT_CHECKED);
        if is_untold.get() {
            self.writes = Writes::Untold;
        }
        views
    }

    /// Lets time pass until the next reading, and looks at the guest's code meanwhile: at pages that were written and are
    /// what they were; where there are none, at all of it if only a few readings follow.
    pub(crate) fn wait(&self, look: &Look<'_>, time: Duration) {
        let begin = Instant::now();
        let restless = self.restless();
        // All of it, every second, is too much to read.
        let pages = (self.is_for_long || !restless.is_empty()).then_some(restless);
        if pages.is_none_or(|pages| !pages.is_empty()) {
            // What cannot be read is told by the next reading.
            let life = self.name_of_life();
            let _ = look.wait_and_see((self.vm.record().folder(), &life), pages, time);
        }
        thread::sleep(time.saturating_sub(begin.elapsed()));
    }

    /// Which life of which VM: a name is used again.
    fn name_of_life(&self) -> String {
        format!("{} {}", self.vm.id(), self.life)
    }
}
