//! Symbols as `/proc/kallsyms` has them: `ffffffff81000000 T _text`, and behind a tab the module that a symbol is of.

use std::collections::HashSet;
use std::io::{self, Write};

use x86::Gva;

use crate::blind::Blind;
use crate::look::{Look, Object};

/// `Elf64_Sym` (System V gABI, "Symbol Table").
const SYMBOL_BYTES: usize = 24;
/// Most symbols and bytes of names that are read of one module.
const MAX_SYMBOLS: u64 = 1 << 20;
const MAX_EXPORTED: u64 = 1 << 16;
const MAX_NAMES: usize = 16 << 20;
const MAX_NAME: usize = 512;

/// A symbol of a module.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ModuleSymbol {
    address: u64,
    kind: u8,
    name: String,
}

/// Symbols of a module by its name.
type OfModule = (String, Vec<ModuleSymbol>);

/// How many symbols were written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Of the kernel.
    pub of_kernel: usize,
    /// Of its modules.
    pub of_modules: usize,
}

/// Every symbol that the kernel and its modules have.
pub struct Kallsyms<'l, 'k> {
    look: &'l Look<'k>,
    modules: Vec<OfModule>,
}

impl<'k> Look<'k> {
    /// Every symbol. What a module's own table does not tell is left out, as modules come and go.
    pub fn kallsyms(&self) -> Kallsyms<'_, 'k> {
        let modules = self.read_modules().unwrap_or_default();
        let of_module = |module: crate::modules::Module| {
            let symbols = self.module_symbols(Gva(module.address)).ok()?;
            Some((module.name, symbols))
        };
        Kallsyms {
            look: self,
            modules: modules.into_iter().filter_map(of_module).collect(),
        }
    }

    /// A module's table of symbols, in its order.
    fn module_symbols(&self, address: Gva) -> Result<Vec<ModuleSymbol>, Blind> {
        let module = self.object("module", address)?;
        let tables = self.object("mod_kallsyms", module.pointer("kallsyms")?)?;
        let count = tables.number("num_symtab")?.min(MAX_SYMBOLS) as usize;
        let symbols = self
            .space()
            .bytes(tables.pointer("symtab")?, count * SYMBOL_BYTES)?;
        let (entries, _) = symbols.as_chunks::<SYMBOL_BYTES>();
        let kinds = self.kinds(&tables, entries)?;
        let exported = self.exported(&module)?;
        let names_len = entries.iter().map(|entry| word(entry) as usize).max();
        let names_at = tables.pointer("strtab")?;
        let names = self.names(names_at, names_len.unwrap_or(0).min(MAX_NAMES))?;
        let symbol = |(entry, kind): (&[u8; SYMBOL_BYTES], u8)| {
            let name = names.get(word(entry) as usize..)?;
            let len = name.iter().take(MAX_NAME).position(|&byte| byte == 0)?;
            let name = std::str::from_utf8(&name[..len]).ok()?;
            let is_plain = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
            let (_, address) = entry.split_at(8);
            let address = address.first_chunk().copied().map(u64::from_le_bytes)?;
            // What everybody may use is told in capitals, what only some may is not.
            let kind = match exported.contains(&address) {
                true => kind.to_ascii_uppercase(),
                false => kind.to_ascii_lowercase(),
            };
            (is_plain && address != 0).then(|| ModuleSymbol {
                address,
                kind,
                name: name.to_owned(),
            })
        };
        Ok(entries.iter().zip(kinds).filter_map(symbol).collect())
    }

    /// Addresses that a module offers to all others (`EXPORT_SYMBOL`). Since 4.19 its table has distances from themselves.
    fn exported(&self, module: &Object<'_>) -> Result<HashSet<u64>, Blind> {
        let table = module.pointer("syms")?;
        let count = module.number("num_syms")?.min(MAX_EXPORTED);
        let layouts = self.layouts()?;
        let size = layouts.size("kernel_symbol")? as u64;
        let distance = layouts.place("kernel_symbol", "value_offset");
        let (at, is_distance) = match distance {
            Ok(place) => (place.offset as u64, true),
            Err(_) => (self.offset("kernel_symbol", "value")?, false),
        };
        let address = |index: u64| {
            let at = Gva(table.0.wrapping_add(index * size + at));
            Ok(match is_distance {
                true => {
                    at.0.wrapping_add(i64::from(self.space().u32(at)? as i32) as u64)
                }
                false => self.space().u64(at)?,
            })
        };
        (0..count).map(address).collect()
    }

    /// nm's letter of each symbol: in a table of their own since 5.2, before that where ELF has other things.
    fn kinds(&self, tables: &Object<'_>, entries: &[[u8; SYMBOL_BYTES]]) -> Result<Vec<u8>, Blind> {
        let kinds = if tables.has("typetab") {
            self.space()
                .bytes(tables.pointer("typetab")?, entries.len())?
        } else {
            entries.iter().map(|entry| entry[4]).collect()
        };
        let letter = |kind: u8| if kind.is_ascii_graphic() { kind } else { b'?' };
        Ok(kinds.into_iter().map(letter).collect())
    }

    /// Names up to one that begins at `last`, as far as they can be read: nobody says how long the last one is.
    fn names(&self, at: Gva, last: usize) -> Result<Vec<u8>, Blind> {
        let mut names = self.space().bytes(at, last)?;
        let end = Gva(at.0.wrapping_add(last as u64));
        let name = self.space().text(end, MAX_NAME)?;
        names.extend(name.as_bytes());
        names.push(0);
        Ok(names)
    }
}

fn word(entry: &[u8; SYMBOL_BYTES]) -> u32 {
    let [a, b, c, d, ..] = *entry;
    u32::from_le_bytes([a, b, c, d])
}

impl Kallsyms<'_, '_> {
    /// Writes all of them, the kernel's first.
    ///
    /// # Errors
    /// Of `to`.
    pub fn write(&self, to: &mut dyn Write) -> io::Result<Written> {
        let mut written = Written::default();
        for (address, kind, name) in self.look.kernel().symbols() {
            if let Ok(name) = std::str::from_utf8(name) {
                line(to, address.0, kind, name, None)?;
                written.of_kernel += 1;
            }
        }
        for (module, symbols) in &self.modules {
            for symbol in symbols {
                line(to, symbol.address, symbol.kind, &symbol.name, Some(module))?;
                written.of_modules += 1;
            }
        }
        Ok(written)
    }
}

fn line(
    to: &mut dyn Write,
    address: u64,
    kind: u8,
    name: &str,
    module: Option<&str>,
) -> io::Result<()> {
    let kind = char::from(kind);
    match module {
        None => writeln!(to, "{address:016x} {kind} {name}"),
        Some(module) => writeln!(to, "{address:016x} {kind} {name}\t[{module}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_as_the_kernel_writes_it() {
        let check = |module, expected: &str| {
            let mut text = Vec::new();
            line(&mut text, 0xffff_ffff_c000_1000, b't', "init", module).unwrap();
            assert_eq!(String::from_utf8(text).unwrap(), expected);
        };
        check(None, "ffffffffc0001000 t init\n");
        check(Some("veth"), "ffffffffc0001000 t init\t[veth]\n");
    }
}
