//! One vCPU on KVM: guest code in, exit out.
//!
//! KVM leaves an instruction that needs the machine half done and finishes it when it is called again, so an
//! [`Exit`] that wants an answer is at the instruction, and everything else, kicks above all, is between two.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use kvm_bindings::{KVMIO, kvm_interrupt};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};
use mem::GuestMemory;
use vcpu::{
    EngineError, EngineStatistics, Exit, Injection, Kick, Probes, Reply, TripleFault, Unit,
    Unrunnable, Vcpu, VcpuState,
};
use vmm_sys_util::ioctl::ioctl_with_ref;
use x86::Gpa;

use crate::breakpoints::Breakpoints;
use crate::error::host;
use crate::kick::Kicker;
use crate::statistics::Statistics;

vmm_sys_util::ioctl_iow_nr!(KVM_INTERRUPT, KVMIO, 0x86, kvm_interrupt);

/// What KVM waits for before it can go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Asked {
    Nothing,
    /// IN or OUT, which a string instruction does many of in one exit: this many bytes each, and which one it is.
    Pio {
        is_in: bool,
        port: u16,
        size: u8,
        index: usize,
        count: usize,
    },
    MmioRead {
        len: usize,
    },
    MsrRead,
    MsrWrite,
}

/// See the module.
pub(crate) struct KvmVcpu {
    pub(crate) fd: VcpuFd,
    pub(crate) id: u32,
    pub(crate) memory: Arc<GuestMemory>,
    pub(crate) breakpoints: Breakpoints,
    kicker: Arc<Kicker>,
    statistics: Option<Statistics>,
    asked: Asked,
    /// KVM said, when it last came back, that it would take an interrupt of the 8259 pair.
    is_ready: bool,
    /// The vCPU is at its end until its state is replaced.
    stopped: Option<Exit>,
    runs: u64,
    /// Keeps the VM, which maps `memory`, for as long as there is a vCPU.
    _vm: Arc<VmFd>,
}

impl KvmVcpu {
    pub(crate) fn new(
        (id, fd): (u32, VcpuFd),
        page_bytes: usize,
        vm: Arc<VmFd>,
        memory: Arc<GuestMemory>,
        breakpoints: Breakpoints,
    ) -> Result<KvmVcpu, EngineError> {
        let kicker =
            Kicker::new(fd.as_raw_fd(), page_bytes).map_err(|source| EngineError::Host {
                what: "cannot map a vCPU's page",
                source,
            })?;
        let statistics = Statistics::open(&fd).ok();
        Ok(KvmVcpu {
            fd,
            id,
            memory,
            breakpoints,
            kicker: Arc::new(kicker),
            statistics,
            asked: Asked::Nothing,
            is_ready: false,
            stopped: None,
            runs: 0,
            _vm: vm,
        })
    }

    /// Forgets what the last exit wanted: the state is replaced.
    pub(crate) fn forget(&mut self) {
        self.asked = Asked::Nothing;
        self.is_ready = false;
        self.stopped = None;
    }

    /// The bytes of one IN or OUT in the shared page.
    fn pio_bytes(&mut self, index: usize, size: u8) -> &mut [u8] {
        let size = usize::from(size);
        let page: *mut u8 = std::ptr::from_mut(self.fd.get_kvm_run()).cast();
        // SAFETY: only asked for after an I/O exit, so that this is what KVM wrote into the union.
        let offset = unsafe { self.fd.get_kvm_run().__bindgen_anon_1.io.data_offset } as usize;
        // SAFETY: KVM keeps `count` values of `size` bytes at this offset of the mapping, and `index` is below the count.
        let at = unsafe { page.add(offset + index * size) };
        // SAFETY: as above; the slice borrows `self`, which owns the mapping, and KVM writes there only in KVM_RUN.
        unsafe { std::slice::from_raw_parts_mut(at, size) }
    }

    /// Hands the machine's answer to KVM; the next value of a string instruction, if there is one.
    fn answer(&mut self, reply: Reply) -> Option<Exit> {
        let value = if let Reply::Value(value) = reply {
            value
        } else {
            0
        };
        match self.asked {
            Asked::Nothing => {}
            Asked::Pio {
                is_in,
                port,
                size,
                index,
                count,
            } => {
                if is_in {
                    self.pio_bytes(index, size)
                        .copy_from_slice(&value.to_le_bytes()[..usize::from(size)]);
                }
                if index + 1 < count {
                    self.asked = Asked::Pio {
                        is_in,
                        port,
                        size,
                        index: index + 1,
                        count,
                    };
                    return Some(self.pio_exit());
                }
            }
            Asked::MmioRead { len } => {
                let union = &mut self.fd.get_kvm_run().__bindgen_anon_1;
                // SAFETY: the last exit was an MMIO read, so this is the member that KVM reads next; it is plain bytes.
                let mmio = unsafe { &mut union.mmio };
                mmio.data[..len].copy_from_slice(&value.to_le_bytes()[..len]);
            }
            Asked::MsrRead | Asked::MsrWrite => {
                let union = &mut self.fd.get_kvm_run().__bindgen_anon_1;
                // SAFETY: the last exit was an MSR access, so this is the member that KVM reads next; it is plain numbers.
                let msr = unsafe { &mut union.msr };
                msr.error = u8::from(reply == Reply::Fault);
                msr.data = if self.asked == Asked::MsrRead {
                    value
                } else {
                    msr.data
                };
            }
        }
        self.asked = Asked::Nothing;
        None
    }

    fn pio_exit(&mut self) -> Exit {
        let Asked::Pio {
            is_in,
            port,
            size,
            index,
            ..
        } = self.asked
        else {
            return Exit::Kicked;
        };
        if is_in {
            return Exit::PioRead { port, size };
        }
        let mut bytes = [0; 4];
        bytes[..usize::from(size)].copy_from_slice(self.pio_bytes(index, size));
        Exit::PioWrite {
            port,
            size,
            value: u32::from_le_bytes(bytes),
        }
    }

    fn enter(&mut self) -> Result<Option<Exit>, EngineError> {
        self.runs += 1;
        self.kicker.entering();
        let mut stopped = None;
        let exit = match self.fd.run() {
            Ok(VcpuExit::Debug(exit)) => {
                stopped = Some(exit);
                Ok((None, Asked::Nothing))
            }
            Ok(exit) => understand(exit),
            Err(error) => Err(error),
        };
        self.kicker.left();
        self.is_ready = self.fd.get_kvm_run().ready_for_interrupt_injection != 0;
        match stopped {
            Some(exit) => self.debugged(&exit)?,
            None => self.check_breakpoints()?,
        }
        match exit {
            Ok((exit, asked)) => {
                self.asked = asked;
                Ok(exit)
            }
            // A vCPU that waited for SIPI has got something: KVM wants to be called again.
            Err(error) if error.errno() == libc::EAGAIN => Ok(None),
            Err(error) if error.errno() == libc::EINTR => {
                self.kicker.take();
                Ok(Some(Exit::Kicked))
            }
            Err(error) => Err(EngineError::Host {
                what: "KVM cannot run guest code",
                source: io::Error::from(error),
            }),
        }
    }

    /// Fills in what KVM does not say with the exit.
    fn complete(&mut self, exit: Exit) -> Result<Exit, EngineError> {
        let rip = |vcpu: &KvmVcpu| vcpu.fd.get_regs().map(|regs| regs.rip);
        let exit = match exit {
            Exit::PioRead { port, .. } | Exit::PioWrite { port, .. } => {
                // SAFETY: the exit is an I/O exit, so that this is what KVM wrote into the union.
                let io = unsafe { self.fd.get_kvm_run().__bindgen_anon_1.io };
                let is_in = matches!(exit, Exit::PioRead { .. });
                let count = io.count as usize;
                self.asked = Asked::Pio {
                    is_in,
                    port,
                    size: io.size,
                    index: 0,
                    count,
                };
                self.pio_exit()
            }
            Exit::TripleFault(_) => {
                let rip = rip(self).map_err(host("cannot read registers"))?;
                Exit::TripleFault(TripleFault {
                    first_vector: None,
                    rip,
                })
            }
            Exit::Unrunnable(what) => {
                let rip = rip(self).map_err(host("cannot read registers"))?;
                let code = if what.what == INTERNAL {
                    self.internal_error()
                } else {
                    what.code
                };
                Exit::Unrunnable(Unrunnable { rip, code, ..what })
            }
            exit => return Ok(exit),
        };
        if matches!(exit, Exit::TripleFault(_) | Exit::Unrunnable(_)) {
            self.stopped = Some(exit.clone());
        }
        Ok(exit)
    }

    fn internal_error(&mut self) -> u64 {
        let union = &self.fd.get_kvm_run().__bindgen_anon_1;
        // SAFETY: asked after an internal error only, so that this is what KVM wrote into the union.
        let internal = unsafe { union.internal };
        internal.suberror.into()
    }
}

const INTERNAL: &str = "KVM cannot emulate an instruction of the guest";

/// What KVM's exit means; the parts that need the vCPU come later.
fn understand(exit: VcpuExit<'_>) -> Result<(Option<Exit>, Asked), kvm_ioctls::Error> {
    let mut asked = Asked::Nothing;
    let exit = match exit {
        VcpuExit::IoIn(port, _) => Exit::PioRead { port, size: 0 },
        VcpuExit::IoOut(port, _) => Exit::PioWrite {
            port,
            size: 0,
            value: 0,
        },
        VcpuExit::MmioRead(address, data) => {
            asked = Asked::MmioRead { len: data.len() };
            Exit::MmioRead {
                gpa: Gpa(address),
                size: data.len() as u8,
            }
        }
        VcpuExit::MmioWrite(address, data) => {
            let mut bytes = [0; 8];
            bytes[..data.len()].copy_from_slice(data);
            let value = u64::from_le_bytes(bytes);
            Exit::MmioWrite {
                gpa: Gpa(address),
                size: data.len() as u8,
                value,
            }
        }
        VcpuExit::X86Rdmsr(read) => {
            asked = Asked::MsrRead;
            Exit::MsrRead { msr: read.index }
        }
        VcpuExit::X86Wrmsr(write) => {
            asked = Asked::MsrWrite;
            Exit::MsrWrite {
                msr: write.index,
                value: write.data,
            }
        }
        VcpuExit::IrqWindowOpen => Exit::InterruptWindow,
        VcpuExit::IoapicEoi(vector) => Exit::EndOfInterrupt { vector },
        VcpuExit::Hlt => Exit::Halt,
        VcpuExit::Shutdown => Exit::TripleFault(TripleFault {
            first_vector: None,
            rip: 0,
        }),
        // With signals, or because KVM wants to look at something: nothing for the machine.
        VcpuExit::Intr => return Err(kvm_ioctls::Error::new(libc::EINTR)),
        VcpuExit::Hypercall(call) => {
            // Not offered by CPUID: as KVM answers unknown ones.
            *call.ret = (-1000_i64) as u64;
            return Ok((None, asked));
        }
        other => Exit::Unrunnable(unrunnable(&other)),
    };
    Ok((Some(exit), asked))
}

/// Why KVM cannot go on with the guest; where, is filled in later.
fn unrunnable(exit: &VcpuExit<'_>) -> Unrunnable {
    let (what, code) = match exit {
        VcpuExit::FailEntry(reason, _) => (
            "the processor refuses to enter the guest in this state",
            *reason,
        ),
        VcpuExit::InternalError => (INTERNAL, 0),
        VcpuExit::Unknown => (
            "the processor left the guest for a reason that KVM does not know",
            0,
        ),
        VcpuExit::SystemEvent(kind, _) => ("KVM reports an event of the system", (*kind).into()),
        VcpuExit::Unsupported(reason) => {
            ("KVM left the guest for an unknown reason", (*reason).into())
        }
        _ => ("KVM left the guest for a reason that was not asked for", 0),
    };
    Unrunnable { what, code, rip: 0 }
}

impl Vcpu for KvmVcpu {
    fn run(&mut self, reply: Reply) -> Result<Exit, EngineError> {
        if let Some(exit) = &self.stopped {
            return Ok(exit.clone());
        }
        if let Some(exit) = self.answer(reply) {
            return Ok(exit);
        }
        loop {
            if let Some(exit) = self.enter()? {
                return self.complete(exit);
            }
        }
    }

    fn can_inject(&self) -> bool {
        self.is_ready
    }

    fn inject(&mut self, event: Injection) {
        match event {
            Injection::Interrupt(vector) => {
                let interrupt = kvm_interrupt { irq: vector.into() };
                // SAFETY: the descriptor is our vCPU, and the structure lives through the call, which only reads it.
                unsafe { ioctl_with_ref(&self.fd, KVM_INTERRUPT(), &interrupt) };
                self.is_ready = false;
            }
            // An NMI that cannot be taken waits inside; no other answer is possible on a vCPU with an APIC.
            Injection::Nmi => drop(self.fd.nmi()),
        }
    }

    fn set_interrupt_window(&mut self, wanted: bool) {
        self.fd.get_kvm_run().request_interrupt_window = u8::from(wanted);
    }

    fn state(&mut self) -> Result<VcpuState, EngineError> {
        self.save_state()
    }

    fn set_state(&mut self, state: &VcpuState) -> Result<(), EngineError> {
        self.forget();
        self.load_state(state)?;
        self.renew_breakpoints()?;
        // The first call only comes back to say whether it would take an interrupt: a vCPU that halts does not say.
        self.kicker.kick();
        Ok(())
    }

    /// Nothing but that: other vCPUs run again already, and what they send must not be overwritten.
    fn hold_tsc_back(&mut self, ticks: u64) -> Result<(), EngineError> {
        let offset = self.tsc_offset()?.wrapping_sub(ticks);
        self.set_tsc_offset(offset)
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        Arc::clone(&self.kicker) as Arc<dyn Kick>
    }

    fn has_local_apic(&self) -> bool {
        true
    }

    fn probes_max(&self) -> usize {
        self.breakpoints.most
    }

    /// A KVM that refuses breakpoints, as for a guest whose state it may not see, tells of nothing.
    fn set_probes(&mut self, probes: &Arc<Probes>) -> bool {
        self.take_probes(probes).unwrap_or(false)
    }

    fn statistics(&self) -> EngineStatistics {
        let mut list = self
            .statistics
            .as_ref()
            .map(Statistics::read)
            .unwrap_or_default();
        list.0.insert(0, ("calls of KVM", Unit::Count, self.runs));
        list
    }
}
