//! Menus as distributions write them, and disks with them.

use super::*;

type Volumes<'a> = Vec<Vec<(&'a str, &'a [u8])>>;

fn check(volumes: &Volumes<'_>, expected: Option<(&str, &str)>) {
    let found = entry_of_files(volumes);
    let found = found
        .as_ref()
        .map(|(title, cmdline)| (title.as_str(), cmdline.as_str()));
    assert_eq!(found, expected);
}

/// What `grub-mkconfig` writes on Debian 12, less what shows pictures.
const DEBIAN: &str = r#"
if [ -s $prefix/grubenv ]; then
  set have_grubenv=true
  load_env
fi
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set next_entry=
   save_env next_entry
   set boot_once=true
else
   set default="0"
fi
if [ x"${feature_menuentry_id}" = xy ]; then
  menuentry_id_option="--id"
else
  menuentry_id_option=""
fi
export menuentry_id_option
function savedefault {
  if [ -z "${boot_once}" ]; then
    saved_entry="${chosen}"
    save_env saved_entry
  fi
}
function load_video {
  if [ x$feature_all_video_module = xy ]; then
    insmod all_video
  else
    insmod efi_gop
  fi
}
if [ x$feature_default_font_path = xy ] ; then
   font=unicode
else
insmod part_gpt
insmod ext2
search --no-floppy --fs-uuid --set=root 11111111-2222-3333-4444-555555555555
    font="/usr/share/grub/unicode.pf2"
fi
if loadfont $font ; then
  set gfxmode=auto
fi
terminal_output gfxterm
if [ x$feature_timeout_style = xy ] ; then
  set timeout_style=menu
  set timeout=5
# Fallback normal timeout code in case the timeout_style feature is
# unavailable.
else
  set timeout=5
fi
set linux_gfx_mode=
export linux_gfx_mode
menuentry 'Debian GNU/Linux' --class debian --class gnu-linux $menuentry_id_option 'gnulinux-simple-1111' {
	load_video
	insmod gzio
	if [ x$grub_platform = xxen ]; then insmod xzio; insmod lzopio; fi
	insmod part_gpt
	search --no-floppy --fs-uuid --set=root 11111111-2222-3333-4444-555555555555
	echo	'Loading Linux 6.1.0-26-cloud-amd64 ...'
	linux	/boot/vmlinuz-6.1.0-26-cloud-amd64 root=PARTUUID=aa-bb ro console=tty0 console=ttyS0,115200 "dyndbg=file a.c +p"
	echo	'Loading initial ramdisk ...'
	initrd	/boot/initrd.img-6.1.0-26-cloud-amd64
}
submenu 'Advanced options for Debian GNU/Linux' $menuentry_id_option 'gnulinux-advanced-1111' {
	menuentry 'Debian GNU/Linux, with Linux 6.1.0-26' --class debian $menuentry_id_option 'gnulinux-6.1.0-26-advanced-1111' {
		linux	/boot/vmlinuz-6.1.0-26-cloud-amd64 root=PARTUUID=aa-bb ro new
	}
	menuentry 'Debian GNU/Linux, with Linux 6.1.0-25' --class debian $menuentry_id_option 'gnulinux-6.1.0-25-advanced-1111' {
		linux	/boot/vmlinuz-6.1.0-25-cloud-amd64 root=PARTUUID=aa-bb ro old
	}
}
if [ "$grub_platform" = "efi" ]; then
	menuentry 'UEFI Firmware Settings' $menuentry_id_option 'uefi-firmware' {
		fwsetup
	}
fi
if [ -f  ${config_directory}/custom.cfg ]; then
  source ${config_directory}/custom.cfg
fi
"#;

#[test]
fn debians_menu_starts_its_first_entry() {
    let config = ("/boot/grub/grub.cfg", DEBIAN.as_bytes());
    let cmdline = "root=PARTUUID=aa-bb ro console=tty0 console=ttyS0,115200 \"dyndbg=file a.c +p\"";
    check(&vec![vec![config]], Some(("Debian GNU/Linux", cmdline)));
}

#[test]
fn what_was_said_to_be_next_or_was_saved_is_started() {
    let with = |environment: &'static str, default: &str, expected: (&str, &str)| {
        let text = DEBIAN.replace("set default=\"0\"", &format!("set default=\"{default}\""));
        let environment = ("/boot/grub/grubenv", environment.as_bytes());
        let config = ("/boot/grub/grub.cfg", text.as_bytes());
        check(&vec![vec![config, environment]], Some(expected));
    };
    let old = (
        "Debian GNU/Linux, with Linux 6.1.0-25",
        "root=PARTUUID=aa-bb ro old",
    );
    let new = (
        "Debian GNU/Linux, with Linux 6.1.0-26",
        "root=PARTUUID=aa-bb ro new",
    );
    with("# GRUB Environment Block\nnext_entry=1>1\n####", "0", old);
    with(
        "# GRUB Environment Block\nsaved_entry=gnulinux-advanced-1111>gnulinux-6.1.0-25-advanced-1111\n####",
        "${saved_entry}",
        old,
    );
    with("", "1", new);
    with(
        "",
        "Advanced options for Debian GNU/Linux>Debian GNU/Linux, with Linux 6.1.0-25",
        old,
    );
    // What is not there is the first one.
    let (title, _) = entry_of_files(&[vec![(
        "/boot/grub/grub.cfg",
        DEBIAN
            .replace("set default=\"0\"", "set default=\"7>3\"")
            .as_bytes(),
    )]])
    .unwrap();
    assert_eq!(title, "Debian GNU/Linux");
}

/// Fedora's: a separate `/boot`, an EFI partition that leads to it, and entries of the specification with variables.
#[test]
fn fedoras_entries_are_found_on_a_boot_partition_of_their_own() {
    let config = br#"
load_env -f ${config_directory}/grubenv
if [ -f ${config_directory}/grubenv ]; then load_env -f ${config_directory}/grubenv
elif [ -s $prefix/grubenv ]; then load_env; fi
if [ "${next_entry}" ] ; then set default="${next_entry}"; else set default="${saved_entry}"; fi
search --no-floppy --fs-uuid --set=boot UUID-OF-BOOT
if [ -z "${kernelopts}" ]; then set kernelopts="root=UUID=x ro quiet"; fi
insmod blscfg
blscfg
"#;
    let entry = |version: &str| {
        format!(
            "title Fedora ({version})\nversion {version}\nlinux /vmlinuz-{version}\ninitrd /initramfs-{version}.img \
             $tuned_initrd\noptions $kernelopts console='ttyS0' $tuned_params\ngrub_users $grub_users\n"
        )
    };
    let old = entry("6.9.9-100");
    let new = entry("6.10.2-200");
    let rescue = entry("0-rescue");
    let saved = b"# GRUB Environment Block\nsaved_entry=abc-6.9.9-100\n#########";
    let boot: Vec<(&str, &[u8])> = vec![
        ("/grub2/grub.cfg", config),
        ("/uuid", b"UUID-OF-BOOT"),
        ("/name", b"hd0,gpt3"),
        ("/loader/entries/abc-6.9.9-100.conf", old.as_bytes()),
        ("/loader/entries/abc-6.10.2-200.conf", new.as_bytes()),
        ("/loader/entries/abc-0-rescue.conf", rescue.as_bytes()),
    ];
    let esp: Vec<(&str, &[u8])> = vec![
        (
            "/EFI/fedora/grub.cfg",
            b"search --no-floppy --fs-uuid --set=dev UUID-OF-BOOT\nset prefix=($dev)/grub2\nexport $prefix\n\
              configfile $prefix/grub.cfg\n",
        ),
        ("/name", b"hd0,gpt1"),
    ];
    let options = "root=UUID=x ro quiet console='ttyS0'";
    check(
        &vec![esp.clone(), boot.clone()],
        Some(("Fedora (6.10.2-200)", options)),
    );
    let mut with_saved = boot;
    with_saved.push(("/grub2/grubenv", saved));
    check(
        &vec![esp, with_saved],
        Some(("Fedora (6.9.9-100)", options)),
    );
}

#[test]
fn ubuntus_images_are_started_with_their_initrd() {
    let config = br#"
menuentry 'Ubuntu' --id=simple {
  if [ "${initrdfail}" = 1 ]; then
    linux /boot/vmlinuz root=PARTUUID=1 ro console=ttyS0
    initrd /boot/initrd.img
  else
    linux /boot/vmlinuz root=PARTUUID=1 ro console=ttyS0 panic=-1
  fi
  initrdfail
}
"#;
    check(
        &vec![vec![("/boot/grub/grub.cfg", config)]],
        Some(("Ubuntu", "root=PARTUUID=1 ro console=ttyS0")),
    );
}

#[test]
fn entries_without_grub_are_in_the_order_of_their_specification() {
    let of = |loader: &'static [u8], expected: (&str, &str)| {
        let files: Vec<(&str, &[u8])> = vec![
            ("/loader/loader.conf", loader),
            (
                "/loader/entries/a.conf",
                b"title A\nsort-key z\nversion 1\nlinux /a\noptions a\n",
            ),
            (
                "/loader/entries/b1.conf",
                b"title B1\nsort-key b\nversion 1\nlinux /b\noptions b\noptions c\n",
            ),
            (
                "/loader/entries/b2+0-3.conf",
                b"title B2\nsort-key b\nversion 2\nlinux /b\n",
            ),
            (
                "/loader/entries/c.conf",
                b"title C\narchitecture aa64\nlinux /c\n",
            ),
            ("/loader/entries/d.conf", b"title D\nefi /d.efi\n"),
        ];
        check(&vec![files], Some(expected));
    };
    of(b"timeout 3\n", ("B1", "b c"));
    of(b"default a*\n", ("A", "a"));
    of(b"default ?2.conf\n", ("B2", ""));
}

#[test]
fn menus_that_start_no_linux_have_no_entry() {
    let check_config = |config: &[u8]| check(&vec![vec![("/grub/grub.cfg", config)]], None);
    check_config(b"");
    check_config(b"menuentry Windows { chainloader +1 }");
    check_config(b"menuentry 'never closed { linux /a");
    check_config(b"fi done } else ) ${ $( [ if then");
}

#[test]
fn a_script_without_end_ends() {
    let check_config = |config: &[u8]| {
        check(&vec![vec![("/grub/grub.cfg", config)]], Some(("x", "a")));
    };
    check_config(b"menuentry x { linux /l a; }\nwhile true; do set a=b; done");
    check_config(b"menuentry x { linux /l a; }\nfunction f { f; f; }\nf");
    check_config(b"menuentry x { linux /l a; }\nset a=x\nwhile true; do set a=\"$a$a\"; done");
    check_config(b"menuentry x { linux /l a; }\nconfigfile /grub/grub.cfg");
    let long = |word: &str| {
        let words = format!("{word} ").repeat(100_000);
        format!(
            "menuentry x {{ linux /l a; }}\nif [ {words}]; then menuentry y {{ linux /l b; }}; fi"
        )
    };
    for word in ["!", "a -o", "a -a"] {
        check_config(long(word).as_bytes());
    }
}
