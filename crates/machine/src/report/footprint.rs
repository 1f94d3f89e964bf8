//! What this process costs the host, by parts, from `/proc/self/smaps`, and as one number from `/proc/self/statm`.
//!
//! The proportional set size counts a page that is mapped twice, as generated code is, once in all.

use host::at::FileAt;
use std::fs::File;
use std::io::{self, Read, Seek};

use host::lock::Lock;

use crate::report::VmmMemory;

/// Names of the memory files as `mem` and `host` give them.
const GUEST: &str = "mother-guest-memory";
const CODE: &str = "/memfd:mother-code";

/// The kernel's accounts of this process, opened once.
#[derive(Debug)]
pub(crate) struct Footprint {
    /// Mapping by mapping: as much work as there is memory.
    mappings: Option<Lock<File>>,
    /// A few numbers.
    sums: Option<File>,
    /// A few more, by what kind of memory it is.
    kinds: Option<File>,
}

impl Footprint {
    /// Opens them; where there is no `/proc`, nothing is measured.
    pub(crate) fn open() -> Footprint {
        Footprint {
            mappings: File::open("/proc/self/smaps").ok().map(Lock::new),
            sums: File::open("/proc/self/statm").ok(),
            kinds: File::open("/proc/self/status").ok(),
        }
    }

    /// Bytes of memory that are this process's alone and no file's, as of now: neither the guest's nor the code cache, but all
    /// that is made for the two and for devices. `None` where that cannot be known.
    pub(crate) fn own_bytes(&self) -> Option<u64> {
        let mut line = [0; 128];
        let count = self.sums.as_ref()?.read_at(&mut line, 0).ok()?;
        own_pages(str::from_utf8(&line[..count]).ok()?)
            .map(|pages| pages * rustix::param::page_size() as u64)
    }

    /// Bytes of this process's own memory, and of files that it has mapped, its program, pages that others use too among them.
    /// `None` where that cannot be known.
    pub(crate) fn own_and_program_bytes(&self) -> Option<(u64, u64)> {
        let mut text = [0; 4096];
        let count = self.kinds.as_ref()?.read_at(&mut text, 0).ok()?;
        own_and_program(str::from_utf8(&text[..count]).ok()?)
    }

    /// What this process holds now; `None` where that cannot be known.
    pub(crate) fn measure(&self) -> Option<VmmMemory> {
        let mut file = self.mappings.as_ref()?.lock();
        // From its start it is made anew.
        file.seek(io::SeekFrom::Start(0)).ok()?;
        let mut smaps = String::new();
        file.read_to_string(&mut smaps).ok()?;
        Some(add_up(&smaps))
    }
}

/// Of `/proc/self/statm` (proc_pid_statm(5)): what is resident, without what is a file's or shared.
fn own_pages(statm: &str) -> Option<u64> {
    let mut pages = statm.split_ascii_whitespace().skip(1);
    let resident: u64 = pages.next()?.parse().ok()?;
    let shared: u64 = pages.next()?.parse().ok()?;
    resident.checked_sub(shared)
}

/// Of `/proc/self/status` (proc_pid_status(5)).
fn own_and_program(status: &str) -> Option<(u64, u64)> {
    let bytes = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kilobytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kilobytes * 1024)
    };
    Some((bytes("RssAnon:")?, bytes("RssFile:")?))
}

fn add_up(smaps: &str) -> VmmMemory {
    let mut memory = VmmMemory::default();
    let mut name = "";
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let Some(first) = words.next() else { continue };
        if !first.ends_with(':') {
            // A mapping: range, permissions, offset, device, inode, and perhaps a name.
            name = words.nth(4).unwrap_or("");
            continue;
        }
        if first != "Pss:" {
            continue;
        }
        let bytes = words
            .next()
            .and_then(|number| number.parse::<u64>().ok())
            .unwrap_or(0)
            * 1024;
        memory.total_bytes += bytes;
        *part(&mut memory, name) += bytes;
    }
    memory
}

fn part<'a>(memory: &'a mut VmmMemory, name: &str) -> &'a mut u64 {
    // In a tmpfs of its own it has no `memfd:` before its name.
    if name
        .trim_start_matches("/memfd:")
        .trim_start_matches('/')
        .starts_with(GUEST)
    {
        &mut memory.guest_bytes
    } else if name.starts_with(CODE) {
        &mut memory.code_cache_bytes
    } else if name.starts_with('/') {
        &mut memory.program_bytes
    } else {
        &mut memory.heap_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55d0c0000000-55d0c0100000 r-xp 00001000 fe:00 123                        /usr/bin/mother
Rss:                 800 kB
Pss:                 600 kB
Pss_Dirty:             0 kB
7f0000000000-7f0020000000 rw-s 00000000 00:01 44                         /memfd:mother-guest-memory (deleted)
Pss:                4096 kB
7f0021000000-7f0022000000 rw-s 00000000 00:2d 2                          /mother-guest-memory (deleted)
Pss:                2048 kB
7f0030000000-7f0030100000 rw-s 00000000 00:01 45                         /memfd:mother-code (deleted)
Pss:                  32 kB
7f0040000000-7f0040100000 r-xs 00000000 00:01 45                         /memfd:mother-code (deleted)
Pss:                  32 kB
55d0c1000000-55d0c1100000 rw-p 00000000 00:00 0                          [heap]
Pss:                 100 kB
7f0050000000-7f0050100000 rw-p 00000000 00:00 0
Pss:                  20 kB
VmFlags: rd wr mr mw me ac
";

    #[test]
    fn every_mapping_belongs_to_one_part() {
        let memory = add_up(SMAPS);
        let kib = |bytes: u64| bytes / 1024;
        assert_eq!(
            (kib(memory.guest_bytes), kib(memory.code_cache_bytes)),
            (6144, 64)
        );
        assert_eq!(
            (kib(memory.heap_bytes), kib(memory.program_bytes)),
            (120, 600)
        );
        assert_eq!(
            (kib(memory.total_bytes), kib(memory.overhead_bytes())),
            (6928, 784)
        );
    }

    #[test]
    fn what_is_shared_is_not_a_process_s_own() {
        assert_eq!(own_pages("500 40 15 3 0 9 0\n"), Some(25));
        assert_eq!(own_pages("500 40"), None);
        assert_eq!(own_pages(""), None);
        let status = "VmRSS:\t 99 kB\nRssAnon:\t  20 kB\nRssFile:\t 3 kB\nRssShmem:\t 76 kB\n";
        assert_eq!(own_and_program(status), Some((20 << 10, 3 << 10)));
        assert_eq!(own_and_program("RssAnon: 1 kB\n"), None);
    }

    #[test]
    fn this_process_can_be_measured() {
        let footprint = Footprint::open();
        assert!(footprint.own_bytes().unwrap() > 0);
        let (own, program) = footprint.own_and_program_bytes().unwrap();
        assert!(own > 0 && program > 0, "{own} {program}");
        let memory = footprint.measure().unwrap();
        assert!(
            memory.heap_bytes > 0 && memory.program_bytes > 0,
            "{memory:?}"
        );
    }
}
