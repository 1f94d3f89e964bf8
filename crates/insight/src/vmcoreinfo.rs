//! VMCOREINFO: the lines in which a kernel describes itself to crash dumps (kernel documentation,
//! admin-guide/kdump/vmcoreinfo).
//!
//! There are two copies: a page that begins with the text, and an ELF note whose text begins 0x18 bytes into a page.
//! So a scan looks at the first bytes of every page and at nothing else.

use std::collections::HashMap;

use x86::{Gpa, Gva, PAGE_SIZE};

use crate::account::Account;
use crate::blind::Blind;
use crate::memory::Memory;

/// What the text begins with.
const START: &[u8] = b"OSRELEASE=";
/// Where the text begins in the ELF note.
const NOTE_HEADER: usize = 0x18;
/// The text is at most a page long.
const MAX_BYTES: usize = PAGE_SIZE as usize;

/// Most different texts that are kept: a kernel and those that were there before it.
const MAX_FOUND: usize = 8;

/// The lines, by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VmCoreInfo {
    text: String,
    lines: HashMap<String, String>,
}

impl VmCoreInfo {
    /// Reads the text; `None` if that is none.
    pub fn parse(bytes: &[u8]) -> Option<VmCoreInfo> {
        let bytes = bytes.get(..MAX_BYTES.min(bytes.len()))?;
        let end = bytes
            .iter()
            .position(|&byte| byte == 0)
            .unwrap_or(bytes.len());
        let text = std::str::from_utf8(&bytes[..end]).ok()?;
        if !text.as_bytes().starts_with(START) {
            return None;
        }
        let lines = text.lines().filter_map(|line| line.split_once('='));
        let lines: HashMap<String, String> = lines
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        // A text that happens to begin so is no VMCOREINFO.
        lines.contains_key("PAGESIZE").then(|| VmCoreInfo {
            text: text.to_owned(),
            lines,
        })
    }

    /// From a place that should hold it: the page, or the note.
    pub fn at(page: &[u8]) -> Option<VmCoreInfo> {
        VmCoreInfo::parse(page).or_else(|| VmCoreInfo::parse(page.get(NOTE_HEADER..)?))
    }

    /// The text itself, as the kernel wrote it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The kernel's release, as `uname -r` says.
    pub fn release(&self) -> Option<&str> {
        self.lines.get("OSRELEASE").map(String::as_str)
    }

    /// The build's name for itself, in hexadecimal.
    pub fn build_id(&self) -> Option<&str> {
        let id = self.lines.get("BUILD-ID")?.as_str();
        // Some kernels of 2024 print rubbish there.
        let is_plain =
            (16..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        (is_plain && id.bytes().any(|byte| byte != b'0')).then_some(id)
    }

    /// Address of a symbol.
    pub fn symbol(&self, name: &str) -> Option<Gva> {
        u64::from_str_radix(self.lines.get(&format!("SYMBOL({name})"))?, 16)
            .ok()
            .map(Gva)
    }

    /// Every symbol that it names, with its address.
    pub fn symbols(&self) -> impl Iterator<Item = (&str, Gva)> {
        self.lines.iter().filter_map(|(key, value)| {
            let name = key.strip_prefix("SYMBOL(")?.strip_suffix(')')?;
            Some((name, Gva(u64::from_str_radix(value, 16).ok()?)))
        })
    }

    /// A decimal number.
    pub fn number(&self, name: &str) -> Option<i64> {
        self.lines.get(&format!("NUMBER({name})"))?.parse().ok()
    }

    /// How far the kernel moved from where it was linked.
    pub fn kaslr_slide(&self) -> Option<u64> {
        u64::from_str_radix(self.lines.get("KERNELOFFSET")?, 16).ok()
    }

    /// Physical address of where the unmoved image would be mapped; may be negative, so wrapping.
    pub fn phys_base(&self) -> Option<u64> {
        self.number("phys_base").map(|base| base as u64)
    }

    /// 4 or 5.
    pub fn levels(&self) -> Option<u32> {
        Some(if self.number("pgtable_l5_enabled")? == 0 {
            4
        } else {
            5
        })
    }
}

/// Looks at the beginning of every page that the guest was given; every distinct text found, newest kernel's or not.
///
/// # Errors
/// If the limit is reached.
pub fn scan(memory: &dyn Memory, account: &Account) -> Result<Vec<VmCoreInfo>, Blind> {
    let mut found: Vec<VmCoreInfo> = Vec::new();
    for extent in memory.extents() {
        let end = extent.start.0.saturating_add(extent.len_bytes);
        let mut at = extent.start.0;
        while at < end {
            // Holes are asked for now and then; asking costs as much as looking.
            if at.is_multiple_of(64 * PAGE_SIZE) {
                match memory.next_data(Gpa(at)) {
                    Some(data) => at = at.max(data.0 & !(PAGE_SIZE - 1)),
                    None => break,
                }
            }
            let mut head = [0; NOTE_HEADER + START.len()];
            account.read(head.len())?;
            if memory.read(Gpa(at), &mut head).is_ok()
                && (head.starts_with(START) || head[NOTE_HEADER..] == *START)
            {
                let mut page = vec![0; MAX_BYTES];
                account.read(page.len())?;
                if memory.read(Gpa(at), &mut page).is_ok()
                    && let Some(info) = VmCoreInfo::at(&page)
                    && !found.contains(&info)
                    && found.len() < MAX_FOUND
                {
                    found.push(info);
                }
            }
            at += PAGE_SIZE;
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "OSRELEASE=6.1.0-56-cloud-amd64\nBUILD-ID=4b24a26ebd0f5a4dc3b0aa4c77e9a2ec5bd0e7a9\nPAGESIZE=4096\n\
        SYMBOL(_stext)=ffffffff9aa00000\nNUMBER(phys_base)=-130023424\nNUMBER(pgtable_l5_enabled)=0\n\
        KERNELOFFSET=19a00000\n";

    #[test]
    fn the_kernel_says_who_it_is_and_where() {
        let info = VmCoreInfo::parse(TEXT.as_bytes()).unwrap();
        assert_eq!(info.release(), Some("6.1.0-56-cloud-amd64"));
        assert_eq!(info.symbol("_stext"), Some(Gva(0xffff_ffff_9aa0_0000)));
        assert_eq!(info.phys_base(), Some(-130_023_424_i64 as u64));
        assert_eq!(
            (info.kaslr_slide(), info.levels()),
            (Some(0x19a0_0000), Some(4))
        );
        assert_eq!(info.build_id().map(str::len), Some(40));
        assert_eq!(info.symbol("nothing"), None);
    }

    #[test]
    fn a_text_that_only_begins_like_one_is_none() {
        let check = |text: &str| assert_eq!(VmCoreInfo::parse(text.as_bytes()), None, "{text}");
        check("OSRELEASE=6.1");
        check("PAGESIZE=4096\nOSRELEASE=6.1\n");
        check("");
    }
}
