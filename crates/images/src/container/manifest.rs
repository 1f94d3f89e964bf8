//! Which parts make the image: `index.json` and manifests (image-spec), or `manifest.json` (`docker save`).

use std::path::Path;

use serde_json::Value;

use crate::container::source::Source;
use crate::container::{ContainerError, digest};
use crate::file::stem;

/// Indexes within indexes that are followed.
const INDEXES_MAX: usize = 4;

/// Layers that an image may have; container engines stop at 127.
const LAYERS_MAX: usize = 512;

/// One layer's archive.
pub(super) struct Layer {
    pub(super) path: String,
    /// The SHA-256 of the archive as it lies there, if the manifest tells.
    pub(super) digest: Option<String>,
}

/// What an image consists of.
pub(super) struct Manifest {
    /// What to call it.
    pub(super) name: String,
    /// Where its configuration is, and its SHA-256 if the manifest tells.
    pub(super) config: (String, Option<String>),
    pub(super) layers: Vec<Layer>,
}

impl Manifest {
    pub(super) fn read(source: &Source, path: &Path) -> Result<Manifest, ContainerError> {
        let name = stem(path);
        let name = if name.is_empty() {
            "container".to_owned()
        } else {
            name
        };
        let manifest = if let Some(bytes) = source.read("index.json")? {
            oci(source, &parse("index.json", &bytes)?, name)?
        } else if let Some(bytes) = source.read("manifest.json")? {
            docker(&parse("manifest.json", &bytes)?, name)?
        } else {
            return Err(ContainerError::NoImage);
        };
        if manifest.layers.len() > LAYERS_MAX {
            return Err(damaged("the manifest", "it has too many layers"));
        }
        Ok(manifest)
    }
}

fn oci(source: &Source, index: &Value, name: String) -> Result<Manifest, ContainerError> {
    let mut index = index.clone();
    let mut name = name;
    for _ in 0..INDEXES_MAX {
        let Some(list) = index["manifests"].as_array() else {
            break;
        };
        let descriptor = choose(list)?;
        let annotation = &descriptor["annotations"]["org.opencontainers.image.ref.name"];
        // A bare tag such as `latest` says less than the file's name.
        if let Some(text) = annotation.as_str().filter(|text| text.contains([':', '/'])) {
            name = text.to_owned();
        }
        let (path, bytes) = blob(source, descriptor)?;
        index = parse(&path, &bytes)?;
    }
    let layers = index["layers"]
        .as_array()
        .ok_or_else(|| damaged("the manifest", "it has no layers"))?;
    let layers = layers.iter().map(|layer| {
        let (path, digest) = place(layer)?;
        Ok(Layer {
            path,
            digest: Some(digest),
        })
    });
    let layers = layers.collect::<Result<Vec<Layer>, ContainerError>>()?;
    let (path, digest) = place(&index["config"])?;
    Ok(Manifest {
        name,
        config: (path, Some(digest)),
        layers,
    })
}

/// The manifest for this kind of machine; one that does not say what it is for will do.
fn choose(list: &[Value]) -> Result<&Value, ContainerError> {
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
    list.iter().find(is_ours).ok_or_else(|| {
        let all: Vec<String> = list
            .iter()
            .filter_map(machine)
            .map(|(os, architecture)| format!("{os}/{architecture}"))
            .collect();
        if all.is_empty() {
            damaged("index.json", "it has no manifest")
        } else {
            ContainerError::OtherMachine(all.join(", "))
        }
    })
}

fn docker(list: &Value, name: String) -> Result<Manifest, ContainerError> {
    let entry = &list[0];
    let text = |value: &Value, what: &str| {
        value
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| damaged("manifest.json", what))
    };
    let config = text(&entry["Config"], "it names no configuration")?;
    let layers = entry["Layers"]
        .as_array()
        .ok_or_else(|| damaged("manifest.json", "it has no layers"))?;
    let layers = layers.iter().map(|layer| {
        Ok(Layer {
            path: text(layer, "a layer has no name")?,
            digest: None,
        })
    });
    let layers = layers.collect::<Result<Vec<Layer>, ContainerError>>()?;
    let name = entry["RepoTags"][0].as_str().map_or(name, str::to_owned);
    Ok(Manifest {
        name,
        config: (config, None),
        layers,
    })
}

/// A descriptor's file and SHA-256 (image-spec, descriptor.md).
fn place(descriptor: &Value) -> Result<(String, String), ContainerError> {
    let text = descriptor["digest"].as_str().unwrap_or_default();
    let digest = text.strip_prefix("sha256:").unwrap_or_default();
    let is_digest = digest.len() == 64
        && digest
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if !is_digest {
        return Err(damaged("a descriptor", &format!("{text:?} is no SHA-256")));
    }
    Ok((format!("blobs/sha256/{digest}"), digest.to_owned()))
}

/// A described part, checked.
fn blob(source: &Source, descriptor: &Value) -> Result<(String, Vec<u8>), ContainerError> {
    let (path, digest) = place(descriptor)?;
    let bytes = read_checked(source, &path, Some(&digest))?;
    Ok((path, bytes))
}

/// A part that must be there and have this SHA-256.
pub(super) fn read_checked(
    source: &Source,
    path: &str,
    digest: Option<&String>,
) -> Result<Vec<u8>, ContainerError> {
    let bytes = source
        .read(path)?
        .ok_or_else(|| damaged(path, "it is not there"))?;
    let found = digest::sha256(&bytes);
    match digest {
        Some(digest) if *digest != found => Err(damaged(
            path,
            &format!("its SHA-256 is {found}, not {digest}"),
        )),
        _ => Ok(bytes),
    }
}

pub(super) fn parse(part: &str, bytes: &[u8]) -> Result<Value, ContainerError> {
    serde_json::from_slice(bytes).map_err(|error| damaged(part, &format!("it is no JSON: {error}")))
}

pub(super) fn damaged(part: &str, what: &str) -> ContainerError {
    ContainerError::Damaged {
        part: part.to_owned(),
        what: what.to_owned(),
    }
}
