//! Tasks in the list, in the table of numbers and on CPUs.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use x86::Gva;
use x86::paging::ADDRESS;

use super::slabs::Slabs;
use super::{Depth, HiddenTask, UnknownSpace};
use crate::blind::Blind;
use crate::look::Look;
use crate::observed::{Observed, Rung};

/// Most tasks.
const MAX_TASKS: usize = 1 << 20;
/// Deepest tree of numbers.
const MAX_DEPTH: u32 = 6;
/// Children of one node of the tree.
const SLOTS: u64 = 64;

/// The list of tasks with the threads of each, and the table of numbers.
struct Books {
    listed: HashSet<u64>,
    numbered: BTreeMap<u64, i32>,
}

impl Books {
    fn lists(&self, task: &u64) -> bool {
        self.listed.contains(task)
    }

    fn numbers(&self, task: &u64) -> bool {
        self.numbered.contains_key(task)
    }
}

/// What a task's own structure says of it.
struct Body {
    pid: i32,
    comm: String,
    /// Where its stack begins.
    stack: u64,
    /// It can run.
    is_alive: bool,
}

impl Look<'_> {
    /// Tasks that the books do not agree on, in this one look.
    pub fn hidden_tasks(&self, depth: Depth) -> Observed<Vec<HiddenTask>> {
        self.observed(self.read_hidden_tasks(depth))
    }

    fn read_hidden_tasks(&self, depth: Depth) -> Result<Vec<HiddenTask>, Blind> {
        let books = self.books()?;
        let running: HashSet<u64> = self
            .running_tasks()
            .into_iter()
            .map(|(_, task)| task.0)
            .collect();
        let slabs = match depth {
            Depth::Books => None,
            Depth::Slabs => Some(self.slabs_of_tasks()?),
        };
        let is_made = |task: &u64| slabs.as_ref().is_none_or(|all| all.contains(*task));
        if !books.listed.iter().any(is_made) {
            return Err(Blind::nonsense("tasks lie in no slab of theirs"));
        }
        let differs = self.differing(&books, &running, slabs.as_ref());
        if differs.is_empty() {
            return Ok(Vec::new());
        }
        // Read again: what came or went between the readings is no difference.
        let again = self.books()?;
        let mut hidden = Vec::new();
        for address in differs {
            let in_list = books.lists(&address) || again.lists(&address);
            let in_pid_table = books.numbers(&address) || again.numbers(&address);
            // The slabs were looked at between two readings of the list.
            let stays = books.lists(&address) && again.lists(&address);
            let is_decoy = stays && !is_made(&address);
            if in_list && in_pid_table && !is_decoy {
                continue;
            }
            let body = match self.body(Gva(address)) {
                Ok(body) => body,
                Err(Blind::OverBudget(what)) => return Err(Blind::OverBudget(what)),
                Err(_) => continue,
            };
            // A task that has ended, or is being made, is in no book for a while.
            if is_decoy || body.is_alive && !self.is_being_copied(address, &body, &again) {
                hidden.push(HiddenTask {
                    pid: body.pid,
                    comm: body.comm,
                    address,
                    in_list,
                    in_pid_table,
                    seen_running: running.contains(&address),
                    in_slab: slabs.as_ref().is_some_and(|all| all.contains(address)),
                    is_decoy,
                });
            }
        }
        Ok(hidden)
    }

    fn books(&self) -> Result<Books, Blind> {
        Ok(Books {
            listed: self.listed_threads()?,
            numbered: self.numbered_tasks()?,
        })
    }

    /// What may be a task and is not in both books, or was not made where tasks are. Most are in both, and nothing more is
    /// asked of them.
    fn differing(
        &self,
        books: &Books,
        running: &HashSet<u64>,
        slabs: Option<&Slabs>,
    ) -> BTreeSet<u64> {
        let idle = self.idle_tasks();
        let is_known = |task: &u64| books.lists(task) && books.numbers(task);
        let is_made = |task: &u64| slabs.is_none_or(|all| all.contains(*task));
        let may_live = |task| self.body(Gva(task)).map_or(true, |body| body.is_alive);
        let books_of = books.numbered.keys().chain(&books.listed);
        books_of
            .chain(running)
            .copied()
            .chain(slabs.into_iter().flat_map(Slabs::objects))
            .filter(|task| !is_known(task) || !is_made(task))
            .filter(|task| !idle.contains(task))
            .filter(|task| books.lists(task) || may_live(*task))
            .collect()
    }

    /// Whether a task is its original's copy and nothing of its own yet: until it is given a stack it has the original's
    /// (`dup_task_struct`, kernel/fork.c), with where that one stopped last, and so looks as alive. For as long as the
    /// kernel looks for room for a stack nothing else tells them apart, and two tasks that run share none.
    fn is_being_copied(&self, task: u64, body: &Body, books: &Books) -> bool {
        let stack_of = |task: &u64| self.member("task_struct", Gva(*task), "stack").ok();
        let in_both = books.listed.iter().filter(|task| books.numbers(task));
        in_both
            .filter(|original| **original != task)
            .any(|original| stack_of(original) == Some(body.stack))
    }

    /// Number, name and life of a task. Whether it lives is not asked of what it could deny without dying (its number, its
    /// place in books): a task that can run has a stack of its own, and where it stopped last is on it, as that is what it
    /// goes on from (`__switch_to_asm`, arch/x86/entry/entry_64.S). A copy that is being made has its original's, one that
    /// was made has never been woken, and the stack of one that has ended is taken away (kernel/fork.c).
    fn body(&self, task: Gva) -> Result<Body, Blind> {
        /// States of tasks that do not run any more, or not yet (include/linux/sched.h).
        const DEAD: u64 = 0x80;
        const NEW: u64 = 0x800;
        let object = self.object("task_struct", task)?;
        let state = object.first(&["__state", "state"])?;
        let stack = object.number("stack")?;
        let stopped_at = object.number("thread.sp")?.wrapping_sub(stack);
        let has_stack = stack >> 63 != 0 && (1..=self.stack_bytes()).contains(&stopped_at);
        // Who has ended has given its memory back before.
        let has_ended = object.number("exit_state")? != 0 && object.number("mm")? == 0;
        Ok(Body {
            pid: object.i32("pid")?,
            comm: object.text("comm")?,
            stack,
            is_alive: has_stack && state & (DEAD | NEW) == 0 && !has_ended,
        })
    }

    /// How large the stack of each task is: 16 KiB, and more in kernels that check their memory.
    fn stack_bytes(&self) -> u64 {
        const USUAL: u64 = 16 << 10;
        let size = self
            .layouts()
            .and_then(|layouts| layouts.size("thread_union"));
        size.map_or(USUAL, |size| size as u64)
            .clamp(USUAL, 8 * USUAL)
    }

    /// Every thread of every process of the list.
    fn listed_threads(&self) -> Result<HashSet<u64>, Blind> {
        self.space().at_once(|| self.read_listed_threads())
    }

    fn read_listed_threads(&self) -> Result<HashSet<u64>, Blind> {
        let mut threads = HashSet::new();
        let node = self.offset("task_struct", "thread_node")?;
        let head = self.offset("signal_struct", "thread_head")?;
        for task in self.listed_tasks()? {
            threads.insert(task.0);
            let Ok(signal) = self.member("task_struct", task, "signal") else {
                continue;
            };
            let others = self.list(Gva(signal.wrapping_add(head)), node);
            threads.extend(others.unwrap_or_default().into_iter().map(|task| task.0));
        }
        Ok(threads)
    }

    /// Every thread that the table of numbers leads to, with its number.
    pub(crate) fn numbered_tasks(&self) -> Result<BTreeMap<u64, i32>, Blind> {
        self.space().at_once(|| self.read_numbered_tasks())
    }

    fn read_numbered_tasks(&self) -> Result<BTreeMap<u64, i32>, Blind> {
        let mut pids = Vec::new();
        self.xarray(self.pid_table()?, MAX_DEPTH, &mut |_, pid| pids.push(pid))?;
        let link = self.offset("task_struct", "pid_links")?;
        let tasks = self.place("pid", "tasks")?;
        let mut found = BTreeMap::new();
        for pid in pids {
            // Type 0 is the thread itself.
            let Ok(first) = self
                .space()
                .u64(Gva(pid.0.wrapping_add(tasks.offset as u64)))
            else {
                continue;
            };
            if first == 0 {
                continue;
            }
            let task = Gva(first.wrapping_sub(link));
            if let Ok(number) = self.member("task_struct", task, "pid") {
                found.insert(task.0, number as i32);
            }
        }
        Ok(found)
    }

    /// The place in the table of numbers that holds a `struct pid`, if one does.
    ///
    /// # Errors
    /// If the table cannot be read.
    pub fn pid_table_entry(&self, pid: Gva) -> Result<Option<Gva>, Blind> {
        let mut found = None;
        self.xarray(self.pid_table()?, MAX_DEPTH, &mut |at, entry| {
            if entry == pid {
                found = Some(at);
            }
        })?;
        Ok(found)
    }

    /// Where the entry at the head of the table of numbers lies.
    fn pid_table(&self) -> Result<Gva, Blind> {
        let head = self.offset("pid_namespace", "idr.idr_rt.xa_head")?;
        Ok(Gva(self.symbol("init_pid_ns")?.0.wrapping_add(head)))
    }

    /// What an xarray holds (kernel documentation, core-api/xarray): an entry whose low bits are 2 is a node.
    /// `found` is told where an entry lies and what it is.
    pub(crate) fn xarray(
        &self,
        at: Gva,
        depth: u32,
        found: &mut dyn FnMut(Gva, Gva),
    ) -> Result<(), Blind> {
        self.xarray_entry(
            (at, self.space().u64(at)?),
            depth,
            &mut { MAX_TASKS },
            found,
        )
    }

    fn xarray_entry(
        &self,
        (at, entry): (Gva, u64),
        depth: u32,
        left: &mut usize,
        found: &mut dyn FnMut(Gva, Gva),
    ) -> Result<(), Blind> {
        const NODE: u64 = 2;
        if entry & 3 == 0 && entry != 0 {
            *left = left.checked_sub(1).ok_or(Blind::OverBudget("tasks"))?;
            found(at, Gva(entry));
            return Ok(());
        }
        if entry & 3 != NODE || entry < 4096 || depth == 0 {
            return Ok(());
        }
        let slots = Gva((entry - NODE).wrapping_add(self.offset("xa_node", "slots")?));
        let bytes = self.space().bytes(slots, (8 * SLOTS) as usize)?;
        for (index, slot) in bytes.chunks_exact(8).enumerate() {
            let slot = slot
                .iter()
                .rev()
                .fold(0, |number, &byte| number << 8 | u64::from(byte));
            if slot != 0 {
                let at = Gva(slots.0.wrapping_add(8 * index as u64));
                self.xarray_entry((at, slot), depth - 1, left, found)?;
            }
        }
        Ok(())
    }

    /// What runs on each CPU right now: its number, and the task.
    pub fn running_tasks(&self) -> Vec<(u32, Gva)> {
        let Ok(cpus) = self.possible_cpus() else {
            return Vec::new();
        };
        let current = |cpu| {
            let variable = match (self.symbol("current_task"), self.symbol("pcpu_hot")) {
                (Ok(variable), _) => variable,
                (_, Ok(hot)) => Gva(hot
                    .0
                    .wrapping_add(self.offset("pcpu_hot", "current_task").ok()?)),
                _ => self.symbol("const_current_task").ok()?,
            };
            let task = self.space().u64(self.per_cpu(variable, cpu).ok()?).ok()?;
            (task >> 63 != 0).then_some((cpu, Gva(task)))
        };
        cpus.into_iter().filter_map(current).collect()
    }

    /// vCPUs whose page tables belong to no task of any book. Registers are facts: what runs cannot hide that it runs.
    pub fn unknown_spaces(&self) -> Observed<Vec<UnknownSpace>> {
        Observed::new(
            self.space().at_once(|| self.read_unknown_spaces()),
            Rung::Registers,
        )
    }

    fn read_unknown_spaces(&self) -> Result<Vec<UnknownSpace>, Blind> {
        if self.registers().is_empty() {
            return Err(Blind::NotGiven("no registers of vCPUs were given"));
        }
        let judged = || {
            self.registers()
                .iter()
                .filter(|vcpu| vcpu.is_long_mode() && !vcpu.is_parked())
        };
        let mut known: HashSet<u64> = self.space().root().iter().map(|root| root.gpa.0).collect();
        // Most run what their CPU says that it runs, and whether that is in the books is asked of all that run.
        for (_, task) in self.running_tasks() {
            known.extend(self.tables_of(task));
        }
        if judged().all(|vcpu| is_known(&known, vcpu.cr3 & ADDRESS)) {
            return Ok(Vec::new());
        }
        let tasks: BTreeSet<u64> = self
            .listed_threads()?
            .into_iter()
            .chain(self.numbered_tasks()?.into_keys())
            .chain(self.idle_tasks())
            .collect();
        let mut spaces = BTreeSet::new();
        for task in tasks {
            // A thread of the kernel borrows the address space of whoever ran before it.
            for member in ["mm", "active_mm"] {
                spaces.extend(
                    self.member("task_struct", Gva(task), member)
                        .ok()
                        .filter(|mm| *mm != 0),
                );
            }
        }
        for name in ["init_mm", "efi_mm", "poking_mm", "text_poke_mm"] {
            let Ok(symbol) = self.symbol(name) else {
                continue;
            };
            spaces.insert(if name.contains("poke") || name == "poking_mm" {
                self.space().u64(symbol)?
            } else {
                symbol.0
            });
        }
        for mm in spaces {
            let tables = self
                .member("mm_struct", Gva(mm), "pgd")
                .and_then(|pgd| self.space().translate(Gva(pgd)));
            known.extend(tables.into_iter().map(|tables| tables.0));
        }
        let unknown = judged().filter_map(|vcpu| {
            let tables = vcpu.cr3 & ADDRESS;
            (!is_known(&known, tables)).then_some(UnknownSpace {
                vcpu_id: vcpu.vcpu_id,
                tables,
            })
        });
        Ok(unknown.collect())
    }

    /// Where the page tables are of the address spaces that a task has or borrows.
    fn tables_of(&self, task: Gva) -> Vec<u64> {
        let tables = |member: &&str| {
            let mm = self.member("task_struct", task, member).ok()?;
            let pgd = self.member("mm_struct", Gva(mm), "pgd").ok()?;
            Some(self.space().translate(Gva(pgd)).ok()?.0)
        };
        ["mm", "active_mm"].iter().filter_map(tables).collect()
    }

    /// The idle tasks, which are in no book: one for each CPU.
    fn idle_tasks(&self) -> HashSet<u64> {
        let mut idle: HashSet<u64> = self
            .symbol("init_task")
            .into_iter()
            .map(|task| task.0)
            .collect();
        for cpu in self.possible_cpus().unwrap_or_default() {
            let queue = self
                .symbol("runqueues")
                .and_then(|queues| self.per_cpu(queues, cpu));
            if let Ok(task) = queue.and_then(|queue| self.member("rq", queue, "idle")) {
                idle.insert(task);
            }
        }
        idle
    }
}

/// Whether page tables are among those that are known.
fn is_known(known: &HashSet<u64>, tables: u64) -> bool {
    // With page-table isolation the tables for user mode lie right behind the kernel's.
    known.contains(&tables) || known.contains(&(tables & !0x1000))
}
