//! Boot protocols: what a kernel image is, where it goes, and what its first instruction finds.
//!
//! The format is found in the bytes, never in the name. Each protocol has its room: [`bzimage`] (Linux' 64-bit
//! entry), [`pvh`] (ELF with a Xen note, 32-bit entry), [`multiboot`] (version 1, 32-bit entry). All three inspect
//! first, from the head of a file, and load later into guest memory; whatever an image claims is checked against the
//! file's length and the guest's memory before it is used.

mod bzimage;
mod elf;
mod entry;
mod image;
mod layout;
mod loaded_kernel;
mod memory_map;
mod multiboot;
mod pvh;
#[cfg(test)]
pub(crate) mod test_images;

use std::fmt;

use mem::GuestMemory;
use serde::{Deserialize, Serialize};
use vcpu::VcpuState;
use x86::Gpa;

pub(crate) use image::open_file;
pub use image::{Image, ImageError};
pub(crate) use layout::{guest_map, low_bytes, slots};
pub(crate) use loaded_kernel::LoadedKernel;
pub use memory_map::{Range, RangeKind};

/// How a kernel wants to be started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// Linux bzImage through its 64-bit entry (Linux Documentation/arch/x86/boot.rst, "64-bit Boot Protocol").
    Linux64,
    /// ELF with a PVH note (Xen docs/misc/pvh.pandoc).
    Pvh,
    /// Multiboot version 1 (Multiboot Specification 0.6.96).
    Multiboot,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Linux64 => "bzImage, 64-bit entry",
            Protocol::Pvh => "ELF, PVH entry",
            Protocol::Multiboot => "multiboot 1",
        })
    }
}

/// What inspection found out about a kernel image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inspected {
    /// How to start it.
    pub protocol: Protocol,
    /// The longest command line it takes, if it says.
    pub cmdline_bytes: Option<usize>,
    /// First address behind what the kernel itself needs in low memory before it reads its memory map.
    pub kernel_end: u64,
    /// Last address that an initrd's last byte may have, if the kernel says.
    pub initrd_last: Option<u64>,
}

/// Finds out what `image` is.
///
/// # Errors
/// Why no protocol here can start it.
pub fn inspect(image: &Image) -> Result<Inspected, ImageError> {
    if let Some(header) = bzimage::Header::find(image)? {
        return Ok(header.inspected());
    }
    if let Some(header) = multiboot::Header::find(image)? {
        return multiboot::inspected(image, &header);
    }
    match elf::Elf::find(image)? {
        Some(elf) => pvh::inspected(image, &elf),
        None => Err(ImageError::NotAKernel),
    }
}

/// An initrd or module with the string that goes with it.
#[derive(Debug)]
pub struct Module {
    /// Its bytes.
    pub image: Image,
    /// Its string.
    pub string: String,
}

/// Everything that a boot protocol hands to a kernel.
#[derive(Debug)]
pub struct Handover<'a> {
    /// Where the kernel goes.
    pub memory: &'a GuestMemory,
    /// What the guest is told about its addresses.
    pub map: &'a [Range],
    /// The ACPI root pointer.
    pub rsdp: Gpa,
    /// The kernel image.
    pub kernel: &'a Image,
    /// The kernel's name: the first word of a multiboot command line.
    pub kernel_name: &'a str,
    /// The command line.
    pub cmdline: &'a str,
    /// Initrd or modules.
    pub modules: &'a [Module],
}

/// Puts kernel, modules and boot information into guest memory and returns what the vCPU starts with.
///
/// # Errors
/// [`ImageError`] if the image changed since it was inspected or something does not fit.
pub fn load(handover: &Handover<'_>) -> Result<VcpuState, ImageError> {
    let image = handover.kernel;
    entry::put_bios_data(handover.memory);
    if let Some(header) = bzimage::Header::find(image)? {
        return bzimage::load(handover, &header);
    }
    if let Some(header) = multiboot::Header::find(image)? {
        return multiboot::load(handover, &header);
    }
    match elf::Elf::find(image)? {
        Some(elf) => pvh::load(handover, &elf),
        None => Err(ImageError::NotAKernel),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::image::image_of;
    use super::test_images::{bzimage, elf32, elf64, handed_over};
    use super::{Handover, Image, Protocol, guest_map, inspect, load, slots};
    use mem::GuestMemory;
    use x86::Gpa;

    /// A stock kernel that the command line has fetched before, if it has.
    fn stock_kernel() -> Option<PathBuf> {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let cache =
            cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
        let packages = std::fs::read_dir(cache.join("mother/packages")).ok()?;
        packages
            .flatten()
            .map(|package| package.path().join("vmlinuz"))
            .find(|path| path.is_file())
    }

    #[test]
    fn a_stock_kernel_is_loaded_whole() {
        let Some(path) = stock_kernel() else {
            eprintln!("SKIPPED: there is no stock kernel in the cache; `mother demo` fetches one");
            return;
        };
        let kernel = Image::open(&path).unwrap();
        assert_eq!(inspect(&kernel).unwrap().protocol, Protocol::Linux64);
        let slots = slots(128 << 20);
        let map = guest_map(&slots);
        let memory = GuestMemory::new(slots).unwrap();
        let rsdp = devices::layout::ACPI_START;
        let kernel_name = "vmlinuz";
        let cmdline = "console=ttyS0";
        let handover = Handover {
            memory: &memory,
            map: &map,
            rsdp,
            kernel: &kernel,
            kernel_name,
            cmdline,
            modules: &[],
        };
        let state = load(&handover).unwrap();
        // The 64-bit entry starts by clearing the direction flag and interrupts.
        let code = memory.read_value(Gpa(state.rip), 2).unwrap();
        assert_eq!(code, 0xfafc, "{code:#x}");
    }

    #[test]
    fn a_damaged_image_is_refused_or_loaded_and_never_more() {
        let note = [
            4, 0, 0, 0, 4, 0, 0, 0, 18, 0, 0, 0, b'X', b'e', b'n', 0, 0, 0, 0x10, 0,
        ];
        let multiboot = [
            0x1bad_b002,
            0x1_0003,
            0xe451_4ffb_u32,
            0x10_0000,
            0x10_0000,
            0,
            0,
            0x10_0020,
        ];
        let multiboot: Vec<u8> = multiboot
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        let with_zeros = |bytes: &[u8]| [bytes, &[0; 64]].concat();
        let images = [
            bzimage(),
            elf64(0x10_0000, &[0x90; 0x40], &note),
            elf32(0x10_0000, &with_zeros(&multiboot)),
            with_zeros(&multiboot),
        ];
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = move |limit: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed as usize % limit
        };
        let mut loaded = 0;
        let mut refused = 0;
        for image in &images {
            assert!(handed_over(image, "x", &[(&[1], "y")]).is_ok());
            for _ in 0..2000 {
                let mut damaged = image.clone();
                // Most of what matters lies in the headers.
                let head = damaged.len().min(0x300);
                for _ in 0..=random(3) {
                    let at = random(head);
                    damaged[at] = [0, 1, 0x7f, 0x80, 0xff, random(256) as u8][random(6)];
                }
                if random(10) == 0 {
                    damaged.truncate(random(image.len()));
                }
                // Inspection may accept what loading refuses, as only loading knows the memory; never the reverse.
                let accepted = inspect(&image_of(&damaged)).is_ok();
                let is_loaded = handed_over(&damaged, "x", &[(&[1], "y")]).is_ok();
                assert!(accepted || !is_loaded);
                *(if is_loaded { &mut loaded } else { &mut refused }) += 1;
            }
        }
        assert!(
            loaded > 1000 && refused > 1000,
            "{loaded} loaded, {refused} refused"
        );
    }
}
