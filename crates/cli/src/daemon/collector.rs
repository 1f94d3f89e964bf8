//! The collector of OpenTelemetry that `mother serve --otlp` sends to: its address from the command line, the rest from
//! the variables that every exporter has (opentelemetry.io/docs/specs/otel/protocol/exporter), so that secrets stand in no
//! list of processes.

use std::path::PathBuf;
use std::time::Duration;

use serve::{Collector, Place, Trusted};

use crate::failure::Failure;

/// `key=value,key=value`, sent along with each request.
const HEADERS: &str = "OTEL_EXPORTER_OTLP_HEADERS";
/// A file of the certificates that are trusted.
const CERTIFICATE: &str = "OTEL_EXPORTER_OTLP_CERTIFICATE";
/// Between two times that numbers are sent, in milliseconds.
const INTERVAL: &str = "OTEL_METRIC_EXPORT_INTERVAL";
/// `key=value,key=value`, said of this host.
const ATTRIBUTES: &str = "OTEL_RESOURCE_ATTRIBUTES";
/// Where to, if `--otlp` does not say it.
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// The port that collectors have for HTTP, on this host.
const USUAL: &str = "http://localhost:4318";
/// What exporters do if nobody says anything.
const EVERY: Duration = Duration::from_secs(60);
/// Looking at all VMs costs something.
const SHORTEST: Duration = Duration::from_secs(1);

/// The collector at `typed`, or where the environment says; `variable` reads the environment.
pub(super) fn collector(
    typed: Option<&str>,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Collector, Failure> {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    let place = match typed {
        Some(typed) => Place::new(typed),
        None => Place::new(&set(ENDPOINT).unwrap_or_else(|| USUAL.to_owned())),
    };
    let mut place = place.map_err(Failure::Collector)?;
    if let Some(path) = set(CERTIFICATE) {
        place.trusted = Trusted::File(PathBuf::from(path));
    }
    place.headers = pairs(HEADERS, set(HEADERS))?;
    place.check().map_err(Failure::Collector)?;
    let every = match set(INTERVAL) {
        Some(text) => match text.parse() {
            Ok(milliseconds) => Duration::from_millis(milliseconds).max(SHORTEST),
            Err(_) => return Err(bad(INTERVAL, &text, "a whole number of milliseconds")),
        },
        None => EVERY,
    };
    Ok(Collector {
        place,
        every,
        attributes: pairs(ATTRIBUTES, set(ATTRIBUTES))?,
    })
}

/// Pairs as W3C Baggage writes them, without properties; values are percent-encoded.
fn pairs(name: &'static str, text: Option<String>) -> Result<Vec<(String, String)>, Failure> {
    let text = text.unwrap_or_default();
    let parts = text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty());
    let pair = |part: &str| {
        let (key, value) = part.split_once('=')?;
        let key = key.trim();
        let is_token =
            |letter: char| letter.is_ascii_graphic() && !"\"(),/:;<=>?@[\\]{}".contains(letter);
        let value = decoded(value.trim())?;
        let is_plain = !key.is_empty() && key.chars().all(is_token);
        let is_value = !value.chars().any(char::is_control);
        (is_plain && is_value).then(|| (key.to_owned(), value))
    };
    let read: Option<Vec<_>> = parts.map(pair).collect();
    // A value may be a secret: it is not repeated.
    read.ok_or_else(|| bad(name, "...", "KEY=VALUE,KEY=VALUE, values percent-encoded"))
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let high = digit()?;
        let low = digit()?;
        bytes.push((high * 16 + low) as u8);
    }
    String::from_utf8(bytes).ok()
}

fn bad(name: &'static str, text: &str, wanted: &'static str) -> Failure {
    Failure::BadVariable {
        name,
        text: text.to_owned(),
        wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_where_exporters_look_for_it() {
        let check = |typed: Option<&str>, set: &[(&str, &str)], expected: Result<&str, &str>| {
            let variable = |name: &str| {
                let found = set.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            let found = collector(typed, variable).map(|collector| {
                let all = [collector.place.headers, collector.attributes].concat();
                let words = all.iter().map(|(key, value)| format!(" {key}={value}"));
                format!(
                    "{} {}{}",
                    collector.place.uri,
                    collector.every.as_millis(),
                    words.collect::<String>()
                )
            });
            match (found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected),
                (Err(error), Err(expected)) => {
                    let text = error.text();
                    assert!(text.contains(expected), "{text}");
                    assert_eq!(error.status(), 2, "{text}");
                }
                (found, _) => panic!("{set:?}: {found:?}"),
            }
        };
        check(None, &[], Ok("http://localhost:4318/ 60000"));
        check(
            None,
            &[(ENDPOINT, "https://c/otlp")],
            Ok("https://c/otlp 60000"),
        );
        check(Some("http://c"), &[(ENDPOINT, "x")], Ok("http://c/ 60000"));
        check(
            None,
            &[
                (HEADERS, "api-key=a%20b, x=y"),
                (ATTRIBUTES, "zone=1"),
                (INTERVAL, "1500"),
            ],
            Ok("http://localhost:4318/ 1500 api-key=a b x=y zone=1"),
        );
        check(None, &[(INTERVAL, "10")], Ok("http://localhost:4318/ 1000"));
        check(
            None,
            &[(INTERVAL, "1m")],
            Err("OTEL_METRIC_EXPORT_INTERVAL"),
        );
        check(
            None,
            &[(HEADERS, "secret")],
            Err("OTEL_EXPORTER_OTLP_HEADERS is \"...\""),
        );
        check(None, &[(HEADERS, "a=b%0d%0ac: d")], Err("percent-encoded"));
        check(Some("collector:4318"), &[], Err("is no address"));
        check(None, &[(CERTIFICATE, "/nowhere")], Err("/nowhere"));
    }
}
