//! Who may come in, who is in, and what they asked for.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use super::answer::{Part, Refusal, Words as Asked, body};
use super::app::App;
use super::vms::broken;
use crate::doors::{By, COOKIE, Closed, From, Who, hash, random};
use crate::orders::problem;
use crate::words::{Audited, Role, Token, now};

/// Calls in one answer, if nobody says how many.
const LIMIT: usize = 1000;
/// Longest name of a token.
const NAME_LENGTH_MAX: usize = 64;

/// Who one is.
#[derive(Serialize, JsonSchema)]
pub(crate) struct SessionView {
    /// In the audit log.
    name: String,
    /// What one may do.
    role: Role,
}

/// A token of who wants a session.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    token: String,
}

/// Somebody who may come in.
#[derive(Serialize, JsonSchema)]
pub(crate) struct TokenView {
    /// In the audit log.
    name: String,
    /// What they may do.
    role: Role,
    /// When it was made, in seconds since 1970-01-01 UTC.
    made_at: f64,
}

/// Everybody who may come in.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Tokens {
    /// By name.
    tokens: Vec<TokenView>,
}

/// Somebody who shall come in.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewToken {
    /// What they are called in the audit log.
    #[schemars(extend("pattern" = "^[A-Za-z0-9._@-]{1,64}$"))]
    name: String,
    /// What they may do.
    role: Role,
}

/// A token, which is said once.
#[derive(Serialize, JsonSchema)]
pub(crate) struct MadeToken {
    /// Whose.
    name: String,
    /// What they may do.
    role: Role,
    /// The token itself.
    token: String,
}

/// Some calls.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Audit {
    /// Newest first.
    calls: Vec<Audited>,
}

/// Which calls are wanted.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Choice {
    limit: Option<usize>,
    reads: Option<bool>,
}

pub(crate) async fn session(Extension(who): Extension<Who>) -> Json<SessionView> {
    Json(SessionView {
        name: who.name,
        role: who.role,
    })
}

/// Opens a browser's session. This is asked without having come in.
pub(crate) async fn enter(
    State(app): State<App>,
    Extension(from): Extension<From>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Result<Response, Refusal> {
    if let From::Socket(_) = from {
        return Err(Refusal::bad(
            "session",
            "who comes through the socket needs none",
        ));
    }
    let entry: Entry = body(&headers, &bytes)?;
    let found = app.doors.by_token_from(from, None, &entry.token);
    let who = found.map_err(|closed| Refusal::closed(&closed))?;
    let (secret, _) = opened(&app, &who)?;
    let view = SessionView {
        name: who.name,
        role: who.role,
    };
    let mut response = Json(view).into_response();
    set_cookie(
        &mut response,
        &format!("{COOKIE}={secret}; Path=/; Secure; HttpOnly; SameSite=Strict"),
    );
    Ok(response)
}

/// A session's secret and number.
pub(crate) fn opened(app: &App, who: &Who) -> Result<(String, String), Refusal> {
    let opened = app.doors.open_session(who).map_err(|error| {
        Refusal::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            problem("internal", error.to_string()),
        )
    })?;
    opened.ok_or_else(|| {
        let problem = problem("too-many-sessions", "too many sessions are open");
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, problem)
    })
}

fn set_cookie(response: &mut Response, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        response.headers_mut().insert(header::SET_COOKIE, value);
    }
}

pub(crate) async fn leave(
    State(app): State<App>,
    Extension(who): Extension<Who>,
    headers: HeaderMap,
) -> Response {
    if who.by == By::Cookie {
        let cookies = headers.get(header::COOKIE).and_then(|it| it.to_str().ok());
        let of = |cookie: &str| {
            let (name, value) = cookie.trim().split_once('=')?;
            (name == COOKIE).then(|| hash(value))
        };
        let secret = cookies.unwrap_or_default().split(';').find_map(of);
        app.doors
            .end_session(|hash, _| secret.as_deref() == Some(hash));
    }
    let mut response = StatusCode::NO_CONTENT.into_response();
    set_cookie(
        &mut response,
        &format!("{COOKIE}=; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=0"),
    );
    response
}

/// An open session.
#[derive(Serialize, JsonSchema)]
pub(crate) struct OpenSession {
    /// Its number.
    id: String,
    /// Whose.
    name: String,
    /// What they may do.
    role: Role,
}

/// Every open session.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Sessions {
    /// By number.
    sessions: Vec<OpenSession>,
}

pub(crate) async fn sessions(State(app): State<App>) -> Json<Sessions> {
    let sessions = app.doors.sessions().into_iter().map(|session| OpenSession {
        id: session.id,
        name: session.who,
        role: session.role,
    });
    Json(Sessions {
        sessions: sessions.collect(),
    })
}

pub(crate) async fn end_session(
    State(app): State<App>,
    Part(id): Part<String>,
) -> Result<StatusCode, Refusal> {
    if app.doors.end_session(|_, session| session.id == id) {
        return Ok(StatusCode::NO_CONTENT);
    }
    let message = format!("there is no session \"{}\"", id.escape_debug());
    Err(Refusal::none(
        "no-such-session",
        message,
        "`GET /v1/sessions` lists those that are open",
    ))
}

pub(crate) async fn tokens(State(app): State<App>) -> Json<Tokens> {
    let tokens = app.doors.tokens().into_iter().map(|token| TokenView {
        name: token.name,
        role: token.role,
        made_at: token.made_at,
    });
    Json(Tokens {
        tokens: tokens.collect(),
    })
}

pub(crate) async fn add_token(
    State(app): State<App>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Result<Response, Refusal> {
    let NewToken { name, role } = body(&headers, &bytes)?;
    if !is_plain_name(&name) {
        return Err(Refusal::bad(
            "name",
            format!("use up to {NAME_LENGTH_MAX} letters, digits, dashes, underscores, dots and @"),
        ));
    }
    if app.doors.tokens().iter().any(|token| token.name == name) {
        return Err(Refusal::conflict(
            "token-already",
            format!("there is a token \"{name}\" already"),
            "remove it first, or take another name",
        ));
    }
    let secret = random().map_err(|error| {
        Refusal::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            problem("internal", error.to_string()),
        )
    })?;
    let token = format!("mother-{secret}");
    let kept = Token {
        name: name.clone(),
        role,
        sha256: hash(&token),
        made_at: now(),
    };
    note(&app, name.clone(), Some(kept)).await?;
    let made = MadeToken { name, role, token };
    Ok((StatusCode::CREATED, Json(made)).into_response())
}

/// Whether a token can be called so.
pub(super) fn is_plain_name(name: &str) -> bool {
    let is_plain = |it: char| it.is_ascii_alphanumeric() || matches!(it, '-' | '_' | '.' | '@');
    !name.is_empty() && name.len() <= NAME_LENGTH_MAX && name.chars().all(is_plain)
}

pub(crate) async fn remove_token(
    State(app): State<App>,
    Part(name): Part<String>,
) -> Result<StatusCode, Refusal> {
    if !app.doors.tokens().iter().any(|token| token.name == name) {
        return Err(Refusal::none(
            "no-such-token",
            format!("there is no token \"{}\"", name.escape_debug()),
            "`GET /v1/tokens` lists all there are",
        ));
    }
    note(&app, name, None).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Keeps who may come in, then lets them.
async fn note(app: &App, name: String, token: Option<Token>) -> Result<(), Refusal> {
    let app = app.clone();
    let done = spawn_blocking(move || {
        let _one = app.doors.changing();
        app.store.note_token(&name, token.as_ref())?;
        app.doors.set_tokens(app.store.tokens()?);
        Ok::<_, crate::store::StoreError>(())
    });
    Ok(done.await.map_err(broken)??)
}

pub(crate) async fn audit(
    State(app): State<App>,
    Asked(choice): Asked<Choice>,
) -> Result<Json<Audit>, Refusal> {
    let limit = choice.limit.unwrap_or(LIMIT).min(10 * LIMIT);
    let reads = choice.reads == Some(true);
    let read = spawn_blocking(move || {
        app.doors.flush(&app.store)?;
        app.store.audited(limit, reads)
    });
    let calls = read.await.map_err(broken)??;
    Ok(Json(Audit { calls }))
}

/// Nobody comes in without having been asked who they are.
pub(crate) fn unknown() -> Response {
    Refusal::closed(&Closed::Unknown).into_response()
}
