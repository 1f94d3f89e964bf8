//! `mother images`: what there is, and how it goes away.

use std::time::{SystemTime, UNIX_EPOCH};

use images::{Cache, Freed, Listed};
use insight::amounts::size_in_words;

use crate::ago::ago;
use crate::answers::{self, FreedImages, ListedImage};
use crate::arguments::{ImagesArguments, ImagesCommand};
use crate::failure::{Failure, ImageFailure};
use crate::output::say;

/// Lists, removes or prunes.
pub fn run(arguments: &ImagesArguments) -> Result<u8, Failure> {
    let store = Cache::of_user()?.store();
    let is_json = arguments.json;
    match &arguments.command {
        None if arguments.quiet => {
            let names = store.list().into_iter();
            say(&names.map(|image| image.name + "\n").collect::<String>())?;
        }
        None => say(&list(&store.list(), is_json))?,
        Some(ImagesCommand::Rm { names }) => {
            let mut all = Freed::default();
            for name in names {
                let freed = store.remove(name).map_err(ImageFailure::Store)?;
                all.names.extend(freed.names);
                all.bytes += freed.bytes;
            }
            say(&freed(&all, is_json))?;
        }
        Some(ImagesCommand::Prune { all }) => say(&freed(&store.prune(*all), is_json))?,
    }
    Ok(0)
}

fn list(images: &[Listed], is_json: bool) -> String {
    if is_json {
        let list = images.iter().map(|image| ListedImage {
            name: image.name.clone(),
            what: image.what.clone(),
            size_bytes: image.size_bytes,
            used: unix(image.used),
            in_use: image.in_use,
        });
        return answers::text(&list.collect::<Vec<_>>());
    }
    if images.is_empty() {
        return "no images; `mother run debian` makes the first\n".to_owned();
    }
    let width = images
        .iter()
        .map(|image| image.name.len())
        .max()
        .unwrap_or(0)
        .max(4);
    let mut text = format!("{:<width$}  {:>9}  {:<15}  WHAT\n", "NAME", "SIZE", "USED");
    for image in images {
        let used = if image.in_use {
            "now".to_owned()
        } else {
            ago(image.used)
        };
        text.push_str(&format!(
            "{:<width$}  {:>9}  {used:<15}  {}\n",
            image.name,
            size_in_words(image.size_bytes),
            image.what
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
            what: "Debian".to_owned(),
            size_bytes: 300 << 20,
            used: SystemTime::now() - Duration::from_secs(3 * 3600 + 5),
            in_use: false,
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
