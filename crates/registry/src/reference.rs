//! What a person calls an image: `HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]`, and the short forms that container engines know.
//!
//! The grammar is that of distribution's references (distribution-spec, "Pulling manifests", and the `reference` package that
//! every engine follows). What stands before the first slash is a host if it has a dot or a colon, or is `localhost`; without
//! a host it is Docker Hub, and without a slash a repository of Docker's own there.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use thiserror::Error;

use crate::digest::Digest;

/// Docker Hub, as everybody writes it.
pub(crate) const DOCKER_HUB: &str = "docker.io";

/// Where Docker Hub has the images that have no owner.
const LIBRARY: &str = "library";

/// The longest name without tag and digest (distribution-spec).
const NAME_LEN_MAX: usize = 255;

/// The longest tag.
const TAG_LEN_MAX: usize = 128;

/// The tag of whoever names none.
const LATEST: &str = "latest";

/// An image in a registry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why something is no reference.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("\"{}\" is no name of an image in a registry: {what}", .name.escape_debug())]
pub struct BadReference {
    /// What was written.
    pub name: String,
    /// What is wrong.
    pub what: &'static str,
}

impl Reference {
    /// Reads one, in whatever form.
    ///
    /// # Errors
    /// [`BadReference`].
    pub fn parse(text: &str) -> Result<Reference, BadReference> {
        read(text).map_err(|what| BadReference {
            name: text.to_owned(),
            what,
        })
    }

    /// The registry: a host, and a port if one was written.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository in there.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; none for an image that is named by its digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one was written: it decides.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Registry and repository, without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }
}

/// In full: the same image is always written in the same way.
impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(formatter, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(formatter, "@{digest}")?;
        }
        Ok(())
    }
}

fn read(text: &str) -> Result<Reference, &'static str> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => {
            let digest = Digest::parse(digest);
            (
                rest,
                Some(digest.ok_or("behind @ stands sha256: and 64 hexadecimal digits")?),
            )
        }
        None => (text, None),
    };
    let is_host = |first: &str| first == "localhost" || first.contains(['.', ':']);
    let (registry, path) = match rest.split_once('/') {
        Some((first, path)) if is_host(first) => (host(first)?, path),
        _ => (DOCKER_HUB.to_owned(), rest),
    };
    // A colon behind the last slash is that of a tag.
    let last = path.rfind('/').map_or(0, |at| at + 1);
    let (path, tag) = match path[last..].find(':') {
        Some(at) => (&path[..last + at], Some(&path[last + at + 1..])),
        None => (path, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err("a tag has letters, digits, dots, dashes and underscores, at most 128");
    }
    if !path.split('/').all(is_component) {
        return Err(
            "a repository has lower-case letters and digits, and between them dots, dashes and underscores",
        );
    }
    let is_of_docker = registry == DOCKER_HUB && !path.contains('/');
    let repository = if is_of_docker {
        format!("{LIBRARY}/{path}")
    } else {
        path.to_owned()
    };
    if registry.len() + 1 + repository.len() > NAME_LEN_MAX {
        return Err("it is longer than 255 characters");
    }
    let tag = tag.or(digest.is_none().then_some(LATEST));
    Ok(Reference {
        registry,
        repository,
        tag: tag.map(str::to_owned),
        digest,
    })
}

/// A host with or without a port, in lower case.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn host(text: &str) -> Result<String, &'static str> {
    let text = text.to_ascii_lowercase();
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, behind) = rest.split_once(']').ok_or("its address has no ]")?;
            if address.parse::<Ipv6Addr>().is_err() {
                return Err("between [ and ] stands an IPv6 address");
            }
            (
                None,
                behind
                    .strip_prefix(':')
                    .or((!behind.is_empty()).then_some(behind)),
            )
        }
        None => match text.split_once(':') {
            Some((name, port)) => (Some(name), Some(port)),
            None => (Some(text.as_str()), None),
        },
    };
    let is_part = |part: &str| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        !part.is_empty()
            && part.bytes().all(is_plain)
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    if name.is_some_and(|name| !name.split('.').all(is_part)) {
        return Err("its host is none");
    }
    let is_port = |port: &str| {
        port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|it| it > 0)
    };
    if port.is_some_and(|port| !is_port(port)) {
        return Err("its port is none");
    }
    Ok(match text.as_str() {
        // What clients of before wrote.
        "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB.to_owned(),
        _ => text,
    })
}

/// Whether a host, with or without a port, is this host, by its address or as `localhost`.
pub(crate) fn is_loopback(host: &str) -> bool {
    if let Some(rest) = host.strip_prefix('[') {
        let address = rest.split(']').next().unwrap_or_default();
        return address.parse::<Ipv6Addr>().is_ok_and(|it| it.is_loopback());
    }
    let name = host.split(':').next().unwrap_or_default();
    name == "localhost" || name.parse::<Ipv4Addr>().is_ok_and(|it| it.is_loopback())
}

fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let bytes = tag.as_bytes();
    bytes.len() <= TAG_LEN_MAX
        && bytes.first().is_some_and(|first| is_word(*first))
        && bytes
            .iter()
            .all(|byte| is_word(*byte) || b".-".contains(byte))
}

/// Letters and digits, and between them one dot, one or two underscores, or dashes.
pub(crate) fn is_component(text: &str) -> bool {
    let is_letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_separator =
        |it: &str| matches!(it, "" | "." | "_" | "__") || it.bytes().all(|byte| byte == b'-');
    text.starts_with(is_letter)
        && text.ends_with(is_letter)
        && text.split(is_letter).all(is_separator)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZEROS: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

    #[test]
    fn names_mean_what_container_engines_mean_by_them() {
        let check = |text: &str, expected: &str| {
            let read = Reference::parse(text).map(|it| it.to_string());
            assert_eq!(read.as_deref(), Ok(expected), "{text}");
        };
        check("alpine", "docker.io/library/alpine:latest");
        check("alpine:3.20", "docker.io/library/alpine:3.20");
        check("library/alpine", "docker.io/library/alpine:latest");
        check("docker.io/alpine", "docker.io/library/alpine:latest");
        check(
            "docker.io/library/debian",
            "docker.io/library/debian:latest",
        );
        check(
            "index.docker.io/library/debian:12",
            "docker.io/library/debian:12",
        );
        check("grafana/grafana", "docker.io/grafana/grafana:latest");
        check(
            "ghcr.io/owner/group/image:1.2",
            "ghcr.io/owner/group/image:1.2",
        );
        check("127.0.0.1:5000/busybox", "127.0.0.1:5000/busybox:latest");
        check("localhost/busybox", "localhost/busybox:latest");
        check("localhost:5000/a/b:t", "localhost:5000/a/b:t");
        check("[::1]:5000/box", "[::1]:5000/box:latest");
        check("REG.example/box", "reg.example/box:latest");
        check(
            &format!("reg.example/box@{ZEROS}"),
            &format!("reg.example/box@{ZEROS}"),
        );
        check(
            &format!("alpine:3@{ZEROS}"),
            &format!("docker.io/library/alpine:3@{ZEROS}"),
        );
        check("a.b/c__d/e-f--g.h", "a.b/c__d/e-f--g.h:latest");
    }

    #[test]
    fn what_is_no_name_is_refused_with_the_reason() {
        let check = |text: &str, expected: &str| match Reference::parse(text) {
            Err(error) => assert!(error.what.contains(expected), "{text}: {error}"),
            Ok(read) => panic!("{text} was read as {read}"),
        };
        for text in [
            "",
            "./image",
            "../image",
            "/image",
            "a//b",
            "reg.example/",
            "Alpine",
            "a/B",
            "a.b/.c",
            "a___b",
        ] {
            check(text, "");
        }
        check("reg.example/../../etc/passwd", "a repository has");
        check("reg.example/a:", "a tag has");
        check(&format!("a:{}", "t".repeat(129)), "a tag has");
        check("a@sha256:12", "64 hexadecimal digits");
        check("a@md5:00", "64 hexadecimal digits");
        check("reg.example:0/a", "port");
        check("reg.example:70000/a", "port");
        check("reg.example:+5/a", "port");
        check("re_g.example/a", "host");
        check("a..b/c", "host");
        check("[::zz]:5000/box", "IPv6");
        check(&format!("reg.example/{}", "a".repeat(250)), "255");
        check("docker://alpine", "");
    }
}
