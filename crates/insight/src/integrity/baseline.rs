//! What a kernel looked like when boot had settled: a fingerprint of every page of its code, the code itself, and what
//! registers said. Kept in two files, so that one run can compare with another's: `integrity.head`, which is a line of JSON
//! and then the fingerprints, 32 bytes each, as they are; and `integrity.text` with the pages, of which only those are
//! read again that changed. Who watches reads and writes the first every second.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use x86::Gpa;

use super::finding::Finding;
use crate::blind::Blind;
use crate::kept::{self, Entry, KEPT_BYTES_MAX};
use crate::modules::Stretch;

/// What is watched is compared by pages of this size.
pub(super) const PAGE: usize = 4096;
/// Largest file of code: what modules come and go with beyond that is watched, and not kept.
const MAX_TEXT: u64 = 256 << 20;
/// Changed pages that are remembered, at most.
const MAX_SUSPECTS: usize = 4096;
/// Changes that came and went, at most.
const MAX_PASSED: usize = 64;
/// Version of the files.
const VERSION: u32 = 5;

/// What a check looks at.
#[derive(Clone, Copy)]
pub enum Scope<'a> {
    /// Every page of the kernel's code and tables.
    All,
    /// Pages that were written since the last check, and those that were found changed before. Asked once, while the
    /// baseline is locked, for every page that is watched; from the answer on, the next write to each must be noticed.
    Written(&'a dyn Fn(&[Gpa]) -> Vec<bool>),
    /// At most so many bytes, going on where the last check ended.
    Part(u64),
}

/// A watched stretch of memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Watched {
    /// The kernel's code.
    Kernel,
    /// A module's code, with where its `struct module` is.
    Module {
        /// Its name.
        name: String,
        /// Its `struct module`.
        address: u64,
    },
    /// A table of the kernel.
    Table(String),
    /// What the kernel does not change once it has booted.
    Constants(String),
    /// The same of a module, with where its `struct module` is.
    ModuleConstants {
        /// Its name.
        name: String,
        /// Its `struct module`.
        address: u64,
    },
    /// Code of the kernel's that programs run: the virtual dynamic shared object.
    ForPrograms(String),
}

/// What was seen first of a vCPU, which must not become weaker or lead elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pinned {
    /// Which vCPU.
    pub vcpu_id: u32,
    /// Every bit of CR4 that was ever on.
    pub cr4: u64,
    /// Where its interrupt descriptor table is.
    pub idt_base: u64,
    /// Where each gate of that leads; 0 for none.
    pub gates: Vec<u64>,
    /// In how many checks on end it had a breakpoint that the kernel did not know of.
    pub unknown_breakpoints: u32,
}

/// A stretch with its fingerprints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Region {
    /// What it is.
    pub what: Watched,
    /// Where it was.
    pub stretch: Stretch,
    /// Where its pages are in the file of code; none if they are not kept.
    pub position: Option<u64>,
    /// SHA-256 of every page.
    #[serde(skip)]
    pub pages: Vec<[u8; 32]>,
}

/// The part that is in JSON, but for the fingerprints.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Head {
    version: u32,
    life: String,
    kernel: Option<String>,
    /// The kernel before it, if it was replaced in this life.
    replaced: Option<String>,
    /// Why the kernel could not be compared with its file.
    remark: Option<String>,
    /// Changes that came and went.
    passed: Vec<Finding>,
    pinned: Vec<Pinned>,
    regions: Vec<Region>,
    /// Where the next part of a check by parts begins, in pages of all regions.
    cursor: u64,
    /// Pages that were found changed: every check looks at them.
    suspects: BTreeSet<u64>,
    text_bytes: u64,
}

impl Head {
    /// As it is in the file.
    fn to_bytes(&self) -> serde_json::Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec(self)?;
        bytes.push(b'\n');
        self.regions
            .iter()
            .for_each(|region| bytes.extend(region.pages.as_flattened()));
        Ok(bytes)
    }

    /// Reads it; `None` if it is damaged or cut off.
    fn parse(bytes: &[u8]) -> Option<Head> {
        let end = bytes.iter().position(|&byte| byte == b'\n')?;
        let mut head: Head = serde_json::from_slice(&bytes[..end]).ok()?;
        let mut rest = &bytes[end + 1..];
        for region in &mut head.regions {
            let len = usize::try_from(
                region
                    .stretch
                    .len_bytes
                    .div_ceil(PAGE as u64)
                    .checked_mul(32)?,
            )
            .ok()?;
            let (pages, later) = rest.split_at_checked(len)?;
            region.pages = pages.as_chunks().0.to_vec();
            rest = later;
        }
        rest.is_empty().then_some(head)
    }
}

/// The baseline. Locked while it is open: one check at a time.
pub(super) struct Baseline {
    folder: PathBuf,
    head: Head,
    text: File,
    is_changed: bool,
    /// Written pages were asked for by somebody who did not come to compare them.
    is_missed: bool,
    has_asked: bool,
}

impl Baseline {
    /// The one in `folder`; an empty one if that is another life's or damaged.
    pub(super) fn open(folder: &Path, life: &str) -> Result<Baseline, Blind> {
        let text = kept::open(folder, Entry::Text)
            .map_err(|error| Blind::Baseline(folder.display().to_string(), error.to_string()))?;
        let read = || -> io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            let head = kept::open(folder, Entry::Head)?;
            head.take(KEPT_BYTES_MAX).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let head = read().ok().and_then(|bytes| Head::parse(&bytes));
        let head = head.filter(|head| head.version == VERSION && head.life == life);
        let empty = || Head {
            version: VERSION,
            life: life.to_owned(),
            ..Head::default()
        };
        let is_missed = kept::open(folder, Entry::Asked).is_ok();
        Ok(Baseline {
            folder: folder.to_owned(),
            head: head.unwrap_or_else(empty),
            text,
            is_changed: false,
            is_missed,
            has_asked: false,
        })
    }

    /// Written pages are about to be asked for, which are told only once: whoever ends before [`Baseline::save`] leaves
    /// a word for the next. True if somebody has.
    pub(super) fn ask(&mut self) -> Result<bool, Blind> {
        kept::put(&self.folder, Entry::Asked, &[]).map_err(|error| self.failed(&error))?;
        self.has_asked = true;
        Ok(std::mem::take(&mut self.is_missed))
    }

    /// Whether nothing was seen yet.
    pub(super) fn is_empty(&self) -> bool {
        self.head.regions.is_empty()
    }

    /// Remembers which kernel runs; the first one of this life, if it was another: that stays so for as long as the life
    /// lasts. What was known of the one before is forgotten.
    pub(super) fn kernel(&mut self, now: &str) -> Option<String> {
        if self.head.kernel.as_deref() != Some(now) {
            let life = std::mem::take(&mut self.head.life);
            let before = self.head.kernel.take();
            self.head = Head {
                version: VERSION,
                life,
                kernel: Some(now.to_owned()),
                replaced: self.head.replaced.take().or(before),
                ..Head::default()
            };
            self.is_changed = true;
        }
        self.head.replaced.clone()
    }

    /// What was seen first of a vCPU.
    pub(super) fn pinned(&self, vcpu_id: u32) -> Pinned {
        let pinned = self
            .head
            .pinned
            .iter()
            .find(|pinned| pinned.vcpu_id == vcpu_id)
            .cloned();
        pinned.unwrap_or_else(|| Pinned {
            vcpu_id,
            ..Pinned::default()
        })
    }

    /// Remembers it.
    pub(super) fn pin(&mut self, now: Pinned) {
        let pinned = &mut self.head.pinned;
        match pinned
            .iter_mut()
            .find(|pinned| pinned.vcpu_id == now.vcpu_id)
        {
            Some(pinned) if *pinned == now => {}
            Some(pinned) => {
                *pinned = now;
                self.is_changed = true;
            }
            None => {
                pinned.push(now);
                self.is_changed = true;
            }
        }
    }

    /// Remembers why the kernel could not be compared with its file.
    pub(super) fn remark(&mut self, remark: String) {
        self.head.remark = Some(remark);
        self.is_changed = true;
    }

    /// Why it could not.
    pub(super) fn remarked(&self) -> Option<&str> {
        self.head.remark.as_deref()
    }

    /// Remembers changes that came and went, each once.
    pub(super) fn remember(&mut self, passed: Vec<Finding>) {
        for finding in passed {
            let all = &mut self.head.passed;
            let is_known = all.iter().any(|known| known.subject == finding.subject);
            if !is_known && all.len() < MAX_PASSED {
                all.push(finding);
                self.is_changed = true;
            }
        }
    }

    /// Changes that came and went.
    pub(super) fn passed(&self) -> &[Finding] {
        &self.head.passed
    }

    /// What is watched.
    pub(super) fn regions(&self) -> &[Region] {
        &self.head.regions
    }

    /// Watches a stretch that looks so now.
    pub(super) fn add(
        &mut self,
        what: Watched,
        stretch: Stretch,
        bytes: &[u8],
    ) -> Result<(), Blind> {
        let pages = bytes.chunks(PAGE).map(fingerprint).collect();
        let end = self.head.text_bytes + bytes.len() as u64;
        let position = (end <= MAX_TEXT).then_some(self.head.text_bytes);
        if let Some(position) = position {
            self.text
                .write_all_at(bytes, position)
                .map_err(|error| self.failed(&error))?;
            self.head.text_bytes = end;
        }
        self.head.regions.push(Region {
            what,
            stretch,
            position,
            pages,
        });
        self.is_changed = true;
        Ok(())
    }

    /// Watches no longer what `keep` does not want.
    pub(super) fn retain(&mut self, keep: impl Fn(&Region) -> bool) {
        let before = self.head.regions.len();
        self.head.regions.retain(keep);
        self.is_changed |= self.head.regions.len() != before;
    }

    /// A page as it was, if it was kept and is what its fingerprint says.
    pub(super) fn page(&self, region: &Region, number: usize, len: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; len];
        let position = region.position?.checked_add((number * PAGE) as u64)?;
        self.text.read_exact_at(&mut bytes, position).ok()?;
        (region.pages.get(number) == Some(&fingerprint(&bytes))).then_some(bytes)
    }

    /// Where a check by parts goes on, and remembers where the next one does.
    pub(super) fn advance(&mut self, pages: u64) -> u64 {
        let total: u64 = self
            .head
            .regions
            .iter()
            .map(|region| region.pages.len() as u64)
            .sum();
        let start = if self.head.cursor < total {
            self.head.cursor
        } else {
            0
        };
        self.head.cursor = start.saturating_add(pages);
        self.is_changed = true;
        start
    }

    /// Whether the page that starts at `address` was found changed before.
    pub(super) fn is_suspect(&self, address: u64) -> bool {
        self.head.suspects.contains(&address)
    }

    /// Remembers whether a page is.
    pub(super) fn suspect(&mut self, address: u64, is_changed: bool) {
        let suspects = &mut self.head.suspects;
        let is_new = match is_changed {
            true => suspects.len() < MAX_SUSPECTS && suspects.insert(address),
            false => suspects.remove(&address),
        };
        self.is_changed |= is_new;
    }

    /// Writes what changed. Whatever has its final name is complete.
    pub(super) fn save(&mut self) -> Result<(), Blind> {
        let write = || kept::put(&self.folder, Entry::Head, &self.head.to_bytes()?);
        if self.is_changed {
            write().map_err(|error| self.failed(&error))?;
            self.is_changed = false;
        }
        if std::mem::take(&mut self.has_asked) {
            // A word too much costs a comparison, and nothing else.
            let _ = kept::remove(&self.folder, Entry::Asked);
        }
        Ok(())
    }

    fn failed(&self, error: &io::Error) -> Blind {
        Blind::Baseline(self.folder.display().to_string(), error.to_string())
    }
}

/// Of one page.
pub(super) fn fingerprint(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn open(folder: &Path, life: &str) -> Baseline {
        Baseline::open(folder, life).unwrap()
    }

    #[test]
    fn what_was_seen_is_known_to_the_next_run_of_the_same_life() {
        let folder = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..2 * PAGE + 100).map(|at| (at % 251) as u8).collect();
        let stretch = Stretch {
            start: 0xffff_ffff_8100_0000,
            len_bytes: bytes.len() as u64,
        };
        let mut first = open(folder.path(), "1");
        assert!(first.is_empty());
        assert_eq!(first.kernel("6.1"), None);
        first.add(Watched::Kernel, stretch, &bytes).unwrap();
        first.save().unwrap();
        drop(first);
        let second = open(folder.path(), "1");
        let region = second.regions()[0].clone();
        assert_eq!((region.stretch, region.pages.len()), (stretch, 3));
        assert_eq!(
            second.page(&region, 1, PAGE).as_deref(),
            Some(&bytes[PAGE..2 * PAGE])
        );
        assert_eq!(
            second.page(&region, 2, 100).as_deref(),
            Some(&bytes[2 * PAGE..])
        );
        assert_eq!(second.page(&region, 3, PAGE), None);
        drop(second);
        assert!(
            open(folder.path(), "2").is_empty(),
            "a reset makes another life"
        );
        let path = folder.path().join("integrity.head");
        let whole = fs::read(&path).unwrap();
        let damaged = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            open(folder.path(), "1").is_empty()
        };
        assert!(!damaged(&whole));
        assert!(damaged(b"{"));
        assert!(
            damaged(&whole[..whole.len() - 1]),
            "a fingerprint is cut off"
        );
        assert!(
            damaged(&[&whole[..], b"x"].concat()),
            "something is behind them"
        );
    }

    #[test]
    fn a_kernel_that_was_replaced_is_told_for_the_rest_of_the_life() {
        let folder = tempfile::tempdir().unwrap();
        let stretch = Stretch {
            start: 0,
            len_bytes: PAGE as u64,
        };
        let mut first = open(folder.path(), "1");
        assert_eq!(first.kernel("6.1"), None);
        first.add(Watched::Kernel, stretch, &[7; PAGE]).unwrap();
        assert_eq!(first.kernel("6.1"), None);
        assert!(!first.is_empty());
        assert_eq!(first.kernel("7.0").as_deref(), Some("6.1"));
        assert!(first.is_empty(), "the code of the one before tells nothing");
        first.save().unwrap();
        drop(first);
        let mut second = open(folder.path(), "1");
        assert_eq!(second.kernel("7.0").as_deref(), Some("6.1"));
        assert_eq!(second.kernel("7.1").as_deref(), Some("6.1"));
        drop(second);
        assert_eq!(open(folder.path(), "2").kernel("7.0"), None);
    }

    #[test]
    fn kept_code_that_is_not_what_it_was_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let mut baseline = open(folder.path(), "1");
        let stretch = Stretch {
            start: 0,
            len_bytes: PAGE as u64,
        };
        baseline.add(Watched::Kernel, stretch, &[7; PAGE]).unwrap();
        let region = baseline.regions()[0].clone();
        assert!(baseline.page(&region, 0, PAGE).is_some());
        fs::write(folder.path().join("integrity.text"), vec![8; PAGE]).unwrap();
        assert_eq!(baseline.page(&region, 0, PAGE), None);
    }

    #[test]
    fn what_somebody_asked_for_and_did_not_compare_is_known_to_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let mut dies = open(folder.path(), "1");
        assert!(!dies.ask().unwrap());
        drop(dies);
        let mut next = open(folder.path(), "1");
        assert!(next.ask().unwrap(), "the one before never saved");
        next.save().unwrap();
        drop(next);
        assert!(!open(folder.path(), "1").ask().unwrap());
    }

    #[test]
    fn a_check_by_parts_comes_round() {
        let folder = tempfile::tempdir().unwrap();
        let mut baseline = open(folder.path(), "1");
        let stretch = Stretch {
            start: 0,
            len_bytes: 3 * PAGE as u64,
        };
        baseline
            .add(Watched::Kernel, stretch, &[7; 3 * PAGE])
            .unwrap();
        assert_eq!(
            [2, 2, 2, 2].map(|pages| baseline.advance(pages)),
            [0, 2, 0, 2]
        );
    }
}
