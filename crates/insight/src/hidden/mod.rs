//! What hides: tasks and modules that one of the kernel's books has and another has not.
//!
//! Tasks are in the list that most tools walk, in the table by number that the kernel finds them with, on the CPUs when
//! they run, and in the slabs of memory they were made from. Modules are in the list, in the set that `/sys/module` shows,
//! and their code is mapped executable where modules are. A rootkit takes itself out of the book it knows somebody reads.
//!
//! A guest that starts and ends processes while it is looked at makes books differ for a moment. So a difference counts
//! only when it is still there in further looks; [`hidden_tasks`](crate::Look::hidden_tasks) reports what one look sees,
//! and [`confirmed`] keeps what several have in common.

mod credentials;
mod modules;
mod resident;
mod slabs;
mod tasks;
mod threads;

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::modules::Stretch;

pub use credentials::StrangeCredentials;
pub use resident::Uncounted;
pub use threads::StrangeThread;

/// How thoroughly tasks are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The list, the table of numbers, and what runs: cheap enough for every second.
    Books,
    /// Also every slab that tasks are made from, and whether what the list has was made there: reads 1.6 % of the guest's
    /// memory.
    Slabs,
}

/// A task that not every book has.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct HiddenTask {
    /// Its number.
    pub pid: i32,
    /// Its name.
    pub comm: String,
    /// Where its `task_struct` is.
    pub address: u64,
    /// Whether the list of tasks has it.
    pub in_list: bool,
    /// Whether the table of numbers has it.
    pub in_pid_table: bool,
    /// Whether a CPU was seen running it.
    pub seen_running: bool,
    /// Whether it was found in the slabs.
    pub in_slab: bool,
    /// Whether the list shows it, and it was not made where tasks are made: a copy, or nothing at all.
    #[serde(default)]
    pub is_decoy: bool,
}

/// A module that not every book has.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct HiddenModule {
    /// Its name, if anything still tells.
    pub name: Option<String>,
    /// Where its `struct module` or its code is.
    pub address: u64,
    /// Whether the list of modules has it.
    pub in_list: bool,
    /// Whether `/sys/module` has it.
    pub in_sysfs: bool,
    /// Bytes of its code that are mapped executable.
    pub executable_bytes: u64,
    /// Where its code is, if anything still tells.
    pub text: Option<Stretch>,
}

/// A CPU that runs in an address space that no task of any book has.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize, Deserialize,
)]
pub struct UnknownSpace {
    /// The vCPU.
    pub vcpu_id: u32,
    /// Where its page tables are.
    pub tables: u64,
}

/// What all of `looks` have.
pub fn confirmed<T: Clone, K: Ord>(looks: &[Vec<T>], key: impl Fn(&T) -> K) -> Vec<T> {
    let Some((first, rest)) = looks.split_first() else {
        return Vec::new();
    };
    let sets: Vec<BTreeSet<K>> = rest
        .iter()
        .map(|look| look.iter().map(&key).collect())
        .collect();
    first
        .iter()
        .filter(|item| sets.iter().all(|set| set.contains(&key(item))))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stays_is_confirmed() {
        let check = |looks: &[Vec<u32>], expected: &[u32]| {
            assert_eq!(confirmed(looks, |item| *item), expected)
        };
        check(&[vec![1, 2], vec![2, 3], vec![2]], &[2]);
        check(&[vec![1], vec![]], &[]);
        check(&[vec![1]], &[1]);
        check(&[], &[]);
    }
}
