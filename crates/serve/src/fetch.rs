//! Fetches a file over HTTP, for a drive: bounded in size and time, with its SHA-256, and gone on with where a connection ended.
//!
//! Redirections are followed, five at most and never from https to http; name and password go to the server that they were given
//! for, and to no other. Link-local addresses, where clouds serve the host's credentials, are never asked, and this host's own
//! only if the caller has named them, not if another host's server leads there: [`may_ask`]. A server's certificate is compared with those that the host trusts.

use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode, Uri, header};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http_body_util::BodyExt;
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};

use crate::media::{Folder, MEDIUM_BYTES_MAX, Unnamed};
use crate::orders::problem;
use crate::post::{Place, PostError};
use crate::words::{Medium, Problem};

/// How long a server may say nothing.
const SILENCE: Duration = Duration::from_secs(30);
/// How long it may take as a whole.
const WHOLE_TIME: Duration = Duration::from_secs(6 * 3600);
/// Connections that may end early, one after the other, without a byte more.
const TRIES: u32 = 5;
/// Servers that one address may lead over.
const REDIRECTIONS_MAX: u32 = 5;
/// Bytes that are written at once.
const PIECE_BYTES: usize = 1 << 20;

/// What is fetched.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// Its address.
    pub(crate) url: String,
    /// As whom, with their password.
    pub(crate) user: Option<(String, String)>,
}

/// Why a try ended.
enum Failure {
    /// The next one may go better.
    Again(String),
    /// It is of no use.
    Final(String),
}

/// A file on its way.
struct Coming {
    unnamed: Arc<Unnamed>,
    digest: Sha256,
    /// Bytes that are there.
    len_bytes: u64,
    /// Bytes that there will be, if the server has said it.
    whole_bytes: Option<u64>,
    /// By which the server knows again what it began to send.
    tag: Option<String>,
}

/// Fetches `source` into `folder`; `note` hears how far it is.
///
/// # Errors
/// What a person can do something about: the server, the file, the room for it.
pub(crate) async fn fetch(
    source: &Source,
    folder: &Folder,
    note: impl Fn(String),
) -> Result<Medium, Problem> {
    let failed = |why: String| {
        problem(
            "failed",
            format!("cannot fetch {}: {why}", shown(&source.url)),
        )
    };
    let host = |error: std::io::Error| failed(format!("it cannot be kept: {error}"));
    let unnamed = Arc::new(folder.begin().map_err(host)?);
    let mut coming = Coming {
        unnamed,
        digest: Sha256::new(),
        len_bytes: 0,
        whole_bytes: None,
        tag: None,
    };
    let until = Instant::now() + WHOLE_TIME;
    let mut tries = 0;
    loop {
        let before = coming.len_bytes;
        match coming.go_on(source, folder, &note).await {
            Ok(()) => break,
            Err(Failure::Final(why)) => return Err(failed(why)),
            Err(Failure::Again(why)) => {
                tries = if coming.len_bytes > before {
                    1
                } else {
                    tries + 1
                };
                if tries > TRIES || Instant::now() > until {
                    return Err(failed(why));
                }
                note(format!("{why}; it is tried again"));
                sleep(Duration::from_secs(1 << tries.min(4))).await;
            }
        }
    }
    let digest: String = coming
        .digest
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let unnamed =
        Arc::into_inner(coming.unnamed).ok_or_else(|| failed("it is still written".to_owned()))?;
    let folder = folder.clone();
    let of = digest.clone();
    let named = spawn_blocking(move || folder.finish(unnamed, &of)).await;
    let file = named
        .map_err(|error| failed(error.to_string()))?
        .map_err(host)?;
    Ok(Medium {
        image: source.url.clone(),
        file,
        is_own: true,
        len_bytes: coming.len_bytes,
        sha256: Some(digest),
        user: source.user.as_ref().map(|(name, _)| name.clone()),
    })
}

/// An address without its query, which may have a secret.
fn shown(url: &str) -> &str {
    url.split('?').next().unwrap_or_default()
}

impl Coming {
    /// One connection: from where it is to the end.
    async fn go_on(
        &mut self,
        source: &Source,
        folder: &Folder,
        note: &impl Fn(String),
    ) -> Result<(), Failure> {
        let mut url = source.url.clone();
        let mut led_by = None;
        for _ in 0..=REDIRECTIONS_MAX {
            let place = self.place(source, &url)?;
            let may = |address| may_ask(address, led_by);
            let (response, _sender, peer) = place.get(may).await.map_err(of_post)?;
            let status = response.status();
            if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
                url = next(&place.uri, response.headers())?;
                led_by = Some(peer);
                continue;
            }
            self.begin(status, response.headers())?;
            let mut body = response.into_body();
            let mut piece = Vec::with_capacity(PIECE_BYTES);
            loop {
                let frame = match timeout(SILENCE, body.frame()).await {
                    Ok(Some(Ok(frame))) => frame,
                    Ok(None) => break,
                    Ok(Some(Err(error))) => {
                        self.write(&mut piece, folder, note).await?;
                        return Err(Failure::Again(format!("the connection ended: {error}")));
                    }
                    Err(_) => {
                        self.write(&mut piece, folder, note).await?;
                        let silence = SILENCE.as_secs();
                        return Err(Failure::Again(format!("nothing came for {silence} s")));
                    }
                };
                if let Ok(bytes) = frame.into_data() {
                    piece.extend_from_slice(&bytes);
                }
                if piece.len() >= PIECE_BYTES {
                    self.write(&mut piece, folder, note).await?;
                }
            }
            self.write(&mut piece, folder, note).await?;
            return match self.whole_bytes {
                Some(whole) if self.len_bytes < whole => {
                    Err(Failure::Again("the connection ended early".to_owned()))
                }
                _ if self.len_bytes == 0 => Err(Failure::Final("it is empty".to_owned())),
                _ => Ok(()),
            };
        }
        Err(Failure::Final("it leads from server to server".to_owned()))
    }

    /// Where it is asked for, and with which headers.
    fn place(&self, source: &Source, url: &str) -> Result<Place, Failure> {
        let mut place = Place::new(url).map_err(|error| Failure::Final(error.to_string()))?;
        let at = |url: &str| {
            let uri: Option<Uri> = url.parse().ok();
            uri.map(|uri| (uri.scheme().cloned(), uri.authority().cloned()))
        };
        if let Some((name, password)) = source.user.as_ref().filter(|_| at(url) == at(&source.url))
        {
            let both = BASE64_STANDARD.encode(format!("{name}:{password}"));
            place
                .headers
                .push(("authorization".to_owned(), format!("Basic {both}")));
        }
        if let Some(tag) = self.tag.as_ref().filter(|_| self.len_bytes > 0) {
            place
                .headers
                .push(("range".to_owned(), format!("bytes={}-", self.len_bytes)));
            place.headers.push(("if-range".to_owned(), tag.clone()));
        }
        Ok(place)
    }

    /// Takes what an answer says before its body.
    fn begin(&mut self, status: StatusCode, headers: &HeaderMap) -> Result<(), Failure> {
        let text = |name: header::HeaderName| headers.get(name).and_then(|it| it.to_str().ok());
        let goes_on = text(header::CONTENT_RANGE).and_then(|range| {
            range
                .strip_prefix("bytes ")?
                .split('-')
                .next()?
                .parse()
                .ok()
        }) == Some(self.len_bytes);
        match status {
            StatusCode::PARTIAL_CONTENT if self.len_bytes > 0 && goes_on => return Ok(()),
            StatusCode::OK => {}
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
                return Err(Failure::Again(format!("the server answers {status}")));
            }
            status if status.is_server_error() => {
                return Err(Failure::Again(format!("the server answers {status}")));
            }
            status => return Err(Failure::Final(format!("the server answers {status}"))),
        }
        // From the start, whatever there was.
        self.len_bytes = 0;
        self.digest = Sha256::new();
        self.unnamed
            .file
            .set_len(0)
            .map_err(|error| Failure::Final(format!("it cannot be kept: {error}")))?;
        self.whole_bytes = text(header::CONTENT_LENGTH).and_then(|len| len.parse().ok());
        // What may be another file with the same tag is not gone on with (RFC 9110, 13.1.5).
        let tag = text(header::ETAG).filter(|tag| !tag.starts_with("W/"));
        self.tag = tag.or(text(header::LAST_MODIFIED)).map(str::to_owned);
        Ok(())
    }

    /// Writes what has come, if there is room for it.
    async fn write(
        &mut self,
        piece: &mut Vec<u8>,
        folder: &Folder,
        note: &impl Fn(String),
    ) -> Result<(), Failure> {
        let end = self.len_bytes + piece.len() as u64;
        if end.max(self.whole_bytes.unwrap_or(0)) > MEDIUM_BYTES_MAX {
            let most = MEDIUM_BYTES_MAX >> 30;
            return Err(Failure::Final(format!("it is larger than {most} GiB")));
        }
        let unnamed = Arc::clone(&self.unnamed);
        let folder = folder.clone();
        let mut digest = std::mem::take(&mut self.digest);
        let bytes = std::mem::take(piece);
        let at = self.len_bytes;
        let whole = self.whole_bytes.unwrap_or(end);
        let written = spawn_blocking(move || {
            let left = whole.max(end) - at;
            if folder.room_bytes()? < left {
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            unnamed.file.write_all_at(&bytes, at)?;
            digest.update(&bytes);
            Ok((digest, bytes))
        });
        let written = written
            .await
            .map_err(|error| Failure::Final(error.to_string()))?;
        let (digest, mut bytes) = written.map_err(|error: std::io::Error| {
            Failure::Final(format!("it cannot be kept: {error}"))
        })?;
        bytes.clear();
        *piece = bytes;
        self.digest = digest;
        self.len_bytes = end;
        let mib = |bytes: u64| bytes >> 20;
        note(match self.whole_bytes {
            Some(whole) => format!("{} MiB of {} MiB are there", mib(end), mib(whole)),
            None => format!("{} MiB are there", mib(end)),
        });
        Ok(())
    }
}

/// Whether a server at `address` is asked, if the one at `led_by` leads to it, or else the caller has named it.
///
/// A caller may do what the daemon's user may, who reaches this host's own servers; whoever serves an image may not have the
/// daemon reach them. What is at link-local addresses is for the host alone (RFC 3927, 2.7; RFC 4291, 2.5.6), as is Amazon's
/// metadata service at its address of IPv6.
fn may_ask(address: IpAddr, led_by: Option<IpAddr>) -> bool {
    const METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    let address = address.to_canonical();
    let is_for_host = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local() || address == METADATA,
    };
    // All of `0.0.0.0/8` is this host (RFC 1122, 3.2.1.3).
    let is_own = match address {
        IpAddr::V4(address) => address.is_loopback() || address.octets()[0] == 0,
        IpAddr::V6(address) => address.is_loopback() || address.is_unspecified(),
    };
    let is_named = led_by.is_none_or(|server| server.to_canonical().is_loopback());
    !is_for_host && !address.is_multicast() && (!is_own || is_named)
}

/// Where a redirection leads.
fn next(from: &Uri, headers: &HeaderMap) -> Result<String, Failure> {
    let location = headers
        .get(header::LOCATION)
        .and_then(|it| it.to_str().ok());
    let Some(location) = location else {
        return Err(Failure::Final("it leads to nowhere".to_owned()));
    };
    let authority = from
        .authority()
        .map(ToString::to_string)
        .unwrap_or_default();
    let scheme = from.scheme_str().unwrap_or("http");
    let url = match location {
        path if path.starts_with("//") => format!("{scheme}:{path}"),
        path if path.starts_with('/') => format!("{scheme}://{authority}{path}"),
        url => url.to_owned(),
    };
    if scheme == "https" && !url.starts_with("https://") {
        let why = "it leads from https to something else, which is not followed";
        return Err(Failure::Final(why.to_owned()));
    }
    Ok(url)
}

fn of_post(error: PostError) -> Failure {
    let text = match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    match error {
        PostError::Place(_) | PostError::Certificates { .. } | PostError::Refused { .. } => {
            Failure::Final(text)
        }
        _ => Failure::Again(text),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A server that gives these answers, one for each connection; what it was asked.
    async fn server(answers: Vec<Vec<u8>>) -> (String, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = tokio::spawn(async move {
            let mut asked = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut text = String::new();
                let mut bytes = [0; 4096];
                while !text.contains("\r\n\r\n") {
                    let count = stream.read(&mut bytes).await.unwrap();
                    text.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
                }
                asked.push(text.to_ascii_lowercase());
                stream.write_all(&answer).await.unwrap();
                let _ = stream.shutdown().await;
            }
            asked
        });
        (format!("http://{address}"), asked)
    }

    fn answer(head: &str, body: &str) -> Vec<u8> {
        format!("HTTP/1.1 {head}\r\nconnection: close\r\n\r\n{body}").into_bytes()
    }

    /// What is fetched of a server that gives these answers, and what it was asked.
    async fn fetched(
        answers: Vec<Vec<u8>>,
        user: Option<(&str, &str)>,
    ) -> (Result<(Medium, Vec<u8>), String>, Vec<String>) {
        let state = tempfile::tempdir().unwrap();
        let folder = Folder::open(state.path(), &[]).unwrap();
        let (url, asked) = server(answers).await;
        let source = Source {
            url: format!("{url}/a.iso?secret"),
            user: user.map(|(name, password)| (name.to_owned(), password.to_owned())),
        };
        let got = fetch(&source, &folder, |_| ()).await;
        let got = got.map(|medium| {
            let bytes = std::fs::read(folder.path(&medium)).unwrap();
            (medium, bytes)
        });
        let left = std::fs::read_dir(state.path().join("media"))
            .unwrap()
            .count();
        assert_eq!(left, usize::from(got.is_ok()), "what failed leaves nothing");
        asked.abort();
        let asked = asked.await.unwrap_or_default();
        (got.map_err(|problem| problem.message), asked)
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(future)
    }

    #[test]
    fn a_file_comes_with_its_size_and_digest() {
        let (got, asked) = run(fetched(
            vec![answer("200 OK\r\ncontent-length: 3", "abc")],
            Some(("ada", "pw")),
        ));
        let (medium, bytes) = got.unwrap();
        assert_eq!((bytes.as_slice(), medium.len_bytes), (&b"abc"[..], 3));
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(medium.sha256.as_deref(), Some(abc));
        assert_eq!(medium.user.as_deref(), Some("ada"));
        // `ada:pw`
        assert!(asked.is_empty() || asked[0].contains("authorization: basic ywrhonb3"));
    }

    #[test]
    fn a_connection_that_ends_early_is_gone_on_with() {
        let first = answer("200 OK\r\ncontent-length: 6\r\netag: \"x\"", "abc");
        let second = answer(
            "206 Partial Content\r\ncontent-range: bytes 3-5/6\r\ncontent-length: 3",
            "def",
        );
        let (got, _) = run(fetched(vec![first.clone(), second], None));
        assert_eq!(got.unwrap().1, b"abcdef");
        // A server that has another file now sends it from the start.
        let other = answer("200 OK\r\ncontent-length: 2\r\netag: \"y\"", "gh");
        let (got, _) = run(fetched(vec![first, other], None));
        assert_eq!(got.unwrap().1, b"gh");
    }

    #[test]
    fn what_cannot_be_fetched_says_why() {
        let check = |answers: Vec<Vec<u8>>, expected: &str| {
            let (got, _) = run(fetched(answers, None));
            let error = got.unwrap_err();
            assert!(
                error.ends_with(expected) && !error.contains("secret"),
                "{error}"
            );
        };
        check(
            vec![answer("404 Not Found", "")],
            "the server answers 404 Not Found",
        );
        check(
            vec![answer("200 OK\r\ncontent-length: 0", "")],
            "it is empty",
        );
        let huge = answer("200 OK\r\ncontent-length: 99999999999999", "x");
        check(vec![huge], "it is larger than 64 GiB");
        check(vec![answer("302 Found", "")], "it leads to nowhere");
        let metadata = answer("302 Found\r\nlocation: http://169.254.169.254/x", "");
        check(
            vec![metadata],
            "169.254.169.254 is at an address that nothing is fetched from: this host's own, where another server leads to it, \
             or link-local",
        );
        let with_user = answer("302 Found\r\nlocation: http://a:b@127.0.0.1/x", "");
        check(vec![with_user], "write http://HOST[:PORT]/PATH or https://");
        let circle = answer("302 Found\r\nlocation: /a", "");
        check(vec![circle; 6], "it leads from server to server");
    }

    #[test]
    fn what_is_the_hosts_alone_is_not_asked() {
        let check = |address: &str, is_named: bool, is_led_from_afar: bool| {
            let address = address.parse().unwrap();
            let afar = "192.0.2.1".parse().unwrap();
            let own = "::1".parse().unwrap();
            assert_eq!(may_ask(address, None), is_named, "{address}");
            assert_eq!(may_ask(address, Some(own)), is_named, "{address}");
            assert_eq!(may_ask(address, Some(afar)), is_led_from_afar, "{address}");
        };
        for open in ["198.51.100.1", "10.0.0.1", "2001:db8::1", "fd00::1"] {
            check(open, true, true);
        }
        for own in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "::1",
            "::",
            "::ffff:127.0.0.1",
        ] {
            check(own, true, false);
        }
        for closed in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "fe80::1",
            "fd00:ec2::254",
            "255.255.255.255",
            "224.0.0.1",
            "ff02::1",
        ] {
            check(closed, false, false);
        }
    }

    #[test]
    fn a_redirection_keeps_its_scheme() {
        let check = |from: &str, to: &'static str, expected: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::LOCATION, header::HeaderValue::from_static(to));
            let found = next(&from.parse().unwrap(), &headers).ok();
            assert_eq!(found.as_deref(), expected);
        };
        check("http://a/x", "/y", Some("http://a/y"));
        check("https://a/x", "//b/y", Some("https://b/y"));
        check("http://a/x", "https://b/y", Some("https://b/y"));
        check("https://a/x", "http://b/y", None);
    }
}
