//! Names: a length and that many token numbers each, found by the markers behind them.
//!
//! The markers are the offsets of every 256th name: an ascending array that begins with 0 and lies before the tokens,
//! sometimes with three bytes per symbol in between. Which of the two forms of lengths a kernel has is not announced;
//! the one with which the markers come out right is.

use super::MAX_SYMBOLS;
use super::find::Tokens;

/// Names that one marker stands for.
const PER_MARKER: usize = 256;
/// Longest name, expanded; the kernel's own limit is 512.
const MAX_NAME: usize = 1024;
/// A name takes at least two bytes and hardly ever more than 64.
const MARKER_STEP: std::ops::Range<u64> = 512..(256 * 128);

/// The names, and where their table is.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    /// Where the count lies that precedes the names.
    pub count_at: usize,
    /// Kind and name of each.
    pub entries: Vec<(u8, Vec<u8>)>,
}

/// Steps that may be spent on one search: a real kernel takes a few million, a made-up one as many as it likes.
#[derive(Debug)]
pub(crate) struct Work(u64);

impl Work {
    /// Enough for any kernel.
    pub(crate) fn new() -> Work {
        Work(300_000_000)
    }

    fn spend(&mut self, steps: u64) -> Option<()> {
        self.0 = self.0.checked_sub(steps)?;
        Some(())
    }
}

/// Finds the names that belong to `tokens`.
pub(crate) fn locate(bytes: &[u8], tokens: &Tokens, work: &mut Work) -> Option<Names> {
    [4, 8]
        .into_iter()
        .find_map(|width| locate_with(bytes, tokens, width, work))
}

fn locate_with(bytes: &[u8], tokens: &Tokens, width: usize, work: &mut Work) -> Option<Names> {
    // Behind the markers there is at most padding and three bytes per symbol.
    let lowest = tokens
        .start
        .saturating_sub(3 * MAX_SYMBOLS + MAX_SYMBOLS / PER_MARKER * width);
    let mut at = (tokens.start & !(width - 1)).checked_sub(3 * width)?;
    while at > lowest {
        if number(bytes, at, width) == Some(0) && is_marker_array(bytes, at, width) {
            let markers = markers(bytes, at, width, tokens.start);
            work.spend(markers.len() as u64)?;
            if let Some(names) = names_before(bytes, at, &markers, tokens, work) {
                return Some(names);
            }
        }
        at -= 4;
    }
    None
}

fn number(bytes: &[u8], at: usize, width: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(width)?)?;
    Some(
        bytes
            .iter()
            .rev()
            .fold(0, |number, &byte| number << 8 | u64::from(byte)),
    )
}

/// Whether the second and third numbers are plausible; two are enough, as all are checked against the names.
fn is_marker_array(bytes: &[u8], at: usize, width: usize) -> bool {
    let Some(first) = number(bytes, at + width, width) else {
        return false;
    };
    let Some(second) = number(bytes, at + 2 * width, width) else {
        return false;
    };
    MARKER_STEP.contains(&first) && second > first && MARKER_STEP.contains(&(second - first))
}

fn markers(bytes: &[u8], at: usize, width: usize, end: usize) -> Vec<usize> {
    let mut markers = vec![0];
    let mut position = at + width;
    while position + width <= end {
        let Some(value) = number(bytes, position, width) else {
            break;
        };
        let last = *markers.last().unwrap_or(&0) as u64;
        if value <= last || !MARKER_STEP.contains(&(value - last)) {
            break;
        }
        markers.push(value as usize);
        position += width;
    }
    markers
}

/// The names that end right before the markers. Their beginning is where a count precedes that the markers allow, and
/// from where the names come out at every marker.
fn names_before(
    bytes: &[u8],
    markers_at: usize,
    markers: &[usize],
    tokens: &Tokens,
    work: &mut Work,
) -> Option<Names> {
    // The array of markers may have run on into what follows by chance, by one or two at most.
    for count in (markers.len().saturating_sub(2).max(3)..=markers.len()).rev() {
        let markers = &markers[..count];
        let last = *markers.last()?;
        let highest = markers_at.checked_sub(last)?;
        let lowest = highest.saturating_sub(PER_MARKER * 200);
        let allowed = (count - 1) * PER_MARKER + 1..=count * PER_MARKER;
        let mut start = highest & !3;
        while start > lowest.max(8) {
            work.spend(2)?;
            for count_at in [start - 4, start - 8] {
                let symbols = number(bytes, count_at, 4)? as usize;
                if allowed.contains(&symbols) && symbols <= MAX_SYMBOLS {
                    let table = bytes.get(start..markers_at)?;
                    let mut parse =
                        |has_long| parse(table, symbols, markers, tokens, has_long, work);
                    if let Some(entries) = [true, false].into_iter().find_map(&mut parse) {
                        return Some(Names { count_at, entries });
                    }
                }
            }
            start -= 4;
        }
    }
    None
}

/// All names, if every marker and the end come out right.
fn parse(
    table: &[u8],
    count: usize,
    markers: &[usize],
    tokens: &Tokens,
    has_long: bool,
    work: &mut Work,
) -> Option<Vec<(u8, Vec<u8>)>> {
    let mut entries = Vec::new();
    let mut at = 0;
    for index in 0..count {
        work.spend(20)?;
        if index % PER_MARKER == 0 && markers.get(index / PER_MARKER) != Some(&at) {
            return None;
        }
        let mut len = usize::from(*table.get(at)?);
        at += 1;
        if has_long && len >= 0x80 {
            len = len & 0x7f | usize::from(*table.get(at)?) << 7;
            at += 1;
        }
        let parts = table.get(at..at.checked_add(len)?)?;
        at += len;
        entries.push(expand(parts, tokens)?);
    }
    // Only padding may be left.
    (table.len() - at < 8 && table[at..].iter().all(|&byte| byte == 0)).then_some(entries)
}

fn expand(parts: &[u8], tokens: &Tokens) -> Option<(u8, Vec<u8>)> {
    let len: usize = parts
        .iter()
        .map(|&part| tokens.tokens[usize::from(part)].len())
        .sum();
    if !(2..=MAX_NAME).contains(&len) {
        return None;
    }
    let mut name = Vec::with_capacity(len - 1);
    let mut kind = None;
    for &part in parts {
        let token = &tokens.tokens[usize::from(part)];
        match kind {
            None => {
                let (&first, rest) = token.split_first()?;
                kind = Some(first);
                name.extend(rest);
            }
            Some(_) => name.extend(token),
        }
    }
    Some((kind?, name))
}
