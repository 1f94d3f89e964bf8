//! Accounts: whoever has a token. The password of an account is its token.
//!
//! Tokens that are made here are chosen by a client, and their plain hash is kept as that of others; so they have to be
//! long, and of many different characters. Nobody gets to see one again.

use std::collections::BTreeSet;

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::errors::{Wrong, message};
use super::kinds::{collection, link, resource};
use super::tags::{check_match, json_answer};
use crate::doors::{Who, hash};
use crate::http::app::App;
use crate::http::people::is_plain_name;
use crate::words::{Role, Token, now};

/// Shortest and longest token that a client may choose.
const LENGTH: (usize, usize) = (32, 512);
/// So many different characters are in it.
const DIFFERENT_MIN: usize = 10;
/// What an account has beside what can be changed.
const FIXED: &[&str] = &[
    "Id",
    "Name",
    "UserName",
    "Enabled",
    "Locked",
    "AccountTypes",
    "Links",
    "Description",
];

const ROLES: &[(Role, &str, &[&str])] = &[
    (
        Role::Administrator,
        "Administrator",
        &[
            "Login",
            "ConfigureManager",
            "ConfigureUsers",
            "ConfigureSelf",
            "ConfigureComponents",
        ],
    ),
    (
        Role::Operator,
        "Operator",
        &["Login", "ConfigureSelf", "ConfigureComponents"],
    ),
    (Role::ReadOnly, "ReadOnly", &["Login", "ConfigureSelf"]),
];

/// The place of an account.
pub(super) fn place(name: &str) -> String {
    format!("/redfish/v1/AccountService/Accounts/{name}")
}

fn role_place(name: &str) -> String {
    format!("/redfish/v1/AccountService/Roles/{name}")
}

/// The service.
pub(super) fn service() -> Value {
    let more = json!({
        "ServiceEnabled": true,
        "MinPasswordLength": LENGTH.0,
        "MaxPasswordLength": LENGTH.1,
        "HTTPBasicAuth": "Enabled",
        "Status": { "State": "Enabled", "Health": "OK" },
        "Accounts": link("/redfish/v1/AccountService/Accounts"),
        "Roles": link("/redfish/v1/AccountService/Roles"),
    });
    let place = "/redfish/v1/AccountService";
    resource(
        "AccountService",
        place,
        ("AccountService", "Who may come in"),
        more,
    )
}

/// All roles.
pub(super) fn roles() -> Value {
    let places: Vec<String> = ROLES.iter().map(|(_, name, _)| role_place(name)).collect();
    collection(
        "RoleCollection",
        "/redfish/v1/AccountService/Roles",
        "Roles",
        &places,
    )
}

/// One role.
pub(super) fn role(name: &str) -> Result<Value, Wrong> {
    let place = role_place(name);
    let found = ROLES.iter().find(|(_, known, _)| *known == name);
    let (_, name, privileges) = found.ok_or_else(|| Wrong::missing(&place))?;
    let more = json!({
        "RoleId": name,
        "IsPredefined": true,
        "AssignedPrivileges": privileges,
    });
    Ok(resource("Role", &place, (name, name), more))
}

/// Accounts that somebody may see: an Administrator all, others their own.
fn seen(app: &App, who: &Who) -> Vec<Token> {
    let mut all = app.doors.tokens();
    all.retain(|token| may_see(who, &token.name));
    all
}

fn may_see(who: &Who, name: &str) -> bool {
    who.role == Role::Administrator || who.name == name
}

/// All of them.
pub(super) fn accounts(app: &App, who: &Who) -> Value {
    let places: Vec<String> = seen(app, who)
        .iter()
        .map(|token| place(&token.name))
        .collect();
    let uri = "/redfish/v1/AccountService/Accounts";
    collection("ManagerAccountCollection", uri, "Accounts", &places)
}

/// One of them.
pub(super) fn account(app: &App, who: &Who, name: &str) -> Result<Value, Wrong> {
    let all = seen(app, who);
    let found = all.iter().find(|token| token.name == name);
    found.map(view).ok_or_else(|| Wrong::missing(&place(name)))
}

fn role_name(role: Role) -> &'static str {
    let found = ROLES.iter().find(|(known, ..)| *known == role);
    found.map_or("ReadOnly", |(_, name, _)| name)
}

fn view(token: &Token) -> Value {
    let role = role_name(token.role);
    let more = json!({
        "@odata.etag": etag(token),
        "UserName": token.name,
        "RoleId": role,
        "Enabled": true,
        "Locked": false,
        "AccountTypes": ["Redfish"],
        "Links": { "Role": link(&role_place(role)) },
    });
    let mut view = resource(
        "ManagerAccount",
        &place(&token.name),
        (&token.name, "Account"),
        more,
    );
    // It is never told, which the schema wants to be said.
    view["Password"] = Value::Null;
    view
}

/// Changes with everything of a token, the secret too, and says nothing of it.
fn etag(token: &Token) -> String {
    let of = format!(
        "{}\n{}\n{}",
        token.name,
        role_name(token.role),
        token.sha256
    );
    let digest = Sha256::digest(of.as_bytes());
    let text: String = digest[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("\"{text}\"")
}

/// What a request says of an account.
#[derive(Default, Debug, PartialEq)]
struct Asked {
    name: Option<String>,
    password: Option<String>,
    role: Option<Role>,
}

/// Reads it; everything that is wrong with it at once.
fn asked(body: &Map<String, Value>, is_new: bool) -> Result<Asked, Wrong> {
    let mut asked = Asked::default();
    let mut wrong = Vec::new();
    for (key, value) in body.iter().filter(|(key, _)| !key.contains('@')) {
        let text = value.as_str();
        match (key.as_str(), text) {
            ("UserName", Some(name)) if is_new && is_plain_name(name) => {
                asked.name = Some(name.to_owned())
            }
            ("UserName", Some(name)) if is_new => {
                wrong.push(message("PropertyValueFormatError", &[name, key]));
            }
            ("Password", Some(password)) if is_strong(password) => {
                asked.password = Some(password.to_owned())
            }
            // What it was is not repeated.
            ("Password", Some(_)) => wrong.push(message("PropertyValueError", &[key])),
            ("RoleId", Some(name)) => match ROLES.iter().find(|(_, known, _)| *known == name) {
                Some((role, ..)) => asked.role = Some(*role),
                None => wrong.push(message("PropertyValueNotInList", &[name, key])),
            },
            ("Enabled", None) if is_new && *value == Value::Bool(true) => {}
            ("Password" | "RoleId", None) => wrong.push(message("PropertyValueError", &[key])),
            ("UserName", None) if is_new => wrong.push(message("PropertyValueError", &[key])),
            (key, _) if FIXED.contains(&key) => wrong.push(message("PropertyNotWritable", &[key])),
            (key, _) => wrong.push(message("PropertyUnknown", &[key])),
        }
    }
    let all = [
        ("UserName", asked.name.is_some()),
        ("Password", asked.password.is_some()),
        ("RoleId", asked.role.is_some()),
    ];
    for (key, is_there) in all {
        if is_new && !is_there && !body.contains_key(key) {
            wrong.push(message("PropertyMissing", &[key]));
        }
    }
    if !is_new && wrong.is_empty() && asked == Asked::default() {
        wrong.push(message("NoOperation", &[]));
    }
    if wrong.is_empty() {
        return Ok(asked);
    }
    Err(Wrong {
        status: StatusCode::BAD_REQUEST,
        messages: wrong,
        allow: None,
    })
}

fn is_strong(password: &str) -> bool {
    let different: BTreeSet<char> = password.chars().collect();
    let length = password.chars().count();
    (LENGTH.0..=LENGTH.1).contains(&length) && different.len() >= DIFFERENT_MIN
}

/// Lets somebody in. It writes, so it waits for the disk.
pub(super) fn create(app: &App, body: &Map<String, Value>) -> Result<Response, Wrong> {
    let Asked {
        name,
        password,
        role,
    } = asked(body, true)?;
    let (Some(name), Some(password), Some(role)) = (name, password, role) else {
        return Err(Wrong::bad("UnrecognizedRequestBody", &[]));
    };
    let _one = app.doors.changing();
    if app.doors.tokens().iter().any(|token| token.name == name) {
        let args = ["ManagerAccount", "UserName", &name];
        return Err(Wrong::new(
            StatusCode::CONFLICT,
            "ResourceAlreadyExists",
            &args,
        ));
    }
    let token = Token {
        name: name.clone(),
        role,
        sha256: hash(&password),
        made_at: now(),
    };
    keep(app, &name, Some(&token))?;
    let mut response = json_answer(StatusCode::CREATED, &view(&token));
    let location = HeaderValue::from_str(&place(&name)).map_err(Wrong::internal)?;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

fn keep(app: &App, name: &str, token: Option<&Token>) -> Result<(), Wrong> {
    app.store.note_token(name, token)?;
    app.doors.set_tokens(app.store.tokens()?);
    Ok(())
}

/// An account that may be seen, if it is still what `If-Match` says.
fn matching(app: &App, who: &Who, name: &str, headers: &HeaderMap) -> Result<Token, Wrong> {
    let all = seen(app, who);
    let found = all.into_iter().find(|token| token.name == name);
    let Some(token) = found else {
        // Who may see only their own is not told of others.
        let is_all = who.role == Role::Administrator;
        return Err(if is_all {
            Wrong::missing(&place(name))
        } else {
            Wrong::forbidden()
        });
    };
    check_match(headers, &etag(&token))?;
    Ok(token)
}

/// Changes an account: an Administrator any, others their own password.
pub(super) fn change(
    app: &App,
    who: &Who,
    name: &str,
    (headers, body): (&HeaderMap, &Map<String, Value>),
) -> Result<Response, Wrong> {
    let _one = app.doors.changing();
    let mut token = matching(app, who, name, headers)?;
    let asked = asked(body, false)?;
    if asked.role.is_some() && who.role != Role::Administrator {
        return Err(Wrong::forbidden());
    }
    token.role = asked.role.unwrap_or(token.role);
    if let Some(password) = &asked.password {
        token.sha256 = hash(password);
    }
    keep(app, name, Some(&token))?;
    if asked.password.is_some() {
        // Sessions that the old one has opened are over.
        app.doors.end_session(|_, session| session.who == name);
    }
    Ok(json_answer(StatusCode::OK, &view(&token)))
}

/// Lets somebody in no more.
pub(super) fn remove(
    app: &App,
    who: &Who,
    name: &str,
    headers: &HeaderMap,
) -> Result<Response, Wrong> {
    let _one = app.doors.changing();
    matching(app, who, name, headers)?;
    keep(app, name, None)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRONG: &str = "abcdefghijklmnopqrstuvwxyz012345";

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        let check = |is_new, body: Value, expected: &[&str]| {
            let found = asked(body.as_object().unwrap(), is_new);
            let found = found.map_or_else(|wrong| wrong.messages, |_| Vec::new());
            let names: Vec<&str> = found
                .iter()
                .filter_map(|message| message["MessageId"].as_str()?.rsplit('.').next())
                .collect();
            assert_eq!(names, expected, "{body}");
            let text = format!("{found:?}");
            assert!(!text.contains("short"), "a password is repeated: {text}");
        };
        check(
            true,
            json!({ "UserName": "a", "Password": STRONG, "RoleId": "Operator" }),
            &[],
        );
        check(
            true,
            json!({}),
            &["PropertyMissing", "PropertyMissing", "PropertyMissing"],
        );
        check(
            true,
            json!({ "UserName": "a b", "Password": "short", "RoleId": "King" }),
            &[
                "PropertyValueError",
                "PropertyValueNotInList",
                "PropertyValueFormatError",
            ],
        );
        check(
            true,
            json!({ "UserName": 5, "Password": 5, "RoleId": 5 }),
            &["PropertyValueError"; 3],
        );
        check(
            false,
            json!({ "Password": "a".repeat(40) }),
            &["PropertyValueError"],
        );
        check(false, json!({ "Password": STRONG }), &[]);
        check(
            false,
            json!({ "Password": STRONG, "BogusProp": "foo" }),
            &["PropertyUnknown"],
        );
        check(false, json!({ "UserName": "b" }), &["PropertyNotWritable"]);
        check(false, json!({ "@odata.id": "/x" }), &["NoOperation"]);
    }

    #[test]
    fn an_etag_changes_with_the_secret_and_does_not_tell_it() {
        let token = |sha256: &str, role| Token {
            name: "a".to_owned(),
            role,
            sha256: sha256.to_owned(),
            made_at: 0.0,
        };
        let one = etag(&token("00", Role::ReadOnly));
        assert_ne!(one, etag(&token("01", Role::ReadOnly)));
        assert_ne!(one, etag(&token("00", Role::Operator)));
        assert_eq!(one, etag(&token("00", Role::ReadOnly)));
        assert_eq!(view(&token("00", Role::ReadOnly))["Password"], Value::Null);
        for (_, name, _) in ROLES {
            assert_eq!(role(name).unwrap()["RoleId"], *name);
        }
    }
}
