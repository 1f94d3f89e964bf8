//! `VirtualMedia`: the drive that each declared VM has, under its system, and once more under the manager by the VM's name.
//!
//! A medium is an address, which is fetched, or a file of the host, which stays where it is; the VM has it from its next start on,
//! read-only. Whoever inserts one into a VM that runs is told so.

use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use tokio::task::spawn_blocking;

use super::errors::{Wrong, message};
use super::kinds::{collection, resource};
use super::names;
use super::place::{Drive, MANAGER};
use super::reset;
use super::tags::{check_match, etag};
use crate::fetch::Source;
use crate::http::answer::Refusal;
use crate::http::app::App;
use crate::http::vms::broken;
use crate::media::of_host;
use crate::post::Place;
use crate::words::{Medium, VmView, WorkState};

/// The actions, as messages have them.
const INSERT: &str = "VirtualMedia.InsertMedia";
const EJECT: &str = "VirtualMedia.EjectMedia";
/// What a drive takes.
const TYPES: [&str; 3] = ["CD", "DVD", "USBStick"];

/// What an insertion may say.
const WORDS: [&str; 9] = [
    "Image",
    "Inserted",
    "WriteProtected",
    "UserName",
    "Password",
    "TransferMethod",
    "TransferProtocolType",
    "MediaType",
    "MediaTypes",
];

/// The drive of a system.
pub(super) fn of_system(app: &App, name: &str) -> Result<Value, Wrong> {
    declared(app, name)?;
    let drive = Drive {
        vm: name.to_owned(),
        is_managers: false,
    };
    Ok(collection(
        "VirtualMediaCollection",
        &place_of_system(name),
        "Drives",
        &[place(&drive)],
    ))
}

/// The drives of all systems.
pub(super) fn of_manager(app: &App) -> Value {
    let all = app.sight.all().into_iter();
    let places: Vec<String> = all
        .filter(|vm| vm.declared.is_some())
        .map(|vm| {
            place(&Drive {
                vm: vm.name,
                is_managers: true,
            })
        })
        .collect();
    collection(
        "VirtualMediaCollection",
        &place_of_manager(),
        "Drives",
        &places,
    )
}

/// Where the drives of a system are.
pub(super) fn place_of_system(name: &str) -> String {
    names::place(name) + "/VirtualMedia"
}

/// Where those of all are.
pub(super) fn place_of_manager() -> String {
    format!("/redfish/v1/Managers/{MANAGER}/VirtualMedia")
}

fn place(drive: &Drive) -> String {
    if drive.is_managers {
        format!("{}/{}", place_of_manager(), drive.vm)
    } else {
        place_of_system(&drive.vm) + "/Cd"
    }
}

/// A VM that has a drive: one that is declared, for nobody else starts others.
fn declared(app: &App, name: &str) -> Result<VmView, Wrong> {
    let vm = names::found(app, name)?;
    if vm.declared.is_none() {
        return Err(Wrong::missing(&place_of_system(name)));
    }
    Ok(vm)
}

/// One drive.
pub(super) fn drive(app: &App, drive: &Drive) -> Result<Value, Wrong> {
    declared(app, &drive.vm).map(|vm| of(&vm, drive))
}

fn of(vm: &VmView, drive: &Drive) -> Value {
    let uri = place(drive);
    let medium = vm.declared.as_ref().and_then(|it| it.medium.as_ref());
    let protocol = medium.and_then(|medium| protocol(&medium.image));
    let last = |medium: &Medium| {
        let path = medium.image.split('?').next().unwrap_or_default();
        path.rsplit('/').next().unwrap_or_default().to_owned()
    };
    let more = json!({
        "Description": medium.map(about),
        "MediaTypes": TYPES,
        "Image": medium.map(|medium| &medium.image),
        "ImageName": medium.map(last),
        "ConnectedVia": if medium.is_some() { "URI" } else { "NotConnected" },
        "Inserted": medium.is_some(),
        "WriteProtected": true,
        "UserName": medium.and_then(|medium| medium.user.as_ref()),
        "TransferMethod": protocol.map(|_| "Upload"),
        "TransferProtocolType": protocol,
        "VerifyCertificate": true,
        "EjectPolicy": "Persistent",
        "Status": { "State": "Enabled", "Health": "OK" },
        "Actions": {
            format!("#{INSERT}"): {
                "target": format!("{uri}/Actions/{INSERT}"),
                "TransferMethod@Redfish.AllowableValues": ["Upload"],
                "TransferProtocolType@Redfish.AllowableValues": ["HTTP", "HTTPS"],
            },
            format!("#{EJECT}"): { "target": format!("{uri}/Actions/{EJECT}") },
        },
    });
    let id = if drive.is_managers { &drive.vm } else { "Cd" };
    let name = format!("Drive of {}", vm.name);
    resource("VirtualMedia", &uri, (id, &name), more)
}

/// What lies in a drive, for people.
fn about(medium: &Medium) -> String {
    match &medium.sha256 {
        Some(digest) => format!("{} bytes, SHA-256 {digest}", medium.len_bytes),
        None => format!("{} bytes, a file of the host", medium.len_bytes),
    }
}

/// How it is fetched; none of a file of the host.
fn protocol(image: &str) -> Option<&'static str> {
    if image.starts_with("https://") {
        Some("HTTPS")
    } else {
        image.starts_with("http://").then_some("HTTP")
    }
}

/// What somebody wants of a drive.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Insert {
        image: String,
        user: Option<(String, String)>,
    },
    Eject,
}

/// Reads what is asked, of an action or of a change of properties.
fn asked(body: &Map<String, Value>, action: Option<&str>) -> Result<Asked, Wrong> {
    let is_own = |key: &&String| !key.contains('@');
    if let Some(other) = body
        .keys()
        .filter(is_own)
        .find(|key| !WORDS.contains(&key.as_str()))
    {
        return Err(match action {
            Some(action) => Wrong::bad("ActionParameterUnknown", &[action, other]),
            None => Wrong::bad("PropertyUnknown", &[other]),
        });
    }
    let wrong = |key: &str, value: &Value| {
        let text = value.to_string();
        let text = if key == "Password" {
            "***"
        } else {
            text.trim_matches('"')
        };
        match action {
            Some(action) => Wrong::bad("ActionParameterValueNotInList", &[text, key, action]),
            None => Wrong::bad("PropertyValueNotInList", &[text, key]),
        }
    };
    let text = |key: &str| match body.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(wrong(key, other)),
    };
    let ejects = action.is_none()
        && (body.get("Image") == Some(&Value::Null)
            || body.get("Inserted") == Some(&Value::Bool(false)));
    if ejects {
        return Ok(Asked::Eject);
    }
    let Some(image) = text("Image")? else {
        return Err(match action {
            Some(action) => Wrong::bad("ActionParameterMissing", &[action, "Image"]),
            None => Wrong::bad("NoOperation", &[]),
        });
    };
    check_how(body, &image, wrong)?;
    let user = text("UserName")?;
    let password = text("Password")?;
    Ok(Asked::Insert {
        image,
        user: user.map(|user| (user, password.unwrap_or_default())),
    })
}

/// Whether what is said of an image besides its name is as it will be; `wrong` says what is not.
fn check_how(
    body: &Map<String, Value>,
    image: &str,
    wrong: impl Fn(&str, &Value) -> Wrong,
) -> Result<(), Wrong> {
    // A medium that does not lie in the drive is none, and nobody writes to one.
    for key in ["Inserted", "WriteProtected"] {
        if let Some(value) = body.get(key).filter(|value| **value != Value::Bool(true)) {
            let mut wrong = wrong(key, value);
            wrong.messages[0]["Resolution"] =
                "A medium lies in the drive and is only read: leave this out, or say true.".into();
            return Err(wrong);
        }
    }
    if let Some(value) = body
        .get("TransferMethod")
        .filter(|value| *value != "Upload")
    {
        return Err(wrong("TransferMethod", value));
    }
    if let Some(value) = body.get("TransferProtocolType")
        && value.as_str() != protocol(image)
    {
        return Err(wrong("TransferProtocolType", value));
    }
    if protocol(image).is_some() && Place::new(image).is_err() {
        // It may have a password, and is not said again.
        let mut wrong = wrong("Image", &Value::from("***"));
        wrong.messages[0]["Resolution"] =
            "Write http://HOST[:PORT]/PATH or https://, and a user with UserName and Password."
                .into();
        return Err(wrong);
    }
    Ok(())
}

/// Does what an action asks for.
pub(super) async fn act(
    app: &App,
    (drive, inserts): (&Drive, bool),
    body: &Map<String, Value>,
) -> Result<Response, Wrong> {
    declared(app, &drive.vm)?;
    if inserts {
        return perform(app, drive, asked(body, Some(INSERT))?).await;
    }
    if let Some(other) = body.keys().find(|key| !key.contains('@')) {
        return Err(Wrong::bad("ActionParameterUnknown", &[EJECT, other]));
    }
    perform(app, drive, Asked::Eject).await
}

/// Changes properties: an image is inserted, none is ejected.
pub(super) async fn change(
    app: &App,
    drive: &Drive,
    (headers, body): (&HeaderMap, &Map<String, Value>),
) -> Result<Response, Wrong> {
    let vm = declared(app, &drive.vm)?;
    check_match(headers, &etag(&of(&vm, drive)))?;
    perform(app, drive, asked(body, None)?).await
}

async fn perform(app: &App, drive: &Drive, asked: Asked) -> Result<Response, Wrong> {
    let name = drive.vm.clone();
    let daemon = app.clone();
    match asked {
        Asked::Eject => {
            let of = name.clone();
            let ejected = spawn_blocking(move || daemon.eject(&of)).await;
            if ejected.map_err(broken)?? {
                return Ok(done(app, &name));
            }
            Err(Wrong::conflict("nothing lies in the drive", None))
        }
        Asked::Insert { .. } if medium(app, &name).is_some() => Err(Wrong::conflict(
            "something lies in the drive already",
            Some("eject it first"),
        )),
        Asked::Insert { image, user } if protocol(&image).is_some() => {
            let source = Source { url: image, user };
            let of = name.clone();
            let begun = spawn_blocking(move || daemon.begin_fetch(&of, source)).await;
            let operation = begun
                .map_err(broken)?
                .map_err(|why| Wrong::conflict(why, Some("wait for the task, or cancel it")))?;
            let ended = reset::ended(app, operation).await;
            match ended.state {
                WorkState::Done => Ok(done(app, &name)),
                _ => reset::answer_as_it_is(&ended),
            }
        }
        Asked::Insert { image, .. } => {
            let into = name.clone();
            let inserted =
                spawn_blocking(move || daemon.insert(&into, of_host(&image)?, None)).await;
            inserted
                .map_err(broken)?
                .map_err(|problem| Refusal::of_command(*problem))?;
            Ok(done(app, &name))
        }
    }
}

fn medium(app: &App, name: &str) -> Option<Medium> {
    app.sight.declared(name)?.medium
}

/// It is done; for a VM that runs, with the word that it has it from its next start on.
fn done(app: &App, name: &str) -> Response {
    let is_alive = app.sight.one(name).is_some_and(|vm| vm.state.is_alive());
    if !is_alive {
        return StatusCode::NO_CONTENT.into_response();
    }
    let said = message("ResetRequired", &[&reset::target(name), "ForceRestart"]);
    let success = message("Success", &[]);
    let body = json!({ "error": {
        "code": success["MessageId"],
        "message": "The VM runs with what lay in its drive when it was started, and has this from its next start on.",
        "@Message.ExtendedInfo": [success, said],
    } });
    (StatusCode::OK, axum::Json(body)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::StateView;
    use crate::words::tests::vm;

    #[test]
    fn what_is_asked_of_a_drive_is_read_whole() {
        let check = |action: Option<&str>, body: Value, expected: Result<Asked, &str>| {
            let found = asked(body.as_object().unwrap(), action);
            let found = found.map_err(|wrong| {
                assert!(!format!("{wrong:?}").contains("secret"));
                let id = wrong.messages[0]["MessageId"].as_str().unwrap();
                id.rsplit('.').next().unwrap().to_owned()
            });
            assert_eq!(found, expected.map_err(str::to_owned), "{body}");
        };
        let insert = |image: &str, user: Option<(&str, &str)>| Asked::Insert {
            image: image.to_owned(),
            user: user.map(|(name, password)| (name.to_owned(), password.to_owned())),
        };
        let url = "http://192.0.2.1/a.iso";
        let action = Some(INSERT);
        check(action, json!({ "Image": url }), Ok(insert(url, None)));
        // As sushy and Ansible say it.
        let whole = json!({ "Image": url, "Inserted": true, "WriteProtected": true, "UserName": "a", "Password": "secret" });
        check(action, whole, Ok(insert(url, Some(("a", "secret")))));
        check(action, json!({}), Err("ActionParameterMissing"));
        check(
            action,
            json!({ "Image": null }),
            Err("ActionParameterMissing"),
        );
        check(
            action,
            json!({ "Image": url, "Speed": 1 }),
            Err("ActionParameterUnknown"),
        );
        let no = Err("ActionParameterValueNotInList");
        check(
            action,
            json!({ "Image": 5 }),
            Err("ActionParameterValueNotInList"),
        );
        check(
            action,
            json!({ "Image": url, "WriteProtected": false }),
            Err("ActionParameterValueNotInList"),
        );
        check(
            action,
            json!({ "Image": url, "Inserted": false }),
            Err("ActionParameterValueNotInList"),
        );
        check(
            action,
            json!({ "Image": url, "TransferMethod": "Stream" }),
            Err("ActionParameterValueNotInList"),
        );
        check(
            action,
            json!({ "Image": url, "TransferProtocolType": "NFS" }),
            no,
        );
        for image in [
            "http://a:secret@192.0.2.1/a.iso",
            "https://",
            "http://192.0.2.1/a b?secret",
        ] {
            check(
                action,
                json!({ "Image": image }),
                Err("ActionParameterValueNotInList"),
            );
            check(
                None,
                json!({ "Image": image }),
                Err("PropertyValueNotInList"),
            );
        }
        check(
            action,
            json!({ "Image": url, "UserName": "a", "Password": ["secret"] }),
            Err("ActionParameterValueNotInList"),
        );
        check(
            None,
            json!({ "Image": url, "Inserted": true }),
            Ok(insert(url, None)),
        );
        check(None, json!({ "Image": null }), Ok(Asked::Eject));
        check(None, json!({ "Inserted": false }), Ok(Asked::Eject));
        check(None, json!({}), Err("NoOperation"));
        check(None, json!({ "Name": "x" }), Err("PropertyUnknown"));
    }

    #[test]
    fn a_drive_is_empty_and_is_the_same_in_both_places() {
        let vm = vm(StateView::Declared);
        for is_managers in [true, false] {
            let drive = Drive {
                vm: "web".to_owned(),
                is_managers,
            };
            let shown = of(&vm, &drive);
            assert_eq!(shown["Inserted"], false);
            assert_eq!(shown["ConnectedVia"], "NotConnected");
            let target = &shown["Actions"]["#VirtualMedia.InsertMedia"]["target"];
            let place = super::super::place::Place::of(target.as_str().unwrap());
            assert!(place.is_some(), "{target}");
        }
    }
}
