//! Acting on a running VM from outside: another thread, a signal's thread, later the control socket.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vcpu::Kick;

/// Stops a VM or presses its power button. Cheap to clone; any thread may use it, also before and after the run.
#[derive(Clone, Default)]
pub struct MachineControl(Arc<Requests>);

#[derive(Default)]
struct Requests {
    stop: AtomicBool,
    power_button: AtomicBool,
    /// Who is to hear of requests: the attendant of the present life.
    attention: Mutex<Option<Arc<dyn Kick>>>,
}

impl fmt::Debug for MachineControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stop = self.0.stop.load(Ordering::Relaxed);
        f.debug_struct("MachineControl").field("stop", &stop).finish_non_exhaustive()
    }
}

impl MachineControl {
    /// Ends the VM at once, wherever its guest is: the run ends with [`crate::Ending::Stopped`].
    pub fn stop(&self) {
        self.0.stop.store(true, Ordering::Release);
        self.call_attention();
    }

    /// Presses the power button: a guest that listens to ACPI shuts itself down.
    pub fn press_power_button(&self) {
        self.0.power_button.store(true, Ordering::Release);
        self.call_attention();
    }

    /// Has the attendant look.
    pub(crate) fn call_attention(&self) {
        if let Some(attendant) = &*self.0.attention.lock().unwrap_or_else(PoisonError::into_inner) {
            attendant.kick();
        }
    }

    /// Has `attendant` called after every request from now on.
    pub(crate) fn set_attention(&self, attendant: Arc<dyn Kick>) {
        *self.0.attention.lock().unwrap_or_else(PoisonError::into_inner) = Some(attendant);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.0.stop.load(Ordering::Acquire)
    }

    /// Whether the power button was pressed since last asked.
    pub(crate) fn take_power_button(&self) -> bool {
        self.0.power_button.load(Ordering::Relaxed) && self.0.power_button.swap(false, Ordering::AcqRel)
    }
}
