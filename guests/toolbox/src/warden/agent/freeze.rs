//! The guest held still: no program runs, and none runs again before the kernel's random numbers are others.
//!
//! Whoever clones a guest copies the state that its random numbers come from. A kernel with the driver for the machine's generation
//! (VMGenID) makes them anew by itself; for all others this is how it is done:
//!
//! 1. Every control group but those that the agent itself is in is frozen (kernel documentation, cgroup-v2.rst), and waited
//!    for. Programs in the agent's own groups could not be, so there must be none; helpers that the kernel itself starts
//!    (call_usermodehelper, which leaves them in the root's group) are waited for, and they are short.
//! 2. The host is told, takes its snapshot, and lets go: it says so, or its connection ends. In a clone the connection was reset,
//!    which is what the agent wakes up by. It does not know which of them it is in, and does the same in all.
//! 3. The kernel is given fresh bytes of the host, told to make its generator anew (RNDRESEEDCRNG, random(4)), and the groups
//!    are thawed.
//!
//! **The first bytes of the device are old.** Its driver fetches some ahead, and its buffer is cloned with all else. So many more
//! are read than any buffer on the way holds.
#![allow(
    unsafe_code,
    reason = "what is particular to random(4) is asked by ioctl(2), which takes pointers"
)]

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::{Agent, FROZEN, NOT_DONE, Sink, THAW, THAWED, fail, receive, send};
use crate::warden::ground::lock;

/// How long programs may take to come to rest.
const PATIENCE: Duration = Duration::from_secs(3);

/// Requests (linux/random.h): add bytes to the pool and say how good they are, make the generator anew.
const ADD_ENTROPY: u64 = 0x4008_5203;
const RESEED: u64 = 0x5207;

/// `PF_KTHREAD` (linux/sched.h), as proc(5) shows it.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// The host's random numbers.
const DEVICE: &str = "/dev/hwrng";

/// Bytes that are read of them, in all and at once. Drivers and the kernel's core hold a few hundred.
const FRESH_BYTES: usize = 4096;
const PIECE_BYTES: usize = 256;

/// `struct rand_pool_info`.
#[repr(C)]
struct PoolInfo {
    entropy_bits: i32,
    len_bytes: i32,
    bytes: [u8; PIECE_BYTES],
}

unsafe extern "C" {
    fn ioctl(fd: i32, request: u64, ...) -> i32;
}

/// Holds the guest still for as long as the host wants.
pub(super) fn hold(agent: &Agent, mut stream: File, sink: &Sink) -> io::Result<()> {
    let _one = lock(&agent.freezing);
    let frozen = match File::open(DEVICE).and_then(|_| Frozen::all(agent)) {
        Ok(frozen) => frozen,
        Err(error) => return fail(sink, NOT_DONE, &error.to_string()),
    };
    send(sink, FROZEN, &[])?;
    let heard = receive(&mut stream);
    let fresh = reseed();
    drop(frozen);
    match (heard, fresh) {
        (Ok((THAW, _)), Ok(())) => send(sink, THAWED, &[]),
        (Ok(_), Err(error)) => fail(sink, NOT_DONE, &error.to_string()),
        // Nobody is there to hear it.
        _ => Ok(()),
    }
}

/// Groups that are frozen, as long as this lives.
struct Frozen(Vec<PathBuf>);

impl Frozen {
    fn all(agent: &Agent) -> io::Result<Frozen> {
        let missing = || io::Error::other("the guest has no control groups (cgroup2)");
        let (mount, own) = agent.groups.own.as_ref().ok_or_else(missing)?;
        let mut frozen = Frozen(Vec::new());
        let mut at = mount.clone();
        let mut way = own.components();
        let mut own_groups = Vec::new();
        loop {
            own_groups.push(at.clone());
            let next = way.next();
            for group in groups_in(&at)? {
                let is_ours = next.is_some_and(|next| group.file_name() == Some(next.as_os_str()));
                if !is_ours {
                    fs::write(group.join("cgroup.freeze"), "1")?;
                    frozen.0.push(group);
                }
            }
            match next {
                Some(next) => at.push(next),
                None => break,
            }
        }
        let deadline = Instant::now() + PATIENCE;
        frozen.wait(deadline)?;
        // Now that nobody else can start anything.
        for group in &own_groups {
            while let Some((number, name)) = company_in(group)? {
                if Instant::now() > deadline {
                    let text = format!(
                        "process {number} ({name}) is in no control group that can be held still"
                    );
                    return Err(io::Error::other(text));
                }
                thread::sleep(Duration::from_millis(2));
            }
        }
        Ok(frozen)
    }

    fn wait(&self, deadline: Instant) -> io::Result<()> {
        for group in &self.0 {
            while !is_frozen(group) {
                if Instant::now() > deadline {
                    let text = format!("programs in {} do not come to rest", group.display());
                    return Err(io::Error::other(text));
                }
                thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for group in &self.0 {
            // One that is gone has nobody in it.
            let _ = fs::write(group.join("cgroup.freeze"), "0");
        }
    }
}

fn groups_in(group: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(group)?.flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    Ok(folders.map(|entry| entry.path()).collect())
}

/// A group that has gone meanwhile is as good as frozen.
fn is_frozen(group: &Path) -> bool {
    let events = fs::read_to_string(group.join("cgroup.events"));
    events.map_or(true, |text| text.lines().any(|line| line == "frozen 1"))
}

/// Somebody in a group beside the agent and the kernel's own threads, by number and name: who could not be held still.
fn company_in(group: &Path) -> io::Result<Option<(String, String)>> {
    let own = std::process::id().to_string();
    let members = fs::read_to_string(group.join("cgroup.procs"))?;
    for number in members.lines().filter(|&number| number != own) {
        // One that has gone meanwhile has no company to give.
        let Ok(status) = fs::read_to_string(format!("/proc/{number}/stat")) else {
            continue;
        };
        // Behind the name, which may have spaces: the state, the parent, ... and as the seventh the flags.
        let fields = status.rsplit_once(") ").map(|(_, rest)| rest);
        let flags = fields.and_then(|rest| rest.split(' ').nth(6)?.parse::<u64>().ok());
        if flags.is_none_or(|flags| flags & KERNEL_THREAD == 0) {
            let name = fs::read_to_string(format!("/proc/{number}/comm")).unwrap_or_default();
            return Ok(Some((number.to_owned(), name.trim_end().to_owned())));
        }
    }
    Ok(None)
}

/// Gives the kernel bytes of the host and has it begin anew with them.
fn reseed() -> io::Result<()> {
    let mut device = File::open(DEVICE)?;
    let pool = File::options().write(true).open("/dev/random")?;
    for _ in 0..FRESH_BYTES / PIECE_BYTES {
        let mut info = PoolInfo {
            entropy_bits: 8 * PIECE_BYTES as i32,
            len_bytes: PIECE_BYTES as i32,
            bytes: [0; PIECE_BYTES],
        };
        device.read_exact(&mut info.bytes)?;
        // SAFETY: the request reads a `struct rand_pool_info` with as many bytes behind it as it says.
        check(unsafe { ioctl(pool.as_raw_fd(), ADD_ENTROPY, &raw const info) })?;
    }
    // SAFETY: this request takes nothing.
    check(unsafe { ioctl(pool.as_raw_fd(), RESEED, 0) })
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
