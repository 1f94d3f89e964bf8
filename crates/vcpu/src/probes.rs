//! Addresses of the guest's kernel at which somebody looks on.
//!
//! An observer outside wants to hear of what a kernel does when it does it. An engine that can tells a [`ProbeSink`] each
//! time that a vCPU is about to execute an instruction of the kernel at one of some addresses: on the vCPU's own thread,
//! with nothing of the guest done or changed, and once for each time that the instruction is executed (one that faults and is
//! tried again may be told again). The guest cannot find out but by time.
//!
//! An engine that translates tells of any number of addresses, one on the silicon of as many as the processor compares with,
//! and only while the guest leaves it those ([`ProbeSink::ended`]).

use std::fmt;
use std::sync::Arc;

use x86::paging::Paging;

/// Where to look, and who wants to hear of it.
pub struct Probes {
    addresses: Vec<u64>,
    sink: Option<Arc<dyn ProbeSink>>,
}

/// Hears of passes.
pub trait ProbeSink: Send + Sync {
    /// A vCPU is about to execute the instruction at `pass.address`. It waits meanwhile.
    fn passed(&self, pass: &Pass<'_>);

    /// The engine tells of no pass from now on, until it is given probes again: the guest has taken what it told by.
    fn ended(&self) {}
}

/// A vCPU at a probe.
#[derive(Clone, Copy, Debug)]
pub struct Pass<'a> {
    /// Which vCPU.
    pub vcpu_id: u32,
    /// Where it is: virtual address.
    pub address: u64,
    /// RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
    pub gprs: &'a [u64; 16],
    /// Where GS begins.
    pub gs_base: u64,
    /// How its addresses become physical ones.
    pub paging: Paging,
}

impl Probes {
    /// No probes.
    pub fn none() -> Arc<Probes> {
        Arc::new(Probes {
            addresses: Vec::new(),
            sink: None,
        })
    }

    /// Tells `sink` of passes at `addresses`.
    pub fn new(mut addresses: Vec<u64>, sink: Arc<dyn ProbeSink>) -> Arc<Probes> {
        addresses.sort_unstable();
        addresses.dedup();
        Arc::new(Probes {
            addresses,
            sink: Some(sink),
        })
    }

    /// All addresses, ascending.
    pub fn addresses(&self) -> &[u64] {
        &self.addresses
    }

    /// Whether there is one at this address.
    pub fn has(&self, address: u64) -> bool {
        !self.addresses.is_empty() && self.addresses.binary_search(&address).is_ok()
    }

    /// Tells who wants to hear of it.
    pub fn tell(&self, pass: &Pass<'_>) {
        if let Some(sink) = &self.sink {
            sink.passed(pass);
        }
    }

    /// Tells who wants to hear of passes that there will be none.
    pub fn end(&self) {
        if let Some(sink) = &self.sink {
            sink.ended();
        }
    }
}

impl fmt::Debug for Probes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Probes").field(&self.addresses).finish()
    }
}
