//! Getting the default guest, with a progress bar for a person and plain lines for a log.

use std::fs::File;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use images::{Cache, CacheError, DefaultGuest, Image, Progress};
use indicatif::{ProgressBar, ProgressStyle};
use insight::Loaded;

use crate::failure::ImageFailure;

/// The default guest, downloaded if need be. What observers need to know of a kernel that was just downloaded is kept with it:
/// it takes a part of the time that the download took, and the first look does not wait for it.
pub fn default_guest() -> Result<DefaultGuest, CacheError> {
    let cache = Cache::of_user()?;
    let mut shown = Shown::new("the default guest (kernel, busybox)");
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

/// Where what is learned about kernels from their files is kept. What earlier versions kept, in `kernels`, came from guests'
/// memory and is not read any more.
pub fn profiles(cache: &Cache) -> PathBuf {
    cache.folder().join("profiles")
}

/// passt, downloaded if need be.
pub fn passt() -> Result<PathBuf, CacheError> {
    let cache = Cache::of_user()?;
    let mut shown = Shown::new("passt");
    cache.passt(&mut |progress| shown.show(progress))
}

/// The image made of a container image's layers.
pub fn container(cache: &Cache, path: &Path, wanted: Option<&str>) -> Result<Image, ImageFailure> {
    let mut shown = Shown::new("the container image");
    let image = cache.container(path, wanted, &mut |progress| shown.show(progress));
    image.map_err(|source| ImageFailure::Container {
        path: path.to_owned(),
        source,
    })
}

/// Shows how far something is: a bar for a person, lines for a log.
pub struct Shown {
    what: String,
    bar: Option<ProgressBar>,
    line: String,
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Shown {
    /// Nothing of `what` is shown yet.
    pub fn new(what: &str) -> Shown {
        Shown {
            what: what.to_owned(),
            bar: None,
            line: String::new(),
        }
    }

    /// Shows this from now on.
    pub fn show(&mut self, progress: Progress) {
        let what = &self.what;
        let (line, percent) = match progress {
            Progress::Waiting => (
                "waiting for another mother that makes or downloads something".to_owned(),
                None,
            ),
            Progress::Listing(percent) => {
                (format!("asking apt's mirrors for {what}"), Some(percent))
            }
            Progress::Downloading(percent) => (format!("downloading {what}"), Some(percent)),
            Progress::Unpacking => ("unpacking".to_owned(), None),
            Progress::Assembling(percent) => ("unpacking packages".to_owned(), Some(percent)),
            Progress::Layers(percent) => ("unpacking layers".to_owned(), Some(percent)),
            Progress::Configuring(percent) => {
                ("configuring packages in a guest".to_owned(), Some(percent))
            }
            Progress::WritingDisk => ("writing the disk".to_owned(), None),
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
    let style = ProgressStyle::with_template("{spinner} {msg} [{bar:30}] {pos}%")
        .expect("the template is constant");
    let bar = ProgressBar::new(100).with_style(style.progress_chars("=> "));
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}
