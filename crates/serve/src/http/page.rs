//! The web page: files of the program itself, under a policy that lets a browser fetch nothing from anywhere else.

use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::answer::Refusal;
use crate::packed::{packed, unpacked};

/// What a browser may do with the page (Content Security Policy Level 3).
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
     font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// Name, media type, content in packed form.
const FILES: &[(&str, &str, &[u8])] = &[
    ("about.js", SCRIPT, packed!("page/about.js")),
    ("actions.js", SCRIPT, packed!("page/actions.js")),
    ("api.js", SCRIPT, packed!("page/api.js")),
    ("ask.js", SCRIPT, packed!("page/ask.js")),
    ("badges.js", SCRIPT, packed!("page/badges.js")),
    ("chart.js", SCRIPT, packed!("page/chart.js")),
    ("console-style.js", SCRIPT, packed!("page/console-style.js")),
    ("console.js", SCRIPT, packed!("page/console.js")),
    ("consolelog.js", SCRIPT, packed!("page/consolelog.js")),
    ("detail.js", SCRIPT, packed!("page/detail.js")),
    ("events.js", SCRIPT, packed!("page/events.js")),
    ("guests.js", SCRIPT, packed!("page/guests.js")),
    ("icon.svg", SVG, packed!("page/icon.svg")),
    ("index.html", HTML, packed!("page/index.html")),
    ("list.js", SCRIPT, packed!("page/list.js")),
    ("login.js", SCRIPT, packed!("page/login.js")),
    ("mother.css", CSS, packed!("page/mother.css")),
    ("mother.js", SCRIPT, packed!("page/mother.js")),
    ("table.js", SCRIPT, packed!("page/table.js")),
    ("tables.js", SCRIPT, packed!("page/tables.js")),
    ("tabs.js", SCRIPT, packed!("page/tabs.js")),
    ("text.js", SCRIPT, packed!("page/text.js")),
    ("truth.js", SCRIPT, packed!("page/truth.js")),
    ("words.js", SCRIPT, packed!("page/words.js")),
    (
        "vendor/addon-fit.mjs",
        SCRIPT,
        packed!("page/vendor/addon-fit.mjs"),
    ),
    ("vendor/xterm.css", CSS, packed!("page/vendor/xterm.css")),
    ("vendor/xterm.mjs", SCRIPT, packed!("page/vendor/xterm.mjs")),
];

pub(crate) async fn index(headers: HeaderMap) -> Response {
    file("index.html", &headers).unwrap_or_else(|| StatusCode::NOT_FOUND.into_response())
}

pub(crate) async fn part(
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    file(&name, &headers).ok_or_else(|| {
        let message = format!("the page has no file {}", name.escape_debug());
        Refusal::none("no-such-path", message, "it begins at /")
    })
}

fn file(name: &str, asked: &HeaderMap) -> Option<Response> {
    let (_, kind, content) = FILES.iter().find(|(other, ..)| *other == name)?;
    let takes_packed = takes_gzip(asked);
    let mut response = if takes_packed {
        (*content).into_response()
    } else {
        unpacked(content).into_response()
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, *kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
        (header::VARY, "accept-encoding"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if takes_packed {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Some(response)
}

/// Whether who asks says that it unpacks (RFC 9110, 12.5.3): a weight of 0 says that it does not.
fn takes_gzip(asked: &HeaderMap) -> bool {
    let said = asked.get_all(header::ACCEPT_ENCODING);
    let said = said.iter().filter_map(|value| value.to_str().ok());
    said.flat_map(|value| value.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let weight = parts.find_map(|part| part.strip_prefix("q="));
        let is_wanted = weight.is_none_or(|weight| weight.parse().is_ok_and(|it: f32| it > 0.0));
        name.eq_ignore_ascii_case("gzip") && is_wanted
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the folder has beside tests and words about it.
    fn in_folder(folder: &std::path::Path, before: &str, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{before}{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() {
                if name != "test" {
                    in_folder(&entry.path(), &format!("{name}/"), found);
                }
            } else if [".html", ".css", ".js", ".mjs", ".svg"]
                .iter()
                .any(|end| name.ends_with(end))
            {
                found.push(name);
            }
        }
    }

    #[test]
    fn every_file_of_the_page_is_in_the_program_and_every_import_leads_to_one() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("page");
        let mut found = Vec::new();
        in_folder(&folder, "", &mut found);
        found.sort();
        let mut served: Vec<&str> = FILES.iter().map(|(name, ..)| *name).collect();
        served.sort_unstable();
        assert_eq!(served, found);
        for (name, kind, content) in FILES.iter().filter(|(name, ..)| name.ends_with(".js")) {
            assert_eq!(*kind, SCRIPT);
            let text = String::from_utf8(unpacked(content)).unwrap();
            for line in text.lines().filter(|line| line.starts_with("import ")) {
                let place = line.split('"').nth(1).unwrap().trim_start_matches("./");
                assert!(served.contains(&place), "{name}: {place}");
            }
        }
    }

    #[test]
    fn it_goes_packed_to_who_unpacks() {
        let check = |said: &[&'static str], expected: bool| {
            let mut asked = HeaderMap::new();
            for value in said {
                asked.append(header::ACCEPT_ENCODING, HeaderValue::from_static(value));
            }
            let response = file("index.html", &asked).unwrap();
            let is_packed = response.headers().contains_key(header::CONTENT_ENCODING);
            assert_eq!(is_packed, expected, "{said:?}");
        };
        check(&[], false);
        check(&["gzip, deflate, br, zstd"], true);
        check(&["br;q=1.0, GZIP;q=0.1"], true);
        check(&["identity", "gzip"], true);
        check(&["gzip;q=0"], false);
        check(&["gzip; q=0.000, identity"], false);
        check(&["br", "x-gzipped"], false);
    }
}
