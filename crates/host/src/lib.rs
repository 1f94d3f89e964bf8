//! Thin safe wrappers for the Linux calls we need: memory files and mappings, executable memory, signals, userfaultfd,
//! the TSC, and the jail of a VM's process.
//!
//! One of the unsafe rooms. Nothing here knows of guests.
#![allow(
    unsafe_code,
    reason = "system calls and mappings have no safe form; every block says why it holds"
)]

pub mod activation;
pub mod at;
pub mod byte_lock;
pub mod certificates;
pub mod cpu;
pub mod deep_socket;
pub mod executable;
pub mod fault;
pub mod heap;
pub mod huge;
pub mod inherit;
pub mod jail;
pub mod lock;
pub mod mapping;
mod namespace;
pub mod peer;
pub mod rest;
pub mod sampling;
pub mod tap;
pub mod tsc;
pub mod userfault;
pub mod vectored;
pub mod words;

pub use mapping::{Mapping, MemFd};
