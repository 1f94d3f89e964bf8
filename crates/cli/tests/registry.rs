//! Images from where images are, as a user has them: pulled from Debian's docker-registry on this host, and run.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::common::registry::{DOCKER_MANIFEST, INDEX, MANIFEST, Registry, login};
use crate::common::{Mother, Ran, with_guest};

/// Removes what a test has pulled into the user's cache.
struct Removed(Vec<String>);

impl Drop for Removed {
    fn drop(&mut self) {
        for name in &self.0 {
            Mother::with_guest().call(&["images", "rm", name]);
        }
    }
}

fn check(ran: &Ran, stdout: &str, status: i32) {
    let seen = (ran.stdout.as_str(), ran.status);
    assert_eq!(seen, (stdout, Some(status)), "{}", ran.stderr);
}

fn check_says(ran: &Ran, status: i32, words: &[&str]) {
    assert_eq!(ran.status, Some(status), "{}", ran.stderr);
    for word in words {
        assert!(ran.stderr.contains(word), "{word:?} in {}", ran.stderr);
    }
}

fn listed(mother: &Mother, name: &str) -> Option<Value> {
    let ran = mother.call(&["images", "ls", "--json"]);
    let all: Vec<Value> = serde_json::from_str(&ran.stdout).unwrap();
    all.into_iter().find(|image| image["name"] == name)
}

#[test]
fn an_image_of_a_registry_runs_like_one_of_a_file() {
    let (Some(mother), Some(mut registry)) = (with_guest(), Registry::new(false)) else {
        return;
    };
    let name = format!("{}/tests/box", registry.host());
    let full = format!("{name}:latest");
    let index = registry.push_box("tests/box", "latest", "cat /data; exit 7");
    let digest = index["digest"].as_str().unwrap();
    let pinned = format!("{name}@{digest}");
    let _removed = Removed(vec![full.clone(), pinned.clone()]);
    let run = |words: &[&str]| {
        let all = [&[words[0], "--net", "none", "--memory", "96M"], &words[1..]];
        mother.run(&all.concat())
    };
    let ran = run(&[&name]);
    check(&ran, "from a registry\n", 7);
    let told = format!("1 of 2: asking the registry for {full}");
    assert!(ran.stderr.contains(&told), "{}", ran.stderr);
    assert!(
        ran.stderr
            .contains(&format!("2 of 2: downloading {full} (")),
        "{}",
        ran.stderr
    );
    let image = listed(&mother, &full).unwrap();
    assert_eq!(image["digest"], digest);
    // What is here is asked of nobody.
    registry.stop();
    check(
        &run(&[&name, "--", "/bin/busybox", "echo", "again"]),
        "again\n",
        0,
    );
    check(&run(&[&pinned, "--pull", "always"]), "from a registry\n", 7);
    let gone = run(&[&name, "--pull", "always"]);
    check_says(
        &gone,
        1,
        &[
            &format!("cannot pull \"{full}\""),
            "cannot reach 127.0.0.1:",
            "help: look at the name",
        ],
    );
    let absent = run(&[&format!("{name}:2"), "--pull", "never"]);
    check_says(
        &absent,
        2,
        &["it was not pulled yet", "mother images pull NAME"],
    );
    // The disk goes with the last of its names.
    for name in [&full, &pinned] {
        let ran = mother.call(&["images", "rm", name]);
        assert!(
            ran.stdout.starts_with(&format!("removed {name}; ")),
            "{} {}",
            ran.stdout,
            ran.stderr
        );
        assert!(listed(&mother, name).is_none());
    }
}

#[test]
fn pull_brings_what_is_new_and_knows_both_kinds_of_manifests() {
    let Some(registry) = Registry::new(false) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mother = Mother::new(folder.path());
    let layer = [1; 4096];
    let name = format!("{}/tools/made", registry.host());
    let pull = || {
        let ran = mother.call(&["images", "pull", "--json", &name]);
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        let came: Value = serde_json::from_str(&ran.stdout).unwrap();
        came[0].clone()
    };
    let mut digests = Vec::new();
    for kind in [MANIFEST, DOCKER_MANIFEST] {
        let pushed = registry.push_image("tools/made", ("latest", kind), &json!({}), &[&layer]);
        let came = pull();
        assert_eq!(came["digest"], pushed["digest"], "{kind}");
        assert_eq!(came["name"], format!("{name}:latest"));
        digests.push(came["digest"].clone());
    }
    assert_ne!(digests[0], digests[1]);
    assert_eq!(
        listed(&mother, &format!("{name}:latest")).unwrap()["digest"],
        digests[1]
    );
    let table = mother.call(&["images"]).stdout;
    assert!(table.contains("of a registry, sha256:"), "{table}");
    let names = mother.call(&["images", "-q"]).stdout;
    assert_eq!(names, format!("{name}:latest\n"));
    // The parts that only the older one had go.
    let pruned = mother.call(&["images", "prune"]).stdout;
    assert!(
        pruned.starts_with("removed no image; ") && !pruned.contains("; 0 bytes"),
        "{pruned}"
    );
    let all = mother.call(&["images", "prune", "--all"]).stdout;
    assert!(
        all.starts_with(&format!("removed {name}:latest; ")),
        "{all}"
    );
}

#[test]
fn every_refusal_says_what_is_wrong_and_what_to_do() {
    let Some(registry) = Registry::new(false) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mother = Mother::new(folder.path());
    let host = registry.host();
    let pull = |name: &str| mother.call(&["images", "pull", &format!("{host}/{name}")]);
    check_says(
        &pull("no/such"),
        2,
        &["has no no/such:latest", "help: check its name and tag"],
    );
    let mut arm = registry.push_image("arm", ("", MANIFEST), &json!({}), &[&[1; 64]]);
    arm["platform"] = json!({ "os": "linux", "architecture": "arm64" });
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [arm] });
    registry.push_manifest("arm", "latest", &index);
    check_says(
        &pull("arm"),
        2,
        &["no image for linux/amd64, but for linux/arm64"],
    );
    let image = registry.push_image("bad", ("latest", MANIFEST), &json!({}), &[&[1; 64]]);
    let manifest = fs::read(registry.blob(image["digest"].as_str().unwrap())).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let layer = &manifest["layers"][0];
    let path = registry.blob(layer["digest"].as_str().unwrap());
    fs::write(
        path,
        vec![0; usize::try_from(layer["size"].as_u64().unwrap()).unwrap()],
    )
    .unwrap();
    check_says(
        &pull("bad"),
        1,
        &["is damaged", "help: nothing of it was kept"],
    );
    check_says(
        &pull("Bad"),
        2,
        &["lower-case", "help: write [HOST[:PORT]/]"],
    );
    let here = mother.run(&["alpine", "--net", "none"]);
    check_says(
        &here,
        2,
        &[
            "there is no image \"alpine\"",
            "`mother run docker.io/library/alpine:latest`",
        ],
    );
    assert_eq!(mother.call(&["images", "--json"]).stdout, "[]\n");
}

#[test]
fn a_registry_that_asks_who_one_is_is_told_from_the_usual_file() {
    let Some(registry) = Registry::new(true) else {
        return;
    };
    registry.push_image("own/made", ("1", MANIFEST), &json!({}), &[&[1; 64]]);
    let folder = tempfile::tempdir().unwrap();
    let mother = Mother::new(folder.path());
    let name = format!("{}/own/made:1", registry.host());
    let file = |path: &Path| {
        format!(
            "REGISTRY_AUTH_FILE={} $MOTHER images pull {name}",
            path.display()
        )
    };
    let refused = mother.shell(&file(&folder.path().join("absent.json")));
    check_says(
        &refused,
        1,
        &[
            "does not give own/made to who has no credentials",
            "skopeo login HOST",
        ],
    );
    let wrong = folder.path().join("wrong.json");
    fs::write(
        &wrong,
        json!({ "auths": { registry.host(): { "auth": "dXNlcjp3cm9uZw==" } } }).to_string(),
    )
    .unwrap();
    check_says(
        &mother.shell(&file(&wrong)),
        1,
        &["does not give own/made to this user"],
    );
    let ran = mother.shell(&file(&login(folder.path(), &registry.host())));
    assert!(
        ran.stdout.starts_with(&format!("{name} is here: sha256:")),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_mirror_is_configured_in_a_file() {
    let Some(registry) = Registry::new(false) else {
        return;
    };
    registry.push_image("hub/library/made", ("1", MANIFEST), &json!({}), &[&[1; 64]]);
    let folder = tempfile::tempdir().unwrap();
    let mother = Mother::new(folder.path());
    let text = format!("[\"docker.io\"]\nmirrors = [\"{}/hub\"]\n", registry.host());
    fs::write(folder.path().join("registries.toml"), text).unwrap();
    let ran = mother.shell("MOTHER_REGISTRIES=registries.toml $MOTHER images pull made:1");
    assert!(
        ran.stdout
            .starts_with("docker.io/library/made:1 is here: sha256:"),
        "{}",
        ran.stderr
    );
    fs::write(
        folder.path().join("registries.toml"),
        "[\"docker.io\"]\nmirors = []\n",
    )
    .unwrap();
    let ran = mother.shell("MOTHER_REGISTRIES=registries.toml $MOTHER images pull --json other:1");
    check_says(&ran, 2, &["line 2: unknown field `mirors`"]);
}

#[test]
fn a_registry_over_tls_is_asked_if_somebody_vouches_for_it() {
    let Some(registry) = Registry::over_tls() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mother = Mother::new(folder.path());
    let host = format!("localhost:{}", registry.port());
    let text = format!("[\"{host}\"]\ninsecure = false\n");
    fs::write(folder.path().join("registries.toml"), text).unwrap();
    let pull = |with: &str| {
        mother.shell(&format!(
            "MOTHER_REGISTRIES=registries.toml {with} $MOTHER images pull {host}/no/such"
        ))
    };
    let words = [
        "has a certificate that is not trusted",
        "help: put the certificate",
    ];
    check_says(&pull(""), 1, &words);
    // Who is believed says that there is no such image.
    let trusting = pull(&format!(
        "SSL_CERT_FILE={}",
        registry.file("ca.pem").display()
    ));
    check_says(&trusting, 2, &["has no no/such:latest"]);
    // Nobody comes down from TLS by himself, nor does what speaks TLS understand what has none.
    let plain = mother.shell(&format!("$MOTHER images pull {host}/no/such"));
    check_says(&plain, 1, &["answers with the status 400"]);
}
