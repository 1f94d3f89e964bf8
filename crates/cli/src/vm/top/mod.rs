//! `mother top`: all guests on one screen, claim beside truth.
//!
//! Threads gather ([`gather`]), one for each VM, so that one that does not answer holds up nobody; what is shown and what
//! keys do is a value ([`model`]); [`draw`] makes a screen of it. All of that is done in a jail; the terminal is outside ([`keys`]).

mod draw;
mod gather;
mod keys;
mod model;

use std::io;
use std::thread;
use std::time::Duration;

use clap::Args;
use fleet::Inventory;
use ratatui::backend::CrosstermBackend;
use ratatui::{Terminal, TerminalOptions, Viewport};
use rustix::event::{PollFd, PollFlags};
use signal_hook::consts::{SIGHUP, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use self::keys::Taken;
use crate::failure::Failure;
use crate::observed::{self, Guests, Observation};

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

impl TopArguments {
    /// The guests that this shows, and the terminal.
    pub fn looks_into(&self) -> Result<Observation, Failure> {
        Ok(Observation {
            screen: Some(Box::new(Taken::take()?)),
            ..Observation::to_see(Guests::All)
        })
    }
}

/// Shows guests until somebody has seen enough; the exit status.
pub fn top(_arguments: &TopArguments) -> Result<u8, Failure> {
    let failed = |source| Failure::Terminal { act: "use", source };
    let inventory = Inventory::of_user()?;
    let mut typed = keys::Keys::of(observed::keys().map_err(failed)?);
    let size = observed::about().map_or((80, 24), |about| about.size);
    let news = gather::start(inventory, super::observe::cache());
    let backend = CrosstermBackend::new(io::stdout());
    let viewport = Viewport::Fixed(keys::area(size));
    let terminal = Terminal::with_options(backend, TerminalOptions { viewport });
    let mut terminal = terminal.map_err(failed)?;
    let mut screen = model::Screen::default();
    let mut shown = || -> io::Result<()> {
        loop {
            screen.hear(news.take());
            news.ask_for(screen.wanted());
            terminal.draw(|frame| draw::draw(frame, &screen))?;
            let Some(typed) = typed.next(TICK)? else {
                continue;
            };
            if let keys::Typed::Size(columns, rows) = typed {
                terminal.resize(keys::area((columns, rows)))?;
            }
            if let Some(key) = typed.key()
                && screen.press(key) == model::After::Leave
            {
                return Ok(());
            }
        }
    };
    shown().map_err(failed)?;
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
