//! Which of several images is meant: those for other machines are none of them, and the user may name one.

use serde_json::Value;

use crate::container::{ContainerError, damaged};

/// Annotations that call an image something: image-spec (annotations.md), and what Docker and containerd write.
const NAMES: [&str; 2] = [
    "io.containerd.image.name",
    "org.opencontainers.image.ref.name",
];

/// What Docker puts before names that have no registry.
const DOCKER_HUB: [&str; 2] = ["docker.io/library/", "docker.io/"];

/// What the user said.
pub(super) struct Choice<'a> {
    /// A name, a tag, or the beginning of a digest.
    pub(super) wanted: Option<&'a str>,
    /// What the folder or archive is called.
    pub(super) stem: String,
}

/// One image among several.
struct Named<'a> {
    entry: &'a Value,
    names: Vec<&'a str>,
    digest: &'a str,
}

/// The descriptors of a list that are for this kind of machine, or do not say what they are for.
pub(super) fn candidates(list: &[Value]) -> Result<Vec<&Value>, ContainerError> {
    let machine = |entry: &Value| -> Option<(String, String)> {
        let platform = &entry["platform"];
        Some((
            platform["os"].as_str()?.to_owned(),
            platform["architecture"].as_str()?.to_owned(),
        ))
    };
    let is_ours = |entry: &&Value| {
        machine(entry).is_none_or(|(os, architecture)| os == "linux" && architecture == "amd64")
    };
    let ours: Vec<&Value> = list.iter().filter(is_ours).collect();
    if !ours.is_empty() {
        return Ok(ours);
    }
    let all: Vec<String> = list
        .iter()
        .filter_map(machine)
        .map(|(os, architecture)| format!("{os}/{architecture}"))
        .collect();
    Err(if all.is_empty() {
        damaged("the index", "it has no manifest")
    } else {
        ContainerError::OtherMachine(all.join(", "))
    })
}

impl Choice<'_> {
    /// One of these descriptors, and what to call it.
    pub(super) fn of_descriptors<'v>(
        &self,
        list: &[&'v Value],
    ) -> Result<(&'v Value, String), ContainerError> {
        let named = |entry: &'v Value| Named {
            entry,
            names: NAMES
                .iter()
                .filter_map(|key| entry["annotations"][key].as_str())
                .collect(),
            digest: entry["digest"].as_str().unwrap_or_default(),
        };
        self.of(&list.iter().map(|entry| named(entry)).collect::<Vec<_>>())
    }

    /// One of the images that `docker save` wrote into one archive.
    pub(super) fn of_saved<'v>(
        &self,
        list: &'v [Value],
    ) -> Result<(&'v Value, String), ContainerError> {
        if list.is_empty() {
            return Err(damaged("manifest.json", "it names no image"));
        }
        let named = |entry: &'v Value| Named {
            entry,
            names: entry["RepoTags"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect(),
            digest: entry["Config"].as_str().unwrap_or_default(),
        };
        self.of(&list.iter().map(named).collect::<Vec<_>>())
    }

    fn of<'v>(&self, list: &[Named<'v>]) -> Result<(&'v Value, String), ContainerError> {
        let Some(wanted) = self.wanted else {
            // Several names of one image are one image; images without names differ in what they are for.
            let is_one = list
                .iter()
                .all(|image| image.digest == list[0].digest || image.names.is_empty());
            if !is_one {
                return Err(ContainerError::Several(shown(list)));
            }
            return Ok((list[0].entry, self.name(&list[0])));
        };
        let found = list.iter().find(|image| image.is(wanted));
        let found = found.ok_or_else(|| ContainerError::NotAmong {
            wanted: wanted.to_owned(),
            all: shown(list),
        })?;
        let name = match self.name(found) {
            // A tag alone is the folder's.
            name if name == self.stem => format!("{name}:{wanted}"),
            name => name,
        };
        Ok((found.entry, name))
    }

    /// A bare tag such as `latest` says less than the file's name.
    fn name(&self, image: &Named<'_>) -> String {
        let full = image.names.iter().find(|name| name.contains([':', '/']));
        full.map_or_else(|| self.stem.clone(), |name| without_hub(name).to_owned())
    }
}

impl Named<'_> {
    /// Whether somebody would call it so: by name, tag, or the beginning of its digest.
    fn is(&self, wanted: &str) -> bool {
        let hexadecimal = |text: &str| {
            text.rsplit([':', '/'])
                .next()
                .unwrap_or_default()
                .to_owned()
        };
        let digest = hexadecimal(self.digest);
        wanted.len() >= 6 && digest.starts_with(&hexadecimal(wanted))
            || self.names.iter().any(|name| {
                let tag = name
                    .rsplit('/')
                    .next()
                    .and_then(|last| last.split_once(':'));
                *name == wanted
                    || without_hub(name) == wanted
                    || tag.is_some_and(|(_, tag)| tag == wanted)
            })
    }
}

fn without_hub(name: &str) -> &str {
    let bare = DOCKER_HUB.iter().find_map(|hub| name.strip_prefix(hub));
    bare.unwrap_or(name)
}

/// What the images are called, for a message.
fn shown(list: &[Named<'_>]) -> Vec<String> {
    let shown = |image: &Named<'_>| match image.names.as_slice() {
        [] => image.digest.chars().take("sha256:".len() + 12).collect(),
        // The full name is what the user knows.
        [.., last] => without_hub(
            image
                .names
                .iter()
                .find(|name| name.contains('/'))
                .unwrap_or(last),
        )
        .to_owned(),
    };
    list.iter().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn descriptor(digit: &str, names: &[(&str, &str)]) -> Value {
        let annotations: serde_json::Map<String, Value> = names
            .iter()
            .map(|(key, name)| ((*key).to_owned(), json!(name)))
            .collect();
        json!({ "digest": format!("sha256:{}", digit.repeat(64)), "annotations": annotations })
    }

    fn check(list: &[Value], wanted: Option<&str>, expected: Result<(usize, &str), &str>) {
        let list: Vec<&Value> = list.iter().collect();
        let stem = "box".to_owned();
        match (Choice { wanted, stem }.of_descriptors(&list), expected) {
            (Ok((entry, name)), Ok((at, called))) => {
                assert_eq!((entry, name.as_str()), (list[at], called), "{wanted:?}");
            }
            (Err(error), Err(expected)) => assert_eq!(error.to_string(), expected),
            (got, _) => panic!("{wanted:?}: {got:?}"),
        }
    }

    const OCI: &str = NAMES[1];

    #[test]
    fn one_of_several_images_is_named() {
        let two = [
            descriptor("a", &[(OCI, "one")]),
            descriptor("b", &[(OCI, "two")]),
        ];
        check(&two, None, Err("it holds several images: one, two"));
        check(&two, Some("two"), Ok((1, "box:two")));
        check(&two, Some("bbbbbbbb"), Ok((1, "box:bbbbbbbb")));
        check(
            &two,
            Some("three"),
            Err("it has no image \"three\", but one, two"),
        );
    }

    #[test]
    fn one_image_with_several_names_is_one() {
        let tags = [
            descriptor("a", &[(OCI, "1")]),
            descriptor("a", &[(OCI, "latest")]),
        ];
        check(&tags, None, Ok((0, "box")));
        check(
            &[descriptor("a", &[]), descriptor("b", &[])],
            None,
            Ok((0, "box")),
        );
    }

    #[test]
    fn docker_calls_an_image_by_its_full_name() {
        let saved = [descriptor(
            "a",
            &[(NAMES[0], "docker.io/library/web:2"), (OCI, "2")],
        )];
        check(&saved, None, Ok((0, "web:2")));
        check(&saved, Some("2"), Ok((0, "web:2")));
        check(&saved, Some("web:2"), Ok((0, "web:2")));
        check(&saved, Some("docker.io/library/web:2"), Ok((0, "web:2")));
        check(
            &saved,
            Some("web"),
            Err("it has no image \"web\", but web:2"),
        );
    }
}
