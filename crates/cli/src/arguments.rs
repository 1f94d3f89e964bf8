//! What can be typed. What describes a VM is `api::VmSpec`, whose fields are the options of `mother run`.

use std::path::PathBuf;

use api::{EngineWish, MemorySize, Timeout};
use clap::{Args, Parser, Subcommand, ValueEnum};
use registry::When;

use crate::daemon::{
    ApplyArguments, CreateArguments, DeleteArguments, EditArguments, EventsArguments,
    ServeArguments, TokenArguments,
};
use crate::doctor::DoctorArguments;
use crate::policy_command::PolicyArguments;
use crate::snapshots_command::SnapshotsArguments;
use crate::spec_arguments::SpecArguments;
use crate::vm::{
    BalloonArguments, ConsoleArguments, CopyArguments, DmesgArguments, DumpArguments,
    ExecArguments, ForkArguments, HooksArguments, InspectArguments, LimitArguments, LinkArguments,
    LogsArguments, NamesArguments, NetworksArguments, ProfileArguments, PsArguments,
    RemoveArguments, RenameArguments, RestoreArguments, SnapshotArguments, StopArguments,
    SuspendArguments, SwitchArguments, TopArguments, TraceArguments, TruthArguments,
    UpdateArguments, UpgradeArguments, WaitArguments, WatchArguments,
};

/// A hypervisor that runs guests with or without hardware virtualization.
#[derive(Debug, Parser)]
#[command(name = "mother", version = env!("MOTHER_VERSION"), arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Arguments {
    /// For root: speak of this user's VMs, which are told of it in their logs
    #[arg(long, global = true, value_name = "USER")]
    pub user: Option<String>,
    /// Have the daemon of another host do it: https://HOST:PORT, with the token in MOTHER_TOKEN and the SHA-256 of its
    /// certificate in MOTHER_FINGERPRINT
    #[arg(long, global = true, value_name = "URL")]
    pub host: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  mother demo                     a guest boots, and what Mother knows about it
  mother run                      a shell in a small guest
  mother run debian               Debian with systemd, and root logged in
  echo 'uname -a' | mother run    run commands in it
  mother run -d --name web        leave it running; then: ps, console web, stop web
  mother ps web; mother truth web what is really going on in there
  mother run --kernel bzImage --initrd initrd.img --cmdline 'console=ttyS0'
  mother doctor                   which engines work here, and why not";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a guest with its console on this terminal or pipe
    Run(Box<RunArguments>),
    /// List VMs: name, engine, state, uptime, CPU time, memory given and resident; or one guest's processes
    Ps(PsArguments),
    /// What a guest claims, what its kernel has in its books, and what Mother knows, side by side
    Truth(TruthArguments),
    /// Everything that is known about a VM and its guest
    Inspect(InspectArguments),
    /// Print the log of a guest's kernel, read from outside, also after a panic
    Dmesg(DmesgArguments),
    /// Print where a guest's kernel calls code because somebody asked it to, and whose code that is
    Hooks(HooksArguments),
    /// Tell what a guest does as it does it: programs, connections, modules, users, mounts
    Trace(TraceArguments),
    /// Follow a policy: what is to be done when something is seen of guests
    Watch(WatchArguments),
    /// Look at policies before they are followed
    Policy(PolicyArguments),
    /// Write a guest's memory and registers to a file that crash, drgn, Volatility and others open
    Dump(DumpArguments),
    /// Write what is known of a guest's kernel, for tools that would need its debug symbols
    Profile(ProfileArguments),
    /// Serve this host's VMs to clients: REST, events, numbers, a web page; and keep declared VMs as they are wanted
    Serve(ServeArguments),
    /// Declare a VM to the daemon, which starts it and sees that it stays as it is wanted
    Create(Box<CreateArguments>),
    /// Change what is declared of a VM, in an editor
    Edit(EditArguments),
    /// Forget declared VMs, stop them and remove what they left
    Delete(DeleteArguments),
    /// Make declared VMs be as they are written in files
    Apply(ApplyArguments),
    /// Print what happened to VMs, as the daemon keeps it
    Events(EventsArguments),
    /// Say who may use the daemon over the network
    Token(TokenArguments),
    /// Watch all guests on one screen, claim beside truth
    Top(TopArguments),
    /// Press the power button of VMs, and end those that still run after a grace time
    Stop(StopArguments),
    /// End VMs at once
    Kill(NamesArguments),
    /// Start VMs that have ended again, as they were asked for
    Start(NamesArguments),
    /// Stop VMs, and start them again
    Restart(StopArguments),
    /// Give a VM that has ended another name
    Rename(RenameArguments),
    /// Change what a VM is asked for: its limits at once, everything else at its next start
    Update(Box<UpdateArguments>),
    /// Stop VMs and their guests' time; they stay in memory and use no CPU
    Pause(NamesArguments),
    /// Let paused VMs go on
    Resume(NamesArguments),
    /// Send guests an NMI, as the button of a machine does: a Linux says that it came, or panics and dumps if it is told to
    Nmi(NamesArguments),
    /// Move VMs that run to another engine, with all that runs in them
    Switch(SwitchArguments),
    /// Have VMs that run go on in processes of this program: a new binary under a running guest
    Upgrade(UpgradeArguments),
    /// Write all that a VM is into a snapshot, and let it run on
    Snapshot(SnapshotArguments),
    /// Write all that a VM is into a snapshot, and end it
    Suspend(SuspendArguments),
    /// Have VMs go on from a snapshot
    Restore(RestoreArguments),
    /// Have more VMs go on from what a running one is now
    Fork(ForkArguments),
    /// Ask a guest to give memory back, or show what its balloon holds
    Balloon(BalloonArguments),
    /// Bound what a running VM may use of its host: memory, CPU time, disks, network, consoles
    Limit(LimitArguments),
    /// Plug the cable of guests' network cards in, or pull it
    Link(LinkArguments),
    /// Attach this terminal or pipe to the console of a VM
    Console(ConsoleArguments),
    /// Run one more program in a guest, with its streams and exit status here
    Exec(ExecArguments),
    /// Copy files into a guest, out of one, or between two
    Cp(CopyArguments),
    /// Print what a VM printed, also of one that has ended
    Logs(LogsArguments),
    /// Wait until VMs have ended, with their exit status; or until they run, show a login, or answer at a port
    Wait(WaitArguments),
    /// Remove what ended VMs left
    #[command(visible_alias = "remove")]
    Rm(RemoveArguments),
    /// Print completions for a shell
    Completions(CompletionsArguments),
    /// Boot a Debian guest, let it introduce itself, and print what Mother knows beside it
    Demo(DemoArguments),
    /// List root file systems that are kept, remove them
    Images(ImagesArguments),
    /// List VMs that were put on disk, look into them, verify them, remove them
    Snapshots(SnapshotsArguments),
    /// List networks between VMs, and who is on them
    Networks(NetworksArguments),
    /// Say which engines work on this host and why not, and whether the default guest can be had
    Doctor(DoctorArguments),
}

/// `mother run`.
#[derive(Clone, Debug, Args)]
#[command(after_help = RUN_NOTES)]
pub struct RunArguments {
    /// What describes the VM: each field of `api::VmSpec` is an option.
    #[command(flatten)]
    pub written: SpecArguments,
    /// Take what is not said here from FILE, TOML or JSON with the options' names as keys
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Go on from SNAPSHOT instead of starting: what the VM has is what it had; only --name and --engine may be said
    /// besides
    #[arg(long, value_name = "SNAPSHOT", conflicts_with_all = ["config", "kernel_log", "print_config"])]
    pub from: Option<String>,
    /// Show on standard error what the guest's kernel says while a program runs [with --app, container images, and
    /// commands from a pipe or behind `--`]
    #[arg(long)]
    pub kernel_log: bool,
    /// When a registry is asked for an image of that name: always, so that a newer one is found; missing, if it is not
    /// here; never
    #[arg(
        long,
        value_name = "WHEN",
        default_value = "missing",
        hide_default_value = true
    )]
    pub pull: PullWish,
    /// Print what is said here and in the file as such a file, and run nothing
    #[arg(long)]
    pub print_config: bool,
    /// Write what Mother knows about the run to FILE, as JSON, when it has ended
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Return when the guest has started, print its name, and leave it running
    #[arg(short, long)]
    pub detach: bool,
    /// With -d: say what was done as JSON, an array with an object
    #[arg(long, requires = "detach")]
    pub json: bool,
}

/// `mother images`.
#[derive(Clone, Debug, Args)]
pub struct ImagesArguments {
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// Only names, a line each
    #[arg(short, long, conflicts_with = "json")]
    pub quiet: bool,
    /// What to do; nothing lists them
    #[command(subcommand)]
    pub command: Option<ImagesCommand>,
}

/// When a registry is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum PullWish {
    /// Also if the image is here
    Always,
    /// If it is not here
    #[default]
    Missing,
    /// Not at all
    Never,
}

impl From<PullWish> for When {
    fn from(wish: PullWish) -> When {
        match wish {
            PullWish::Always => When::Always,
            PullWish::Missing => When::Missing,
            PullWish::Never => When::Never,
        }
    }
}

/// What to do with images.
#[derive(Clone, Debug, Subcommand)]
pub enum ImagesCommand {
    /// List them, as without a word
    #[command(visible_alias = "list")]
    Ls,
    /// Get images from their registries, or what is new of them
    Pull {
        /// Their names, such as ghcr.io/org/app:1 or one with @DIGEST; without a host they are Docker Hub's
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Remove images or what was kept
    Rm {
        /// Their names, as listed
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// Remove leftovers of dead runs and images that newer ones have replaced
    Prune {
        /// Every image that no guest runs on and nothing is kept over
        #[arg(long)]
        all: bool,
    },
}

const RUN_NOTES: &str = "\
Console:
  On a terminal every key goes to the guest, Ctrl-C too. Ctrl-A x leaves,
  Ctrl-A Ctrl-A sends Ctrl-A. Standard output has the guest's console and
  nothing else. When standard input is a pipe or a file, it is typed into the
  guest, and its end is sent as Ctrl-D.

Programs:
  Commands from a pipe or a file into the small guest, a command behind `--`,
  --app and container images have standard streams and an exit status of their
  own. --kernel-log shows the guest's kernel log beside them; --console serial
  types a pipe into the console instead.

Exit status:
  that of the program; of other guests 0 the guest powered off or you left it, 1 Mother failed, 2 bad input,
  3 the guest crashed (triple fault), 124 the time was up, 137 it was killed;
  with --debug-exit, what the guest wrote as (value << 1) | 1; all of them: docs/exit-status.md

Examples:
  mother run
  printf 'uname -a\\ndf\\n' | mother run --timeout 60s > answers
  mother run -- sh -c 'uname -a; exit 3'
  mother run --kernel vmlinux --cmdline 'console=ttyS0 panic=-1' --memory 2G
  mother run debian
  mother run debian --keep web1
  mother run --app ./prog -- its arguments
  mother run ./image.tar -- command in it
  mother run docker.io/library/alpine -- cat /etc/os-release
  mother run --kernel test.elf --module 'data.bin some words' --debug-exit
  mother run debian --cpus 2 -p 8080:80 --print-config > web.toml
  mother run --config web.toml --memory 2G
  mother run --from before-upgrade";

/// `mother completions`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  mother completions bash > ~/.local/share/bash-completion/completions/mother
  mother completions zsh > \"${fpath[1]}/_mother\"
  mother completions fish > ~/.config/fish/completions/mother.fish")]
pub struct CompletionsArguments {
    /// bash, zsh or fish
    #[arg(value_name = "SHELL", value_parser = ["bash", "zsh", "fish"])]
    pub shell: String,
}

/// `mother demo`.
#[derive(Clone, Debug, Args)]
pub struct DemoArguments {
    /// Guest memory [default: 512M]
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub memory: Option<MemorySize>,
    /// What executes the guest: auto, kvm or soft [default: auto]
    #[arg(long, value_name = "ENGINE")]
    pub engine: Option<EngineWish>,
    /// How long the guest may run [default: 300s]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub timeout: Option<Timeout>,
    /// Write what Mother knows about the run to FILE, as JSON, when it has ended
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
