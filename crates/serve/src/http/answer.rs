//! Answers: JSON that is well, and JSON that says what is wrong.

use api::object::Object;
use axum::Json;
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::doors::{Closed, Who};
use crate::orders::problem;
use crate::store::StoreError;
use crate::words::{Problem, Role};

/// What is wrong, as an answer.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) problem: Box<Problem>,
}

#[derive(Serialize)]
struct Wrapped<'a> {
    error: &'a Problem,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, problem: Problem) -> Refusal {
        Refusal {
            status,
            problem: Box::new(problem),
        }
    }

    /// Something in what was asked is wrong.
    pub(crate) fn bad(part: &str, message: impl Into<String>) -> Refusal {
        let problem = Problem {
            r#where: Some(part.to_owned()),
            ..problem("bad-input", message)
        };
        Refusal::new(StatusCode::BAD_REQUEST, problem)
    }

    /// There is no such thing.
    pub(crate) fn none(code: &str, message: impl Into<String>, help: &str) -> Refusal {
        let problem = Problem {
            help: Some(help.to_owned()),
            ..problem(code, message)
        };
        Refusal::new(StatusCode::NOT_FOUND, problem)
    }

    /// There is no such VM.
    pub(crate) fn no_vm(name: &str) -> Refusal {
        let message = format!("there is no VM \"{}\"", name.escape_debug());
        Refusal::none("no-such-vm", message, "`GET /v1/vms` lists all there are")
    }

    /// It cannot be done as things are.
    pub(crate) fn conflict(code: &str, message: impl Into<String>, help: &str) -> Refusal {
        let problem = Problem {
            help: Some(help.to_owned()),
            ..problem(code, message)
        };
        Refusal::new(StatusCode::CONFLICT, problem)
    }

    /// Nobody comes in.
    pub(crate) fn closed(closed: &Closed) -> Refusal {
        let status = match closed {
            Closed::Unknown => StatusCode::UNAUTHORIZED,
            Closed::Wait => StatusCode::TOO_MANY_REQUESTS,
            Closed::Foreign => StatusCode::FORBIDDEN,
        };
        Refusal::new(status, closed.problem())
    }

    /// Somebody may not.
    pub(crate) fn forbidden(who: &Who, role: Role) -> Refusal {
        let problem = Problem {
            help: Some("ask an Administrator for a token with more".to_owned()),
            ..problem(
                "forbidden",
                format!("this is for {role:?}, and {} is {:?}", who.name, who.role),
            )
        };
        Refusal::new(StatusCode::FORBIDDEN, problem)
    }

    /// What a command said.
    pub(crate) fn of_command(problem: Problem) -> Refusal {
        let status = match problem.code.as_str() {
            "bad-input" => StatusCode::BAD_REQUEST,
            "refused" | "failed" | "cancelled" | "ignored" => StatusCode::CONFLICT,
            "timed-out" => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Refusal::new(status, problem)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Refusal {
        let mut causes = Vec::new();
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            causes.push(error.to_string());
            cause = error.source();
        }
        let problem = Problem {
            causes,
            help: Some(
                "nothing was changed; look at the room on the disk of the daemon's state"
                    .to_owned(),
            ),
            ..problem("store", error.to_string())
        };
        Refusal::new(StatusCode::INSUFFICIENT_STORAGE, problem)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (
            self.status,
            Json(Wrapped {
                error: &self.problem,
            }),
        )
            .into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            let schemes = HeaderValue::from_static("Bearer realm=\"mother\"");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, schemes);
        }
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            let seconds = HeaderValue::from_static("60");
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}

/// The words behind `?`; what is wrong with them is said as everything else is.
pub(crate) struct Words<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Words<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let read = Query::<T>::from_request_parts(parts, state).await;
        read.map(|Query(words)| Words(words))
            .map_err(|error| Refusal::bad("query", error.body_text()))
    }
}

/// A part of the path; one that is no number where there must be one leads nowhere.
pub(crate) struct Part<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Part<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let read = Path::<T>::from_request_parts(parts, state).await;
        read.map(|Path(part)| Part(part))
            .map_err(|error| Refusal::bad("path", error.body_text()))
    }
}

/// A body that is JSON of this shape; what is wrong with it says where.
pub(crate) fn body<T: DeserializeOwned>(headers: &HeaderMap, bytes: &[u8]) -> Result<T, Refusal> {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !(kind.eq_ignore_ascii_case("application/json") || kind.ends_with("+json")) {
        let problem = Problem {
            help: Some("send JSON with `Content-Type: application/json`".to_owned()),
            ..problem("not-json", format!("the body is said to be {kind:?}"))
        };
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, problem));
    }
    let read = serde_json::from_slice(bytes).map(|Object(all)| all);
    let read = read.or_else(|error| with_whole_numbers(bytes).ok_or(error));
    read.map_err(|error| {
        let place = format!("body, line {}, column {}", error.line(), error.column());
        // What serde says of where ends in the same numbers.
        let text = error.to_string();
        let what = text.split(" at line ").next().unwrap_or_default();
        Refusal::bad(&place, what)
    })
}

/// The body again, with whole numbers that are written as others are: to JSON Schema 1.0 is an integer, and who calculates in
/// floating point writes it so.
fn with_whole_numbers<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    /// Above, not every integer has a number of its own in floating point.
    const MOST: f64 = 9_007_199_254_740_991.0;

    fn mend(value: &mut Value) {
        match value {
            Value::Array(all) => all.iter_mut().for_each(mend),
            Value::Object(all) => all.values_mut().for_each(mend),
            Value::Number(number) => {
                let whole = number
                    .as_f64()
                    .filter(|it| number.is_f64() && it.fract() == 0.0 && it.abs() <= MOST);
                if let Some(whole) = whole {
                    *value = (whole as i64).into();
                }
            }
            _ => {}
        }
    }

    let mut value = serde_json::from_slice(bytes).ok()?;
    mend(&mut value);
    let Object(all) = Object::deserialize(value).ok()?;
    Some(all)
}

/// An answer with the version of what it is about.
pub(crate) fn with_version(version: Option<u64>, answer: &impl Serialize) -> Response {
    let mut response = Json(answer).into_response();
    if let Some(version) = version {
        tag(&mut response, version);
    }
    response
}

/// Adds an `ETag`.
pub(crate) fn tag(response: &mut Response, version: u64) {
    if let Ok(value) = HeaderValue::from_str(&format!("\"{version}\"")) {
        response.headers_mut().insert(header::ETAG, value);
    }
}

/// What `If-Match` wants: a version, whatever there is (`*`), or nothing said.
pub(crate) fn wanted_version(headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
    let Some(given) = headers.get(header::IF_MATCH) else {
        return Ok(None);
    };
    let text = given.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let number = text.trim_start_matches("W/").trim_matches('"').parse();
    number
        .map(Some)
        // Whatever it is, it is no version that there has been.
        .or(Ok(Some(u64::MAX)))
}

/// Somebody else was faster.
pub(crate) fn changed(version: u64) -> Refusal {
    let message = if version == 0 {
        "it is not declared any more".to_owned()
    } else {
        format!("it has version {version} by now")
    };
    let problem = Problem {
        help: Some("get it anew, and decide again".to_owned()),
        ..problem("changed-meanwhile", message)
    };
    Refusal::new(StatusCode::PRECONDITION_FAILED, problem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::Declaration;

    #[test]
    fn a_body_is_read_as_its_schema_says() {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        let check = |text: &str, expected: Result<i32, &str>| {
            let read = body::<Declaration>(&headers, text.as_bytes());
            let read = read.map(|what| what.order);
            let read = read.map_err(|refusal| refusal.problem.message);
            assert_eq!(
                read.as_ref().map_err(String::as_str),
                expected.as_ref().map_err(|it| *it),
                "{text}"
            );
        };
        check(r#"{"name":"a","order":7}"#, Ok(7));
        check(r#"{"name":"a","order":7.0}"#, Ok(7));
        check(r#"{"name":"a","order":-7e2,"spec":{"cpus":2.0}}"#, Ok(-700));
        check(
            r#"{"name":"a","order":7.5}"#,
            Err("invalid type: floating point `7.5`, expected i32"),
        );
        check(
            r#"{"name":"a","order":1e30}"#,
            Err("invalid type: floating point `1e+30`, expected i32"),
        );
        let list = "invalid type: sequence, expected an object";
        check(r#"["a"]"#, Err(list));
        check(r#"{"name":"a","spec":[]}"#, Err(list));
    }
}
