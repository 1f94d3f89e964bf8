//! Somebody who watches one VM from outside: its books, its registers, and, through its memory, its kernel.
//!
//! A kernel is recognised once for each life of a guest. While a guest boots there is none yet; it is tried again, but not
//! at every look.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::{HostBooks, VcpuView};
use fleet::{Client, ClientError, Record};
use insight::{Account, Kernel, Look, NotRecognised, Registers};

use crate::live::{LiveCost, LiveMemory};

/// How long to wait before a guest whose kernel was not recognised is looked at again.
const AGAIN: Duration = Duration::from_secs(2);

/// Watches one VM.
pub struct Observer {
    record: Record,
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
    kernel: Result<Kernel, NotRecognised>,
    tried: Instant,
}

/// A VM at one moment.
pub struct Moment<'a> {
    /// The host's own books.
    pub books: HostBooks,
    /// Registers, as the VM's process told them.
    pub vcpus: Vec<VcpuView>,
    /// The same for the parser.
    pub registers: Vec<Registers>,
    /// The guest's kernel, or why it is not known.
    pub kernel: Result<&'a Kernel, &'a NotRecognised>,
    /// The guest's memory.
    pub memory: &'a LiveMemory,
    /// What reading this guest has cost so far.
    pub cost: LiveCost,
}

impl Moment<'_> {
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
        let client = Client::connect(&record)?;
        Ok(Observer {
            record,
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
    pub fn observe(&mut self) -> Result<Moment<'_>, ClientError> {
        let asked = self.ask();
        let (life, vcpus, books) = match asked {
            // A VM's process drops who is silent for long; a new connection tells whether it still lives.
            Err(ClientError::Connection(_)) => {
                self.client = Client::connect(&self.record)?;
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
        Ok(Moment {
            books,
            vcpus,
            registers,
            kernel: guest.kernel.as_ref(),
            memory: &guest.memory,
            cost,
        })
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
        let memory = match known {
            Some(guest) if guest.kernel.is_ok() || guest.tried.elapsed() < AGAIN => {
                self.guest = Some(guest);
                return Ok(());
            }
            Some(guest) => guest.memory,
            None => {
                let files = self.client.memory()?;
                if files.view.life != life {
                    // It starts again just now; the next moment will be of the new life.
                    return self.meet_later(life, files);
                }
                Arc::new(LiveMemory::new(files, Some(self.record.clone())))
            }
        };
        let shared = Arc::<LiveMemory>::clone(&memory) as Arc<dyn insight::Memory>;
        // A vCPU that waits to be started has nothing to say about the kernel.
        let kernel = insight::attach(shared, registers, self.cache.as_deref());
        self.guest = Some(Guest {
            life,
            memory,
            kernel,
            tried: Instant::now(),
        });
        Ok(())
    }

    fn meet_later(&mut self, life: u64, files: fleet::MemoryFiles) -> Result<(), ClientError> {
        let tried = vec!["the guest starts again just now".to_owned()];
        let kernel = Err(NotRecognised {
            tried,
            banner: None,
        });
        let memory = Arc::new(LiveMemory::new(files, Some(self.record.clone())));
        self.guest = Some(Guest {
            life,
            memory,
            kernel,
            tried: Instant::now(),
        });
        Ok(())
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
        rip: view.rip,
        rsp: view.rsp,
        rflags: view.rflags,
        cpl: view.cpl,
        is_halted: view.halted,
        age_ms: view.age_ms,
    }
}
