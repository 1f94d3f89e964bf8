//! How a warning of Mother's own looks to who typed a command: as its errors do, without time and module. Who asks for a level
//! (`MOTHER_LOG`), and who reads later what the processes of a detached VM said, reads a log, with both.

use std::fmt::{self, Write};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// `warning: TEXT`, or `error: TEXT`, with causes behind it.
pub(crate) struct Warning {
    /// Whether a log is written by now.
    pub is_a_log: fn() -> bool,
    pub of_a_log: Format<Full>,
}

impl<S, N> FormatEvent<S, N> for Warning
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if (self.is_a_log)() {
            return self.of_a_log.format_event(context, writer, event);
        }
        let mut words = Words::default();
        event.record(&mut words);
        let kind = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            _ => "note",
        };
        writeln!(writer, "{kind}: {}{}", words.message, words.others)
    }
}

/// What an event says.
#[derive(Default)]
struct Words {
    message: String,
    others: String,
}

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Nothing is wrong with a string that is written to.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            "error" => write!(self.others, ": {value:?}"),
            name => write!(self.others, "; {name}: {value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn check(say: impl FnOnce(), expected: &str) {
        let warning = Warning {
            is_a_log: || false,
            of_a_log: Format::default(),
        };
        let kept = Kept::default();
        let writer = kept.clone();
        let subscriber = tracing_subscriber::fmt()
            .event_format(warning)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, say);
        let said = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        assert_eq!(said, expected);
    }

    #[test]
    fn a_warning_looks_like_an_error_of_a_command() {
        let name = "web";
        check(
            || tracing::warn!("the network of \"{name}\" is gone"),
            "warning: the network of \"web\" is gone\n",
        );
        let error = io::Error::other("no room");
        check(
            || tracing::error!(%error, "the end could not be told"),
            "error: the end could not be told: no room\n",
        );
        check(
            || tracing::info!(count = 3, "refused"),
            "note: refused; count: 3\n",
        );
    }
}
