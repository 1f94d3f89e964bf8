//! `mother start`, `restart` and `rename`: VMs that have ended, as they were asked for.

use std::ffi::CStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};

use api::{VmName, VmOrigin};
use clap::Args;
use fleet::{Inventory, Vm};
use rustix::fs::{MemfdFlags, memfd_create};
use serde_json::{Map, Value};

use super::orders::{
    NamesArguments, StopArguments, check_ended, each_or_daemon, is_alive, stop_one,
};
use super::words::find;
use crate::failure::Failure;
use crate::output::say_done;

/// `mother rename`.
#[derive(Clone, Debug, Args)]
pub struct RenameArguments {
    /// Which VM; it must have ended, for a running guest knows its name
    #[arg(value_name = "NAME")]
    old: String,
    /// What it shall be called
    #[arg(value_name = "NEW")]
    new: String,
    /// Say what was done as JSON: an array with an object
    #[arg(long)]
    json: bool,
}

/// Starts ended VMs again; the exit status.
pub fn start(arguments: &NamesArguments) -> Result<u8, Failure> {
    each_or_daemon(arguments, ("start", None), |inventory, vm| {
        check_ended(vm, "start")?;
        start_one(inventory, vm)
    })
}

/// Stops VMs that run, and starts them again; the exit status.
pub fn restart(arguments: &StopArguments) -> Result<u8, Failure> {
    let grace = Some(arguments.grace_ms() / 1000);
    each_or_daemon(arguments.names(), ("restart", grace), |inventory, vm| {
        let vm = inventory.find(&vm.name)?;
        // Asked before it is ended: one that cannot be started again goes on.
        origin(&vm)?;
        if is_alive(&vm) {
            stop_one(inventory, &vm, arguments.grace_ms())?;
        }
        // What a stop leaves is how it ended; how it came to be is known from before.
        let ended = match inventory.find(&vm.name) {
            Ok(ended) => Vm {
                origin: vm.origin.clone(),
                ..ended
            },
            Err(_) => vm.clone(),
        };
        start_one(inventory, &ended)
    })
}

/// Renames an ended VM; the exit status.
pub fn rename(arguments: &RenameArguments) -> Result<u8, Failure> {
    let inventory = Inventory::of_user()?;
    let vm = find(&inventory, &arguments.old)?;
    let new = VmName::new(&arguments.new).map_err(|source| Failure::Name {
        name: arguments.new.clone(),
        source,
    })?;
    inventory.rename(&vm.name, &new)?;
    say_done(&new, arguments.json)?;
    Ok(0)
}

/// How it came to be; what runs at a terminal without a name leaves nothing, and what an older Mother started did not
/// write it down.
fn origin(vm: &Vm) -> Result<&VmOrigin, Failure> {
    vm.origin.as_ref().ok_or_else(|| Failure::NotNow {
        act: "start",
        name: vm.name.clone(),
        why: "it is not known how it was started".to_owned(),
        help: "start it with `mother run`; what that is told is kept",
    })
}

/// Has `mother run -d` start it in the folder where it was started, from what was asked for.
fn start_one(inventory: &Inventory, vm: &Vm) -> Result<(), Failure> {
    let origin = origin(vm)?;
    let failed = |act| move |source| Failure::Detach { act, source };
    let mut asked = origin.asked.clone();
    asked.name = Some(vm.name.clone());
    let file = in_memory(&asked.said()).map_err(failed("write the description of"))?;
    let mut command = Command::new("/proc/self/exe");
    command
        .args(["run", "--detach", "--config"])
        .arg(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .current_dir(&origin.folder)
        .stdin(Stdio::null())
        // The name is said by us.
        .stdout(Stdio::null());
    let status = command.status().map_err(failed("start"))?;
    if status.success() {
        // Of all that is written down it is this alone that the new run does not know.
        if let Some(new) = inventory.record(&vm.name).origin() {
            let words = origin.words.clone();
            inventory.note_origin(&vm.name, &VmOrigin { words, ..new })?;
        }
        return Ok(());
    }
    inventory.put_back(vm)?;
    Err(Failure::NotNow {
        act: "start",
        name: vm.name.clone(),
        why: "see above".to_owned(),
        help: "`mother inspect` shows what it was asked for, `mother update` changes it",
    })
}

/// A file without a path, which the new process inherits.
fn in_memory(said: &Map<String, Value>) -> std::io::Result<File> {
    const NAME: &CStr = c"description";
    let mut file = File::from(memfd_create(NAME, MemfdFlags::empty())?);
    file.write_all(Value::Object(said.clone()).to_string().as_bytes())?;
    Ok(file)
}
