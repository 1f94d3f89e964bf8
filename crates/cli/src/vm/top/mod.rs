//! `mother top`: all guests on one screen, claim beside truth.
//!
//! Threads gather ([`gather`]), one for each VM, so that one that does not answer holds up nobody; what is shown and what
//! keys do is a value ([`model`]); [`draw`] makes a screen of it.

mod draw;
mod gather;
mod model;

use std::io::{self, IsTerminal};
use std::thread;
use std::time::Duration;

use clap::Args;
use fleet::Inventory;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use rustix::event::{PollFd, PollFlags};
use signal_hook::consts::{SIGHUP, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use crate::failure::Failure;

/// How long a key is waited for before the screen is drawn again.
const TICK: Duration = Duration::from_millis(250);

/// `mother top`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
CLAIM is what the guest's balloon driver says is used, KERNEL what its kernel counts,
HELD what the host holds of its memory, GIVEN what the guest believes to have. TREND is the
working set (w) where it is sampled, else what is held (r). VERDICT is the worst of
`mother truth`.

Keys:
  Up, Down, j, k  choose a guest      s, S  sort by the next column, the last
  Enter, p        its processes       r     the other way round
  t               its table of truth  q     back, or leave

Examples:
  mother top")]
pub struct TopArguments {}

/// Shows guests until somebody has seen enough; the exit status.
pub fn top(_arguments: &TopArguments) -> Result<u8, Failure> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        let source = io::Error::other(
            "`mother top` is for people; for programs there is `mother truth --json NAME`",
        );
        return Err(Failure::Terminal { act: "use", source });
    }
    let inventory = Inventory::of_user()?;
    let failed = |source| Failure::Terminal { act: "use", source };
    leave_when_told().map_err(Failure::Signals)?;
    let news = gather::start(inventory, super::observe::cache());
    let mut terminal = ratatui::try_init().map_err(failed)?;
    let mut screen = model::Screen::default();
    let mut shown = || -> io::Result<()> {
        loop {
            screen.hear(news.take());
            news.ask_for(screen.wanted());
            terminal.draw(|frame| draw::draw(frame, &screen))?;
            if !event::poll(TICK)? {
                continue;
            }
            if let Event::Key(key) = event::read()?
                && key.kind == KeyEventKind::Press
                && screen.press(key) == model::After::Leave
            {
                break;
            }
        }
        Ok(())
    };
    let result = shown();
    ratatui::restore();
    result.map_err(failed)?;
    Ok(0)
}

/// Ends the process, the terminal as it was, on a signal or when the terminal has gone. Threads of their own do it:
/// who waits for keys of a terminal that has gone reads its end again and again and never comes back.
fn leave_when_told() -> io::Result<()> {
    let die = |signal| {
        let _ = ratatui::try_restore();
        let _ = emulate_default_handler(signal);
    };
    let mut signals = Signals::new([SIGTERM, SIGHUP])?;
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || signals.forever().for_each(die))?;
    let watch = move || {
        let stdin = io::stdin();
        // No event is asked for: what is left is that the other side has gone.
        while !matches!(
            rustix::event::poll(&mut [PollFd::new(&stdin, PollFlags::empty())], None),
            Ok(1..) | Err(rustix::io::Errno::BADF)
        ) {}
        die(SIGHUP);
    };
    thread::Builder::new()
        .name("terminal".to_owned())
        .spawn(watch)
        .map(drop)
}
