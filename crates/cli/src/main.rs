//! The command `mother`.
fn main() {}
