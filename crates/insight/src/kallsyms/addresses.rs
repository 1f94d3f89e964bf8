//! Addresses of symbols, in the encodings that kernels since 4.6 have.

use x86::Gva;

use super::Image;
use super::find::Tokens;
use super::names::Names;

/// How the address of a symbol is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressForm {
    /// A 64-bit address each.
    Absolute,
    /// Signed 32 bits: at least 0 is an address of its own (a per-CPU offset), below 0 counts down from the base.
    AbsolutePerCpu,
    /// Unsigned 32 bits added to the base.
    Relative,
    /// Signed 32 bits added to the place where they are written (7.0 and later).
    SelfRelative,
}

/// What proves an encoding.
const BANNER: &[u8] = b"Linux version ";

/// Addresses of all symbols, with whether each moves with the image, in the encoding that proves itself.
pub(crate) fn decode(
    image: Image<'_>,
    tokens: &Tokens,
    names: &Names,
) -> Option<(Vec<(u64, bool)>, AddressForm)> {
    let banner = names
        .entries
        .iter()
        .position(|(_, name)| name == b"linux_banner")?;
    let count = names.entries.len();
    let candidates = candidates(image, tokens, names.count_at, count);
    let table = candidates.into_iter().find(|table| {
        table
            .address(image, banner)
            .is_some_and(|(address, _)| proves(image, address))
    })?;
    let addresses: Option<Vec<(u64, bool)>> = (0..count)
        .map(|index| table.address(image, index))
        .collect();
    Some((addresses?, table.form))
}

/// Whether the banner is there.
fn proves(image: Image<'_>, address: u64) -> bool {
    let Some(start) = image.start else {
        return false;
    };
    let Some(at) = address.checked_sub(start.0) else {
        return false;
    };
    let Ok(at) = usize::try_from(at) else {
        return false;
    };
    at.checked_add(BANNER.len())
        .and_then(|end| image.bytes.get(at..end))
        == Some(BANNER)
}

struct Table {
    at: usize,
    base: u64,
    form: AddressForm,
}

impl Table {
    fn address(&self, image: Image<'_>, index: usize) -> Option<(u64, bool)> {
        if self.form == AddressForm::Absolute {
            let address = u64_at(image.bytes, self.at + 8 * index)?;
            return Some((address, address >> 31 == 0x1_ffff_ffff));
        }
        let at = self.at + 4 * index;
        let bytes = image.bytes.get(at..at + 4)?;
        let offset = i32::from_le_bytes(bytes.try_into().ok()?);
        Some(match self.form {
            AddressForm::AbsolutePerCpu if offset >= 0 => (offset as u64, false),
            AddressForm::AbsolutePerCpu => (
                self.base
                    .wrapping_sub(1)
                    .wrapping_sub(i64::from(offset) as u64),
                true,
            ),
            AddressForm::SelfRelative => {
                let Gva(start) = image.start?;
                (
                    start
                        .wrapping_add(at as u64)
                        .wrapping_add(i64::from(offset) as u64),
                    true,
                )
            }
            AddressForm::Relative | AddressForm::Absolute => {
                (self.base.wrapping_add(u64::from(offset as u32)), true)
            }
        })
    }
}

/// Every place and form that the table of `count` addresses can have.
fn candidates(image: Image<'_>, tokens: &Tokens, count_at: usize, count: usize) -> Vec<Table> {
    let mut tables = Vec::new();
    let mut add = |at: Option<usize>, base: Option<u64>, form| {
        if let Some(at) = at {
            tables.push(Table {
                at,
                base: base.unwrap_or(0),
                form,
            });
        }
    };
    let based = [AddressForm::AbsolutePerCpu, AddressForm::Relative];
    // Before 6.4: offsets, base, count.
    let base_at = count_at.checked_sub(8).map(|at| at & !7);
    for offsets_len in [(4 * count).next_multiple_of(8), 4 * count] {
        for form in based {
            let base = base_at.and_then(|at| u64_at(image.bytes, at));
            add(
                base_at.and_then(|at| at.checked_sub(offsets_len)),
                base,
                form,
            );
        }
    }
    add(
        count_at.checked_sub(8 * count).map(|at| at & !7),
        None,
        AddressForm::Absolute,
    );
    // Since 6.4: behind the tokens.
    for align in [8, 4] {
        let at = tokens.end.next_multiple_of(align);
        let base = u64_at(image.bytes, (at + 4 * count).next_multiple_of(8));
        for form in based {
            add(Some(at), base, form);
        }
        add(Some(at), None, AddressForm::SelfRelative);
    }
    tables
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes
        .get(at..at.checked_add(8)?)?
        .try_into()
        .ok()
        .map(u64::from_le_bytes)
}
