//! What is taken down when a guest's kernel passes an address.
//!
//! Who watches a guest from outside wants to know what its kernel does *as* it does it: that a program starts, and with
//! which arguments, before it has run. By the time that an observer in another process hears of it, the guest has gone
//! on, and a program that lived for a millisecond is gone. So what is to be known must be taken down on the vCPU's own
//! thread, between two instructions. But that thread belongs to the VM's process, which knows nothing of kernels, and
//! must not: what understands a guest's structures is large, and reads bytes that the guest made.
//!
//! Hence the split. The observer, who knows the kernel, says *where* to look and *what to take down there*, as a short
//! straight list of operations: follow these pointers from this register, take so many bytes. The VM's process runs that
//! list and knows nothing else. It is the idea of the fetch arguments of Linux's kprobe events
//! (Documentation/trace/kprobetrace.rst), from outside:
//!
//! ```text
//! observer: kernel, layouts ──[Point]──> VM's process: registers, guest memory ──[Hit]──> observer: an event
//! ```
//!
//! What a list can cost is known before it runs: there are no loops but along one chain with a greatest length, and every
//! count has a limit ([`Point::check`]). Everything read belongs to a guest that wants to mislead: a pointer that leads
//! nowhere makes a value [`Value::Unreadable`], never an error. Nothing is ever written.
#![forbid(unsafe_code)]

mod bytes;
mod point;
mod run;

pub use bytes::Bytes;
pub use point::{
    AMONG_MAX, BYTES_MAX, From, HIT_BYTES_MAX, Hit, Length, NAME_BYTES_MAX, NAMES_MAX,
    OPERATIONS_MAX, Operation, PATH_MAX, POINTS_MAX, Point, Refused, Value, check,
};
pub use run::{Reader, Start, run};
