//! A kernel that was recognised in a guest's memory, and how it is recognised.
//!
//! [`attach`] goes down a ladder and says on which rung it stands: registers lead to the image, the image has symbols and
//! type information, the symbols lead to VMCOREINFO, which must agree with all of it. Without registers VMCOREINFO is
//! looked for in all of memory and leads to the image. A kernel that is known by content, and by nothing that agrees, is
//! still known, on a lower rung. What disagrees is named in [`Kernel::disputes`].

use std::path::Path;
use std::sync::Arc;

use memchr::memmem;
use thiserror::Error;
use x86::{Gpa, Gva};

use crate::account::{Account, Cost, Limits};
use crate::anchor::{self, Anchor};
use crate::blind::Blind;
use crate::cache::{self, ANCHORS};
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
    is_from_cache: bool,
    cost: Cost,
    vmcoreinfo: Option<VmCoreInfo>,
}

/// Recognises the kernel of a guest. Profiles are kept in `cache_dir`, if one is given.
///
/// # Errors
/// If nothing in the guest proves to be a Linux kernel; with everything that was tried.
pub fn attach(
    memory: Arc<dyn Memory>,
    registers: &[Registers],
    cache_dir: Option<&Path>,
) -> Result<Kernel, NotRecognised> {
    attach_within(memory, registers, cache_dir, Limits::default())
}

/// [`attach`] that may cost so much.
///
/// # Errors
/// As [`attach`].
pub fn attach_within(
    memory: Arc<dyn Memory>,
    registers: &[Registers],
    cache_dir: Option<&Path>,
    limits: Limits,
) -> Result<Kernel, NotRecognised> {
    let account = Account::new(limits);
    let mut tried = Vec::new();
    let mut attempt = |anchor: &Anchor| {
        recognise(&memory, &account, anchor, cache_dir)
            .map_err(|why| tried.push(why))
            .ok()
    };
    let from_registers = anchor::from_registers(&*memory, &account, registers);
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
    cache_dir: Option<&Path>,
) -> Result<Kernel, String> {
    let space = Space::new(&**memory, account, Some(anchor.root));
    let known = cache_dir.and_then(|folder| known_profile(&space, anchor, folder));
    let is_from_cache = known.is_some();
    let (profile, text) = match known {
        Some(known) => known,
        None => decode(&space, anchor)
            .map_err(|blind| format!("at {:#x}: {blind}", anchor.phys_base))?,
    };
    if let Some(folder) = cache_dir.filter(|_| !is_from_cache) {
        // A cache that cannot be written costs time at the next attach, nothing else.
        let _ = cache::store(folder, &profile);
    }
    let mut kernel = Kernel {
        memory: Arc::clone(memory),
        root: anchor.root,
        text,
        phys_base: anchor.phys_base,
        rung: if profile.layouts.is_some() {
            Rung::Content
        } else {
            Rung::Symbols
        },
        profile: Arc::new(profile),
        disputes: anchor.disputes.clone(),
        is_from_cache,
        cost: Cost::default(),
        vmcoreinfo: None,
    };
    let table = ["init_top_pgt", "init_level4_pgt"]
        .into_iter()
        .find_map(|name| kernel.address(name).ok());
    if let Some(gpa) = table.and_then(|table| anchor::image_gpa(anchor.phys_base, table)) {
        kernel.root.gpa = gpa;
    }
    kernel.cross_check(account);
    kernel.cost = account.cost();
    Ok(kernel)
}

/// The profile in the cache that the guest's memory confirms.
fn known_profile(space: &Space<'_>, anchor: &Anchor, folder: &Path) -> Option<(Profile, Gva)> {
    let linear = |gva: Gva, len: usize| {
        let mut bytes = vec![0; len];
        space
            .read_physical(anchor::image_gpa(anchor.phys_base, gva)?, &mut bytes)
            .ok()?;
        Some(bytes)
    };
    for head in cache::heads(folder) {
        for (handler, offset) in anchor
            .handlers
            .iter()
            .flat_map(|handler| head.anchors.map(|offset| (handler, offset)))
        {
            let Some(text) = (handler.0 as i64)
                .checked_sub(offset)
                .map(|text| text as u64)
            else {
                continue;
            };
            if !(IMAGE_VA..IMAGE_VA + IMAGE_MAX).contains(&text) {
                continue;
            }
            let at = |offset: i64| Gva(text.wrapping_add(offset as u64));
            let has_banner = linear(at(head.banner_offset), head.banner.len())
                .is_some_and(|banner| banner == head.banner.as_bytes());
            let has_build_id = head.build_id.is_none_or(|(id, offset)| {
                linear(at(offset), id.len()).is_some_and(|bytes| bytes == id)
            });
            if has_banner
                && has_build_id
                && let Some(profile) = cache::load(&head)
            {
                return Some((profile, Gva(text)));
            }
        }
    }
    None
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
        let info = {
            let space = self.space(account);
            let page = self.address("vmcoreinfo_data").and_then(|pointer| {
                let page = space.u64(pointer)?;
                space.bytes(Gva(page), 4096)
            });
            page.ok().and_then(|page| VmCoreInfo::at(&page))
        };
        let Some(info) = info else { return };
        let mut disputes = Vec::new();
        let mut check = |what: &str, ours: Option<String>, theirs: Option<String>| {
            if let (Some(ours), Some(theirs)) = (ours, theirs)
                && ours != theirs
            {
                disputes.push(format!(
                    "{what} is {ours} by content and {theirs} by VMCOREINFO"
                ));
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
        self.disputes.extend(disputes);
        if self.disputes.is_empty() && self.rung == Rung::Content {
            self.rung = Rung::Profile;
        }
        self.vmcoreinfo = Some(info);
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

    /// What the kernel says of itself to crash dumps, if it does.
    pub fn vmcoreinfo(&self) -> Option<&VmCoreInfo> {
        self.vmcoreinfo.as_ref()
    }

    /// How many of the symbols that registers lead to are there; none means that registers lead elsewhere.
    pub fn known_entries(&self) -> Vec<(&'static str, Gva)> {
        ANCHORS
            .iter()
            .filter_map(|name| Some((*name, self.address(name).ok()?)))
            .collect()
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
