//! The software engine through its contract: small programs on a vCPU or two, every exit answered by the test.
#![allow(clippy::disallowed_methods, reason = "tests are in no jail")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod basic;
mod beside;
mod bounds;
mod code_pages;
mod corners;
mod crossing;
mod exceptions;
mod flat32;
mod gates;
mod machine;
mod moved;
mod probes;
mod shared_checks;
mod smap;
mod tasks;
