//! The way of a system call through the kernel: its table, and the code that every call runs.
//!
//! Newer kernels do not read the table any more (`x64_sys_call` is a switch), so a clean table proves nothing there:
//! the code is followed. No baseline is needed: every branch must stay in the function or lead to where a function of
//! the kernel starts.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, OpKind};
use x86::Gva;

use super::{Finding, FindingKind, hex};
use crate::blind::Blind;
use crate::look::Look;

/// Entries of a table, at most.
const MAX_CALLS: u64 = 1024;
/// What every system call runs.
const PATH: [&str; 3] = ["entry_SYSCALL_64", "do_syscall_64", "x64_sys_call"];
/// What serves system calls is called so.
const SERVER: &str = "__x64_sys_";
/// What serves those that there are not.
const NONE: &str = "sys_ni_syscall";

impl Look<'_> {
    /// Entries of `sys_call_table` lead to functions for system calls. The end is where the next symbol is, and some
    /// kernels leave the last ones empty.
    pub(super) fn check_syscall_table(&self) -> Result<Vec<Finding>, Blind> {
        let table = self.symbol("sys_call_table")?;
        let count = (self.room(table) / 8).min(MAX_CALLS);
        let bytes = self.space().bytes(table, count as usize * 8)?;
        let mut findings = Vec::new();
        for (number, entry) in bytes.chunks_exact(8).enumerate() {
            let target = entry
                .iter()
                .rev()
                .fold(0, |target, &byte| target << 8 | u64::from(byte));
            let names = self.names_at(Gva(target));
            let is_server = |name: &String| name.starts_with(SERVER) || name == NONE;
            if target != 0 && !names.iter().any(is_server) {
                findings.push(Finding {
                    kind: FindingKind::SyscallTable,
                    subject: format!("system call {number}"),
                    what: format!("leads to {}", self.whereabouts(target)),
                    address: Some(table.0.wrapping_add(8 * number as u64)),
                    before: None,
                    after: Some(hex(entry)),
                });
            }
        }
        Ok(findings)
    }

    /// Every name of a place.
    fn names_at(&self, gva: Gva) -> Vec<String> {
        let symbols = &self.kernel().profile().symbols;
        let offset =
            gva.0
                .wrapping_sub(self.symbol("_text").map_or(0, |text| text.0)) as i64;
        let Some((last, _)) = symbols.before(offset) else {
            return Vec::new();
        };
        let here = (0..=last)
            .rev()
            .map_while(|number| symbols.entry(number).filter(|kept| kept.value == offset));
        here.take(4096)
            .map(|kept| String::from_utf8_lossy(kept.name).into_owned())
            .collect()
    }

    /// Branches of what every system call runs lead to where functions of the kernel start, or where tracers and others
    /// may have put a branch of theirs.
    pub(super) fn check_syscall_path(&self) -> Result<Vec<Finding>, Blind> {
        let mut findings = Vec::new();
        let mut sites = None;
        for name in PATH {
            // Not every kernel has each.
            let Ok(start) = self.symbol(name) else {
                continue;
            };
            let code = self.space().bytes(start, self.room(start) as usize)?;
            let end = start.0.saturating_add(code.len() as u64);
            for (ip, bytes, target) in branches(&code, start.0) {
                if (start.0..end).contains(&target) || self.is_legal_branch(name, target) {
                    continue;
                }
                if sites.is_none() {
                    sites = Some(self.patch_sites(&self.read_modules()?)?);
                }
                let Some(sites) = &sites else { continue };
                // A probe replaces part of an instruction: what follows it is not what is run.
                if sites.has_probe(start.0..ip + 1) || self.legal(end, ip, sites).is_some() {
                    continue;
                }
                findings.push(Finding {
                    kind: FindingKind::SyscallPath,
                    subject: format!("{name}+{:#x}", ip - start.0),
                    what: format!("leads to {}", self.whereabouts(target)),
                    address: Some(ip),
                    before: None,
                    after: Some(hex(&bytes)),
                });
            }
        }
        Ok(findings)
    }

    /// To the start of a function; within the entry code, which is one piece; or into the part of the same function that
    /// the compiler put elsewhere.
    fn is_legal_branch(&self, name: &str, target: u64) -> bool {
        let is_cold = |other: &str| {
            other
                .strip_suffix(".cold")
                .is_some_and(|whole| whole == name)
        };
        match self.kernel().describe(Gva(target)) {
            Some((_, 0)) => self.is_text(target),
            Some((other, _)) => {
                is_cold(&other)
                    || self.lies_between("__entry_text_start", "__entry_text_end", target)
            }
            None => false,
        }
    }
}

/// Every branch to a fixed place: where it is, its bytes, where it leads.
fn branches(code: &[u8], start: u64) -> Vec<(u64, Vec<u8>, u64)> {
    let mut decoder = Decoder::with_ip(64, code, start, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    let mut found = Vec::new();
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        let is_branch = matches!(
            instruction.flow_control(),
            FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch | FlowControl::Call
        );
        if is_branch && instruction.op0_kind() == OpKind::NearBranch64 {
            let at = (instruction.ip() - start) as usize;
            let bytes = code
                .get(at..at + instruction.len())
                .unwrap_or_default()
                .to_vec();
            found.push((instruction.ip(), bytes, instruction.near_branch64()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_are_found_and_nothing_else() {
        // push rbp; call +0x10; jmp -2; ret; je +5; jmp rax; call [rip]
        let code = [
            0x55, 0xe8, 0x10, 0, 0, 0, 0xeb, 0xfe, 0xc3, 0x74, 0x05, 0xff, 0xe0, 0xff, 0x15, 0, 0,
            0, 0,
        ];
        let found: Vec<(u64, u64)> = branches(&code, 0x1000)
            .into_iter()
            .map(|(ip, _, target)| (ip, target))
            .collect();
        assert_eq!(
            found,
            [(0x1001, 0x1016), (0x1006, 0x1006), (0x1009, 0x1010)]
        );
    }
}
