//! Probes: instructions of the kernel at which translated code comes back to Rust, so that somebody hears of it.
//!
//! The way back is a part of the translation, emitted before the instruction's own code (`Builder::start_probed_instruction`),
//! so code without a probe is what it was, and costs what it did. It is a site like that of a TLB miss: Rust tells whoever
//! wants to hear, and enters behind it. No guest instruction runs in between and no event is delivered, so a pass is told
//! once. Only if the code cache was cleared just then, the block is found anew from RIP and comes back again: the run loop
//! keeps that it was told. What is interpreted was translated first, up to the exit to the interpreter, which comes after.

use std::sync::Arc;

use vcpu::{EngineError, Pass, Probes};
use x86::paging::{self, Access, Layout};
use x86::{Gpa, Gva};

use crate::block::seg;
use crate::code_cache::HostPc;
use crate::cpu::SoftVcpu;
use crate::enter::known;
use crate::translate::Site;

impl SoftVcpu {
    /// A probe: tells of it, unless it was told (`told`) when the code cache was cleared. Where to go on.
    pub(crate) fn pass(
        &mut self,
        site: Option<Site>,
        told: Option<u64>,
    ) -> Result<HostPc, EngineError> {
        let site = known(site)?;
        self.restore_site(&site);
        if told != Some(site.rip) {
            let probes = self.soft.probes();
            probes.tell(&Pass {
                vcpu_id: self.index as u32,
                address: site.rip,
                gprs: &self.block.gprs,
                gs_base: self.segments[seg::GS].base,
                paging: self.paging(),
            });
        }
        self.block.fp_loaded = self.block.fp_was_loaded;
        Ok(site.start(self.soft.stubs().cache))
    }

    /// Makes probes known. Blocks with an instruction at a probe that comes or goes are dropped; where it lies is asked of
    /// the guest's tables, and if they do not say, everything is.
    pub(crate) fn change_probes(&mut self, probes: &Arc<Probes>) {
        let mut translations = self.soft.translations();
        let old = Arc::clone(translations.probes());
        if Arc::ptr_eq(&old, probes) {
            return;
        }
        translations.set_probes(probes);
        let changed = |from: &Probes, to: &Probes| -> Vec<u64> {
            let gone = from.addresses().iter().filter(|at| !to.has(**at));
            gone.copied().collect()
        };
        let mut changed_addresses = changed(&old, probes);
        changed_addresses.extend(changed(probes, &old));
        let paging = self.paging();
        let access = Access {
            write: false,
            fetch: true,
            user: false,
            smap_override: false,
        };
        let read = |entry: Gpa, size: u8| self.memory.read_value(entry, size).unwrap_or(0);
        let places: Option<Vec<Gpa>> = changed_addresses
            .into_iter()
            .map(|at| Some(paging::walk(&paging, Gva(at), access, read).ok()?.gpa))
            .collect();
        match places {
            Some(places) if paging.layout() == Layout::Long => {
                for gpa in places {
                    translations.invalidate(gpa, 1, &self.memory);
                }
            }
            _ => {
                let _shut = self.soft.doors().shut(self.index);
                translations.clear(&self.memory);
            }
        }
    }
}
