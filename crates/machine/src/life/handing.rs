//! vCPUs from one engine to another, and from a file to an engine: their states laid down, their local APICs carried between
//! engine and board.

use devices::{Board, Startup};
use vcpu::{Engine, EngineError, VcpuState};

use crate::life::Life;
use crate::life::firmware::sipi_state;
use crate::outcome::refusal::SwitchError;
use crate::outcome::rest::Rest;
use crate::threads::exchange::Table;
use crate::threads::time::GuestTime;

/// The state of each vCPU of `life`, which is paused.
pub(crate) fn states(life: &Life) -> Result<Vec<VcpuState>, SwitchError> {
    let empty = (0..life.cpuid.len()).map(|_| None).collect();
    let is_over = || life.is_over();
    match life.exchange.put(Table::States(empty), &life.gate, is_over) {
        Some(Table::States(states)) => Ok(states.into_iter().flatten().collect()),
        _ if life.is_over() => Err(SwitchError::Ended),
        _ => Err(SwitchError::TimedOut),
    }
}

/// Gives `states` to the vCPUs of `engine`, which has not run.
fn set_all(engine: &mut Engine, states: &[VcpuState]) -> Result<(), EngineError> {
    engine
        .vcpus
        .iter_mut()
        .zip(states)
        .try_for_each(|(vcpu, state)| vcpu.set_state(state))
}

/// Carries the local APICs between engine and board, and gives the vCPUs their final states.
pub(crate) fn hand_over(
    board: &mut Board,
    time: &GuestTime,
    engine: &mut Engine,
    mut states: Vec<VcpuState>,
) -> Result<Vec<Rest>, EngineError> {
    let now = time.now();
    for (vcpu_id, state) in (0..).zip(&mut states) {
        if state.local_apic.is_none() {
            take_signals(board, vcpu_id, state, time);
        }
        // The controllers have given that interrupt away and ring for it no more.
        state.halted = state.stays_halted();
        if state.local_apic.is_none() {
            state.local_apic = board.apic_state(vcpu_id, now);
        }
        if let Some(apic) = &state.local_apic {
            board.set_apic_state(vcpu_id, apic, now);
            board.set_tsc_adjust(vcpu_id, now, state.msrs.tsc_adjust);
        }
    }
    board.set_apics(engine.local_apics.clone());
    board.set_wires(engine.wires.clone());
    set_all(engine, &states)?;
    let has_apics = engine.local_apics.is_some();
    let rest = |state: &VcpuState| match () {
        () if has_apics => Rest::None,
        () if state.waits_for_sipi => Rest::WaitsForSipi,
        () if state.halted => Rest::Halted,
        () => Rest::None,
    };
    Ok(states.iter().map(rest).collect())
}

/// Signals that wait in the board's APIC and are not among its registers.
fn take_signals(board: &mut Board, vcpu_id: u32, state: &mut VcpuState, time: &GuestTime) {
    while let Some(startup) = board.take_startup(vcpu_id) {
        match startup {
            Startup::Init => state.waits_for_sipi = true,
            Startup::Sipi(page) if state.waits_for_sipi => *state = sipi_state(page, time),
            Startup::Sipi(_) => {}
        }
    }
    if board.take_nmi(vcpu_id) {
        state.nmi_pending = true;
    }
}
