//! Memory for generated code under W^X: one memory file mapped twice, writable at one address and executable
//! at another, never both.
//!
//! A process that locks itself in can make none any more ([`crate::jail`]): it [`reserve`]s what it will need. What was
//! reserved is used again and again, and its executable view is sealed.

use std::io;

use crate::lock::Lock;
use crate::mapping::{Mapping, MemFd, Protection};

/// What was reserved and is not used just now.
static RESERVED: Lock<Vec<Views>> = Lock::new(Vec::new());

/// The two views.
#[derive(Debug)]
struct Views {
    writable: Mapping,
    executable: Mapping,
}

impl Views {
    fn new(len_bytes: usize) -> io::Result<Views> {
        let fd = MemFd::new(c"mother-code", len_bytes as u64)?;
        Ok(Views {
            writable: Mapping::new(&fd, len_bytes, Protection::ReadWrite)?,
            executable: Mapping::new(&fd, len_bytes, Protection::ReadExecute)?,
        })
    }
}

/// Makes memory for code now, to be used when this process can make none any more: so often so many bytes.
///
/// # Errors
/// What the kernel says when it gives no memory or forbids executable mappings.
pub fn reserve(count: usize, len_bytes: usize) -> io::Result<()> {
    for _ in 0..count {
        let views = Views::new(len_bytes)?;
        views.executable.seal_for_ever();
        RESERVED.lock().push(views);
    }
    Ok(())
}

/// See the module.
#[derive(Debug)]
pub struct ExecutableMemory {
    /// Taken when it is dropped.
    views: Option<Views>,
    is_reserved: bool,
}

impl ExecutableMemory {
    /// `len_bytes` (a multiple of the page size) of zeroed memory.
    ///
    /// # Errors
    /// What the kernel says when it gives no memory or forbids executable mappings.
    pub fn new(len_bytes: usize) -> io::Result<ExecutableMemory> {
        let reserved = {
            let mut reserved = RESERVED.lock();
            let fits = |views: &Views| views.executable.len_bytes() == len_bytes;
            let place = reserved.iter().position(fits);
            place.map(|place| reserved.swap_remove(place))
        };
        let is_reserved = reserved.is_some();
        let views = reserved.map_or_else(|| Views::new(len_bytes), Ok)?;
        Ok(ExecutableMemory {
            views: Some(views),
            is_reserved,
        })
    }

    fn views(&self) -> &Views {
        self.views.as_ref().expect("it is taken by `drop` alone")
    }

    /// Address of the view to write through.
    pub fn writable_address(&self) -> usize {
        self.views().writable.address()
    }

    /// Address of the view to execute.
    pub fn executable_address(&self) -> usize {
        self.views().executable.address()
    }

    /// Gives whole pages back to the host, where nothing lies any more that anybody executes; zeros are there from now on.
    ///
    /// # Errors
    /// What the kernel says; what lay there lies there still. So for a part that is not inside.
    pub fn give_back(&self, offset: usize, len_bytes: usize) -> io::Result<()> {
        self.views().writable.empty_part(offset, len_bytes)
    }

    /// Size of each view.
    pub fn len_bytes(&self) -> usize {
        self.views().executable.len_bytes()
    }
}

impl Drop for ExecutableMemory {
    fn drop(&mut self) {
        let Some(views) = self.views.take().filter(|_| self.is_reserved) else {
            return;
        };
        // Who cannot be emptied would show the next one what code there was.
        match views.writable.empty() {
            Ok(()) => RESERVED.lock().push(views),
            // A sealed view stays until the process ends.
            Err(_) => std::mem::forget(views),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes a function that returns `value`, and calls it.
    fn write_and_call(memory: &ExecutableMemory, value: u32) -> u32 {
        let mut code = vec![0xb8];
        code.extend(value.to_le_bytes());
        code.push(0xc3);
        // SAFETY: the view to write has room for six bytes and nobody else uses it.
        unsafe {
            std::ptr::copy_nonoverlapping(
                code.as_ptr(),
                memory.writable_address() as *mut u8,
                code.len(),
            );
        }
        // SAFETY: what was written is a function of the C ABI that takes nothing and returns EAX.
        let function: extern "C" fn() -> u32 =
            unsafe { std::mem::transmute(memory.executable_address()) };
        function()
    }

    #[test]
    fn what_was_reserved_is_used_again_and_is_empty_then() {
        const LEN: usize = 3 << 20;
        reserve(1, LEN).unwrap();
        let first = ExecutableMemory::new(LEN).unwrap();
        assert_eq!(write_and_call(&first, 7), 7);
        let place = first.executable_address();
        let another = ExecutableMemory::new(LEN).unwrap();
        assert_ne!(another.executable_address(), place);
        assert_eq!(write_and_call(&another, 8), 8);
        drop((first, another));
        let again = ExecutableMemory::new(LEN).unwrap();
        assert_eq!(again.executable_address(), place, "the reserved one");
        // SAFETY: both views are there for as long as `again` is.
        let byte = unsafe { *(again.writable_address() as *const u8) };
        assert_eq!(byte, 0, "emptied");
        assert_eq!(write_and_call(&again, 9), 9);
    }

    #[test]
    fn what_is_given_back_is_zeros_and_can_be_written_again() {
        const PAGE: usize = 4096;
        let memory = ExecutableMemory::new(4 * PAGE).unwrap();
        // SAFETY: both places are inside the view, which lives as long as `memory`.
        let read = |at: usize| unsafe { *((memory.writable_address() + at) as *const u8) };
        assert_eq!(write_and_call(&memory, 7), 7);
        // SAFETY: the same, and nobody else uses it.
        unsafe { *((memory.writable_address() + 2 * PAGE) as *mut u8) = 9 };
        memory.give_back(PAGE, 3 * PAGE).unwrap();
        assert_eq!((read(0), read(2 * PAGE)), (0xb8, 0), "only what was named");
        memory.give_back(0, PAGE).unwrap();
        assert_eq!(read(0), 0);
        assert_eq!(write_and_call(&memory, 8), 8);
        assert!(memory.give_back(3 * PAGE, 2 * PAGE).is_err());
    }

    #[test]
    fn nothing_lies_near_code() {
        let memory = ExecutableMemory::new(1 << 20).unwrap();
        let far = memory
            .executable_address()
            .abs_diff(memory.writable_address());
        assert!(far > 1 << 30, "{far}");
    }
}
