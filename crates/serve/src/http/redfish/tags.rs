//! What an answer says of its resource in its headers: a tag that changes with it, and where its schema is.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::errors::Wrong;
use super::kinds::schema_of;

/// A resource as an answer to who has changed it.
pub(super) fn json_answer(status: StatusCode, value: &Value) -> Response {
    let mut response = (status, axum::Json(value)).into_response();
    describe(&mut response, &etag(value), described_by(value));
    response
}

pub(super) fn describe(response: &mut Response, tag: &str, link: Option<String>) {
    let headers = response.headers_mut();
    if let Ok(tag) = HeaderValue::from_str(tag) {
        headers.insert(header::ETAG, tag);
    }
    if let Some(link) = link.and_then(|link| HeaderValue::from_str(&link).ok()) {
        headers.insert(header::LINK, link);
    }
}

/// Where the schema of a resource is.
pub(super) fn described_by(value: &Value) -> Option<String> {
    let schema = schema_of(value["@odata.type"].as_str()?)?;
    Some(format!("<{schema}>; rel=describedby"))
}

/// The tag of a resource: its own, or one that is made of all that it says.
pub(super) fn etag(value: &Value) -> String {
    if let Some(own) = value["@odata.etag"].as_str() {
        return own.to_owned();
    }
    let digest = Sha256::digest(value.to_string().as_bytes());
    let text: String = digest[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("\"{text}\"")
}

/// Refuses what was meant for another state of a resource.
pub(super) fn check_match(headers: &HeaderMap, tag: &str) -> Result<(), Wrong> {
    match headers.get(header::IF_MATCH) {
        Some(given) if !is_among(given.to_str().unwrap_or_default(), tag) => Err(Wrong::changed()),
        _ => Ok(()),
    }
}

/// Whether a tag is one of a list, or the list is `*`.
pub(super) fn is_among(list: &str, tag: &str) -> bool {
    list.trim() == "*"
        || list
            .split(',')
            .any(|one| one.trim().trim_start_matches("W/") == tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_compared_with_a_list() {
        let check =
            |list: &str, expected: bool| assert_eq!(is_among(list, "\"a\""), expected, "{list}");
        check("\"a\"", true);
        check("W/\"a\"", true);
        check("\"b\", \"a\"", true);
        check("*", true);
        check("\"a\"foobar", false);
        check("a", false);
        check("", false);
    }
}
