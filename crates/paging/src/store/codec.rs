//! How one page becomes few bytes, and how it comes back whole or not at all.

use mem::PageBytes;
use twox_hash::XxHash3_64;

use crate::memory::PAGE_BYTES;

/// A page that saves less than this is kept as it is: unpacking it would cost time for nothing.
const WORTHWHILE_BYTES: usize = PAGE_BYTES as usize - 256;

/// A page, packed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Packed {
    /// One 8-byte word all over; zeros among them.
    Repeats(u64),
    /// LZ4, or the page itself if it has the length of one.
    Bytes(Box<[u8]>),
}

/// The checksum of a page.
pub(crate) fn checksum(page: &PageBytes) -> u64 {
    XxHash3_64::oneshot(page)
}

/// The word that a page consists of, if there is one.
fn repeated(page: &PageBytes) -> Option<u64> {
    let (words, _) = page.as_chunks::<8>();
    let first = words[0];
    words
        .iter()
        .all(|word| *word == first)
        .then(|| u64::from_ne_bytes(first))
}

/// Packs a page.
pub(crate) fn pack(page: &PageBytes) -> Packed {
    if let Some(word) = repeated(page) {
        return Packed::Repeats(word);
    }
    let mut bytes = [0; lz4_flex::block::get_maximum_output_size(PAGE_BYTES as usize)];
    match lz4_flex::block::compress_into(page, &mut bytes) {
        Ok(len) if len <= WORTHWHILE_BYTES => Packed::Bytes(bytes[..len].into()),
        _ => Packed::Bytes(page.as_slice().into()),
    }
}

/// Unpacks a page that has this checksum; `None` if it is not that page any more.
pub(crate) fn unpack(packed: &[u8], sum: u64) -> Option<PageBytes> {
    let mut page = [0; PAGE_BYTES as usize];
    if packed.len() == page.len() {
        page.copy_from_slice(packed);
    } else {
        let len = lz4_flex::block::decompress_into(packed, &mut page).ok()?;
        if len != page.len() {
            return None;
        }
    }
    (checksum(&page) == sum).then_some(page)
}

/// A page of one word.
pub(crate) fn repeat(word: u64) -> PageBytes {
    let mut page = [0; PAGE_BYTES as usize];
    for chunk in page.as_chunks_mut::<8>().0 {
        *chunk = word.to_ne_bytes();
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(byte: impl FnMut(usize) -> u8) -> PageBytes {
        std::array::from_fn(byte)
    }

    #[test]
    fn a_page_comes_back_whole_or_not_at_all() {
        let mut noise = 1_u64;
        let mut random = move |_| {
            noise = noise
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (noise >> 56) as u8
        };
        let check = |page: PageBytes, len: Option<std::ops::RangeInclusive<usize>>| match (
            pack(&page),
            len,
        ) {
            (Packed::Repeats(word), None) => assert_eq!(repeat(word), page),
            (Packed::Bytes(bytes), Some(len)) => {
                assert!(len.contains(&bytes.len()), "{} bytes", bytes.len());
                assert_eq!(unpack(&bytes, checksum(&page)), Some(page));
                assert_eq!(unpack(&bytes, checksum(&page) ^ 1), None);
                let mut wrong = bytes.clone();
                wrong[bytes.len() / 2] ^= 0x10;
                assert_eq!(unpack(&wrong, checksum(&page)), None);
                assert_eq!(unpack(&bytes[..bytes.len() - 1], checksum(&page)), None);
            }
            (packed, len) => panic!("{packed:?} where {len:?} was expected"),
        };
        check(page(|_| 0), None);
        check(page(|at| at as u8 % 8), None);
        check(page(|at| (at / 64) as u8), Some(64..=600));
        check(page(|at| if at == 4095 { 1 } else { 0 }), Some(1..=100));
        check(page(&mut random), Some(4096..=4096));
    }
}
