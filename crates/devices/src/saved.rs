//! What a device is at a moment, as a plain value: the ground of snapshots, and of a VM that changes its process.
//!
//! A device is three things: what the guest has made of it (its *state*), what it is connected to (interrupt lines,
//! events, the console, a disk), and what was counted for reports. Only the first can be written down, so each device
//! keeps it in a type of its own that is `Clone`, `PartialEq` and `serde`, and [`Saved`] gives it and takes it back.
//! The connections are made by assembling a machine as for a start; then the states are put into its devices.
//!
//! ```text
//! plan ──assemble──> machine as after reset ──restore(state)──> the machine that was saved
//! ```
//!
//! Rules:
//! - The states of a board are of one moment: they are taken while no vCPU runs and no queue is worked on.
//! - Putting a state back has no effect on anything else: no line moves, no message is sent, no byte is taken from
//!   the console. What the lines were is a state of its own ([`crate::irq::IrqLines`]), so that an interrupt that the
//!   guest has had already is not sent again.
//! - A state may come from a file that anybody wrote. [`Saved::restore`] refuses what no guest could have brought
//!   about and the device's own code does not expect ([`Unfit`]); it never panics, and a device that refused is as it
//!   was before.
//! - All times are guest time ([`crate::clock::Nanos`]): whoever restores a board gives it a clock that goes on there.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// A part of the machine that can be written down and brought back.
pub trait Saved {
    /// What it is at a moment, apart from its connections and counters.
    type State: Clone + PartialEq + Debug + Serialize + DeserializeOwned;

    /// What it is now.
    fn save(&self) -> Self::State;

    /// Becomes what `state` says.
    ///
    /// # Errors
    /// [`Unfit`] for a state that this device cannot have; then nothing has changed.
    fn restore(&mut self, state: Self::State) -> Result<(), Unfit>;
}

/// A state that a device cannot have: it was damaged, or made for another machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("the saved state of the {device} cannot be: {what}")]
pub struct Unfit {
    /// Which device.
    pub device: &'static str,
    /// What about it.
    pub what: &'static str,
}

/// Refuses a state of `device` unless `is_fit`.
///
/// # Errors
/// [`Unfit`] with these words.
pub(crate) fn ensure(is_fit: bool, device: &'static str, what: &'static str) -> Result<(), Unfit> {
    if is_fit {
        Ok(())
    } else {
        Err(Unfit { device, what })
    }
}

/// Arrays of more than 32 bytes, which `serde` does not know by itself.
pub(crate) mod bytes {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// As a sequence of numbers.
    pub(crate) fn serialize<S: Serializer, const N: usize>(
        bytes: &[u8; N],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        bytes.as_slice().serialize(serializer)
    }

    /// From exactly so many.
    pub(crate) fn deserialize<'de, D: Deserializer<'de>, const N: usize>(
        deserializer: D,
    ) -> Result<[u8; N], D::Error> {
        let bytes = Vec::deserialize(deserializer)?;
        bytes
            .try_into()
            .map_err(|bytes: Vec<u8>| Error::invalid_length(bytes.len(), &"another length"))
    }
}

/// Checks that tests of devices share.
#[cfg(test)]
pub(crate) mod proof {
    use super::*;

    /// The state of `old`, written to text and read, put into `new`, which must be the same again; from there on both
    /// must answer each of `steps` alike and end alike.
    pub(crate) fn check_goes_on<D: Saved, A: PartialEq + Debug>(
        old: &mut D,
        new: &mut D,
        steps: impl Iterator<Item = u64>,
        mut step: impl FnMut(&mut D, u64) -> A,
    ) {
        let state = old.save();
        let text = serde_json::to_string(&state).unwrap();
        new.restore(serde_json::from_str(&text).unwrap()).unwrap();
        assert_eq!(new.save(), state, "what comes back is what was saved");
        for (number, word) in steps.enumerate() {
            let expected = step(old, word);
            let found = step(new, word);
            assert_eq!(found, expected, "step {number}: {word:#x}");
        }
        assert_eq!(new.save(), old.save(), "after all steps");
    }
}
