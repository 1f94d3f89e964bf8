//! The files that pages of the documentation speak of.

use sha2::Digest;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::common::{self, add};

use imago::FormatCreateBuilder;
use imago::qcow2::{Qcow2, Qcow2CreateBuilder};

/// A small snapshot.
const SNAPSHOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../snapshot/samples/format-1");

/// Lays them into a folder.
pub(crate) fn lay(folder: &Path) {
    let cache = images::Cache::of_user().unwrap();
    let guest = cache.default_guest(&mut |_| {}).unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(folder.join(name), bytes).unwrap();
    fs::copy(&guest.kernel, folder.join("bzImage")).unwrap();
    fs::copy(&guest.initrd, folder.join("initrd.img")).unwrap();
    for name in ["data.qcow2", "tools.qcow2"] {
        qcow2(&folder.join(name));
    }
    write("seed.iso", &[0; 1 << 20]);
    write("big", b"2\n1\n");
    write("script.sh", b"uname -r\nexit 0\n");
    write("bad.toml", b"memroy = \"1G\"\n\n\npublish = [\"80\"]\n");
    write("vmlinux", &common::multiboot(&[0xf4]));
    for disk in ["root.raw", "scratch.raw"] {
        write(disk, &[0; 1 << 20]);
    }
    write("tool.conf", b"loud\n");
    fs::create_dir(folder.join("data")).unwrap();
    write("data/input", b"input\n");
    write("tool", b"#!/bin/sh\ncat tool.conf \"$1\"\n");
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(folder.join("tool"), mode).unwrap();
    write("web.toml", b"memory = \"256M\"\n");
    let busybox = fs::read(cache.folder().join("busybox")).unwrap();
    write("image.tar", &saved(&busybox));
    let snapshot = folder.join("backup/web-1");
    fs::create_dir_all(&snapshot).unwrap();
    for entry in fs::read_dir(SNAPSHOT).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, snapshot.join(path.file_name().unwrap())).unwrap();
    }
}

fn qcow2(path: &Path) {
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .unwrap();
    let storage = imago::file::File::try_from(file).unwrap();
    let builder: Qcow2CreateBuilder<imago::file::File> = Qcow2::create_builder(storage);
    imago::FormatCreateBuilder::create(builder.size(1 << 20)).unwrap();
}

/// What `docker save` writes of an image with busybox in it.
fn saved(busybox: &[u8]) -> Vec<u8> {
    let mut layer = tar::Builder::new(Vec::new());
    add(&mut layer, "bin/busybox", busybox);
    for name in ["sh", "id", "echo"] {
        let mut link = tar::Header::new_gnu();
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_size(0);
        link.set_mode(0o777);
        link.set_uid(0);
        link.set_gid(0);
        link.set_mtime(0);
        let path = format!("bin/{name}");
        layer.append_link(&mut link, path, "busybox").unwrap();
    }
    let layer = layer.into_inner().unwrap();
    let digest = sha2::Sha256::digest(&layer);
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let config = serde_json::json!({
        "os": "linux", "architecture": "amd64",
        "config": { "Cmd": ["/bin/sh"], "Env": ["PATH=/bin"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
    });
    let manifest = serde_json::json!([{ "Config": "config.json", "Layers": ["layer.tar"] }]);
    let mut archive = tar::Builder::new(Vec::new());
    add(&mut archive, "layer.tar", &layer);
    add(&mut archive, "config.json", config.to_string().as_bytes());
    add(
        &mut archive,
        "manifest.json",
        manifest.to_string().as_bytes(),
    );
    archive.into_inner().unwrap()
}
