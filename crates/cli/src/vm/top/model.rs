//! What is on the screen, and what keys do to it.

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use api::{VmName, VmState};
use insight::tasks::Process;
use insight::verdict::{Belief, Row, Verdict, judge_host, worst};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::super::everybody::used;
use super::super::given;
use super::gather::{Found, Taken};

/// Points of a trend.
pub(super) const TREND: usize = 8;

/// What comes after a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum After {
    Stay,
    Leave,
}

/// What guests are sorted by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Column {
    #[default]
    Name,
    Cpu,
    Claim,
    Kernel,
    Held,
    Given,
    Verdict,
}

const COLUMNS: [Column; 7] = [
    Column::Name,
    Column::Cpu,
    Column::Claim,
    Column::Kernel,
    Column::Held,
    Column::Given,
    Column::Verdict,
];

/// Which page is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Page {
    #[default]
    Guests,
    Processes,
    Truth,
}

/// A guest as it is shown.
#[derive(Clone, Debug)]
pub(super) struct Guest {
    pub(super) name: VmName,
    pub(super) state: VmState,
    /// Of one CPU, in percent.
    pub(super) cpu: Option<f64>,
    pub(super) claim: Option<u64>,
    pub(super) kernel: Option<u64>,
    pub(super) held: Option<u64>,
    pub(super) given: Option<u64>,
    pub(super) verdict: Option<Verdict>,
    pub(super) trend: VecDeque<u64>,
    /// The trend is of the working set, not of what is held.
    pub(super) is_working_set: bool,
    pub(super) rows: Vec<Row>,
    /// What it was given, of a guest with a limit.
    pub(super) given_lines: Option<String>,
    pub(super) processes: Option<Result<Vec<Process>, String>>,
    /// Why nothing is known.
    pub(super) trouble: Option<String>,
    /// CPU time of its vCPUs, and when it was that.
    run: Option<(Instant, f64)>,
}

/// The whole screen.
#[derive(Clone, Debug, Default)]
pub(super) struct Screen {
    guests: BTreeMap<VmName, Guest>,
    pub(super) sort: Column,
    pub(super) is_reversed: bool,
    selected: Option<VmName>,
    pub(super) page: Page,
    /// First line of a long page.
    pub(super) scroll: u16,
    pub(super) trouble: Option<String>,
    host_bytes: u64,
}

impl Screen {
    /// Takes news in.
    pub(super) fn hear(&mut self, taken: Taken) {
        self.trouble = taken.trouble;
        self.host_bytes = taken.host_bytes;
        self.guests.retain(|name, _| taken.found.contains_key(name));
        for (name, found) in taken.found {
            let known = self.guests.remove(&name);
            self.guests.insert(name.clone(), guest(name, found, known));
        }
        if self
            .selected
            .as_ref()
            .is_none_or(|name| !self.guests.contains_key(name))
        {
            self.selected = self.sorted().first().map(|guest| guest.name.clone());
            self.page = Page::Guests;
        }
    }

    /// Guests in their order.
    pub(super) fn sorted(&self) -> Vec<&Guest> {
        let mut guests: Vec<&Guest> = self.guests.values().collect();
        guests.sort_by(|a, b| compare(self.sort, a, b));
        if self.is_reversed {
            guests.reverse();
        }
        guests
    }

    /// What all of them believe together, against what the host has.
    pub(super) fn host(&self) -> Row {
        let belief = |guest: &Guest| {
            Some(Belief {
                configured_bytes: guest.given?,
                resident_bytes: guest.held?,
            })
        };
        judge_host(
            &self.guests.values().filter_map(belief).collect::<Vec<_>>(),
            self.host_bytes,
        )
    }

    /// The chosen one.
    pub(super) fn chosen(&self) -> Option<&Guest> {
        self.guests.get(self.selected.as_ref()?)
    }

    /// Whose processes are wanted.
    pub(super) fn wanted(&self) -> Option<&VmName> {
        self.selected
            .as_ref()
            .filter(|_| self.page == Page::Processes)
    }

    /// A key was pressed.
    pub(super) fn press(&mut self, key: KeyEvent) -> After {
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if is_control => return After::Leave,
            KeyCode::Char('q') | KeyCode::Esc if self.page == Page::Guests => return After::Leave,
            KeyCode::Char('q' | 'b') | KeyCode::Esc | KeyCode::Backspace | KeyCode::Left => {
                self.turn_to(Page::Guests)
            }
            KeyCode::Char('p') | KeyCode::Enter | KeyCode::Right => self.turn_to(Page::Processes),
            KeyCode::Char('t') => self.turn_to(Page::Truth),
            KeyCode::Char('s') => self.sort = next(self.sort, 1),
            KeyCode::Char('S') => self.sort = next(self.sort, COLUMNS.len() - 1),
            KeyCode::Char('r') => self.is_reversed = !self.is_reversed,
            KeyCode::Down | KeyCode::Char('j') => self.go(true),
            KeyCode::Up | KeyCode::Char('k') => self.go(false),
            KeyCode::PageDown | KeyCode::Char(' ') => self.scroll = self.scroll.saturating_add(10),
            KeyCode::PageUp => self.scroll = self.scroll.saturating_sub(10),
            _ => {}
        }
        After::Stay
    }

    fn turn_to(&mut self, page: Page) {
        if self.selected.is_some() || page == Page::Guests {
            (self.page, self.scroll) = (page, 0);
        }
    }

    /// One on: the next guest, or the next line of a long page.
    fn go(&mut self, is_down: bool) {
        if self.page != Page::Guests {
            self.scroll = if is_down {
                self.scroll.saturating_add(1)
            } else {
                self.scroll.saturating_sub(1)
            };
            return;
        }
        let names: Vec<VmName> = self
            .sorted()
            .iter()
            .map(|guest| guest.name.clone())
            .collect();
        let at = names
            .iter()
            .position(|name| Some(name) == self.selected.as_ref())
            .unwrap_or(0);
        let to = if is_down {
            at + 1
        } else {
            at.saturating_sub(1)
        };
        if let Some(name) = names.get(to) {
            self.selected = Some(name.clone());
        }
    }
}

fn next(column: Column, steps: usize) -> Column {
    let at = COLUMNS
        .iter()
        .position(|&other| other == column)
        .unwrap_or(0);
    COLUMNS[(at + steps) % COLUMNS.len()]
}

/// Numbers the largest first, names from a on; what is not known comes last.
fn compare(column: Column, a: &Guest, b: &Guest) -> Ordering {
    let by_name = || a.name.cmp(&b.name);
    let down = |a: Option<u64>, b: Option<u64>| b.cmp(&a);
    let order = match column {
        Column::Name => by_name(),
        Column::Cpu => b.cpu.unwrap_or(-1.0).total_cmp(&a.cpu.unwrap_or(-1.0)),
        Column::Claim => down(a.claim, b.claim),
        Column::Kernel => down(a.kernel, b.kernel),
        Column::Held => down(a.held, b.held),
        Column::Given => down(a.given, b.given),
        Column::Verdict => b.verdict.cmp(&a.verdict),
    };
    order.then_with(by_name)
}

/// Of one CPU, between two readings of how many seconds all vCPUs ran.
fn cpu_percent(before: Option<(Instant, f64)>, now: Option<(Instant, f64)>) -> Option<f64> {
    let (then, before) = before?;
    let (at, run) = now?;
    (at > then).then(|| (run - before).max(0.0) * 100.0 / (at - then).as_secs_f64())
}

fn guest(name: VmName, found: Found, known: Option<Guest>) -> Guest {
    let (run, last_cpu, mut trend) = known.map_or((None, None, VecDeque::new()), |known| {
        (known.run, known.cpu, known.trend)
    });
    let blank = Guest {
        name,
        state: found.state,
        cpu: None,
        claim: None,
        kernel: None,
        held: None,
        given: None,
        verdict: None,
        trend: VecDeque::new(),
        is_working_set: false,
        rows: Vec::new(),
        given_lines: None,
        processes: found.processes,
        trouble: None,
        run,
    };
    let assessment = match found.assessment {
        Ok(assessment) => assessment,
        Err(trouble) => {
            return Guest {
                trend,
                trouble: Some(trouble),
                ..blank
            };
        }
    };
    let books = &assessment.books;
    let now = books
        .vcpus
        .iter()
        .map(|vcpu| vcpu.run_seconds)
        .sum::<Option<f64>>()
        .map(|run| (found.at, run));
    let is_new = run.is_none_or(|(at, _)| at != found.at);
    // The same news as before say nothing new.
    let cpu = cpu_percent(run, now).or(last_cpu.filter(|_| !is_new));
    let working_set = books
        .working_set
        .map(|estimate| estimate.value.max(0.0) as u64);
    let held = books.memory.resident_bytes;
    if is_new {
        trend.push_back(working_set.unwrap_or(held));
        if trend.len() > TREND {
            trend.pop_front();
        }
    }
    let (claim, kernel) = used(&assessment);
    Guest {
        cpu,
        claim,
        kernel,
        held: Some(held),
        given: Some(books.memory.configured_bytes),
        verdict: Some(worst(&assessment.rows)),
        trend,
        is_working_set: working_set.is_some(),
        given_lines: given::lines(&books.memory, books.working_set),
        rows: assessment.rows,
        trouble: assessment.kernel.why_not,
        run: now,
        ..blank
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn screen(guests: &[(&str, u64, Verdict)]) -> Screen {
        let mut screen = Screen::default();
        for &(name, held, verdict) in guests {
            let name = VmName::new(name).unwrap();
            let found = Found {
                at: Instant::now(),
                state: VmState::Running,
                assessment: Err("no".to_owned()),
                processes: None,
            };
            let guest = Guest {
                held: Some(held),
                verdict: Some(verdict),
                ..guest(name.clone(), found, None)
            };
            screen.guests.insert(name, guest);
        }
        screen.selected = screen.sorted().first().map(|guest| guest.name.clone());
        screen
    }

    fn press(screen: &mut Screen, keys: &str) -> After {
        let code = |key| match key {
            '\n' => KeyCode::Enter,
            'v' => KeyCode::Down,
            '^' => KeyCode::Up,
            key => KeyCode::Char(key),
        };
        let press = |key| screen.press(KeyEvent::new(code(key), KeyModifiers::NONE));
        keys.chars().map(press).last().unwrap()
    }

    #[test]
    fn guests_are_sorted_by_what_was_asked_for() {
        let all = [
            ("b", 7, Verdict::Agrees),
            ("a", 5, Verdict::Costs),
            ("c", 6, Verdict::Contradicts),
        ];
        let check = |keys: &str, expected: &str| {
            let mut screen = screen(&all);
            press(&mut screen, keys);
            let order: String = screen
                .sorted()
                .iter()
                .map(|guest| guest.name.as_str())
                .collect();
            assert_eq!(order, expected, "{keys}");
        };
        check("^", "abc");
        check("r", "cba");
        check("ssss", "bca");
        check("S", "cab");
        check("Sr", "bac");
    }

    #[test]
    fn keys_lead_to_a_guests_processes_and_back() {
        let mut screen = screen(&[("a", 1, Verdict::Agrees), ("b", 2, Verdict::Agrees)]);
        let name = |screen: &Screen| screen.chosen().unwrap().name.to_string();
        press(&mut screen, "^");
        assert_eq!((name(&screen), screen.wanted()), ("a".to_owned(), None));
        press(&mut screen, "vvv");
        assert_eq!(name(&screen), "b");
        assert_eq!(press(&mut screen, "\n"), After::Stay);
        assert_eq!(
            (screen.page, screen.wanted().map(VmName::as_str)),
            (Page::Processes, Some("b"))
        );
        press(&mut screen, "t");
        assert_eq!((screen.page, screen.wanted()), (Page::Truth, None));
        assert_eq!(press(&mut screen, "q"), After::Stay);
        assert_eq!(
            (screen.page, press(&mut screen, "q")),
            (Page::Guests, After::Leave)
        );
    }

    #[test]
    fn a_screen_without_guests_has_nothing_to_turn_to() {
        let mut screen = Screen::default();
        press(&mut screen, "\nv^tsr");
        assert_eq!(
            (screen.page, screen.chosen().is_none()),
            (Page::Guests, true)
        );
    }
}
