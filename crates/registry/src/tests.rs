//! Pulling from registries that do what a script says.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use images::{Cache, Parts, Progress};
use serde_json::json;
use tempfile::TempDir;

use crate::configuration::Registries;
use crate::credentials::Credentials;
use crate::digest::Digest;
use crate::error::RegistryError;
use crate::pull::from_any;
use crate::reference::Reference;
use crate::scripted::{Answer, Asked, Scripted};
use crate::shelf::{Pulled, Shelf};

/// What a registry has, by the path behind the repository.
type Things = BTreeMap<String, Vec<u8>>;

/// An image with layers of these contents, under the tag `1` and an index with it.
struct Made {
    things: Things,
    index: Digest,
    layers: Vec<Digest>,
}

fn made(layers: &[&[u8]]) -> Made {
    let mut things = Things::new();
    let mut descriptor = |kind: &str, bytes: &[u8]| {
        let digest = Digest::of(bytes);
        things.insert(format!("{kind}/{digest}"), bytes.to_vec());
        json!({ "digest": digest.to_string(), "size": bytes.len() })
    };
    let config = descriptor("blobs", b"{\"os\": \"linux\"}");
    let entries: Vec<_> = layers
        .iter()
        .map(|bytes| descriptor("blobs", bytes))
        .collect();
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": entries }).to_string();
    let mut ours = descriptor("manifests", manifest.as_bytes());
    ours["platform"] = json!({ "os": "linux", "architecture": "amd64" });
    let other = json!({ "digest": Digest::of(b"other").to_string(), "size": 5,
        "platform": { "os": "linux", "architecture": "arm64" } });
    let index = json!({ "schemaVersion": 2, "manifests": [other, ours] }).to_string();
    descriptor("manifests", index.as_bytes());
    things.insert("manifests/1".to_owned(), index.clone().into_bytes());
    Made {
        things,
        index: Digest::of(index.as_bytes()),
        layers: layers.iter().map(|bytes| Digest::of(bytes)).collect(),
    }
}

/// The answer of a registry that works.
fn answer(things: &Things, asked: &Asked) -> Answer {
    let what = asked.path.strip_prefix("/v2/team/box/").unwrap_or_default();
    let Some(bytes) = things.get(what) else {
        return Answer::status(404);
    };
    match asked.from() {
        0 => Answer::body(bytes),
        from if from < bytes.len() => {
            let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
            let mut answer = Answer::body(&bytes[from..]).with("Content-Range", &range);
            answer.status = 206;
            answer
        }
        _ => Answer::status(416),
    }
}

/// Where things are pulled to.
struct Desk {
    folder: TempDir,
    shelf: Shelf,
    credentials: Credentials,
    configured: String,
}

impl Desk {
    fn new() -> Desk {
        let folder = tempfile::tempdir().unwrap();
        let shelf = Shelf::of(&Cache::in_folder(folder.path().join("cache")));
        Desk {
            shelf,
            credentials: Credentials::of(vec![folder.path().join("auth.json")]),
            configured: String::new(),
            folder,
        }
    }

    fn pull(&self, name: &str) -> Result<Pulled, RegistryError> {
        let path = self.folder.path().join("registries.toml");
        fs::write(&path, &self.configured).unwrap();
        let registries = Registries::read(&path).unwrap();
        let reference = Reference::parse(name).unwrap();
        let _lock = self.shelf.lock(|| {}).unwrap();
        from_any(
            &self.shelf,
            &reference,
            (&registries, &self.credentials),
            &mut |_| {},
        )
    }

    fn files(&self, of: &str) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path().join("cache/registry").join(of)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }
}

fn part_of(input: &images::Input, part: &str) -> Option<Vec<u8>> {
    let Parts::Folder(open) = &input.parts else {
        panic!("it is a folder");
    };
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut open(part).ok()?, &mut bytes).unwrap();
    Some(bytes)
}

/// What is said of a pull that fails.
fn check_fails(desk: &Desk, name: &str, expected: &str) {
    let error = desk.pull(name).unwrap_err();
    assert!(
        error.to_string().contains(expected),
        "{expected:?} in {error}"
    );
}

#[test]
fn an_image_comes_whole_and_nothing_comes_twice() {
    let image = made(&[b"one", &[7; 300_000]]);
    let things = image.things.clone();
    let registry = Scripted::new(move |asked| answer(&things, asked));
    let desk = Desk::new();
    let name = format!("{}/team/box:1", registry.host());
    let pulled = desk.pull(&name).unwrap();
    assert_eq!(
        (pulled.name.as_str(), &pulled.digest),
        (name.as_str(), &image.index)
    );
    assert_eq!(
        registry.asked().len(),
        2 + 3,
        "an index, a manifest, a configuration, two layers"
    );
    assert_eq!(desk.files("blobs").len(), 5);
    assert_eq!(desk.files("parts"), [""; 0]);
    let input = desk.shelf.input(&pulled);
    let index = part_of(&input, "index.json").unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    let manifest = index["manifests"][0]["digest"]
        .as_str()
        .unwrap()
        .replace(':', "/");
    assert!(part_of(&input, &format!("blobs/{manifest}")).is_some());
    for strange in ["", "blobs/sha256/../../lock", "../lock", "oci-layout"] {
        assert_eq!(part_of(&input, strange), None, "{strange}");
    }
    // Another tag of the same image costs its description; a digest costs nothing.
    desk.pull(&name).unwrap();
    assert_eq!(registry.asked().len(), 6);
    let pinned = format!("{}/team/box@{}", registry.host(), image.index);
    desk.pull(&pinned).unwrap();
    assert_eq!(registry.asked().len(), 6);
    let listed: Vec<String> = desk.shelf.list().into_iter().map(|it| it.name).collect();
    assert_eq!(listed, [name.clone(), pinned.clone()]);
    // What both have goes with the last.
    let remove = |name: &str| desk.shelf.remove(&Reference::parse(name).unwrap()).unwrap();
    assert_eq!(remove(&name).unwrap().bytes, 0);
    assert!(
        desk.shelf
            .find(&Reference::parse(&pinned).unwrap())
            .is_some()
    );
    assert!(remove(&pinned).unwrap().bytes > 300_000);
    assert_eq!(desk.files("blobs"), [""; 0]);
    assert_eq!(remove(&pinned), None);
}

#[test]
fn what_broke_off_goes_on_where_it_was() {
    let layer: Vec<u8> = (0..400_000_u32).map(|at| (at % 251) as u8).collect();
    let image = made(&[&layer]);
    let things = image.things.clone();
    let digest = image.layers[0].to_string();
    let tries = AtomicUsize::new(0);
    let registry = Scripted::new(move |asked| {
        let mut answer = answer(&things, asked);
        if asked.path.ends_with(&digest) {
            match tries.fetch_add(1, Ordering::Relaxed) {
                0 => answer.cut = Some(100_000),
                1 => answer.cut = Some(50_000),
                // The end of this try.
                2 => return Answer::status(404),
                _ => {}
            }
        }
        answer
    });
    let desk = Desk::new();
    let name = format!("{}/team/box:1", registry.host());
    check_fails(&desk, &name, "has no blobs/sha256:");
    assert_eq!(desk.files("parts"), [image.layers[0].digits()]);
    assert!(desk.shelf.list().is_empty(), "nothing half has a name");
    desk.pull(&name).unwrap();
    let asked = registry.asked();
    let of_layer = asked
        .iter()
        .filter(|it| it.path.contains(image.layers[0].digits()));
    let from: Vec<usize> = of_layer.map(Asked::from).collect();
    assert_eq!(from, [0, 100_000, 150_000, 150_000]);
    assert_eq!(fs::read(desk.shelf.blob(&image.layers[0])).unwrap(), layer);
}

#[test]
fn a_registry_without_ranges_begins_anew_and_a_wrong_beginning_is_found() {
    let layer = [9; 200_000];
    let image = made(&[&layer]);
    let digest = &image.layers[0];
    let check = |answer_of: fn(&[u8], &Asked) -> Answer, begun: &[u8]| {
        let things = image.things.clone();
        let name = digest.to_string();
        let registry = Scripted::new(move |asked| {
            if asked.path.ends_with(&name) {
                return answer_of(&layer, asked);
            }
            answer(&things, asked)
        });
        let desk = Desk::new();
        let parts = desk.folder.path().join("cache/registry/parts");
        fs::create_dir_all(&parts).unwrap();
        fs::write(parts.join(digest.digits()), begun).unwrap();
        desk.pull(&format!("{}/team/box:1", registry.host()))
            .unwrap();
        assert_eq!(fs::read(desk.shelf.blob(digest)).unwrap(), layer);
    };
    let ranged = |bytes: &[u8], asked: &Asked| {
        let things = Things::from([("x".to_owned(), bytes.to_vec())]);
        let asked = Asked {
            path: "/v2/team/box/x".to_owned(),
            ..asked.clone()
        };
        answer(&things, &asked)
    };
    check(|bytes, _| Answer::body(bytes), &layer[..100]);
    // What there was is not what it should be.
    check(ranged, &[1; 100]);
    // It is longer than it can be.
    check(ranged, &[9; 200_001]);
    // It is all there already.
    check(ranged, &layer);
}

#[test]
fn a_token_is_for_pulling_this_repository_and_goes_to_the_registry_alone() {
    let image = made(&[b"one"]);
    let layer = format!("blobs/{}", image.layers[0]);
    let bytes = image.things[&layer].clone();
    let elsewhere = Scripted::new(move |_| Answer::body(&bytes));
    let cdn = format!("http://{}/somewhere", elsewhere.host());
    let things = image.things.clone();
    let registry = Scripted::new(move |asked| {
        let host = asked.header("host").unwrap();
        if asked.path.starts_with("/token") {
            return Answer::body(b"{\"token\": \"t0ken\"}");
        }
        if asked.header("authorization") != Some("Bearer t0ken") {
            let challenge = format!(
                "Bearer realm=\"http://{host}/token\",service=\"s\",scope=\"repository:secrets:pull,push\""
            );
            return Answer::status(401).with("WWW-Authenticate", &challenge);
        }
        if asked.path.ends_with(&layer) {
            return Answer::status(307).with("Location", &cdn);
        }
        answer(&things, asked)
    });
    let desk = Desk::new();
    let auth = json!({ "auths": { registry.host(): { "auth": "dXNlcjpzZWNyZXQ=" } } });
    fs::write(desk.folder.path().join("auth.json"), auth.to_string()).unwrap();
    desk.pull(&format!("{}/team/box:1", registry.host()))
        .unwrap();
    let asked = registry.asked();
    let tokens: Vec<&Asked> = asked
        .iter()
        .filter(|it| it.path.starts_with("/token"))
        .collect();
    assert_eq!(tokens.len(), 1);
    assert_eq!(
        tokens[0].path,
        "/token?service=s&scope=repository%3Ateam%2Fbox%3Apull"
    );
    assert_eq!(
        tokens[0].header("authorization"),
        Some("Basic dXNlcjpzZWNyZXQ=")
    );
    let elsewhere = elsewhere.asked();
    assert_eq!(elsewhere.len(), 1);
    assert_eq!(elsewhere[0].header("authorization"), None);
}

#[test]
fn a_name_and_a_password_are_enough_where_they_are_asked_for() {
    let things = made(&[b"one"]).things;
    let registry = Scripted::new(move |asked| match asked.header("authorization") {
        Some("Basic dXNlcjpzZWNyZXQ=") => answer(&things, asked),
        _ => Answer::status(401).with("WWW-Authenticate", "Basic realm=\"x\""),
    });
    let desk = Desk::new();
    let name = format!("{}/team/box:1", registry.host());
    check_fails(
        &desk,
        &name,
        "does not give team/box to who has no credentials",
    );
    let auth = json!({ "auths": { registry.host(): { "auth": "dXNlcjp3cm9uZw==" } } });
    fs::write(desk.folder.path().join("auth.json"), auth.to_string()).unwrap();
    check_fails(&desk, &name, "does not give team/box to this user");
    let auth = json!({ "auths": { registry.host(): { "auth": "dXNlcjpzZWNyZXQ=" } } });
    fs::write(desk.folder.path().join("auth.json"), auth.to_string()).unwrap();
    desk.pull(&name).unwrap();
}

/// A registry with one image, of which one answer is another.
fn check_answer(path_ends: &str, other: Answer, expected: &str) {
    let image = made(&[b"one"]);
    let things = image.things.clone();
    let ends = path_ends.to_owned();
    let registry = Scripted::new(move |asked| {
        if asked.path.ends_with(&ends) {
            return other.clone();
        }
        answer(&things, asked)
    });
    let desk = Desk::new();
    check_fails(&desk, &format!("{}/team/box:1", registry.host()), expected);
    assert!(desk.shelf.list().is_empty(), "{expected}");
    // What came beside it may go on another time.
    let left = desk.files("parts");
    assert!(
        !left.iter().any(|it| it == image.layers[0].digits()),
        "{expected}"
    );
}

#[test]
fn every_bad_answer_has_its_word_and_leaves_nothing() {
    check_answer("/manifests/1", Answer::status(404), "has no team/box:1");
    check_answer(
        "/manifests/1",
        Answer::status(403),
        "does not give team/box",
    );
    check_answer(
        "/manifests/1",
        Answer::status(418),
        "answers with the status 418",
    );
    check_answer(
        "/manifests/1",
        Answer::status(401),
        "does not say what it wants to see",
    );
    let later = Answer::status(429).with("Retry-After", "3600");
    check_answer(
        "/manifests/1",
        later,
        "too many requests, and wants none for 3600 s",
    );
    check_answer(
        "/manifests/1",
        Answer::body(b"<html>"),
        "it is no container image",
    );
    check_answer(
        "/manifests/1",
        Answer::body(&vec![b' '; 5 << 20]),
        "the manifest 1 is larger than",
    );
    let layer = made(&[b"one"]).layers[0].to_string();
    check_answer(&layer, Answer::body(b"two"), "is damaged: its digest is");
    check_answer(
        &layer,
        Answer::body(b"one and more"),
        "is damaged: it does not end after 3 bytes",
    );
    for (location, expected) in [
        ("http://198.51.100.1/x", "it is without TLS on another host"),
        ("ftp://198.51.100.1/x", "it is neither https nor http"),
        ("https://user:word@198.51.100.1/x", "it has a user in it"),
        ("x", "it is no address"),
        ("", "it is no address"),
    ] {
        let answer = Answer::status(302).with("Location", location);
        check_answer("/manifests/1", answer, expected);
    }
    check_answer(
        "/manifests/1",
        Answer::status(302).with("Location", "/v2/team/box/manifests/1"),
        "again and again",
    );
    let challenge = "Bearer realm=\"http://198.51.100.1/token\"";
    let other = Answer::status(401).with("WWW-Authenticate", challenge);
    check_answer(
        "/manifests/1",
        other,
        "http://198.51.100.1/token, which is not followed",
    );
}

#[test]
fn a_manifest_that_is_another_is_refused() {
    let image = made(&[b"one"]);
    let manifest = image
        .things
        .keys()
        .find(|key| key.starts_with("manifests/sha256:") && !key.ends_with(image.index.digits()));
    check_answer(
        manifest.unwrap(),
        Answer::body(b"{}"),
        "is damaged: its digest is",
    );
}

#[test]
fn mirrors_are_asked_first_and_the_registry_last() {
    let image = made(&[b"one"]);
    let things = image.things.clone();
    let registry = Scripted::new(move |asked| answer(&things, asked));
    let empty = Scripted::new(|_| Answer::status(404));
    let things = image.things.clone();
    let mirror = Scripted::new(move |asked| {
        let path = asked.path.replace("/v2/hub/", "/v2/");
        let asked = Asked {
            path,
            ..asked.clone()
        };
        answer(&things, &asked)
    });
    let mut desk = Desk::new();
    let name = format!("{}/team/box:1", registry.host());
    desk.configured = format!(
        "[\"{}\"]\nmirrors = [\"{}\"]\n",
        registry.host(),
        empty.host()
    );
    desk.pull(&name).unwrap();
    assert_eq!((empty.asked().len(), registry.asked().len()), (1, 4));
    let mut desk = Desk::new();
    desk.configured = format!(
        "[\"{}\"]\nmirrors = [\"{}\", \"{}/hub\"]\n",
        registry.host(),
        empty.host(),
        mirror.host()
    );
    let pulled = desk.pull(&name).unwrap();
    assert_eq!(pulled.name, name, "it is called what it was asked for as");
    assert_eq!((mirror.asked().len(), registry.asked().len()), (4, 4));
}

#[test]
fn nobody_there_is_told_at_once() {
    let desk = Desk::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    check_fails(
        &desk,
        &format!("127.0.0.1:{port}/team/box"),
        &format!("cannot reach 127.0.0.1:{port}"),
    );
}

#[test]
fn progress_counts_what_comes() {
    let things = made(&[&[1; 200_000], &[2; 100_000]]).things;
    let registry = Scripted::new(move |asked| answer(&things, asked));
    let desk = Desk::new();
    let reference = Reference::parse(&format!("{}/team/box:1", registry.host())).unwrap();
    let _lock = desk.shelf.lock(|| {}).unwrap();
    let mut last = None;
    let places = (&Registries::default(), &desk.credentials);
    from_any(&desk.shelf, &reference, places, &mut |progress| {
        last = Some(progress)
    })
    .unwrap();
    let Some(Progress::Downloading(amount)) = last else {
        panic!("{last:?}");
    };
    assert_eq!((amount.done, amount.total), (300_015, 300_015));
    assert!(Path::new(&desk.folder.path().join("cache/registry/lock")).exists());
}
