//! What firmware would do on a real machine: the registers that it sets on every processor before it hands over, where
//! processors start that are called, and the number by which a machine is told from others.

use devices::generation::Generation;
use rustix::rand::{GetRandomFlags, getrandom};
use vcpu::VcpuState;
use x86::{Segment, Vector};

use crate::threads::time::GuestTime;

/// MTRR default type: enabled, fixed ranges enabled, write-back (SDM vol. 3, 12.11.2.1), as firmware leaves it.
const MTRR_WRITE_BACK: u64 = 1 << 11 | 1 << 10 | 6;

/// Where a vCPU starts that got SIPI with this page.
pub(crate) fn sipi_state(page: Vector, time: &GuestTime) -> VcpuState {
    let mut state = VcpuState {
        rip: 0,
        ..VcpuState::reset()
    };
    state.cs = Segment::real(u16::from(page) << 8, 0x9b);
    set_firmware_msrs(&mut state, time);
    state
}

/// A generation that no machine had before.
pub(super) fn fresh_generation() -> Generation {
    let mut bytes = [0; 24];
    // So few bytes come at once or, on a host that has no random numbers at all, not (getrandom(2)).
    if getrandom(&mut bytes[..], GetRandomFlags::empty()).is_err() {
        tracing::warn!(
            "this host has no random bytes: the guest is not told that it is another machine"
        );
    }
    let (id, marker) = bytes.split_at(16);
    Generation {
        id: id.try_into().unwrap_or_default(),
        marker: u64::from_le_bytes(marker.try_into().unwrap_or_default()),
    }
}

/// The MSRs that firmware sets on every processor before it hands over, and the guest's own time.
pub(super) fn set_firmware_msrs(state: &mut VcpuState, time: &GuestTime) {
    state.msrs.tsc_offset = time.tsc_offset();
    state.msrs.mtrr_def_type = MTRR_WRITE_BACK;
}
