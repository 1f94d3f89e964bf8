//! `mother ps NAME`: what runs in a guest.

use super::observe::{look, seen, watch};
use super::process_table::print;
use crate::failure::Failure;

/// Prints the processes of a guest; the exit status.
pub(super) fn processes(typed: &str, is_json: bool) -> Result<u8, Failure> {
    let (name, mut watcher) = watch(typed)?;
    let processes = look(&name, &mut watcher, |_, look| seen(&name, look.processes()))?;
    print(&processes, is_json)
}
