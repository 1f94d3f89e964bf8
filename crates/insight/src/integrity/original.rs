//! The kernel's code as its file has it, for a baseline that needs no clean first look.
//!
//! What a kernel wrote over while it booted is taken from memory where the file's own tables allow it, and only there: an
//! instruction that was put anywhere else, before anybody looked, is a difference from the file like one put there later.
//! In those places themselves memory is believed, but that no branch may leave the kernel.

use iced_x86::{Decoder, DecoderOptions, OpKind};

use super::sites::Sites;
use crate::blind::Blind;
use crate::image::{Code, Content};
use crate::look::Look;
use crate::modules::Stretch;

/// Bytes that may differ from the file and be no known rewriting, at most. More is a way of rewriting that is not known here,
/// or somebody who wants it to look so: then nothing is judged by the file, and that is said.
const MAX_STRANGE: usize = 4096;

impl Look<'_> {
    /// What a stretch of the kernel should hold, by its file; `now` is what it holds. `None` if the kernel is not the one of
    /// a file, or its file has nothing there.
    ///
    /// # Errors
    /// If too much differs.
    pub(super) fn original(
        &self,
        stretch: Stretch,
        now: &[u8],
        code: &Code,
        sites: &Sites,
    ) -> Result<Option<Vec<u8>>, Blind> {
        let text = self.symbol("_text")?.0;
        let slide = text.wrapping_sub(code.linked_text());
        let offset = stretch.start.wrapping_sub(text) as i64;
        let Some(mut expected) = code.moved(offset, now.len() as u64, slide) else {
            return Ok(None);
        };
        for place in code.boot_places() {
            let start = i64::from(place.offset) - offset;
            let Ok(start) = usize::try_from(start) else {
                continue;
            };
            let range = start..start + usize::from(place.len);
            let Some(now) = now.get(range.clone()) else {
                continue;
            };
            let address = stretch.start.wrapping_add(start as u64);
            let is_legal = match place.content {
                Content::Value | Content::Branch => true,
                Content::Instructions => self.stays(address, now),
            };
            if is_legal {
                expected[range].copy_from_slice(now);
            }
        }
        self.take_over_rewritten(stretch, now, &mut expected, sites)?;
        Ok(Some(expected))
    }

    /// Whether no branch leaves the kernel's code.
    fn stays(&self, address: u64, code: &[u8]) -> bool {
        Decoder::with_ip(64, code, address, DecoderOptions::NONE)
            .into_iter()
            .filter(|instruction| {
                instruction.op_count() > 0 && instruction.op0_kind() == OpKind::NearBranch64
            })
            .all(|instruction| self.is_text(instruction.near_branch64()))
    }

    /// Takes over what is rewritten at any time, where it is as it may be.
    fn take_over_rewritten(
        &self,
        stretch: Stretch,
        now: &[u8],
        expected: &mut [u8],
        sites: &Sites,
    ) -> Result<(), Blind> {
        let end = stretch.start.saturating_add(now.len() as u64);
        let mut at = 0;
        let mut strange = 0;
        while let Some(index) = next_difference(now, expected, at) {
            let address = stretch.start.wrapping_add(index as u64);
            at = index + 1;
            match self.legal(end, address, sites) {
                Some((start, legal)) => {
                    let first = start.saturating_sub(stretch.start) as usize;
                    let last = (first + legal.len).min(now.len());
                    expected[first..last].copy_from_slice(&now[first..last]);
                    at = at.max(last);
                }
                None => strange += 1,
            }
            if strange > MAX_STRANGE {
                return Err(Blind::nonsense(
                    "code differs from its file in more places than can be told apart",
                ));
            }
        }
        Ok(())
    }
}

fn next_difference(a: &[u8], b: &[u8], from: usize) -> Option<usize> {
    // Most of it is the same: in pieces that are compared at once.
    const PIECE: usize = 4096;
    let mut at = from;
    while at < a.len().min(b.len()) {
        let end = (at + PIECE).min(a.len()).min(b.len());
        if a[at..end] != b[at..end] {
            return (at..end).find(|&index| a[index] != b[index]);
        }
        at = end;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_found_wherever_they_are() {
        let a = vec![0; 10_000];
        for at in [0, 1, 4095, 4096, 8191, 9_999] {
            let mut b = a.clone();
            b[at] = 1;
            assert_eq!(next_difference(&a, &b, 0), Some(at));
            assert_eq!(next_difference(&a, &b, at), Some(at));
            assert_eq!(next_difference(&a, &b, at + 1), None);
        }
        assert_eq!(next_difference(&a, &a, 0), None);
        assert_eq!(next_difference(&a, &a[..5], 9_000), None);
    }
}
