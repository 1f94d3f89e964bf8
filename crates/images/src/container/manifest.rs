//! Which parts make the image: `index.json` and manifests (image-spec), `manifest.json` of `docker save`, or the
//! `manifest.json` of skopeo's `dir:` folders.

use serde_json::Value;

use crate::container::choice::{Choice, candidates};
use crate::container::source::Source;
use crate::container::{ContainerError, damaged, digest};

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

/// Where the parts that a descriptor names lie.
#[derive(Clone, Copy)]
enum Places {
    /// As an image layout has them: `blobs/sha256/DIGEST`.
    Layout,
    /// As a `dir:` folder has them: `DIGEST`, and `DIGEST.manifest.json` for a manifest in a list.
    Folder,
}

impl Manifest {
    /// Reads which parts the image has; it is called `stem` if it does not say what, and `wanted` is the name of one of several.
    pub(super) fn read(
        source: &Source,
        stem: String,
        wanted: Option<&str>,
    ) -> Result<Manifest, ContainerError> {
        let manifest = if let Some(bytes) = source.read("index.json")? {
            let index = parse("index.json", &bytes)?;
            described(source, index, Places::Layout, &Choice { wanted, stem })?
        } else if let Some(bytes) = source.read("manifest.json")? {
            let list = parse("manifest.json", &bytes)?;
            if list.is_object() {
                described(source, list, Places::Folder, &Choice { wanted, stem })?
            } else {
                docker(&list, &Choice { wanted, stem })?
            }
        } else {
            return Err(ContainerError::NoImage);
        };
        if manifest.layers.len() > LAYERS_MAX {
            return Err(damaged("the manifest", "it has too many layers"));
        }
        Ok(manifest)
    }
}

/// An image whose parts are named by descriptors.
fn described(
    source: &Source,
    mut index: Value,
    places: Places,
    choice: &Choice,
) -> Result<Manifest, ContainerError> {
    let mut name = choice.stem.clone();
    for depth in 0..INDEXES_MAX {
        let Some(list) = index["manifests"].as_array() else {
            break;
        };
        let all = candidates(list)?;
        let descriptor = if depth == 0 {
            let (descriptor, called) = choice.of_descriptors(&all)?;
            name = called;
            descriptor
        } else {
            all[0]
        };
        let (path, bytes) = blob(source, descriptor, places)?;
        index = parse(&path, &bytes)?;
    }
    if index["schemaVersion"] == 1 {
        return Err(ContainerError::OldManifest);
    }
    let layers = index["layers"]
        .as_array()
        .ok_or_else(|| damaged("the manifest", "it has no layers"))?;
    let layers = layers.iter().map(|layer| {
        let digest = digest_of(layer)?;
        Ok(Layer {
            path: places.of_part(&digest),
            digest: Some(digest),
        })
    });
    let layers = layers.collect::<Result<Vec<Layer>, ContainerError>>()?;
    let digest = digest_of(&index["config"])?;
    Ok(Manifest {
        name,
        config: (places.of_part(&digest), Some(digest)),
        layers,
    })
}

fn docker(list: &Value, choice: &Choice) -> Result<Manifest, ContainerError> {
    let entries = list.as_array().map(Vec::as_slice).unwrap_or_default();
    let (entry, name) = choice.of_saved(entries)?;
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
    Ok(Manifest {
        name,
        config: (config, None),
        layers: layers.collect::<Result<Vec<Layer>, ContainerError>>()?,
    })
}

impl Places {
    fn of_part(self, digest: &str) -> String {
        match self {
            Places::Layout => format!("blobs/sha256/{digest}"),
            Places::Folder => digest.to_owned(),
        }
    }

    fn of_manifest(self, digest: &str) -> String {
        match self {
            Places::Layout => self.of_part(digest),
            Places::Folder => format!("{digest}.manifest.json"),
        }
    }
}

/// A descriptor's SHA-256 (image-spec, descriptor.md).
fn digest_of(descriptor: &Value) -> Result<String, ContainerError> {
    let text = descriptor["digest"].as_str().unwrap_or_default();
    let digest = text.strip_prefix("sha256:").unwrap_or_default();
    let is_digest = digest.len() == 64
        && digest
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if !is_digest {
        return Err(damaged("a descriptor", &format!("{text:?} is no SHA-256")));
    }
    Ok(digest.to_owned())
}

/// A described manifest or index, checked.
fn blob(
    source: &Source,
    descriptor: &Value,
    places: Places,
) -> Result<(String, Vec<u8>), ContainerError> {
    let digest = digest_of(descriptor)?;
    let path = places.of_manifest(&digest);
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
