//! Where system calls, faults and interrupts enter the kernel, and what the CPU protects it from.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use x86::Gva;

use super::baseline::{Baseline, Pinned};
use super::{Finding, FindingKind};
use crate::anchor::gate_target;
use crate::blind::Blind;
use crate::look::Look;
use crate::observed::{Observed, Rung};
use crate::registers::Registers;

/// CR0.WP: the kernel cannot write what is read-only.
const WP: u64 = 1 << 16;
/// Bits of CR4 that protect a kernel (SDM vol. 3, 2.5).
const PROTECTIONS: [(u64, &str); 3] = [(11, "UMIP"), (20, "SMEP"), (21, "SMAP")];
/// Entries of the interrupt descriptor table, and bytes of each.
const VECTORS: usize = 256;
const GATE: usize = 16;
/// Checks on end in which the kernel must not know of a breakpoint.
const UNKNOWN_CHECKS: u32 = 4;
/// What the registers must lead to, in any kernel since 4.14. A register may also be zero, if system calls of that kind
/// cannot be made.
const LSTAR: &[&str] = &["entry_SYSCALL_64", "entry_SYSCALL_64_trampoline"];
const CSTAR: &[&str] = &[
    "entry_SYSCALL_compat",
    "ignore_sysret",
    "entry_SYSCALL32_ignore",
];
const SYSENTER: &[&str] = &["entry_SYSENTER_compat"];

/// One way into the kernel.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct EntryPoint {
    /// Which vCPU.
    pub vcpu_id: u32,
    /// Which way: `LSTAR`, `vector 14`.
    pub way: String,
    /// Where it leads.
    pub address: u64,
    /// What is there.
    pub target: String,
}

/// Whose a breakpoint on the kernel's code is.
enum Stop {
    /// The kernel knows of it and handles it.
    Legal,
    /// The kernel knows of it, and somebody else handles it.
    Leads(u64),
    /// The kernel does not know of it. That of a task may have gone between the look at registers and the look at memory.
    Unknown,
}

impl Registers {
    /// Whether the kernel has set the CPU up: until then nothing about it is judged.
    fn runs_kernel(&self) -> bool {
        self.is_long_mode() && self.lstar >> 63 != 0 && self.idt_base >> 63 != 0
    }
}

impl Look<'_> {
    /// Where SYSCALL, SYSENTER, faults and interrupts lead.
    pub fn entry_points(&self) -> Observed<Vec<EntryPoint>> {
        Observed::new(self.read_entry_points(), Rung::Registers)
    }

    fn read_entry_points(&self) -> Result<Vec<EntryPoint>, Blind> {
        let mut points = Vec::new();
        for vcpu in self.judged()? {
            let mut add = |way: String, address: u64| {
                let target = self.whereabouts(address);
                points.push(EntryPoint {
                    vcpu_id: vcpu.vcpu_id,
                    way,
                    address,
                    target,
                });
            };
            for (way, address) in [
                ("LSTAR", vcpu.lstar),
                ("CSTAR", vcpu.cstar),
                ("SYSENTER_EIP", vcpu.sysenter_target()),
            ] {
                if address != 0 {
                    add(way.to_owned(), address);
                }
            }
            for (vector, gate) in self
                .gates(vcpu)?
                .into_iter()
                .enumerate()
                .filter(|(_, gate)| *gate != 0)
            {
                add(format!("vector {vector}"), gate);
            }
        }
        Ok(points)
    }

    fn judged(&self) -> Result<Vec<&Registers>, Blind> {
        let judged: Vec<&Registers> = self
            .registers()
            .iter()
            .filter(|vcpu| vcpu.runs_kernel() && !vcpu.is_parked())
            .collect();
        if judged.is_empty() {
            return Err(Blind::NotGiven(
                "no registers of a vCPU that runs the kernel were given",
            ));
        }
        Ok(judged)
    }

    /// Where each gate leads; 0 if it is not there.
    fn gates(&self, vcpu: &Registers) -> Result<Vec<u64>, Blind> {
        let count = (usize::from(vcpu.idt_limit) + 1) / GATE;
        let table = self
            .space()
            .bytes(Gva(vcpu.idt_base), count.min(VECTORS) * GATE)?;
        Ok(table
            .chunks_exact(GATE)
            .map(|gate| gate_target(gate).map_or(0, |target| target.0))
            .collect())
    }

    pub(super) fn check_registers(&self, baseline: &mut Baseline) -> Result<Vec<Finding>, Blind> {
        let mut findings = Vec::new();
        for vcpu in self.judged()? {
            let id = vcpu.vcpu_id;
            let mut find = |register: &str, what: String| {
                findings.push(Finding {
                    kind: FindingKind::Register,
                    subject: format!("{register} of vCPU {id}"),
                    what,
                    address: None,
                    before: None,
                    after: None,
                });
            };
            for (register, value, expected) in [
                ("LSTAR", vcpu.lstar, LSTAR),
                ("CSTAR", vcpu.cstar, CSTAR),
                ("SYSENTER_EIP", vcpu.sysenter_target(), SYSENTER),
            ] {
                let is_right =
                    |name: &&str| self.symbol(name).is_ok_and(|symbol| symbol.0 == value);
                if value != 0 && !expected.iter().any(is_right) {
                    let place = self.whereabouts(value);
                    find(
                        register,
                        format!("leads to {place}, not to {}", expected.join(" or ")),
                    );
                }
            }
            if vcpu.cr0 & WP == 0 {
                find(
                    "CR0.WP",
                    "is off: the kernel can write into its own code".to_owned(),
                );
            }
            let mut pinned = baseline.pinned(id);
            for (register, what) in self.check_breakpoints(vcpu, &mut pinned)? {
                find(&register, what);
            }
            for (bit, name) in PROTECTIONS {
                if pinned.cr4 >> bit & 1 != 0 && vcpu.cr4 >> bit & 1 == 0 {
                    find(&format!("CR4.{name}"), "was on and is off".to_owned());
                }
            }
            pinned.cr4 |= vcpu.cr4;
            if pinned.idt_base == 0 {
                pinned.idt_base = vcpu.idt_base;
            } else if pinned.idt_base != vcpu.idt_base {
                let before = pinned.idt_base;
                let now = vcpu.idt_base;
                find("IDTR", format!("was {before:#x} and is {now:#x}"));
            }
            baseline.pin(pinned);
        }
        Ok(findings)
    }

    /// Breakpoints on the kernel's code that are not its own: registers, and what is wrong with each.
    fn check_breakpoints(
        &self,
        vcpu: &Registers,
        pinned: &mut Pinned,
    ) -> Result<Vec<(String, String)>, Blind> {
        let mut found = Vec::new();
        let mut has_unknown = false;
        for (number, address) in vcpu.stops_at().filter(|(_, at)| self.is_text(*at)) {
            let what = match self.breakpoint(number, address)? {
                Stop::Legal => continue,
                Stop::Leads(handler) => format!("it leads to {}", self.whereabouts(handler)),
                Stop::Unknown => {
                    has_unknown = true;
                    if pinned.unknown_breakpoints < UNKNOWN_CHECKS {
                        continue;
                    }
                    "the kernel knows of no such breakpoint".to_owned()
                }
            };
            let place = self.whereabouts(address);
            found.push((format!("DR{number}"), format!("stops at {place}: {what}")));
        }
        pinned.unknown_breakpoints = match has_unknown {
            true => pinned.unknown_breakpoints.saturating_add(1),
            false => 0,
        };
        Ok(found)
    }

    /// Whose a breakpoint on the kernel's code is. Debuggers and profilers have one through the kernel's own functions
    /// (kernel/events/hw_breakpoint.c, arch/x86/kernel/hw_breakpoint.c).
    fn breakpoint(&self, number: usize, address: u64) -> Result<Stop, Blind> {
        let slots = self.symbol("bp_per_reg")?;
        for cpu in self.possible_cpus()? {
            let slot = self.per_cpu(slots, cpu)?.0.wrapping_add(8 * number as u64);
            let event = Gva(self.space().u64(Gva(slot))?);
            if event.0 == 0 || self.member("perf_event", event, "attr.bp_addr")? != address {
                continue;
            }
            let handler = self.member("perf_event", event, "overflow_handler")?;
            return Ok(match handler == 0 || self.is_text(handler) {
                true => Stop::Legal,
                false => Stop::Leads(handler),
            });
        }
        Ok(Stop::Unknown)
    }

    /// Gates lead into the entry code, and where they led first. Those of vectors that the kernel never took lead to the
    /// handlers of early boot, whose memory was given away.
    pub(super) fn check_interrupt_table(
        &self,
        baseline: &mut Baseline,
    ) -> Result<Vec<Finding>, Blind> {
        let range =
            |start: &str, end: &str| Ok::<_, Blind>(self.symbol(start)?.0..self.symbol(end)?.0);
        let entry = range("__entry_text_start", "__entry_text_end")
            .or_else(|_| range("_stext", "_etext"))?;
        let early = self
            .symbol("early_idt_handler_array")
            .ok()
            .map(|start| start.0..start.0.saturating_add(self.room(start)));
        let mut findings = Vec::new();
        for vcpu in self.judged()? {
            let gates = self.gates(vcpu)?;
            let mut pinned = baseline.pinned(vcpu.vcpu_id);
            for (vector, gate) in gates.iter().enumerate().filter(|(_, gate)| **gate != 0) {
                let is_early = early.as_ref().is_some_and(|early| early.contains(gate));
                let first = pinned.gates.get(vector).copied();
                let what = if first.is_some_and(|first| first != *gate) {
                    let first = self.whereabouts(first.unwrap_or_default());
                    format!("led to {first} and leads to {}", self.whereabouts(*gate))
                } else if !entry.contains(gate) && !is_early {
                    format!(
                        "leads to {}, which is no entry of the kernel",
                        self.whereabouts(*gate)
                    )
                } else {
                    continue;
                };
                findings.push(Finding {
                    kind: FindingKind::InterruptTable,
                    subject: format!("vector {vector} of vCPU {}", vcpu.vcpu_id),
                    what,
                    address: Some(vcpu.idt_base + (vector * GATE) as u64),
                    before: None,
                    after: None,
                });
            }
            if pinned.gates.is_empty() {
                pinned.gates = gates;
            }
            baseline.pin(pinned);
        }
        Ok(findings)
    }

    /// Bytes from a symbol to the next one.
    pub(super) fn room(&self, symbol: Gva) -> u64 {
        const MOST: u64 = 1 << 20;
        let text = self.symbol("_text").map_or(0, |text| text.0);
        let offset = symbol.0.wrapping_sub(text) as i64;
        let next = self.kernel().profile().symbols.next_place(offset);
        next.map_or(0, |next| next.wrapping_sub(offset) as u64)
            .min(MOST)
    }
}
