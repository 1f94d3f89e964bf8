//! Tracers, probes and programs: what hooks into functions.

use x86::Gva;

use super::Called;
use crate::blind::Blind;
use crate::look::Look;

/// Most elements of one list, buckets of one table, places of one tracer that are told.
const MAX_LIST: usize = 1 << 16;
const MAX_BUCKETS: u64 = 1 << 16;
const MAX_PLACES: usize = 4;

/// Lists in the kernel's table of probes (`KPROBE_TABLE_SIZE`).
const PROBE_LISTS: u64 = 64;

/// Deepest table of programs.
const MAX_DEPTH: u32 = 6;

/// Longest name of a function.
const MAX_NAME: usize = 256;

/// Kinds of programs (`enum bpf_prog_type`, include/uapi/linux/bpf.h: numbers never change).
const PROGRAMS: [&str; 33] = [
    "of no kind",
    "socket filter",
    "kprobe",
    "traffic classifier",
    "traffic action",
    "tracepoint",
    "xdp",
    "perf event",
    "cgroup skb",
    "cgroup sock",
    "lwt in",
    "lwt out",
    "lwt xmit",
    "socket operations",
    "sk skb",
    "cgroup device",
    "sk msg",
    "raw tracepoint",
    "cgroup sock addr",
    "lwt seg6local",
    "lirc mode2",
    "sk reuseport",
    "flow dissector",
    "cgroup sysctl",
    "raw tracepoint writable",
    "cgroup sockopt",
    "tracing",
    "struct ops",
    "extension",
    "lsm",
    "sk lookup",
    "syscall",
    "netfilter",
];

impl Look<'_> {
    pub(super) fn hooked_functions(&self, called: &mut Vec<Called>) -> Result<(), Blind> {
        let end = self.symbol("ftrace_list_end")?;
        let mut tracer = self.space().u64(self.symbol("ftrace_ops_list")?)?;
        for _ in 0..MAX_LIST {
            if tracer == 0 || tracer == end.0 {
                return Ok(());
            }
            let object = self.object("ftrace_ops", Gva(tracer))?;
            // What a wrapper stands before (kernel/trace/ftrace.c).
            let saved = object.number("saved_func").unwrap_or(0);
            let address = if saved == 0 {
                object.number("func")?
            } else {
                saved
            };
            let at = self.traced_places(object.pointer("func_hash")?)?;
            called.push(Called {
                at,
                address,
                calls: None,
            });
            tracer = object.number("next")?;
        }
        Err(Blind::nonsense("list of tracers does not end"))
    }

    /// Which functions a tracer sees, in words: the first few of its table (`struct ftrace_hash`).
    fn traced_places(&self, hashes: Gva) -> Result<String, Blind> {
        let hash = self.member("ftrace_ops_hash", hashes, "filter_hash")?;
        let count = match hash {
            0 => 0,
            hash => self.member("ftrace_hash", Gva(hash), "count")?,
        };
        if count == 0 {
            return Ok("all functions".to_owned());
        }
        let bits = self.member("ftrace_hash", Gva(hash), "size_bits")?;
        let buckets = Gva(self.member("ftrace_hash", Gva(hash), "buckets")?);
        let buckets_count = 1_u64.checked_shl(bits as u32).unwrap_or(u64::MAX);
        if buckets_count > MAX_BUCKETS {
            return Err(Blind::nonsense("table of traced functions has no size"));
        }
        let heads = self.space().bytes(buckets, buckets_count as usize * 8)?;
        let mut places = Vec::new();
        for head in heads.as_chunks::<8>().0 {
            let mut entry = u64::from_le_bytes(*head);
            let mut left = MAX_LIST;
            while entry != 0 && left > 0 && places.len() < MAX_PLACES {
                left -= 1;
                let ip = self.member("ftrace_func_entry", Gva(entry), "ip")?;
                places.push(self.whereabouts(ip));
                entry = self.space().u64(Gva(entry))?;
            }
        }
        places.sort();
        let more = count.saturating_sub(places.len() as u64);
        let mut text = places.join(", ");
        if more > 0 {
            text += &format!(" and {more} more");
        }
        Ok(text)
    }

    pub(super) fn hooked_instructions(&self, called: &mut Vec<Called>) -> Result<(), Blind> {
        let table = self.symbol("kprobe_table")?;
        let link = self.offset("kprobe", "hlist")?;
        let others = self.offset("kprobe", "list")?;
        // A probe that stands for several at one place calls those of its list.
        let of_several = self.symbol("aggr_pre_handler").map(|handler| handler.0);
        for list in 0..PROBE_LISTS {
            let mut node = self.space().u64(Gva(table.0.wrapping_add(8 * list)))?;
            for _ in 0..MAX_LIST {
                if node == 0 {
                    break;
                }
                let probe = Gva(node.wrapping_sub(link));
                let handler = self.member("kprobe", probe, "pre_handler")?;
                if of_several == Ok(handler) {
                    let head = Gva(probe.0.wrapping_add(others));
                    for one in self.steady_list(head, others)? {
                        self.probe(one, called)?;
                    }
                } else {
                    self.probe(probe, called)?;
                }
                node = self.space().u64(Gva(node))?;
            }
        }
        Ok(())
    }

    fn probe(&self, probe: Gva, called: &mut Vec<Called>) -> Result<(), Blind> {
        let object = self.object("kprobe", probe)?;
        let at = self.whereabouts(object.number("addr")?);
        for handler in ["pre_handler", "post_handler"] {
            let address = object.number(handler)?;
            if address != 0 {
                called.push(Called {
                    at: at.clone(),
                    address,
                    calls: None,
                });
            }
        }
        Ok(())
    }

    pub(super) fn loaded_programs(&self, called: &mut Vec<Called>) -> Result<(), Blind> {
        let head = self.offset("idr", "idr_rt.xa_head")?;
        let table = Gva(self.symbol("prog_idr")?.0.wrapping_add(head));
        let mut programs = Vec::new();
        self.xarray(table, MAX_DEPTH, &mut |_, program| programs.push(program))?;
        for program in programs {
            match self.program(program) {
                Ok(program) => called.push(program),
                Err(Blind::OverBudget(what)) => return Err(Blind::OverBudget(what)),
                // On its way out.
                Err(_) => self.space().torn(),
            }
        }
        Ok(())
    }

    fn program(&self, program: Gva) -> Result<Called, Blind> {
        let object = self.object("bpf_prog", program)?;
        let kind = object.number("type")? as usize;
        let kind = PROGRAMS.get(kind).copied().unwrap_or("of an unknown kind");
        let aux = self.object("bpf_prog_aux", object.pointer("aux")?)?;
        let attached = aux.pointer("attach_func_name")?;
        let mut at = kind.to_owned();
        if attached.0 != 0
            && let Ok(name) = self.space().text(attached, MAX_NAME)
        {
            at += &format!(" of {name}");
        }
        let name = aux.text("name")?;
        let number = aux.number("id")?;
        Ok(Called {
            at,
            address: object.number("bpf_func")?,
            calls: Some(format!("program {number} {name}")),
        })
    }
}
