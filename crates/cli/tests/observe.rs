//! A VM seen from outside its process: memory, registers and books, whatever the guest is doing.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Mother, multiboot, with_guest};
use api::{HostBooks, VcpuView, VmName};
use fleet::{Client, Inventory};
use tempfile::TempDir;

/// Where guests of these tests leave a word.
const WORD_AT: u64 = 0x20_0000;

/// A VM that is gone when the test is over, however it went.
struct Vm {
    mother: Mother,
    _folder: TempDir,
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.mother.call(&["rm", "--all", "--force"]);
    }
}

impl Vm {
    /// A guest of a few instructions, with interrupts off.
    fn of_code(code: &[u8], words: &[&str]) -> Vm {
        let folder = tempfile::tempdir().unwrap();
        // cli; mov dword [WORD_AT], 0x600df00d
        let start = [0xfa, 0xc7, 0x05, 0, 0, 0x20, 0, 0x0d, 0xf0, 0x0d, 0x60];
        fs::write(
            folder.path().join("guest"),
            multiboot(&[&start, code].concat()),
        )
        .unwrap();
        let vm = Vm {
            mother: Mother::new(folder.path()),
            _folder: folder,
        };
        let usual = [
            "-d",
            "--name",
            "seen",
            "--kernel",
            "guest",
            "--memory",
            "32M",
            "--timeout",
            "90s",
        ];
        let ran = vm.mother.run(&[&usual, words].concat());
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        vm
    }

    fn client(&self) -> Client {
        Client::connect(&Inventory::at(&self.mother.vms()).record(&VmName::new("seen").unwrap()))
            .unwrap()
    }

    /// Waits until the guest has left its word.
    fn wait_for_word(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        let read = || -> Option<u32> {
            let files = self.client().memory().ok()?;
            let mut word = [0; 4];
            files.memory.read_exact_at(&mut word, WORD_AT).unwrap();
            Some(u32::from_le_bytes(word))
        };
        while read() != Some(0x600d_f00d) {
            assert!(Instant::now() < deadline, "the guest does not run");
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn registers(&self) -> Vec<VcpuView> {
        let asked = Instant::now();
        let (life, vcpus) = self.client().registers().unwrap();
        assert_eq!(life, 0);
        assert!(asked.elapsed() < Duration::from_secs(5));
        vcpus
    }

    fn books(&self) -> HostBooks {
        self.client().books().unwrap()
    }
}

/// Code follows the multiboot header and the start.
const CODE_AT: u64 = 0x10_0020 + 11;

#[test]
fn registers_are_seen_whatever_a_vcpu_does() {
    let check = |code: &[u8], pause: bool, expected: fn(&VcpuView) -> bool| {
        let vm = Vm::of_code(code, &["--cpus", "2"]);
        vm.wait_for_word();
        if pause {
            vm.client().order(api::Command::Pause).unwrap();
        }
        let deadline = Instant::now() + Duration::from_secs(30);
        // A guest on its way to where it stays is not there yet.
        let vcpus = loop {
            let vcpus = vm.registers();
            // Whose thread has not begun yet says nothing.
            if vcpus.len() == 2 && expected(&vcpus[0]) {
                break vcpus;
            }
            assert!(Instant::now() < deadline, "{code:x?} {vcpus:x?}");
        };
        assert!(vcpus.iter().all(|vcpu| vcpu.age_ms < 5000), "{vcpus:?}");
        assert_eq!(vcpus[0].cr0 & 1, 1, "protected mode");
        assert_eq!(
            (
                vcpus.len(),
                vcpus[1].waits_for_startup,
                vcpus[0].waits_for_startup
            ),
            (2, true, false)
        );
        // Asked again and again, the guest goes on.
        for _ in 0..20 {
            assert!(expected(&vm.registers()[0]));
        }
    };
    let spins = |vcpu: &VcpuView| vcpu.rip == CODE_AT && vcpu.rflags & 0x200 == 0 && !vcpu.halted;
    // jmp to itself
    check(&[0xeb, 0xfe], false, spins);
    check(&[0xeb, 0xfe], true, spins);
    // hlt with interrupts off; jmp back
    check(&[0xf4, 0xeb, 0xfd], false, |vcpu| {
        vcpu.halted && vcpu.rflags & 0x200 == 0
    });
    check(&[0xf4, 0xeb, 0xfd], true, |vcpu| vcpu.halted);
    // out 0x80 for ever: exits all the time
    check(&[0xe6, 0x80, 0xeb, 0xfc], false, |vcpu| {
        (CODE_AT..CODE_AT + 4).contains(&vcpu.rip)
    });
}

#[test]
fn to_read_a_guest_costs_it_nothing_and_to_write_it_is_impossible() {
    let vm = Vm::of_code(&[0xeb, 0xfe], &[]);
    vm.wait_for_word();
    let files = vm.client().memory().unwrap();
    assert!(
        files.memory.write_at(b"no", WORD_AT).is_err(),
        "opened for reading only"
    );
    // Where the host has userfaultfd there is a map of what is away, for reading only too.
    assert_eq!(files.view.has_residency, files.residency.is_some());
    assert!(
        files
            .residency
            .as_ref()
            .is_none_or(|map| map.write_at(&[0], 0).is_err())
    );
    let slots = &files.view.slots;
    assert_eq!(
        slots.iter().map(|slot| slot.len_bytes).sum::<u64>(),
        32 << 20
    );
    let before = files.memory.metadata().unwrap().blocks();
    let resident = vm.books().memory.resident_bytes;
    let mut bytes = vec![0; 1 << 20];
    for mebibyte in 0..32 {
        files
            .memory
            .read_exact_at(&mut bytes, mebibyte << 20)
            .unwrap();
    }
    assert_eq!(
        files.memory.metadata().unwrap().blocks(),
        before,
        "reading allocates nothing"
    );
    assert_eq!(vm.books().memory.resident_bytes, resident);
}

#[test]
fn the_hosts_books_add_up() {
    let vm = Vm::of_code(&[0xe6, 0x80, 0xeb, 0xfc], &["--cpus", "2"]);
    vm.wait_for_word();
    let first = vm.books();
    let second = {
        thread::sleep(Duration::from_millis(600));
        vm.books()
    };
    let memory = &second.memory;
    assert_eq!(memory.configured_bytes, 32 << 20);
    assert_eq!(
        memory.given_bytes,
        memory.resident_bytes + memory.given_back_bytes + memory.paged_out_bytes()
    );
    assert!(
        memory.resident_bytes > 0 && memory.given_back_bytes == 0,
        "{memory:?}"
    );
    let exits = |books: &HostBooks| {
        books.vcpus[0]
            .exits
            .iter()
            .find(|exit| exit.name == "pio write")
            .unwrap()
            .value
    };
    assert!(exits(&second) > exits(&first));
    let busy = &second.vcpus[0];
    let idle = &second.vcpus[1];
    assert!(
        busy.run_seconds > first.vcpus[0].run_seconds && busy.wait_seconds.is_some(),
        "{busy:?}"
    );
    assert!(
        (busy.halted_seconds, busy.waiting_for_startup_seconds) == (0.0, 0.0),
        "{busy:?}"
    );
    assert!(
        idle.waiting_for_startup_seconds > 0.5 && idle.halted_seconds == 0.0,
        "{idle:?}"
    );
    let guest = second.clock.guest_seconds - first.clock.guest_seconds;
    let host = second.uptime_seconds - first.uptime_seconds;
    assert!((guest - host).abs() < 0.2, "{guest} {host}");
    vm.client().order(api::Command::Pause).unwrap();
    let first = vm.books();
    let second = {
        thread::sleep(Duration::from_millis(300));
        vm.books()
    };
    assert!(second.paused && second.clock.guest_seconds == first.clock.guest_seconds);
    assert!(
        second.clock.paused_seconds > first.clock.paused_seconds + 0.2,
        "{:?}",
        second.clock
    );
}

#[test]
fn a_linux_guest_is_seen_without_its_help() {
    let Some(mother) = with_guest() else { return };
    let folder = tempfile::tempdir().unwrap();
    let vm = Vm {
        mother,
        _folder: folder,
    };
    let ran = vm.mother.run(&[
        "-d",
        "--name",
        "seen",
        "--memory",
        "256M",
        "--timeout",
        "110s",
    ]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let deadline = Instant::now() + Duration::from_secs(60);
    // Its kernel has told the CPU where system calls enter it.
    while vm.registers()[0].lstar == 0 {
        assert!(Instant::now() < deadline, "no system calls yet");
        thread::sleep(Duration::from_millis(100));
    }
    let vcpu = vm.registers()[0];
    assert!(
        vcpu.lstar >> 47 == 0x1_ffff && vcpu.idtr.base >> 47 == 0x1_ffff,
        "{vcpu:x?}"
    );
    assert_eq!(vcpu.cr4 & 0x20, 0x20, "PAE");
}

/// Types a line into the guest's console.
fn type_line(vm: &Vm, line: &str) {
    let mut client = vm.client();
    client
        .order(api::Command::Console {
            replay_bytes: 0,
            types: true,
        })
        .unwrap();
    let (_, mut stream) = client.into_console().unwrap();
    stream.write_all(format!("{line}\n").as_bytes()).unwrap();
    // What is typed is taken before the connection is seen to end.
    thread::sleep(Duration::from_millis(300));
}

#[test]
fn what_a_shell_script_claims_is_heard_and_marked_as_a_claim() {
    let Some(mother) = with_guest() else { return };
    let vm = Vm {
        mother,
        _folder: tempfile::tempdir().unwrap(),
    };
    let ran = vm.mother.run(&[
        "-d",
        "--name",
        "seen",
        "--memory",
        "256M",
        "--timeout",
        "110s",
    ]);
    assert_eq!(ran.status, Some(0), "{}", ran.stderr);
    let claim = "for p in /sys/class/virtio-ports/*; do [ \"$(cat $p/name)\" = mother.claims ] && \
        echo claim memory_used_percent 95 >/dev/${p##*/}; done";
    let deadline = Instant::now() + Duration::from_secs(80);
    let claims = loop {
        let claims = vm.books().claims.claims;
        if !claims.is_empty() {
            break claims;
        }
        assert!(Instant::now() < deadline, "no claim");
        type_line(&vm, claim);
        thread::sleep(Duration::from_millis(700));
    };
    let claim = &claims[0];
    let got = (claim.key.as_str(), claim.value.as_str(), claim.way.as_str());
    assert_eq!(
        (got, claims.len()),
        (("memory_used_percent", "95", "port"), 1)
    );
    assert!(claim.age_ms < 60_000 && claim.times > 0, "{claim:?}");
}
