//! Bare guests on several vCPUs, each on a thread of its own, with no board: ports start processors and have a device
//! copy memory on yet another thread (see `guests/bare/parallel.c`).

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use host::lock::Lock;
use mem::GuestMemory;
use vcpu::{Exit, Kick, Reply, Vcpu, VcpuState, gpr};
use x86::Gpa;

use crate::bare::{Ending, Guest, MEMORY_BYTES, Run, SERIAL, boot};

const START: u16 = 0xf5;
const DEVICE: u16 = 0xf6;
const DEBUG_EXIT: u16 = 0xf4;
const START_BLOCK: u64 = 0x9200;
const DEVICE_BLOCK: u64 = 0x9240;
/// How often the watch looks whether all is over.
const TICK: Duration = Duration::from_millis(5);

/// Processors of the guest.
pub const CPUS: usize = 4;
/// The guest that is made for this.
pub const GUEST: Guest = Guest {
    name: "parallel",
    sources: &["parallel.c"],
};

/// What the device is asked to do: copy, then store a flag.
struct Copy {
    to: u64,
    from: u64,
    bytes: u64,
    flag: u64,
    value: u64,
}

/// What all threads share.
struct Board {
    memory: Arc<GuestMemory>,
    console: Lock<Vec<u8>>,
    ending: Lock<Option<Ending>>,
    over: AtomicBool,
    starts: Vec<Sender<VcpuState>>,
    device: Sender<Copy>,
}

impl Board {
    fn end(&self, ending: Ending) {
        self.ending.lock().get_or_insert(ending);
        self.over.store(true, Ordering::SeqCst);
    }

    fn words<const COUNT: usize>(&self, at: u64) -> [u64; COUNT] {
        std::array::from_fn(|n| {
            self.memory
                .read_value(Gpa(at + 8 * n as u64), 8)
                .unwrap_or(0)
        })
    }

    /// Starts processor `number` in the mode of the one that asks.
    fn start(&self, number: u32, vcpu: &mut dyn Vcpu) -> anyhow::Result<()> {
        let mut state = vcpu.state()?;
        let [rip, rsp, argument] = self.words(START_BLOCK);
        state.rip = rip;
        state.gprs[gpr::RSP] = rsp;
        state.gprs[gpr::RDI] = argument;
        if let Some(start) = self.starts.get(number as usize) {
            start.send(state)?;
        }
        Ok(())
    }

    /// What a processor's thread does until all is over.
    fn run_when_started(
        &self,
        vcpu: &mut dyn Vcpu,
        waiting: &Receiver<VcpuState>,
    ) -> anyhow::Result<()> {
        while !self.over.load(Ordering::SeqCst) {
            if let Ok(state) = waiting.recv_timeout(TICK) {
                vcpu.set_state(&state)?;
                let done = self.run(vcpu);
                if done.is_err() {
                    self.end(Ending::TimedOut);
                }
                done?;
            }
        }
        Ok(())
    }

    fn run(&self, vcpu: &mut dyn Vcpu) -> anyhow::Result<()> {
        let mut reply = Reply::Done;
        while !self.over.load(Ordering::SeqCst) {
            let exit = vcpu.run(reply)?;
            reply = Reply::Done;
            match exit {
                Exit::PioWrite {
                    port: DEBUG_EXIT,
                    value,
                    ..
                } => self.end(Ending::DebugExit(value as u8)),
                Exit::PioWrite {
                    port: SERIAL,
                    value,
                    ..
                } => {
                    self.console.lock().push(value as u8);
                }
                Exit::PioWrite {
                    port: START, value, ..
                } => self.start(value, vcpu)?,
                Exit::PioWrite { port: DEVICE, .. } => {
                    let [to, from, bytes, flag, value] = self.words(DEVICE_BLOCK);
                    self.device.send(Copy {
                        to,
                        from,
                        bytes,
                        flag,
                        value,
                    })?;
                }
                Exit::PioRead { port, .. } if port == SERIAL + 5 => reply = Reply::Value(0x60),
                Exit::PioRead { .. } | Exit::MmioRead { .. } => reply = Reply::Value(u64::MAX),
                Exit::MsrRead { .. } | Exit::MsrWrite { .. } => reply = Reply::Fault,
                Exit::Halt => return Ok(()),
                Exit::TripleFault(_) => self.end(Ending::TripleFault),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Copies what it is asked to, as a disk or a network card would.
fn serve(board: &Board, orders: &Receiver<Copy>) {
    let memory = &board.memory;
    while !board.over.load(Ordering::SeqCst) {
        let Ok(Copy {
            to,
            from,
            bytes,
            flag,
            value,
        }) = orders.recv_timeout(TICK)
        else {
            continue;
        };
        let mut data = vec![0; bytes as usize];
        if memory.read(Gpa(from), &mut data).is_ok() && memory.write(Gpa(to), &data).is_ok() {
            // A guest that gave no address for a flag learns nothing.
            let _ = memory.write(Gpa(flag), &value.to_le_bytes());
        }
    }
}

/// Builds the guest in `folder` and runs it on vCPUs that share a code cache of this size, for `limit` at most.
///
/// # Errors
/// When the guest cannot be built or the engine cannot go on.
pub fn run(
    folder: &Path,
    code_cache_bytes: usize,
    words: &str,
    limit: Duration,
) -> anyhow::Result<Run> {
    let image = std::fs::read(GUEST.build(folder)?)?;
    let memory = Arc::new(GuestMemory::flat(MEMORY_BYTES)?);
    let state = boot(&memory, &image, words)?;
    let soft = soft::Soft::new(Arc::clone(&memory), soft::Config { code_cache_bytes })?;
    let (starts, waiting): (Vec<_>, Vec<_>) = (0..CPUS).map(|_| channel()).unzip();
    let (device, orders) = channel();
    starts[0].send(state)?;
    let vcpus: Result<Vec<_>, _> = (0..CPUS)
        .map(|_| soft.create_vcpu(crate::forms::model()))
        .collect();
    let vcpus = vcpus?;
    let kickers: Vec<Arc<dyn Kick>> = vcpus.iter().map(|vcpu| vcpu.kicker()).collect();
    let board = Board {
        memory: Arc::clone(&memory),
        console: Lock::default(),
        ending: Lock::default(),
        over: AtomicBool::new(false),
        starts,
        device,
    };
    let board = &board;
    let results: Vec<anyhow::Result<()>> = std::thread::scope(|scope| {
        let threads: Vec<_> = vcpus
            .into_iter()
            .zip(waiting)
            .map(|(mut vcpu, waiting)| {
                scope.spawn(move || board.run_when_started(&mut vcpu, &waiting))
            })
            .collect();
        let device = scope.spawn(move || serve(board, &orders));
        let start = Instant::now();
        while !board.over.load(Ordering::SeqCst) {
            std::thread::sleep(TICK);
            if start.elapsed() > limit {
                board.end(Ending::TimedOut);
            }
        }
        kickers.iter().for_each(|kicker| kicker.kick());
        device.join().expect("the device's thread does not panic");
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a vCPU thread does not panic"))
            .collect()
    });
    results.into_iter().collect::<anyhow::Result<()>>()?;
    let console = board.console.lock();
    let ending = board.ending.lock().clone();
    Ok(Run {
        console: String::from_utf8_lossy(&console).into_owned(),
        ending: ending.unwrap_or(Ending::Halted),
    })
}
