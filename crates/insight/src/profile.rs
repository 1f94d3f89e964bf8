//! A profile: all that is known of one kernel build. Made once from a guest's memory, then kept.

use probe::{From, Operation};
use x86::Gva;

use crate::btf::{self, Types};
use crate::kallsyms::{self, Decoded, Image};
use crate::layout::Layouts;
use crate::space::{IMAGE_MAX, IMAGE_VA};
use crate::symbols::Symbols;

/// `TASK_COMM_LEN` (include/linux/sched.h).
const COMM: u16 = 16;
/// Longest banner kept.
pub const MAX_BANNER: usize = 512;
/// What a build-id note begins with: lengths, type, owner.
const NOTE: &[u8] = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0";
/// Bytes of a build-id.
const BUILD_ID: usize = 20;

/// One kernel build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// `linux_banner`, without its line end.
    pub banner: String,
    /// The build-id, and where its note's bytes lie from `_text`.
    pub build_id: Option<([u8; BUILD_ID], i64)>,
    /// How addresses of symbols are written in this kernel.
    pub form: String,
    /// Its symbols.
    pub symbols: Symbols,
    /// Its structures, if it carries BTF.
    pub layouts: Option<Layouts>,
}

impl Profile {
    /// Decodes everything from a copy of the kernel image; also the address of `_text`.
    pub fn decode(image: Image<'_>) -> Option<(Profile, Gva)> {
        let decoded = kallsyms::decode(image)?;
        let text = decoded
            .address("_text")
            .or_else(|| decoded.address("_stext"))?;
        let at = |address: Gva, len: usize| bytes_at(image, address, len);
        let banner = at(decoded.address("linux_banner")?, MAX_BANNER)?;
        let end = banner.iter().position(|byte| b"\0\n".contains(byte))?;
        let banner = String::from_utf8_lossy(&banner[..end]).into_owned();
        let layouts = btf_bytes(image, &decoded)
            .and_then(Types::parse)
            .map(|types| Layouts::collect(&types));
        let profile = Profile {
            banner,
            build_id: build_id(image, &decoded, text),
            form: format!("{:?}", decoded.form),
            symbols: Symbols::new(&decoded.symbols, text.0),
            layouts,
        };
        Some((profile, text))
    }

    /// The release in the banner, `6.1.0-56-cloud-amd64`.
    pub fn release(&self) -> &str {
        self.banner.split(' ').nth(2).unwrap_or_default()
    }

    /// The build-id in hexadecimal.
    pub fn build_id_hex(&self) -> Option<String> {
        let (id, _) = self.build_id?;
        Some(id.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// Where `_text` is in a kernel of this build whose entry for 64-bit system calls (`IA32_LSTAR`) is at `entry`; `None` if no
    /// kernel can lie like that. It is the guest who says where its entry is.
    pub fn text_by_entry(&self, entry: Gva) -> Option<Gva> {
        let text = entry
            .0
            .wrapping_sub(self.offset("entry_SYSCALL_64")? as u64);
        let is_possible = (IMAGE_VA..IMAGE_VA + IMAGE_MAX).contains(&text) && text & 0x1f_ffff == 0;
        is_possible.then_some(Gva(text))
    }

    /// How to take down who runs on a CPU, from where GS begins in the kernel: the task, its top page table's address, its name, and
    /// where its program's code begins and ends. `None` if this build does not say: it has no type information, or variables of
    /// each CPU are where the image has been moved to (since 6.15).
    pub fn running(&self) -> Option<Vec<Operation>> {
        let at = |of: &str, member: &str| {
            let place = self.layouts.as_ref()?.place(of, member).ok()?;
            i64::try_from(place.offset).ok()
        };
        let variable = |name: &str| {
            let kept = self.symbols.named(name).next()?;
            (!kept.is_relative).then_some(kept.value)
        };
        let current = variable("current_task")
            .or_else(|| Some(variable("pcpu_hot")? + at("pcpu_hot", "current_task")?))?;
        let mm = at("task_struct", "mm")?;
        let number = |from, path: &[i64]| Operation::Number {
            from,
            path: path.to_vec(),
            bytes: 8,
        };
        let task = From::Value(0);
        Some(vec![
            number(From::Gs, &[current]),
            number(task, &[mm, at("mm_struct", "pgd")?]),
            Operation::Text {
                from: task,
                path: vec![at("task_struct", "comm")?],
                most: COMM,
            },
            number(task, &[mm, at("mm_struct", "start_code")?]),
            number(task, &[mm, at("mm_struct", "end_code")?]),
        ])
    }

    /// The function or other symbol that an address so far behind `_text` belongs to; none if it is not the image's.
    pub fn symbol_of(&self, offset: u64) -> Option<&[u8]> {
        let offset = i64::try_from(offset).ok()?;
        if offset >= self.offset("_end")? {
            return None;
        }
        let (_, kept) = self.symbols.before(offset)?;
        Some(kept.name)
    }

    /// Where a symbol lies from `_text`, if it moves with the image.
    pub fn offset(&self, name: &str) -> Option<i64> {
        self.symbols
            .named(name)
            .find(|kept| kept.is_relative)
            .map(|kept| kept.value)
    }
}

fn bytes_at(image: Image<'_>, address: Gva, len: usize) -> Option<&[u8]> {
    let at = usize::try_from(address.0.checked_sub(image.start?.0)?).ok()?;
    image.bytes.get(at..at.checked_add(len)?)
}

fn btf_bytes<'a>(image: Image<'a>, decoded: &Decoded) -> Option<&'a [u8]> {
    let start = decoded.address("__start_BTF")?;
    let stop = decoded.address("__stop_BTF")?;
    let len = usize::try_from(stop.0.checked_sub(start.0)?)
        .ok()
        .filter(|&len| len <= btf::MAX_BYTES)?;
    bytes_at(image, start, len)
}

/// The note with the build-id, between the symbols that bound the kernel's notes.
fn build_id(image: Image<'_>, decoded: &Decoded, text: Gva) -> Option<([u8; BUILD_ID], i64)> {
    let start = decoded.address("__start_notes")?;
    let stop = decoded.address("__stop_notes")?;
    let len = usize::try_from(stop.0.checked_sub(start.0)?)
        .ok()
        .filter(|&len| len <= 0x10000)?;
    let notes = bytes_at(image, start, len)?;
    let at = memchr::memmem::find(notes, NOTE)? + NOTE.len();
    let id = notes.get(at..at + BUILD_ID)?.try_into().ok()?;
    Some((
        id,
        (start.0.wrapping_sub(text.0) as i64).checked_add(at as i64)?,
    ))
}
