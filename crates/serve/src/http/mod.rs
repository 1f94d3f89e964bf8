//! HTTP: connections, who is behind them, and what they ask.
//!
//! A connection is one task; nothing that a client does or leaves undone takes more than its own. Headers have ten
//! seconds to come, a body thirty, TLS ten; [`CONNECTIONS_MAX`] connections are open at the same time, and more are
//! closed at once, so that who holds ten thousand keeps nobody out for longer than his own time-outs, and nobody from the
//! Unix socket at all, which counts for itself.

mod answer;
mod app;
mod command;
mod console;
mod definitions;
mod host;
mod openapi;
mod page;
mod people;
mod redfish;
mod routes;
mod several;
mod streams;
mod tls;
mod vms;

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use self::answer::Refusal;
use self::app::App;
use crate::daemon::Daemon;
use crate::doors::{From, Who, call};
use crate::error::ServeError;
use crate::options::Options;
use crate::orders::problem;
use crate::{otlp, snmp};

/// Connections over TLS at the same time, and as many on the Unix socket.
const CONNECTIONS_MAX: usize = 1000;
/// What is said on the Unix socket where they are open. Over TLS it would cost a handshake for each, and they are closed.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 10\r\nconnection: close\r\n\
content-type: application/json\r\ncontent-length: 144\r\n\r\n\
{\"error\":{\"code\":\"too-many\",\"message\":\"1000 connections are open\",\"causes\":[],\"help\":\"close some, or try again in ten seconds\",\"complaints\":[]}}";
/// Largest body.
const BODY_BYTES_MAX: usize = 1 << 20;
/// How long a client may take for headers, and for TLS.
const HEADERS_TIME: Duration = Duration::from_secs(10);
/// How long a client may take for a body.
const BODY_TIME: Duration = Duration::from_secs(30);
/// How long a connection may take to end when the daemon does.
const FAREWELL: Duration = Duration::from_secs(2);

/// Serves until it is told to end.
pub(crate) fn run(options: Options) -> Result<(), ServeError> {
    ::host::heap::share();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Stacks are what threads cost.
        .thread_stack_size(512 << 10)
        .max_blocking_threads(64)
        .build()
        .map_err(|source| ServeError::Host("start", source))?;
    let ended = runtime.block_on(serve(options));
    // Threads that wait for a VM are not waited for.
    runtime.shutdown_timeout(FAREWELL);
    ended
}

async fn serve(options: Options) -> Result<(), ServeError> {
    // Who is told that the daemon is ready may end it at once.
    let end = End::new()?;
    let (socket, is_given) = take_socket(&options.socket)?;
    let daemon = Arc::new(Daemon::new(options)?);
    redfish::begin(&daemon);
    let router = router(&daemon);
    let mut accepting = Vec::new();
    if let Some(address) = daemon.options.listen {
        let listen = |source| ServeError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let (acceptor, fingerprint) = tls::acceptor(&daemon.options.state, address)?;
        eprintln!("mother: listens at https://{address}, certificate SHA-256 {fingerprint}");
        accepting.push(tokio::spawn(accept_tls(listener, acceptor, router.clone())));
    }
    eprintln!("mother: answers at {}", daemon.options.socket.display());
    accepting.push(tokio::spawn(accept_local(socket, router)));
    let tending = [
        Some(tokio::spawn(Arc::clone(&daemon).tend())),
        Some(tokio::spawn(Arc::clone(&daemon).observe())),
        daemon
            .options
            .policy
            .clone()
            .map(|policy| tokio::spawn(Arc::clone(&daemon).follow_policy(policy))),
        daemon
            .options
            .snmp
            .clone()
            .map(|place| tokio::spawn(snmp::attend(Arc::clone(&daemon), place))),
        daemon
            .options
            .collector
            .clone()
            .map(|collector| tokio::spawn(otlp::export(Arc::clone(&daemon), collector))),
    ];
    told("READY=1");
    end.wait().await;
    told("STOPPING=1");
    for task in accepting.iter().chain(tending.iter().flatten()) {
        task.abort();
    }
    // One that systemd has opened is its own.
    if !is_given {
        let _ = std::fs::remove_file(&daemon.options.socket);
    }
    let last = Arc::clone(&daemon);
    let flushed = spawn_blocking(move || last.doors.flush(&last.store)).await;
    if let Ok(Err(error)) = flushed {
        return Err(error.into());
    }
    Ok(())
}

/// Signals that ask the daemon to end.
struct End {
    term: Signal,
    int: Signal,
}

impl End {
    fn new() -> Result<End, ServeError> {
        let failed = |source| ServeError::Host("hear signals", source);
        Ok(End {
            term: signal(SignalKind::terminate()).map_err(failed)?,
            int: signal(SignalKind::interrupt()).map_err(failed)?,
        })
    }

    async fn wait(mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

/// Everything that can be asked.
fn router(daemon: &App) -> Router {
    let guarded = routes::router()
        .route("/openapi.json", get(openapi::serve))
        .method_not_allowed_fallback(routes::not_that)
        .fallback(routes::nothing)
        .layer(middleware::from_fn_with_state(Arc::clone(daemon), guard));
    let open = Router::new()
        .route("/", get(page::index))
        .route("/page/{*name}", get(page::part))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/v1/session", post(people::enter));
    open.merge(redfish::router())
        .merge(guarded)
        .layer(middleware::from_fn_with_state(Arc::clone(daemon), audited))
        .with_state(Arc::clone(daemon))
}

/// Reads the body, has the call answered, and writes down that it was.
async fn audited(State(app): State<App>, request: Request, next: Next) -> Response {
    let from = request.extensions().get::<From>().copied();
    let method = request.method().clone();
    let path = request.uri().path_and_query().map(ToString::to_string);
    let is_redfish = request.uri().path().starts_with("/redfish");
    let response = match whole(request).await {
        Ok(request) => next.run(request).await,
        Err(refusal) if is_redfish => redfish::refused(refusal),
        Err(refusal) => refusal.into_response(),
    };
    let status = response.status().as_u16();
    let who = response.extensions().get::<Who>();
    let who = who.map_or("nobody", |who| &who.name).to_owned();
    let from = from.unwrap_or(From::Socket(u32::MAX));
    let path = path.unwrap_or_default();
    let is_read =
        matches!(method, Method::GET | Method::HEAD) && !matches!(status, 401 | 403 | 429);
    if app
        .doors
        .note(call(&who, from, method.as_str(), &path, status), is_read)
    {
        let app = Arc::clone(&app);
        // What changed something is written before it is answered.
        if let Ok(Err(error)) = spawn_blocking(move || app.doors.flush(&app.store)).await {
            tracing::error!("the audit log: {error}");
        }
    }
    response
}

/// The request with all of its body, which has a size and a time.
async fn whole(request: Request) -> Result<Request, Refusal> {
    let (parts, body) = request.into_parts();
    let refused = |status, code, message: String| Refusal::new(status, problem(code, message));
    let too_large = || {
        refused(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too-large",
            format!("a body has at most {BODY_BYTES_MAX} bytes, and comes whole"),
        )
    };
    // What is announced as too large is not waited for.
    if axum::body::HttpBody::size_hint(&body).lower() > BODY_BYTES_MAX as u64 {
        return Err(too_large());
    }
    let bytes = timeout(BODY_TIME, to_bytes(body, BODY_BYTES_MAX)).await;
    match bytes {
        Ok(Ok(bytes)) => Ok(Request::from_parts(parts, Body::from(bytes))),
        Ok(Err(_)) => Err(too_large()),
        Err(_) => Err(refused(
            StatusCode::REQUEST_TIMEOUT,
            "too-slow",
            format!("a body comes within {} s", BODY_TIME.as_secs()),
        )),
    }
}

/// Lets in who may come in.
async fn guard(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let is_safe = matches!(*request.method(), Method::GET | Method::HEAD)
        && !request.headers().contains_key("upgrade");
    let Some(from) = request.extensions().get::<From>().copied() else {
        return people::unknown();
    };
    match app.doors.enter(from, request.headers(), is_safe) {
        Ok(who) => {
            request.extensions_mut().insert(who.clone());
            let mut response = next.run(request).await;
            response.extensions_mut().insert(who);
            response
        }
        Err(closed) => Refusal::closed(&closed).into_response(),
    }
}

/// The socket for the daemon's own user: the one that systemd has opened for us, or a new one where no daemon answers.
/// With it comes whether it was given.
fn take_socket(path: &Path) -> Result<(UnixListener, bool), ServeError> {
    let failed = |act| {
        let path = path.to_owned();
        move |source| ServeError::Socket { act, path, source }
    };
    if let Some(given) = given_socket() {
        given.set_nonblocking(true).map_err(failed("use"))?;
        let given = UnixListener::from_std(given).map_err(failed("use"))?;
        return Ok((given, true));
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(ServeError::Taken(path.to_owned()));
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("replace")(error));
        }
        _ => {}
    }
    let socket = UnixListener::bind(path).map_err(failed("make"))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .map_err(failed("close"))?;
    Ok((socket, false))
}

async fn accept_local(listener: UnixListener, router: Router) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // No descriptor is free: some will be.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            // It fits into any socket's buffer; who does not read it is closed like others.
            let _ = stream.try_write(FULL);
            continue;
        };
        let Ok(peer) = stream.peer_cred() else {
            continue;
        };
        let own = rustix::process::geteuid().as_raw();
        if peer.uid() != own && peer.uid() != 0 {
            continue;
        }
        let router = router.clone();
        tokio::spawn(async move {
            talk(stream, From::Socket(peer.uid()), router).await;
            drop(permit);
        });
    }
}

async fn accept_tls(listener: TcpListener, acceptor: tokio_rustls::TlsAcceptor, router: Router) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok((stream, address)) = listener.accept().await else {
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            continue;
        };
        let acceptor = acceptor.clone();
        let router = router.clone();
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            if let Ok(Ok(stream)) = timeout(HEADERS_TIME, acceptor.accept(stream)).await {
                talk(stream, From::Tls(address.ip().to_canonical()), router).await;
            }
            drop(permit);
        });
    }
}

/// One connection to its end.
async fn talk(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    from: From,
    router: Router,
) {
    let service = tower::ServiceExt::<Request>::map_request(
        router,
        move |mut request: Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(from);
            request.map(Body::new)
        },
    );
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_TIME)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
        .with_upgrades();
    // What goes wrong with a connection is its client's to know.
    let _ = connection.await;
}

/// The first socket that systemd has opened for this process (sd_listen_fds(3)).
fn given_socket() -> Option<std::os::unix::net::UnixListener> {
    ::host::activation::socket()
}

/// Tells systemd, if it wants to know (sd_notify(3)).
fn told(what: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&path),
    };
    let sent =
        UnixDatagram::unbound().and_then(|socket| socket.send_to_addr(what.as_bytes(), &address?));
    if let Err(error) = sent {
        tracing::warn!("systemd was not told: {error}");
    }
}
