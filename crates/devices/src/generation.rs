//! The generation of a machine: 128 bits that are others whenever it goes on from a moment that it may have gone on from
//! before ("Virtual Machine Generation ID", Microsoft 2012).
//!
//! A kernel that looks at them mixes them into its random numbers as soon as it is told of a change, so that two machines
//! that were one do not deal the same numbers. They lie in a page of memory that the guest is told not to use; the DSDT says
//! where, and a general-purpose event says when to look (`acpi::dsdt`, `pm`). Linux has the driver from 5.18 on, where it was
//! built.

use mem::GuestMemory;

use crate::{layout, vmclock};

/// Bytes of the number.
const BYTES: usize = 16;

/// The numbers of a generation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Generation {
    /// What goes into the guest's random numbers: for its kernel alone.
    pub id: [u8; BYTES],
    /// What the guest's programs see of it ([`crate::vmclock`]): a number of its own, that does not tell the other one.
    pub marker: u64,
}

impl Generation {
    /// Writes them where the guest looks.
    pub fn write(&self, memory: &GuestMemory) {
        // A machine too small for the place has no such number.
        let _ = memory.write(layout::GENERATION, &self.id);
        vmclock::write(memory, self.marker);
    }
}
