//! What can be typed. Values stay text here: `machine::plan` reads them and explains what is wrong.

use std::path::PathBuf;

use api::DiskSpec;
use clap::{Args, Parser, Subcommand};

use crate::disk::disk;
use crate::vm::{
    BalloonArguments, ConsoleArguments, DmesgArguments, InspectArguments, LimitArguments,
    LogsArguments, NamesArguments, PsArguments, RemoveArguments, StopArguments, SwitchArguments,
    TopArguments, TruthArguments,
};

/// A hypervisor that runs guests with or without hardware virtualization.
#[derive(Debug, Parser)]
#[command(name = "mother", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Arguments {
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
    /// Watch all guests on one screen, claim beside truth
    Top(TopArguments),
    /// Press the power button of VMs, and end those that still run after a grace time
    Stop(StopArguments),
    /// End VMs at once
    Kill(NamesArguments),
    /// Stop VMs and their guests' time; they stay in memory and use no CPU
    Pause(NamesArguments),
    /// Let paused VMs go on
    Resume(NamesArguments),
    /// Move VMs that run to another engine, with all that runs in them
    Switch(SwitchArguments),
    /// Ask a guest to give memory back, or show what its balloon holds
    Balloon(BalloonArguments),
    /// Say how much of a running guest's memory the host may hold
    Limit(LimitArguments),
    /// Attach this terminal or pipe to the console of a VM
    Console(ConsoleArguments),
    /// Print what a VM printed, also of one that has ended
    Logs(LogsArguments),
    /// Wait until VMs have ended; the exit status is theirs
    Wait(NamesArguments),
    /// Remove what ended VMs left
    #[command(visible_alias = "remove")]
    Rm(RemoveArguments),
    /// Print completions for a shell
    Completions(CompletionsArguments),
    /// Boot a Debian guest, let it introduce itself, and print what Mother knows beside it
    Demo(DemoArguments),
    /// List root file systems that are kept, remove them
    Images(ImagesArguments),
    /// Say which engines work on this host and why not, and whether the default guest can be had
    Doctor,
}

/// `mother run`.
#[derive(Clone, Debug, Args)]
#[command(after_help = RUN_NOTES)]
pub struct RunArguments {
    /// What to run: debian, debian:12 or debian:13, a disk (./disk.qcow2, ./disk.raw), a container image (an OCI
    /// layout folder or a `docker save` archive), or something kept [default: a small guest with a shell]
    #[arg(value_name = "IMAGE")]
    pub image: Option<String>,
    /// Keep what this run writes under NAME; `mother run NAME` goes on with it [with an IMAGE]
    #[arg(long, value_name = "NAME", requires = "image")]
    pub keep: Option<String>,
    /// Run one program of this host as the guest, with its standard streams and its exit status
    #[arg(long, value_name = "PROGRAM", conflicts_with_all = ["image", "kernel", "initrd", "modules", "cmdline", "debug_exit"])]
    pub app: Option<PathBuf>,
    /// File or folder of this host that the program needs too; may be given again [with --app]
    #[arg(long, value_name = "PATH", requires = "app")]
    pub include: Vec<PathBuf>,
    /// Set a variable in the program's environment; may be given again [with programs and container images]
    #[arg(long = "env", value_name = "NAME=VALUE")]
    pub environment: Vec<String>,
    /// Folder in the guest where the program starts [with programs and container images; default: / or the image's own]
    #[arg(long, value_name = "FOLDER")]
    pub workdir: Option<PathBuf>,
    /// The program's own arguments, behind `--`; a container image runs them in place of its own, and the small guest
    /// runs them as a command
    #[arg(last = true, value_name = "ARGUMENT")]
    pub words: Vec<String>,
    /// Kernel: a bzImage, an ELF kernel with a PVH note, or a multiboot kernel [default: Debian's cloud kernel]
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk [default: a shell, if the kernel is the default one]
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// Boot module with its string; may be given again [multiboot and PVH kernels]
    #[arg(long = "module", value_name = "\"FILE WORDS\"")]
    pub modules: Vec<String>,
    /// Kernel command line; for the default kernel it is added to what that needs [default: console=ttyS0]
    #[arg(long, value_name = "STR", allow_hyphen_values = true)]
    pub cmdline: Option<String>,
    /// Guest memory, from 32M to 16G; what the guest never touches costs the host nothing [default: 512M]
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub memory: Option<String>,
    /// How much of its memory the host may hold: a size, a share such as 10%, or none; the rest is compressed or put
    /// into the page file, and the guest does not know [default: none]
    #[arg(long, value_name = "SIZE|SHARE", help_heading = "Memory")]
    pub resident_limit: Option<String>,
    /// Memory that compressed pages may take [default: as much as the guest has]
    #[arg(long, value_name = "SIZE", help_heading = "Memory")]
    pub page_memory: Option<String>,
    /// Folder of the page file, where pages go when there is no room for them in memory; the file has no name, so
    /// nothing is left of it [default: there is no page file]
    #[arg(long, value_name = "FOLDER", help_heading = "Memory")]
    pub page_file: Option<PathBuf>,
    /// How much may lie in the page file [default: as much as the guest has]
    #[arg(long, value_name = "SIZE", help_heading = "Memory")]
    pub page_file_size: Option<String>,
    /// Take guest memory in huge pages of 2 MiB, where the host has them: fast on KVM; the guest gets no resident limit
    #[arg(long, help_heading = "Memory")]
    pub huge_pages: bool,
    /// Number of vCPUs [default: 1]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub cpus: Option<String>,
    /// What executes the guest: auto, kvm or soft [default: auto]
    #[arg(long, value_name = "ENGINE")]
    pub engine: Option<String>,
    /// Disks.
    #[arg(
        long = "disk",
        value_name = "FILE[,OPTIONS]",
        value_parser = disk,
        help = "A disk: FILE[,format=raw|qcow2][,readonly][,serial=S][,base=FILE[,base-format=F]]; may be given again"
    )]
    pub disks: Vec<DiskSpec>,
    /// How long the guest may run, such as 60s, 5m or 1h [default: no limit]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub timeout: Option<String>,
    /// What the guest is called in messages [default: guest]
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    pub name: Option<String>,
    /// What is behind the guest's network card: user (NAT without privileges), user,host (the same, and the
    /// gateway's address leads to this host's own services), tap=NAME, or none [default: none]
    #[arg(long, value_name = "NETWORK", help_heading = "Network")]
    pub net: Option<String>,
    /// Forwarded ports.
    #[arg(
        short = 'p',
        long = "publish",
        value_name = "PORTS",
        help_heading = "Network",
        help = "Let a port of this host lead into the guest: [ADDRESS:]HOST:GUEST[/udp]; on 127.0.0.1 if no address is \
                given; may be given again"
    )]
    pub publish: Vec<String>,
    /// The guest's MAC address [default: made of the VM's name]
    #[arg(long, value_name = "MAC", help_heading = "Network")]
    pub mac: Option<String>,
    /// Give the guest a vsock device behind the Unix socket FILE: connect to it and say CONNECT PORT
    #[arg(long, value_name = "FILE", help_heading = "Network")]
    pub vsock: Option<PathBuf>,
    /// Which console of the guest is here: serial (ttyS0), or virtio (hvc0), which is fast and knows the size of the
    /// window but needs a driver [default: serial]
    #[arg(long, value_name = "KIND")]
    pub console: Option<String>,
    /// Show on standard error what the guest's kernel says while a program runs [with --app, container images, and
    /// commands from a pipe or behind `--`]
    #[arg(long)]
    pub kernel_log: bool,
    /// Give the guest a debug-exit port at 0xf4: a write ends it with exit status (value << 1) | 1
    #[arg(long)]
    pub debug_exit: bool,
    /// End the guest when it resets itself, instead of starting it again
    #[arg(long)]
    pub no_reboot: bool,
    /// Write what Mother knows about the run to FILE, as JSON, when it has ended
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Return when the guest has started, print its name, and leave it running
    #[arg(short, long)]
    pub detach: bool,
    /// This is the process that `--detach` leaves running
    #[arg(long, hide = true)]
    pub detached_child: bool,
}

/// `mother images`.
#[derive(Clone, Debug, Args)]
pub struct ImagesArguments {
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do; nothing lists them
    #[command(subcommand)]
    pub command: Option<ImagesCommand>,
}

/// What to do with images.
#[derive(Clone, Debug, Subcommand)]
pub enum ImagesCommand {
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
  with --debug-exit, what the guest wrote as (value << 1) | 1

Examples:
  mother run
  printf 'uname -a\\ndf\\n' | mother run --timeout 60s > answers
  mother run -- sh -c 'uname -a; exit 3'
  mother run --kernel vmlinux --cmdline 'console=ttyS0 panic=-1' --memory 2G
  mother run debian
  mother run debian --keep web1
  mother run --app ./prog -- its arguments
  mother run ./image.tar -- command in it
  mother run --kernel test.elf --module 'data.bin some words' --debug-exit";

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
    pub memory: Option<String>,
    /// What executes the guest: auto, kvm or soft [default: auto]
    #[arg(long, value_name = "ENGINE")]
    pub engine: Option<String>,
    /// How long the guest may run [default: 300s]
    #[arg(long, value_name = "TIME", allow_hyphen_values = true)]
    pub timeout: Option<String>,
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
