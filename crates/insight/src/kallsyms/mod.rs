//! The kernel's symbols, out of the compressed tables that it carries for its own use.
//!
//! There is no one format. Between 4.6 and 7.x the address table has had four encodings, the tables three orders, the
//! lengths of names two forms, and the markers two widths. None of this is announced, so every combination is tried
//! and the one that proves itself is taken: the token index must follow from the tokens, the markers from the names, and
//! the symbol `linux_banner` must lead to the words "Linux version ".
//!
//! [`find`] locates the tables by content, [`names`] takes names apart, [`addresses`] knows the address encodings.

mod addresses;
mod find;
mod names;
#[cfg(test)]
mod tests;

use x86::Gva;

pub use addresses::AddressForm;
#[cfg(test)]
pub(crate) use find::tests::table as test_tokens;

/// Most symbols that a kernel may have here; Debian's 7.x has 190,000.
pub const MAX_SYMBOLS: usize = 4_000_000;

/// One symbol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Its address; of a per-CPU variable before 6.15, its offset.
    pub address: u64,
    /// Whether it moves with the image.
    pub is_relative: bool,
    /// The letter that nm(1) gives it.
    pub kind: u8,
    /// Its name.
    pub name: Vec<u8>,
}

/// What was decoded, and how.
#[derive(Clone, Debug)]
pub struct Decoded {
    /// In the order of the table: by address.
    pub symbols: Vec<Symbol>,
    /// The encoding that proved itself.
    pub form: AddressForm,
}

impl Decoded {
    /// Address of the first symbol of this name.
    pub fn address(&self, name: &str) -> Option<Gva> {
        let found = self
            .symbols
            .iter()
            .find(|symbol| symbol.name == name.as_bytes())?;
        Some(Gva(found.address))
    }
}

/// A copy of (a part of) the kernel image.
#[derive(Clone, Copy)]
pub struct Image<'a> {
    /// The bytes.
    pub bytes: &'a [u8],
    /// Virtual address of the first byte, if it is known.
    pub start: Option<Gva>,
}

/// Finds and decodes the tables in an image. `None` if it has none that prove themselves.
pub fn decode(image: Image<'_>) -> Option<Decoded> {
    let mut work = names::Work::new();
    find::token_tables(image.bytes)
        .into_iter()
        .find_map(|tokens| {
            let names = names::locate(image.bytes, &tokens, &mut work)?;
            let (addresses, form) = addresses::decode(image, &tokens, &names)?;
            let symbols = names.entries.into_iter().zip(addresses).map(
                |((kind, name), (address, is_relative))| Symbol {
                    address,
                    is_relative,
                    kind,
                    name,
                },
            );
            Some(Decoded {
                symbols: symbols.collect(),
                form,
            })
        })
}
