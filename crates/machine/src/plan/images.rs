//! Kernel, initrd and modules: there, readable, understood, and small enough.

use std::borrow::Cow;
use std::error::Error;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use api::VmSpec;
use x86::PAGE_SIZE;

use super::{Complaints, ImagePlan, Trouble, trouble};
use crate::boot::{self, Image, ImageError, Protocol, inspect};

/// A kernel that some protocol can start.
pub(super) struct Kernel {
    pub(super) image: ImagePlan,
    pub(super) protocol: Protocol,
    pub(super) cmdline_bytes: Option<usize>,
    kernel_end: u64,
    initrd_last: Option<u64>,
}

pub(super) fn kernel(path: Option<&Path>) -> Result<Kernel, Trouble> {
    let Some(path) = path else {
        return trouble(
            "there is no kernel to start",
            "name one with `--kernel FILE`",
        );
    };
    let image = Image::open(path).map_err(|error| explain(path, &error))?;
    let found = inspect(&image).map_err(|error| explain(path, &error))?;
    Ok(Kernel {
        image: ImagePlan {
            path: path.to_owned(),
            len_bytes: image.len_bytes(),
            string: String::new(),
        },
        protocol: found.protocol,
        cmdline_bytes: found.cmdline_bytes,
        kernel_end: found.kernel_end,
        initrd_last: found.initrd_last,
    })
}

/// What a guest is told a file is called, where its protocol wants a name: which folders the host has is no matter of its.
pub(crate) fn guests_name(path: &Path) -> Cow<'_, str> {
    path.file_name().unwrap_or_default().to_string_lossy()
}

/// Initrd and modules in order, or `None` after complaints.
pub(super) fn modules(
    spec: &VmSpec,
    kernel: Option<&Kernel>,
    complaints: &mut Complaints,
) -> Option<Vec<ImagePlan>> {
    let mut found = Vec::new();
    if let Some(path) = &spec.initrd {
        let is_multiboot = kernel.is_some_and(|kernel| kernel.protocol == Protocol::Multiboot);
        let string = if is_multiboot {
            guests_name(path).into_owned()
        } else {
            String::new()
        };
        found.push(complaints.take("initrd", module(path.clone(), string)));
    }
    if !spec.modules.is_empty() && kernel.is_some_and(|kernel| kernel.protocol == Protocol::Linux64)
    {
        let refused = trouble::<()>(
            "a bzImage takes an initrd and no modules",
            "use `--initrd FILE`",
        );
        complaints.take("module", refused);
    }
    for asked in &spec.modules {
        let found_one = module(asked.path().to_owned(), asked.string().to_owned());
        found.push(complaints.take("module", found_one));
    }
    found.into_iter().collect()
}

fn module(path: PathBuf, string: String) -> Result<ImagePlan, Trouble> {
    let image = Image::open(&path).map_err(|error| explain(&path, &error))?;
    if image.len_bytes() == 0 {
        return trouble(
            format!("{} is empty", path.display()),
            "name a file with something in it",
        );
    }
    Ok(ImagePlan {
        path,
        len_bytes: image.len_bytes(),
        string,
    })
}

/// Complains if kernel and modules do not fit into low memory together.
pub(super) fn check_fit(
    kernel: &Kernel,
    modules: &[ImagePlan],
    memory_bytes: u64,
    complaints: &mut Complaints,
) {
    let low_end = boot::low_bytes(memory_bytes);
    if kernel.kernel_end > low_end {
        let what = format!(
            "this kernel needs the first {} MiB of memory to unpack itself; the guest has {} MiB there",
            kernel.kernel_end.div_ceil(1 << 20),
            low_end >> 20
        );
        complaints.take(
            "memory",
            trouble::<()>(what, more_memory(kernel.kernel_end, low_end_max(kernel))),
        );
        return;
    }
    let top = kernel
        .initrd_last
        .map_or(low_end, |last| low_end.min(last.saturating_add(1)));
    let room = top.saturating_sub(kernel.kernel_end.next_multiple_of(PAGE_SIZE));
    let wanted: u64 = modules
        .iter()
        .map(|module| module.len_bytes.next_multiple_of(PAGE_SIZE))
        .sum();
    if wanted > room {
        let field = if modules.len() == 1 {
            "initrd"
        } else {
            "module"
        };
        let what = format!(
            "{} needs {wanted} bytes of memory; behind the kernel {room} are left",
            modules
                .iter()
                .map(|module| module.path.display().to_string())
                .collect::<Vec<_>>()
                .join(", ")
        );
        let needed = kernel
            .kernel_end
            .next_multiple_of(PAGE_SIZE)
            .saturating_add(wanted);
        complaints.take(
            field,
            trouble::<()>(what, more_memory(needed, low_end_max(kernel))),
        );
    }
}

/// Where low memory that this kernel can use for an initrd ends in the largest guest.
fn low_end_max(kernel: &Kernel) -> u64 {
    let low_end = boot::low_bytes(u64::MAX);
    kernel
        .initrd_last
        .map_or(low_end, |last| low_end.min(last.saturating_add(1)))
}

fn more_memory(needed: u64, limit: u64) -> String {
    if needed > limit {
        return format!(
            "no guest has that: kernel, initrd and modules lie below {} MiB together",
            limit >> 20
        );
    }
    format!(
        "give the guest more memory with `--memory`, at least {}M",
        needed.div_ceil(1 << 20)
    )
}

/// One sentence about `path` with the causes behind it, and what to do.
fn explain(path: &Path, error: &ImageError) -> Trouble {
    let mut what = match error {
        ImageError::Open(_) => format!("cannot open {}", path.display()),
        other => format!("cannot use {}: {other}", path.display()),
    };
    let mut cause = error.source();
    while let Some(inner) = cause {
        let text = inner
            .downcast_ref::<io::Error>()
            .map_or_else(|| inner.to_string(), plain);
        what.push_str(&format!(": {text}"));
        cause = inner.source();
    }
    Trouble {
        what,
        help: help(path, error).to_owned(),
    }
}

/// The host's words without their number.
fn plain(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "no such file".to_owned(),
        ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}

fn help(path: &Path, error: &ImageError) -> &'static str {
    match error {
        ImageError::Open(source) if source.kind() == ErrorKind::NotFound => "check the path",
        ImageError::Open(source) if source.kind() == ErrorKind::PermissionDenied => {
            "make the file readable for the user who runs mother"
        }
        ImageError::Open(_) | ImageError::Read { .. } => "check the file and the disk it lies on",
        ImageError::NotAFile => "name a file",
        ImageError::NotAKernel if is_compressed(path) => "unpack it first",
        ImageError::NotAKernel => {
            "name a bzImage, an ELF kernel with a PVH note, or a multiboot kernel"
        }
        ImageError::Truncated { .. } => "copy or download the file again",
        ImageError::OldProtocol { .. } | ImageError::Only32Bit => {
            "use a 64-bit kernel, Linux 3.8 or later"
        }
        ImageError::ForeignElf { .. } => "use a kernel for x86-64",
        ImageError::NoPvhNote => "build the kernel with CONFIG_PVH=y, or use its bzImage",
        ImageError::Nonsense { .. } => {
            "the file is damaged or not a kernel: copy or build it again"
        }
        ImageError::MultibootFlags { .. } => "this kernel cannot run here",
        ImageError::TooManyModules { .. } => "use fewer modules",
        ImageError::NoMemory { .. } => "give the guest more memory with `--memory`",
    }
}

/// Whether the file starts like gzip, xz or zstd.
fn is_compressed(path: &Path) -> bool {
    let mut head = [0; 4];
    let read = File::open(path).and_then(|mut file| io::Read::read_exact(&mut file, &mut head));
    read.is_ok()
        && (head[..2] == [0x1f, 0x8b] || head == *b"\xfd7zX" || head == [0x28, 0xb5, 0x2f, 0xfd])
}
