//! A folder of the host for a guest: FUSE messages in, FUSE messages out.
//!
//! # Problem
//!
//! A guest's kernel mounts a folder of the host by virtio-fs, whose requests are FUSE messages. Whoever answers them does with
//! files of the host what a guest says, and that guest may have been taken over.
//!
//! # How
//!
//! ```text
//! one message ──> Server::answer ──> one message, or none
//!                   │ message      lengths, words, names: nothing is used before it is looked at
//!                   │ nodes        what the guest knows by a number: an O_PATH descriptor for each
//!                   │ handles      what it has open
//!                   └ owners       whose files these are, in the guest
//! ```
//!
//! The server sees messages and no guest memory (decision 37). Nothing here makes a thread or reads a clock.
//!
//! **Nothing leads out.** A name is one part, never `.` or `..`, and is looked up in an open folder by `openat2`, beneath it and
//! through no link. Where a link leads is for the guest to follow, in its own tree. What is opened to be read or written is opened
//! again from a descriptor of a regular file or a folder, so a pipe, a socket or a device of the host is seen and never opened.
//!
//! **No mounts below it** (`RESOLVE_NO_XDEV`). A guest takes two files with one inode number on one mount for one file; those of two
//! file systems may well have the same. And what somebody mounts there later was not meant when the folder was shared.
//!
//! **Everything is bounded**: bytes of a message, nodes, handles, and what one message may cause.
#![forbid(unsafe_code)]

mod message;
mod nodes;
mod owners;
mod serve;
mod server;

pub use message::{ANSWER_BYTES_MAX, ANSWER_HEADER_BYTES, HEADER_BYTES, REQUEST_BYTES_MAX};
pub use owners::Owners;
pub use serve::serve;
pub use server::{Access, Bounds, Server, is_answered};
