//! `mother exec`: one more program in a guest that runs, started by the guest agent.
//!
//! ```text
//! this process                     VM's process           guest
//! input ──> window ──> messages ──> socket device ──> agent ──> program
//! output <── errors <──────────────────────────────────┘
//! ```
//!
//! Where standard input and output are a terminal, the program gets one of its own of the same size, and every key is the
//! guest's. Else streams stay apart, byte for byte, and signals are handed on. What is not taken by this side's reader lets the program
//! wait, as on a pipe.

use std::io::{self, IsTerminal, Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use api::VmName;
use api::agent::{MESSAGE_BYTES_MAX, WINDOW, from_agent, to_agent};
use clap::Args;
use fleet::{Agent, AgentError, Inventory, OneVm};
use host::lock::Lock;
use runner::Echo;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use crate::failure::Failure;
use crate::output::standard_output;
use crate::vm::orders::check_alive;
use crate::vm::words::find;
use crate::{signals, terminal};

/// How long a guest that may only be starting is waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is run if nothing was named: a shell that reads its user's settings, the better one if there are two.
const SHELL: [&str; 3] = [
    "sh",
    "-c",
    "command -v bash >/dev/null && exec bash -l; exec sh -l",
];

/// `mother exec`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Works in guests that Mother makes: the small one, debian, container images and --app. The
guest agent in there does it; a VM that was started with `--agent off`, or from a kernel or
initrd of your own, has none.

At a terminal the program has one too, and every key goes to it. Else its three streams stay
apart, and signals are handed on to it. It ends with this command, unless it has nothing to do
with its terminal any more (nohup). In a container image it runs where the image's own program does.

Exit status:
  that of the program; 126 it cannot be started, 127 it is not there, 1 the guest or its agent
  was not reached; all of them: docs/exit-status.md

Examples:
  mother exec web uname -a
  mother exec web
  mother exec web -- sh -c 'tar c /etc' > etc.tar
  mother exec --as nobody --env LANG=C --workdir /tmp web -- ls -l < list")]
pub struct ExecArguments {
    /// As whom: USER or USER:GROUP, names or numbers [default: root, or the image's own]
    #[arg(long = "as", value_name = "USER")]
    identity: Option<String>,
    /// Set a variable in the program's environment; may be given again
    #[arg(short, long = "env", value_name = "NAME=VALUE")]
    environment: Vec<String>,
    /// Folder in the guest where it starts [default: the user's home, or the image's own]
    #[arg(short, long, value_name = "FOLDER")]
    workdir: Option<String>,
    /// Leave standard input alone: the program finds it at its end
    #[arg(short = 'n', long)]
    no_input: bool,
    /// Give it a terminal though this is none
    #[arg(short, long)]
    tty: bool,
    /// Give it standard input, which it has anyway
    #[arg(short, long, hide = true)]
    interactive: bool,
    /// Which VM
    #[arg(value_name = "NAME")]
    name: String,
    /// The program and its arguments [default: a shell]
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    words: Vec<String>,
}

/// Runs the program to its end; its exit status.
pub fn exec(arguments: &ExecArguments) -> Result<u8, Failure> {
    let request = arguments.request()?;
    let inventory = Inventory::of_user()?;
    let vm = find(&inventory, &arguments.name)?;
    check_alive(&vm, "run a program in")?;
    let failed = |source| Failure::Vm {
        act: "run a program in",
        name: vm.name.clone(),
        source,
    };
    let (one, _) = OneVm::connect(inventory.record(&vm.name)).map_err(failed)?;
    let not_done = |error| not_done(&vm.name, error);
    let mut agent = Agent::connect(&one, PATIENCE).map_err(not_done)?;
    let gone = |_| not_done(AgentError::Cut);
    agent.say(to_agent::START, &request).map_err(gone)?;
    let writer = agent.try_clone().map_err(gone)?;
    let session = Arc::new(Session {
        agent: Lock::new(writer),
        under_way: AtomicUsize::new(0),
        feeder: OnceLock::new(),
    });
    let is_raw = arguments.wants_terminal() && io::stdin().is_terminal();
    let hears = Arc::new(move || Agent::connect(&one, Duration::ZERO).is_ok());
    session
        .hear_signals(is_raw, hears)
        .map_err(Failure::Signals)?;
    if is_raw {
        terminal::make_raw().map_err(|source| Failure::Terminal {
            act: "take",
            source,
        })?;
    }
    if arguments.no_input {
        session.say(to_agent::INPUT_ENDS, &[]);
    } else {
        let session = Arc::clone(&session);
        let feeder = thread::Builder::new().name("input".to_owned());
        let feed = move || session.feed();
        feeder.spawn(feed).map_err(Failure::Input)?;
    }
    let ended = session.show(&mut agent);
    terminal::restore();
    match ended {
        Ok(status) => Ok(status),
        // In shells' words, the statuses of what cannot be started are the program's.
        Err(Stopped::Agent(AgentError::Refused { status, why })) if matches!(status, 126 | 127) => {
            let program = arguments.words.first().map_or("sh", String::as_str);
            eprintln!(
                "mother: cannot start {program} in VM \"{}\": {why}",
                vm.name
            );
            Ok(status as u8)
        }
        Err(Stopped::Agent(error)) => Err(not_done(error)),
        Err(Stopped::Output(error)) => Err(Failure::Output(error)),
    }
}

/// What the agent could not do, with what to do about it.
pub(super) fn not_done(name: &VmName, error: AgentError) -> Failure {
    let help = match &error {
        AgentError::Vm(_) => "`mother ps -a` says what has become of it",
        AgentError::NoDevice => {
            "guests that Mother makes have one unless they are started with `--agent off`; `mother console` needs none"
        }
        AgentError::NotRunning("paused") => "`mother resume` lets it go on",
        AgentError::NotRunning(_) => "`mother ps -a` says what it does",
        AgentError::Silent => {
            "it may be starting, or have ended: `mother ps -a` and `mother logs` say more; `mother console` needs no agent"
        }
        AgentError::Cut => {
            "its guest has started again or has ended, or the VM was upgraded: `mother ps -a` says what it does now, and \
             `mother logs` what the guest said last"
        }
        AgentError::Strange => {
            "a guest that was started by another version of Mother has that version's agent; start it anew"
        }
        AgentError::Refused { .. } => "what there is in the guest, `mother console` shows",
    };
    Failure::NotNow {
        act: "run a program in",
        name: name.clone(),
        why: error.to_string(),
        help,
    }
}

impl ExecArguments {
    fn wants_terminal(&self) -> bool {
        let all = io::stdin().is_terminal() && io::stdout().is_terminal();
        self.tty || (all && !self.no_input)
    }

    /// The words of the request.
    fn request(&self) -> Result<Vec<u8>, Failure> {
        let mut words: Vec<String> = Vec::new();
        if self.wants_terminal() {
            let (rows, columns) = terminal::size().unwrap_or((24, 80));
            words.push(format!("tty={rows}x{columns}"));
            let term = std::env::var("TERM").unwrap_or_else(|_| "dumb".to_owned());
            words.push(format!("env=TERM={term}"));
        }
        words.extend(self.environment.iter().map(|it| format!("env={it}")));
        words.extend(self.identity.iter().map(|user| format!("user={user}")));
        words.extend(self.workdir.iter().map(|folder| format!("cwd={folder}")));
        let shell = SHELL.map(str::to_owned);
        let program = match self.words.as_slice() {
            [] => &shell[..],
            words => words,
        };
        words.extend(program.iter().map(|word| format!("arg={word}")));
        let mut request = Vec::new();
        for word in &words {
            request.extend(word.as_bytes());
            request.push(0);
        }
        let bad = |what: String, help: &'static str| Failure::BadWord {
            act: "run this in a guest",
            what,
            help,
        };
        if let Some(it) = self.environment.iter().find(|it| !it.contains('=')) {
            let what = format!("\"{}\" is no variable", it.escape_debug());
            return Err(bad(what, "write NAME=VALUE"));
        }
        if words.iter().any(|word| word.contains('\0')) {
            let what = "a word with a zero byte in it".to_owned();
            return Err(bad(what, "leave it out: no program could be given it"));
        }
        if request.len() > MESSAGE_BYTES_MAX {
            let what = format!("{} bytes of words", request.len());
            let help = "give a program at most 64 KiB of words and variables; standard input takes any amount";
            return Err(bad(what, help));
        }
        Ok(request)
    }
}

/// This side of a program.
struct Session {
    agent: Lock<Agent>,
    /// Bytes of input that the agent has not yet taken.
    under_way: AtomicUsize,
    /// Who waits for it to take some.
    feeder: OnceLock<Thread>,
}

/// Why it did not come to an end.
enum Stopped {
    Agent(AgentError),
    Output(io::Error),
}

impl Session {
    /// A connection that is gone is heard of by whoever reads it.
    fn say(&self, kind: u8, payload: &[u8]) {
        let _ = self.agent.lock().say(kind, payload);
    }

    /// Hands on signals, and with a terminal its size; those of its keys come as keys. `hears` says whether there is anybody in
    /// the guest whom a signal reaches.
    fn hear_signals(self: &Arc<Session>, is_raw: bool, hears: Arc<Hears>) -> io::Result<()> {
        let session = Arc::clone(self);
        if is_raw {
            return signals::leave_in_order(move || {
                if let Some((rows, columns)) = terminal::size() {
                    let size = [rows.to_le_bytes(), columns.to_le_bytes()].concat();
                    session.say(to_agent::SIZE, &size);
                }
            });
        }
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2])?;
        let hand_on = move || {
            let mut before = None;
            let mut echo = Echo::default();
            for signal in &mut signals {
                if echo.is(signal, Instant::now()) {
                    continue;
                }
                // Who says it twice is tired of waiting.
                if before == Some(signal) && matches!(signal, SIGINT | SIGTERM | SIGQUIT) {
                    signals::die_of(signal);
                }
                before = Some(signal);
                session.say(to_agent::SIGNAL, &[signal as u8]);
                if matches!(signal, SIGINT | SIGTERM | SIGHUP | SIGQUIT) {
                    let hears = Arc::clone(&hears);
                    let thread = thread::Builder::new().name("hears".to_owned());
                    // Where there can be no thread, the same signal once more ends it.
                    let _ = thread.spawn(move || die_unless_heard(signal, &*hears));
                }
            }
        };
        let thread = thread::Builder::new().name("signals".to_owned());
        thread.spawn(hand_on).map(drop)
    }

    /// Sends standard input to its end.
    fn feed(&self) {
        let mut stdin = io::stdin().lock();
        let mut bytes = vec![0; MESSAGE_BYTES_MAX];
        loop {
            match stdin.read(&mut bytes) {
                Ok(count @ 1..) => {
                    self.wait_for_room(count);
                    self.say(to_agent::INPUT, &bytes[..count]);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => break,
            }
        }
        self.say(to_agent::INPUT_ENDS, &[]);
    }

    /// Only the feeder adds, so what there is room for stays so.
    fn wait_for_room(&self, count: usize) {
        let _ = self.feeder.set(thread::current());
        while self.under_way.load(Ordering::Acquire) + count > WINDOW {
            thread::park();
        }
        self.under_way.fetch_add(count, Ordering::AcqRel);
    }

    /// Shows what the program prints until it has ended; its exit status.
    fn show(&self, agent: &mut Agent) -> Result<u8, Stopped> {
        let mut output = standard_output().map_err(Stopped::Output)?;
        let mut errors = io::stderr().lock();
        loop {
            let message = agent.hear().map_err(Stopped::Agent)?;
            let payload = message.payload.as_slice();
            match (message.kind, payload) {
                (from_agent::OUTPUT, bytes) => output.write_all(bytes).map_err(Stopped::Output)?,
                // Where complaints cannot go, they are lost.
                (from_agent::ERRORS, bytes) => drop(errors.write_all(bytes)),
                (from_agent::TOOK, &[a, b, c, d]) => {
                    let count = u32::from_le_bytes([a, b, c, d]) as usize;
                    let taken = |now: usize| Some(now.saturating_sub(count));
                    let _ = self
                        .under_way
                        .fetch_update(Ordering::AcqRel, Ordering::Acquire, taken);
                    if let Some(feeder) = self.feeder.get() {
                        feeder.unpark();
                    }
                }
                (from_agent::EXIT, &[status, ..]) => return Ok(status),
                _ => return Err(Stopped::Agent(AgentError::Strange)),
            }
        }
    }
}

/// Says whether there is anybody in the guest whom a signal reaches.
type Hears = dyn Fn() -> bool + Send + Sync;

/// A guest that stands still, because its kernel has given up or somebody has paused it, hands no signal on to a program: then this
/// side dies of it. A program may take as long as it likes.
fn die_unless_heard(signal: i32, hears: &Hears) {
    for _ in 0..2 {
        if hears() {
            return;
        }
    }
    let words = "mother: no guest agent answers, so the signal reached no program; what runs in the guest is as it was\n";
    // Not by way of the standard library, whose lock is held by who shows what the program complains of.
    let _ = rustix::io::write(rustix::stdio::stderr(), words.as_bytes());
    signals::die_of(signal);
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        exec: ExecArguments,
    }

    #[test]
    fn words_become_a_request_or_are_refused() {
        let check = |words: &[&str], expected: Result<&str, &str>| {
            let words = [&["exec"], words].concat();
            let request = Command::parse_from(words).exec.request();
            let request = request.map(|bytes| String::from_utf8(bytes).unwrap().replace('\0', " "));
            let request = request.map_err(|failure| failure.to_string());
            let expected = expected.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(request, expected);
        };
        check(&["web", "ls", "-l"], Ok("arg=ls arg=-l "));
        check(&["web", "--", "ls", "--", "x"], Ok("arg=ls arg=-- arg=x "));
        check(
            &["--as", "nobody", "-e", "A=b c", "-w", "/tmp", "web", "env"],
            Ok("env=A=b c user=nobody cwd=/tmp arg=env "),
        );
        let term = std::env::var("TERM").unwrap_or_else(|_| "dumb".to_owned());
        let (rows, columns) = terminal::size().unwrap_or((24, 80));
        let expected = format!("tty={rows}x{columns} env=TERM={term} arg=true ");
        check(&["-it", "web", "true"], Ok(&expected));
        check(
            &["-e", "A", "web", "env"],
            Err("cannot run this in a guest: \"A\" is no variable"),
        );
        let long = "x".repeat(MESSAGE_BYTES_MAX);
        check(
            &["web", &long],
            Err("cannot run this in a guest: 65541 bytes of words"),
        );
    }
}
