//! Starts a program in namespaces of its own.
//!
//! The kernel makes the process in its namespaces at once (clone3(2)): a user namespace is only entered by a process with one
//! thread, and a process namespace only by one that is born into it. In its user namespace the process is user 0, which is
//! one ordinary user outside: the user who starts it, or `nobody` if that is root. Whatever it may do as user 0, it may do
//! to its own namespaces only, and it gives that up when it locks itself in.
//!
//! ```text
//! who starts                      the process
//! clone3 ───────────────────────> waits
//! writes its user and group ────> becomes user 0, standard streams, execve
//!        <─── nothing, or why not ┘
//! ```

use std::ffi::{CStr, CString};
use std::fs;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::process::{Gid, Pid, Uid, WaitId, WaitIdOptions, WaitIdStatus, waitid};

/// `CLONE_NEWTIME`, which only clone3 can be asked for.
const NEW_TIME: libc::c_int = 0x80;

/// `nobody`, user and group.
const NOBODY: u32 = 65534;

/// Every kind of namespace but that of time.
const NAMESPACES: libc::c_int = libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

/// What is started.
#[derive(Debug)]
pub struct Program<'a> {
    /// Where it lies.
    pub path: &'a CStr,
    /// What it is called, and its arguments.
    pub words: &'a [CString],
    /// Its environment.
    pub environment: &'a [CString],
    /// Its standard input. Standard output is nothing, standard error this process's; what else is open here must be
    /// closed by exec ([`crate::inherit`]).
    pub input: BorrowedFd<'a>,
}

/// A process that was started.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    process: OwnedFd,
}

impl Child {
    /// Its number, as seen from here.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// A descriptor of the process, which is never another's.
    ///
    /// # Errors
    /// If this process has no room for it.
    pub fn process(&self) -> io::Result<OwnedFd> {
        self.process.try_clone()
    }

    /// Ends it by force.
    ///
    /// # Errors
    /// If it has ended.
    pub fn kill(&self) -> io::Result<()> {
        let signal = rustix::process::Signal::KILL;
        Ok(rustix::process::pidfd_send_signal(&self.process, signal)?)
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// What the kernel says; it was waited for before.
    pub fn wait(&self) -> io::Result<WaitIdStatus> {
        loop {
            match waitid(WaitId::PidFd(self.process.as_fd()), WaitIdOptions::EXITED) {
                Err(rustix::io::Errno::INTR) => {}
                Ok(Some(status)) => return Ok(status),
                Ok(None) => return Err(io::Error::other("it has not ended")),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// How far a process is apart from the others of its host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Apart {
    /// In namespaces of its own.
    Namespaces,
    /// In those of who started it.
    No,
}

/// Starts `program`, apart as asked.
///
/// # Errors
/// What the host says of it: namespaces that are not allowed, or full; a program that cannot be executed.
pub fn spawn(program: &Program<'_>, apart: Apart) -> io::Result<Child> {
    if apart == Apart::No {
        return start(program, None);
    }
    let user = rustix::process::geteuid().as_raw();
    let group = rustix::process::getegid().as_raw();
    if user != 0 {
        return start(program, Some((user, group)));
    }
    // A file that only root may execute is started as root, which is nobody's root in there.
    match start(program, Some((NOBODY, NOBODY))) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            start(program, Some((user, group)))
        }
        started => started,
    }
}

/// All that a copy of this process needs, made beforehand: it may take no memory and no lock.
struct Prepared<'a> {
    path: &'a CStr,
    words: Vec<*const libc::c_char>,
    environment: Vec<*const libc::c_char>,
    input: BorrowedFd<'a>,
    nothing: OwnedFd,
    is_apart: bool,
    may_set_groups: bool,
}

fn pointers(words: &[CString]) -> Vec<*const libc::c_char> {
    let pointers = words.iter().map(|word| word.as_ptr());
    pointers.chain([ptr::null()]).collect()
}

/// Starts it, in namespaces in which this user and group are 0.
fn start(program: &Program<'_>, within: Option<(u32, u32)>) -> io::Result<Child> {
    let prepared = Prepared {
        path: program.path,
        words: pointers(program.words),
        environment: pointers(program.environment),
        input: program.input,
        nothing: crate::inherit::nothing()?,
        is_apart: within.is_some(),
        may_set_groups: rustix::process::geteuid().is_root(),
    };
    let (begin, mut may_begin) = io::pipe()?;
    let (mut said, says) = io::pipe()?;
    let flags = if within.is_some() { NAMESPACES } else { 0 };
    let Some(child) = copy(flags)? else {
        // The copy runs nothing but system calls from here.
        let number = become_program(&prepared, begin, may_begin);
        let _ = rustix::io::write(&says, &number.to_ne_bytes());
        // SAFETY: ends the copy at once, without destructors and exit handlers of the original.
        unsafe { libc::_exit(127) }
    };
    drop((begin, says));
    let mapped = within.map_or(Ok(()), |(user, group)| map(child.pid, user, group));
    // A copy that is gone has said nothing, and is heard of below.
    let begun = mapped.and_then(|()| may_begin.write_all(&[1]));
    drop(may_begin);
    let mut number = [0; size_of::<i32>()];
    let outcome = match (begun, said.read(&mut number)?) {
        (Ok(()), 0) => return Ok(child),
        (Err(error), _) => error,
        (Ok(()), _) => io::Error::from_raw_os_error(i32::from_ne_bytes(number)),
    };
    let _ = child.kill();
    let _ = child.wait();
    Err(outcome)
}

/// Has the user and the group be 0 in the namespace of the process (user_namespaces(7)).
fn map(pid: Pid, user: u32, group: u32) -> io::Result<()> {
    let file = |name: &str| format!("/proc/{}/{name}", pid.as_raw_nonzero());
    if !rustix::process::geteuid().is_root() {
        // Who may not give up groups may not map any else.
        fs::write(file("setgroups"), "deny")?;
    }
    fs::write(file("uid_map"), format!("0 {user} 1"))?;
    fs::write(file("gid_map"), format!("0 {group} 1"))
}

/// Copies this process, as fork(2) does; nothing in the copy.
fn copy(flags: libc::c_int) -> io::Result<Option<Child>> {
    let with_time = if flags == 0 { 0 } else { flags | NEW_TIME };
    match copy_by_clone3(with_time) {
        // A container's filter knows no clone3; a kernel, or its configuration, no namespaces of time.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) => {
            copy_by_clone(flags)
        }
        copied => copied,
    }
}

fn copy_by_clone3(flags: libc::c_int) -> io::Result<Option<Child>> {
    let mut process: RawFd = -1;
    // SAFETY: an all-zero struct is valid: no flags, no stack, no pointers.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = (flags | libc::CLONE_PIDFD) as u64;
    arguments.pidfd = (&raw mut process) as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: without CLONE_VM this is fork: the copy has this thread only, its own stack and memory. It does nothing but
    // system calls, so no lock that another thread held is touched. The arguments live through the call.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw const arguments,
            size_of::<libc::clone_args>(),
        )
    };
    copied(pid, process)
}

fn copy_by_clone(flags: libc::c_int) -> io::Result<Option<Child>> {
    let mut process: RawFd = -1;
    let flags = flags | libc::CLONE_PIDFD | libc::SIGCHLD;
    // SAFETY: as above; clone(2) puts the descriptor where the parent's number for the child would go.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone,
            flags as libc::c_ulong,
            0_usize,
            &raw mut process,
            0_usize,
            0_usize,
        )
    };
    copied(pid, process)
}

fn copied(pid: libc::c_long, process: RawFd) -> io::Result<Option<Child>> {
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    let Some(pid) = Pid::from_raw(pid as libc::pid_t) else {
        return Ok(None);
    };
    // SAFETY: the kernel has just given this process the descriptor, and nobody else owns it.
    let process = unsafe { OwnedFd::from_raw_fd(process) };
    Ok(Some(Child { pid, process }))
}

/// Becomes the program once it may; the host's number for why not. In a copy of this process: it does system calls only.
fn become_program(prepared: &Prepared<'_>, mut begin: PipeReader, may_begin: PipeWriter) -> i32 {
    // An original that vanishes is noticed when nobody else can say that it may.
    drop(may_begin);
    let done = begin
        .read_exact(&mut [0])
        .and_then(|()| prepare(prepared))
        .map_err(|error| error.raw_os_error().unwrap_or(libc::ECANCELED));
    if let Err(number) = done {
        return number;
    }
    // SAFETY: the path, and every pointer in the arrays, which a null one ends, is to a text that `prepared` keeps.
    unsafe {
        libc::execve(
            prepared.path.as_ptr(),
            prepared.words.as_ptr(),
            prepared.environment.as_ptr(),
        )
    };
    io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or(libc::EIO)
}

fn prepare(prepared: &Prepared<'_>) -> io::Result<()> {
    if prepared.is_apart {
        // Groups can only be left by who may name them; for the others the kernel has been told that nobody may.
        if prepared.may_set_groups {
            rustix::thread::set_thread_groups(&[])?;
        }
        let group = Gid::ROOT;
        let user = Uid::ROOT;
        rustix::thread::set_thread_res_gid(group, group, group)?;
        rustix::thread::set_thread_res_uid(user, user, user)?;
    }
    rustix::stdio::dup2_stdin(prepared.input)?;
    rustix::stdio::dup2_stdout(&prepared.nothing)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &CStr, apart: Apart) -> io::Result<(WaitIdStatus, String)> {
        let words = [c"sh".to_owned(), c"-c".to_owned(), script.to_owned()];
        let (mut reader, writer) = io::pipe().unwrap();
        crate::inherit::keep_to_ourselves().unwrap();
        let program = Program {
            path: c"/bin/sh",
            words: &words,
            environment: &[c"ONLY=this".to_owned()],
            // What it says goes to its standard input, which is the only stream that a test can hand it.
            input: writer.as_fd(),
        };
        let child = spawn(&program, apart)?;
        drop(writer);
        let mut said = String::new();
        reader.read_to_string(&mut said).unwrap();
        Ok((child.wait().unwrap(), said))
    }

    #[test]
    fn a_program_is_started_and_its_status_heard() {
        let (status, said) = run(c"echo $ONLY $HOME >&0; exit 7", Apart::No).unwrap();
        assert_eq!((status.exit_status(), said.as_str()), (Some(7), "this\n"));
        let (status, _) = run(c"kill -9 $$", Apart::No).unwrap();
        assert_eq!(status.terminating_signal(), Some(9));
    }

    #[test]
    fn a_program_apart_is_alone() {
        let script = c"echo $$ $(id -u) $(cat /proc/net/dev | wc -l) >&0";
        let (_, said) = match run(script, Apart::Namespaces) {
            Ok(ran) => ran,
            Err(error) => {
                // A host that has no namespaces for this user says so.
                assert!(matches!(
                    error.kind(),
                    io::ErrorKind::PermissionDenied | io::ErrorKind::StorageFull
                ));
                return;
            }
        };
        // Its number is 1, its user 0, and it sees two lines of heading and a loopback interface that is down.
        assert!(said.starts_with("1 0 3\n"), "{said}");
    }

    #[test]
    fn a_program_that_is_not_there_is_told() {
        let stdin = io::stdin();
        let program = Program {
            path: c"/nowhere",
            words: &[c"nowhere".to_owned()],
            environment: &[],
            input: stdin.as_fd(),
        };
        let error = spawn(&program, Apart::No).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }
}
