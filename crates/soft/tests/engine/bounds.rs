//! What a guest can make the engine hold, and what the engine holds under a limit.

use soft::{Config, least_bytes};
use vcpu::{EngineMemory, Vcpu, gpr};
use x86::{Cr4, Rflags};

use crate::machine::{Machine, Met};

/// Every kind of code mode in many address spaces: what a guest kernel reaches by loading CR3, CR4 and RFLAGS.
#[test]
fn tables_of_address_spaces_and_modes_are_bounded() {
    let mut machine = Machine::new(1);
    // mov eax, [rbx]; mov [rbx], eax; hlt
    let start = machine.start(b"\x8b\x03\x89\x03\xf4");
    for pcid in 0..64 {
        for (sse, ac, tf) in [
            (true, false, false),
            (false, false, false),
            (true, true, false),
            (false, true, true),
        ] {
            let mut state = start.clone();
            state.cr3 |= pcid;
            state.cr4 |= Cr4::PCIDE | Cr4::SMAP;
            state.cr4.set(Cr4::OSFXSR, sse);
            state.rflags.set(Rflags::AC, ac);
            state.rflags.set(Rflags::TF, tf);
            state.gprs[gpr::RBX] = 0x30_0000;
            machine.vcpus[0].set_state(&state).unwrap();
            let met = machine.run(0);
            // With TF the first instruction traps.
            assert!(matches!(met, Met::Halt | Met::Vector(1, ..)), "{met:?}");
        }
    }
    let bytes = machine.vcpus[0].statistics().get("software TLBs").unwrap();
    assert!(bytes <= 17 << 20, "{bytes} bytes for one vCPU");
}

/// Much code, run twice over: blocks that each add to RAX and store and load across a page's end.
fn much_code(block_count: usize) -> Vec<u8> {
    let mut code = Vec::new();
    for _ in 0..block_count {
        // inc rax; mov [rbx + 0xffc], rax; add rdx, [rbx + 0xffc]; jmp +1; nop
        code.extend_from_slice(
            b"\x48\xff\xc0\x48\x89\x83\xfc\x0f\0\0\x48\x03\x93\xfc\x0f\0\0\xeb\x01\x90",
        );
    }
    // dec rcx; jnz start; hlt
    code.extend_from_slice(b"\x48\xff\xc9\x0f\x85");
    code.extend_from_slice(&(-(code.len() as i32 + 4)).to_le_bytes());
    code.push(0xf4);
    code
}

/// Runs it under these limits, one after another: the sum is right, and no more is held than may be.
#[test]
fn under_a_limit_a_guest_computes_the_same_and_no_more_is_held() {
    const BLOCKS: usize = 40_000;
    let code = much_code(BLOCKS);
    let engine_of = |machine: &Machine| machine.engine.clone() as std::sync::Arc<dyn EngineMemory>;
    let mut machine = Machine::with(1, Config::default());
    let engine = engine_of(&machine);
    let start = machine.start(&code);
    let mut unlimited = 0;
    for limit in [
        None,
        Some(least_bytes(1)),
        Some(12 << 20),
        Some(20 << 20),
        None,
    ] {
        engine.set_limit(limit);
        machine.vcpus[0].keep_memory_limit();
        let held = engine.held_bytes();
        assert!(
            limit.is_none_or(|limit| held <= limit),
            "{held} of {limit:?} before it runs"
        );
        let mut state = start.clone();
        state.gprs[gpr::RBX] = 0x30_0000;
        state.gprs[gpr::RCX] = 2;
        machine.vcpus[0].set_state(&state).unwrap();
        assert_eq!(machine.run(0), Met::Halt, "{limit:?}");
        let state = machine.vcpus[0].state().unwrap();
        let count = 2 * BLOCKS as u64;
        assert_eq!(state.gprs[gpr::RDX], count * (count + 1) / 2, "{limit:?}");
        let held = engine.held_bytes();
        match limit {
            None => unlimited = held,
            Some(limit) => {
                assert!(held <= limit, "{held} of {limit}");
            }
        }
        let statistics = machine.vcpus[0].statistics();
        let parts = ["code cache", "translation tables", "software TLBs"];
        let sum: u64 = parts.map(|part| statistics.get(part).unwrap()).iter().sum();
        assert!(
            sum <= held && held - sum < 1 << 20,
            "{sum} by parts, {held} in all"
        );
    }
    assert!(unlimited > 20 << 20, "{unlimited}: no limit was in the way");
    assert!(
        machine.vcpus[0]
            .statistics()
            .get("code cache clears")
            .unwrap()
            > 3
    );
}
