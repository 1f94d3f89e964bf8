//! How often guest code stopped, by kind.

use std::ops::{AddAssign, Index};

use vcpu::Exit;

/// Why guest code stopped: the kinds of [`Exit`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExitKind {
    /// IN.
    PioRead,
    /// OUT.
    PioWrite,
    /// Loads from the board.
    MmioRead,
    /// Stores to the board.
    MmioWrite,
    /// RDMSR that the machine answers.
    MsrRead,
    /// WRMSR that the machine answers.
    MsrWrite,
    /// HLT.
    Halt,
    /// Interrupt windows.
    InterruptWindow,
    /// Kicks from other threads.
    Kicked,
    /// Ends of level-triggered interrupts, where the engine has the local APICs.
    EndOfInterrupt,
    /// Triple faults.
    TripleFault,
    /// What the engine could not carry out.
    Unrunnable,
}

impl ExitKind {
    /// Every kind, in the order to be shown, with its name.
    pub const ALL: [(ExitKind, &str); 12] = [
        (ExitKind::PioRead, "pio read"),
        (ExitKind::PioWrite, "pio write"),
        (ExitKind::MmioRead, "mmio read"),
        (ExitKind::MmioWrite, "mmio write"),
        (ExitKind::MsrRead, "msr read"),
        (ExitKind::MsrWrite, "msr write"),
        (ExitKind::Halt, "halt"),
        (ExitKind::InterruptWindow, "interrupt window"),
        (ExitKind::Kicked, "kicked"),
        (ExitKind::EndOfInterrupt, "end of interrupt"),
        (ExitKind::TripleFault, "triple fault"),
        (ExitKind::Unrunnable, "unrunnable"),
    ];

    /// The kind of `exit`.
    pub(crate) fn of(exit: &Exit) -> ExitKind {
        match exit {
            Exit::PioRead { .. } => ExitKind::PioRead,
            Exit::PioWrite { .. } => ExitKind::PioWrite,
            Exit::MmioRead { .. } => ExitKind::MmioRead,
            Exit::MmioWrite { .. } => ExitKind::MmioWrite,
            Exit::MsrRead { .. } | Exit::TaskPriorityRead => ExitKind::MsrRead,
            Exit::MsrWrite { .. } | Exit::TaskPriorityWrite { .. } => ExitKind::MsrWrite,
            Exit::Halt => ExitKind::Halt,
            Exit::InterruptWindow => ExitKind::InterruptWindow,
            Exit::Kicked => ExitKind::Kicked,
            Exit::EndOfInterrupt { .. } => ExitKind::EndOfInterrupt,
            Exit::TripleFault(_) => ExitKind::TripleFault,
            Exit::Unrunnable(_) => ExitKind::Unrunnable,
        }
    }
}

/// A number for each [`ExitKind`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ExitCounts(pub(crate) [u64; ExitKind::ALL.len()]);

impl ExitCounts {
    /// Counts one more.
    pub(crate) fn count(&mut self, kind: ExitKind) {
        self.0[kind as usize] += 1;
    }

    /// Every kind's name and count, in the order to be shown.
    pub fn by_kind(&self) -> [(&'static str, u64); ExitKind::ALL.len()] {
        ExitKind::ALL.map(|(kind, name)| (name, self[kind]))
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

impl Index<ExitKind> for ExitCounts {
    type Output = u64;

    fn index(&self, kind: ExitKind) -> &u64 {
        &self.0[kind as usize]
    }
}

impl AddAssign for ExitCounts {
    fn add_assign(&mut self, more: ExitCounts) {
        for (sum, more) in self.0.iter_mut().zip(more.0) {
            *sum += more;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_place_and_its_name() {
        let mut counts = ExitCounts::default();
        for (n, (kind, _)) in ExitKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, n);
            (0..=n).for_each(|_| counts.count(kind));
        }
        counts += counts;
        let shown = counts.by_kind();
        for (n, (_, name)) in ExitKind::ALL.into_iter().enumerate() {
            assert_eq!(shown[n], (name, 2 * (n as u64 + 1)));
        }
        assert_eq!(counts.total(), 2 * 78);
        assert_eq!(counts[ExitKind::Halt], 14);
    }
}
