//! SNMP: the daemon as a subagent (AgentX, RFC 2741) of the host's SNMP agent, for VM-MIB (RFC 7666).
//!
//! The host's agent has the port, the users and what they may see; the daemon is asked by it over a socket and tells it of
//! changes. It is only read: nothing here starts, stops or sets anything.

mod mib;
mod pdu;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::time::{interval, sleep, timeout};

use self::mib::{Numbers as Indices, Oper, View};
use self::pdu::{HEADER_BYTES, Head, Kind, Numbers, Range, Reader, Value, Writer, Wrong};
use crate::daemon::Daemon;
use crate::sight::Change;
use crate::words::VmView;

/// Before an agent that is gone is looked for again.
const AGAIN: Duration = Duration::from_secs(5);
/// How long the agent may take for an answer, and a packet for its rest.
const PATIENCE: Duration = Duration::from_secs(10);
/// So that an agent that is gone without a word is noticed.
const PING_EVERY: Duration = Duration::from_secs(30);
/// How long answers come from the same look at the table.
const VIEW_HOLDS: Duration = Duration::from_secs(1);
/// Packets that wait to be read.
const WAITING_MAX: usize = 16;
/// Objects in one answer.
const OBJECTS_MAX: usize = 1000;
/// sysUpTime.0 and snmpTrapOID.0 (RFC 3418).
const TRAP: [u32; 11] = [1, 3, 6, 1, 6, 3, 1, 1, 4, 1, 0];
/// Answers to who wants to set something (RFC 3416).
const NOT_WRITABLE: u16 = 17;
const COMMIT_FAILED: u16 = 14;
const UNDO_FAILED: u16 = 15;
/// What cannot be read (RFC 2741, 6.2.16).
const PARSE_ERROR: u16 = 266;
/// How this end is called.
const DESCRIPTION: &[u8] = b"Mother, a hypervisor";

/// Why a connection to the agent has ended.
#[derive(Debug, Error)]
enum Ended {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it sent {0}")]
    Wrong(#[from] Wrong),
    #[error("it refuses with error {0}")]
    Refused(u16),
    #[error("it does not answer")]
    Silent,
}

/// A packet that has come.
struct Came {
    head: Head,
    payload: Vec<u8>,
}

/// What lasts longer than a connection.
struct Known {
    indices: Indices,
    /// What each VM was doing when it was told of last, and whether it was declared.
    told: BTreeMap<String, (Oper, bool)>,
    begun: Instant,
    /// What was answered from last: a walk over a thousand VMs is ten thousand questions.
    view: Option<(Instant, View)>,
}

impl Known {
    /// What there is, not older than the daemon's own table.
    fn view(&mut self, daemon: &Daemon) -> &View {
        let kept = self.view.take();
        let (at, view) = kept
            .filter(|(at, _)| at.elapsed() < VIEW_HOLDS)
            .unwrap_or_else(|| {
                let ticks = mib::ticks(self.begun.elapsed().as_secs_f64());
                let vms = daemon.sight.all();
                let version = &daemon.options.version;
                let view = View::new(&vms, &mut self.indices, version, ticks);
                (Instant::now(), view)
            });
        &self.view.insert((at, view)).1
    }
}

/// Answers and tells the agent at `place`, a path or HOST:PORT, for ever.
pub(crate) async fn attend(daemon: Arc<Daemon>, place: String) {
    let mut known = Known {
        indices: Indices::default(),
        told: BTreeMap::new(),
        begun: Instant::now(),
        view: None,
    };
    let mut was_there = true;
    loop {
        let ended = if place.contains('/') {
            match UnixStream::connect(&place).await {
                Ok(stream) => serve(&daemon, stream, &mut known).await,
                Err(error) => error.into(),
            }
        } else {
            match TcpStream::connect(&place).await {
                Ok(stream) => serve(&daemon, stream, &mut known).await,
                Err(error) => error.into(),
            }
        };
        // Once, until it has been there again.
        let is_there =
            !matches!(&ended, Ended::Io(error) if error.kind() != io::ErrorKind::UnexpectedEof);
        if was_there || is_there {
            tracing::warn!("the SNMP agent at {place}: {ended}");
        }
        was_there = is_there;
        sleep(AGAIN).await;
    }
}

/// One connection to its end.
async fn serve(
    daemon: &Arc<Daemon>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    known: &mut Known,
) -> Ended {
    match serve_until(daemon, stream, known).await {
        Err(ended) => ended,
        Ok(never) => match never {},
    }
}

async fn serve_until(
    daemon: &Arc<Daemon>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    known: &mut Known,
) -> Result<std::convert::Infallible, Ended> {
    let (reader, mut writer) = tokio::io::split(stream);
    let (to, mut packets) = mpsc::channel(WAITING_MAX);
    // A packet that has come in part is not lost when something else happens meanwhile.
    let reading = tokio::spawn(read_all(reader, to));
    let _end = EndWith(reading);
    let mut numbers = Numbers::default();
    numbers.session = ask(&mut writer, &mut packets, open(numbers)).await?;
    numbers.packet += 1;
    ask(&mut writer, &mut packets, register(numbers)).await?;
    let (all, mut changes) = daemon.sight.listen();
    let mut told = changed_meanwhile(known, &all);
    let mut pings = interval(PING_EVERY);
    pings.reset();
    let mut is_pinged = false;
    loop {
        for notification in told.drain(..) {
            numbers.packet += 1;
            writer.write_all(&notify(numbers, &notification)).await?;
        }
        tokio::select! {
            came = packets.recv() => {
                let came = came.ok_or(Ended::Silent)??;
                is_pinged &= came.head.kind != Some(Kind::Response);
                if let Some(answer) = answer(daemon, known, &came) {
                    writer.write_all(&answer).await?;
                }
            }
            change = changes.recv() => match change {
                Ok(change) => told.extend(of_change(known, &change)),
                Err(RecvError::Lagged(_)) => {
                    let (all, again) = daemon.sight.listen();
                    changes = again;
                    told = changed_meanwhile(known, &all);
                }
                Err(RecvError::Closed) => return Err(Ended::Silent),
            },
            _ = pings.tick() => {
                if std::mem::replace(&mut is_pinged, true) {
                    return Err(Ended::Silent);
                }
                numbers.packet += 1;
                writer.write_all(&Writer::new(Kind::Ping, numbers).finish()).await?;
            }
        }
    }
}

/// Ends a task when its connection does.
struct EndWith(tokio::task::JoinHandle<()>);

impl Drop for EndWith {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn read_all(mut from: impl AsyncRead + Unpin, to: mpsc::Sender<Result<Came, Ended>>) {
    loop {
        let came = read(&mut from).await;
        let is_last = came.is_err();
        if to.send(came).await.is_err() || is_last {
            return;
        }
    }
}

async fn read(from: &mut (impl AsyncRead + Unpin)) -> Result<Came, Ended> {
    let mut bytes = [0; HEADER_BYTES];
    from.read_exact(&mut bytes).await?;
    let head = Head::read(&bytes)?;
    let mut payload = vec![0; head.len];
    let rest = timeout(PATIENCE, from.read_exact(&mut payload)).await;
    rest.map_err(|_| Ended::Silent)??;
    Ok(Came { head, payload })
}

/// Sends a packet and waits for its answer; the session that this has.
async fn ask(
    writer: &mut (impl AsyncWrite + Unpin),
    packets: &mut mpsc::Receiver<Result<Came, Ended>>,
    packet: Vec<u8>,
) -> Result<u32, Ended> {
    writer.write_all(&packet).await?;
    loop {
        let came = timeout(PATIENCE, packets.recv()).await;
        let came = came.ok().flatten().ok_or(Ended::Silent)??;
        if came.head.kind == Some(Kind::Response) {
            let mut payload = came.head.payload(&came.payload)?;
            payload.u32()?;
            return match payload.u16()? {
                0 => Ok(came.head.numbers.session),
                error => Err(Ended::Refused(error)),
            };
        }
    }
}

fn open(numbers: Numbers) -> Vec<u8> {
    let mut writer = Writer::new(Kind::Open, numbers);
    // The agent's own time-out.
    writer.bytes4([0; 4]);
    writer.name(&[]);
    writer.text(DESCRIPTION);
    writer.finish()
}

fn register(numbers: Numbers) -> Vec<u8> {
    const USUAL_PRIORITY: u8 = 127;
    let mut writer = Writer::new(Kind::Register, numbers);
    writer.bytes4([0, USUAL_PRIORITY, 0, 0]);
    writer.name(&mib::ROOT);
    writer.finish()
}

fn notify(numbers: Numbers, notification: &mib::Notification) -> Vec<u8> {
    let mut writer = Writer::new(Kind::Notify, numbers);
    writer.object(&TRAP, &Value::Name(notification.name.clone()));
    for (name, value) in &notification.objects {
        writer.object(name, value);
    }
    writer.finish()
}

/// What happened while nobody was there to be told. At the first time nothing has.
fn changed_meanwhile(known: &mut Known, all: &[VmView]) -> Vec<mib::Notification> {
    let is_first = known.told.is_empty();
    let gone: Vec<String> = known
        .told
        .keys()
        .filter(|name| all.iter().all(|vm| vm.name != **name))
        .cloned()
        .collect();
    let gone: Vec<_> = gone.into_iter().map(Change::Gone).collect();
    let are = all.iter().map(|vm| Change::Is(Box::new(vm.clone())));
    let changes: Vec<_> = gone.into_iter().chain(are).collect();
    let told = changes.iter().filter_map(|it| of_change(known, it));
    let told: Vec<_> = told.collect();
    if is_first { Vec::new() } else { told }
}

/// What is told of a change.
fn of_change(known: &mut Known, change: &Change) -> Option<mib::Notification> {
    match change {
        Change::Is(vm) => {
            let now = Oper::of(vm);
            let before = known
                .told
                .insert(vm.name.clone(), (now, vm.declared.is_some()));
            // One that is new did not run before.
            let before = before.map_or(Oper::Shutdown, |(before, _)| before);
            let index = known.indices.of(&vm.name);
            mib::notification(index, &vm.name, before, Some(now), vm.declared.is_some())
        }
        Change::Gone(name) => {
            let (before, was_declared) = known.told.remove(name)?;
            let index = known.indices.of(name);
            mib::notification(index, name, before, None, was_declared)
        }
    }
}

/// The answer to a packet; none for one that wants none.
fn answer(daemon: &Daemon, known: &mut Known, came: &Came) -> Option<Vec<u8>> {
    let numbers = came.head.numbers;
    let failed = |error| Some(response(numbers, error, &[]));
    let kind = match came.head.kind {
        Some(kind @ (Kind::Get | Kind::GetNext | Kind::GetBulk)) => kind,
        Some(Kind::TestSet) => return failed(NOT_WRITABLE),
        Some(Kind::CommitSet) => return failed(COMMIT_FAILED),
        Some(Kind::UndoSet) => return failed(UNDO_FAILED),
        _ => return None,
    };
    let view = known.view(daemon);
    let found = came
        .head
        .payload(&came.payload)
        .and_then(|payload| find(view, kind, payload));
    match found {
        Ok(objects) => Some(response(numbers, 0, &objects)),
        Err(_) => failed(PARSE_ERROR),
    }
}

type Objects = Vec<(pdu::Oid, Value)>;

fn find(view: &View, kind: Kind, mut payload: Reader<'_>) -> Result<Objects, Wrong> {
    if kind == Kind::Get {
        let ranges = payload.ranges()?.into_iter();
        let found = ranges.map(|range| {
            let value = view.get(&range.start);
            (range.start, value)
        });
        return Ok(found.collect());
    }
    let (single, repeated) = match kind {
        Kind::GetBulk => (payload.u16()?.into(), payload.u16()?.into()),
        _ => (usize::MAX, 0),
    };
    let ranges = payload.ranges()?;
    let single = single.min(ranges.len());
    let mut found: Objects = ranges[..single].iter().map(|it| view.next(it)).collect();
    // Each repetition goes on where the one before has stopped (RFC 2741, 7.2.3.3).
    let mut ranges: Vec<Range> = ranges[single..].to_vec();
    for _ in 0..repeated {
        if found.len() + ranges.len() > OBJECTS_MAX || ranges.is_empty() {
            break;
        }
        for range in &mut ranges {
            let (name, value) = view.next(range);
            range.start.clone_from(&name);
            range.includes_start = false;
            found.push((name, value));
        }
    }
    Ok(found)
}

fn response(numbers: Numbers, error: u16, objects: &[(pdu::Oid, Value)]) -> Vec<u8> {
    let mut writer = Writer::new(Kind::Response, numbers);
    writer.u32(0);
    let [high, low] = error.to_be_bytes();
    // Which object it is about: the first.
    writer.bytes4([high, low, 0, u8::from(error == NOT_WRITABLE)]);
    for (name, value) in objects {
        writer.object(name, value);
    }
    writer.finish()
}
