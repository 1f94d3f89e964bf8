//! Getting the default guest, with a progress bar for a person and plain lines for a log.

use std::io::IsTerminal;
use std::time::Duration;

use images::{Cache, CacheError, DefaultGuest, Progress};
use indicatif::{ProgressBar, ProgressStyle};

/// The default guest, downloaded if need be.
pub fn default_guest() -> Result<DefaultGuest, CacheError> {
    let cache = Cache::of_user()?;
    let mut shown = Shown { bar: None, line: "" };
    let guest = cache.default_guest(&mut |progress| shown.show(progress));
    if let Some(bar) = shown.bar {
        bar.finish_and_clear();
    }
    guest
}

struct Shown {
    bar: Option<ProgressBar>,
    line: &'static str,
}

impl Shown {
    fn show(&mut self, progress: Progress) {
        let (line, percent) = match progress {
            Progress::Waiting => ("waiting for another mother that downloads the default guest", None),
            Progress::Listing(percent) => ("asking apt's mirrors for Debian's kernel", Some(percent)),
            Progress::Downloading(percent) => {
                ("downloading the default guest (kernel, busybox)", Some(percent))
            }
            Progress::Unpacking => ("unpacking", None),
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
