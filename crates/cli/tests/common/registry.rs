//! A real registry on this host, Debian's, with images that tests put into it over its own protocol.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::add;

/// A user who may do everything where one has to say who one is, with the password `secret` (crypt(5), bcrypt), and that as
/// HTTP has it.
const USERS: &str = "user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";
const AUTHORIZATION: &str = "Basic dXNlcjpzZWNyZXQ=";

/// Types of what is put in.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// It ends with this.
pub struct Registry {
    child: Child,
    folder: TempDir,
    port: u16,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Registry {
    /// One with nothing in it, or a loud word that it cannot be had.
    pub fn new(asks_who_one_is: bool) -> Option<Registry> {
        Registry::with(|folder| {
            if !asks_who_one_is {
                return json!({});
            }
            let users = folder.join("users");
            fs::write(&users, USERS).unwrap();
            json!({ "auth": { "htpasswd": { "realm": "tests", "path": users } } })
        })
    }

    /// One that speaks TLS with a certificate that nobody but `ca.pem` in its folder vouches for.
    pub fn over_tls() -> Option<Registry> {
        Registry::with(|folder| {
            let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
            let [certificate, key] = ["ca.pem", "key.pem"].map(|name| folder.join(name));
            fs::write(&certificate, made.cert.pem()).unwrap();
            fs::write(&key, made.signing_key.serialize_pem()).unwrap();
            json!({ "http": { "tls": { "certificate": certificate, "key": key } } })
        })
    }

    /// One with this in its configuration, which may lie in its folder.
    fn with(more: impl FnOnce(&Path) -> Value) -> Option<Registry> {
        let cache = images::Cache::of_user().unwrap();
        let program = match fixtures::docker_registry(&cache, &mut |_| {}) {
            Ok(program) => program,
            Err(error) => {
                // Written, not printed: the test harness would keep what is printed to itself.
                let mut stderr = std::io::stderr();
                writeln!(stderr, "skipped: there is no docker-registry: {error}").unwrap();
                return None;
            }
        };
        let folder = tempfile::tempdir().unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let more = more(folder.path());
        let mut config = json!({ "version": 0.1, "log": { "level": "error", "accesslog": { "disabled": true } },
            "storage": { "filesystem": { "rootdirectory": folder.path().join("data") } },
            "http": { "addr": format!("127.0.0.1:{port}") } });
        config["auth"] = more["auth"].clone();
        config["http"]["tls"] = more["http"]["tls"].clone();
        config
            .as_object_mut()
            .unwrap()
            .retain(|_, it| !it.is_null());
        config["http"]
            .as_object_mut()
            .unwrap()
            .retain(|_, it| !it.is_null());
        let path = folder.path().join("config.yml");
        // What is JSON is YAML.
        fs::write(&path, config.to_string()).unwrap();
        let mut command = program.command();
        command.arg("serve").arg(&path);
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let registry = Registry {
            child,
            folder,
            port,
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "the registry does not listen");
            thread::sleep(Duration::from_millis(20));
        }
        Some(registry)
    }

    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Ends it.
    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// A file in its folder.
    pub fn file(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it keeps a blob.
    pub fn blob(&self, digest: &str) -> std::path::PathBuf {
        let digits = digest.trim_start_matches("sha256:");
        let blobs = self
            .folder
            .path()
            .join("data/docker/registry/v2/blobs/sha256");
        blobs.join(&digits[..2]).join(digits).join("data")
    }

    /// Puts a blob in; its descriptor.
    pub fn push_blob(&self, repository: &str, kind: &str, bytes: &[u8]) -> Value {
        let digest = digest(bytes);
        let place = self.ask("POST", &format!("/v2/{repository}/blobs/uploads/"), "", b"");
        let place = place.location.split_once("/v2/").unwrap().1.to_owned();
        let joint = if place.contains('?') { '&' } else { '?' };
        let answer = self.ask(
            "PUT",
            &format!("/v2/{place}{joint}digest={digest}"),
            "application/octet-stream",
            bytes,
        );
        assert_eq!(answer.status, 201);
        json!({ "mediaType": kind, "digest": digest, "size": bytes.len() })
    }

    /// Puts a manifest or an index in under a tag or digest; its descriptor.
    pub fn push_manifest(&self, repository: &str, tag: &str, manifest: &Value) -> Value {
        let kind = manifest["mediaType"].as_str().unwrap();
        let bytes = manifest.to_string().into_bytes();
        let digest = digest(&bytes);
        let tag = if tag.is_empty() { &digest } else { tag };
        let answer = self.ask(
            "PUT",
            &format!("/v2/{repository}/manifests/{tag}"),
            kind,
            &bytes,
        );
        assert_eq!(answer.status, 201, "{manifest}");
        json!({ "mediaType": kind, "digest": digest, "size": bytes.len() })
    }

    /// Puts an image of these layers in, whose configuration says this; its manifest's descriptor.
    pub fn push_image(
        &self,
        repository: &str,
        (tag, kind): (&str, &str),
        config: &Value,
        layers: &[&[u8]],
    ) -> Value {
        let is_docker = kind == DOCKER_MANIFEST;
        let [config_kind, layer_kind] = if is_docker {
            [
                "application/vnd.docker.container.image.v1+json",
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
            ]
        } else {
            [
                "application/vnd.oci.image.config.v1+json",
                "application/vnd.oci.image.layer.v1.tar+gzip",
            ]
        };
        let digests: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
        let config = json!({ "os": "linux", "architecture": "amd64", "config": config,
            "rootfs": { "type": "layers", "diff_ids": digests } });
        let packed = layers
            .iter()
            .map(|layer| self.push_blob(repository, layer_kind, &gzip(layer)));
        let manifest = json!({ "schemaVersion": 2, "mediaType": kind, "layers": packed.collect::<Vec<_>>(),
            "config": self.push_blob(repository, config_kind, config.to_string().as_bytes()) });
        self.push_manifest(repository, tag, &manifest)
    }

    /// Puts busybox in as an image that runs this line, among images for other machines.
    pub fn push_box(&self, repository: &str, tag: &str, line: &str) -> Value {
        let config = json!({ "Cmd": ["/bin/busybox", "sh", "-c", line] });
        let mut ours = self.push_image(
            repository,
            ("", MANIFEST),
            &config,
            &[&box_layer(), &data_layer()],
        );
        ours["platform"] = json!({ "os": "linux", "architecture": "amd64" });
        let mut other = self.push_image(
            repository,
            ("", DOCKER_MANIFEST),
            &json!({}),
            &[&data_layer()],
        );
        other["platform"] = json!({ "os": "linux", "architecture": "arm64", "variant": "v8" });
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [other, ours] });
        self.push_manifest(repository, tag, &index)
    }

    fn ask(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\nContent-Type: {kind}\r\n\
             Authorization: {AUTHORIZATION}\r\n\r\n",
            self.host(),
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut lines = BufReader::new(Read::by_ref(&mut stream))
            .lines()
            .map(Result::unwrap);
        let status = lines
            .next()
            .unwrap()
            .split(' ')
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        let location = lines
            .take_while(|line| !line.is_empty())
            .find_map(|line| line.strip_prefix("Location: ").map(str::to_owned));
        Answer {
            status,
            location: location.unwrap_or_default(),
        }
    }
}

struct Answer {
    status: u16,
    location: String,
}

/// `sha256:` and its digits.
pub fn digest(bytes: &[u8]) -> String {
    let digits = Sha256::digest(bytes);
    let digits: String = digits.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn box_layer() -> Vec<u8> {
    let cache = images::Cache::of_user().unwrap();
    let busybox = fs::read(cache.folder().join("busybox")).unwrap();
    let mut layer = tar::Builder::new(Vec::new());
    add(&mut layer, "bin/busybox", &busybox);
    layer.into_inner().unwrap()
}

fn data_layer() -> Vec<u8> {
    let mut layer = tar::Builder::new(Vec::new());
    add(&mut layer, "data", b"from a registry\n");
    layer.into_inner().unwrap()
}

/// The file in which who asks is `user`.
pub fn login(folder: &Path, host: &str) -> std::path::PathBuf {
    let path = folder.join("auth.json");
    let auth = json!({ "auths": { host: { "auth": AUTHORIZATION.trim_start_matches("Basic ") } } });
    fs::write(&path, auth.to_string()).unwrap();
    path
}
