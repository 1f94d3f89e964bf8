//! Commands about VMs that run or have run: each asks the inventory and the VM's control socket, and prints.

mod console;
mod logs;
mod orders;
mod ps;
mod wait;
mod words;

pub use console::{ConsoleArguments, console};
pub use logs::{LogsArguments, logs};
pub use orders::{NamesArguments, RemoveArguments, StopArguments, kill, pause, remove, resume, stop};
pub use ps::{PsArguments, ps};
pub use wait::wait;
