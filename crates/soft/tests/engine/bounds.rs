//! What a guest can make the engine hold.

use vcpu::{Vcpu, gpr};
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
