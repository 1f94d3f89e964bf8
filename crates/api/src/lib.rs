//! The words on the wire: what a user, the command line and later the daemon say to a VM and hear from it.
//!
//! Plain values only: nothing here opens, checks or runs anything. What is written here is text as somebody typed
//! it; `machine::plan` turns it into numbers and says what is wrong with it.
#![forbid(unsafe_code)]

mod spec;

pub use spec::{DiskSpec, VmSpec};
