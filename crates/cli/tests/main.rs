//! Whole guests and whole commands, as a user has them: one program, since each would link all of the product.
//!
//! What is run by itself for longer (`cargo xtask`) is a program of its own, beside this one.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

#[macro_use]
mod common;
#[path = "json/schema.rs"]
mod schema;

mod again;
mod app;
mod apparmor;
mod bad_input;
mod balloon;
mod cloud_image;
mod cloud_init;
mod config;
mod copy;
mod devices;
mod disks;
mod documentation;
mod dump;
mod endings;
mod environments;
mod everybody;
mod exec;
mod folders;
mod foreign;
mod guest;
mod host_limit;
mod image;
mod insight;
mod json;
mod lifecycle;
mod limits;
mod network;
mod networks;
mod observe;
mod otlp;
mod paging;
mod paging_seen;
mod paging_trouble;
mod profile;
mod redfish;
mod registry;
mod several_cpus;
mod snapshot;
mod snapshots;
mod snmp;
mod starter;
mod streams;
mod terminal;
mod upgrade;
mod vanished;
mod vsock;
mod without_guest;
