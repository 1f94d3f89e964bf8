//! Memory as the guest's kernel counts it: the numbers of `/proc/meminfo`, computed from the same counters.
//!
//! An enumerator is looked up inside its enum: kernels move counters between zones and nodes, and the same name in the
//! wrong array would be a wrong number, not an error. A counter that a kernel does not have is left out.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use x86::Gva;

use crate::blind::Blind;
use crate::look::Look;
use crate::observed::Observed;

/// Bytes in a page.
const PAGE: i64 = 4096;
/// Most nodes and zones of each.
const MAX_NODES: u64 = 1024;
/// Most inodes of block devices.
const MAX_BLOCK_DEVICES: usize = 65_536;

/// A counter.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct MemoryCounter {
    /// As in `/proc/meminfo`.
    pub name: String,
    /// How much, in bytes.
    pub bytes: u64,
}

/// All counters that could be derived.
#[derive(Clone, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct MemoryCounters(pub Vec<MemoryCounter>);

impl MemoryCounters {
    /// The counter of this name.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.0
            .iter()
            .find(|counter| counter.name == name)
            .map(|counter| counter.bytes)
    }

    fn add(&mut self, name: &str, pages: Result<i64, Blind>) -> Result<(), Blind> {
        match pages {
            Ok(pages) => {
                let bytes = pages.max(0).saturating_mul(PAGE) as u64;
                self.0.push(MemoryCounter {
                    name: name.to_owned(),
                    bytes,
                });
                Ok(())
            }
            Err(Blind::NoType(_) | Blind::NoSymbol(_)) => Ok(()),
            Err(blind) => Err(blind),
        }
    }
}

/// Counters that are one number of the nodes' each.
const OF_NODES: [(&str, &str); 12] = [
    ("Unevictable", "NR_UNEVICTABLE"),
    ("Dirty", "NR_FILE_DIRTY"),
    ("Writeback", "NR_WRITEBACK"),
    ("AnonPages", "NR_ANON_MAPPED"),
    ("Mapped", "NR_FILE_MAPPED"),
    ("Shmem", "NR_SHMEM"),
    ("SReclaimable", "NR_SLAB_RECLAIMABLE_B"),
    ("SUnreclaim", "NR_SLAB_UNRECLAIMABLE_B"),
    ("PageTables", "NR_PAGETABLE"),
    ("SecPageTables", "NR_SECONDARY_PAGETABLE"),
    ("WritebackTmp", "NR_WRITEBACK_TEMP"),
    ("Balloon", "NR_BALLOON_PAGES"),
];

/// Counters of huge pages: in pages since 5.11, before that in huge ones, which only an older member tells.
const HUGE: [(&str, &str); 5] = [
    ("AnonHugePages", "NR_ANON_THPS"),
    ("ShmemHugePages", "NR_SHMEM_THPS"),
    ("ShmemPmdMapped", "NR_SHMEM_PMDMAPPED"),
    ("FileHugePages", "NR_FILE_THPS"),
    ("FilePmdMapped", "NR_FILE_PMDMAPPED"),
];

impl Look<'_> {
    /// The counters of `/proc/meminfo`, in its order where they have one.
    pub fn memory_counters(&self) -> Observed<MemoryCounters> {
        self.observed(self.read_memory_counters())
    }

    fn read_memory_counters(&self) -> Result<MemoryCounters, Blind> {
        let mut all = MemoryCounters::default();
        let total = self.pages_of("_totalram_pages")?;
        let free = self.zone_counter("NR_FREE_PAGES")?;
        let swap_cached = self.node_counter("NR_SWAPCACHE").unwrap_or(0);
        let buffers = self.block_device_pages();
        all.add("MemTotal", Ok(total))?;
        all.add("MemFree", Ok(free))?;
        all.add("MemAvailable", self.available(free))?;
        all.add("Buffers", buffers.clone())?;
        let files = self.node_counter("NR_FILE_PAGES")?;
        all.add(
            "Cached",
            buffers.map(|buffers| files.saturating_sub(swap_cached).saturating_sub(buffers)),
        )?;
        all.add("SwapCached", Ok(swap_cached))?;
        self.page_lists(&mut all)?;
        all.add("Mlocked", self.zone_counter("NR_MLOCK"))?;
        self.swap(&mut all)?;
        for (name, enumerator) in OF_NODES {
            all.add(name, self.node_counter(enumerator))?;
        }
        self.kernel_memory(&mut all, total)?;
        self.rare_memory(&mut all)?;
        Ok(all)
    }

    /// What the kernel may reclaim, by how lately it was used.
    fn page_lists(&self, all: &mut MemoryCounters) -> Result<(), Blind> {
        let lists = [
            "NR_ACTIVE_ANON",
            "NR_INACTIVE_ANON",
            "NR_ACTIVE_FILE",
            "NR_INACTIVE_FILE",
        ];
        let [active_anon, inactive_anon, active_file, inactive_file] = lists.map(|name| {
            self.layouts()?
                .enumerator("node_stat_item", name)
                .and_then(|_| self.node_counter(name))
        });
        all.add("Active", sum(&active_anon, &active_file))?;
        all.add("Inactive", sum(&inactive_anon, &inactive_file))?;
        all.add("Active(anon)", active_anon)?;
        all.add("Inactive(anon)", inactive_anon)?;
        all.add("Active(file)", active_file)?;
        all.add("Inactive(file)", inactive_file)
    }

    /// What the kernel itself uses and has promised.
    fn kernel_memory(&self, all: &mut MemoryCounters, total: i64) -> Result<(), Blind> {
        let slab = [
            ("Slab", "NR_SLAB_UNRECLAIMABLE_B"),
            ("KReclaimable", "NR_KERNEL_MISC_RECLAIMABLE"),
        ];
        for (name, other) in slab {
            let reclaimable = self.node_counter("NR_SLAB_RECLAIMABLE_B");
            all.add(name, sum(&reclaimable, &self.node_counter(other)))?;
        }
        // Counted in KiB: the only one.
        all.add(
            "KernelStack",
            self.node_counter("NR_KERNEL_STACK_KB").map(|kib| kib / 4),
        )?;
        all.add("Bounce", self.zone_counter("NR_BOUNCE"))?;
        let committed = self
            .symbol("vm_committed_as")
            .and_then(|counter| self.percpu_counter(counter));
        all.add("Committed_AS", committed)?;
        all.add("CommitLimit", self.commit_limit(total))?;
        all.add(
            "VmallocUsed",
            self.pages_of("nr_vmalloc_pages")
                .or_else(|_| self.node_counter("NR_VMALLOC")),
        )?;
        all.add("Percpu", self.percpu_pages())
    }

    /// What most machines have none of.
    fn rare_memory(&self, all: &mut MemoryCounters) -> Result<(), Blind> {
        all.add("HardwareCorrupted", self.pages_of("num_poisoned_pages"))?;
        if self
            .layouts()?
            .enumerator("node_stat_item", "NR_SWAPCACHE")
            .is_ok()
        {
            for (name, enumerator) in HUGE {
                all.add(name, self.node_counter(enumerator))?;
            }
        }
        all.add("CmaTotal", self.pages_of("totalcma_pages"))?;
        all.add("CmaFree", self.zone_counter("NR_FREE_CMA_PAGES"))?;
        all.add("Unaccepted", self.zone_counter("NR_UNACCEPTED"))
    }

    fn pages_of(&self, symbol: &str) -> Result<i64, Blind> {
        Ok(self.space().u64(self.symbol(symbol)?)? as i64)
    }

    fn zone_counter(&self, name: &str) -> Result<i64, Blind> {
        self.counter("vm_zone_stat", "zone_stat_item", name)
    }

    fn node_counter(&self, name: &str) -> Result<i64, Blind> {
        self.counter("vm_node_stat", "node_stat_item", name)
    }

    /// What CPUs have not added yet may make it negative; the kernel shows 0 then.
    fn counter(&self, array: &str, of: &str, name: &str) -> Result<i64, Blind> {
        let index = self.layouts()?.enumerator(of, name)?.clamp(0, 4096) as u64;
        let value = self
            .space()
            .u64(Gva(self.symbol(array)?.0.wrapping_add(8 * index)))? as i64;
        Ok(value.max(0))
    }

    /// What new programs could get without swapping: free memory, and what of caches could be dropped, all less what the
    /// kernel keeps for itself.
    fn available(&self, free: i64) -> Result<i64, Blind> {
        let low = self.low_watermarks()?;
        let part = |pages: i64| pages.saturating_sub((pages / 2).min(low));
        let cache = self
            .node_counter("NR_ACTIVE_FILE")?
            .saturating_add(self.node_counter("NR_INACTIVE_FILE")?);
        let slab = self.node_counter("NR_SLAB_RECLAIMABLE_B")?;
        let reclaimable =
            slab.saturating_add(self.node_counter("NR_KERNEL_MISC_RECLAIMABLE").unwrap_or(0));
        let kept = self.pages_of("totalreserve_pages")?;
        Ok(free
            .saturating_sub(kept)
            .saturating_add(part(cache))
            .saturating_add(part(reclaimable))
            .max(0))
    }

    /// The low watermarks of all zones together.
    fn low_watermarks(&self) -> Result<i64, Blind> {
        let layouts = self.layouts()?;
        let zones = layouts.place("pglist_data", "node_zones")?;
        let marks = layouts.place("zone", "_watermark")?;
        let low = layouts
            .enumerator("zone_watermarks", "WMARK_LOW")?
            .clamp(0, 16) as u64;
        let mut sum = 0i64;
        for node in self.nodes()? {
            for zone in 0..(zones.size / zones.element.max(1)).min(16) {
                let zone = Gva(node
                    .0
                    .wrapping_add((zones.offset + zone * zones.element) as u64));
                let mark = self
                    .space()
                    .u64(Gva(zone.0.wrapping_add(marks.offset as u64 + 8 * low)))?
                    as i64;
                let boost = self.member("zone", zone, "watermark_boost").unwrap_or(0) as i64;
                sum = sum.saturating_add(mark).saturating_add(boost);
            }
        }
        Ok(sum)
    }

    /// Memory in the lists of free pages, in bytes, by the lists' own counts (`struct free_area`, mm/page_alloc.c).
    pub fn listed_free_bytes(&self) -> Observed<u64> {
        self.observed(self.read_listed_free_bytes())
    }

    fn read_listed_free_bytes(&self) -> Result<u64, Blind> {
        let layouts = self.layouts()?;
        let zones = layouts.place("pglist_data", "node_zones")?;
        let areas = layouts.place("zone", "free_area")?;
        let count = layouts.place("free_area", "nr_free")?.offset;
        let orders = (areas.size / areas.element.max(1)).min(32);
        let mut pages = 0u64;
        for node in self.nodes()? {
            for zone in 0..(zones.size / zones.element.max(1)).min(16) {
                let zone = zones.offset + zone * zones.element;
                let start = node.0.wrapping_add((zone + areas.offset) as u64);
                let bytes = self.space().bytes(Gva(start), areas.size)?;
                for (order, area) in bytes.chunks_exact(areas.element.max(1)).enumerate() {
                    let free = area
                        .get(count..count + 8)
                        .and_then(|word| word.try_into().ok());
                    let blocks = free.map_or(0, u64::from_le_bytes);
                    pages = pages.saturating_add(blocks.saturating_mul(1 << order.min(orders)));
                }
            }
        }
        Ok(pages.saturating_mul(PAGE as u64))
    }

    /// Every node's `struct pglist_data`.
    fn nodes(&self) -> Result<Vec<Gva>, Blind> {
        let Ok(array) = self.symbol("node_data") else {
            return Ok(vec![self.symbol("contig_page_data")?]);
        };
        let count = self
            .space()
            .u32(self.symbol("nr_node_ids")?)
            .map_or(1, u64::from)
            .min(MAX_NODES);
        let mut nodes = Vec::new();
        for index in 0..count {
            let node = self.space().u64(Gva(array.0.wrapping_add(8 * index)))?;
            if node != 0 {
                nodes.push(Gva(node));
            }
        }
        Ok(nodes)
    }

    /// Pages that cache block devices themselves.
    fn block_device_pages(&self) -> Result<i64, Blind> {
        let superblock = Gva(self.space().u64(self.symbol("blockdev_superblock")?)?);
        let head = Gva(superblock
            .0
            .wrapping_add(self.offset("super_block", "s_inodes")?));
        let inodes = self.steady_list(head, self.offset("inode", "i_sb_list")?)?;
        let mut pages = 0i64;
        for inode in inodes.into_iter().take(MAX_BLOCK_DEVICES) {
            let mapping = self.member("inode", inode, "i_mapping")?;
            pages =
                pages.saturating_add(self.member("address_space", Gva(mapping), "nrpages")? as i64);
        }
        Ok(pages)
    }

    fn swap(&self, all: &mut MemoryCounters) -> Result<(), Blind> {
        let total = self.pages_of("total_swap_pages");
        let free = if total == Ok(0) {
            Ok(0)
        } else {
            self.pages_of("nr_swap_pages")
        };
        all.add("SwapTotal", total)?;
        all.add("SwapFree", free)
    }

    fn commit_limit(&self, total: i64) -> Result<i64, Blind> {
        let swap = self.pages_of("total_swap_pages")?;
        let fixed = self.space().u64(self.symbol("sysctl_overcommit_kbytes")?)? as i64;
        if fixed != 0 {
            return Ok((fixed / 4).saturating_add(swap));
        }
        let ratio = i64::from(self.space().u32(self.symbol("sysctl_overcommit_ratio")?)?);
        Ok((total.saturating_mul(ratio) / 100).saturating_add(swap))
    }

    fn percpu_pages(&self) -> Result<i64, Blind> {
        let units = i64::from(self.space().u32(self.symbol("pcpu_nr_units")?)?);
        Ok(self.pages_of("pcpu_nr_populated")?.saturating_mul(units))
    }
}
/// Two counters together; what neither knows alone, is not known together.
fn sum(a: &Result<i64, Blind>, b: &Result<i64, Blind>) -> Result<i64, Blind> {
    Ok(a.clone()?.saturating_add(b.clone()?))
}
