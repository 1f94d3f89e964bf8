//! Where the processes of a VM say what they have to say: standard error, bounded once nobody sits there.

use std::env;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Format;

use crate::warning::Warning;

/// The variable with the level, or a filter.
pub(crate) const LEVEL: &str = "MOTHER_LOG";

/// Bytes of their own log that the processes of a detached VM write at most, each.
const MESSAGES_BYTES: u64 = 1 << 20;

/// Bytes that the log may still have.
static ROOM: AtomicU64 = AtomicU64::new(u64::MAX);

/// Lines end as a terminal in raw mode needs it.
static IS_RAW: AtomicBool = AtomicBool::new(false);

/// What is said, and how.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct LogWish {
    /// A level or a filter; warnings without.
    filter: Option<String>,
    /// Without colours, also at a terminal.
    is_plain: bool,
}

impl LogWish {
    /// As the environment of this process wants it.
    pub(crate) fn of_environment() -> LogWish {
        LogWish {
            filter: env::var(LEVEL).ok(),
            is_plain: env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()),
        }
    }
}

/// Logs from now on.
pub(crate) fn begin(wish: &LogWish) {
    let is_plain = wish.is_plain;
    log_to(
        wish.filter.as_deref(),
        io::stderr().is_terminal() && !is_plain,
        || Writer,
    );
}

/// Logs to `writer` from now on what `wanted` asks for, by a level or a filter. Without, or where that is none, warnings in the
/// words of a command. Somebody who has begun to log already goes on with that.
pub fn log_to<W: Write>(
    wanted: Option<&str>,
    has_colours: bool,
    writer: impl Fn() -> W + Send + Sync + 'static,
) {
    let wanted = wanted.map(EnvFilter::try_new);
    let log = tracing_subscriber::fmt()
        .with_ansi(has_colours)
        .with_writer(writer);
    let _ = match wanted.and_then(Result::ok) {
        Some(filter) => log.with_env_filter(filter).try_init(),
        None => log
            .with_env_filter(EnvFilter::new("warn"))
            .event_format(Warning {
                is_a_log,
                of_a_log: Format::default(),
            })
            .try_init(),
    };
}

/// Standard error is a terminal in raw mode.
pub(crate) fn is_raw(is_raw: bool) {
    IS_RAW.store(is_raw, Ordering::Relaxed);
}

/// Whether nobody sits there, so that times are wanted.
fn is_a_log() -> bool {
    ROOM.load(Ordering::Relaxed) != u64::MAX
}

/// Lets only so much more into the log: nobody makes room where it goes now.
pub(crate) fn limit() {
    ROOM.store(MESSAGES_BYTES, Ordering::Relaxed);
}

struct Writer;

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let take = |room: u64| Some(room.saturating_sub(bytes.len() as u64));
        let room = ROOM.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        if room.unwrap_or(0) < bytes.len() as u64 {
            return Ok(bytes.len());
        }
        let mut stderr = io::stderr();
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            stderr.write_all(piece)?;
            if piece.ends_with(b"\n") && IS_RAW.load(Ordering::Relaxed) {
                stderr.write_all(b"\r")?;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
