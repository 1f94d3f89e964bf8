//! The token table: 256 zero-terminated strings, most of two or more characters, the others single characters that
//! stand for themselves; behind it the 256 offsets of the tokens. The digits stand for themselves in every kernel, so
//! they are what is looked for.

use memchr::memmem;

/// Tokens before the digit 0.
const BEFORE_ZERO: usize = b'0' as usize;
/// Longest token; they are a few characters long.
const MAX_TOKEN: usize = 128;

/// A token table that its index confirms.
#[derive(Clone, Debug)]
pub(crate) struct Tokens {
    /// Where the table begins.
    pub start: usize,
    /// Where the index ends.
    pub end: usize,
    /// The tokens.
    pub tokens: Vec<Vec<u8>>,
}

/// Every token table in `bytes`.
pub(crate) fn token_tables(bytes: &[u8]) -> Vec<Tokens> {
    let digits = b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00";
    memmem::find_iter(bytes, digits)
        .take(64)
        .filter_map(|zero| table_around(bytes, zero))
        .collect()
}

/// The table in which the token "0" begins at `zero`.
fn table_around(bytes: &[u8], zero: usize) -> Option<Tokens> {
    // The end of token 0 is 48 zero bytes back, its beginning an aligned place before that.
    let mut at = zero;
    for _ in 0..BEFORE_ZERO - 1 {
        at = previous_start(bytes, at)?;
    }
    // `at` is the start of token 1; token 0 ends right before it.
    let first_end = at.checked_sub(1)?;
    let lowest = first_end.saturating_sub(MAX_TOKEN);
    let run = bytes[lowest..first_end]
        .iter()
        .rev()
        .take_while(|&&byte| byte != 0)
        .count();
    let starts = (first_end - run..first_end).filter(|start| start.is_multiple_of(4));
    starts.filter_map(|start| confirmed(bytes, start)).next()
}

/// Start of the string that ends right before `start`.
fn previous_start(bytes: &[u8], start: usize) -> Option<usize> {
    let end = start.checked_sub(1)?;
    let lowest = end.saturating_sub(MAX_TOKEN);
    let back = bytes
        .get(lowest..end)?
        .iter()
        .rev()
        .position(|&byte| byte == 0)?;
    Some(end - back)
}

/// The table at `start` if an index that fits follows it.
fn confirmed(bytes: &[u8], start: usize) -> Option<Tokens> {
    let mut tokens = Vec::with_capacity(256);
    let mut offsets = Vec::with_capacity(512);
    let mut at = start;
    for _ in 0..256 {
        offsets.extend(u16::try_from(at - start).ok()?.to_le_bytes());
        let window = bytes.get(at..(at + MAX_TOKEN).min(bytes.len()))?;
        let len = window.iter().position(|&byte| byte == 0)?;
        tokens.push(window[..len].to_vec());
        at += len + 1;
    }
    let index = [4, 8].map(|align: usize| at.next_multiple_of(align));
    let index = index
        .into_iter()
        .find(|&index| bytes.get(index..index + 512) == Some(&offsets[..]))?;
    Some(Tokens {
        start,
        end: index + 512,
        tokens,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A table as a kernel has it, in front of whatever follows.
    pub(crate) fn table() -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut offsets = Vec::new();
        for token in 0..256_usize {
            offsets.extend((bytes.len() as u16).to_le_bytes());
            let single = [token as u8];
            let own = format!("x{token}_");
            let is_itself = (0x2e..0x7b).contains(&token);
            bytes.extend(if is_itself {
                &single[..]
            } else {
                own.as_bytes()
            });
            bytes.push(0);
        }
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes.extend(offsets);
        bytes
    }

    #[test]
    fn a_table_is_found_where_it_is_and_only_with_its_index() {
        let mut image = vec![0; 104];
        image.extend(table());
        let found = token_tables(&image);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].start, found[0].end), (104, image.len()));
        assert_eq!(found[0].tokens[b'a' as usize], b"a");
        let last = image.len() - 1;
        image[last] ^= 1;
        assert!(token_tables(&image).is_empty());
    }
}
