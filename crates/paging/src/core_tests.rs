//! The state machine against a naive model: a guest that reads and writes, a host that may refuse anything at any time.

use std::sync::Mutex;

use proptest::prelude::*;

use super::*;
use crate::base::{BaseError, CHUNK_BYTES, CHUNK_PAGES, InBase};
use crate::store::{Medium, SEGMENT_BYTES};

const PAGES: u64 = 24;

/// A page as the host has it.
#[derive(Clone, Copy)]
struct HostPage {
    /// In the memory file; a hole otherwise.
    bytes: Option<PageBytes>,
    is_protected: bool,
}

/// Guest memory and its host, which refuses the calls whose turn is in `refusals`.
struct Host {
    pages: Mutex<Vec<HostPage>>,
    missing: Mutex<bool>,
    refusals: Mutex<Vec<bool>>,
}

impl Host {
    fn new() -> Host {
        let pages = vec![
            HostPage {
                bytes: None,
                is_protected: false
            };
            PAGES as usize
        ];
        Host {
            pages: Mutex::new(pages),
            missing: Mutex::new(false),
            refusals: Mutex::default(),
        }
    }

    /// Whether the host plays along this time.
    fn ask(&self) -> io::Result<()> {
        match self.refusals.lock().unwrap().pop() {
            Some(true) => Err(io::Error::from_raw_os_error(12)),
            _ => Ok(()),
        }
    }

    fn put(&self, page: u64, bytes: PageBytes, is_protected: bool) -> io::Result<()> {
        self.ask()?;
        let place = &mut self.pages.lock().unwrap()[page as usize];
        if place.bytes.is_some() {
            return Err(Errno::EXIST.into());
        }
        *place = HostPage {
            bytes: Some(bytes),
            is_protected,
        };
        Ok(())
    }
}

impl Memory for Host {
    fn page_count(&self) -> u64 {
        PAGES
    }

    fn handle_missing(&self, missing: bool) -> io::Result<()> {
        self.ask()?;
        *self.missing.lock().unwrap() = missing;
        Ok(())
    }

    fn handle_any(&self, any: bool) -> io::Result<()> {
        self.ask()?;
        if !any {
            let mut pages = self.pages.lock().unwrap();
            pages.iter_mut().for_each(|page| page.is_protected = false);
        }
        *self.missing.lock().unwrap() = false;
        Ok(())
    }

    fn each_resident(
        &self,
        first: u64,
        count: u64,
        each: &mut dyn FnMut(u64, u64),
    ) -> io::Result<()> {
        self.ask()?;
        let pages = self.pages.lock().unwrap();
        let held = |&page: &u64| pages[page as usize].bytes.is_some();
        (first..first + count)
            .filter(held)
            .for_each(|page| each(page, 1));
        Ok(())
    }

    fn fill(&self, page: u64, bytes: &PageBytes, protected: bool) -> io::Result<()> {
        self.put(page, *bytes, protected)
    }

    fn fill_with_zeros(&self, page: u64) -> io::Result<()> {
        self.put(page, [0; PAGE_BYTES as usize], false)
    }

    fn protect(&self, first: u64, count: u64, protected: bool) -> io::Result<()> {
        let refused = self.ask();
        // A part may be done.
        let done = if refused.is_ok() { count } else { count / 2 };
        for page in first..first + done {
            self.pages.lock().unwrap()[page as usize].is_protected = protected;
        }
        refused
    }

    fn wake(&self, _: u64, _: u64) -> io::Result<()> {
        self.ask()
    }

    fn read(&self, page: u64, bytes: &mut PageBytes) -> io::Result<()> {
        self.ask()?;
        *bytes = self.pages.lock().unwrap()[page as usize]
            .bytes
            .unwrap_or([0; PAGE_BYTES as usize]);
        Ok(())
    }

    fn punch(&self, first: u64, count: u64) -> io::Result<()> {
        let refused = self.ask();
        let done = if refused.is_ok() { count } else { count / 2 };
        for page in first..first + done {
            // Protection outlives the page, as with the kernel's markers.
            self.pages.lock().unwrap()[page as usize].bytes = None;
        }
        refused
    }

    fn watch_use(&self, _: u64, _: u64) -> io::Result<()> {
        self.ask()
    }

    fn used(&self, _: u64, used: &mut [bool]) -> io::Result<()> {
        self.ask()?;
        used.fill(false);
        Ok(())
    }
}

/// A disk that refuses by the same list.
struct Disk(Arc<Host>, Mutex<Vec<u8>>);

impl Medium for Disk {
    fn read(&self, bytes: &mut [u8], position: u64) -> io::Result<()> {
        self.0.ask()?;
        bytes.copy_from_slice(
            &self.1.lock().unwrap()[position as usize..position as usize + bytes.len()],
        );
        Ok(())
    }

    fn write(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.0.ask()?;
        let mut kept = self.1.lock().unwrap();
        let at = position as usize;
        let len = kept.len().max(at + bytes.len());
        kept.resize(len, 0);
        kept[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn punch(&self, _: u64, _: u64) -> io::Result<()> {
        self.0.ask()
    }
}

/// A snapshot on such a disk: every third page is zeros.
struct Snapshot(Arc<Host>);

impl Snapshot {
    fn contents(page: u64) -> PageBytes {
        contents(if page.is_multiple_of(3) {
            0
        } else {
            page as u16 + 1
        })
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Snapshot")
    }
}

impl Base for Snapshot {
    fn stored(&self, chunk: u64) -> u16 {
        let is_stored = |bit: &u64| Snapshot::contents(chunk * CHUNK_PAGES + bit) != contents(0);
        (0..CHUNK_PAGES)
            .filter(is_stored)
            .fold(0, |set, bit| set | 1 << bit)
    }

    fn read(&self, chunk: u64, bytes: &mut [u8; CHUNK_BYTES]) -> Result<(), BaseError> {
        self.0.ask().map_err(BaseError::Read)?;
        for (page, bytes) in (chunk * CHUNK_PAGES..).zip(bytes.as_chunks_mut().0) {
            *bytes = Snapshot::contents(page);
        }
        Ok(())
    }
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, u16),
    Read(u64),
    /// The first pages of these begin to leave and are packed up; the second ones are written meanwhile; the third is
    /// given back.
    Leave(Vec<u64>, Vec<(u64, u16)>, Option<u64>),
    GiveBack(u64, u64),
    Limit(Option<u64>),
    FetchAhead(u64),
    Spill,
    Look(u64),
    Watch(u64),
    Sample(Vec<u64>),
    /// Another engine, whose accesses nobody sees.
    Aside(bool),
    Refusals(Vec<bool>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let page = 0..PAGES;
    let pages = prop::collection::vec(0..PAGES, 1..10);
    let step = prop_oneof![
        6 => (page.clone(), any::<u16>()).prop_map(|(page, value)| Step::Write(page, value % 40)),
        5 => page.clone().prop_map(Step::Read),
        6 => (pages.clone(), prop::collection::vec((0..PAGES, any::<u16>()), 0..4), prop::option::of(0..PAGES))
            .prop_map(|(pages, writes, given)| Step::Leave(pages, writes, given)),
        1 => (page.clone(), 1_u64..6).prop_map(|(first, count)| Step::GiveBack(first, count.min(PAGES - first))),
        1 => prop::option::of(2..PAGES).prop_map(Step::Limit),
        2 => page.clone().prop_map(Step::FetchAhead),
        2 => Just(Step::Spill),
        2 => page.clone().prop_map(Step::Look),
        1 => page.prop_map(Step::Watch),
        1 => pages.prop_map(Step::Sample),
        1 => any::<bool>().prop_map(Step::Aside),
        2 => prop::collection::vec(prop::bool::weighted(0.3), 0..12).prop_map(Step::Refusals),
    ];
    prop::collection::vec(step, 1..200)
}

/// Page contents: many are zeros, many are the same.
fn contents(value: u16) -> PageBytes {
    let mut bytes = [0; PAGE_BYTES as usize];
    if !value.is_multiple_of(8) {
        for (at, byte) in bytes
            .iter_mut()
            .enumerate()
            .step_by(usize::from(value) % 5 + 1)
        {
            *byte = (at as u16 ^ value) as u8;
        }
    }
    bytes
}

struct Scene {
    host: Arc<Host>,
    core: Core<Host>,
    model: Vec<PageBytes>,
    /// Pages asked for, and whether they were written since: also those that are not watched because there are too many
    /// or because the pager stands aside, of which it always says so.
    watched: std::collections::HashMap<u64, bool>,
}

impl Scene {
    fn new() -> Scene {
        let host = Arc::new(Host::new());
        let disk = Arc::new(Disk(Arc::clone(&host), Mutex::default()));
        let store = Store::new(128 * 1024, Some((disk, 4 * SEGMENT_BYTES)));
        let core = Core::new(Arc::clone(&host), store).unwrap();
        let model = vec![[0; PAGE_BYTES as usize]; PAGES as usize];
        Scene {
            host,
            core,
            model,
            watched: Default::default(),
        }
    }

    /// One that was brought back from a snapshot.
    fn brought_back() -> Scene {
        let mut scene = Scene::new();
        let base = Arc::new(Snapshot(Arc::clone(&scene.host)));
        scene.core.stand_on(base).unwrap();
        scene.model = (0..PAGES).map(Snapshot::contents).collect();
        scene
    }

    fn bring(&mut self, page: u64, in_base: &InBase) {
        if let Ok(chunk) = in_base.read()
            && let Err(broken) = self.core.arrive(page, &chunk)
        {
            assert!(broken.may_pass(), "{broken:?}");
        }
    }

    /// The guest uses a page until it is there, as a processor does. False if there is no room for it.
    fn touch(&mut self, page: u64, writes: bool) -> bool {
        for _ in 0..200 {
            let place = self.host.pages.lock().unwrap()[page as usize];
            let is_protected = match place.bytes {
                Some(_) if writes && place.is_protected => true,
                Some(_) => return true,
                None if *self.host.missing.lock().unwrap() => false,
                None => {
                    self.host.pages.lock().unwrap()[page as usize].bytes =
                        Some([0; PAGE_BYTES as usize]);
                    continue;
                }
            };
            match self.core.fault(page, is_protected) {
                Ok(Served::NoRoom) => return false,
                Ok(Served::Read(id, in_file)) => {
                    if let Ok(bytes) = in_file.read() {
                        let _ = self.core.finish(page, id, in_file.born, &bytes);
                    }
                }
                Ok(Served::ReadBase(in_base)) => self.bring(page, &in_base),
                Err(broken) => assert!(broken.may_pass(), "{broken:?}"),
                Ok(_) => {}
            }
        }
        panic!("page {page} does not come: {:?}", self.core.page(page));
    }

    fn write(&mut self, page: u64, value: u16) {
        if self.touch(page, true) {
            let bytes = contents(value);
            self.host.pages.lock().unwrap()[page as usize].bytes = Some(bytes);
            self.model[page as usize] = bytes;
            if let Some(written) = self.watched.get_mut(&page) {
                *written = true;
            }
        }
    }

    fn give_back(&mut self, first: u64, count: u64) {
        let host = Arc::clone(&self.host);
        let mut punch = || {
            host.ask()?;
            (first..first + count)
                .for_each(|page| host.pages.lock().unwrap()[page as usize].bytes = None);
            Ok(0)
        };
        if self.core.forget(first, count, &mut punch).is_ok() {
            for page in first..first + count {
                self.model[page as usize] = [0; PAGE_BYTES as usize];
                if let Some(written) = self.watched.get_mut(&page) {
                    *written = true;
                }
            }
        }
    }

    fn leave(&mut self, mut pages: Vec<u64>, writes: &[(u64, u16)], given: Option<u64>) {
        if self.core.limit().is_none() {
            return;
        }
        self.core.begin_leaving(&mut pages);
        match pack_up(&*self.host, &pages) {
            Ok(parcels) => {
                writes
                    .iter()
                    .for_each(|&(page, value)| self.write(page, value % 40));
                if let Some(page) = given {
                    self.give_back(page, 1);
                }
                let _ = self.core.commit(parcels);
            }
            Err(_) => {
                let _ = self.core.abandon(&pages);
            }
        }
        assert!(
            !self.core.pages.contains(&Page::Leaving),
            "nothing leaves for ever"
        );
    }

    fn look(&self, page: u64) {
        let bytes = match self.core.look(page) {
            Ok(bytes) => *bytes,
            Err(Looked::InFile(in_file)) => match in_file.read() {
                Ok(bytes) => bytes,
                Err(error) => return assert!(matches!(error, ReadError::Read(_))),
            },
            Err(Looked::InBase(in_base)) => match in_base.read() {
                Ok(chunk) => chunk.as_chunks().0[(page % CHUNK_PAGES) as usize],
                Err(error) => return assert!(matches!(error, BaseError::Read(_))),
            },
            Err(Looked::Broken(broken)) => return assert!(broken.may_pass(), "{broken:?}"),
        };
        assert!(bytes == self.model[page as usize], "a look at page {page}");
    }

    fn watch(&mut self, page: u64) {
        if let Ok(written) = self.core.ask_written(page, 8) {
            let known = self.watched.insert(page, false);
            // It may say written without need, never the other way round.
            assert!(
                written || known == Some(false),
                "a write to page {page} was not noticed"
            );
        } else {
            self.watched.remove(&page);
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Write(page, value) => self.write(page, value),
            Step::Read(page) => {
                if self.touch(page, false) {
                    let got = self.host.pages.lock().unwrap()[page as usize]
                        .bytes
                        .unwrap();
                    assert!(got == self.model[page as usize], "page {page} is another");
                }
            }
            Step::Leave(pages, writes, given) => self.leave(pages, &writes, given),
            Step::GiveBack(first, count) => self.give_back(first, count),
            Step::Limit(limit) => {
                let _ = self.core.set_limit(limit);
                let _ = self.core.stop_tracking_if_idle();
            }
            Step::FetchAhead(page) => {
                if self.core.room() > 0 {
                    let _ = self.core.fetch_ahead(page);
                }
            }
            Step::Spill => {
                if let Some(mut batch) = self.core.store.begin_spill() {
                    let written = batch.write().is_ok();
                    self.core.store.end_spill(batch, written);
                }
            }
            Step::Look(page) => self.look(page),
            Step::Watch(page) => self.watch(page),
            Step::Sample(pages) => {
                let _ = self.core.turn_write_sample(&pages);
            }
            Step::Aside(true) => {
                let is_aside = self.core.step_aside().unwrap_or(false);
                let away = self.core.out() + self.core.in_base();
                assert!(!is_aside || away == 0 && self.core.limit().is_none());
            }
            Step::Aside(false) => {
                let _ = self.core.come_back();
            }
            Step::Refusals(list) => *self.host.refusals.lock().unwrap() = list,
        }
        self.core.punch_again();
        self.check_accounts();
    }

    fn check_accounts(&mut self) {
        let zeros = self.core.zeros();
        let marked = self
            .core
            .pages
            .iter()
            .filter(|&&page| page == Page::Zeros)
            .count();
        assert_eq!(marked as u64, zeros);
        if !self.core.is_tracking {
            return;
        }
        let in_base = self.core.pages.iter().filter(|&&page| page == Page::Base);
        assert_eq!(in_base.count() as u64, self.core.in_base());
        assert_eq!(self.core.base().is_some(), self.core.in_base() > 0);
        let held = self
            .host
            .pages
            .lock()
            .unwrap()
            .iter()
            .filter(|page| page.bytes.is_some())
            .count() as u64;
        // Of what could not be punched, a part may be.
        let sure = self.core.taken() - self.core.unpunched.len() as u64;
        assert!(
            (sure..=self.core.taken()).contains(&held),
            "what the host holds is what we say it holds"
        );
        assert!(held <= self.core.ceiling, "and no more than it may");
        let totals = self.core.store.totals();
        let kept =
            totals.memory_pages + totals.file_pages + totals.repeating_pages + totals.shared_pages;
        assert_eq!(kept, self.core.out, "every page away is kept once");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn a_guest_never_reads_a_wrong_page(steps in steps(), is_brought_back in any::<bool>()) {
        let mut scene = if is_brought_back { Scene::brought_back() } else { Scene::new() };
        for step in steps {
            scene.step(step);
        }
        // In the end the host plays along, and every byte is there.
        scene.host.refusals.lock().unwrap().clear();
        scene.core.lift_ceiling();
        for page in 0..PAGES {
            scene.look(page);
            scene.step(Step::Read(page));
        }
    }
}

/// What comes with the page that somebody waits for are its neighbours, as far as there is room.
#[test]
fn a_guest_that_was_brought_back_has_its_memory_as_it_uses_it() {
    let mut scene = Scene::brought_back();
    assert_eq!((scene.core.in_base(), scene.core.taken()), (14, 0));
    assert!(scene.touch(1, false));
    assert_eq!(
        (scene.core.in_base(), scene.core.taken()),
        (5, 9),
        "the chunk of page 1, but for the zeros in it"
    );
    scene.give_back(16, 4);
    assert_eq!(
        scene.core.in_base(),
        2,
        "what the guest gave back need not come"
    );
    scene.core.set_limit(Some(10)).unwrap();
    assert!(scene.touch(20, false));
    assert_eq!(scene.core.in_base(), 1, "there is no room for neighbours");
    assert!(!scene.touch(22, false));
    scene.leave(vec![1, 2], &[], None);
    assert!(scene.touch(22, false));
    scene.look(23);
    scene.look(1);
}

#[test]
fn nothing_is_paged_and_everything_counts_as_written_while_it_stands_aside() {
    let mut scene = Scene::new();
    scene.core.set_limit(Some(8)).unwrap();
    (0..8).for_each(|page| scene.write(page, 3));
    scene.leave(vec![1, 2, 3], &[], None);
    assert!(!scene.core.step_aside().unwrap(), "there is a limit");
    scene.core.set_limit(None).unwrap();
    assert!(!scene.core.step_aside().unwrap(), "pages are away");
    (1..4).for_each(|page| assert!(scene.touch(page, false)));
    scene.watch(2);
    assert!(!scene.core.ask_written(2, 8).unwrap());
    assert!(scene.core.step_aside().unwrap());
    for _ in 0..2 {
        assert!(scene.core.ask_written(2, 8).unwrap());
    }
    scene.core.set_limit(Some(8)).unwrap_err();
    scene.core.come_back().unwrap();
    assert!(scene.core.ask_written(2, 8).unwrap());
    assert!(!scene.core.ask_written(2, 8).unwrap());
    scene.core.set_limit(Some(8)).unwrap();
}

/// The limit is one for real: a guest that wants more waits.
#[test]
fn no_more_pages_come_than_the_limit_allows() {
    let mut scene = Scene::new();
    scene.core.set_limit(Some(5)).unwrap();
    for page in 0..5 {
        scene.write(page, 9);
    }
    assert!(!scene.touch(7, true), "there is no room");
    scene.leave(vec![3], &[], None);
    assert!(scene.touch(7, true), "there is now");
    assert!(!scene.touch(3, false));
    scene.core.set_limit(Some(6)).unwrap();
    assert!(scene.touch(3, false));
}

/// What is asked for meanwhile takes no place among the pages that are watched.
#[test]
fn what_is_asked_for_while_it_stands_aside_is_not_watched() {
    let mut scene = Scene::new();
    (0..5).for_each(|page| scene.watch(page));
    assert!(scene.core.step_aside().unwrap());
    (5..8).for_each(|page| scene.watch(page));
    scene.core.come_back().unwrap();
    for page in 8..11 {
        assert!(scene.core.ask_written(page, 8).unwrap());
        assert!(!scene.core.ask_written(page, 8).unwrap());
    }
    for _ in 0..2 {
        assert!(scene.core.ask_written(11, 8).unwrap(), "there are eight");
    }
}

/// The kernel fills holes itself again when there is no limit, and has to tell of those that are watched.
#[test]
fn a_write_is_noticed_though_the_limit_was_lifted_meanwhile() {
    let mut scene = Scene::new();
    scene.core.set_limit(Some(2)).unwrap();
    assert!(
        scene.core.ask_written(9, 8).unwrap(),
        "the first time nobody knows"
    );
    scene.core.set_limit(None).unwrap();
    scene.core.stop_tracking_if_idle().unwrap();
    assert!(!scene.core.ask_written(9, 8).unwrap());
    scene.write(9, 1);
    assert!(scene.core.ask_written(9, 8).unwrap());
}

/// What was given once stays given when there is no limit any more.
#[test]
fn pages_of_zeros_are_still_known_when_the_limit_is_lifted() {
    let mut scene = Scene::new();
    (0..10).for_each(|page| scene.write(page, 8));
    scene.core.set_limit(Some(20)).unwrap();
    scene.leave((0..10).collect(), &[], None);
    assert_eq!((scene.core.zeros(), scene.core.taken()), (10, 0));
    scene.core.set_limit(None).unwrap();
    scene.core.stop_tracking_if_idle().unwrap();
    assert!(!scene.core.is_tracking);
    assert_eq!(scene.core.zeros(), 10);
    scene.write(3, 9);
    assert!(scene.touch(4, false));
    assert_eq!(scene.core.zeros(), 8, "what is used is in memory");
    let given_back = scene.core.forget(4, 3, &mut || Ok(0)).unwrap();
    assert_eq!(
        (scene.core.zeros(), given_back),
        (6, 2 * PAGE_BYTES),
        "one of the three was in memory"
    );
    scene.core.set_limit(Some(20)).unwrap();
    assert_eq!(scene.core.zeros(), 6);
}

/// A limit below what is resident is reached from above, and never missed again.
#[test]
fn a_lower_limit_is_approached_without_stopping_the_guest() {
    let mut scene = Scene::new();
    (0..10).for_each(|page| scene.write(page, 9));
    scene.core.set_limit(Some(4)).unwrap();
    assert_eq!(scene.core.excess(0), 6);
    assert!(
        !scene.touch(20, true),
        "nothing comes before something has gone"
    );
    scene.leave(vec![0, 1], &[], None);
    assert!(
        !scene.touch(20, true),
        "and what has gone does not make room above the limit"
    );
    scene.leave(vec![2, 3, 4, 5, 6], &[], None);
    assert!(scene.touch(20, true));
}
