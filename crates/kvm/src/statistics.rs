//! What KVM counts of a vCPU: its own statistics, read from the descriptor that it gives for them.
//!
//! The descriptor says what there is (names, where each value lies), so we look up the few we show, once
//! (Linux Documentation/virt/kvm/api.rst, 4.132).

use host::at::FileAt;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};

use vcpu::{EngineStatistics, Unit};

/// `KVM_GET_STATS_FD` (`linux/kvm.h`).
const GET_STATS_FD: libc::c_ulong = 0xaece;
/// Bytes of the header and of a description without its name.
const HEADER_BYTES: usize = 24;
const DESCRIPTION_BYTES: usize = 16;
/// More than any kernel has.
const MOST_DESCRIPTIONS: usize = 1024;

/// Ours and KVM's names.
const SHOWN: [(&str, &str); 12] = [
    ("hardware exits", "exits"),
    ("I/O exits", "io_exits"),
    ("MMIO exits", "mmio_exits"),
    ("halts in KVM", "halt_exits"),
    ("wake-ups in KVM", "halt_wakeup"),
    ("signal exits", "signal_exits"),
    ("host interrupts", "irq_exits"),
    ("interrupt windows", "irq_window_exits"),
    ("injected interrupts", "irq_injections"),
    ("emulations", "insn_emulation"),
    ("memory faults", "pf_taken"),
    ("TLB flushes", "tlb_flush"),
];

/// The statistics of one vCPU.
pub(crate) struct Statistics {
    file: File,
    /// What is shown and where its value lies.
    values: Vec<(&'static str, u64)>,
}

impl Statistics {
    /// Opens those of the vCPU `fd`.
    pub(crate) fn open(fd: &impl AsRawFd) -> io::Result<Statistics> {
        // SAFETY: the descriptor is an open vCPU, and the call takes no argument.
        let stats = unsafe { libc::ioctl(fd.as_raw_fd(), GET_STATS_FD, 0) };
        if stats < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given us this descriptor and nobody else owns it.
        let file = unsafe { File::from_raw_fd(stats) };
        let mut header = [0; HEADER_BYTES];
        file.read_exact_at(&mut header, 0)?;
        let word = |bytes: &[u8], at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let name_bytes = word(&header, 4) as usize;
        let count = (word(&header, 8) as usize).min(MOST_DESCRIPTIONS);
        let descriptions_at = u64::from(word(&header, 16));
        let data_at = u64::from(word(&header, 20));
        let each = DESCRIPTION_BYTES + name_bytes;
        let mut descriptions = vec![0; count * each];
        file.read_exact_at(&mut descriptions, descriptions_at)?;
        let mut values = Vec::new();
        for (shown, name) in SHOWN {
            let found = descriptions.chunks_exact(each).find(|description| {
                let text = &description[DESCRIPTION_BYTES..];
                text.split(|byte| *byte == 0).next() == Some(name.as_bytes())
            });
            if let Some(description) = found {
                values.push((shown, data_at + u64::from(word(description, 8))));
            }
        }
        Ok(Statistics { file, values })
    }

    pub(crate) fn read(&self) -> EngineStatistics {
        let mut list = Vec::new();
        for &(name, at) in &self.values {
            let mut bytes = [0; 8];
            if self.file.read_exact_at(&mut bytes, at).is_ok() {
                list.push((name, Unit::Count, u64::from_le_bytes(bytes)));
            }
        }
        EngineStatistics(list)
    }
}
