//! The web page: files of the program itself, under a policy that lets a browser fetch nothing from anywhere else.

use axum::extract::Path;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::answer::Refusal;

/// What a browser may do with the page (Content Security Policy Level 3).
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
     font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// Name, media type, content.
const FILES: &[(&str, &str, &[u8])] = &[
    ("about.js", SCRIPT, include_bytes!("../../page/about.js")),
    (
        "actions.js",
        SCRIPT,
        include_bytes!("../../page/actions.js"),
    ),
    ("api.js", SCRIPT, include_bytes!("../../page/api.js")),
    ("ask.js", SCRIPT, include_bytes!("../../page/ask.js")),
    ("badges.js", SCRIPT, include_bytes!("../../page/badges.js")),
    ("chart.js", SCRIPT, include_bytes!("../../page/chart.js")),
    (
        "console-style.js",
        SCRIPT,
        include_bytes!("../../page/console-style.js"),
    ),
    (
        "console.js",
        SCRIPT,
        include_bytes!("../../page/console.js"),
    ),
    (
        "consolelog.js",
        SCRIPT,
        include_bytes!("../../page/consolelog.js"),
    ),
    ("detail.js", SCRIPT, include_bytes!("../../page/detail.js")),
    ("events.js", SCRIPT, include_bytes!("../../page/events.js")),
    ("guests.js", SCRIPT, include_bytes!("../../page/guests.js")),
    ("icon.svg", SVG, include_bytes!("../../page/icon.svg")),
    ("index.html", HTML, include_bytes!("../../page/index.html")),
    ("list.js", SCRIPT, include_bytes!("../../page/list.js")),
    ("login.js", SCRIPT, include_bytes!("../../page/login.js")),
    ("mother.css", CSS, include_bytes!("../../page/mother.css")),
    ("mother.js", SCRIPT, include_bytes!("../../page/mother.js")),
    ("table.js", SCRIPT, include_bytes!("../../page/table.js")),
    ("tables.js", SCRIPT, include_bytes!("../../page/tables.js")),
    ("tabs.js", SCRIPT, include_bytes!("../../page/tabs.js")),
    ("text.js", SCRIPT, include_bytes!("../../page/text.js")),
    ("truth.js", SCRIPT, include_bytes!("../../page/truth.js")),
    ("words.js", SCRIPT, include_bytes!("../../page/words.js")),
    (
        "vendor/addon-fit.mjs",
        SCRIPT,
        include_bytes!("../../page/vendor/addon-fit.mjs"),
    ),
    (
        "vendor/xterm.css",
        CSS,
        include_bytes!("../../page/vendor/xterm.css"),
    ),
    (
        "vendor/xterm.mjs",
        SCRIPT,
        include_bytes!("../../page/vendor/xterm.mjs"),
    ),
];

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
            let text = std::str::from_utf8(content).unwrap();
            for line in text.lines().filter(|line| line.starts_with("import ")) {
                let place = line.split('"').nth(1).unwrap().trim_start_matches("./");
                assert!(served.contains(&place), "{name}: {place}");
            }
        }
    }
}
