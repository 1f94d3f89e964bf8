//! House tasks: `cargo xtask check`, `test`, `bench`, `differential`.
fn main() {}
