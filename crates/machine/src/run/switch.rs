//! How a guest changes its engine while it lives.
//!
//! The VM is paused: every vCPU's thread stands outside the gate, between two instructions. Each lays the whole state of
//! its vCPU down (`exchange`); the attendant makes vCPUs on the other engine from them, on the same memory and the
//! same board, and each thread takes its new one. Then the VM goes on. Until states are final nothing has changed, so an
//! engine that cannot be made, or refuses a state, costs the guest nothing but the pause.

use std::io;

use vcpu::{Engine, EngineError, VcpuState};
use x86::{CpuidTable, cpu_model};

use crate::engine::EngineKind;
use crate::life::handing::{hand_over, states};
use crate::life::{Life, VcpuMaker};
use crate::outcome::refusal::SwitchError;
use crate::paging::Paging;
use crate::threads::exchange::Table;

/// Moves the guest of `life`, which is paused, from the engine `before` to the engine `kind`.
pub(crate) fn switch(
    life: &Life,
    before: EngineKind,
    kind: EngineKind,
    maker: &VcpuMaker,
    paging: &Paging,
) -> Result<(), SwitchError> {
    let refused = |error: io::Error| SwitchError::Paging(error.to_string());
    paging.serve(kind).map_err(refused)?;
    let switched = take_over(life, kind, maker);
    if switched.is_err()
        && let Err(error) = paging.serve(before)
    {
        tracing::warn!("the guest's memory is not paged any more: {error}");
    }
    switched
}

fn take_over(life: &Life, kind: EngineKind, maker: &VcpuMaker) -> Result<(), SwitchError> {
    if kind == EngineKind::Kvm {
        check_features(life, maker.limit.as_ref())?;
    }
    let states = states(life)?;
    let refused = |source| SwitchError::Engine { kind, source };
    let mut engine = (maker.make)(kind, &life.memory, life.cpuid.clone()).map_err(refused)?;
    // First only to see whether they are taken: what follows cannot be undone.
    set_all(&mut engine, &states).map_err(refused)?;
    let rests = hand_over(&mut life.room().board, &life.time, &mut engine, states);
    let rests = rests.map_err(refused)?;
    for (bell, vcpu) in life.bells.all().iter().zip(&engine.vcpus) {
        bell.set_kicker(vcpu.kicker());
    }
    life.engine_limit.serve(engine.memory.as_ref());
    let vcpus = engine.vcpus.into_iter().zip(rests).map(Some).collect();
    match life
        .exchange
        .put(Table::Vcpus(vcpus), &life.gate, || life.is_over())
    {
        Some(_) => Ok(()),
        None => Err(SwitchError::Ended),
    }
}

/// The guest may use whatever its CPUID shows.
fn check_features(life: &Life, limit: Option<&CpuidTable>) -> Result<(), SwitchError> {
    let Some(limit) = limit else {
        return Ok(());
    };
    let fits = life.cpuid.iter().all(|table| {
        let mut narrowed = table.clone();
        cpu_model::narrow(&mut narrowed, limit);
        narrowed == *table
    });
    if fits {
        Ok(())
    } else {
        Err(SwitchError::Features)
    }
}

fn set_all(engine: &mut Engine, states: &[VcpuState]) -> Result<(), EngineError> {
    engine
        .vcpus
        .iter_mut()
        .zip(states)
        .try_for_each(|(vcpu, state)| vcpu.set_state(state))
}
