//! A tree as the archive that the kernel unpacks into its first root file system: cpio in the "newc" form (kernel
//! documentation, early-userspace/buffer-format).

use std::io::{self, Write};

use cpio::newc::Builder;

use crate::tree::{Kind, Node, NodeId, ROOT, Tree};

/// File types in a mode (stat(2)).
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
const BLOCK_DEVICE: u32 = 0o060_000;
const FIFO: u32 = 0o010_000;

/// Writes all of a tree. The root folder's own attributes are the kernel's affair. A file with several names is
/// written once for each.
pub(crate) fn write(tree: &Tree, to: &mut impl Write) -> io::Result<()> {
    let mut writer = Archive {
        tree,
        to,
        next_inode: 1,
    };
    writer.folder(ROOT, "")?;
    cpio::newc::trailer(writer.to)?;
    Ok(())
}

struct Archive<'a, W: Write> {
    tree: &'a Tree,
    to: W,
    next_inode: u32,
}

impl<W: Write> Archive<'_, W> {
    fn folder(&mut self, folder: NodeId, path: &str) -> io::Result<()> {
        for (name, entry) in self.tree.folder(folder) {
            let name = std::str::from_utf8(name).map_err(|_| strange_name())?;
            let path = if path.is_empty() {
                name.to_owned()
            } else {
                format!("{path}/{name}")
            };
            self.node(self.tree.node(entry.node), &path)?;
            if self.tree.is_folder(entry.node) {
                self.folder(entry.node, &path)?;
            }
        }
        Ok(())
    }

    fn node(&mut self, node: &Node, path: &str) -> io::Result<()> {
        let attributes = &node.attributes;
        let inode = self.next_inode;
        self.next_inode += 1;
        let mtime = u32::try_from(attributes.mtime.max(0)).unwrap_or(u32::MAX);
        let builder = |kind: u32| {
            let builder = Builder::new(path)
                .ino(inode)
                .mode(kind | u32::from(attributes.mode));
            builder.uid(attributes.uid).gid(attributes.gid).mtime(mtime)
        };
        match &node.kind {
            Kind::Folder(_) => self.bytes(builder(FOLDER), &[]),
            Kind::Fifo => self.bytes(builder(FIFO), &[]),
            Kind::Symlink(target) => self.bytes(builder(SYMLINK), target),
            Kind::Device {
                is_block,
                major,
                minor,
            } => {
                let kind = if *is_block {
                    BLOCK_DEVICE
                } else {
                    CHARACTER_DEVICE
                };
                self.bytes(builder(kind).rdev_major(*major).rdev_minor(*minor), &[])
            }
            Kind::File(content) => {
                let len = u32::try_from(content.len()).map_err(|_| too_large(path))?;
                let mut writer = builder(FILE).write(&mut self.to, len);
                content.read(|bytes| writer.write_all(bytes))?;
                writer.finish().map(drop)
            }
        }
    }

    fn bytes(&mut self, builder: Builder, bytes: &[u8]) -> io::Result<()> {
        let len = u32::try_from(bytes.len()).expect("the target of a link is short");
        let mut writer = builder.write(&mut self.to, len);
        writer.write_all(bytes)?;
        writer.finish().map(drop)
    }
}

fn strange_name() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "a file's name is no UTF-8")
}

fn too_large(path: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::FileTooLarge,
        format!("{path} is too large for an initrd"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Attributes;

    #[test]
    fn the_kernel_finds_every_kind_of_file() {
        let mut tree = Tree::new();
        tree.put_bytes("bin/tool", 0o4755, *b"program").unwrap();
        tree.put_symlink("sbin", "bin").unwrap();
        let kind = Kind::Device {
            is_block: false,
            major: 5,
            minor: 1,
        };
        tree.put(b"dev/console", Attributes::of_root(0o600), kind)
            .unwrap();
        let mut archive = Vec::new();
        write(&tree, &mut archive).unwrap();
        let mut rest = archive.as_slice();
        let mut seen = Vec::new();
        loop {
            let mut reader = cpio::newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            let name = reader.entry().name().to_owned();
            let mode = reader.entry().mode();
            let mut bytes = String::new();
            io::Read::read_to_string(&mut reader, &mut bytes).unwrap();
            seen.push((name, mode, bytes));
            rest = reader.finish().unwrap();
        }
        let expected = [
            ("bin", 0o040_755, ""),
            ("bin/tool", 0o104_755, "program"),
            ("dev", 0o040_755, ""),
            ("dev/console", 0o020_600, ""),
            ("sbin", 0o120_777, "bin"),
        ];
        let expected =
            expected.map(|(name, mode, bytes)| (name.to_owned(), mode, bytes.to_owned()));
        assert_eq!(seen, expected);
    }
}
