//! A thread of a VM's process that does what a test wants: as one would whose guest has broken out of it.
//!
//! The thread is stopped from outside (ptrace(2)), given the registers of a system call, and stepped over one `syscall`
//! instruction of its own libc. So the call is made by the very thread, under every wall that stands around it, and nothing in
//! the program had to be made for it.

#![allow(
    unsafe_code,
    reason = "another process's registers and memory are only had by ptrace"
)]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(dead_code, unreachable_pub, reason = "every test file uses its part")]

use std::fs::{self, File};
use std::io::{self, Read};
use std::mem;
use std::os::unix::fs::FileExt;
use std::ptr;

/// What came of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Came {
    /// The kernel's answer, of which -4095 to -1 are errors.
    Answer(i64),
    /// The filter refused it, and told the process.
    Refused,
    /// The instruction faulted: there is no such way into this kernel.
    Fault(i32),
    /// The process is dead, by this signal.
    Dead(i32),
}

impl Came {
    /// Whether the call did what it was to do.
    pub fn succeeded(self) -> bool {
        matches!(self, Came::Answer(answer) if !(-4095..0).contains(&answer))
    }
}

/// A thread that was taken over; it goes on where it was when this is dropped.
pub struct Puppet {
    process: i32,
    thread: i32,
    before: libc::user_regs_struct,
    /// Where in the process a `syscall` instruction lies.
    instruction: u64,
    memory: File,
    is_dead: bool,
}

fn trace(request: libc::c_uint, thread: i32, address: usize, data: usize) -> io::Result<()> {
    // SAFETY: the requests used here read and write at most the struct that `data` points to, which the caller holds.
    let answer = unsafe { libc::ptrace(request, thread, address, data) };
    if answer == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Waits for the thread to stop or to end: what waitpid(2) says of it.
fn wait(thread: i32) -> i32 {
    let mut status = 0;
    // SAFETY: the call writes one number.
    let waited = unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL) };
    assert_eq!(waited, thread, "{}", io::Error::last_os_error());
    status
}

/// The thread of this name.
pub fn thread_of(process: i32, name: &str) -> Option<i32> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).ok()?;
    tasks.flatten().find_map(|task| {
        let comm = fs::read_to_string(task.path().join("comm")).ok()?;
        let is_it = comm.trim_end() == name;
        is_it.then(|| task.file_name().to_str()?.parse().ok())?
    })
}

impl Puppet {
    /// Takes over a thread.
    pub fn of(process: i32, thread: i32) -> io::Result<Puppet> {
        trace(libc::PTRACE_SEIZE, thread, 0, 0)?;
        trace(libc::PTRACE_INTERRUPT, thread, 0, 0)?;
        let status = wait(thread);
        assert!(libc::WIFSTOPPED(status), "{status:#x}");
        let memory = File::options()
            .read(true)
            .write(true)
            .open(format!("/proc/{process}/mem"))?;
        let mut puppet = Puppet {
            process,
            thread,
            // SAFETY: registers that are all zero are a value, overwritten below.
            before: unsafe { mem::zeroed() },
            instruction: 0,
            memory,
            is_dead: false,
        };
        puppet.before = puppet.registers()?;
        puppet.instruction = puppet.find(&[0x0f, 0x05]).unwrap();
        Ok(puppet)
    }

    fn registers(&self) -> io::Result<libc::user_regs_struct> {
        // SAFETY: as above.
        let mut registers: libc::user_regs_struct = unsafe { mem::zeroed() };
        let place = ptr::from_mut(&mut registers) as usize;
        trace(libc::PTRACE_GETREGS, self.thread, 0, place)?;
        Ok(registers)
    }

    fn set_registers(&self, registers: &libc::user_regs_struct) -> io::Result<()> {
        let place = ptr::from_ref(registers) as usize;
        trace(libc::PTRACE_SETREGS, self.thread, 0, place)
    }

    /// Where these bytes lie in code of the process.
    pub fn find(&self, bytes: &[u8]) -> Option<u64> {
        let mut maps = String::new();
        File::open(format!("/proc/{}/maps", self.process))
            .and_then(|mut file| file.read_to_string(&mut maps))
            .unwrap();
        maps.lines().find_map(|line| {
            let (range, rest) = line.split_once(' ')?;
            if !rest.starts_with("r-xp") {
                return None;
            }
            let (start, end) = range.split_once('-')?;
            let start = u64::from_str_radix(start, 16).ok()?;
            let end = u64::from_str_radix(end, 16).ok()?;
            let mut code = vec![0; usize::try_from(end - start).ok()?];
            self.memory.read_exact_at(&mut code, start).ok()?;
            let place = code.windows(bytes.len()).position(|it| it == bytes)?;
            Some(start + place as u64)
        })
    }

    /// Puts bytes where the first thread's stack does not reach yet; where. (The stack of a thread that runs guest code is
    /// none of ours: its RSP is the guest's.)
    pub fn put(&self, bytes: &[u8]) -> u64 {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.process)).unwrap();
        let stack = maps.lines().find(|line| line.ends_with("[stack]")).unwrap();
        let start = stack.split('-').next().unwrap();
        let place = u64::from_str_radix(start, 16).unwrap();
        self.memory.write_all_at(bytes, place).unwrap();
        place
    }

    /// Has the thread make a call.
    pub fn call(&mut self, number: i64, arguments: [u64; 6]) -> Came {
        let instruction = self.instruction;
        self.call_by(instruction, number, arguments)
    }

    /// The same by another instruction: two bytes long, such as `int 0x80`.
    pub fn call_by(&mut self, instruction: u64, number: i64, arguments: [u64; 6]) -> Came {
        let mut registers = self.before;
        registers.rip = instruction;
        registers.rax = number.cast_unsigned();
        // No call is to be begun again in its place.
        registers.orig_rax = u64::MAX;
        [
            registers.rdi,
            registers.rsi,
            registers.rdx,
            registers.r10,
            registers.r8,
            registers.r9,
        ] = arguments;
        self.set_registers(&registers).unwrap();
        let came = self.step();
        if !self.is_dead {
            self.set_registers(&self.before).unwrap();
        }
        came
    }

    fn step(&mut self) -> Came {
        let mut came = None;
        loop {
            trace(libc::PTRACE_SINGLESTEP, self.thread, 0, 0).unwrap();
            let status = wait(self.thread);
            if libc::WIFSIGNALED(status) || libc::WIFEXITED(status) {
                self.is_dead = true;
                return Came::Dead(libc::WTERMSIG(status));
            }
            match libc::WSTOPSIG(status) {
                // An event of the stop that was asked for at the start is no signal.
                libc::SIGTRAP if status >> 16 != 0 => {}
                libc::SIGTRAP => {
                    let answer = self.registers().unwrap().rax;
                    return came.unwrap_or(Came::Answer(answer.cast_signed()));
                }
                // Behind these comes the signal of the step.
                libc::SIGSYS => came = Some(Came::Refused),
                other if came.is_some() => return Came::Fault(other),
                other => came = Some(Came::Fault(other)),
            }
        }
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        if !self.is_dead {
            let _ = trace(libc::PTRACE_DETACH, self.thread, 0, 0);
        }
    }
}
