//! Somebody who watches one VM from outside: its books, its registers, and, through its memory, its kernel.
//!
//! A kernel is recognised once for each life of a guest, and again when it is not there any more: a guest may start another
//! one. While a guest boots there is none yet; it is tried again, but not at every look.
//!
//! What is known of the kernel before its first instruction comes from the kernel file that the VM's process loaded, over a
//! descriptor that it gives: no name is looked up, so that no other file can take its place.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::{HostBooks, VcpuView};
use fleet::{Client, ClientError, MemoryFiles, OneVm, Record};
use host::lock::Lock;
use insight::{Account, Kernel, Loaded, Look, NotRecognised, Registers};

use crate::live::{LiveCost, LiveMemory};

/// How long to wait before a guest whose kernel was not recognised is looked at again.
const AGAIN: Duration = Duration::from_secs(2);

/// Held by who looks for a kernel: it takes a copy of the image and of all its symbols, which many guests that boot at the same
/// time would make a gigabyte of.
static ATTACHING: Lock<()> = Lock::new(());

/// Watches one VM.
pub struct Observer {
    vm: OneVm,
    cache: Option<PathBuf>,
    client: Client,
    guest: Option<Guest>,
    /// What lives before this one cost.
    spent: LiveCost,
}

/// The guest of one life.
struct Guest {
    life: u64,
    memory: Arc<LiveMemory>,
    /// The kernel that the VM's process loaded, or why its file tells nothing.
    loaded: Result<Loaded, String>,
    kernel: Result<Kernel, NotRecognised>,
    tried: Instant,
}

/// A VM at one moment.
pub struct Snapshot<'a> {
    /// The host's own books.
    pub books: HostBooks,
    /// Registers, as the VM's process told them.
    pub vcpus: Vec<VcpuView>,
    /// The same for the parser.
    pub registers: Vec<Registers>,
    /// The guest's kernel, or why it is not known.
    pub kernel: Result<&'a Kernel, &'a NotRecognised>,
    /// The kernel that was loaded, or why its file tells nothing.
    pub loaded: Result<&'a Loaded, &'a str>,
    /// The guest's memory.
    pub memory: &'a LiveMemory,
    /// What reading this guest has cost so far.
    pub cost: LiveCost,
}

impl Snapshot<'_> {
    /// A look through the kernel; none if it is not known.
    pub fn look<'k>(&'k self, account: &'k Account) -> Option<Look<'k>> {
        self.kernel
            .ok()
            .map(|kernel| kernel.look(account, &self.registers))
    }
}

impl Observer {
    /// Connects to the VM of `record`; what is learned about kernels is kept in `cache`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn connect(record: Record, cache: Option<PathBuf>) -> Result<Observer, ClientError> {
        let (vm, client) = OneVm::connect(record)?;
        Ok(Observer {
            vm,
            cache,
            client,
            guest: None,
            spent: LiveCost::default(),
        })
    }

    /// What is known now.
    ///
    /// # Errors
    /// [`ClientError`]: the VM has ended, or its process does not answer.
    pub fn observe(&mut self) -> Result<Snapshot<'_>, ClientError> {
        let asked = self.ask();
        let (life, vcpus, books) = match asked {
            // A VM's process drops who is silent for long; a new connection tells whether it still lives. One of the same name
            // is another VM: what is known here is of this one's memory.
            Err(ClientError::Connection(_)) => {
                self.client = self.vm.again()?;
                self.ask()?
            }
            asked => asked?,
        };
        let registers: Vec<Registers> = vcpus.iter().map(registers).collect();
        self.meet(life, &registers)?;
        let guest = self.guest.as_ref().expect("the guest has been met");
        let mut cost = guest.memory.cost();
        cost.bytes += self.spent.bytes;
        cost.reads += self.spent.reads;
        cost.torn += self.spent.torn;
        cost.stored += self.spent.stored;
        Ok(Snapshot {
            books,
            vcpus,
            registers,
            kernel: guest.kernel.as_ref(),
            loaded: guest.loaded.as_ref().map_err(String::as_str),
            memory: &guest.memory,
            cost,
        })
    }

    /// Which VM it is, whatever has its name.
    pub fn vm(&self) -> &OneVm {
        &self.vm
    }

    fn ask(&mut self) -> Result<(u64, Vec<VcpuView>, HostBooks), ClientError> {
        let (life, vcpus) = self.client.registers()?;
        Ok((life, vcpus, self.client.books()?))
    }

    /// Recognises the kernel of this life, unless that has been done.
    fn meet(&mut self, life: u64, registers: &[Registers]) -> Result<(), ClientError> {
        if let Some(past) = self.guest.take_if(|guest| guest.life != life) {
            let cost = past.memory.cost();
            self.spent.bytes += cost.bytes;
            self.spent.reads += cost.reads;
            self.spent.torn += cost.torn;
            self.spent.stored += cost.stored;
        }
        let known = self.guest.take();
        let (memory, loaded) = match known {
            Some(guest) if guest.is_known() => {
                self.guest = Some(guest);
                return Ok(());
            }
            Some(guest) => (guest.memory, guest.loaded),
            None => {
                let mut files = self.client.memory()?;
                if files.view.life != life {
                    // It starts again just now; the next moment will be of the new life.
                    return self.meet_later(life, files);
                }
                let loaded = {
                    let _one = ATTACHING.lock();
                    self.loaded(&mut files)
                };
                let vm = Some(self.vm.clone());
                (Arc::new(LiveMemory::new(files, vm)), loaded)
            }
        };
        let shared = Arc::<LiveMemory>::clone(&memory) as Arc<dyn insight::Memory>;
        // A vCPU that waits to be started has nothing to say about the kernel.
        let kernel = {
            let _one = ATTACHING.lock();
            insight::attach(shared, registers, loaded.as_ref().ok())
        };
        self.guest = Some(Guest {
            life,
            memory,
            loaded,
            kernel,
            tried: Instant::now(),
        });
        Ok(())
    }

    /// What the kernel file says.
    fn loaded(&self, files: &mut MemoryFiles) -> Result<Loaded, String> {
        let Some((file, digest)) = files.kernel.take() else {
            return Err("the kernel file was changed after it was loaded".to_owned());
        };
        Loaded::open(&file, digest, self.cache.as_deref()).map_err(|error| error.to_string())
    }

    fn meet_later(&mut self, life: u64, files: MemoryFiles) -> Result<(), ClientError> {
        let tried = vec!["the guest starts again just now".to_owned()];
        let kernel = Err(NotRecognised {
            tried,
            banner: None,
        });
        let memory = Arc::new(LiveMemory::new(files, Some(self.vm.clone())));
        self.guest = Some(Guest {
            life,
            memory,
            loaded: Err("the guest starts again just now".to_owned()),
            kernel,
            tried: Instant::now(),
        });
        Ok(())
    }
}

impl Guest {
    /// Whether its kernel is known and still there, or was looked for just now.
    fn is_known(&self) -> bool {
        match &self.kernel {
            Ok(kernel) => kernel.is_still_there(),
            Err(_) => self.tried.elapsed() < AGAIN,
        }
    }
}

fn registers(view: &VcpuView) -> Registers {
    Registers {
        vcpu_id: view.vcpu_id,
        cr0: view.cr0,
        cr2: view.cr2,
        cr3: view.cr3,
        cr4: view.cr4,
        efer: view.efer,
        idt_base: view.idtr.base,
        idt_limit: view.idtr.limit,
        gdt_base: view.gdtr.base,
        gdt_limit: view.gdtr.limit,
        fs_base: view.fs_base,
        gs_base: view.gs_base,
        kernel_gs_base: view.kernel_gs_base,
        lstar: view.lstar,
        cstar: view.cstar,
        star: view.star,
        sysenter_eip: view.sysenter_eip,
        breakpoints: view.breakpoints,
        dr7: view.dr7,
        rip: view.rip,
        rsp: view.rsp,
        rflags: view.rflags,
        cpl: view.cpl,
        is_halted: view.halted,
        age_ms: view.age_ms,
    }
}
