//! Commands about VMs that run or have run: each asks the inventory and the VM's control socket, and prints.

mod again;
mod all_watched;
mod balloon;
mod connections;
mod console;
mod copy;
mod described;
mod dmesg;
mod dump;
mod everybody;
mod exec;
mod foreign;
mod given;
mod goal;
mod hooks;
mod inside;
mod inspect;
mod logs;
mod networks;
mod observe;
mod orders;
mod process_table;
mod processes;
mod profile;
mod ps;
mod rest;
mod snapshot;
mod top;
mod trace;
mod truth;
mod update;
mod upgrade;
mod verdicts;
mod wait;
mod watch;
mod words;

pub use self::watch::journal::words as decision_words;
pub use self::watch::{WatchArguments, watch};
pub use again::{RenameArguments, rename, restart, start};
pub use balloon::{BalloonArguments, balloon};
pub use console::{ConsoleArguments, console};
pub use copy::{CopyArguments, copy};
pub use dmesg::{DmesgArguments, dmesg};
pub use dump::{DumpArguments, dump};
pub use exec::{ExecArguments, exec};
pub use hooks::{HooksArguments, hooks};
pub use inspect::{InspectArguments, inspect};
pub use logs::{LogsArguments, logs};
pub use networks::{NetworksArguments, networks};
pub use orders::{
    LimitArguments, LinkArguments, NamesArguments, RemoveArguments, StopArguments, SwitchArguments,
    kill, limit, link, nmi, pause, remove, resume, stop, switch,
};
pub use profile::{ProfileArguments, profile};
pub use ps::{PsArguments, ps};
pub use snapshot::{
    ForkArguments, RestoreArguments, SnapshotArguments, SuspendArguments, fork, order_from,
    restore, snapshot, suspend,
};
pub use top::{TopArguments, top};
pub use trace::{TraceArguments, trace};
pub use truth::{TruthArguments, truth};
pub use update::{UpdateArguments, update};
pub use upgrade::{UpgradeArguments, upgrade};
pub use wait::{WaitArguments, wait};
