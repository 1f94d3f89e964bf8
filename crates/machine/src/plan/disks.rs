//! Disks: there, of a known format, usable as asked, and none of them twice.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use api::{DiskFormat, DiskSerial, DiskSpec};
use devices::virtio::blk::{Head, Image, ImageFormat, SECTOR_BYTES};
use serde::{Deserialize, Serialize};

use super::{Complaints, Trouble, image_help, trouble};

/// Disks that a VM can have.
pub(crate) const DISKS_MAX: usize = 16;
/// Largest disk: sectors and bytes stay far from the end of 64-bit arithmetic, in the guest as well.
const SIZE_BYTES_MAX: u64 = 1 << 50;

/// The image under an overlay.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BasePlan {
    /// Where it is.
    #[serde(with = "api::host_path")]
    pub path: PathBuf,
    /// How it lies in its file.
    pub format: ImageFormat,
}

/// A disk to be opened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskPlan {
    /// What it is called in messages: `disk0` and so on.
    pub name: String,
    /// Where its image is.
    #[serde(with = "api::host_path")]
    pub path: PathBuf,
    /// How it lies in its file.
    pub format: ImageFormat,
    /// Whether it was taken for raw by its looks: then the guest may not change these.
    pub is_guessed_raw: bool,
    /// What it lies over.
    pub base: Option<BasePlan>,
    /// Whether the guest may not write.
    pub is_read_only: bool,
    /// What the guest sees as its serial number.
    pub serial: String,
}

/// Which file it is, whatever its name: device and inode.
type FileId = (u64, u64);

/// A file that was looked at.
struct Looked {
    id: FileId,
    head: Head,
}

/// Every disk in order, or `None` after complaints.
pub(super) fn disks(specs: &[DiskSpec], complaints: &mut Complaints) -> Option<Vec<DiskPlan>> {
    if specs.len() > DISKS_MAX {
        let what = format!("{} disks are more than a guest can have", specs.len());
        complaints.take(
            "disk",
            trouble::<()>(what, format!("name at most {DISKS_MAX}")),
        );
    }
    let mut files: Vec<(FileId, bool)> = Vec::new();
    let mut serials: Vec<DiskSerial> = Vec::new();
    let mut plans = Vec::new();
    for (n, spec) in specs.iter().enumerate() {
        let serial = complaints.take("disk", serial(spec, n, &serials));
        serials.extend(serial.clone());
        let image = complaints.take("disk", image(spec, &mut files));
        let base = complaints.take("disk", base(spec, &mut files));
        let checked = (|| {
            let image = image?;
            let base = base?;
            let serial = serial?;
            let base = complaints.take("disk", check_overlay(spec, &image, base))?;
            Some(DiskPlan {
                name: format!("disk{n}"),
                path: spec.path.clone(),
                format: image.format,
                is_guessed_raw: spec.format.is_none() && image.format == ImageFormat::Raw,
                base,
                is_read_only: spec.read_only,
                serial: serial.to_string(),
            })
        })();
        plans.push(checked);
    }
    let plans: Option<Vec<DiskPlan>> = plans.into_iter().collect();
    plans.filter(|plans| plans.len() <= DISKS_MAX)
}

fn serial(spec: &DiskSpec, n: usize, earlier: &[DiskSerial]) -> Result<DiskSerial, Trouble> {
    let Some(serial) = &spec.serial else {
        return Ok(DiskSerial::of_number(n));
    };
    if earlier.contains(serial) {
        return trouble(
            format!("the serial number \"{serial}\" is given twice"),
            "give each disk its own, so that the guest can tell them apart",
        );
    }
    Ok(serial.clone())
}

fn format(asked: Option<DiskFormat>) -> Option<ImageFormat> {
    asked.map(|format| match format {
        DiskFormat::Raw => ImageFormat::Raw,
        DiskFormat::Qcow2 => ImageFormat::Qcow2,
    })
}

/// What the disk's own file is.
fn image(spec: &DiskSpec, files: &mut Vec<(FileId, bool)>) -> Result<Head, Trouble> {
    let format = format(spec.format);
    let path = &spec.path;
    let shown = path.display();
    let Looked { id, head } = look(path, format, !spec.read_only)?;
    if head.size_bytes == 0 {
        let help = format!("give it a size, such as `truncate -s 10G {shown}`");
        return trouble(format!("{shown} is empty"), help);
    }
    if head.size_bytes > SIZE_BYTES_MAX {
        let what = format!("{shown} is a disk of {} TiB", head.size_bytes >> 40);
        return trouble(
            what,
            format!("disks have at most {} TiB", SIZE_BYTES_MAX >> 40),
        );
    }
    let left = head.size_bytes % SECTOR_BYTES;
    if left != 0 && !spec.read_only {
        let what = format!(
            "{shown} has {} bytes, and a disk is made of sectors of {SECTOR_BYTES}: the last {left} would be half a \
             sector",
            head.size_bytes
        );
        let help = format!(
            "fill it up with `truncate -s %{SECTOR_BYTES} {shown}`, or give it read-only, which shows zeros there"
        );
        return trouble(what, help);
    }
    take_file(path, id, !spec.read_only, files)?;
    Ok(head)
}

/// What the base is, if one was named.
fn base(
    spec: &DiskSpec,
    files: &mut Vec<(FileId, bool)>,
) -> Result<Option<(PathBuf, Head)>, Trouble> {
    let format = format(spec.base_format);
    let Some(path) = &spec.base else {
        return match format {
            Some(_) => trouble(
                "a base's format was given, and no base",
                "name the base with `base=FILE`",
            ),
            None => Ok(None),
        };
    };
    let Looked { id, head } = look(path, format, false)?;
    if let Some(name) = &head.backing {
        let what = format!("{} is an overlay itself, over \"{name}\"", path.display());
        return trouble(what, image_help::flatten(path));
    }
    take_file(path, id, false, files)?;
    Ok(Some((path.clone(), head)))
}

/// Whether image and base go together; an overlay is never opened over what its header names.
fn check_overlay(
    spec: &DiskSpec,
    image: &Head,
    base: Option<(PathBuf, Head)>,
) -> Result<Option<BasePlan>, Trouble> {
    let shown = spec.path.display();
    match (image.format, &image.backing, base) {
        (ImageFormat::Raw, _, Some(_)) => trouble(
            format!("{shown} is a raw image and cannot lie over a base"),
            "leave the base out",
        ),
        (ImageFormat::Qcow2, Some(name), None) => {
            let what = format!("{shown} is an overlay; its header names \"{name}\" as the base");
            let help = format!("if you trust that, name it yourself: `--disk {shown},base=FILE`");
            trouble(what, help)
        }
        (_, _, base) => Ok(base.map(|(path, head)| BasePlan {
            path,
            format: head.format,
        })),
    }
}

/// Opens a file as it will be opened, and reads its head.
fn look(path: &Path, format: Option<ImageFormat>, for_writing: bool) -> Result<Looked, Trouble> {
    let shown = path.display();
    let refused = |error: &io::Error| cannot_open(path, for_writing, error);
    // A look at a pipe must not wait for its writer.
    let metadata = path.metadata().map_err(|error| refused(&error))?;
    if metadata.is_dir() {
        return trouble(
            format!("{shown} is a folder"),
            "name the file of a disk image",
        );
    }
    if !metadata.is_file() && !metadata.file_type().is_block_device() {
        let what = format!("{shown} is neither a file nor a block device");
        return trouble(what, "name the file of a disk image, or a block device");
    }
    let file = File::options()
        .read(true)
        .write(for_writing)
        .open(path)
        .map_err(|error| refused(&error))?;
    let metadata = file.metadata().map_err(|error| refused(&error))?;
    let head = Head::read(&file, format).map_err(|error| image_help::explain(path, &error))?;
    Image::probe(file, head.format).map_err(|error| image_help::damaged(path, &error))?;
    Ok(Looked {
        id: (metadata.dev(), metadata.ino()),
        head,
    })
}

fn cannot_open(path: &Path, for_writing: bool, error: &io::Error) -> Trouble {
    let shown = path.display();
    let (why, help) = match error.kind() {
        ErrorKind::NotFound => (
            "no such file".to_owned(),
            format!("check the path, or make one with `truncate -s 10G {shown}`"),
        ),
        ErrorKind::PermissionDenied if for_writing && File::open(path).is_ok() => (
            "you may read it and not write it".to_owned(),
            "give yourself permission, or add `,readonly`".to_owned(),
        ),
        ErrorKind::PermissionDenied => (
            "permission denied".to_owned(),
            "give yourself permission to read it".to_owned(),
        ),
        ErrorKind::ReadOnlyFilesystem => (
            "its file system is read-only".to_owned(),
            "add `,readonly`".to_owned(),
        ),
        _ => (error.to_string(), "check the path".to_owned()),
    };
    Trouble {
        what: format!("cannot open {shown}: {why}"),
        help,
    }
}

/// Notes a file as used: one that is written must not be used twice.
fn take_file(
    path: &Path,
    id: FileId,
    is_written: bool,
    files: &mut Vec<(FileId, bool)>,
) -> Result<(), Trouble> {
    if files
        .iter()
        .any(|(other, other_written)| *other == id && (is_written || *other_written))
    {
        let what = format!(
            "{} is used twice, and the guest would write to it",
            path.display()
        );
        return trouble(what, "name it once, or give it read-only each time");
    }
    files.push((id, is_written));
    Ok(())
}

#[cfg(test)]
#[path = "disks_tests.rs"]
mod tests;
