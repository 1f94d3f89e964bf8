//! Which parts an image has: indexes and manifests of the OCI (image-spec, image-index.md and manifest.md), and Docker's of
//! schema 2, which have the same form.

use serde::Deserialize;
use serde_json::Value;

use crate::digest::Digest;
use crate::error::RegistryError;

/// What is understood, as a registry is told (distribution-spec, "Pulling manifests").
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
                                 application/vnd.docker.distribution.manifest.list.v2+json, \
                                 application/vnd.docker.distribution.manifest.v2+json";

/// The largest description (distribution-spec has registries take 4 MiB).
pub(crate) const MANIFEST_BYTES_MAX: u64 = 4 << 20;

/// The largest configuration.
const CONFIG_BYTES_MAX: u64 = 16 << 20;

/// The largest layer, packed.
const LAYER_BYTES_MAX: u64 = 64 << 30;

/// Layers that an image may have; container engines stop at 127.
const LAYERS_MAX: usize = 512;

/// Types of what an image's configuration is; anything else is no image but something that is kept in registries too.
const CONFIG_TYPES: [&str; 2] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
];

/// A part, as a description names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Part {
    pub(crate) digest: Digest,
    pub(crate) size_bytes: u64,
}

/// What a description is of.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Described {
    /// Several images: the description of the one for this kind of machine.
    Index(Part),
    /// One image: its configuration and its layers.
    Image(Vec<Part>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Description {
    schema_version: Option<u64>,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: Option<String>,
    digest: String,
    size: u64,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
}

/// Reads a description.
///
/// # Errors
/// If it is none, or of nothing that runs here.
pub(crate) fn read(bytes: &[u8]) -> Result<Described, RegistryError> {
    let no_image = |what: &str| RegistryError::NoImage(what.to_owned());
    // The form decides, and not the type that a registry claims: the digest is of the form alone.
    let value: Value =
        serde_json::from_slice(bytes).map_err(|_| no_image("its description is no JSON"))?;
    let read: Description = serde_json::from_value(value)
        .map_err(|error| no_image(&format!("its description cannot be read ({error})")))?;
    match (read.manifests, read.config, read.layers) {
        (Some(manifests), None, None) => choose(&manifests).map(Described::Index),
        (None, Some(config), Some(layers)) => image(&config, &layers).map(Described::Image),
        _ if read.schema_version == Some(1) => Err(no_image(
            "its manifest has Docker's form of 2015 (schema 1), which nothing writes any more",
        )),
        _ => Err(no_image(
            "its description is neither of one image nor of several",
        )),
    }
}

/// The image for linux/amd64: one that says so without asking for a later processor, or else one that says nothing.
fn choose(manifests: &[Descriptor]) -> Result<Part, RegistryError> {
    let is_ours = |it: &&Descriptor| {
        let platform = it.platform.as_ref();
        platform.is_some_and(|it| it.os == "linux" && it.architecture == "amd64")
    };
    let variant = |it: &&Descriptor| it.platform.as_ref().map(|it| it.variant.clone());
    let ours = manifests.iter().filter(is_ours).min_by_key(variant);
    let found = ours.or_else(|| manifests.iter().find(|it| it.platform.is_none()));
    if let Some(found) = found {
        return part(found, MANIFEST_BYTES_MAX);
    }
    let mut all: Vec<String> = manifests
        .iter()
        .filter_map(|it| it.platform.as_ref())
        // Attestations are for nothing.
        .filter(|it| it.os != "unknown")
        .map(|it| {
            format!("{}/{}", it.os, it.architecture)
                .escape_debug()
                .to_string()
        })
        .collect();
    all.sort();
    all.dedup();
    all.truncate(20);
    Err(if all.is_empty() {
        RegistryError::NoImage("its index is empty".to_owned())
    } else {
        RegistryError::OtherMachine(all.join(", "))
    })
}

fn image(config: &Descriptor, layers: &[Descriptor]) -> Result<Vec<Part>, RegistryError> {
    let kind = config.media_type.as_deref().unwrap_or(CONFIG_TYPES[0]);
    if !CONFIG_TYPES.contains(&kind) {
        return Err(RegistryError::NoImage(format!(
            "it has the type \"{}\"",
            kind.escape_debug()
        )));
    }
    if layers.len() > LAYERS_MAX {
        return Err(RegistryError::NoImage(format!(
            "it has {} layers",
            layers.len()
        )));
    }
    let mut parts = vec![part(config, CONFIG_BYTES_MAX)?];
    for layer in layers {
        let part = part(layer, LAYER_BYTES_MAX)?;
        match parts.iter().find(|known| known.digest == part.digest) {
            // A layer may be there twice.
            Some(known) if *known == part => {}
            Some(_) => {
                return Err(RegistryError::NoImage(format!(
                    "{} has two sizes",
                    part.digest
                )));
            }
            None => parts.push(part),
        }
    }
    Ok(parts)
}

fn part(descriptor: &Descriptor, max_bytes: u64) -> Result<Part, RegistryError> {
    let text = &descriptor.digest;
    let digest = Digest::parse(text).ok_or_else(|| {
        let shown: String = text.chars().take(80).collect();
        RegistryError::NoImage(format!("{shown:?} is no SHA-256"))
    })?;
    if descriptor.size > max_bytes {
        let what = digest.to_string();
        return Err(RegistryError::TooLarge { what, max_bytes });
    }
    Ok(Part {
        digest,
        size_bytes: descriptor.size,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn digest(digit: &str) -> String {
        format!("sha256:{}", digit.repeat(64))
    }

    fn entry(digit: &str, platform: Option<&str>) -> Value {
        let mut entry = json!({ "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest(digit), "size": 7 });
        if let Some(platform) = platform {
            let words: Vec<&str> = platform.split('/').collect();
            entry["platform"] = json!({ "os": words[0], "architecture": words[1] });
            if let Some(variant) = words.get(2) {
                entry["platform"]["variant"] = json!(variant);
            }
        }
        entry
    }

    /// The digit of the chosen one, or the beginning of what is said.
    fn check(description: &Value, expected: Result<&str, &str>) {
        let read = read(description.to_string().as_bytes());
        match (read, expected) {
            (Ok(Described::Index(part)), Ok(digit)) => {
                assert_eq!(part.digest.to_string(), digest(digit))
            }
            (Err(error), Err(expected)) => {
                assert!(error.to_string().contains(expected), "{error}");
            }
            (got, _) => panic!("{description}: {got:?}"),
        }
    }

    #[test]
    fn of_an_index_the_image_for_this_machine_is_taken() {
        let index = |entries: &[Value]| json!({ "schemaVersion": 2, "manifests": entries });
        let arm = entry("a", Some("linux/arm64"));
        let ours = entry("b", Some("linux/amd64"));
        let later = entry("c", Some("linux/amd64/v3"));
        let attestation = entry("d", Some("unknown/unknown"));
        let windows = entry("e", Some("windows/amd64"));
        let silent = entry("f", None);
        check(
            &index(&[arm.clone(), attestation.clone(), ours.clone()]),
            Ok("b"),
        );
        check(&index(&[later.clone(), ours.clone()]), Ok("b"));
        check(&index(&[arm.clone(), later]), Ok("c"));
        check(&index(&[silent.clone(), ours]), Ok("b"));
        check(&index(&[windows.clone(), silent]), Ok("f"));
        check(
            &index(&[windows, arm.clone(), arm, attestation.clone()]),
            Err("no image for linux/amd64, but for linux/arm64, windows/amd64"),
        );
        check(&index(&[attestation]), Err("its index is empty"));
        check(&index(&[]), Err("its index is empty"));
    }

    #[test]
    fn an_image_has_a_configuration_and_layers() {
        let config = |kind: &str| json!({ "mediaType": kind, "digest": digest("a"), "size": 5 });
        let manifest = |config: Value, layers: Value| json!({ "schemaVersion": 2, "config": config, "layers": layers });
        let layers = json!([entry("b", None), entry("c", None), entry("b", None)]);
        for kind in CONFIG_TYPES {
            let read = read(
                manifest(config(kind), layers.clone())
                    .to_string()
                    .as_bytes(),
            )
            .unwrap();
            let Described::Image(parts) = read else {
                panic!("{read:?}")
            };
            let digests: Vec<String> = parts.iter().map(|part| part.digest.to_string()).collect();
            assert_eq!(digests, [digest("a"), digest("b"), digest("c")]);
        }
        let chart = config("application/vnd.cncf.helm.config.v1+json");
        check(&manifest(chart, layers.clone()), Err("helm"));
        let own = config(CONFIG_TYPES[0]);
        let mut both = manifest(own.clone(), layers);
        both["manifests"] = json!([]);
        check(&both, Err("neither of one image nor of several"));
        check(
            &json!({ "schemaVersion": 1, "fsLayers": [] }),
            Err("schema 1"),
        );
        check(&json!([]), Err("cannot be read"));
        check(&json!({}), Err("neither"));
        let mut huge = entry("b", None);
        huge["size"] = json!(LAYER_BYTES_MAX + 1);
        check(
            &manifest(own.clone(), json!([huge.clone()])),
            Err("is larger than"),
        );
        huge["size"] = json!(-1);
        check(&manifest(own.clone(), json!([huge])), Err("cannot be read"));
        let mut strange = entry("b", None);
        strange["digest"] = json!("sha256:../../etc/passwd");
        check(
            &manifest(own.clone(), json!([strange])),
            Err("is no SHA-256"),
        );
        let many = vec![entry("b", None); LAYERS_MAX + 1];
        check(&manifest(own, json!(many)), Err("513 layers"));
    }
}
