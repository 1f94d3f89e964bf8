//! A thread that does for a vCPU's what that may not do itself.
//!
//! A vCPU's thread may make few system calls ([`host::jail`]), and threads that it starts would be under the same filter.
//! So what it needs beside running a guest, a device's threads when a driver appears, what the process costs when a marker is
//! seen, it has done here, and waits for that.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use host::lock::Lock;

type Job = Box<dyn FnOnce() + Send>;

/// See the module. Its thread ends when it is dropped.
pub(crate) struct Helper {
    /// Taken when the thread is to end.
    jobs: Lock<Option<mpsc::Sender<Job>>>,
    thread: Option<JoinHandle<()>>,
}

impl Helper {
    /// One that waits for something to do.
    pub(crate) fn new() -> io::Result<Helper> {
        let (jobs, to_do) = mpsc::channel::<Job>();
        let thread = thread::Builder::new()
            .name("helper".to_owned())
            .spawn(move || {
                for job in to_do {
                    job();
                }
            })?;
        Ok(Helper {
            jobs: Lock::new(Some(jobs)),
            thread: Some(thread),
        })
    }

    /// Has `work` done, and waits for what comes of it. A panic goes on here. What it has done itself it does at once.
    pub(crate) fn have_done<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        if self
            .thread
            .as_ref()
            .is_some_and(|thread| thread.thread().id() == thread::current().id())
        {
            return work();
        }
        let (sender, receiver) = mpsc::sync_channel(1);
        let job = move || {
            let done = catch_unwind(AssertUnwindSafe(work));
            // Who asked waits.
            let _ = sender.send(done);
        };
        if let Some(jobs) = &*self.jobs.lock() {
            // The thread ends when this is dropped, which is borrowed here.
            let _ = jobs.send(Box::new(job));
        }
        let done = receiver.recv();
        done.expect("the helper's thread catches every panic and ends last")
            .unwrap_or_else(|panic| resume_unwind(panic))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.jobs.lock().take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_done_on_another_thread_and_its_panic_comes_back() {
        let helper = Helper::new().unwrap();
        let there = helper.have_done(|| thread::current().id());
        assert_ne!(there, thread::current().id());
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            helper.have_done(|| panic!("on purpose"));
        }));
        assert!(panicked.is_err());
        assert_eq!(helper.have_done(|| thread::current().id()), there);
    }
}
