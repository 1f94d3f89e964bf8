//! A long table of words whose memory the host gives page by page, as they are written, and takes back as a whole.

use std::io;
use std::ptr;
use std::sync::atomic::AtomicU64;

/// See the module. All words are 0 at first. Any thread may read and write them.
#[derive(Debug)]
pub struct Words {
    address: usize,
    count: usize,
}

impl Words {
    /// A table of `count` words, which takes no memory yet.
    ///
    /// # Errors
    /// What `mmap` says.
    pub fn new(count: usize) -> io::Result<Words> {
        let len_bytes = count.max(1) * size_of::<AtomicU64>();
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let at = unsafe { libc::mmap(ptr::null_mut(), len_bytes, protection, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let words = Words {
            address: at as usize,
            count,
        };
        words.advise(len_bytes, libc::MADV_DONTDUMP)?;
        // A huge page would be there as a whole from its first word on. A kernel that has none refuses, and is right.
        let _ = words.advise(len_bytes, libc::MADV_NOHUGEPAGE);
        Ok(words)
    }

    /// How many there are.
    #[inline]
    pub fn count(&self) -> usize {
        self.count
    }

    /// The word with this index.
    ///
    /// # Panics
    /// If there is none.
    #[inline]
    pub fn at(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.count, "the table has that many words");
        let word = (self.address as *const AtomicU64).wrapping_add(index);
        // SAFETY: it lies in the mapping, which lives as long as this and is aligned to pages; every access to it is atomic.
        unsafe { &*word }
    }

    /// Gives the memory of all words back to the host: they are 0 again.
    ///
    /// # Errors
    /// What `madvise` says; the words are what they were then.
    pub fn forget(&self) -> io::Result<()> {
        self.advise(self.len_bytes(), libc::MADV_DONTNEED)
    }

    fn len_bytes(&self) -> usize {
        self.count.max(1) * size_of::<AtomicU64>()
    }

    fn advise(&self, len_bytes: usize, advice: i32) -> io::Result<()> {
        let at = self.address as *mut libc::c_void;
        // SAFETY: the range is this mapping's. What reads a word meanwhile reads what it was, or 0, as after a store.
        match unsafe { libc::madvise(at, len_bytes, advice) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: the range is ours, and nobody has a reference into it any more.
        unsafe { libc::munmap(self.address as *mut libc::c_void, self.len_bytes()) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn words_keep_what_is_stored_until_they_are_forgotten() {
        let words = Words::new(3000).unwrap();
        let places = [0, 511, 512, 2999];
        let read = || places.map(|at| words.at(at).load(Ordering::Relaxed));
        assert_eq!(read(), [0; 4]);
        for at in places {
            words.at(at).store(at as u64 + 1, Ordering::Relaxed);
        }
        assert_eq!(read(), [1, 512, 513, 3000]);
        words.forget().unwrap();
        assert_eq!(read(), [0; 4]);
        words.at(511).store(7, Ordering::Relaxed);
        assert_eq!(read(), [0, 7, 0, 0]);
    }

    #[test]
    #[should_panic(expected = "that many words")]
    fn a_word_behind_the_end_is_nobodys() {
        Words::new(3).unwrap().at(3);
    }
}
