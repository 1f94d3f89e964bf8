//! What reads foreign bytes, with good inputs of each format.

use std::io::{Cursor, Write};
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use anyhow::{Context, Result};
use api::{PartialSpec, Request};
use devices::virtio::blk::{Image, ImageFormat, create_overlay};
use host::MemFd;
use images::{
    BootOnto, DiscNames, InThisProcess, Input, OnDisc, Onto, Parts, ReadContainer, ReadDisk,
    ReadElf,
};
use machine::boot;

use super::{Target, board, code, filled, shared_folder, snapshot, virtio};
use crate::bare::GUESTS;

/// Bytes of a tar header, and where its checksum is (POSIX, pax, "ustar Interchange Format").
const BLOCK_BYTES: usize = 512;
const CHECKSUM: std::ops::Range<usize> = 148..156;

/// All of them.
///
/// # Errors
/// If an input cannot be made.
pub fn targets() -> Result<Vec<Target>> {
    let mut kernels = Vec::new();
    for guest in GUESTS.iter().take(2) {
        let path = guest.build(&std::env::temp_dir())?;
        kernels.push(std::fs::read(&path).context("a guest of our own")?);
    }
    let program = std::fs::read("/bin/true").context("/bin/true")?;
    let mut targets = vec![
        Target {
            mend: |input| mend_archive(input),
            ..Target::plain("container", containers()?, container)
        },
        Target::plain("elf", vec![program], |input| {
            filled(input).is_ok_and(|file| InThisProcess.needs(&file).is_ok())
        }),
        Target::plain("qcow2", vec![disk()?], qcow2),
        Target::plain("boot entry", menus(), |input| {
            // A volume with GRUB's menu, and one with an entry, both of the same bytes: they read lines of the same shape.
            let config = [("/grub/grub.cfg", input), ("/grub/grubenv", input)];
            let entry = [
                ("/loader/entries/one.conf", input),
                ("/loader/loader.conf", input),
            ];
            let menu = [
                ("/isolinux/isolinux.cfg", input),
                ("/isolinux/menu.cfg", input),
            ];
            images::entry_of_files(&[config.to_vec()]).is_some()
                || images::entry_of_files(&[menu.to_vec()]).is_some()
                || images::entry_of_files(&[entry.to_vec()]).is_some()
        }),
        Target::plain("disc", discs(), disc),
        Target::plain("kernel", kernels, |input| {
            let image = filled(input)
                .ok()
                .and_then(|file| boot::Image::from_file(file).ok());
            image.is_some_and(|image| boot::inspect(&image).is_ok())
        }),
        Target::plain("spec", specs(), |input| {
            let text = String::from_utf8_lossy(input);
            let read = PartialSpec::from_file(&text, "vm.toml");
            read.complaints.is_empty()
        }),
        Target::plain("control", requests(), |input| {
            serde_json::from_slice::<Request>(input).is_ok()
        }),
    ];
    targets.push(shared_folder::target());
    targets.push(snapshot::target()?);
    targets.extend(virtio::targets());
    targets.extend(board::targets());
    targets.push(code::target()?);
    Ok(targets)
}

fn archive(files: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        builder.append_data(&mut header, path, *bytes)?;
    }
    Ok(builder.into_inner()?)
}

/// What `docker save` writes, with layers as they are and packed, and none of them checked, so that they are read however they
/// are changed.
fn containers() -> Result<Vec<Vec<u8>>> {
    let config = br#"{"os":"linux","architecture":"amd64","config":{"Cmd":["/a"],"User":"app","Volumes":{"/v":{}}}}"#;
    let manifest = br#"[{"Config":"c","RepoTags":["a:1"],"Layers":["one","two"]}]"#;
    let long = "d/".repeat(80) + "f";
    let lower = archive(&[
        ("etc/passwd", b"app:x:1000:100::/srv:/bin/sh\n"),
        ("etc/group", b"audio:x:29:app\n"),
        (&long, b"a name that needs a header of its own"),
        ("old", b"1"),
    ])?;
    let upper = archive(&[
        (".wh.old", b""),
        ("d/.wh..wh..opq", b""),
        ("new", &[7; 2000]),
    ])?;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&upper)?;
    let packed = gzip.finish()?;
    let with = |layer: &[u8]| {
        let parts: [(&str, &[u8]); 4] = [
            ("manifest.json", manifest),
            ("c", config),
            ("one", &lower),
            ("two", layer),
        ];
        archive(&parts)
    };
    Ok(vec![with(&upper)?, with(&packed)?])
}

fn container(input: &[u8]) -> bool {
    let read = || -> Result<()> {
        let opened = InThisProcess.open(Input {
            parts: Parts::Archive(filled(input)?),
            name: "fuzz".to_owned(),
            wanted: None,
        })?;
        let onto = Onto {
            spool: filled(&[])?,
            disk: filled(&[])?,
        };
        opened.make(onto, &mut |_| ())?;
        Ok(())
    };
    read().is_ok()
}

/// Every block that looks like a header has its checksum.
fn mend_archive(input: &mut [u8]) {
    for block in input.chunks_exact_mut(BLOCK_BYTES) {
        if &block[257..262] != b"ustar" {
            continue;
        }
        block[CHECKSUM].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        let text = format!("{sum:06o}\0 ");
        block[CHECKSUM].copy_from_slice(text.as_bytes());
    }
}

/// Menus of disks, as GRUB and the Boot Loader Specification have them.
fn menus() -> Vec<Vec<u8>> {
    let grub = r#"
if [ -s $prefix/grubenv ]; then load_env; fi
if [ "${next_entry}" ] ; then set default="${next_entry}"; else set default="1>0"; fi
if [ x"${feature_menuentry_id}" = xy ]; then menuentry_id_option="--id"; fi
function load_video { if [ x$1 = xy -a ! -f /a ]; then insmod all_video; fi; }
for x in a b "c d"; do set y="$y$x"; done
menuentry 'Linux' --class a $menuentry_id_option 'simple' {
  load_video y
  search --no-floppy --fs-uuid --set=root 1111-2222
  linux /vmlinuz root=UUID=1 ro "a=b c" # words
  initrd /a.img /b.img
}
submenu 'More' { menuentry "Old \"1\"" { linux (hd0,gpt1)/old x=${y}; } }
insmod blscfg
blscfg
"#;
    let entry = "title One\nversion 6.1\nsort-key a\nlinux /vmlinuz\ninitrd /a.img $b\noptions root=UUID=1 $k\n";
    vec![
        grub.as_bytes().to_vec(),
        entry.as_bytes().to_vec(),
        ISOLINUX.to_vec(),
    ]
}

/// A menu of isolinux.
const ISOLINUX: &[u8] = b"ui vesamenu.c32\ninclude menu.cfg\nmenu begin more\nlabel a\n menu label ^A\n menu default\n kernel /k\n \
append initrd=/i,/j quiet\nmenu end\nappend x\nlabel hd\n localboot 0x80\ndefault a\n";

/// Discs with each kind of names, a file in a folder, and a link where there are links.
fn discs() -> Vec<Vec<u8>> {
    const PLAIN: &[u8] = b"menuentry a { linux /k\ninitrd /i\n}";
    const LINKED: &[u8] = b"menuentry a { linux /link/k\ninitrd /i\n}";
    let all = [
        (DiscNames::Plain, PLAIN),
        (DiscNames::RockRidge, LINKED),
        (DiscNames::Joliet, PLAIN),
    ];
    let disc = |(names, menu)| {
        let files = [
            ("isolinux/isolinux.cfg", OnDisc::File(ISOLINUX)),
            ("boot/grub/grub.cfg", OnDisc::File(menu)),
            ("link", OnDisc::Link("./boot/../")),
            ("k", OnDisc::File(&[7; 3000])),
            ("i", OnDisc::File(b"ramdisk")),
            ("j", OnDisc::File(b"ramdisk")),
        ];
        images::disc_of_files("FUZZ", names, &files)
    };
    all.map(disc).into()
}

/// A disk in memory.
struct InMemory(Vec<u8>);

impl ReadDisk for InMemory {
    fn len_bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> std::io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(bytes.len());
        let found = self.0.get(start..end);
        bytes.copy_from_slice(found.ok_or(std::io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

fn disc(input: &[u8]) -> bool {
    let read = || -> Result<()> {
        let disk: Rc<dyn ReadDisk> = Rc::new(InMemory(input.to_vec()));
        let onto = BootOnto {
            kernel: filled(&[])?,
            initrd: filled(&[])?,
        };
        images::read_boot_entry(&disk, onto)?;
        Ok(())
    };
    read().is_ok()
}

/// A small disk over nothing, with some of it written.
fn disk() -> Result<Vec<u8>> {
    let base = MemFd::new(c"base", 1 << 20)?;
    let file = MemFd::new(c"overlay", 0)?;
    let overlay = file.file().try_clone()?;
    create_overlay(overlay, base.file(), "base", ImageFormat::Raw, None)?;
    let mut bytes = vec![0; file.file().metadata()?.len() as usize];
    file.file().read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn qcow2(input: &[u8]) -> bool {
    let open = || -> Result<u64> {
        let base = MemFd::new(c"base", 1 << 20)?;
        let base = (base.file().try_clone()?, ImageFormat::Raw);
        let image = Image::open(filled(input)?, ImageFormat::Qcow2, Some(base), false)?;
        Ok(image.size_bytes())
    };
    open().is_ok()
}

fn specs() -> Vec<Vec<u8>> {
    let texts = [
        "name = \"web\"\nmemory = \"512M\"\ncpus = 2\nnet = \"user\"\negress = \"allow=192.0.2.0/24:443,a.example\"\n\
         publish = [\"8080:80\"]\ntimeout = \"60s\"\n[[disk]]\npath = \"a.raw\"\nreadonly = true\n",
        r#"{"name":"web","memory":"512M","resident-limit":"10%","disk":[{"path":"a","serial":"x"}],"label":["a=b"]}"#,
    ];
    texts.map(|text| text.as_bytes().to_vec()).into()
}

fn requests() -> Vec<Vec<u8>> {
    let requests = [
        Request::new(api::Command::Pause),
        Request::new(api::Command::Resume),
    ];
    requests
        .iter()
        .map(|request| {
            let mut line = Cursor::new(Vec::new());
            serde_json::to_writer(&mut line, request).expect("a request is JSON");
            line.into_inner()
        })
        .collect()
}
