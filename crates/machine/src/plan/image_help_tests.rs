//! Tests of the ways around: what is said, and that the commands do what they promise.

use std::fs::File;
use std::process::{Command, Stdio};

use devices::virtio::blk::Head;

use super::*;

#[test]
fn a_name_is_one_word_of_a_shell() {
    let check = |text: &str, expected: &str| assert_eq!(shell_word(text), expected);
    check("/images/a-b_c.qcow2", "/images/a-b_c.qcow2");
    check("a b", "'a b'");
    check("it's", "'it'\\''s'");
    check("$HOME;`id`", "'$HOME;`id`'");
    check("-o", "'./-o'");
    check("", "''");
}

/// A folder with an awkward name, in which a command of a shell is run.
struct Folder(tempfile::TempDir);

impl Folder {
    fn shell(&self, command: &str) -> Result<(), String> {
        let output = Command::new("sh")
            .args(["-c", command])
            .current_dir(self.0.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        output.status.success().then_some(()).ok_or(said)
    }

    /// The complaint about `name`, if there is one.
    fn trouble(&self, name: &str) -> Option<Trouble> {
        let path = self.0.path().join(name);
        let file = File::open(&path).unwrap();
        let refused = Head::read(&file, None).err()?;
        Some(explain(&path, &refused))
    }
}

fn is_installed(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        eprintln!("SKIPPED: {program} is not installed, so its commands are not tried");
    }
    found
}

/// Commands between backquotes.
fn commands(help: &str) -> impl Iterator<Item = &str> {
    let is_command = |text: &&str| text.contains(' ');
    help.split('`').skip(1).step_by(2).filter(is_command)
}

/// How images come to be that cannot be opened: a name, what makes it, what is said about it.
const REFUSED: [(&str, &str, &str); 17] = [
    (
        "zstd",
        "qemu-img create -q -f qcow2 -o compression_type=zstd NAME 2M",
        "its compression is zstd",
    ),
    (
        "subclusters",
        "qemu-img create -q -f qcow2 -o extended_l2=on NAME 2M",
        "extended L2",
    ),
    (
        "dirty",
        "qemu-img create -q -f qcow2 -o lazy_refcounts=on NAME 2M && BIT='\\1'",
        "dirty",
    ),
    (
        "corrupt",
        "qemu-img create -q -f qcow2 NAME 2M && BIT='\\2'",
        "marked as corrupt",
    ),
    (
        "external",
        "qemu-img create -q -f qcow2 -o data_file=data NAME 2M",
        "another file",
    ),
    (
        "luks",
        // It measures how fast the processor is first, and sometimes cannot.
        "printf secret > SECRET; for i in 1 2 3 4 5 6 7 8; do rm -f NAME; \
         qemu-img create -q --object secret,id=s,file=SECRET -f qcow2 -o \
         encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 NAME 2M && break; done",
        "LUKS",
    ),
    (
        "aes",
        "printf secret > SECRET; qemu-img create -q --object secret,id=s,file=SECRET -f qcow2 -o \
         encrypt.format=aes,encrypt.key-secret=s NAME 2M",
        "AES",
    ),
    ("a.vmdk", "qemu-img create -q -f vmdk NAME 2M", "VMDK"),
    ("a.vdi", "qemu-img create -q -f vdi NAME 2M", "VDI"),
    ("a.vhd", "qemu-img create -q -f vpc NAME 2M", "VHD"),
    ("a.vhdx", "qemu-img create -q -f vhdx NAME 2M", "VHDX"),
    ("a.qed", "qemu-img create -q -f qed NAME 2M", "QED"),
    (
        "a.hds",
        "qemu-img create -q -f parallels NAME 2M",
        "Parallels",
    ),
    (
        "a.qcow",
        "qemu-img create -q -f qcow NAME 2M",
        "version is 1",
    ),
    (
        "a.gz",
        "head -c 4096 /dev/zero | gzip -c > NAME",
        "with gzip",
    ),
    ("a.xz", "head -c 4096 /dev/zero | xz -c > NAME", "with xz"),
    (
        "a.zst",
        "head -c 4096 /dev/zero | zstd -qc > NAME",
        "with zstd",
    ),
];

#[test]
fn the_commands_that_are_named_work() {
    if !is_installed("qemu-img") {
        return;
    }
    for (name, made_by, expected) in REFUSED {
        let packer = [".gz", ".xz", ".zst"]
            .into_iter()
            .zip(["gzip", "xz", "zstd"])
            .find(|(ending, _)| name.ends_with(ending));
        if packer.is_some_and(|(_, program)| !is_installed(program)) {
            continue;
        }
        let folder = Folder(
            tempfile::Builder::new()
                .prefix("an, awkward 'name ")
                .tempdir()
                .unwrap(),
        );
        let made = made_by.replace("NAME", name);
        let (made, bit) = made.split_once(" && BIT=").unwrap_or((&made, ""));
        match folder.shell(made) {
            // It times how fast this host derives keys, and finds that it took no time at all.
            Err(said) if said.contains("Unable to get accurate CPU usage") => {
                let mut stderr = std::io::stderr();
                std::io::Write::write_all(&mut stderr, b"skipped: qemu-img makes no key here\n")
                    .unwrap();
                continue;
            }
            made => made.unwrap(),
        }
        if !bit.is_empty() {
            // The low byte of the incompatible features.
            let set = format!("printf {bit} | dd of={name} bs=1 seek=79 conv=notrunc");
            folder.shell(&set).unwrap();
        }
        let trouble = folder.trouble(name).unwrap();
        assert!(trouble.what.contains(expected), "{name}: {}", trouble.what);
        let mut count = 0;
        for command in commands(&trouble.help) {
            count += 1;
            folder
                .shell(command)
                .unwrap_or_else(|said| panic!("{name}: {command}: {said}"));
            let made = if command.contains("NEW.qcow2") {
                "NEW.qcow2"
            } else if command.contains("NEW.img") {
                "NEW.img"
            } else {
                name
            };
            let left = folder.trouble(made).map(|trouble| trouble.what);
            assert_eq!(left, None, "{name}: {command}");
        }
        assert!(count > 0, "{name}: no way around in: {}", trouble.help);
    }
}

#[test]
fn what_an_image_leads_to_is_named_before_it_is_followed() {
    let help = help(
        Path::new("top.qcow2"),
        &HeadError::Obstacle {
            obstacle: Obstacle::ExtendedL2,
            leads_to: Some("/etc/shadow".to_owned()),
        },
    );
    assert_eq!(
        help,
        "if you trust \"/etc/shadow\", which it leads to, make one without: `qemu-img convert -f qcow2 -O qcow2 \
         top.qcow2 NEW.qcow2`"
    );
}
