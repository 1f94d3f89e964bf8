//! What a VMM's memory is made of, seen from outside: `/proc/PID/smaps` (proc(5)), summed by kind.
//!
//! A page shared by several mappings is counted once, in parts (`Pss`): generated code is mapped twice.

use std::fs;

use anyhow::{Context, Result};

/// Kilobytes by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Guest pages.
    pub guest: u64,
    /// Generated code.
    pub code_cache: u64,
    /// Heap, tables and everything else anonymous.
    pub heap: u64,
    /// Stacks of the main thread.
    pub stacks: u64,
    /// The program and its libraries.
    pub program: u64,
}

impl Memory {
    /// Reads it for the process `pid`.
    pub fn of(pid: u32) -> Result<Memory> {
        let path = format!("/proc/{pid}/smaps");
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        Ok(Memory::parse(&text))
    }

    /// Reads it for the process `pid` and all that it started: a VM of Mother's is three processes.
    pub fn of_all(pid: u32) -> Result<Memory> {
        let mut sum = Memory::of(pid)?;
        for child in children(pid) {
            // One that ends meanwhile has no memory.
            let Ok(more) = Memory::of_all(child) else {
                continue;
            };
            sum.guest += more.guest;
            sum.code_cache += more.code_cache;
            sum.heap += more.heap;
            sum.stacks += more.stacks;
            sum.program += more.program;
        }
        Ok(sum)
    }

    /// Everything but guest pages.
    pub fn beyond_guest(&self) -> u64 {
        self.code_cache + self.heap + self.stacks + self.program
    }

    fn parse(smaps: &str) -> Memory {
        let mut memory = Memory::default();
        let mut name = "";
        for line in smaps.lines() {
            let mut words = line.split_whitespace();
            let first = words.next().unwrap_or_default();
            if !first.ends_with(':') {
                name = words.nth(4).unwrap_or_default();
            } else if first == "Pss:" {
                let count: u64 = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
                *memory.kind(name) += count;
            }
        }
        memory
    }

    fn kind(&mut self, name: &str) -> &mut u64 {
        match name {
            _ if name.starts_with("/memfd:mother-code") => &mut self.code_cache,
            _ if name.starts_with("/memfd:mother") || name == "/mother-guest-memory" => {
                &mut self.guest
            }
            "[stack]" => &mut self.stacks,
            _ if name.starts_with('/') || name == "[vdso]" => &mut self.program,
            _ => &mut self.heap,
        }
    }
}

/// The processes that any thread of `pid` has started and that still run.
fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    let lists = threads.into_iter().flatten().flatten();
    let lists = lists.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| {
            let pids = list.split_whitespace().filter_map(|pid| pid.parse().ok());
            pids.collect::<Vec<u32>>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_told_apart_by_name() {
        let smaps = "\
7f0-7f1 rw-s 00000000 00:01 1027 /memfd:mother-guest (deleted)
Size:             524288 kB
Pss:               90000 kB
7f2-7f3 r-xs 00000000 00:01 1028 /memfd:mother-code (deleted)
Pss:                2000 kB
7f3-7f4 rw-s 00000000 00:01 1028 /memfd:mother-code (deleted)
Pss:                2000 kB
7f4-7f5 rw-p 00000000 00:00 0 [heap]
Pss:                 700 kB
7f5-7f6 rw-p 00000000 00:00 0
Pss:                  30 kB
7f6-7f7 r-xp 00000000 08:01 77 /usr/bin/mother
Pss:                 500 kB
7f7-7f8 rw-p 00000000 00:00 0 [stack]
Pss:                  12 kB
";
        let memory = Memory {
            guest: 90_000,
            code_cache: 4_000,
            heap: 730,
            stacks: 12,
            program: 500,
        };
        assert_eq!(Memory::parse(smaps), memory);
        assert_eq!(memory.beyond_guest(), 5_242);
    }
}
