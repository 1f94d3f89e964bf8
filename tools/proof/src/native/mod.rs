//! The oracle: a process of its own that executes cases on this very CPU.
//!
//! The process lives inside its signal handler. A case ends with an exception, the kernel turns it into a signal and
//! saves every register into a signal frame on the alternate stack; the handler copies the frame out as the
//! outcome, writes the next case's registers into the frame, and returns through it. So a case costs one signal.
//! The process has handed its rights away (strict seccomp: read, write, exit, sigreturn), and when a case kills
//! it all the same, a new one goes on behind that case.
//!
//! The one unsafe module of this crate: forks, maps fixed addresses, edits signal frames.
#![allow(
    unsafe_code,
    reason = "executing arbitrary instructions has no safe form; every block says why it holds"
)]

mod child;

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, bail};
use host::mapping::{Mapping, MemFd, Protection};

use crate::arena;
use crate::case::{BATCH, Case, End, Outcome, Registers, Runner, code_pages};

/// One case in the memory that parent and child share.
#[repr(C)]
struct Slot {
    start: Registers,
    end: Registers,
    /// Linux signal number, 0 while the case has not ended, [`HANG`] if it did not end in time.
    signal: u32,
    vector: u32,
    error_code: u32,
    reserved: u32,
    address: u64,
    data: [u8; arena::DATA_BYTES],
}

/// [`Slot::signal`] of a case that ran too long.
const HANG: u32 = u32::MAX;

/// The memory that parent and child share. The child only moves `next` and fills outcomes.
#[repr(C)]
struct Mailbox {
    count: AtomicU32,
    next: AtomicU32,
    image: [u8; arena::DATA_BYTES],
    slots: [Slot; BATCH],
}

/// What the kernel's descriptor numbers are called here.
struct Pipes {
    go_read: OwnedFd,
    go_write: OwnedFd,
    done_read: OwnedFd,
    done_write: OwnedFd,
}

/// The silicon as a [`Runner`].
pub struct Native {
    code: MemFd,
    code_view: Mapping,
    data: MemFd,
    mailbox_view: Mapping,
    process: Option<Process>,
    /// How often the process had to be started.
    pub starts: u64,
}

struct Process {
    pid: libc::pid_t,
    go: OwnedFd,
    done: OwnedFd,
}

impl Drop for Process {
    fn drop(&mut self) {
        // SAFETY: `pid` is a child that we forked and have not waited for.
        unsafe { libc::kill(self.pid, libc::SIGKILL) };
        // SAFETY: as above; a null status pointer is allowed.
        unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), 0) };
    }
}

fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds: [RawFd; 2] = [0; 2];
    // SAFETY: `fds` has room for the two descriptors.
    if unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor.
    let read = unsafe { OwnedFd::from_raw_fd(fds[0]) };
    // SAFETY: the kernel has just given us this descriptor.
    let write = unsafe { OwnedFd::from_raw_fd(fds[1]) };
    Ok((read, write))
}

impl Native {
    /// An oracle; its process starts with the first batch.
    ///
    /// # Errors
    /// When the host gives no memory.
    pub fn new() -> anyhow::Result<Native> {
        let shared = |name, len: usize| -> anyhow::Result<(MemFd, Mapping)> {
            let file = MemFd::new(name, len as u64)?;
            let view = Mapping::new(&file, len, Protection::ReadWrite)?;
            Ok((file, view))
        };
        let (code, code_view) = shared(c"proof-code", arena::CODE_BYTES)?;
        let (_, mailbox_view) = shared(
            c"proof-mailbox",
            size_of::<Mailbox>().next_multiple_of(4096),
        )?;
        let data = MemFd::new(c"proof-data", arena::DATA_BYTES as u64)?;
        Ok(Native {
            code,
            code_view,
            data,
            mailbox_view,
            process: None,
            starts: 0,
        })
    }

    fn mailbox(&self) -> *mut Mailbox {
        self.mailbox_view.address() as *mut Mailbox
    }

    fn slot(&self, index: usize) -> *mut Slot {
        assert!(index < BATCH, "callers stay inside the batch");
        // SAFETY: the mapping holds a whole `Mailbox`; only a place is computed, nothing is read.
        let slots = unsafe { &raw mut (*self.mailbox()).slots };
        slots.cast::<Slot>().wrapping_add(index)
    }

    fn start(&mut self) -> anyhow::Result<()> {
        let (go_read, go_write) = pipe().context("make a pipe")?;
        let (done_read, done_write) = pipe().context("make a pipe")?;
        let pipes = Pipes {
            go_read,
            go_write,
            done_read,
            done_write,
        };
        self.starts += 1;
        // SAFETY: the child calls nothing but `child::main`, which neither allocates nor takes locks, so it does
        // not matter what other threads of this process were doing.
        match unsafe { libc::fork() } {
            -1 => bail!(
                "cannot fork the native process: {}",
                io::Error::last_os_error()
            ),
            0 => child::main(&child::Shared {
                code: self.code.file().as_raw_fd(),
                data: self.data.file().as_raw_fd(),
                mailbox: self.mailbox(),
                go: pipes.go_read.as_raw_fd(),
                done: pipes.done_write.as_raw_fd(),
                parents_ends: [pipes.go_write.as_raw_fd(), pipes.done_read.as_raw_fd()],
            }),
            pid => {
                self.process = Some(Process {
                    pid,
                    go: pipes.go_write,
                    done: pipes.done_read,
                })
            }
        }
        Ok(())
    }

    /// Lets the process run what is in the mailbox from `next` on. Returns whether it lived through it.
    fn go(&mut self) -> anyhow::Result<bool> {
        if self.process.is_none() {
            self.start()?;
        }
        let process = self.process.as_ref().expect("started above");
        // SAFETY: the descriptor is ours and the buffer is one readable byte.
        let written = unsafe { libc::write(process.go.as_raw_fd(), [1_u8].as_ptr().cast(), 1) };
        let mut answer = [0_u8];
        // SAFETY: the descriptor is ours and the buffer has room for one byte.
        let read = unsafe { libc::read(process.done.as_raw_fd(), answer.as_mut_ptr().cast(), 1) };
        let lived = written == 1 && read == 1;
        if !lived {
            self.process = None;
        }
        Ok(lived)
    }

    fn fill(&self, cases: &[Case]) {
        let image = &cases[0].image.data;
        let pages = code_pages(cases);
        assert!(image.len() == arena::DATA_BYTES && pages.len() == arena::CODE_BYTES);
        let code = self.code_view.address() as *mut u8;
        // SAFETY: the view is `CODE_BYTES` long and writable; the child only executes between `go` and `done`.
        unsafe { std::ptr::copy_nonoverlapping(pages.as_ptr(), code, pages.len()) };
        // SAFETY: the mapping holds a whole `Mailbox`; only a place is computed.
        let to = unsafe { &raw mut (*self.mailbox()).image };
        // SAFETY: `to` is `DATA_BYTES` long, and the child does not run now.
        unsafe { std::ptr::copy_nonoverlapping(image.as_ptr(), to.cast(), image.len()) };
        for (index, case) in cases.iter().enumerate() {
            let slot = self.slot(index);
            // SAFETY: the slot lies in the mapping, and the child does not run now.
            let start = unsafe { &mut (*slot).start };
            start.clone_from(&case.start);
            // SAFETY: as above.
            unsafe { (*slot).signal = 0 };
        }
        self.count().store(cases.len() as u32, Ordering::Release);
        self.next().store(0, Ordering::Release);
    }

    fn count(&self) -> &AtomicU32 {
        // SAFETY: the mapping holds a whole `Mailbox`, lives as long as `self`, and zeros are a valid one.
        unsafe { &(*self.mailbox()).count }
    }

    fn next(&self) -> &AtomicU32 {
        // SAFETY: as in `count`.
        unsafe { &(*self.mailbox()).next }
    }

    fn outcome(&self, index: usize) -> Outcome {
        // SAFETY: the slot lies in the mapping, holds plain numbers, and the child does not run now.
        let slot = unsafe { &*self.slot(index) };
        let mut registers = slot.end.clone();
        registers.normalize();
        let end = match slot.signal {
            0 => End::Lost,
            HANG => End::Hang,
            _ => end(slot, &mut registers),
        };
        Outcome {
            end,
            registers,
            data: slot.data.to_vec(),
            note: String::new(),
        }
    }
}

/// The exception behind a signal, as the processor raised it (Linux leaves vector, error code and CR2 in the frame).
fn end(slot: &Slot, registers: &mut Registers) -> End {
    let vector = slot.vector as u8;
    let has_code = matches!(vector, 8 | 10..=14 | 17);
    let address = if vector == 14 { slot.address } else { 0 };
    let mut error_code = if has_code { slot.error_code } else { 0 };
    // Linux says "present" for every address of its own half (`set_signal_archinfo`), lest it be probed.
    if vector == 14 && address >> 47 != 0 {
        error_code &= !1;
    }
    registers.rflags &= !(1 << 9);
    End::Exception {
        vector,
        error_code,
        address,
    }
}

impl Runner for Native {
    fn run(&mut self, cases: &[Case]) -> anyhow::Result<Vec<Outcome>> {
        assert!(!cases.is_empty() && cases.len() <= BATCH);
        self.fill(cases);
        let mut failures_without_progress = 0;
        loop {
            let before = self.next().load(Ordering::Acquire);
            if self.go()? {
                break;
            }
            let next = self.next().load(Ordering::Acquire);
            failures_without_progress = if next == before {
                failures_without_progress + 1
            } else {
                0
            };
            if failures_without_progress > 3 {
                bail!("the native process does not start");
            }
            if next as usize >= cases.len() {
                break;
            }
        }
        Ok((0..cases.len()).map(|index| self.outcome(index)).collect())
    }
}
