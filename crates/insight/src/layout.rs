//! Layouts of the kernel's structures: what readers need of its type information, small enough to keep on disk.
//!
//! A place is asked for by path, `place("task_struct", "se.sum_exec_runtime")`. Members of anonymous structures count
//! as members of what contains them, as in C.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::blind::Blind;
use crate::btf::{Kind, Types};

/// Structures that readers ask for. What these contain (not: point to) comes along.
const STRUCTS: &[&str] = &[
    "address_space",
    "alt_instr",
    "atomic_notifier_head",
    "blocking_notifier_head",
    "bpf_dispatcher",
    "bpf_ksym",
    "bpf_prog",
    "bpf_prog_aux",
    "bpf_struct_ops_map",
    "bpf_tramp_image",
    "bpf_trampoline",
    "cgroup",
    "cgroup_namespace",
    "cred",
    "css_set",
    "dentry",
    "dyn_ftrace",
    "fdtable",
    "file",
    "file_system_type",
    "files_struct",
    "free_area",
    "fs_struct",
    "ftrace_func_entry",
    "ftrace_hash",
    "ftrace_ops",
    "ftrace_ops_hash",
    "ftrace_page",
    "hstate",
    "idr",
    "inet_bind_bucket",
    "inet_connection_sock",
    "inet_ehash_bucket",
    "inet_hashinfo",
    "inet_listen_hashbucket",
    "inet_sock",
    "inet_timewait_death_row",
    "inet_timewait_sock",
    "inode",
    "ipc_namespace",
    "jump_entry",
    "kernel_cpustat",
    "kernel_stat",
    "kernel_symbol",
    "kernfs_node",
    "kimage",
    "kmem_cache",
    "kobject",
    "kprobe",
    "kprobe_insn_cache",
    "kprobe_insn_page",
    "kset",
    "kthread",
    "linux_binprm",
    "list_head",
    "mm_struct",
    "mnt_namespace",
    "mod_kallsyms",
    "module",
    "module_kobject",
    "mount",
    "net",
    "nf_hook_entries",
    "nf_hook_entry",
    "notifier_block",
    "nsproxy",
    "optimized_kprobe",
    "page",
    "paravirt_patch_site",
    "pcpu_hot",
    "per_cpu_nodestat",
    "per_cpu_pages",
    "per_cpu_pageset",
    "per_cpu_zonestat",
    "percpu_counter",
    "perf_event",
    "perf_event_attr",
    "pglist_data",
    "pid",
    "pid_namespace",
    "prb_data_ring",
    "prb_desc",
    "prb_desc_ring",
    "printk_info",
    "printk_log",
    "printk_ringbuffer",
    "proto",
    "raw_notifier_head",
    "rcu_state",
    "real_mode_header",
    "rq",
    "seqcount_raw_spinlock",
    "sighand_struct",
    "signal_struct",
    "slab",
    "sock",
    "sock_common",
    "socket",
    "socket_alloc",
    "static_call_key",
    "static_call_site",
    "super_block",
    "swap_info_struct",
    "task_group",
    "task_struct",
    "thread_union",
    "time_namespace",
    "timekeeper",
    "tk_data",
    "tracepoint",
    "tracepoint_func",
    "udp_hslot",
    "udp_table",
    "unix_address",
    "unix_sock",
    "upid",
    "user_namespace",
    "user_struct",
    "uts_namespace",
    "vdso_image",
    "vfsmount",
    "vm_area_struct",
    "vm_event_state",
    "vm_struct",
    "vmap_area",
    "xa_node",
    "xarray",
    "zone",
];

/// Enums that readers ask for.
const ENUMS: &[&str] = &[
    "cpu_usage_stat",
    "lru_list",
    "mod_mem_type",
    "module_state",
    "node_stat_item",
    "pageflags",
    "pid_type",
    "system_states",
    "vm_event_item",
    "vm_stat_item",
    "writeback_stat_item",
    "zone_stat_item",
    "zone_type",
    "zone_watermarks",
];

/// Enums without a name, by the enumerator that readers ask for.
const LOOSE: &[&str] = &["MM_FILEPAGES"];

/// Most members kept.
const MAX_MEMBERS: usize = 100_000;
/// Longest name that is given to a structure without one.
const MAX_NAME: usize = 200;
/// Deepest nest of anonymous structures.
const MAX_NEST: usize = 12;

/// A fingerprint of what readers ask for: layouts that were kept for other readers lack what these need.
pub(crate) fn wanted() -> u64 {
    let names = STRUCTS.iter().chain(ENUMS).chain(LOOSE);
    // FNV-1a, with the end of each name.
    let bytes = names.flat_map(|name| name.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// Where something lies in a structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Bytes from the beginning.
    pub offset: usize,
    /// Bytes; of a bitfield, of the bytes that hold it.
    pub size: usize,
    /// Bytes of one element of an array; otherwise the same as `size`.
    pub element: usize,
    /// First bit and number of bits, of a bitfield.
    pub bits: Option<(u32, u32)>,
}

/// A member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// From the beginning of the structure.
    pub bit_offset: u32,
    /// Of a bitfield; otherwise 0.
    pub bit_size: u32,
    /// All of it.
    pub size: u32,
    /// One element of an array; otherwise the same.
    pub element: u32,
    /// The structure that it is (an array of), or empty.
    pub inner: String,
}

/// A structure or union.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Its size in bytes.
    pub size: u32,
    /// By name.
    pub members: BTreeMap<String, Member>,
}

/// All that is kept of a kernel's type information.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layouts {
    pub(crate) structs: HashMap<String, Layout>,
    pub(crate) enums: HashMap<String, BTreeMap<String, i64>>,
}

impl Layouts {
    /// Takes what readers need out of the type information.
    pub fn collect(types: &Types<'_>) -> Layouts {
        let named = types.named();
        let mut layouts = Layouts::default();
        let wanted = STRUCTS
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), *named.get(name)?)));
        let mut waiting: Vec<(String, u32)> = wanted.collect();
        let mut seen: HashSet<String> = waiting.iter().map(|(name, _)| name.clone()).collect();
        let mut budget = MAX_MEMBERS;
        while let Some((name, id)) = waiting.pop() {
            let mut layout = Layout {
                size: types.size(id).unwrap_or(0),
                members: BTreeMap::new(),
            };
            flatten(
                types,
                (id, &name),
                0,
                MAX_NEST,
                &mut layout,
                &mut budget,
                &mut |inner, id| {
                    if seen.insert(inner.to_owned()) {
                        waiting.push((inner.to_owned(), id));
                    }
                },
            );
            layouts.structs.insert(name, layout);
        }
        for name in ENUMS {
            if let Some(&id) = named.get(name) {
                layouts
                    .enums
                    .insert((*name).to_owned(), enumerators(types, id));
            }
        }
        for id in 1..types.len() as u32 {
            if types.kind(id) == Some(Kind::Enum) && types.name(id).is_empty() {
                let values = enumerators(types, id);
                if let Some(name) = LOOSE.iter().find(|name| values.contains_key(**name)) {
                    layouts.enums.insert((*name).to_string(), values);
                }
            }
        }
        layouts
    }

    /// Bytes of a structure.
    ///
    /// # Errors
    /// If the kernel has none of that name.
    pub fn size(&self, name: &str) -> Result<usize, Blind> {
        self.structs
            .get(name)
            .map(|layout| layout.size as usize)
            .ok_or_else(|| Blind::NoType(name.to_owned()))
    }

    /// Where `path` (members separated by dots) lies in the structure `name`.
    ///
    /// # Errors
    /// If the kernel has no such structure or member.
    pub fn place(&self, name: &str, path: &str) -> Result<Place, Blind> {
        let missing = || Blind::NoType(format!("{name}.{path}"));
        let mut layout = self.structs.get(name).ok_or_else(missing)?;
        let mut bits = 0u32;
        let mut parts = path.split('.').peekable();
        while let Some(part) = parts.next() {
            let member = layout.members.get(part).ok_or_else(missing)?;
            bits = bits.checked_add(member.bit_offset).ok_or_else(missing)?;
            if parts.peek().is_none() {
                return Ok(place(bits, member));
            }
            layout = self.structs.get(&member.inner).ok_or_else(missing)?;
        }
        Err(missing())
    }

    /// Whether the structure has the member.
    pub fn has(&self, name: &str, path: &str) -> bool {
        self.place(name, path).is_ok()
    }

    /// Value of an enumerator, looked up inside its enum: the same name moves between enums.
    ///
    /// # Errors
    /// If the enum or the enumerator is not there.
    pub fn enumerator(&self, name: &str, enumerator: &str) -> Result<i64, Blind> {
        let values = self
            .enums
            .get(name)
            .and_then(|values| values.get(enumerator));
        values
            .copied()
            .ok_or_else(|| Blind::NoType(format!("{name}::{enumerator}")))
    }

    /// Every structure that is known, with its size and members.
    pub fn structs(&self) -> impl Iterator<Item = (&str, &Layout)> {
        self.structs
            .iter()
            .map(|(name, layout)| (name.as_str(), layout))
    }
}

fn place(bit_offset: u32, member: &Member) -> Place {
    let offset = (bit_offset / 8) as usize;
    if member.bit_size == 0 {
        return Place {
            offset,
            size: member.size as usize,
            element: member.element as usize,
            bits: None,
        };
    }
    let shift = bit_offset % 8;
    let size = (shift + member.bit_size).div_ceil(8) as usize;
    Place {
        offset,
        size,
        element: size,
        bits: Some((shift, member.bit_size)),
    }
}

fn enumerators(types: &Types<'_>, id: u32) -> BTreeMap<String, i64> {
    types
        .enumerators(id)
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// Adds the members of a structure to `layout`, those of anonymous ones too; `found` hears of contained structures.
fn flatten(
    types: &Types<'_>,
    (id, name): (u32, &str),
    base: u32,
    nest: usize,
    layout: &mut Layout,
    budget: &mut usize,
    found: &mut dyn FnMut(&str, u32),
) {
    for member in types.members(id) {
        if *budget == 0 {
            return;
        }
        *budget -= 1;
        let Some(bit_offset) = base.checked_add(member.bit_offset) else {
            continue;
        };
        let Some(element_id) = types.element(member.type_id) else {
            continue;
        };
        let is_struct = matches!(types.kind(element_id), Some(Kind::Struct | Kind::Union));
        if member.name.is_empty() {
            if is_struct && nest > 0 {
                flatten(
                    types,
                    (element_id, name),
                    bit_offset,
                    nest - 1,
                    layout,
                    budget,
                    found,
                );
            }
            continue;
        }
        let inner = match (is_struct, types.name(element_id)) {
            (false, _) => String::new(),
            // A structure without a name is known by where it is; one that contains itself has no end.
            (true, "") if name.len() > MAX_NAME => String::new(),
            (true, "") => format!("{name}.{}", member.name),
            (true, inner) => inner.to_owned(),
        };
        if !inner.is_empty() {
            found(&inner, element_id);
        }
        let member_layout = Member {
            bit_offset,
            bit_size: member.bit_size,
            size: types.size(member.type_id).unwrap_or(0),
            element: types.size(element_id).unwrap_or(0),
            inner,
        };
        layout
            .members
            .entry(member.name.to_owned())
            .or_insert(member_layout);
    }
}
