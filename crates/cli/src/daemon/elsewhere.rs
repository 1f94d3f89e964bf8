//! `mother --host URL COMMAND`: the daemon of another host runs it and sends what it prints.

use std::io::{self, Write};

use serde_json::{Value, json};
use serve::Target;

use crate::exit_status::OUR_FAULT;
use crate::failure::Failure;

/// Where the token is.
const TOKEN: &str = "MOTHER_TOKEN";
/// Where the SHA-256 of the other host's certificate is.
const FINGERPRINT: &str = "MOTHER_FINGERPRINT";
/// The port that is meant where none is written.
const PORT: u16 = 9470;

/// Has the words that were typed run at `url`; the exit status is the command's.
pub fn run(url: &str) -> Result<u8, Failure> {
    let target = target(url)?;
    let body = json!({ "words": words() });
    let mut status = None;
    let mut failure = None;
    target.follow("POST", "/v1/command", Some(&body), |line| {
        let Ok(value) = serde_json::from_str::<Value>(line) else {
            return true;
        };
        let written = if let Some(text) = value["out"].as_str() {
            let mut stdout = io::stdout().lock();
            stdout
                .write_all(text.as_bytes())
                .and_then(|()| stdout.flush())
        } else if let Some(text) = value["err"].as_str() {
            io::stderr().lock().write_all(text.as_bytes())
        } else {
            status = value["status"].as_u64();
            Ok(())
        };
        failure = written.err();
        failure.is_none()
    })?;
    match failure {
        Some(error) => Err(Failure::Output(error)),
        None => Ok(status
            .and_then(|status| u8::try_from(status).ok())
            .unwrap_or(OUR_FAULT)),
    }
}

/// What was typed, without the host.
fn words() -> Vec<String> {
    let mut words = Vec::new();
    let mut typed = std::env::args_os()
        .skip(1)
        .map(|word| word.to_string_lossy().into_owned());
    let mut is_ours = true;
    while let Some(word) = typed.next() {
        match word.as_str() {
            "--host" if is_ours => drop(typed.next()),
            word if is_ours && word.starts_with("--host=") => {}
            word => {
                is_ours = is_ours && word != "--";
                words.push(word.to_owned());
            }
        }
    }
    words
}

/// The daemon at a URL, with the token and the certificate of the environment.
fn target(url: &str) -> Result<Target, Failure> {
    let bad = |what: &str| Failure::BadHost {
        url: url.to_owned(),
        what: what.to_owned(),
    };
    let rest = url
        .strip_prefix("https://")
        .ok_or_else(|| bad("write https://HOST:PORT"))?;
    let rest = rest.trim_end_matches('/');
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            let port = port
                .parse()
                .map_err(|_| bad("what is behind the last colon is no port"))?;
            (host, port)
        }
        _ => (rest, PORT),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() || host.contains('/') {
        return Err(bad("write https://HOST:PORT"));
    }
    let variable =
        |name: &'static str| std::env::var(name).map_err(|_| Failure::NoHostVariable(name));
    let fingerprint: String = variable(FINGERPRINT)?
        .chars()
        .filter(|it| *it != ':')
        .collect();
    Ok(Target::Tls {
        host: host.to_owned(),
        port,
        token: variable(TOKEN)?,
        fingerprint: fingerprint.to_ascii_lowercase(),
    })
}
