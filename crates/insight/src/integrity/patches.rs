//! What may stand where a kernel rewrites its code. Pure: bytes, and where they lead.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::sites::Site;

/// By what code was rewritten.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum PatchKind {
    /// A static key.
    JumpLabel,
    /// A static call.
    StaticCall,
    /// A tracer, a live patch, or a BPF program at the beginning of a function.
    Trace,
    /// A probe.
    Probe,
    /// BPF's dispatcher.
    BpfDispatcher,
}

/// What is where a branch leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ground {
    /// The beginning of a function of the kernel.
    Function,
    /// Code of a listed module.
    Module,
    /// A function that a tracer has called, of the kernel or of a listed module.
    Traced,
    /// The entry of tracers.
    Tracer,
    /// Code of BPF.
    Bpf,
    /// Code that an optimized probe jumps to.
    Probe,
    /// Anything else.
    Nowhere,
}

/// What does nothing, in the lengths that kernels use (arch/x86/include/asm/nops.h, old and new).
const NOPS: [&[u8]; 5] = [
    &[0x66, 0x90],
    &[0x0f, 0x1f, 0x44, 0x00, 0x00],
    &[0x66, 0x66, 0x66, 0x66, 0x90],
    &[0x3e, 0x8d, 0x74, 0x26, 0x00],
    &[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
];
/// What stands where a static call has nothing to call and returns 0, returns at once, or should never come.
/// Since 7.3 also where it lets go of a spin lock: the byte is written without a call.
const CALLS_NOTHING: [&[u8]; 7] = [
    &[0x3e, 0x3e, 0xc6, 0x07, 0x00],
    &[0x66, 0x66, 0x48, 0x31, 0xc0],
    &[0x2e, 0x2e, 0x2e, 0x31, 0xc0],
    &[0xc3, 0xcc, 0xcc, 0xcc, 0xcc],
    &[0xc3, 0x90, 0x90, 0x90, 0x90],
    &[0x31, 0xc0, 0xc3, 0xcc, 0xcc],
    &[0x67, 0x48, 0x0f, 0xb9, 0x3a],
];

/// A rewritten place that is as it may be: how many bytes it has, and where it leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Legal {
    pub kind: PatchKind,
    pub len: usize,
    pub target: Option<u64>,
}

/// Judges what stands at a place now.
pub(super) fn judge(
    site: Site,
    start: u64,
    now: &[u8],
    ground: &dyn Fn(u64) -> Ground,
) -> Option<Legal> {
    let nop = NOPS
        .iter()
        .find(|nop| now.starts_with(nop))
        .map(|nop| nop.len());
    let branch = branch(start, now);
    let legal = |kind, len, target| Some(Legal { kind, len, target });
    let leads = |kind, branch: Branch| legal(kind, branch.len, Some(branch.target));
    match (site, branch) {
        (Site::JumpLabel { target }, Some(branch)) if branch.is_jump && branch.target == target => {
            legal(PatchKind::JumpLabel, branch.len, Some(target))
        }
        (Site::JumpLabel { .. }, None) => legal(PatchKind::JumpLabel, nop?, None),
        (Site::StaticCall { may_enter_modules }, Some(branch)) => {
            let is_known = match ground(branch.target) {
                Ground::Nowhere => false,
                Ground::Module | Ground::Traced => may_enter_modules,
                Ground::Function | Ground::Tracer | Ground::Bpf | Ground::Probe => true,
            };
            leads(PatchKind::StaticCall, branch).filter(|_| is_known)
        }
        (Site::StaticCall { .. }, None) => {
            let nothing = CALLS_NOTHING
                .iter()
                .find(|bytes| now.starts_with(bytes))
                .map(|bytes| bytes.len());
            legal(
                PatchKind::StaticCall,
                nop.filter(|len| *len >= 5).or(nothing)?,
                None,
            )
        }
        (Site::Tracing, Some(branch)) if !branch.is_jump => {
            let is_known = matches!(ground(branch.target), Ground::Tracer | Ground::Bpf);
            leads(PatchKind::Trace, branch).filter(|_| is_known)
        }
        (Site::TracerCall, Some(branch)) => {
            let is_known = matches!(
                ground(branch.target),
                Ground::Function | Ground::Traced | Ground::Tracer
            );
            leads(PatchKind::Trace, branch).filter(|_| is_known)
        }
        (Site::Tracing | Site::TracerCall, None) => {
            legal(PatchKind::Trace, nop.filter(|len| *len == 5)?, None)
        }
        (Site::Probe { is_optimized: true }, Some(branch)) if branch.is_jump && branch.len == 5 => {
            let is_known = ground(branch.target) == Ground::Probe;
            legal(PatchKind::Probe, 5, None).filter(|_| is_known)
        }
        // One byte: the rest of the instruction stays as it was, or is a difference of its own.
        (Site::Probe { .. }, _) if now.first() == Some(&0xcc) => legal(PatchKind::Probe, 1, None),
        (Site::Dispatcher, Some(branch)) => {
            let is_known = ground(branch.target) == Ground::Bpf;
            leads(PatchKind::BpfDispatcher, branch).filter(|_| is_known)
        }
        (Site::Dispatcher, None) => {
            legal(PatchKind::BpfDispatcher, nop.filter(|len| *len == 5)?, None)
        }
        _ => None,
    }
}

/// A branch to a fixed place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Branch {
    target: u64,
    len: usize,
    /// Not a call.
    is_jump: bool,
}

fn branch(start: u64, code: &[u8]) -> Option<Branch> {
    let far = |at: usize| {
        let bytes: [u8; 4] = code.get(at..at + 4)?.try_into().ok()?;
        Some((i64::from(i32::from_le_bytes(bytes)), at + 4))
    };
    let (is_jump, (distance, len)) = match *code {
        [0xe8, ..] => (false, far(1)?),
        [0xe9, ..] => (true, far(1)?),
        [0xeb, near, ..] => (true, (i64::from(near as i8), 2)),
        [0x0f, 0x80..=0x8f, ..] => (true, far(2)?),
        _ => return None,
    };
    Some(Branch {
        target: start.wrapping_add(len as u64).wrapping_add(distance as u64),
        len,
        is_jump,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: u64 = 0x1000;

    fn ground(target: u64) -> Ground {
        match target {
            0x2000 => Ground::Function,
            0x3000 => Ground::Tracer,
            0x4000 => Ground::Bpf,
            0x5000 => Ground::Probe,
            0x7000 => Ground::Module,
            0x8000 => Ground::Traced,
            _ => Ground::Nowhere,
        }
    }

    fn to(opcode: u8, target: u64) -> Vec<u8> {
        [
            &[opcode],
            (target as i64 - START as i64 - 5)
                .to_le_bytes()
                .get(..4)
                .unwrap(),
        ]
        .concat()
    }

    fn check(site: Site, now: &[u8], expected: Option<PatchKind>) {
        let kind = judge(site, START, now, &ground).map(|legal| legal.kind);
        assert_eq!(kind, expected, "{site:?} {now:02x?}");
    }

    const NOP: &[u8] = &[0x0f, 0x1f, 0x44, 0, 0];

    #[test]
    fn a_jump_label_is_on_or_off_and_leads_where_the_table_says() {
        let site = Site::JumpLabel { target: 0x2000 };
        check(site, NOP, Some(PatchKind::JumpLabel));
        check(site, &[0x66, 0x90], Some(PatchKind::JumpLabel));
        check(site, &to(0xe9, 0x2000), Some(PatchKind::JumpLabel));
        check(
            Site::JumpLabel { target: 0x1012 },
            &[0xeb, 0x10],
            Some(PatchKind::JumpLabel),
        );
        check(site, &to(0xe9, 0x2001), None);
        check(site, &to(0xe8, 0x2000), None);
        check(site, &[0xcc, 0, 0, 0, 0], None);
        check(site, &[], None);
    }

    #[test]
    fn a_static_call_leads_to_a_function() {
        let site = Site::StaticCall {
            may_enter_modules: false,
        };
        check(site, &to(0xe8, 0x7000), None);
        check(site, &to(0xe9, 0x8000), None);
        check(
            Site::StaticCall {
                may_enter_modules: true,
            },
            &to(0xe8, 0x7000),
            Some(PatchKind::StaticCall),
        );
        check(site, &to(0xe8, 0x2000), Some(PatchKind::StaticCall));
        check(site, &to(0xe9, 0x4000), Some(PatchKind::StaticCall));
        check(site, NOP, Some(PatchKind::StaticCall));
        check(
            site,
            &[0x2e, 0x2e, 0x2e, 0x31, 0xc0],
            Some(PatchKind::StaticCall),
        );
        check(
            site,
            &[0xc3, 0xcc, 0xcc, 0xcc, 0xcc],
            Some(PatchKind::StaticCall),
        );
        check(
            site,
            &[0x3e, 0x3e, 0xc6, 0x07, 0x00],
            Some(PatchKind::StaticCall),
        );
        check(site, &[0x3e, 0x3e, 0xc6, 0x07, 0x01], None);
        check(site, &to(0xe8, 0x6000), None);
        check(site, &[0x66, 0x90, 0, 0, 0], None);
    }

    #[test]
    fn a_function_calls_tracers_and_nobody_else_where_it_begins() {
        let site = Site::Tracing;
        check(site, NOP, Some(PatchKind::Trace));
        check(site, &to(0xe8, 0x3000), Some(PatchKind::Trace));
        check(site, &to(0xe8, 0x4000), Some(PatchKind::Trace));
        check(site, &to(0xe8, 0x2000), None);
        check(site, &to(0xe9, 0x3000), None);
        check(site, &to(0xe9, 0x6000), None);
        check(Site::TracerCall, &to(0xe8, 0x2000), Some(PatchKind::Trace));
        check(Site::TracerCall, &to(0xe8, 0x8000), Some(PatchKind::Trace));
        check(Site::TracerCall, &to(0xe8, 0x6000), None);
        check(Site::TracerCall, &to(0xe8, 0x7000), None);
        check(site, &to(0xe8, 0x7000), None);
        check(site, &to(0xe8, 0x8000), None);
    }

    #[test]
    fn a_probe_is_a_breakpoint_or_jumps_to_its_own_code() {
        check(
            Site::Probe {
                is_optimized: false,
            },
            &[0xcc, 0x48],
            Some(PatchKind::Probe),
        );
        check(
            Site::Probe { is_optimized: true },
            &to(0xe9, 0x5000),
            Some(PatchKind::Probe),
        );
        check(
            Site::Probe {
                is_optimized: false,
            },
            &to(0xe9, 0x5000),
            None,
        );
        check(Site::Probe { is_optimized: true }, &to(0xe9, 0x6000), None);
        check(Site::Probe { is_optimized: true }, NOP, None);
        check(
            Site::Dispatcher,
            &to(0xe9, 0x4000),
            Some(PatchKind::BpfDispatcher),
        );
        check(Site::Dispatcher, &to(0xe9, 0x2000), None);
    }
}
