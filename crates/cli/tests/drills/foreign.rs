//! Drills of who has taken over what looks into a guest that somebody else runs.

use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::observer::{has_no_rights, looks_into, open_files};
use super::*;

/// Bytes that the process below copies at once, and what it gets of them.
const WHOLE: usize = 64 << 20;
const PART: usize = 63 << 20;

/// Somebody's VM, as far as a process's name and memory say: a `dd` that is called so has as much memory as it copies at once,
/// and waits for the rest of what it is to copy.
struct Theirs {
    process: Child,
    _folder: tempfile::TempDir,
}

impl Drop for Theirs {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn theirs() -> Theirs {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("firecracker");
    symlink("/bin/dd", &program).unwrap();
    let mut command = Command::new(&program);
    let whole = format!("bs={WHOLE}");
    command.args([&whole, "iflag=fullblock", "status=none"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    let mut process = command.spawn().unwrap();
    let stdin = process.stdin.as_mut().unwrap();
    stdin.write_all(&vec![0x5a; PART]).unwrap();
    Theirs {
        process,
        _folder: folder,
    }
}

/// Takes an observer over while it has this file open: it looks for a kernel every two seconds.
fn caught_with(observer: i32, file: &str) -> Puppet {
    let has = || open_files(observer).iter().any(|open| open == file);
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        assert!(Instant::now() < deadline, "it never opens {file}");
        if has() {
            let puppet = Puppet::of(observer, observer).unwrap();
            if has() {
                return puppet;
            }
        }
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn who_has_broken_what_looks_into_somebody_elses_guest_has_its_memory_to_read_and_nothing_else() {
    let host = Host::new();
    let theirs = theirs();
    let pid = theirs.process.id();
    let free = vm(&host, "free", "off");
    let sibling = vm(&host, "sibling", "auto");
    let (mother, observer) = looks_into(&host, &format!("firecracker:{pid}"));
    let memory = format!("/proc/{pid}/mem");
    let mut in_jail = caught_with(observer, &memory);
    let open = open_files(observer);
    let known = ["/dev/null", "pipe:", "socket:", "anon_inode:", "/memfd:"];
    let is_known = |target: &String| {
        known.iter().any(|known| target.starts_with(known))
            || *target == memory
            || *target == format!("/proc/{pid}/pagemap")
    };
    assert!(open.iter().all(is_known), "{open:?}");
    has_no_rights(observer);
    let mut in_free = puppet(free, "control");
    works(&mut in_free, DRILLS, sibling);
    is_held(&mut in_jail, DRILLS, sibling);
    // Who asks may write that memory, and has not handed that over.
    let stack = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let stack = stack
        .lines()
        .find(|line| line.ends_with("[stack]"))
        .unwrap();
    let address = u64::from_str_radix(stack.split('-').next().unwrap(), 16).unwrap();
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(&memory)
        .unwrap();
    file.write_all_at(b"drill", address).unwrap();
    let number = fs::read_dir(format!("/proc/{observer}/fd"))
        .unwrap()
        .flatten();
    let number = number
        .filter(|entry| {
            fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == memory.as_str())
        })
        .find_map(|entry| entry.file_name().to_str()?.parse::<u64>().ok());
    let text = in_jail.put(b"drill\0");
    let came = in_jail.call(
        libc::SYS_pwrite64,
        [number.unwrap(), text, 5, address, 0, 0],
    );
    assert_eq!(came, Came::Answer(-i64::from(libc::EBADF)));
    let program = in_jail.put(b"/bin/sh\0");
    let came = in_jail.call(libc::SYS_execve, [program, 0, 0, 0, 0, 0]);
    assert_eq!(came, Came::Dead(libc::SIGSYS), "another program");
    drop(in_jail);
    hears_of_the_jail(mother);
    host.call(&["kill", "free", "sibling"]);
}

/// A container, as far as control groups say: a program in one that is called as podman calls those of its containers, whose
/// command line is longer than a pipe holds.
struct Container {
    id: String,
    group: PathBuf,
    process: Child,
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir(&self.group);
    }
}

/// Nothing, and a loud word, where none can be made.
fn container() -> Option<Container> {
    let id = format!("{:064x}", u64::from(std::process::id()) << 20);
    let old = Path::new("/sys/fs/cgroup/memory");
    let root = match old.is_dir() {
        true => old,
        false => Path::new("/sys/fs/cgroup"),
    };
    let group = root.join(format!("libpod-{id}.scope"));
    if let Err(error) = fs::create_dir(&group) {
        eprintln!("SKIPPED: no control groups can be made: {error}");
        return None;
    }
    let long = "x".repeat(100 << 10);
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", "read line", &long, &long])
        .stdin(Stdio::piped());
    let process = command.spawn().unwrap();
    let made = Container { id, group, process };
    let pid = made.process.id().to_string();
    if let Err(error) = fs::write(made.group.join("cgroup.procs"), pid) {
        eprintln!("SKIPPED: no process can be put into a control group: {error}");
        return None;
    }
    Some(made)
}

#[test]
fn who_has_broken_what_reads_a_containers_words_has_nothing_of_the_host() {
    let host = Host::new();
    let Some(made) = container() else { return };
    let free = vm(&host, "free", "off");
    let sibling = vm(&host, "sibling", "auto");
    let mut command = host.mother.command(host.mother.program());
    command.args(["truth", "--json", &format!("container:{}", made.id)]);
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut mother = command.stdin(Stdio::null()).spawn().unwrap();
    let observer = descendant(mother.id(), "mother: observer");
    // Nobody reads what it says, which is more than fits.
    let says = format!("{} ", libc::SYS_write);
    let call = || fs::read_to_string(format!("/proc/{observer}/syscall")).unwrap_or_default();
    let deadline = Instant::now() + Duration::from_secs(30);
    while !call().starts_with(&says) {
        assert!(Instant::now() < deadline, "it says nothing: {}", call());
        thread::sleep(Duration::from_millis(20));
    }
    has_no_rights(observer);
    let known = ["/dev/null", "pipe:", "socket:", "anon_inode:", "/memfd:"];
    let open = open_files(observer);
    let is_known = |target: &String| known.iter().any(|known| target.starts_with(known));
    assert!(open.iter().all(is_known), "{open:?}");
    let mut in_free = puppet(free, "control");
    let mut in_jail = Puppet::of(observer, observer).unwrap();
    works(&mut in_free, DRILLS, sibling);
    is_held(&mut in_jail, DRILLS, sibling);
    let program = in_jail.put(b"/bin/sh\0");
    let came = in_jail.call(libc::SYS_execve, [program, 0, 0, 0, 0, 0]);
    assert_eq!(came, Came::Dead(libc::SIGSYS), "another program");
    drop(in_jail);
    // What went wrong is said there too, for programs.
    let mut stdout = mother.stdout.take().unwrap();
    thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
    hears_of_the_jail(mother);
    host.call(&["kill", "free", "sibling"]);
}
