//! The heap of a process that lives long and takes much for moments: glibc's malloc keeps what was freed, in an arena for each
//! few threads, and gives back only what lies at an arena's end.

use std::os::raw::c_int;

/// Bytes of an allocation that is mapped by itself, and so given back when it is freed; and how many at the heap's end make
/// malloc give them back.
const LARGE_BYTES: c_int = 128 << 10;

/// Has large allocations be mapped by themselves, however often they were freed, and a heap's end given back (mallopt(3)).
pub fn map_large() {
    for (parameter, value) in [
        (libc::M_MMAP_THRESHOLD, LARGE_BYTES),
        (libc::M_TRIM_THRESHOLD, LARGE_BYTES),
    ] {
        // SAFETY: sets a number in the allocator, which takes its own lock; a number that it does not know it refuses.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// Has all threads share one arena, and large allocations be mapped by themselves however often they were freed (mallopt(3)).
/// To be called before there are threads: an arena that a thread has is its own.
pub fn share() {
    // SAFETY: as in `map_large`.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    map_large();
}

/// Gives back to the host every page of the heap that nothing is in (malloc_trim(3)).
pub fn give_back() {
    // SAFETY: gives back pages that hold no allocation, under the allocator's own lock.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_kilobytes() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let line = line.unwrap().trim().trim_end_matches(" kB");
        line.parse().unwrap()
    }

    #[test]
    fn what_was_freed_between_what_is_kept_goes_back_to_the_host() {
        // Small ones: from the heap. Each hundredth is kept, the last among them, so that the end of the heap is in use.
        let mut all: Vec<Option<Box<[u8; 1024]>>> =
            (0..60_000).map(|_| Some(Box::new([1; 1024]))).collect();
        let full = held_kilobytes();
        for (number, one) in all.iter_mut().enumerate() {
            if number % 100 != 99 {
                *one = None;
            }
        }
        give_back();
        let left = held_kilobytes();
        assert!(left + 40_000 < full, "{left} of {full} KiB are left");
        assert!(all.iter().flatten().all(|one| one[7] == 1));
    }
}
