//! States that a vCPU starts from, as the manuals have them, and what the contract does by itself.

use std::io;

use x86::{Cr0, Cr4, Efer, Rflags};

use super::*;

/// The manual's rules for a state that a processor can be in (SDM vol. 3, 26.3.1; APM vol. 2, 15.5.1).
fn check_possible(name: &str, state: &VcpuState) {
    let has = |flag| state.cr0.contains(flag);
    assert!(!has(Cr0::PG) || has(Cr0::PE), "{name}: paging needs PE");
    assert!(
        !has(Cr0::NW) || has(Cr0::CD),
        "{name}: NW without CD is #GP"
    );
    let is_long = has(Cr0::PG) && state.efer.contains(Efer::LME);
    assert_eq!(
        state.efer.contains(Efer::LMA),
        is_long,
        "{name}: LMA is LME with paging"
    );
    assert!(
        !is_long || state.cr4.contains(Cr4::PAE),
        "{name}: long mode needs PAE"
    );
    assert!(
        state.rflags.contains(Rflags::ONE),
        "{name}: bit 1 of RFLAGS is always one"
    );
    assert_eq!(state.xcr0 & 1, 1, "{name}: x87 is always on in XCR0");
    assert_eq!(
        state.debug.dr6 & !0xe00f,
        0xffff_0ff0,
        "{name}: DR6's fixed bits"
    );
    assert_eq!(
        state.debug.dr7 & 0x400,
        0x400,
        "{name}: bit 10 of DR7 is always one"
    );
    // Eight types of memory, none of them reserved (SDM vol. 3, table 13-10).
    for kind in state.msrs.pat.to_le_bytes() {
        assert!(
            [0, 1, 4, 5, 6, 7].contains(&kind),
            "{name}: PAT has type {kind}"
        );
    }
    let tss = state.tr.attributes & 0xf;
    assert!(
        [3, 0xb].contains(&tss),
        "{name}: TR holds a busy TSS, not type {tss:#x}"
    );
    assert_eq!(state.ldtr.attributes & 0x1f, 2, "{name}: LDTR holds an LDT");
    assert_eq!(state.cpl(), 0, "{name}: ring 0");
}

#[test]
fn every_state_to_start_from_is_one_that_a_processor_can_be_in() {
    check_possible("reset", &VcpuState::reset());
    check_possible("long mode", &VcpuState::long_mode(0x9000));
    check_possible("protected mode", &VcpuState::protected_mode());
}

#[test]
fn reset_begins_sixteen_bytes_below_four_gigabytes() {
    let state = VcpuState::reset();
    assert_eq!(state.cs.base + state.rip, 0xffff_fff0);
    assert_eq!(state.cs.selector, 0xf000);
    let data = [state.ds, state.es, state.fs, state.gs, state.ss];
    for segment in data {
        assert_eq!(
            (segment.selector, segment.base, segment.limit),
            (0, 0, 0xffff)
        );
    }
    assert_eq!(state.rflags, Rflags::ONE, "interrupts are off");
    assert_eq!(state.cr0, Cr0::ET | Cr0::NW | Cr0::CD);
    assert_eq!((state.gdtr.limit, state.idtr.limit), (0xffff, 0xffff));
}

#[test]
fn floating_point_begins_as_after_fninit_with_all_exceptions_masked() {
    let xsave = VcpuState::reset().xsave;
    let word = |at: usize| u16::from_le_bytes([xsave[at], xsave[at + 1]]);
    assert_eq!(word(0), 0x37f, "FCW");
    assert_eq!(word(2), 0, "FSW");
    assert_eq!(
        u32::from(word(24)) | u32::from(word(26)) << 16,
        0x1f80,
        "MXCSR"
    );
    // No component is in use: restoring this gives each its initial values (SDM vol. 1, 13.6).
    assert!(xsave[512..576].iter().all(|byte| *byte == 0), "XSTATE_BV");
}

#[test]
fn modes_differ_from_reset_in_what_makes_the_mode_alone() {
    let mut long = VcpuState::long_mode(0x1234_5000);
    assert_eq!(long.cr3, 0x1234_5000);
    assert!(long.cs.attributes & 0x2000 != 0, "64-bit code");
    assert!(
        long.cs.attributes & 0x4000 == 0,
        "and so not 32-bit by default"
    );
    let mut protected = VcpuState::protected_mode();
    assert!(protected.cs.attributes & 0x6000 == 0x4000, "32-bit code");
    assert_eq!((protected.cs.base, protected.cs.limit), (0, 0xffff_ffff));
    let reset = VcpuState::reset();
    for state in [&mut long, &mut protected] {
        let segments = |from: &VcpuState| {
            [
                from.cs, from.ds, from.es, from.fs, from.gs, from.ss, from.tr,
            ]
        };
        assert_ne!(segments(state), segments(&reset));
        state.cs = reset.cs;
        state.tr = reset.tr;
        for segment in [
            &mut state.ds,
            &mut state.es,
            &mut state.fs,
            &mut state.gs,
            &mut state.ss,
        ] {
            *segment = reset.ds;
        }
        state.rip = reset.rip;
        state.cr0 = reset.cr0;
        state.cr3 = reset.cr3;
        state.cr4 = reset.cr4;
        state.efer = reset.efer;
        assert_eq!(*state, reset);
    }
}

#[test]
fn the_privilege_level_is_the_stack_segments() {
    let check = |ss: u16, cs: u16, expected| {
        let mut state = VcpuState::protected_mode();
        state.ss.attributes = state.ss.attributes & !0x60 | ss << 5;
        state.cs.attributes = state.cs.attributes & !0x60 | cs << 5;
        assert_eq!(state.cpl(), expected);
    };
    check(0, 0, 0);
    check(3, 3, 3);
    // Conforming code of ring 0 that ring 3 has called stays in ring 3.
    check(3, 0, 3);
}

/// A vCPU that is nothing but its state.
struct Kept {
    state: VcpuState,
    refuses: bool,
}

impl Vcpu for Kept {
    fn run(&mut self, _: Reply) -> Result<Exit, EngineError> {
        Ok(Exit::Halt)
    }

    fn can_inject(&self) -> bool {
        false
    }

    fn inject(&mut self, _: Injection) {}

    fn set_interrupt_window(&mut self, _: bool) {}

    fn state(&mut self) -> Result<VcpuState, EngineError> {
        Ok(self.state.clone())
    }

    fn set_state(&mut self, state: &VcpuState) -> Result<(), EngineError> {
        if self.refuses {
            return Err(EngineError::State("nothing is right"));
        }
        self.state = state.clone();
        Ok(())
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        struct Deaf;
        impl Kick for Deaf {
            fn kick(&self) {}
        }
        Arc::new(Deaf)
    }

    fn statistics(&self) -> EngineStatistics {
        EngineStatistics::default()
    }
}

#[test]
fn time_that_a_guest_did_not_run_is_taken_from_its_tsc_and_from_nothing_else() {
    let check = |offset: u64, ticks, expected| {
        let mut vcpu = Kept {
            state: VcpuState::long_mode(0x1000),
            refuses: false,
        };
        vcpu.state.msrs.tsc_offset = offset;
        vcpu.state.msrs.tsc_adjust = 77;
        let mut before = vcpu.state.clone();
        vcpu.hold_tsc_back(ticks).unwrap();
        assert_eq!(vcpu.state.msrs.tsc_offset, expected);
        before.msrs.tsc_offset = expected;
        assert_eq!(vcpu.state, before);
    };
    check(1000, 300, 700);
    check(1000, 0, 1000);
    // A guest whose TSC began at zero is behind its host: the distance is negative.
    check(5, 6, u64::MAX);
    check(0, u64::MAX, 1);
}

#[test]
fn an_engine_that_refuses_a_state_says_so_and_keeps_the_old_one() {
    let mut vcpu = Kept {
        state: VcpuState::reset(),
        refuses: true,
    };
    let error = vcpu.hold_tsc_back(1).unwrap_err();
    assert_eq!(
        error.to_string(),
        "vCPU state is impossible: nothing is right"
    );
    assert_eq!(vcpu.state, VcpuState::reset());
}

#[test]
fn what_the_host_said_is_behind_what_the_engine_was_doing() {
    let source = io::Error::from_raw_os_error(12);
    let said = source.to_string();
    let error = EngineError::Host {
        what: "cannot make a vCPU",
        source,
    };
    assert_eq!(
        error.to_string(),
        "cannot make a vCPU",
        "the cause is not told twice"
    );
    let cause = std::error::Error::source(&error).map(ToString::to_string);
    assert_eq!(cause, Some(said));
}

#[test]
fn numbers_are_found_by_their_whole_names() {
    let list = [
        ("page_ins", Unit::Count, 1),
        ("page_ins_late", Unit::SharedCount, 2),
        ("code_bytes", Unit::SharedBytes, 0),
    ];
    let statistics = EngineStatistics(list.to_vec());
    assert_eq!(statistics.get("page_ins"), Some(1));
    assert_eq!(statistics.get("page_ins_late"), Some(2));
    assert_eq!(statistics.get("code_bytes"), Some(0), "zero is a number");
    assert_eq!(statistics.get("page"), None);
    assert_eq!(EngineStatistics::default().get("page_ins"), None);
}

#[test]
fn an_exit_that_asks_for_nothing_is_answered_by_default() {
    assert_eq!(Reply::default(), Reply::Done);
}
