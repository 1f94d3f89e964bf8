//! `Boot` of a system: from where a declared VM starts, once or always, instead of as it is declared.

use serde_json::{Map, Value, json};

use super::errors::{Wrong, message};
use crate::words::{BootOverride, BootTarget, Lasting, VmView};

const TARGETS: [(&str, BootTarget); 3] = [
    ("None", BootTarget::None),
    ("Hdd", BootTarget::Hdd),
    ("Cd", BootTarget::Cd),
];
const LASTINGS: [(&str, Lasting); 3] = [
    ("Disabled", Lasting::Disabled),
    ("Once", Lasting::Once),
    ("Continuous", Lasting::Continuous),
];
/// There is no firmware; what is started are entries that a BIOS would come to, and a guest sees no UEFI.
const MODE: &str = "Legacy";

fn word<T: PartialEq>(all: &[(&'static str, T)], value: &T) -> &'static str {
    let found = all.iter().find(|(_, other)| other == value);
    found.map_or("", |(word, _)| *word)
}

/// What a system says of it.
pub(super) fn of(vm: &VmView) -> Value {
    let Some(declared) = &vm.declared else {
        return json!({
            "BootSourceOverrideEnabled": "Disabled",
            "BootSourceOverrideTarget": "None",
            "BootSourceOverrideTarget@Redfish.AllowableValues": ["None"],
        });
    };
    let boot = declared.boot_override;
    json!({
        "BootSourceOverrideEnabled": word(&LASTINGS, &boot.lasting),
        "BootSourceOverrideEnabled@Redfish.AllowableValues": LASTINGS.map(|(word, _)| word),
        "BootSourceOverrideTarget": word(&TARGETS, &boot.target),
        "BootSourceOverrideTarget@Redfish.AllowableValues": TARGETS.map(|(word, _)| word),
        "BootSourceOverrideMode": MODE,
        "BootSourceOverrideMode@Redfish.AllowableValues": [MODE],
    })
}

/// What a change says; what it does not say stays as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Change {
    target: Option<BootTarget>,
    lasting: Option<Lasting>,
}

impl Change {
    /// Reads it; everything that is wrong is said at once.
    pub(super) fn read(body: &Map<String, Value>) -> Result<Change, Wrong> {
        let mut change = Change::default();
        let mut messages = Vec::new();
        let mut says_something = false;
        for (key, value) in body.iter().filter(|(key, _)| !key.contains('@')) {
            let Some(boot) = value.as_object().filter(|_| key == "Boot") else {
                let is_ours = matches!(key.as_str(), "Id" | "Name" | "PowerState" | "Status");
                let name = match key.as_str() {
                    "Boot" => "PropertyValueError",
                    _ if is_ours => "PropertyNotWritable",
                    _ => "PropertyUnknown",
                };
                messages.push(message(name, &[key]));
                continue;
            };
            for (key, value) in boot.iter().filter(|(key, _)| !key.contains('@')) {
                says_something = true;
                messages.extend(change.take(key, value));
            }
        }
        if messages.is_empty() && !says_something {
            messages.push(message("NoOperation", &[]));
        }
        if messages.is_empty() {
            return Ok(change);
        }
        let mut wrong = Wrong::bad("GeneralError", &[]);
        wrong.messages = messages;
        Err(wrong)
    }

    /// Takes one property, or says what is wrong with it.
    fn take(&mut self, key: &str, value: &Value) -> Option<Value> {
        let text = value.as_str().unwrap_or_default();
        let unknown = || {
            let shown = value.to_string();
            message("PropertyValueNotInList", &[shown.trim_matches('"'), key])
        };
        match key {
            "BootSourceOverrideTarget" => {
                let known = TARGETS.iter().find(|(word, _)| *word == text);
                self.target = known.map(|(_, target)| *target);
                known.is_none().then(|| {
                    let mut wrong = unknown();
                    if text == "Pxe" || text == "UefiHttp" {
                        wrong["Resolution"] = "A VM has no firmware that starts over a network: insert a medium, and choose Cd."
                            .into();
                    }
                    wrong
                })
            }
            "BootSourceOverrideEnabled" => {
                let known = LASTINGS.iter().find(|(word, _)| *word == text);
                self.lasting = known.map(|(_, lasting)| *lasting);
                known.is_none().then(unknown)
            }
            "BootSourceOverrideMode" if text == MODE => None,
            "BootSourceOverrideMode" => {
                let mut wrong = unknown();
                wrong["Resolution"] = "A VM has no UEFI: leave this out, or say Legacy.".into();
                Some(wrong)
            }
            _ => Some(message("PropertyUnknown", &[&format!("Boot/{key}")])),
        }
    }

    /// What holds then.
    pub(super) fn of(self, now: BootOverride) -> BootOverride {
        BootOverride {
            target: self.target.unwrap_or(now.target),
            lasting: self.lasting.unwrap_or(now.lasting),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_says_what_it_says_and_nothing_else() {
        let check =
            |body: Value, expected: Result<(Option<BootTarget>, Option<Lasting>), &[&str]>| {
                let found = Change::read(body.as_object().unwrap());
                let found = found.map(|change| (change.target, change.lasting));
                let found = found.map_err(|wrong| {
                    let id = |message: &Value| message["MessageId"].as_str().unwrap().to_owned();
                    let ids = wrong.messages.iter().map(id);
                    ids.map(|id| id.rsplit('.').next().unwrap().to_owned())
                        .collect::<Vec<_>>()
                });
                let expected =
                    expected.map_err(|all| all.iter().map(|it| (*it).to_owned()).collect());
                assert_eq!(found, expected, "{body}");
            };
        let boot = |boot: Value| json!({ "Boot": boot });
        let cd = Some(BootTarget::Cd);
        check(
            boot(json!({ "BootSourceOverrideTarget": "Cd", "BootSourceOverrideEnabled": "Once" })),
            Ok((cd, Some(Lasting::Once))),
        );
        check(
            boot(json!({ "BootSourceOverrideTarget": "Cd", "BootSourceOverrideMode": "Legacy" })),
            Ok((cd, None)),
        );
        let unlisted: &[&str] = &["PropertyValueNotInList"];
        check(
            boot(json!({ "BootSourceOverrideTarget": "Pxe" })),
            Err(unlisted),
        );
        check(
            boot(json!({ "BootSourceOverrideMode": "UEFI" })),
            Err(unlisted),
        );
        check(
            boot(json!({ "BootSourceOverrideEnabled": 1, "BootOrder": [] })),
            Err(&["PropertyUnknown", "PropertyValueNotInList"]),
        );
        check(json!({ "Boot": 5 }), Err(&["PropertyValueError"]));
        check(boot(json!({})), Err(&["NoOperation"]));
        check(json!({}), Err(&["NoOperation"]));
        check(
            json!({ "Name": "x", "y": 1 }),
            Err(&["PropertyNotWritable", "PropertyUnknown"]),
        );
    }
}
