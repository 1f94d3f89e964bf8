//! Whose host it is, a guest does not learn: it finds the same bytes on two hosts that have little in common.
//!
//! Two hosts are two settings of one: another user, host name, home, language, time zone and folder, and as many cores as one.
//! What differs by nature is left out and stands in `docs/threat-model.md`: how fast its time stamp counter runs, and times.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::fs;
use std::process::Command;

use common::nobody::Who;
use common::{Mother, with_guest};

/// What a program in the guest can read of its machine, but for times and frequencies.
const LOOK: &str = r#"
echo "== processor"; grep -v -e MHz -e bogomips /proc/cpuinfo
echo "== ACPI"; for f in /sys/firmware/acpi/tables/*; do [ -d $f ] || { echo $f; od -A n -t x1 $f; }; done
echo "== DMI"; for f in /sys/class/dmi/id/*; do [ -f $f ] && echo "${f##*/}: $(cat $f)"; done
od -A n -t x1 /sys/firmware/dmi/tables/DMI
echo "== PCI"; for f in /sys/bus/pci/devices/*/config; do echo $f; od -A n -t x1 $f; done
echo "== places"; cat /proc/iomem /proc/ioports
echo "== virtio"; cat /sys/bus/virtio/devices/*/features
echo "== network"; n=0; until ip -4 addr show eth0 | grep -q inet || [ $n = 100 ]; do n=$((n + 1)); sleep 0.1; done
cat /sys/class/net/*/address /sys/class/net/*/mtu; ip -4 addr | grep -o 'inet [^ ]*'; ip -4 route; cat /etc/resolv.conf /etc/hosts /etc/hostname 2>/dev/null
echo "== disks"; for d in /sys/block/vd*; do cat $d/serial $d/size $d/queue/*block_size; od -A n -t x1 /dev/${d##*/} | head -n 3; done
echo "== kernel"; uname -a; cat /proc/cmdline /proc/version; hostname
echo "== interrupts"; sed 's/ *[0-9]* / /' /proc/interrupts | awk '{print $1, $NF}'
echo "== environment"; env | sort; cat /proc/1/cmdline | tr '\0' ' '; echo
echo "== files"; find / -xdev -type f | sort | grep -v -e ^/proc -e ^/sys | xargs md5sum
echo "== memory"; grep -e MemTotal -e HugePages_Total /proc/meminfo
echo "== first messages"; dmesg | sed 's/^\[[^]]*\] //' | grep -e DMI: -e Command -e e820 -e "ACPI: [A-Z]* 0x" -e Hypervisor
"#;

/// A host: the command, and what its environment says.
fn look(mother: &Mother, host_name: &str, variables: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("look");
    fs::write(&script, LOOK).unwrap();
    let disk = fs::File::create(folder.path().join("disk")).unwrap();
    disk.set_len(1 << 20).unwrap();
    mother.give(folder.path());
    let own = "exec taskset 1 \"$MOTHER\" run --name twin --cmdline nokaslr --disk disk,format=raw --net user < look";
    // Where a host name cannot be had for one command, the rest is tried all the same.
    let line = format!(
        "cd {}; if unshare --uts true 2>&-; then exec unshare --uts sh -c 'hostname {host_name}; {own}'; fi; {own}",
        folder.path().display()
    );
    let mut command: Command = mother.command("bash");
    command.args(["-c", &line]).envs(variables.iter().copied());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("== first messages"), "{said}{errors}");
    said
}

#[test]
fn a_guest_finds_the_same_bytes_on_two_hosts() {
    let Some(mother) = with_guest() else { return };
    let marks = [
        ("MARK_OF_HOST", "first-mark"),
        ("TZ", "Asia/Tokyo"),
        ("LANG", "de_DE.UTF-8"),
    ];
    let first = look(&mother, "first-host", &marks);
    for secret in ["first-host", "first-mark", "Tokyo", "de_DE", "/tmp/.tmp"] {
        assert!(!first.contains(secret), "it finds {secret}: {first}");
    }
    for known in [
        "sys_vendor: Mother\n",
        "product_name: Mother Virtual Machine\n",
        "bios_vendor: Mother\n",
    ] {
        assert!(first.contains(known), "it finds no {known}: {first}");
    }
    // A number of the machine's own would be a way to find it again.
    for own in ["product_uuid:", "product_serial: 0", "board_"] {
        assert!(!first.contains(own), "it finds {own}: {first}");
    }
    let folder = tempfile::tempdir().unwrap();
    let who = if rustix::process::geteuid().is_root() {
        Who::Nobody
    } else {
        Who::Oneself
    };
    let other = Mother::with_guest().in_folder(folder.path()).of(who);
    let second = look(
        &other,
        "second-host",
        &[("TZ", "America/Lima"), ("LANG", "C")],
    );
    let differing = first
        .lines()
        .zip(second.lines())
        .find(|(one, two)| one != two);
    assert_eq!(differing, None);
    assert_eq!(first, second);
}
