//! Kernel modules: which ones a guest needs before it has a disk, and in which order they go in.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

use goblin::elf::Elf;
use lzma_rust2::XzReader;

use crate::tree::{Kind, NodeId, Tree};

/// What a guest needs to see its disks, its consoles and its network. A system brings the rest.
const WANTED: [&str; 6] = [
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    "virtio_net",
    "af_packet",
    "ext4",
];

/// A module in the order in which it is to be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Module {
    /// Its file's name, without compression.
    pub(crate) file_name: String,
    /// Its bytes.
    pub(crate) bytes: Vec<u8>,
}

/// The wanted modules and what they depend on, from a tree with one kernel's modules. What is not there is built in.
pub(crate) fn pick(tree: &Tree) -> io::Result<Vec<Module>> {
    let mut files = BTreeMap::new();
    if let Some(root) = tree.find(b"usr/lib/modules", true) {
        find_all(tree, root, &mut files);
    }
    let mut picked = Vec::new();
    let mut seen = BTreeSet::new();
    for name in WANTED {
        add(tree, &files, name, &mut seen, &mut picked)?;
    }
    Ok(picked)
}

/// Puts modules into an order in which each comes after those that it needs.
pub(crate) fn order(modules: Vec<Module>) -> io::Result<Vec<Module>> {
    let mut waiting: Vec<(Module, Vec<String>)> = Vec::new();
    let name = |module: &Module| module.file_name.trim_end_matches(".ko").replace('-', "_");
    let present: BTreeSet<String> = modules.iter().map(name).collect();
    for module in modules {
        let needed = depends(&module.bytes)?;
        let needed = needed
            .iter()
            .map(|name| name.replace('-', "_"))
            .filter(|name| present.contains(name));
        waiting.push((module, needed.collect()));
    }
    let mut ordered: Vec<Module> = Vec::new();
    while !waiting.is_empty() {
        let loaded: BTreeSet<String> = ordered.iter().map(name).collect();
        let is_ready =
            |entry: &(Module, Vec<String>)| entry.1.iter().all(|name| loaded.contains(name));
        // A circle cannot be loaded at all; the guest will say so.
        let next = waiting.iter().position(is_ready).unwrap_or(0);
        ordered.push(waiting.remove(next).0);
    }
    Ok(ordered)
}

fn add(
    tree: &Tree,
    files: &BTreeMap<String, (String, NodeId)>,
    name: &str,
    seen: &mut BTreeSet<String>,
    picked: &mut Vec<Module>,
) -> io::Result<()> {
    let name = name.replace('-', "_");
    let Some((file_name, node)) = files.get(&name) else {
        return Ok(());
    };
    if !seen.insert(name) {
        return Ok(());
    }
    let bytes = read(tree, *node, file_name)?;
    for needed in depends(&bytes)? {
        add(tree, files, &needed, seen, picked)?;
    }
    let file_name = format!("{}.ko", module_name(file_name).unwrap_or(file_name));
    picked.push(Module { file_name, bytes });
    Ok(())
}

/// Modules by name: a file's name up to `.ko`, where `-` and `_` are the same.
fn find_all(tree: &Tree, folder: NodeId, files: &mut BTreeMap<String, (String, NodeId)>) {
    for (name, entry) in tree.folder(folder) {
        let name = String::from_utf8_lossy(name).into_owned();
        if tree.is_folder(entry.node) {
            find_all(tree, entry.node, files);
        } else if let Some(module) = module_name(&name) {
            files.insert(module.replace('-', "_"), (name.clone(), entry.node));
        }
    }
}

fn read(tree: &Tree, node: NodeId, file_name: &str) -> io::Result<Vec<u8>> {
    let Kind::File(content) = &tree.node(node).kind else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{file_name} is no file"),
        ));
    };
    let mut bytes = Vec::new();
    content.read(|part| {
        bytes.extend_from_slice(part);
        Ok(())
    })?;
    plain(bytes, file_name)
}

/// Ends of the names of a module's file.
const ENDS: [&str; 3] = ["", ".xz", ".zst"];

/// The module's name if a file of this name is one.
pub(crate) fn module_name(file_name: &str) -> Option<&str> {
    file_name
        .rsplit_once(".ko")
        .filter(|(_, end)| ENDS.contains(end))
        .map(|(name, _)| name)
}

/// The bytes of a module that lies in a file of this name, without compression.
pub(crate) fn plain(bytes: Vec<u8>, file_name: &str) -> io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    if file_name.ends_with(".xz") {
        XzReader::new(bytes.as_slice(), false).read_to_end(&mut plain)?;
    } else if file_name.ends_with(".zst") {
        let decoder =
            ruzstd::decoding::StreamingDecoder::new(bytes.as_slice()).map_err(io::Error::other)?;
        io::copy(&mut { decoder }, &mut plain)?;
    } else {
        return Ok(bytes);
    }
    Ok(plain)
}

/// What a module says in its `.modinfo` that it depends on.
fn depends(bytes: &[u8]) -> io::Result<Vec<String>> {
    let broken = |error| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a kernel module is broken: {error}"),
        )
    };
    let elf = Elf::parse(bytes).map_err(broken)?;
    let is_modinfo = |name: usize| elf.shdr_strtab.get_at(name) == Some(".modinfo");
    let section = elf
        .section_headers
        .iter()
        .find(|section| is_modinfo(section.sh_name));
    let range = section.and_then(|section| section.file_range());
    let mut words = Vec::new();
    let part = range.and_then(|range| bytes.get(range)).unwrap_or_default();
    for word in part.split(|&byte| byte == 0) {
        if let Some(list) = word.strip_prefix(b"depends=") {
            let list = String::from_utf8_lossy(list).into_owned();
            words.extend(
                list.split(',')
                    .filter(|name| !name.is_empty())
                    .map(str::to_owned),
            );
        }
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The smallest ELF file with a `.modinfo`.
    fn module(name: &str, depends: &str) -> Module {
        let modinfo = format!("license=GPL\0depends={depends}\0");
        let names = b"\0.modinfo\0.shstrtab\0";
        let modinfo_at = 64;
        let names_at = 64 + modinfo.len();
        let table = names_at + names.len();
        let mut bytes = vec![0; 64];
        bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        bytes[16] = 1;
        bytes[18] = 62;
        bytes[20] = 1;
        bytes[40..48].copy_from_slice(&(table as u64).to_le_bytes());
        bytes[52] = 64;
        bytes[58] = 64;
        bytes[60] = 3;
        bytes[62] = 2;
        bytes.extend(modinfo.as_bytes());
        bytes.extend(names);
        let mut section = |name: u32, kind: u32, at: usize, len: usize| {
            let mut header = [0; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[4..8].copy_from_slice(&kind.to_le_bytes());
            header[24..32].copy_from_slice(&(at as u64).to_le_bytes());
            header[32..40].copy_from_slice(&(len as u64).to_le_bytes());
            bytes.extend(header);
        };
        section(0, 0, 0, 0);
        section(1, 1, modinfo_at, modinfo.len());
        section(10, 3, names_at, names.len());
        Module {
            file_name: name.to_owned(),
            bytes,
        }
    }

    #[test]
    fn modules_come_after_those_that_they_need() {
        let modules = vec![
            module("a.ko", "b-c,built-in"),
            module("b_c.ko", "z"),
            module("z.ko", ""),
        ];
        let names: Vec<String> = order(modules)
            .unwrap()
            .into_iter()
            .map(|module| module.file_name)
            .collect();
        assert_eq!(names, ["z.ko", "b_c.ko", "a.ko"]);
        assert!(
            order(vec![Module {
                file_name: "x.ko".into(),
                bytes: b"no ELF".to_vec()
            }])
            .is_err()
        );
    }

    #[test]
    fn wanted_modules_are_picked_with_what_they_need() {
        let mut tree = Tree::new();
        for (folder, module) in [
            ("fs", module("ext4.ko", "mbcache")),
            ("fs", module("mbcache.ko", "")),
            ("net", module("tulip.ko", "")),
            ("virtio", module("virtio_blk.ko", "virtio-ring")),
            ("virtio", module("virtio_ring.ko", "")),
        ] {
            let path = format!("usr/lib/modules/6.1/kernel/{folder}/{}", module.file_name);
            tree.put_bytes(&path, 0o644, module.bytes).unwrap();
        }
        let names: Vec<String> = pick(&tree)
            .unwrap()
            .into_iter()
            .map(|module| module.file_name)
            .collect();
        assert_eq!(
            names,
            ["virtio_ring.ko", "virtio_blk.ko", "mbcache.ko", "ext4.ko"]
        );
    }
}
