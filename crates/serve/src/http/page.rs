//! The web page: files of the program itself, under a policy that lets a browser fetch nothing from anywhere else.

use axum::extract::Path;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::answer::Refusal;

/// What a browser may do with the page (Content Security Policy Level 3).
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
     font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// Name, media type, content.
const FILES: &[(&str, &str, &[u8])] = &[(
    "index.html",
    "text/html; charset=utf-8",
    b"<!doctype html><title>Mother</title>",
)];

pub(crate) async fn index() -> Response {
    file("index.html").unwrap_or_else(|| StatusCode::NOT_FOUND.into_response())
}

pub(crate) async fn part(Path(name): Path<String>) -> Result<Response, Refusal> {
    file(&name).ok_or_else(|| {
        let message = format!("the page has no file {}", name.escape_debug());
        Refusal::none("no-such-path", message, "it begins at /")
    })
}

fn file(name: &str) -> Option<Response> {
    let (_, kind, content) = FILES.iter().find(|(other, ..)| *other == name)?;
    let mut response = (*content).into_response();
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, *kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Some(response)
}
