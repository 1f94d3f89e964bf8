//! The way around for disk images that cannot be opened: commands that a user can paste.
//!
//! Each of them is run by the tests on an image of its kind. What they write is a new file; `qemu-img check -r all`
//! alone changes the image itself, and is named only where the image says that it wants that.

use std::path::Path;

use devices::virtio::blk::{HeadError, ImageError, Obstacle};

use super::Trouble;

/// What stands in the way of the image at `path`, and what to do.
pub(super) fn explain(path: &Path, error: &HeadError) -> Trouble {
    let mut what = format!("cannot use {}: {error}", path.display());
    if let Some(cause) = std::error::Error::source(error) {
        what.push_str(&format!(": {cause}"));
    }
    Trouble {
        what,
        help: help(path, error),
    }
}

/// What is wrong with an image whose tables are not what its header promises.
pub(super) fn damaged(path: &Path, error: &ImageError) -> Trouble {
    let mut what = format!("cannot use {}: {error}", path.display());
    if let Some(cause) = std::error::Error::source(error) {
        what.push_str(&format!(": {cause}"));
    }
    Trouble {
        what,
        help: help(path, &HeadError::Damaged("")),
    }
}

/// What to do about a base that is an overlay itself.
pub(super) fn flatten(path: &Path) -> String {
    format!(
        "if you trust that, make one image of the two: `{}`, and give `base=NEW.qcow2`",
        convert("qcow2", path)
    )
}

fn help(path: &Path, error: &HeadError) -> String {
    let image = shell_word(&path.to_string_lossy());
    match error {
        HeadError::NotQcow2 => "leave `format=` out, or write `format=raw`".to_owned(),
        HeadError::OtherFormat(format) => {
            format!(
                "make a qcow2 of it: `{}`",
                convert(format.qemu_name(), path)
            )
        }
        HeadError::Packed(packer) => format!(
            "unpack it first: `{packer} -dc {image} > NEW.img`; if the guest is to see these bytes as they are, \
             add `,format=raw`"
        ),
        HeadError::Version(1) => format!("make a newer one of it: `{}`", convert("qcow", path)),
        HeadError::Version(_) => format!("make an older one of it: `{}`", convert("qcow2", path)),
        HeadError::Damaged(_) => format!("look at it with `qemu-img check {image}`"),
        HeadError::Read(_) => "check the file".to_owned(),
        HeadError::Obstacle { obstacle, leads_to } => {
            let way = around(path, *obstacle);
            match leads_to {
                Some(name) => format!("if you trust \"{name}\", which it leads to, {way}"),
                None => way,
            }
        }
    }
}

fn around(path: &Path, obstacle: Obstacle) -> String {
    let image = shell_word(&path.to_string_lossy());
    let copy = convert("qcow2", path);
    match obstacle {
        Obstacle::Encrypted(_) => {
            // A comma in a name is written twice among image options.
            let name = path.to_string_lossy().replace(',', ",,");
            let options = format!("driver=qcow2,file.filename={name},encrypt.key-secret=key");
            format!(
                "make one that is not, with its passphrase in a file SECRET: `qemu-img convert --object \
                 secret,id=key,file=SECRET --image-opts {} -O qcow2 NEW.qcow2`",
                shell_word(&options)
            )
        }
        Obstacle::Corrupt => format!(
            "keep a copy and repair it with `qemu-img check -r all {image}`; that takes the mark away if it succeeds"
        ),
        Obstacle::Dirty => {
            format!("repair it with `qemu-img check -r all {image}`, or copy it with `{copy}`")
        }
        Obstacle::ExternalData => format!("make one image of the two: `{copy}`"),
        Obstacle::Compression(_) | Obstacle::ExtendedL2 | Obstacle::Unknown(_) => {
            format!("make one without: `{copy}`")
        }
    }
}

/// The command that makes a plain qcow2 image of what is at `path`.
fn convert(format: &str, path: &Path) -> String {
    let image = shell_word(&path.to_string_lossy());
    format!("qemu-img convert -f {format} -O qcow2 {image} NEW.qcow2")
}

/// `text` as one word of a shell; as it is where that is one.
fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=,:@%".contains(c);
    if !text.is_empty() && !text.starts_with('-') && text.chars().all(is_plain) {
        return text.to_owned();
    }
    // A name that looks like an option is a file of this folder.
    let folder = if text.starts_with('-') { "./" } else { "" };
    format!("'{folder}{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
#[path = "image_help_tests.rs"]
mod tests;
