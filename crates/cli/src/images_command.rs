//! `mother images`: what there is, how it comes from registries, and how it goes away.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use images::{Cache, Freed, Listed};
use insight::amounts::size_in_words;
use registry::{Digest, Reference, Shelf, When};

use crate::ago::ago;
use crate::answers::{self, FreedImages, ListedImage, PulledImage};
use crate::arguments::{ImagesArguments, ImagesCommand};
use crate::failure::{Failure, ImageFailure};
use crate::output::say;
use crate::progress;

/// How much of a digest tells one image from another.
const DIGEST_DIGITS: usize = 12;

/// An image, and what its registry has under its name.
struct Row {
    listed: Listed,
    digest: Option<Digest>,
}

/// Lists, pulls, removes or prunes.
pub fn run(arguments: &ImagesArguments) -> Result<u8, Failure> {
    let cache = Cache::of_user()?;
    let is_json = arguments.json;
    match &arguments.command {
        None | Some(ImagesCommand::Ls) if arguments.quiet => {
            let names = rows(&cache).into_iter();
            say(&names.map(|row| row.listed.name + "\n").collect::<String>())?;
        }
        None | Some(ImagesCommand::Ls) => say(&list(&rows(&cache), is_json))?,
        Some(ImagesCommand::Pull { names }) => say(&pull(&cache, names, is_json)?)?,
        Some(ImagesCommand::Rm { names }) => {
            let mut all = Freed::default();
            for name in names {
                let freed = remove(&cache, name).map_err(ImageFailure::Store)?;
                all.names.extend(freed.names);
                all.bytes += freed.bytes;
            }
            say(&freed(&all, is_json))?;
        }
        Some(ImagesCommand::Prune { all }) => {
            let mut both = Shelf::of(&cache).prune(*all);
            let freed_too = cache.store().prune(*all);
            both.names.extend(freed_too.names);
            both.bytes += freed_too.bytes;
            say(&freed(&both, is_json))?;
        }
    }
    Ok(0)
}

/// Everything there is. An image of a registry and the disk that was made of it are one.
fn rows(cache: &Cache) -> Vec<Row> {
    let pulled = Shelf::of(cache).list();
    let mut made = BTreeMap::new();
    let mut rows = Vec::new();
    for listed in cache.store().list() {
        if pulled
            .iter()
            .any(|it| it.made.as_ref() == Some(&listed.folder))
        {
            made.insert(listed.folder.clone(), listed.clone());
        }
        // What was made of a registry's image may be called by a name that is gone; the others are shown.
        let name = Reference::parse(&listed.name).map(|name| name.to_string());
        if !made.contains_key(&listed.folder) || name.as_ref() != Ok(&listed.name) {
            rows.push(Row {
                listed,
                digest: None,
            });
        }
    }
    for image in pulled {
        let disk = image.made.as_ref().and_then(|folder| made.get(folder));
        let digits = &image.digest.digits()[..DIGEST_DIGITS];
        let listed = Listed {
            what: format!("of a registry, sha256:{digits}"),
            folder: disk.map_or(String::new(), |it| it.folder.clone()),
            size_bytes: image.size_bytes + disk.map_or(0, |it| it.size_bytes),
            used: disk.map_or(image.when, |it| it.used.max(image.when)),
            in_use: disk.is_some_and(|it| it.in_use),
            name: image.name,
        };
        rows.push(Row {
            listed,
            digest: Some(image.digest),
        });
    }
    rows.sort_by(|a, b| a.listed.name.cmp(&b.listed.name));
    rows
}

/// Has images come, or what is new of them.
fn pull(cache: &Cache, names: &[String], is_json: bool) -> Result<String, Failure> {
    // A name that is none is told before anything comes.
    let references = names.iter().map(|name| Reference::parse(name));
    let references: Vec<Reference> = references
        .collect::<Result<_, _>>()
        .map_err(ImageFailure::BadReference)?;
    let mut came = Vec::new();
    for reference in &references {
        let pulled = progress::pull(cache, reference, When::Always)?;
        came.push(PulledImage {
            name: pulled.name,
            digest: pulled.digest.to_string(),
            size_bytes: pulled.size_bytes,
        });
    }
    if is_json {
        return Ok(answers::text(&came));
    }
    let line = |image: &PulledImage| {
        let size = size_in_words(image.size_bytes);
        format!("{} is here: {}, {size}\n", image.name, image.digest)
    };
    Ok(came.iter().map(line).collect())
}

/// Removes what a registry's name led to, or else what is here under that name.
fn remove(cache: &Cache, name: &str) -> Result<Freed, images::StoreError> {
    let store = cache.store();
    let is_here = store.is_kept(name) || store.list().iter().any(|image| image.name == name);
    let reference = Reference::parse(name).ok();
    // `debian:12` is Mother's own before it is Docker Hub's.
    let pulled = reference.filter(|reference| !is_here || reference.to_string() == name);
    let removed = pulled.map(|reference| Shelf::of(cache).remove(&reference));
    match removed.transpose()?.flatten() {
        Some(freed) => Ok(freed),
        None => store.remove(name),
    }
}

fn list(images: &[Row], is_json: bool) -> String {
    if is_json {
        let list = images.iter().map(|row| ListedImage {
            name: row.listed.name.clone(),
            what: row.listed.what.clone(),
            digest: row.digest.as_ref().map(Digest::to_string),
            size_bytes: row.listed.size_bytes,
            used: unix(row.listed.used),
            in_use: row.listed.in_use,
        });
        return answers::text(&list.collect::<Vec<_>>());
    }
    if images.is_empty() {
        return "no images; `mother run debian` makes the first\n".to_owned();
    }
    let width = images
        .iter()
        .map(|row| row.listed.name.len())
        .max()
        .unwrap_or(0)
        .max(4);
    let mut text = format!("{:<width$}  {:>9}  {:<15}  WHAT\n", "NAME", "SIZE", "USED");
    for Row { listed, .. } in images {
        let used = if listed.in_use {
            "now".to_owned()
        } else {
            ago(listed.used)
        };
        text.push_str(&format!(
            "{:<width$}  {:>9}  {used:<15}  {}\n",
            listed.name,
            size_in_words(listed.size_bytes),
            listed.what
        ));
    }
    text
}

fn freed(freed: &Freed, is_json: bool) -> String {
    if is_json {
        return answers::text(&FreedImages {
            removed: &freed.names,
            freed_bytes: freed.bytes,
        });
    }
    let names = if freed.names.is_empty() {
        "no image".to_owned()
    } else {
        freed.names.join(", ")
    };
    format!("removed {names}; {} freed\n", size_in_words(freed.bytes))
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn sizes_and_times_are_for_people_and_json_is_for_programs() {
        let image = Listed {
            name: "debian:12".to_owned(),
            folder: "debian-12-0".to_owned(),
            what: "Debian".to_owned(),
            size_bytes: 300 << 20,
            used: SystemTime::now() - Duration::from_secs(3 * 3600 + 5),
            in_use: false,
        };
        let image = Row {
            listed: image,
            digest: None,
        };
        let text = list(std::slice::from_ref(&image), false);
        assert_eq!(
            text.lines().nth(1),
            Some("debian:12    300 MiB  3 hours ago      Debian")
        );
        let parsed: serde_json::Value = serde_json::from_str(&list(&[image], true)).unwrap();
        assert_eq!(parsed[0]["size_bytes"], 300 << 20);
        assert_eq!(
            freed(&Freed::default(), false),
            "removed no image; 0 bytes freed\n"
        );
        assert_eq!(list(&[], true), "[]\n");
    }
}
