//! A kernel that was recognised in a guest's memory, and how it is recognised.
//!
//! [`attach`] goes down a ladder and says on which rung it stands. Registers lead to the image in memory. If that is the
//! kernel that the VMM loaded, symbols and type information are those of the kernel file, and nothing in the guest has a
//! word in them. If it is another (a guest may start one by kexec), or the file could not be read, they are taken from the
//! guest's own memory, for this guest alone: the symbols lead to VMCOREINFO, which must agree with all of it. Without
//! registers VMCOREINFO is looked for in all of memory and leads to the image. A kernel that is known by content, and by
//! nothing that agrees, is still known, on a lower rung. What disagrees is named in [`Kernel::disputes`].

#[cfg(test)]
mod guest_tests;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use memchr::memmem;
use thiserror::Error;
use x86::{Gpa, Gva, PAGE_SIZE};

use crate::account::{Account, Cost, Limits};
use crate::anchor::{self, Anchor};
use crate::blind::Blind;
use crate::image::Loaded;
use crate::kallsyms::Image;
use crate::memory::Memory;
use crate::observed::Rung;
use crate::profile::Profile;
use crate::registers::Registers;
use crate::space::{IMAGE_MAX, IMAGE_VA, Root, Space};
use crate::vmcoreinfo::{self, VmCoreInfo};

/// Largest image that is copied to be decoded.
const MAX_IMAGE: u64 = 256 << 20;
/// How a kernel's banner begins, its greatest length, and how often these words are looked at.
const BANNER: &str = "Linux version ";
const MAX_BANNER: usize = 512;
const MAX_PLACES: usize = 64;
/// Symbols that registers lead to.
const ANCHORS: [&str; 5] = [
    "_stext",
    "entry_SYSCALL_64",
    "asm_exc_page_fault",
    "page_fault",
    "async_page_fault",
];
/// Pieces in which a kernel is moved (CONFIG_PHYSICAL_ALIGN).
const PIECE: u64 = 2 << 20;
/// VMCOREINFO that disagrees is read again so much later: a kernel that boots is just writing it.
const PAUSE: Duration = Duration::from_millis(20);
/// Where `_text` is linked in kernels as distributions build them (CONFIG_PHYSICAL_START).
const LINKED_TEXT: u64 = IMAGE_VA + 0x100_0000;

/// Why a guest's kernel is not known.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("no Linux kernel was recognised: {}", .tried.join("; "))]
pub struct NotRecognised {
    /// What was tried, and what stood in the way of each.
    pub tried: Vec<String>,
    /// What the image that registers lead to calls itself, if that is all that is known: the lowest rung.
    pub banner: Option<String>,
}

impl NotRecognised {
    /// The release in the banner, `6.1.0-56-cloud-amd64`.
    pub fn release(&self) -> Option<&str> {
        self.banner.as_deref()?.split(' ').nth(2)
    }
}

/// A recognised kernel. It knows where everything is and holds nothing of what the guest does; see
/// [`look`](crate::Look).
pub struct Kernel {
    /// The guest's memory.
    pub(crate) memory: Arc<dyn Memory>,
    /// Its build.
    pub(crate) profile: Arc<Profile>,
    /// Where `_text` is.
    pub(crate) text: Gva,
    /// Physical address of `IMAGE_VA`.
    pub(crate) phys_base: u64,
    /// The kernel's own tables.
    pub(crate) root: Root,
    /// On what this stands.
    rung: Rung,
    disputes: Vec<String>,
    /// The banner of the kernel that was loaded, if another one runs.
    replaces: Option<String>,
    /// The kernel file, if it is this kernel's.
    loaded: Option<Loaded>,
    is_from_cache: bool,
    cost: Cost,
    vmcoreinfo: Option<VmCoreInfo>,
}

/// A stretch of the kernel's address space that lies in one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Where it is mapped.
    pub gva: Gva,
    /// Where it lies.
    pub gpa: Gpa,
    /// How long it is.
    pub len_bytes: u64,
}

/// Recognises the kernel of a guest. `loaded` is what the VMM loaded, if that is known: only from there does anything come
/// that another guest may have seen too.
///
/// # Errors
/// If nothing in the guest proves to be a Linux kernel; with everything that was tried.
pub fn attach(
    memory: Arc<dyn Memory>,
    registers: &[Registers],
    loaded: Option<&Loaded>,
) -> Result<Kernel, NotRecognised> {
    attach_within(memory, registers, loaded, Limits::default())
}

/// [`attach`] that may cost so much.
///
/// # Errors
/// As [`attach`].
pub fn attach_within(
    memory: Arc<dyn Memory>,
    registers: &[Registers],
    loaded: Option<&Loaded>,
    limits: Limits,
) -> Result<Kernel, NotRecognised> {
    let account = Account::new(limits);
    let mut tried = Vec::new();
    let from_registers = anchor::from_registers(&*memory, &account, registers);
    let mut attempt = |anchor: &Anchor| {
        recognise(&memory, &account, anchor, loaded)
            .map_err(|why| tried.push(why))
            .ok()
    };
    if let Ok(anchor) = &from_registers
        && let Some(kernel) = roots(anchor.root).find_map(|root| {
            attempt(&Anchor {
                root,
                ..anchor.clone()
            })
        })
    {
        return Ok(kernel);
    }
    let infos = vmcoreinfo::scan(&*memory, &account);
    let anchors = infos.iter().flatten().filter_map(anchor::from_vmcoreinfo);
    if let Some(kernel) = anchors.collect::<Vec<_>>().iter().find_map(&mut attempt) {
        return Ok(kernel);
    }
    if let Err(blind) = &from_registers {
        tried.insert(0, format!("by registers: {blind}"));
    }
    match infos {
        Ok(infos) if infos.is_empty() => tried.push("by VMCOREINFO: memory has none".to_owned()),
        Ok(_) => {}
        Err(blind) => tried.push(format!("by VMCOREINFO: {blind}")),
    }
    let banner = from_registers
        .ok()
        .and_then(|anchor| banner(&*memory, &account, &anchor).ok()?);
    tried.dedup();
    if let Some(banner) = &banner {
        tried.push(format!("it calls itself \"{banner}\""));
    }
    Err(NotRecognised { tried, banner })
}

/// Recognises the kernel of a guest by a VMCOREINFO that came with its memory: in a note of a dump, say. It leads to the
/// image; what is believed is what the image proves, and what of it disagrees is a dispute.
///
/// # Errors
/// If it leads to no kernel; then [`attach`] may still find one.
pub fn attach_told(
    memory: &Arc<dyn Memory>,
    told: &VmCoreInfo,
    limits: Limits,
) -> Result<Kernel, NotRecognised> {
    let not = |why: String| NotRecognised {
        tried: vec![why],
        banner: None,
    };
    let anchor = anchor::from_vmcoreinfo(told)
        .ok_or_else(|| not("the VMCOREINFO that was brought leads nowhere".to_owned()))?;
    recognise(memory, &Account::new(limits), &anchor, None).map_err(not)
}

/// What an image without symbols calls itself.
fn banner(
    memory: &dyn Memory,
    account: &Account,
    anchor: &Anchor,
) -> Result<Option<String>, Blind> {
    Ok(banner_in(
        &image(&Space::new(memory, account, Some(anchor.root)), anchor)?.1,
    ))
}

/// The first "Linux version " that a number and a line's end follow.
fn banner_in(bytes: &[u8]) -> Option<String> {
    let places = memmem::find_iter(bytes, BANNER.as_bytes());
    places.take(MAX_PLACES).find_map(|at| {
        let line = bytes.get(at..)?.get(..MAX_BANNER)?;
        let end = line.iter().position(|byte| b"\0\n".contains(byte))?;
        let line = std::str::from_utf8(&line[..end]).ok()?;
        let is_release = line
            .as_bytes()
            .get(BANNER.len())
            .is_some_and(u8::is_ascii_digit);
        (is_release && !line.chars().any(char::is_control)).then(|| line.to_owned())
    })
}

/// The tables that a vCPU has, and those of the kernel if these are the ones for user mode (page-table isolation keeps
/// the two side by side, the kernel's first).
fn roots(root: Root) -> impl Iterator<Item = Root> {
    let kernel = Root {
        gpa: Gpa(root.gpa.0 & !0x1fff),
        ..root
    };
    std::iter::once(root).chain((kernel != root).then_some(kernel))
}

fn recognise(
    memory: &Arc<dyn Memory>,
    account: &Account,
    anchor: &Anchor,
    loaded: Option<&Loaded>,
) -> Result<Kernel, String> {
    let space = Space::new(&**memory, account, Some(anchor.root));
    let known = loaded.and_then(|loaded| Some((loaded, placed(&space, anchor, loaded.profile())?)));
    let (phys_base, text, profile, rung, mut disputes) = match &known {
        Some((loaded, placed)) => (
            placed.phys_base,
            placed.text,
            Arc::clone(loaded.profile()),
            Rung::Image,
            placed.disputes.clone(),
        ),
        None => {
            let (profile, text) = decode(&space, anchor)
                .map_err(|blind| format!("at {:#x}: {blind}", anchor.phys_base))?;
            let rung = match profile.layouts {
                Some(_) => Rung::Content,
                None => Rung::Symbols,
            };
            (anchor.phys_base, text, Arc::new(profile), rung, Vec::new())
        }
    };
    disputes.extend(anchor.disputes.iter().cloned());
    let mut kernel = Kernel {
        memory: Arc::clone(memory),
        root: anchor.root,
        text,
        phys_base,
        rung,
        profile,
        disputes,
        replaces: loaded
            .filter(|_| known.is_none())
            .map(|loaded| loaded.profile().banner.clone()),
        is_from_cache: known
            .as_ref()
            .is_some_and(|(loaded, _)| loaded.is_from_cache()),
        loaded: known.map(|(loaded, _)| loaded.clone()),
        cost: Cost::default(),
        vmcoreinfo: None,
    };
    let table = ["init_top_pgt", "init_level4_pgt"]
        .into_iter()
        .find_map(|name| kernel.address(name).ok());
    if let Some(gpa) = table.and_then(|table| anchor::image_gpa(kernel.phys_base, table)) {
        kernel.root.gpa = gpa;
    }
    kernel.cross_check(account);
    kernel.cost = account.cost();
    Ok(kernel)
}

/// Where the kernel that was loaded lies.
struct Placed {
    /// Where `_text` is.
    text: Gva,
    /// Physical address of `IMAGE_VA`.
    phys_base: u64,
    /// What in memory says that it is another.
    disputes: Vec<String>,
}

/// Looks for the kernel of `profile` where registers lead to. If they lead to no entry of it, it is looked for wherever the
/// guest's tables map something that a kernel may begin at: entries are what is changed first.
fn placed(space: &Space<'_>, anchor: &Anchor, profile: &Profile) -> Option<Placed> {
    let handlers = anchor.handlers.iter().flat_map(|handler| {
        let offsets = ANCHORS.iter().filter_map(|name| profile.offset(name));
        offsets.filter_map(|offset| (handler.0 as i64).checked_sub(offset))
    });
    let by_handler = handlers
        .map(|text| text as u64)
        .filter(|text| (IMAGE_VA..IMAGE_VA + IMAGE_MAX).contains(text))
        .find_map(|text| marked(space, anchor.phys_base, text, profile));
    if by_handler.is_some() {
        return by_handler;
    }
    let starts = (IMAGE_VA..IMAGE_VA + IMAGE_MAX).step_by(PIECE as usize);
    starts
        .filter_map(|start| {
            let gpa = space.walk(Gva(start)).ok()?.gpa;
            Some((start, gpa.0.wrapping_sub(start - IMAGE_VA)))
        })
        .find_map(|(text, phys_base)| marked(space, phys_base, text, profile))
}

/// Whether memory at a place has what marks this kernel: its banner, its build-id. One is enough, as a guest can write over
/// each; then the other is a dispute.
fn marked(space: &Space<'_>, phys_base: u64, text: u64, profile: &Profile) -> Option<Placed> {
    let has = |offset: i64, expected: &[u8]| {
        let gpa = anchor::image_gpa(phys_base, Gva(text.wrapping_add(offset as u64)))?;
        let mut bytes = vec![0; expected.len()];
        space.read_physical(gpa, &mut bytes).ok()?;
        Some(bytes == expected)
    };
    let banner = has(profile.offset("linux_banner")?, profile.banner.as_bytes());
    let build_id = profile
        .build_id
        .map(|(id, offset)| has(offset, &id) == Some(true));
    let has_banner = banner == Some(true);
    if !has_banner && build_id != Some(true) {
        return None;
    }
    let mut disputes = Vec::new();
    if !has_banner {
        disputes.push("the banner in memory is not that of the kernel file".to_owned());
    }
    if build_id == Some(false) {
        disputes.push("the build-id in memory is not that of the kernel file".to_owned());
    }
    Some(Placed {
        text: Gva(text),
        phys_base,
        disputes,
    })
}

fn decode(space: &Space<'_>, anchor: &Anchor) -> Result<(Profile, Gva), Blind> {
    let (start, bytes) = image(space, anchor)?;
    Profile::decode(Image {
        bytes: &bytes,
        start: Some(start),
    })
    .ok_or_else(|| Blind::nonsense("kernel image has no symbol tables that prove themselves"))
}

/// The image, and where it starts.
fn image(space: &Space<'_>, anchor: &Anchor) -> Result<(Gva, Vec<u8>), Blind> {
    let range = anchor::image_range(space, anchor)?;
    let start = anchor::image_gpa(anchor.phys_base, Gva(range.start))
        .ok_or(Blind::Unmapped(Gva(range.start)))?;
    let len = (range.end - range.start).min(MAX_IMAGE) as usize;
    let mut bytes = vec![0; len];
    space.read_physical(start, &mut bytes)?;
    Ok((Gva(range.start), bytes))
}

impl Kernel {
    /// Compares what was found with what the kernel says of itself.
    fn cross_check(&mut self, account: &Account) {
        let Some(mut info) = self.read_vmcoreinfo(account) else {
            return;
        };
        let mut disputes = self.disputed_by(&info);
        if !disputes.is_empty() {
            thread::sleep(PAUSE);
            if let Some(later) = self.read_vmcoreinfo(account) {
                disputes = self.disputed_by(&later);
                info = later;
            }
        }
        self.disputes.extend(disputes);
        if self.disputes.is_empty() && self.rung == Rung::Content {
            self.rung = Rung::Profile;
        }
        self.vmcoreinfo = Some(info);
    }

    fn read_vmcoreinfo(&self, account: &Account) -> Option<VmCoreInfo> {
        let space = self.space(account);
        let page = space.u64(self.address("vmcoreinfo_data").ok()?).ok()?;
        VmCoreInfo::at(&space.bytes(Gva(page), 4096).ok()?)
    }

    fn disputed_by(&self, info: &VmCoreInfo) -> Vec<String> {
        let by = match self.rung {
            Rung::Image => "by the kernel file and where it lies",
            _ => "by content",
        };
        let mut disputes = Vec::new();
        let mut check = |what: &str, ours: Option<String>, theirs: Option<String>| {
            if let (Some(ours), Some(theirs)) = (ours, theirs)
                && ours != theirs
            {
                disputes.push(format!("{what} is {ours} {by} and {theirs} by VMCOREINFO"));
            }
        };
        for name in [
            "_stext",
            "init_top_pgt",
            "init_uts_ns",
            "node_online_map",
            "swapper_pg_dir",
        ] {
            let ours = self.address(name).ok().map(|gva| gva.to_string());
            check(name, ours, info.symbol(name).map(|gva| gva.to_string()));
        }
        let hex = |number: u64| format!("{number:#x}");
        check(
            "phys_base",
            Some(hex(self.phys_base)),
            info.phys_base().map(hex),
        );
        check(
            "the release",
            Some(self.profile.release().to_owned()),
            info.release().map(str::to_owned),
        );
        check(
            "the build-id",
            self.profile.build_id_hex(),
            info.build_id().map(str::to_owned),
        );
        if let Some(levels) = info.levels() {
            check(
                "the depth of page tables",
                Some(self.root.levels.to_string()),
                Some(levels.to_string()),
            );
        }
        disputes
    }

    /// The kernel's address space.
    pub(crate) fn space<'a>(&'a self, account: &'a Account) -> Space<'a> {
        let end = ["_end", "__brk_limit"]
            .into_iter()
            .find_map(|name| self.address(name).ok());
        let start = self.address("_text").map_or(self.text.0, |text| text.0);
        let end = end.map_or(start, |end| end.0.clamp(start, IMAGE_VA + IMAGE_MAX));
        Space::new(&*self.memory, account, Some(self.root)).with_image(self.phys_base, start..end)
    }

    /// Address of the first symbol of this name; of a per-CPU variable of kernels before 6.15, its offset.
    ///
    /// # Errors
    /// If the kernel has no such symbol.
    pub fn address(&self, name: &str) -> Result<Gva, Blind> {
        let kept = self
            .profile
            .symbols
            .named(name)
            .next()
            .ok_or_else(|| Blind::NoSymbol(name.to_owned()))?;
        Ok(self.place(kept.value, kept.is_relative))
    }

    fn place(&self, value: i64, is_relative: bool) -> Gva {
        Gva(if is_relative {
            self.text.0.wrapping_add(value as u64)
        } else {
            value as u64
        })
    }

    /// Every symbol: address, nm's letter, name. The order is that of the addresses.
    pub fn symbols(&self) -> impl Iterator<Item = (Gva, u8, &[u8])> {
        let symbols = &self.profile.symbols;
        (0..symbols.len()).filter_map(move |number| {
            let kept = symbols.entry(number)?;
            Some((
                self.place(kept.value, kept.is_relative),
                kept.kind,
                kept.name,
            ))
        })
    }

    /// How far the kernel moved, by its own word if it says so.
    fn slide(&self) -> u64 {
        let said = self.vmcoreinfo().and_then(VmCoreInfo::kaslr_slide);
        said.unwrap_or_else(|| self.kaslr_slide())
    }

    /// Every symbol as the kernel was linked, before it was moved: address, nm's letter, name, in the order of addresses.
    pub fn linked_symbols(&self) -> impl Iterator<Item = (Gva, u8, &[u8])> {
        let text = self.text.0.wrapping_sub(self.slide());
        let symbols = &self.profile.symbols;
        (0..symbols.len()).filter_map(move |number| {
            let kept = symbols.entry(number)?;
            let value = kept.value as u64;
            let address = if kept.is_relative {
                text.wrapping_add(value)
            } else {
                value
            };
            Some((Gva(address), kept.kind, kept.name))
        })
    }

    /// Symbols that the kernel names to crash dumps and has not in its table, as it was linked: the tables themselves, say.
    pub fn linked_by_vmcoreinfo(&self) -> impl Iterator<Item = (Gva, &str)> {
        let slide = self.slide();
        let named = self.vmcoreinfo().into_iter().flat_map(VmCoreInfo::symbols);
        let in_image = named.filter(|(name, gva)| {
            (IMAGE_VA..IMAGE_VA + IMAGE_MAX).contains(&gva.0) && self.address(name).is_err()
        });
        in_image.map(move |(name, gva)| (Gva(gva.0.wrapping_sub(slide)), name))
    }

    /// The symbol that an address in the image belongs to, and how far behind it: `do_syscall_64+0x3b`.
    pub fn describe(&self, gva: Gva) -> Option<(String, u64)> {
        let offset = gva.0.wrapping_sub(self.text.0) as i64;
        let end = self.profile.offset("_end")?;
        if !(0..end).contains(&offset) {
            return None;
        }
        let (_, kept) = self.profile.symbols.before(offset)?;
        Some((
            String::from_utf8_lossy(kept.name).into_owned(),
            (offset - kept.value) as u64,
        ))
    }

    /// The build: symbols and structures.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// The line that the kernel prints about itself first.
    pub fn banner(&self) -> &str {
        &self.profile.banner
    }

    /// The release, as `uname -r` says.
    pub fn release(&self) -> &str {
        self.profile.release()
    }

    /// Which build it is, as `uname -v` says: what follows the compiler in the banner.
    pub fn version(&self) -> &str {
        let banner = self.banner();
        let at = banner.rfind(" #").map_or(banner.len(), |at| at + 1);
        banner[at..].trim_end()
    }

    /// The build-id in hexadecimal.
    pub fn build_id(&self) -> Option<String> {
        self.profile.build_id_hex()
    }

    /// On what everything read through this kernel stands.
    pub fn rung(&self) -> Rung {
        self.rung
    }

    /// What does not agree about where the kernel is or which it is. Not empty: the profile is disputed.
    pub fn disputes(&self) -> &[String] {
        &self.disputes
    }

    /// The banner of the kernel that the VMM loaded, if another one runs now.
    pub fn replaces(&self) -> Option<&str> {
        self.replaces.as_deref()
    }

    /// The kernel file that this kernel came out of; none if its own memory is all that tells of it.
    pub(crate) fn loaded(&self) -> Option<&Loaded> {
        self.loaded.as_ref()
    }

    /// Whether what marks this kernel is still where it was found: a guest may start another kernel at any time.
    pub fn is_still_there(&self) -> bool {
        let account = self.account();
        let space = self.space(&account);
        marked(&space, self.phys_base, self.text.0, &self.profile).is_some()
    }

    /// Whether the profile came from the cache.
    pub fn is_from_cache(&self) -> bool {
        self.is_from_cache
    }

    /// What attaching cost.
    pub fn attach_cost(&self) -> Cost {
        self.cost
    }

    /// How far the kernel moved from where it was linked.
    pub fn kaslr_slide(&self) -> u64 {
        self.text.0.wrapping_sub(LINKED_TEXT)
    }

    /// Physical address of where an image would begin that is not moved (`phys_base` in the kernel's own words); wrapping.
    pub fn phys_base(&self) -> u64 {
        self.phys_base
    }

    /// Where the image is mapped, whole pages from `_text` to `_end`, and where it lies.
    ///
    /// # Errors
    /// If the kernel has no such symbols.
    pub fn placement(&self) -> Result<Placement, Blind> {
        let start = Gva(self.address("_text")?.0 & !(PAGE_SIZE - 1));
        let end = self.address("_end")?.0.next_multiple_of(PAGE_SIZE);
        let gpa = anchor::image_gpa(self.phys_base, start).ok_or(Blind::Unmapped(start))?;
        let len_bytes = end.checked_sub(start.0).filter(|len| *len <= IMAGE_MAX);
        Ok(Placement {
            gva: start,
            gpa,
            len_bytes: len_bytes.ok_or_else(|| Blind::nonsense("kernel ends before it begins"))?,
        })
    }

    /// What the kernel says of itself to crash dumps, if it does.
    pub fn vmcoreinfo(&self) -> Option<&VmCoreInfo> {
        self.vmcoreinfo.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_banner_is_a_line_with_a_release() {
        let check = |text: &str, expected: Option<&str>| {
            let bytes = [text.as_bytes(), &[0; MAX_BANNER]].concat();
            assert_eq!(banner_in(&bytes).as_deref(), expected, "{text:?}");
        };
        check(
            "x\0Linux version %s\nLinux version 6.1.0-56 (gcc) #1\n",
            Some("Linux version 6.1.0-56 (gcc) #1"),
        );
        check("Linux version 6.1\x1b[2J\n", None);
        check("Linux versions 6", None);
        let not = NotRecognised {
            tried: vec![],
            banner: Some("Linux version 6.1.0 (x)".to_owned()),
        };
        assert_eq!(not.release(), Some("6.1.0"));
    }
}
