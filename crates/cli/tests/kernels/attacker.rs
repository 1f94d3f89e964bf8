//! Somebody who writes into a guest's memory file as a kernel module of the guest's could.

#![allow(dead_code, reason = "every test file uses its part")]

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

use api::Command;
use images::{Cache, DefaultGuest};
use insight::{Kernel, Look, Registers};
use x86::Gva;

use crate::guest::Guest;

/// The default guest, or a loud word that there is none.
pub fn files() -> Option<DefaultGuest> {
    let cache = Cache::of_user()
        .ok()
        .filter(|cache| cache.kernel_package().is_some());
    if cache.is_none() {
        let mut stderr = std::io::stderr();
        writeln!(
            stderr,
            "skipped: the default guest is not in the cache; `cargo xtask guest`"
        )
        .unwrap();
    }
    cache.map(|cache| cache.default_guest(&mut |_| {}).unwrap())
}

pub fn look<T>(kernel: &Kernel, registers: &[Registers], read: impl FnOnce(&Look<'_>) -> T) -> T {
    let account = kernel.account();
    read(&kernel.look(&account, registers))
}

/// The memory of a paused guest, in the attacker's hands.
pub struct Attacker<'a> {
    guest: &'a Guest,
    kernel: &'a Kernel,
    memory: File,
}

impl<'a> Attacker<'a> {
    pub fn new(guest: &'a Guest, kernel: &'a Kernel) -> Attacker<'a> {
        guest.client().order(Command::Pause).unwrap();
        let memory = guest.memory_for_writing();
        Attacker {
            guest,
            kernel,
            memory,
        }
    }

    pub fn symbol(&self, name: &str) -> u64 {
        self.kernel.address(name).unwrap().0
    }

    fn file_offset(&self, gva: u64) -> u64 {
        let gpa = look(self.kernel, &[], |look| look.physical(Gva(gva))).unwrap();
        let files = self.guest.client().memory().unwrap();
        let slot = files
            .view
            .slots
            .iter()
            .find(|slot| gpa.0.wrapping_sub(slot.gpa) < slot.len_bytes)
            .unwrap();
        slot.file_offset + (gpa.0 - slot.gpa)
    }

    pub fn read(&self, gva: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory
            .read_exact_at(&mut bytes, self.file_offset(gva))
            .unwrap();
        bytes
    }

    pub fn pointer(&self, gva: u64) -> u64 {
        u64::from_le_bytes(self.read(gva, 8).try_into().unwrap())
    }

    pub fn write(&self, gva: u64, bytes: &[u8]) {
        self.memory
            .write_all_at(bytes, self.file_offset(gva))
            .unwrap();
    }

    /// Where a member of a structure in the guest lies.
    pub fn member(&self, address: u64, of: &str, path: &str) -> u64 {
        let layouts = self.kernel.profile().layouts.as_ref().unwrap();
        address + layouts.place(of, path).unwrap().offset as u64
    }

    /// The memory file and where an address lies in it, for somebody on another thread.
    pub fn place(&self, gva: u64) -> (File, u64) {
        (self.memory.try_clone().unwrap(), self.file_offset(gva))
    }

    /// Writes a pointer, or another number of 64 bits.
    pub fn point(&self, gva: u64, to: u64) {
        self.write(gva, &to.to_le_bytes());
    }

    /// Takes an element out of a list, by where its link lies.
    pub fn unlink(&self, link: u64) {
        let next = self.pointer(link);
        let previous = self.pointer(link + 8);
        self.point(next + 8, previous);
        self.point(previous, next);
    }

    /// Puts an element into a list behind another one, by where their links lie.
    pub fn link(&self, link: u64, behind: u64) {
        let next = self.pointer(behind);
        self.point(link, next);
        self.point(link + 8, behind);
        self.point(behind, link);
        self.point(next + 8, link);
    }

    /// The `struct task_struct` of a process.
    pub fn task(&self, pid: i32) -> u64 {
        let processes = look(self.kernel, &[], |look| look.processes());
        let processes = processes.into_value().unwrap();
        let process = processes.iter().find(|process| process.pid == pid);
        process.unwrap().address
    }

    /// The guest runs on.
    pub fn resume(&self) {
        self.guest.client().order(Command::Resume).unwrap();
    }

    /// The start and the `struct module` of a module, and where its link in the list is.
    pub fn module(&self, name: &str) -> (u64, u64) {
        let modules = look(self.kernel, &[], |look| look.modules())
            .into_value()
            .unwrap();
        let module = modules.iter().find(|module| module.name == name).unwrap();
        let layouts = self.kernel.profile().layouts.as_ref().unwrap();
        (
            module.text.start,
            module.address + layouts.place("module", "list").unwrap().offset as u64,
        )
    }
}

/// A jump or call from `at` to `target`.
pub fn branch(opcode: u8, at: u64, target: u64) -> Vec<u8> {
    let distance = target.wrapping_sub(at + 5) as u32;
    [&[opcode][..], &distance.to_le_bytes()].concat()
}
