//! What the vCPUs of one VM share: memory, translations, and the doors by which they call each other out.

use std::sync::{Arc, MutexGuard, OnceLock};

use host::lock::Lock;
use mem::{CodeWatch, GuestMemory};
use vcpu::{EngineError, Places, Probes};
use x86::{Gfn, Gpa, PAGE_SIZE, cpu_model};

use crate::allowance::Limit;
use crate::code_cache::Stubs;
use crate::door::{Door, Doors};
use crate::features::Features;
use crate::sites::{Sites, were_moved_alone};
use crate::translations::Translations;

/// What of the engine can be chosen.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Size of the code cache. A quarter is for copies of translations; when the rest is full, everything is translated anew.
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
    pub(crate) memory: Arc<GuestMemory>,
    translations: Lock<Translations>,
    stubs: Stubs,
    pub(crate) sites: Arc<Sites>,
    /// Instruction set of the VM: that of its first vCPU's CPUID.
    features: OnceLock<Features>,
    /// Doors of the vCPUs made so far.
    made: Lock<Vec<Arc<Door>>>,
    /// All of them, fixed when the first vCPU runs.
    pub(crate) doors: OnceLock<Doors>,
    /// How much all of this may take.
    pub(crate) limit: Limit,
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
        let stubs = translations.stubs();
        let sites = translations.sites();
        let soft = Arc::new(Soft {
            memory,
            translations: Lock::new(translations),
            stubs,
            sites,
            features: OnceLock::new(),
            made: Lock::default(),
            doors: OnceLock::new(),
            limit: Limit::new(),
        });
        let watcher = Arc::downgrade(&(Arc::clone(&soft) as Arc<dyn CodeWatch>));
        soft.memory.notes().watch_code(watcher);
        Ok(soft)
    }

    /// Takes one more vCPU in, with the instruction set of all: its number and its door.
    ///
    /// # Errors
    /// If the others have another instruction set, or one has run.
    pub(crate) fn take_in(&self, features: Features) -> Result<(usize, Arc<Door>), EngineError> {
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
        let mut made = self.made.lock();
        let index = made.len();
        made.push(Arc::clone(&door));
        self.translations().prepare(features, made.len() > 1);
        Ok((index, door))
    }

    pub(crate) fn translations(&self) -> MutexGuard<'_, Translations> {
        self.translations.lock()
    }

    /// The probes that translations are made for.
    pub(crate) fn probes(&self) -> Arc<Probes> {
        Arc::clone(self.translations().probes())
    }

    pub(crate) fn stubs(&self) -> Stubs {
        self.stubs
    }

    pub(crate) fn features(&self) -> Features {
        self.features.get().cloned().unwrap_or_default()
    }

    pub(crate) fn invalidate(&self, gpa: Gpa, len_bytes: u64) {
        self.translations().invalidate(gpa, len_bytes, &self.memory);
    }

    /// The doors of all vCPUs. Whoever asks runs, so from now on there are no more.
    pub(crate) fn doors(&self) -> &Doors {
        self.doors
            .get_or_init(|| Doors::new(std::mem::take(&mut self.made.lock())))
    }

    /// Whether the VM has one vCPU.
    pub(crate) fn is_alone(&self) -> bool {
        self.doors().count() == 1
    }
}

impl Places for Soft {
    fn generation(&self) -> u64 {
        self.sites.generation()
    }

    fn guest_of(&self, host: u64, generation: u64) -> Option<u64> {
        let translations = self.translations();
        let now = self.sites.generation();
        let means_the_same = generation == now
            || were_moved_alone(generation, now) && !self.stubs.moved().contains(&host);
        means_the_same
            .then(|| translations.guest_of(host))
            .flatten()
    }

    fn names(&self) -> fn(u16) -> String {
        |detail| {
            let mnemonic = iced_x86::Mnemonic::try_from(usize::from(detail));
            format!("{:?}", mnemonic.unwrap_or_default()).to_ascii_lowercase()
        }
    }
}

impl CodeWatch for Soft {
    fn code_written(&self, gfn: Gfn) {
        self.invalidate(gfn.gpa(), PAGE_SIZE);
    }
}
