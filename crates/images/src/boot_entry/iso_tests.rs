//! Discs with menus, as Debian and Ironic make them, and discs that lead nowhere.

use std::cell::RefCell;

use super::disc::{DiscNames, OnDisc, disc_of_files};
use super::*;

struct InBytes(RefCell<Vec<u8>>);

impl ReadDisk for InBytes {
    fn len_bytes(&self) -> u64 {
        self.0.borrow().len() as u64
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let all = self.0.borrow();
        let found = all.get(offset as usize..offset as usize + bytes.len());
        bytes.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// What a disc starts, and the bytes of its initrds.
fn read(disc: Vec<u8>) -> Result<(BootEntry, Vec<u8>), BootError> {
    let disk: Rc<dyn ReadDisk> = Rc::new(InBytes(RefCell::new(disc)));
    let mut initrd = tempfile::tempfile().unwrap();
    let onto = BootOnto {
        kernel: tempfile::tempfile().unwrap(),
        initrd: initrd.try_clone().unwrap(),
    };
    match read_boot_entry(&disk, onto)? {
        Bootable::Entry(entry) => {
            let mut bytes = Vec::new();
            initrd.rewind().unwrap();
            io::Read::read_to_end(&mut initrd, &mut bytes).unwrap();
            Ok((entry, bytes))
        }
        Bootable::System => panic!("a disc has no init"),
    }
}

const ISOLINUX: &[u8] =
    b"default boot\n\nlabel boot\nkernel /vmlinuz\nappend initrd=/initrd text ipa=1 --\n";

#[test]
fn a_disc_starts_what_its_menu_says_whatever_names_it_has() {
    let config = ("isolinux/isolinux.cfg", OnDisc::File(ISOLINUX));
    let kernel = ("vmlinuz", OnDisc::File(b"kernel"));
    let initrd = ("initrd", OnDisc::File(b"ramdisk!"));
    for names in [DiscNames::Plain, DiscNames::RockRidge, DiscNames::Joliet] {
        let files = [config.clone(), kernel.clone(), initrd.clone()];
        let (entry, bytes) = read(disc_of_files("TEST", names, &files)).unwrap();
        let expected = BootEntry {
            title: "boot".to_owned(),
            source: "/isolinux/isolinux.cfg on the whole disk".to_owned(),
            kernel: "/vmlinuz on the whole disk".to_owned(),
            initrds: vec!["/initrd on the whole disk".to_owned()],
            cmdline: "initrd=/initrd text ipa=1 --".to_owned(),
        };
        assert_eq!(entry, expected, "{names:?}");
        assert_eq!(bytes, b"ramdisk!", "{names:?}");
    }
}

#[test]
fn grub_finds_its_disc_by_date_label_and_file_and_follows_links() {
    let check = |search: &str| {
        let config = format!(
            "set root=(hd0,gpt1)\n{search}\nmenuentry --hotkey=i 'Install' {{\n linux /install/vmlinuz vga=788 --- quiet\n \
             initrd /install/initrd.gz\n}}\n"
        );
        let files = [
            ("boot/grub/grub.cfg", OnDisc::File(config.as_bytes())),
            ("install.amd/vmlinuz", OnDisc::File(b"kernel")),
            ("install.amd/gtk/initrd.gz", OnDisc::File(b"ramdisk!")),
            (
                "install.amd/initrd.gz",
                OnDisc::Link("gtk/../gtk/initrd.gz"),
            ),
            ("install", OnDisc::Link("/install.amd")),
            (".disk/info", OnDisc::File(b"info")),
        ];
        let (entry, bytes) = read(disc_of_files("DEB", DiscNames::RockRidge, &files)).unwrap();
        assert_eq!(entry.title, "Install", "{search}");
        assert_eq!(bytes, b"ramdisk!", "{search}");
    };
    check("search --set=root --file /.disk/info");
    check("search --set=root --fs-uuid 2026-12-02-01-53-00-00");
    check("search --set=root --label DEB");
    check("set root=cd0");
}

#[test]
fn a_disc_for_sticks_is_read_beside_its_partitions() {
    let files = [
        ("isolinux/isolinux.cfg", OnDisc::File(ISOLINUX)),
        ("vmlinuz", OnDisc::File(b"kernel")),
        ("initrd", OnDisc::File(b"ramdisk!")),
    ];
    let mut disc = disc_of_files("TEST", DiscNames::Plain, &files);
    // As isohybrid writes it: one partition from the first sector on, one for UEFI in the middle of the disc.
    disc[446..462].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 100, 0, 0, 0]);
    disc[462..478].copy_from_slice(&[0, 0, 0, 0, 0xef, 0, 0, 0, 64, 0, 0, 0, 8, 0, 0, 0]);
    disc[510..512].copy_from_slice(&[0x55, 0xaa]);
    assert_eq!(read(disc).unwrap().1, b"ramdisk!");
}

#[test]
fn a_disc_that_leads_nowhere_says_so() {
    let check = |files: &[(&str, OnDisc<'_>)], expected: &str| {
        let said = read(disc_of_files("X", DiscNames::RockRidge, files));
        assert_eq!(said.unwrap_err().to_string(), expected);
    };
    check(
        &[("readme", OnDisc::File(b"x"))],
        "it has no Linux boot entry: ISO 9660 on the whole disk was looked through",
    );
    let config = ("isolinux.cfg", OnDisc::File(ISOLINUX));
    let circle = [
        config.clone(),
        ("vmlinuz", OnDisc::Link("other")),
        ("other", OnDisc::Link("vmlinuz")),
    ];
    let bad = |what: &str| {
        format!("its boot entry \"boot\" cannot be used: /vmlinuz on the whole disk: {what}")
    };
    check(&circle, &bad("links lead to links for ever"));
    check(std::slice::from_ref(&config), &bad("file not found"));
    let folder = [config, ("vmlinuz/x", OnDisc::File(b"x"))];
    check(&folder, &bad("is a directory"));
}

#[test]
fn a_disc_of_which_every_byte_may_be_wrong_does_no_harm() {
    let files = [
        ("isolinux/isolinux.cfg", OnDisc::File(ISOLINUX)),
        ("a", OnDisc::Link("vmlinuz")),
        ("vmlinuz", OnDisc::File(b"kernel")),
        ("initrd", OnDisc::File(b"ramdisk!")),
    ];
    for names in [DiscNames::RockRidge, DiscNames::Joliet] {
        let disc = disc_of_files("X", names, &files);
        for at in 16 * 2048..disc.len() {
            if disc[at] == 0 && at % 7 != 0 {
                continue;
            }
            for value in [0, 0xff, disc[at].wrapping_add(1)] {
                let mut wrong = disc.clone();
                wrong[at] = value;
                // Whatever is said, it is said.
                let _ = read(wrong);
            }
        }
    }
}

#[test]
fn menus_of_isolinux_say_what_starts_by_itself() {
    let check = |files: &[(&str, &str)], expected: Option<(&str, &str)>| {
        let files: Vec<(&str, &[u8])> = files
            .iter()
            .map(|(path, text)| (*path, text.as_bytes()))
            .collect();
        let found = entry_of_files(&[files]);
        let found = found.as_ref().map(|(a, b)| (a.as_str(), b.as_str()));
        assert_eq!(found, expected);
    };
    let main = "/isolinux/isolinux.cfg";
    // As Debian's installer has it.
    check(
        &[
            (
                main,
                "# D-I config version 2.0\npath \ninclude menu.cfg\ndefault vesamenu.c32\nprompt 0\ntimeout 0\n",
            ),
            (
                "/isolinux/menu.cfg",
                "menu hshift 4\nmenu title Debian\ninclude stdmenu.cfg\ninclude gtk.cfg\ninclude txt.cfg\n",
            ),
            (
                "/isolinux/gtk.cfg",
                "default installgui\nlabel installgui\n\tmenu label ^Graphical install\n\tmenu default\n\
                 \tkernel /install.amd/vmlinuz\n\tappend vga=788 initrd=/install.amd/gtk/initrd.gz --- quiet \n",
            ),
            (
                "/isolinux/txt.cfg",
                "label install\n\tmenu label ^Install\n\tkernel /install.amd/vmlinuz\n\tappend vga=788 initrd=/i.gz\n",
            ),
        ],
        Some((
            "Graphical install",
            "vga=788 initrd=/install.amd/gtk/initrd.gz --- quiet",
        )),
    );
    check(
        &[(
            main,
            "LABEL a\nKERNEL a\nLABEL b\nLINUX b\nAPPEND x\nMENU DEFAULT\n",
        )],
        Some(("b", "x")),
    );
    check(
        &[(
            main,
            "append common\ndefault b\nlabel a\nkernel a\nlabel b\nkernel b\n",
        )],
        Some(("b", "common")),
    );
    check(
        &[(main, "append common\nlabel a\nkernel a\nappend -\n")],
        Some(("a", "")),
    );
    check(
        &[(main, "default linux quiet x\n")],
        Some(("linux", "quiet x")),
    );
    // A text for people has words of ours at its lines' starts, and says nothing.
    check(
        &[(
            main,
            "default a\nlabel a\nkernel a\ntext HELP\n  kernel of the other system\n  label b\n  append is not for you\n\
             EndText\nappend x\nlabel b\nkernel b\n",
        )],
        Some(("a", "x")),
    );
    // A comment is none, and lines may end as DOS has them.
    check(
        &[(
            main,
            "# default b\r\nDefault a\r\n#label b\r\nLabel a\r\n\tKernel a\r\n\t# append y\r\n\tAppend x\r\n\tIPAppend 2\r\n",
        )],
        Some(("a", "x")),
    );
    // `default` that names a label counts more than the menu's mark, and a mark in a menu below is that menu's.
    check(
        &[(
            main,
            "ui menu.c32\ndefault b\nlabel a\nmenu default\nkernel a\nlabel b\nkernel b\n",
        )],
        Some(("b", "")),
    );
    check(
        &[(
            main,
            "default vesamenu.c32\nmenu begin more\nmenu title More\nlabel back\nmenu exit\nlabel c\nmenu default\n\
             kernel c\nmenu end\nappend all\nlabel a\nkernel a\nmenu separator\nmenu default\nlabel b\nkernel b\n",
        )],
        Some(("a", "all")),
    );
    // The menu's program may be told what to read.
    check(
        &[
            (main, "ui vesamenu.c32 top.cfg\nlabel a\nkernel a\n"),
            ("/isolinux/top.cfg", "label b\nkernel b\nappend y\n"),
        ],
        Some(("b", "y")),
    );
    check(
        &[(main, "ui menu.c32 ~\nlabel a\nkernel a\n")],
        Some(("a", "")),
    );
    check(
        &[(
            main,
            "default hd\nontimeout a more words\nlabel hd\nlocalboot 0\nlabel a\nkernel a\nappend x\n",
        )],
        Some(("a", "x more words")),
    );
    check(
        &[(main, "default linux\nlabel linux\nappend x\n")],
        Some(("linux", "x")),
    );
    check(
        &[(main, "label a\nlinux /a.bin\nlabel b\nkernel b\n")],
        Some(("a", "")),
    );
    // What starts by itself is no Linux.
    check(&[(main, "ontimeout reboot.c32\nlabel a\nkernel a\n")], None);
    check(
        &[(main, "label a\nkernel /a.bin\nlabel b\nkernel b\n")],
        None,
    );
    check(
        &[(main, "default menu.c32\nlabel a\nkernel a\nmenu disabled\n")],
        None,
    );
    check(
        &[(
            main,
            "default hd\nlabel hd\nlocalboot 0x80\nlabel a\nkernel a\n",
        )],
        None,
    );
    check(&[(main, "include isolinux.cfg\n")], None);
    check(&[(main, "")], None);
}
