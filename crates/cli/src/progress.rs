//! Getting the default guest, with a progress bar for a person and plain lines for a log.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use images::{Cache, CacheError, DefaultGuest, Progress};
use indicatif::{ProgressBar, ProgressStyle};

/// The default guest, downloaded if need be.
pub fn default_guest() -> Result<DefaultGuest, CacheError> {
    let cache = Cache::of_user()?;
    let mut shown = Shown::new("the default guest (kernel, busybox)");
    let guest = cache.default_guest(&mut |progress| shown.show(progress));
    if let Some(bar) = shown.bar {
        bar.finish_and_clear();
    }
    guest
}

/// passt, downloaded if need be.
pub fn passt() -> Result<PathBuf, CacheError> {
    let cache = Cache::of_user()?;
    let mut shown = Shown::new("passt");
    let passt = cache.passt(&mut |progress| shown.show(progress));
    if let Some(bar) = shown.bar {
        bar.finish_and_clear();
    }
    passt
}

struct Shown {
    what: &'static str,
    bar: Option<ProgressBar>,
    line: String,
}

impl Shown {
    fn new(what: &'static str) -> Shown {
        Shown { what, bar: None, line: String::new() }
    }

    fn show(&mut self, progress: Progress) {
        let (line, percent) = match progress {
            Progress::Waiting => (format!("waiting for another mother that downloads {}", self.what), None),
            Progress::Listing(percent) => (format!("asking apt's mirrors for {}", self.what), Some(percent)),
            Progress::Downloading(percent) => (format!("downloading {}", self.what), Some(percent)),
            Progress::Unpacking => ("unpacking".to_owned(), None),
        };
        if !std::io::stderr().is_terminal() {
            if line != self.line {
                eprintln!("mother: {line}");
            }
            self.line = line;
            return;
        }
        let bar = self.bar.get_or_insert_with(new_bar);
        bar.set_message(line);
        bar.set_position(percent.unwrap_or(100.0) as u64);
    }
}

fn new_bar() -> ProgressBar {
    let style =
        ProgressStyle::with_template("{spinner} {msg} [{bar:30}] {pos}%").expect("the template is constant");
    let bar = ProgressBar::new(100).with_style(style.progress_chars("=> "));
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}
