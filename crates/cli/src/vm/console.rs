//! `mother console`: this terminal or pipe at the console of a VM that runs.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use api::{Command, VmEnd, VmName};
use clap::Args;
use fleet::{Client, ClientError, Inventory, Record};
use runner::each_chunk;

use crate::failure::Failure;
use crate::input::Keys;
use crate::output::standard_output;
use crate::vm::orders::check_alive;
use crate::vm::wait::end_of;
use crate::vm::words::find;
use crate::{signals, terminal};

/// How much of the recent output is shown on attaching.
const REPLAY_BYTES: u64 = 16 * 1024;

/// `mother console`.
#[derive(Clone, Debug, Args)]
#[command(
    visible_alias = "attach",
    after_help = "\
On a terminal every key goes to the guest, Ctrl-C too. Ctrl-A d (or Ctrl-A x) leaves
the guest running, Ctrl-A Ctrl-A sends Ctrl-A. A pipe or file as standard input is
typed into the guest; at its end the console is shown on until the guest ends or the
reader goes away.

Any number of consoles may be attached; all see the same, and all may type.

Exit status:
  0 you left, or the guest powered off; otherwise that of the guest's end, as of run"
)]
pub struct ConsoleArguments {
    /// Which VM
    #[arg(value_name = "NAME")]
    name: String,
    /// Only look; nothing is typed into the guest
    #[arg(short, long)]
    read_only: bool,
    /// Show nothing of what was printed before
    #[arg(long)]
    no_replay: bool,
}

/// Attaches until somebody leaves or the VM ends; the exit status.
pub fn console(arguments: &ConsoleArguments) -> Result<u8, Failure> {
    let inventory = Inventory::of_user()?;
    let vm = find(&inventory, &arguments.name)?;
    check_alive(&vm, "attach to")?;
    let record = inventory.record(&vm.name);
    let failed = |source| Failure::Vm {
        act: "attach to",
        name: vm.name.clone(),
        source,
    };
    let replay_bytes = if arguments.no_replay { 0 } else { REPLAY_BYTES };
    let command = Command::Console {
        replay_bytes,
        types: !arguments.read_only,
    };
    let mut client = Client::connect(&record).map_err(failed)?;
    client.order(command).map_err(failed)?;
    let (first, stream) = client.into_console().map_err(failed)?;
    let is_interactive = terminal::is_interactive();
    let resize = move || drop(tell_size(&record));
    if is_interactive {
        eprintln!(
            "mother: at the console of VM \"{}\"; Ctrl-A d leaves it running",
            vm.name
        );
        resize();
    }
    signals::leave_in_order(resize).map_err(Failure::Signals)?;
    if is_interactive {
        terminal::make_raw().map_err(|source| Failure::Terminal {
            act: "take",
            source,
        })?;
    }
    let end = hear_of_end(inventory.clone(), vm.name.clone())?;
    let has_left = Arc::new(AtomicBool::new(false));
    let keys = stream
        .try_clone()
        .map_err(|error| failed(ClientError::Connection(error)))?;
    send_input(
        keys,
        is_interactive,
        arguments.read_only,
        Arc::clone(&has_left),
    )?;
    show(&first, stream)?;
    terminal::restore();
    if has_left.load(Ordering::Acquire) {
        eprintln!("mother: you left VM \"{}\"; it goes on", vm.name);
        return Ok(0);
    }
    // The connection may also have been closed for another reason: then this waits for the VM's real end.
    let end = end
        .recv()
        .unwrap_or_else(|_| end_of(&inventory, &vm.name))?;
    eprintln!("mother: VM \"{}\" has ended: {}", vm.name, end.message);
    Ok(end.exit_status)
}

/// Waits for the VM's end on a connection of its own, from now on: one that leaves nothing says it only there.
fn hear_of_end(
    inventory: Inventory,
    name: VmName,
) -> Result<Receiver<Result<VmEnd, Failure>>, Failure> {
    let (sender, receiver) = mpsc::channel();
    let wait = move || {
        // Nobody listens any more when the person has left.
        let _ = sender.send(end_of(&inventory, &name));
    };
    thread::Builder::new()
        .name("end".to_owned())
        .spawn(wait)
        .map_err(Failure::Input)?;
    Ok(receiver)
}

/// Says how large our terminal is, for a guest whose console can be told.
fn tell_size(record: &Record) -> Result<(), ClientError> {
    match terminal::size() {
        Some((rows, columns)) => Client::connect(record)?.order(Command::Resize { rows, columns }),
        None => Ok(()),
    }
}

/// Sends what is typed until the person leaves.
fn send_input(
    mut to: UnixStream,
    is_interactive: bool,
    is_read_only: bool,
    has_left: Arc<AtomicBool>,
) -> Result<(), Failure> {
    if is_read_only && !is_interactive {
        return Ok(());
    }
    let send = move || {
        let mut keys = Keys::of_console();
        each_chunk(io::stdin().lock(), |bytes| {
            let (typed, leaves) = if is_interactive {
                keys.read(bytes)
            } else {
                (bytes.to_vec(), false)
            };
            if leaves {
                has_left.store(true, Ordering::Release);
                let _ = to.shutdown(Shutdown::Both);
            }
            !leaves && (is_read_only || to.write_all(&typed).is_ok())
        });
    };
    thread::Builder::new()
        .name("console-input".to_owned())
        .spawn(send)
        .map(drop)
        .map_err(Failure::Input)
}

/// Shows what comes until nothing comes any more.
fn show(first: &[u8], mut from: UnixStream) -> Result<(), Failure> {
    let mut output = standard_output().map_err(Failure::Output)?;
    output.write_all(first).map_err(Failure::Output)?;
    let mut bytes = [0; 16 * 1024];
    loop {
        match from.read(&mut bytes) {
            Ok(count @ 1..) => output.write_all(&bytes[..count]).map_err(Failure::Output)?,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            _ => return Ok(()),
        }
    }
}
