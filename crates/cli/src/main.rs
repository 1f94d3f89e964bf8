//! The command `mother`.
#![forbid(unsafe_code)]

fn main() {}
