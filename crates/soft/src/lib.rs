//! Engine two: the software CPU, an x86-64 system processor in host user space.
//!
//! Guest and host speak the same instruction set, so guest code is translated by copying: most instructions run as
//! they are, on the host's own silicon, with their memory operands led through a software TLB. What a guest must not
//! do itself (address memory, jump, touch system state) is rebuilt or interpreted. The parts, bottom up:
//!
//! - `block`: what translated code shares with Rust; `emit`, `code_cache`: host code and its one entrance.
//! - `bank`: software TLBs and jump caches, one set for each address space and privilege.
//! - `translate`: guest code into translation blocks. `translations`: all blocks of a VM, and how they go stale;
//!   `sites`: where they may fault or miss.
//! - `door`, `enter`: into translated code and out, and how vCPUs are called out or kept out of it.
//! - `cpu`, `access`, `exceptions`, `interpret`: the system half of the processor. `bounce`, `locked`: instructions whose
//!   operand translated code cannot reach.
//! - `run`: the loop that binds them, and the engine contract.
//!
//! Several vCPUs run in parallel, a thread each. They share guest memory, where the silicon keeps the order, and the
//! translations, which are changed under one lock; TLBs and jump caches are each vCPU's own. Three things must hold:
//!
//! 1. Stale code is never left standing. A page's bytes are read for translation only after every vCPU that may have
//!    the page in its write TLB has given that up (`door`), and a store to the page, by whomever, drops the blocks it
//!    touches before it is over. A dropped block's head leads away by one atomic store; nobody is stopped for that.
//! 2. Nobody runs what is gone. Blocks stay where they are until the whole cache is cleared, and that happens while all
//!    vCPUs are out of it; whoever comes back finds a new generation and starts over from RIP (`enter`).
//! 3. The slow way is as atomic as the fast one. Interpreted accesses are whole loads and stores, locked ones are
//!    exchanged into memory or done while everybody else is kept out (`locked`).
//!
//! Invariants: the only unsafe module is `code_cache`; translated code reaches host memory only through the vCPU
//! block and through TLB entries, which only ever point into guest memory; every guest mistake ends as the exception
//! a processor would raise.

mod access;
mod bank;
mod block;
mod bounce;
mod code_cache;
mod cpu;
mod decoded;
mod door;
mod emit;
mod enter;
mod exceptions;
mod features;
mod interpret;
mod locked;
mod mode;
mod run;
mod sites;
mod state;
mod translate;
mod translations;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use mem::{CodeWatch, GuestMemory};
use vcpu::EngineError;
use x86::{CpuidTable, Gfn, Gpa, PAGE_SIZE, cpu_model};

use crate::code_cache::Stubs;
pub use crate::cpu::SoftVcpu;
use crate::door::{Door, Doors};
use crate::features::Features;
use crate::sites::Sites;
use crate::translations::Translations;

/// What of the engine can be chosen.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Size of the code cache. When it is full, everything is translated anew.
    pub code_cache_bytes: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            code_cache_bytes: 64 << 20,
        }
    }
}

/// The software engine of one VM: what its vCPUs share.
pub struct Soft {
    memory: Arc<GuestMemory>,
    translations: Mutex<Translations>,
    stubs: Stubs,
    sites: Arc<Sites>,
    /// Instruction set of the VM: that of its first vCPU's CPUID.
    features: OnceLock<Features>,
    /// Doors of the vCPUs made so far.
    made: Mutex<Vec<Arc<Door>>>,
    /// All of them, fixed when the first vCPU runs.
    doors: OnceLock<Doors>,
}

impl Soft {
    /// An engine for a VM with this memory.
    ///
    /// # Errors
    /// If the host cannot run translated code: no FSGSBASE for user code, or no executable memory.
    pub fn new(memory: Arc<GuestMemory>, config: Config) -> Result<Arc<Soft>, EngineError> {
        if !host::cpu::has_user_fsgsbase() {
            let source =
                std::io::Error::other("the host kernel does not allow FSGSBASE in user mode");
            return Err(EngineError::Host {
                what: "cannot prepare the software CPU",
                source,
            });
        }
        let xsave_mask = host::cpu::xcr0() & cpu_model::XCR0_MASK;
        let translations =
            Translations::new(config.code_cache_bytes, xsave_mask).map_err(|source| {
                EngineError::Host {
                    what: "cannot get memory for translated code",
                    source,
                }
            })?;
        let (stubs, sites) = (translations.stubs(), translations.sites());
        let soft = Arc::new(Soft {
            memory,
            translations: Mutex::new(translations),
            stubs,
            sites,
            features: OnceLock::new(),
            made: Mutex::default(),
            doors: OnceLock::new(),
        });
        let watcher = Arc::downgrade(&(Arc::clone(&soft) as Arc<dyn CodeWatch>));
        soft.memory.notes().watch_code(watcher);
        Ok(soft)
    }

    /// A new vCPU in the state after RESET. All vCPUs of a VM have the same instruction set, and are made before the
    /// first of them runs.
    ///
    /// # Errors
    /// If the CPUID table offers other instructions than the first vCPU's, or one has run.
    pub fn create_vcpu(self: &Arc<Soft>, cpuid: CpuidTable) -> Result<SoftVcpu, EngineError> {
        let features = Features::new(&cpuid);
        if self.features.get_or_init(|| features.clone()) != &features {
            return Err(EngineError::State(
                "vCPUs of one VM with different instruction sets",
            ));
        }
        if self.doors.get().is_some() {
            return Err(EngineError::State(
                "a vCPU that comes after others have run",
            ));
        }
        let door = Arc::new(Door::default());
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let index = made.len();
        made.push(Arc::clone(&door));
        self.translations().prepare(features, made.len() > 1);
        drop(made);
        let mut vcpu = SoftVcpu::new(Arc::clone(self), cpuid, index, door);
        vcpu.load_state(&vcpu::VcpuState::reset());
        Ok(vcpu)
    }

    fn translations(&self) -> MutexGuard<'_, Translations> {
        self.translations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn stubs(&self) -> Stubs {
        self.stubs
    }

    fn features(&self) -> Features {
        self.features.get().cloned().unwrap_or_default()
    }

    fn invalidate(&self, gpa: Gpa, len_bytes: u64) {
        self.translations().invalidate(gpa, len_bytes, &self.memory);
    }

    /// The doors of all vCPUs. Whoever asks runs, so from now on there are no more.
    fn doors(&self) -> &Doors {
        self.doors.get_or_init(|| {
            Doors::new(std::mem::take(
                &mut self.made.lock().unwrap_or_else(PoisonError::into_inner),
            ))
        })
    }

    /// Whether the VM has one vCPU.
    fn is_alone(&self) -> bool {
        self.doors().count() == 1
    }
}

impl CodeWatch for Soft {
    fn code_written(&self, gfn: Gfn) {
        self.invalidate(gfn.gpa(), PAGE_SIZE);
    }
}
