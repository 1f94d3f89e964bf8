//! Small images in both forms, whole and damaged.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::container::{
    self, ContainerError, InThisProcess, OpenedContainer, ReadContainer, digest::sha256,
};
use crate::store::{Image, Store};

/// A tar archive of these files.
fn layer(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_entry_type(tar::EntryType::Regular);
        builder
            .append_data(&mut header, path, text.as_bytes())
            .unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn layers() -> Vec<Vec<u8>> {
    vec![
        layer(&[
            ("etc/passwd", "app:x:1000:100::/srv:/bin/sh\n"),
            ("old", "1"),
        ]),
        layer(&[(".wh.old", ""), ("new", "2")]),
    ]
}

fn config(user: &str, layers: &[Vec<u8>]) -> Vec<u8> {
    let ids: Vec<String> = layers
        .iter()
        .map(|layer| format!("sha256:{}", sha256(layer)))
        .collect();
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "config": { "Entrypoint": ["/entry"], "Cmd": ["a", "b"], "Env": ["X=1"], "WorkingDir": "/srv", "User": user },
        "rootfs": { "type": "layers", "diff_ids": ids },
    });
    serde_json::to_vec(&config).unwrap()
}

/// An image layout folder; `pack` compresses the layers.
fn oci(folder: &Path, user: &str, pack: fn(&[u8]) -> Vec<u8>) -> PathBuf {
    let root = folder.join("layout");
    fs::create_dir_all(root.join("blobs/sha256")).unwrap();
    let blob = |bytes: &[u8]| {
        fs::write(root.join("blobs/sha256").join(sha256(bytes)), bytes).unwrap();
        json!({ "digest": format!("sha256:{}", sha256(bytes)), "size": bytes.len() })
    };
    let plain = layers();
    let packed: Vec<_> = plain.iter().map(|layer| blob(&pack(layer))).collect();
    let manifest =
        json!({ "schemaVersion": 2, "config": blob(&config(user, &plain)), "layers": packed });
    let mut descriptor = blob(&serde_json::to_vec(&manifest).unwrap());
    descriptor["platform"] = json!({ "os": "linux", "architecture": "amd64" });
    let other =
        json!({ "digest": "sha256:0", "platform": { "os": "linux", "architecture": "arm64" } });
    let index = json!({ "schemaVersion": 2, "manifests": [other, descriptor] });
    fs::write(root.join("index.json"), index.to_string()).unwrap();
    fs::write(root.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    root
}

/// What `docker save` writes.
fn docker(folder: &Path) -> PathBuf {
    let plain = layers();
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |path: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        builder.append_data(&mut header, path, bytes).unwrap();
    };
    add("one/layer.tar", &plain[0]);
    add("two/layer.tar", &plain[1]);
    add("config.json", &config("", &plain));
    let list = json!([{ "Config": "config.json", "RepoTags": ["box:1"], "Layers": ["one/layer.tar", "two/layer.tar"] }]);
    add("manifest.json", list.to_string().as_bytes());
    let path = folder.join("saved.tar");
    fs::write(&path, builder.into_inner().unwrap()).unwrap();
    path
}

fn make(folder: &Path, path: &Path) -> Result<Image, ContainerError> {
    let at = |name: &str| folder.join(name);
    let store = Store {
        images: at("images"),
        kept: at("kept"),
        runs: at("runs"),
    };
    let work = at("work");
    let _ = fs::remove_dir_all(&work);
    fs::create_dir(&work).unwrap();
    let opened = open(path)?;
    container::make(opened, &store, &work, &mut |_| {})
}

fn open(path: &Path) -> Result<Box<dyn OpenedContainer>, ContainerError> {
    InThisProcess.open(container::input(path, None)?)
}

/// The same layout as a folder of skopeo's `dir:`.
fn dir(folder: &Path) -> PathBuf {
    let layout = oci(folder, "app", gzip);
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
    let root = folder.join("dir");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("version"), "Directory Transport Version: 1.1\n").unwrap();
    for blob in fs::read_dir(layout.join("blobs/sha256")).unwrap() {
        let blob = blob.unwrap();
        fs::copy(blob.path(), root.join(blob.file_name())).unwrap();
    }
    let digest = index["manifests"][1]["digest"].as_str().unwrap();
    let manifest = root.join(digest.strip_prefix("sha256:").unwrap());
    fs::rename(manifest, root.join("manifest.json")).unwrap();
    root
}

#[test]
fn both_forms_become_a_disk_that_knows_its_command() {
    let folder = tempfile::tempdir().unwrap();
    let check = |path: &Path, name: &str, ids: (u32, u32)| {
        let image = make(folder.path(), path).unwrap();
        let command = image.command.clone().unwrap();
        assert_eq!(image.name, name);
        assert_eq!(command.arguments, ["/entry", "a", "b"]);
        assert_eq!(
            (command.folder.as_str(), command.uid, command.gid),
            ("/srv", ids.0, ids.1)
        );
        assert!(command.environment.contains(&"X=1".to_owned()));
        assert!(
            command
                .environment
                .iter()
                .any(|variable| variable.starts_with("PATH="))
        );
        let mut other = command;
        other.replace_arguments(&["c".to_owned()]);
        assert_eq!(other.arguments, ["/entry", "c"]);
        assert!(image.disk().is_file());
    };
    check(
        &oci(folder.path(), "app", <[u8]>::to_vec),
        "layout",
        (1000, 100),
    );
    check(&oci(folder.path(), "7:8", gzip), "layout", (7, 8));
    check(&docker(folder.path()), "box:1", (0, 0));
    check(&dir(folder.path()), "dir", (1000, 100));
}

#[test]
fn an_image_that_is_made_again_is_the_same_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = oci(folder.path(), "app", gzip);
    let made = || {
        let image = make(folder.path(), &path).unwrap();
        let disk = fs::read(image.disk()).unwrap();
        drop(image);
        fs::remove_dir_all(folder.path().join("images")).unwrap();
        disk
    };
    assert!(made() == made());
}

#[test]
fn volumes_are_folders_and_the_signal_is_the_images() {
    let folder = tempfile::tempdir().unwrap();
    let text = json!({ "architecture": "amd64", "os": "linux", "config": {
        "Entrypoint": "/one", "Volumes": { "/data/deep": {}, "/etc": {}, "/../x": {} }, "StopSignal": "SIGQUIT" } });
    let image = plain_image(folder.path(), &text);
    let command = make(folder.path(), &image).unwrap().command.unwrap();
    // A word alone is a list of one.
    assert_eq!(
        (command.arguments, command.stop_signal),
        (vec!["/one".to_owned()], 3)
    );
    let mut tree = crate::tree::Tree::new();
    let input = container::input(&image, None).unwrap();
    let source = container::source::Source::new(input.parts).unwrap();
    let manifest = container::manifest::Manifest::read(&source, input.name, None).unwrap();
    let config = container::config::Config::read(&source, &manifest).unwrap();
    config.put_volumes(&mut tree);
    let is_folder = |path: &str| {
        let found = tree.find(path.as_bytes(), false);
        found.is_some_and(|node| tree.is_folder(node))
    };
    assert!(is_folder("/data/deep") && is_folder("/etc"));
}

/// What `docker save` writes of an image without layers.
fn plain_image(folder: &Path, config: &serde_json::Value) -> PathBuf {
    let mut builder = tar::Builder::new(Vec::new());
    let list = json!([{ "Config": "config.json", "RepoTags": ["bare:1"], "Layers": [] }]);
    for (path, value) in [("config.json", config), ("manifest.json", &list)] {
        let bytes = value.to_string();
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        builder
            .append_data(&mut header, path, bytes.as_bytes())
            .unwrap();
    }
    let path = folder.join("bare.tar");
    fs::write(&path, builder.into_inner().unwrap()).unwrap();
    path
}

/// What `printf x | zstd` writes.
const FRAME: [u8; 14] = [
    0x28, 0xb5, 0x2f, 0xfd, 0x04, 0x58, 0x09, 0x00, 0x00, 0x78, 0x23, 0x42, 0xdd, 0x1a,
];

/// A frame of three bytes that readers skip.
const SKIPPED: [u8; 11] = [0x5e, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];

#[test]
fn zstd_layers_are_read_to_the_end_of_their_last_frame() {
    let check = |parts: &[&[u8]], expected: Option<&str>| {
        let packed = parts.concat();
        let mut text = Vec::new();
        let read = container::digest::decompress(&packed[..])
            .and_then(|mut plain| std::io::Read::read_to_end(&mut plain, &mut text));
        // The checksum at the end of a frame is not ours to judge here; the content is.
        let got = read.is_ok().then(|| String::from_utf8(text).unwrap());
        assert_eq!(got.as_deref(), expected, "{parts:?}");
    };
    check(&[&FRAME], Some("x"));
    check(&[&FRAME, &FRAME, &FRAME], Some("xxx"));
    check(&[&SKIPPED, &FRAME, &SKIPPED, &FRAME, &SKIPPED], Some("xx"));
    check(&[&FRAME, &SKIPPED[..9]], None);
    check(&[&FRAME, &FRAME[..9]], None);
    check(&[&FRAME, b"tail"], None);
}

#[test]
fn images_that_differ_in_their_layers_only_are_two() {
    let folder = tempfile::tempdir().unwrap();
    let name = |text: &str, tells_layers: bool| {
        let layers = [layer(&[("entry", text)])];
        let mut config: serde_json::Value = serde_json::from_slice(&config("", &layers)).unwrap();
        if !tells_layers {
            config.as_object_mut().unwrap().remove("rootfs");
        }
        let path = folder.path().join(format!("{text}-{tells_layers}.tar"));
        let manifest = json!([{ "Config": "config", "Layers": ["layer"] }]);
        let [layer] = &layers;
        let mut builder = tar::Builder::new(Vec::new());
        for (part, bytes) in [
            ("config", serde_json::to_vec(&config).unwrap()),
            ("manifest.json", serde_json::to_vec(&manifest).unwrap()),
            ("layer", layer.clone()),
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            builder.append_data(&mut header, part, &bytes[..]).unwrap();
        }
        fs::write(&path, builder.into_inner().unwrap()).unwrap();
        container::folder_name(&*open(&path).unwrap()).unwrap()
    };
    for tells_layers in [true, false] {
        assert_ne!(
            name("one", tells_layers),
            name("two", tells_layers),
            "{tells_layers}"
        );
        assert_eq!(
            name("one", tells_layers),
            name("one", tells_layers),
            "{tells_layers}"
        );
    }
}

#[test]
fn whatever_is_damaged_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let check = |path: &Path, expected: &str| {
        let error = make(folder.path(), path).unwrap_err();
        assert!(error.is_bad_input());
        assert!(error.to_string().contains(expected), "{error}");
    };
    let root = oci(folder.path(), "", gzip);
    let blob = |bytes: &[u8]| root.join("blobs/sha256").join(sha256(bytes));
    // Another layer under the old one's name.
    fs::write(blob(&gzip(&layers()[0])), gzip(&layer(&[("evil", "x")]))).unwrap();
    check(&root, "layer 1 is damaged: its SHA-256 is ");
    fs::write(blob(&config("", &layers())), "{}").unwrap();
    check(&root, "is damaged: its SHA-256 is ");
    fs::write(
        root.join("index.json"),
        r#"{"manifests":[{"digest":"sha256:../../etc/passwd"}]}"#,
    )
    .unwrap();
    check(&root, "is no SHA-256");
    let other = r#"{"manifests":[{"platform":{"os":"linux","architecture":"arm64"}}]}"#;
    fs::write(root.join("index.json"), other).unwrap();
    check(&root, "for linux/arm64");
    fs::write(root.join("index.json"), "not json").unwrap();
    check(&root, "it is no JSON");
    fs::remove_file(root.join("index.json")).unwrap();
    check(&root, "neither an OCI image layout nor");
    check(&oci(folder.path(), "nobody-here", gzip), "has no such user");
}

#[test]
fn a_part_of_an_image_lies_in_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("image")).unwrap();
    fs::write(folder.path().join("secret"), "x").unwrap();
    fs::write(folder.path().join("image/part"), "y").unwrap();
    let input = container::input(&folder.path().join("image"), None).unwrap();
    let is_there = |part: &str| input.parts.open(part).is_ok();
    assert!(is_there("part") && is_there("./part") && is_there("blobs/../part"));
    for part in [
        "../secret",
        "blobs/../../secret",
        "/etc/passwd",
        "part\0",
        "absent",
    ] {
        assert!(!is_there(part), "{part}");
    }
    let archive = container::input(&folder.path().join("secret"), None).unwrap();
    assert!(
        archive.parts.open("secret").is_err(),
        "an archive is read from within"
    );
}
