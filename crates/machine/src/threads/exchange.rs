//! The table over which vCPUs change their engine (`switch`): each vCPU's thread, outside the gate in a pause, lays the
//! state of its vCPU down, and takes another vCPU in its place.

use std::sync::MutexGuard;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use host::lock::{Condition, Lock};
use vcpu::{EngineError, Vcpu, VcpuState};

use crate::outcome::rest::Rest;
use crate::threads::gate::Gate;

/// How long threads may take to come to the table; they are outside already.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) enum Table {
    Empty,
    /// Each vCPU's state, as far as it was laid down.
    States(Vec<Option<VcpuState>>),
    /// Each vCPU's new self, as far as it was not taken.
    Vcpus(Vec<Option<(Box<dyn Vcpu>, Rest)>>),
}

/// Where it happens.
pub(crate) struct Exchange {
    is_open: AtomicBool,
    table: Lock<Table>,
    changed: Condition,
}

impl Default for Exchange {
    fn default() -> Exchange {
        Exchange {
            is_open: AtomicBool::new(false),
            table: Lock::new(Table::Empty),
            changed: Condition::new(),
        }
    }
}

impl Exchange {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock()
    }

    /// A vCPU's thread, outside the gate: lays its state down, or takes its new self, of which the old one is returned.
    pub(crate) fn take_part(
        &self,
        vcpu_id: u32,
        vcpu: &mut Box<dyn Vcpu>,
        rest: &mut Rest,
    ) -> Result<Option<Box<dyn Vcpu>>, EngineError> {
        if !self.is_open.load(Ordering::Acquire) {
            return Ok(None);
        }
        let mut old = None;
        match &mut *self.table() {
            Table::Empty => {}
            Table::States(states) => {
                let place = &mut states[vcpu_id as usize];
                if place.is_none() {
                    let mut state = vcpu.state()?;
                    state.halted |= *rest == Rest::Halted;
                    state.waits_for_sipi |= *rest == Rest::WaitsForSipi;
                    *place = Some(state);
                }
            }
            Table::Vcpus(vcpus) => {
                if let Some((new, its_rest)) = vcpus[vcpu_id as usize].take() {
                    old = Some(std::mem::replace(vcpu, new));
                    *rest = its_rest;
                }
            }
        }
        self.changed.notify_all();
        Ok(old)
    }

    /// Puts `table` up and waits until every thread has done with it what it should.
    pub(crate) fn put(
        &self,
        table: Table,
        gate: &Gate,
        is_over: impl Fn() -> bool,
    ) -> Option<Table> {
        *self.table() = table;
        self.is_open.store(true, Ordering::Release);
        gate.call();
        let deadline = Instant::now() + PATIENCE;
        let is_done = |table: &Table| match table {
            Table::Empty => true,
            Table::States(states) => states.iter().all(Option::is_some),
            Table::Vcpus(vcpus) => vcpus.iter().all(Option::is_none),
        };
        let mut table = self.table();
        while !is_done(&table) && Instant::now() < deadline && !is_over() {
            // Looked at again soon: a life may be over without anybody saying so here.
            let wait = Duration::from_millis(100);
            table = self.changed.wait_timeout(table, wait).0;
        }
        self.is_open.store(false, Ordering::Release);
        let table = std::mem::replace(&mut *table, Table::Empty);
        is_done(&table).then_some(table)
    }
}
