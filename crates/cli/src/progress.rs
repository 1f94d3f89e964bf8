//! Getting the default guest, with a progress bar for a person and plain lines for a log.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use api::JailWish;
use images::{
    Amount, BootError, BootOnto, Bootable, Cache, CacheError, DefaultGuest, Image, Progress,
    RunFolder, Unit,
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};
use insight::Loaded;
use insight::amounts::size_in_words;
use registry::{Pulled, Reference, Shelf, When};
use runner::{Reader, Trouble};

use crate::failure::{Failure, ImageFailure};
use crate::observed::{self, profiles};

/// The default guest, downloaded if need be. What observers need to know of a kernel that was just downloaded is kept with it:
/// it takes a part of the time that the download took, and the first look does not wait for it.
pub fn default_guest() -> Result<DefaultGuest, CacheError> {
    let cache = Cache::of_user()?;
    let mut shown = Shown::new("the default guest (kernel, busybox)", &PACKAGES);
    let mut is_new = false;
    let guest = cache.default_guest(&mut |progress| {
        is_new |= matches!(progress, Progress::Downloading(_));
        shown.show(progress);
    })?;
    if is_new && let Ok(kernel) = File::open(&guest.kernel) {
        // Otherwise the first look does it, and says why it cannot.
        let _ = Loaded::keep(&kernel, &profiles(&cache));
    }
    Ok(guest)
}

/// passt, downloaded if need be.
pub fn passt() -> Result<PathBuf, CacheError> {
    let cache = Cache::of_user()?;
    let mut shown = Shown::new("passt", &PACKAGES);
    cache.passt(&mut |progress| shown.show(progress))
}

/// The image made of a container image's layers, which are read in a jail.
pub fn container(
    cache: &Cache,
    path: &Path,
    wanted: Option<&str>,
    jail: JailWish,
) -> Result<Image, Failure> {
    let reader = Reader::start(jail).map_err(Trouble::from)?;
    let mut shown = Shown::new("the container image", &CONTAINER);
    let image = cache.container(path, wanted, &reader, &mut |progress| shown.show(progress));
    let image = image.map_err(|source| ImageFailure::Container {
        path: path.to_owned(),
        source,
    });
    Ok(image?)
}

/// What a disk's kernel and initrd are called in the folder of the run that they are copied to.
pub const BOOT_KERNEL: &str = "kernel";
/// See [`BOOT_KERNEL`].
pub const BOOT_INITRD: &str = "initrd";

/// What a disk starts by its own boot entries, which a process in a jail reads; kernel and initrd are in the run's folder then.
pub fn boot_entry(
    image: &Path,
    run: &RunFolder,
    jail: JailWish,
) -> Result<Result<Bootable, BootError>, Failure> {
    let open = |path: &Path, source| ImageFailure::Open {
        path: path.to_owned(),
        source,
    };
    let file = File::open(image).map_err(|source| open(image, source))?;
    let empty = |name: &str| {
        let path = run.path().join(name);
        let file = File::create_new(&path);
        file.map_err(|source| open(&path, source))
    };
    let onto = BootOnto {
        kernel: empty(BOOT_KERNEL)?,
        initrd: empty(BOOT_INITRD)?,
    };
    let reader = Reader::start(jail).map_err(Trouble::from)?;
    Ok(reader.boot(&file, &onto))
}

/// The image of a name in a registry, pulled if need be, and made of its layers, which are read in a jail.
pub fn pulled(
    cache: &Cache,
    reference: &Reference,
    when: When,
    jail: JailWish,
) -> Result<Image, Failure> {
    let pulled = pull(cache, reference, when)?;
    let shelf = Shelf::of(cache);
    if let Some(image) = shelf.image(&pulled) {
        return Ok(image);
    }
    let reader = Reader::start(jail).map_err(Trouble::from)?;
    let mut shown = Shown::new(&pulled.name, &CONTAINER);
    let image = cache.container_of(shelf.input(&pulled), &reader, &mut |it| shown.show(it));
    let image = image.map_err(|source| ImageFailure::Pulled {
        name: pulled.name.clone(),
        source,
    })?;
    shelf.note_made(&pulled, &image)?;
    Ok(image)
}

/// What a name in a registry leads to, pulled if need be.
pub fn pull(cache: &Cache, reference: &Reference, when: When) -> Result<Pulled, Failure> {
    let name = reference.to_string();
    let mut shown = Shown::new(&name, &PULL);
    let pulled = registry::pull(cache, reference, when, &mut |it| shown.show(it));
    Ok(pulled.map_err(|source| ImageFailure::Registry { name, source })?)
}

/// What is done one after the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    Ask,
    List,
    Download,
    Unpack,
    Assemble,
    Layers,
    Write,
    Configure,
    Finish,
}

/// The steps to packages of the default guest or passt.
const PACKAGES: [Step; 3] = [Step::List, Step::Download, Step::Unpack];
/// The steps to an image of a registry.
const PULL: [Step; 2] = [Step::Ask, Step::Download];
/// The steps to the image of a container image.
const CONTAINER: [Step; 2] = [Step::Layers, Step::Write];
/// The steps to a Debian image.
pub const DEBIAN: [Step; 6] = [
    Step::List,
    Step::Download,
    Step::Assemble,
    Step::Write,
    Step::Configure,
    Step::Finish,
];

/// A part of a step's work that is too small to tell from it how long the rest will take, and a time that is too short.
const TELLING: (f64, Duration) = (0.02, Duration::from_secs(2));

/// What a step is called, where it is of `what`; which one it is, and how much of it is done.
fn about(progress: Progress, what: &str) -> (String, Option<Step>, Option<Amount>) {
    let (words, step, amount) = match progress {
        Progress::Waiting => {
            let words = "waiting for another mother that makes or downloads something";
            return (words.to_owned(), None, None);
        }
        Progress::Asking => ("asking the registry for", Step::Ask, None),
        Progress::Listing(amount) => ("asking apt's mirrors for", Step::List, Some(amount)),
        Progress::Downloading(amount) => ("downloading", Step::Download, Some(amount)),
        Progress::Unpacking => ("unpacking", Step::Unpack, None),
        Progress::Assembling(amount) => ("unpacking", Step::Assemble, Some(amount)),
        Progress::Layers(amount) => ("reading the layers of", Step::Layers, Some(amount)),
        Progress::WritingDisk => ("writing the disk of", Step::Write, None),
        Progress::Configuring(amount) => {
            let words = "configuring packages in a guest".to_owned();
            return (words, Some(Step::Configure), Some(amount));
        }
        Progress::Finishing => {
            let words = "waiting for the guest to power off, and for the disk".to_owned();
            return (words, Some(Step::Finish), None);
        }
    };
    (format!("{words} {what}"), Some(step), amount)
}

/// How much there is, for a log: it is told once.
fn whole(amount: Option<Amount>) -> String {
    match amount {
        Some(Amount { total, unit, .. }) if total > 0 => match unit {
            Unit::Bytes => format!(" ({})", size_in_words(total)),
            Unit::Packages => format!(" ({total} packages)"),
            Unit::Layers => format!(" ({total} layers)"),
            Unit::Parts => String::new(),
        },
        _ => String::new(),
    }
}

/// How much of it is done, for a person, and how long the rest takes if it goes on like this.
fn part(amount: Amount, passed: Duration) -> String {
    let done = match amount.unit {
        Unit::Bytes => format!(
            ", {} of {}",
            size_in_words(amount.done),
            size_in_words(amount.total)
        ),
        Unit::Packages | Unit::Layers => format!(", {} of {}", amount.done, amount.total),
        Unit::Parts => String::new(),
    };
    let fraction = amount.fraction();
    if fraction < TELLING.0 || passed < TELLING.1 {
        return done;
    }
    let left = passed.as_secs_f64() * (1.0 - fraction) / fraction;
    // What is as good as done and still goes on is no longer told by this.
    if left < 1.0 {
        return done;
    }
    format!("{done}, {left:.0} s left")
}

/// Shows how far something is: a bar for a person, lines for a log.
pub struct Shown {
    what: String,
    steps: &'static [Step],
    bar: Option<ProgressBar>,
    /// What is shown, and since when.
    line: String,
    since: Instant,
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Shown {
    /// Nothing of `what` is shown yet, which takes these steps.
    pub fn new(what: &str, steps: &'static [Step]) -> Shown {
        Shown {
            what: what.to_owned(),
            steps,
            bar: None,
            line: String::new(),
            since: Instant::now(),
        }
    }

    /// Shows this from now on.
    pub fn show(&mut self, progress: Progress) {
        let (words, step, amount) = about(progress, &self.what);
        let place = step.and_then(|step| self.steps.iter().position(|other| *other == step));
        let line = match place {
            Some(index) => format!("{} of {}: {words}", index + 1, self.steps.len()),
            None => words,
        };
        let is_new = line != self.line;
        if is_new {
            self.line = line;
            self.since = Instant::now();
        }
        if !std::io::stderr().is_terminal() {
            if is_new {
                eprintln!("mother: {}{}", self.line, whole(amount));
            }
            return;
        }
        let bar = self.bar.get_or_insert_with(new_bar);
        if is_new {
            bar.set_style(style(amount.is_some()));
            bar.reset_elapsed();
        }
        let part = amount.map_or(String::new(), |amount| part(amount, self.since.elapsed()));
        bar.set_message(format!("{}{part}", self.line));
        // A step that is not over is not shown as if it were.
        let position = amount.map_or(0.0, |amount| amount.fraction().min(0.99) * 100.0);
        bar.set_position(position as u64);
    }
}

/// Shows how much of something is done that takes seconds: to a person alone.
pub struct Measured {
    what: String,
    total: u64,
    since: Instant,
    bar: Option<ProgressBar>,
}

impl Measured {
    /// Nothing is done of so many bytes.
    pub fn new(what: &str, total: u64) -> Measured {
        let is_heard = match observed::about() {
            Some(about) => about.is_heard.is_some(),
            None => io::stderr().is_terminal(),
        };
        let bar = is_heard.then(new_bar);
        if let Some(bar) = &bar {
            bar.set_style(style(true));
        }
        Measured {
            what: what.to_owned(),
            total,
            since: Instant::now(),
            bar,
        }
    }

    /// So much is done now.
    pub fn show(&mut self, done: u64) {
        let Some(bar) = &self.bar else { return };
        let amount = Amount {
            done,
            total: self.total,
            unit: Unit::Bytes,
        };
        let part = part(amount, self.since.elapsed());
        bar.set_message(format!("{}{part}", self.what));
        bar.set_position((amount.fraction().min(0.99) * 100.0) as u64);
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// A terminal behind a pipe of ours, which is so wide.
#[derive(Debug)]
struct Piped(u16);

impl Piped {
    fn say(&self, text: &str) -> io::Result<()> {
        io::stderr().write_all(text.as_bytes())
    }
}

impl TermLike for Piped {
    fn width(&self) -> u16 {
        self.0
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.say(&format!("\x1b[{n}A"))
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.say(&format!("\x1b[{n}B"))
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.say(&format!("\x1b[{n}C"))
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.say(&format!("\x1b[{n}D"))
    }

    fn write_line(&self, line: &str) -> io::Result<()> {
        self.say(&format!("{line}\n"))
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.say(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.say("\r\x1b[2K")
    }

    fn flush(&self) -> io::Result<()> {
        io::stderr().flush()
    }
}

fn new_bar() -> ProgressBar {
    let width = observed::about().and_then(|about| about.is_heard);
    let bar = match width {
        Some(width) => {
            let terminal = ProgressDrawTarget::term_like_with_hz(Box::new(Piped(width)), 10);
            ProgressBar::with_draw_target(Some(100), terminal)
        }
        None => ProgressBar::new(100),
    };
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// A bar for what is measured; for anything else how long it has taken.
fn style(is_measured: bool) -> ProgressStyle {
    let template = if is_measured {
        "{spinner} {msg} [{bar:30}] {pos}%"
    } else {
        "{spinner} {msg}, {elapsed}"
    };
    let style = ProgressStyle::with_template(template).expect("the templates are constant");
    style.progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_sees_how_much_and_how_long_and_a_log_how_much_there_is() {
        let megabytes = |done: u64, total: u64| Amount {
            done: done << 20,
            total: total << 20,
            unit: Unit::Bytes,
        };
        let check = |amount, seconds, expected: &str| {
            assert_eq!(part(amount, Duration::from_secs(seconds)), expected);
        };
        check(megabytes(25, 100), 10, ", 25 MiB of 100 MiB, 30 s left");
        check(megabytes(1, 100), 10, ", 1 MiB of 100 MiB");
        check(megabytes(25, 100), 1, ", 25 MiB of 100 MiB");
        check(
            Amount::new(74, 148, Unit::Packages),
            40,
            ", 74 of 148, 40 s left",
        );
        check(megabytes(100, 100), 10, ", 100 MiB of 100 MiB");
        assert_eq!(whole(Some(megabytes(0, 95))), " (95 MiB)");
        assert_eq!(whole(Some(Amount::new(0, 0, Unit::Layers))), "");
        assert_eq!(whole(None), "");
    }

    #[test]
    fn every_step_of_an_image_has_its_place() {
        let none = Amount::new(0, 1, Unit::Packages);
        let all = [
            Progress::Listing(none),
            Progress::Downloading(none),
            Progress::Assembling(none),
            Progress::WritingDisk,
            Progress::Configuring(none),
            Progress::Finishing,
        ];
        let steps = all.map(|progress| about(progress, "x").1);
        assert_eq!(steps, DEBIAN.map(Some));
    }
}
