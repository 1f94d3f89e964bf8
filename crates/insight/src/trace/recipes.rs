//! What is taken down for each kind of event: kernel functions and their arguments.
//!
//! Sources: the kernel's own declarations; `fs/exec.c`, `kernel/exit.c`, `kernel/taskstats.c`, `kernel/sched/core.c`,
//! `kernel/cred.c`, `kernel/module/main.c`, `security/security.c`, `kernel/printk/printk.c`, `kernel/panic.c`.

use probe::From;

use super::event::EventKind;
use super::recipe::{FIRST, FOURTH, LEVELS, Recipe, SECOND, THIRD};
use crate::blind::Blind;
use crate::look::Look;

/// Longest name of a task (`TASK_COMM_LEN`).
const COMM: u16 = 16;
/// Longest path and text that are taken.
const TEXT: u16 = 1024;
/// How much of a program's arguments is taken.
const ARGUMENTS: u16 = 2048;
/// Longest address of a socket that is taken: a path of a Unix socket and its family.
const ADDRESS: u16 = 110;

/// All recipes of a kind.
pub(super) fn recipes(
    look: &Look<'_>,
    kind: EventKind,
    files: &[String],
) -> Result<Vec<Recipe>, Blind> {
    let make = Make { look };
    let one = |recipe: Result<Recipe, Blind>| recipe.map(|recipe| vec![recipe]);
    match kind {
        EventKind::Exec => one(make.exec()),
        EventKind::Fork => one(make.fork()),
        EventKind::Exit => one(make.exit()),
        EventKind::Credentials => one(make.credentials()),
        EventKind::Module => one(make.module()),
        EventKind::Connect => one(make.address("security_socket_connect")),
        EventKind::Bind => one(make.address("security_socket_bind")),
        EventKind::Accept => one(make.accept()),
        EventKind::Open => one(make.open(files)),
        EventKind::Mount => make.mounts(),
        EventKind::Ptrace => one(make.ptrace()),
        EventKind::Bpf => one(make.bpf()),
        EventKind::Log => one(make.first_of(&["vprintk_emit"]).map(Recipe::new)),
        EventKind::Panic => one(make.panic()),
    }
}

struct Make<'a> {
    look: &'a Look<'a>,
}

impl Make<'_> {
    fn at(&self, of: &str, path: &str) -> Result<u64, Blind> {
        self.look.offset(of, path)
    }

    /// The place of the first member that the kernel has.
    fn first_at(&self, of: &str, paths: &[&str]) -> Result<u64, Blind> {
        let found = paths.iter().find_map(|path| self.at(of, path).ok());
        found.ok_or_else(|| Blind::NoType(format!("{of}.{}", paths[0])))
    }

    /// The address of the first function that the kernel has.
    fn first_of(&self, names: &[&str]) -> Result<u64, Blind> {
        let found = names.iter().find_map(|name| self.look.symbol(name).ok());
        let found = found.ok_or_else(|| Blind::NoSymbol(names[0].to_owned()))?;
        Ok(found.0)
    }

    /// A recipe that begins with who runs on the CPU.
    fn by(&self, functions: &[&str]) -> Result<Recipe, Blind> {
        let mut recipe = Recipe::new(self.first_of(functions)?);
        self.append_who(&mut recipe)?;
        Ok(recipe)
    }

    fn who(&self, recipe: &mut Recipe, task: From) -> Result<(), Blind> {
        let comm = self.at("task_struct", "comm")?;
        let tgid = self.at("task_struct", "tgid")?;
        recipe.number("tid", task, &[self.at("task_struct", "pid")?], 4);
        recipe.number("pid", task, &[tgid], 4);
        recipe.text("comm", task, &[comm], COMM);
        recipe.number("flags", task, &[self.at("task_struct", "flags")?], 4);
        let started = self.first_at("task_struct", &["start_boottime", "real_start_time"])?;
        recipe.number("started", task, &[started], 8);
        let parent = self.at("task_struct", "real_parent")?;
        recipe.trail("parent pids", task, (parent, tgid), 4);
        recipe.trail("parent names", task, (parent, comm), COMM);
        // What a kernel may be built without is left out where it is.
        let _ = self.own_identity(recipe, task);
        let _ = self.cgroup(recipe, task);
        let _ = self.namespaces(recipe, task);
        Ok(())
    }

    fn own_identity(&self, recipe: &mut Recipe, task: From) -> Result<(), Blind> {
        let cred = self.at("task_struct", "cred")?;
        self.identity(
            recipe,
            ["uid", "euid", "gid", "egid", "caps"],
            task,
            &[cred],
        )
    }

    fn cgroup(&self, recipe: &mut Recipe, task: From) -> Result<(), Blind> {
        let group = [
            self.at("task_struct", "cgroups")?,
            self.at("css_set", "dfl_cgrp")?,
            self.at("cgroup", "kn")?,
        ];
        let up = self.first_at("kernfs_node", &["parent", "__parent"])?;
        let name = self.at("kernfs_node", "name")?;
        recipe.number("cgroup node", task, &group, 8);
        let node = recipe.from("cgroup node");
        recipe.names("cgroup", node, up, name);
        Ok(())
    }

    fn namespaces(&self, recipe: &mut Recipe, task: From) -> Result<(), Blind> {
        let proxy = self.at("task_struct", "nsproxy")?;
        let pids = self.at("nsproxy", "pid_ns_for_children")?;
        let mounts = self.at("nsproxy", "mnt_ns")?;
        let pid_number = self.at("pid_namespace", "ns.inum")?;
        let mount_number = self.at("mnt_namespace", "ns.inum")?;
        recipe.number("pid namespace", task, &[proxy, pids, pid_number], 4);
        recipe.number("mount namespace", task, &[proxy, mounts, mount_number], 4);
        Ok(())
    }

    /// Users, groups and capabilities of a `struct cred` at the end of a path.
    fn identity(
        &self,
        recipe: &mut Recipe,
        names: [&'static str; 5],
        from: From,
        path: &[u64],
    ) -> Result<(), Blind> {
        let members = [
            "uid.val",
            "euid.val",
            "gid.val",
            "egid.val",
            "cap_effective",
        ];
        let places = members.map(|member| self.at("cred", member));
        let places: Vec<u64> = places.into_iter().collect::<Result<_, _>>()?;
        for (name, place) in names.into_iter().zip(places) {
            let bytes = if name.ends_with("caps") { 8 } else { 4 };
            let path = [path, &[place]].concat();
            recipe.number(name, from, &path, bytes);
        }
        Ok(())
    }

    /// The file whose directory entry and mount lie at the ends of two paths.
    fn file(
        &self,
        recipe: &mut Recipe,
        from: From,
        dentry: &[u64],
        mount: &[u64],
    ) -> Result<(), Blind> {
        recipe.number("mount", from, mount, 8);
        recipe.number("dentry", from, dentry, 8);
        let dentry = recipe.from("dentry");
        let name = self.at("dentry", "d_name.name")?;
        recipe.names("path", dentry, self.at("dentry", "d_parent")?, name);
        recipe.text("own name", dentry, &[name, 0], 255);
        recipe.number("hashed", dentry, &[self.at("dentry", "d_hash.pprev")?], 8);
        Ok(())
    }

    /// Where the file system of that file is mounted at this moment: it may be nowhere when it is asked for later. What these
    /// names take may be long, so they come behind everything else.
    fn mounted(&self, recipe: &mut Recipe) -> Result<(), Blind> {
        let next = self.at("dentry", "d_parent")?;
        let name = self.at("dentry", "d_name.name")?;
        let whole = self.at("mount", "mnt")?;
        let root = self.at("mount", "mnt.mnt_root")?;
        let parent = self.at("mount", "mnt_parent")?;
        let point = self.at("mount", "mnt_mountpoint")?;
        let mut mount = recipe.from("mount");
        // A file knows the part of its mount that is for everybody, and mounts know each other as a whole.
        let mut back = whole;
        for level in &LEVELS {
            let member = |offset: u64| [offset.wrapping_sub(back)];
            recipe.names_at(level.part, mount, &member(root), (next, name));
            recipe.names_at(level.point, mount, &member(point), (next, name));
            recipe.number(level.parent, mount, &member(parent), 8);
            mount = recipe.from(level.parent);
            back = 0;
        }
        Ok(())
    }

    /// A program is in place and about to begin: its address space, arguments and credentials are the new ones.
    fn exec(&self) -> Result<Recipe, Blind> {
        let mut recipe = self.by(&["finalize_exec"])?;
        let task = recipe.from("task");
        let mm = self.at("task_struct", "mm")?;
        let file = self.at("mm_struct", "exe_file")?;
        let dentry = self.at("file", "f_path.dentry")?;
        let mount = self.at("file", "f_path.mnt")?;
        self.file(&mut recipe, task, &[mm, file, dentry], &[mm, file, mount])?;
        for (name, member) in [("given", "filename"), ("interpreter", "interp")] {
            let member = self.at("linux_binprm", member)?;
            recipe.text(name, FIRST, &[member, 0], TEXT);
        }
        let ends = [("start", "arg_start"), ("end", "arg_end")];
        for (name, member) in ends {
            let path = [mm, self.at("mm_struct", member)?];
            recipe.number(name, task, &path, 8);
        }
        recipe.between("arguments", "start", "end", ARGUMENTS);
        self.mounted(&mut recipe)?;
        Ok(recipe)
    }

    /// A new task is ready to run, and runs for the first time after this.
    fn fork(&self) -> Result<Recipe, Blind> {
        let mut recipe = self.by(&["wake_up_new_task"])?;
        let member = |name| self.at("task_struct", name);
        recipe.number("child tid", FIRST, &[member("pid")?], 4);
        recipe.number("child pid", FIRST, &[member("tgid")?], 4);
        recipe.number("child flags", FIRST, &[member("flags")?], 4);
        recipe.text("child comm", FIRST, &[member("comm")?], COMM);
        Ok(recipe)
    }

    /// The last thread of a process is at its end.
    fn exit(&self) -> Result<Recipe, Blind> {
        let signal = self.at("task_struct", "signal")?;
        let group_code = [signal, self.at("signal_struct", "group_exit_code")?];
        let group_flags = [signal, self.at("signal_struct", "flags")?];
        let mut recipe = match self.by(&["taskstats_exit"]) {
            Ok(mut recipe) => {
                // Its second argument says whether this is the last thread (`group_dead`).
                recipe.number("is last", SECOND, &[], 1);
                recipe.only("is last", u64::MAX, &[1]);
                let code = self.at("task_struct", "exit_code")?;
                recipe.number("code", FIRST, &[code], 4);
                recipe
            }
            // A kernel without statistics of tasks: the thread that finds itself alone, which of two that end at once neither
            // may.
            Err(_) => {
                let mut recipe = self.by(&["do_exit"])?;
                let task = recipe.from("task");
                let live = self.at("signal_struct", "live.counter")?;
                recipe.number("alive", task, &[signal, live], 4);
                recipe.only("alive", u64::MAX, &[1]);
                recipe.number("code", FIRST, &[], 4);
                recipe
            }
        };
        let task = recipe.from("task");
        recipe.number("group code", task, &group_code, 4);
        recipe.number("group flags", task, &group_flags, 4);
        Ok(recipe)
    }

    /// New credentials are about to be those of the task.
    fn credentials(&self) -> Result<Recipe, Blind> {
        let mut recipe = self.by(&["commit_creds"])?;
        let names = ["new uid", "new euid", "new gid", "new egid", "new caps"];
        self.identity(&mut recipe, names, FIRST, &[])?;
        Ok(recipe)
    }

    /// A module is in place, and its own code runs next.
    fn module(&self) -> Result<Recipe, Blind> {
        let mut recipe = self.by(&["do_init_module"])?;
        recipe.text("module", FIRST, &[self.at("module", "name")?], 64);
        // Newer kernels keep them no longer than it takes to read them.
        if let Ok(arguments) = self.at("module", "args") {
            recipe.text("parameters", FIRST, &[arguments, 0], TEXT);
        }
        recipe.number("taints", FIRST, &[self.at("module", "taints")?], 8);
        Ok(recipe)
    }

    /// A hook with a socket and an address.
    fn address(&self, function: &str) -> Result<Recipe, Blind> {
        let mut recipe = self.by(&[function])?;
        recipe.number("type", FIRST, &[self.at("socket", "type")?], 2);
        recipe.number("length", THIRD, &[], 4);
        recipe.counted("address", SECOND, "length", ADDRESS);
        Ok(recipe)
    }

    /// A connection that came in gets its socket: both addresses are in it.
    fn accept(&self) -> Result<Recipe, Blind> {
        let mut recipe = self.by(&["security_sock_graft"])?;
        let common = |member: &str| self.at("sock", &format!("__sk_common.{member}"));
        recipe.number("family", FIRST, &[common("skc_family")?], 2);
        // IPv4 and IPv6 (`AF_INET`, `AF_INET6`).
        recipe.only("family", u64::MAX, &[2, 10]);
        recipe.number("peer port", FIRST, &[common("skc_dport")?], 2);
        recipe.number("own port", FIRST, &[common("skc_num")?], 2);
        recipe.number("peer v4", FIRST, &[common("skc_daddr")?], 4);
        recipe.number("own v4", FIRST, &[common("skc_rcv_saddr")?], 4);
        if let (Ok(peer), Ok(own)) = (common("skc_v6_daddr"), common("skc_v6_rcv_saddr")) {
            recipe.bytes("peer v6", FIRST, &[peer], 16);
            recipe.bytes("own v6", FIRST, &[own], 16);
        }
        Ok(recipe)
    }

    /// A file is about to be opened.
    fn open(&self, files: &[String]) -> Result<Recipe, Blind> {
        if files.is_empty() {
            return Err(Blind::NotGiven("no file was named whose opening is wanted"));
        }
        let mut recipe = Recipe::new(self.first_of(&["security_file_open"])?);
        let dentry = self.at("file", "f_path.dentry")?;
        let mount = self.at("file", "f_path.mnt")?;
        self.file(&mut recipe, FIRST, &[dentry], &[mount])?;
        // Files are opened all the time: those of other names go no further.
        let last = |path: &String| path.rsplit('/').next().unwrap_or_default().to_owned();
        let names: Vec<String> = files.iter().map(last).collect();
        recipe.only_named("path", &names);
        recipe.number("open flags", FIRST, &[self.at("file", "f_flags")?], 4);
        self.append_who(&mut recipe)?;
        self.mounted(&mut recipe)?;
        Ok(recipe)
    }

    /// Who runs on the CPU, behind what is there.
    fn append_who(&self, recipe: &mut Recipe) -> Result<(), Blind> {
        // Since 6.2 the running task is a member of a per-CPU structure, and later a variable of its own again.
        let current = match self.look.symbol("current_task") {
            Ok(variable) => variable.0,
            Err(_) => self
                .look
                .symbol("pcpu_hot")?
                .0
                .wrapping_add(self.at("pcpu_hot", "current_task")?),
        };
        recipe.number("task", From::Gs, &[current], 8);
        let task = recipe.from("task");
        self.who(recipe, task)
    }

    /// Something is about to be mounted, by the old call or by the new ones.
    fn mounts(&self) -> Result<Vec<Recipe>, Blind> {
        let dentry = self.at("file", "f_path.dentry")?;
        let mount = self.at("file", "f_path.mnt")?;
        // A `struct path` as a function's argument.
        let path = mount.min(dentry);
        let dentry = dentry - path;
        let mount = mount - path;
        let mut old = self.by(&["security_sb_mount"])?;
        old.text("source", FIRST, &[0], 255);
        self.file(&mut old, SECOND, &[dentry], &[mount])?;
        old.text("file system", THIRD, &[0], 64);
        old.number("mount flags", FOURTH, &[], 8);
        self.mounted(&mut old)?;
        let mut all = vec![old];
        if let Ok(mut new) = self.by(&["security_move_mount"]) {
            self.file(&mut new, SECOND, &[dentry], &[mount])?;
            let kind = [
                mount,
                self.at("vfsmount", "mnt_sb")?,
                self.at("super_block", "s_type")?,
                self.at("file_system_type", "name")?,
                0,
            ];
            new.text("file system", FIRST, &kind, 64);
            self.mounted(&mut new)?;
            all.push(new);
        }
        Ok(all)
    }

    /// A process is about to attach to another one, or to read or write its memory.
    fn ptrace(&self) -> Result<Recipe, Blind> {
        /// `PTRACE_MODE_ATTACH` (include/linux/ptrace.h); looking into `/proc` asks for less.
        const ATTACH: u64 = 2;
        let mut recipe = self.by(&["security_ptrace_access_check"])?;
        recipe.number("mode", SECOND, &[], 4);
        recipe.only("mode", ATTACH, &[ATTACH]);
        let member = |name| self.at("task_struct", name);
        recipe.number("target pid", FIRST, &[member("tgid")?], 4);
        recipe.text("target comm", FIRST, &[member("comm")?], COMM);
        Ok(recipe)
    }

    /// A program of BPF is about to be loaded (`union bpf_attr`, include/uapi/linux/bpf.h).
    fn bpf(&self) -> Result<Recipe, Blind> {
        /// `BPF_PROG_LOAD`.
        const LOAD: u64 = 5;
        let mut recipe = self.by(&["security_bpf"])?;
        recipe.number("command", FIRST, &[], 4);
        recipe.only("command", u64::MAX, &[LOAD]);
        recipe.number("program type", SECOND, &[0], 4);
        recipe.number("instructions", SECOND, &[4], 4);
        recipe.text("program", SECOND, &[48], 16);
        Ok(recipe)
    }

    /// The kernel gives up.
    fn panic(&self) -> Result<Recipe, Blind> {
        let mut recipe = self.by(&["panic"])?;
        recipe.text("format", FIRST, &[0], 255);
        Ok(recipe)
    }
}
