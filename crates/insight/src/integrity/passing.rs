//! Changes that come and go: code that is one thing for a moment, to be run, and what it was for everybody who looks.
//!
//! While an observer waits, the kernel's code is read again and again. What differs where no table lets the kernel rewrite
//! itself, is the same a moment later, and then is as before, was put there and taken away again. Breakpoints are left out:
//! a probe may have come and gone between the look at the code and that at the table of probes.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use x86::{Gpa, Gva, PAGE_SIZE};

use super::baseline::Baseline;
use super::patches::Ground;
use super::sites::Sites;
use super::{Finding, FindingKind, hex};
use crate::blind::Blind;
use crate::look::Look;
use crate::space::IMAGE_VA;

/// Time between two looks at all of the code, and at a few pages.
const BETWEEN: Duration = Duration::from_millis(25);
const BETWEEN_PAGES: Duration = Duration::from_millis(8);
/// A change must be the same so much later: a kernel that rewrites itself does it byte by byte.
const STEADY: Duration = Duration::from_millis(2);
/// How much longer is waited while a change is there.
const LINGER: Duration = Duration::from_millis(400);
/// Most code, and most pages that are looked at by themselves.
const MAX_TEXT: u64 = 128 << 20;
const MAX_PAGES: usize = 64;
/// Most changes that are followed.
const MAX_SIGHTINGS: usize = 64;
/// Changed bytes with no more unchanged ones between them are one change.
const GAP: u64 = 8;
/// Bytes that a finding shows.
const SHOWN: usize = 32;
const BREAKPOINT: u8 = 0xcc;

/// Code as it was when the wait began.
struct Piece {
    start: u64,
    bytes: Vec<u8>,
}

/// A change that was seen, by where it begins.
struct Sighting {
    before: Vec<u8>,
    during: Vec<u8>,
    target: Option<u64>,
}

impl Look<'_> {
    /// Waits for `time` and looks at the kernel's code meanwhile: at these pages of it, or at all. What came and went is kept
    /// in the baseline in `folder` and told by every check of this `life` from then on.
    ///
    /// # Errors
    /// If the code or the baseline cannot be read; then nothing was waited for.
    pub fn wait_and_see(
        &self,
        (folder, life): (&Path, &str),
        pages: Option<&[u64]>,
        time: Duration,
    ) -> Result<(), Blind> {
        self.require_booted()?;
        let end = Instant::now() + time;
        let pieces = self.pieces_of_code(pages)?;
        let between = match pages {
            Some(_) => BETWEEN_PAGES,
            None => BETWEEN,
        };
        let mut sites = None;
        let mut seen: BTreeMap<u64, Sighting> = BTreeMap::new();
        let mut passed = Vec::new();
        // A change that is there when the time is up is waited for a little longer: if it stays, it is no such change.
        while Instant::now() + between < end || !seen.is_empty() && Instant::now() < end + LINGER {
            let begin = Instant::now();
            for piece in &pieces {
                let now = self.space().bytes(Gva(piece.start), piece.bytes.len())?;
                passed.extend(self.passed(piece, &now, &mut seen));
                if now != piece.bytes {
                    self.see(piece, &now, &mut sites, &mut seen)?;
                }
            }
            // Whoever looks takes no more than a part of a CPU.
            thread::sleep(between.max(begin.elapsed() * 2));
        }
        thread::sleep(end.saturating_duration_since(Instant::now()));
        if !passed.is_empty() {
            let mut baseline = Baseline::open(folder, life)?;
            baseline.remember(passed);
            baseline.save()?;
        }
        Ok(())
    }

    /// Where the kernel's code is that lies at `gpa`, if any does.
    pub fn code_at(&self, gpa: Gpa) -> Option<u64> {
        let address = IMAGE_VA.wrapping_add(gpa.0.wrapping_sub(self.kernel().phys_base));
        self.is_text(address).then_some(address)
    }

    fn pieces_of_code(&self, pages: Option<&[u64]>) -> Result<Vec<Piece>, Blind> {
        let start = self.symbol("_stext")?.0;
        let end = self.symbol("_etext")?.0;
        let stretches: Vec<(u64, u64)> = match pages {
            Some(pages) => pages
                .iter()
                .map(|page| ((*page).max(start), page.saturating_add(PAGE_SIZE).min(end)))
                .filter(|(start, end)| start < end)
                .take(MAX_PAGES)
                .collect(),
            None => vec![(start, end)],
        };
        let piece = |(start, end): (u64, u64)| {
            let len = end.checked_sub(start).filter(|len| *len <= MAX_TEXT);
            let len =
                len.ok_or_else(|| Blind::nonsense("kernel has more code than any can have"))?;
            Ok(Piece {
                start,
                bytes: self.space().bytes(Gva(start), len as usize)?,
            })
        };
        stretches.into_iter().map(piece).collect()
    }

    /// What of the changes seen before has been taken back in this piece.
    fn passed(
        &self,
        piece: &Piece,
        now: &[u8],
        seen: &mut BTreeMap<u64, Sighting>,
    ) -> Vec<Finding> {
        let end = piece.start + piece.bytes.len() as u64;
        let back: Vec<u64> = seen
            .range(piece.start..end)
            .filter(|(at, sighting)| {
                let at = (*at - piece.start) as usize;
                now.get(at..at + sighting.before.len()) == Some(&sighting.before[..])
            })
            .map(|(at, _)| *at)
            .collect();
        let found = back.into_iter().filter_map(|at| {
            let sighting = seen.remove(&at)?;
            let shown = |bytes: &[u8]| Some(hex(&bytes[..bytes.len().min(SHOWN)]));
            let led = sighting.target.map_or(String::new(), |target| {
                format!(": it led to {}", self.whereabouts(target))
            });
            let count = sighting.before.len();
            Some(Finding {
                kind: FindingKind::KernelText,
                subject: self.whereabouts(at),
                what: format!("{count} bytes were changed for a moment and changed back{led}"),
                address: Some(at),
                before: shown(&sighting.before),
                after: shown(&sighting.during),
            })
        });
        found.collect()
    }

    /// Takes note of what differs, is the same a moment later, and has no place in the kernel's tables.
    fn see(
        &self,
        piece: &Piece,
        now: &[u8],
        sites: &mut Option<Sites>,
        seen: &mut BTreeMap<u64, Sighting>,
    ) -> Result<(), Blind> {
        thread::sleep(STEADY);
        let fresh = match sites {
            Some(sites) => sites,
            None => sites.insert(self.patch_sites(&self.read_modules()?)?),
        };
        let end = piece.start + piece.bytes.len() as u64;
        let mut strange: Vec<u64> = Vec::new();
        for (page, before) in now
            .chunks(PAGE_SIZE as usize)
            .zip(piece.bytes.chunks(PAGE_SIZE as usize))
            .enumerate()
            .filter_map(|(number, (now, before))| {
                (now != before).then_some(((number, now), before))
            })
        {
            let (number, now) = page;
            let start = piece.start + number as u64 * PAGE_SIZE;
            let later = self.space().bytes(Gva(start), now.len())?;
            for (index, (now, before)) in now.iter().zip(before).enumerate() {
                let address = start + index as u64;
                let is_steady = later.get(index) == Some(now);
                if now != before
                    && is_steady
                    && *now != BREAKPOINT
                    && !fresh.may_rewrite(address)
                    && self.legal(end, address, fresh).is_none()
                {
                    strange.push(address);
                }
                if strange.len() > MAX_SIGHTINGS * SHOWN {
                    return Ok(());
                }
            }
        }
        for group in strange.chunk_by(|a, b| b - a <= GAP) {
            let (Some(first), Some(last)) = (group.first(), group.last()) else {
                continue;
            };
            let from = (first - piece.start) as usize;
            let to = (last + 1 - piece.start) as usize;
            let (Some(before), Some(during)) = (piece.bytes.get(from..to), now.get(from..to))
            else {
                continue;
            };
            let target = branch(now, piece.start, from);
            let is_probe = target.is_some_and(|to| self.ground(to, fresh) == Ground::Probe);
            if seen.len() < MAX_SIGHTINGS && !is_probe {
                seen.entry(*first).or_insert_with(|| Sighting {
                    before: before.to_vec(),
                    during: during.to_vec(),
                    target,
                });
            }
        }
        Ok(())
    }
}

/// Where the branch leads that the byte at `at` belongs to; it may begin a few bytes before.
fn branch(code: &[u8], start: u64, at: usize) -> Option<u64> {
    let first = (at.saturating_sub(2)..=at)
        .rev()
        .find(|first| matches!(code.get(*first), Some(0xe8 | 0xe9)))?;
    let distance = code.get(first + 1..first + 5)?.try_into().ok()?;
    let behind = start.wrapping_add(first as u64 + 5);
    Some(behind.wrapping_add(i64::from(i32::from_le_bytes(distance)) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_is_found_from_any_of_its_first_bytes() {
        let code = [0x90, 0xe9, 0x10, 0, 0, 0, 0x90];
        let check = |at, expected| assert_eq!(branch(&code, 0x1000, at), expected, "{at}");
        check(1, Some(0x1016));
        check(2, Some(0x1016));
        check(3, Some(0x1016));
        check(4, None);
        check(0, None);
        assert_eq!(branch(&code[..4], 0x1000, 1), None);
    }
}
