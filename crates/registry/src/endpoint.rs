//! Where a registry is spoken to, and where it may send on to.

use ureq::http::Uri;

use crate::configuration::Registries;
use crate::reference::{DOCKER_HUB, Reference, is_loopback};

/// Docker Hub's host for the protocol.
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";

/// A registry or one of its mirrors, for one repository.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Endpoint {
    /// Whose credentials it gets.
    pub(crate) registry: String,
    /// Host and port.
    pub(crate) host: String,
    /// Whether it is spoken to without TLS.
    pub(crate) is_plain: bool,
    /// The repository, as it is called there.
    pub(crate) repository: String,
}

impl Endpoint {
    /// Who is asked for an image, one after the other: mirrors, then the registry itself.
    pub(crate) fn all(reference: &Reference, registries: &Registries) -> Vec<Endpoint> {
        let mirrors = registries.mirrors(reference.registry()).into_iter();
        let mirrors = mirrors.map(|mirror| {
            let repository = match mirror.prefix.as_str() {
                "" => reference.repository().to_owned(),
                prefix => format!("{prefix}/{}", reference.repository()),
            };
            Endpoint::of(mirror.host, repository, registries)
        });
        let own = reference.registry().to_owned();
        let own = Endpoint::of(own, reference.repository().to_owned(), registries);
        mirrors.chain([own]).collect()
    }

    fn of(registry: String, repository: String, registries: &Registries) -> Endpoint {
        let host = if registry == DOCKER_HUB {
            DOCKER_HUB_HOST.to_owned()
        } else {
            registry.clone()
        };
        Endpoint {
            is_plain: registries.is_plain(&registry),
            registry,
            host,
            repository,
        }
    }

    /// The address of something of the repository.
    pub(crate) fn url(&self, what: &str) -> String {
        let scheme = if self.is_plain { "http" } else { "https" };
        format!("{scheme}://{}/v2/{}/{what}", self.host, self.repository)
    }

    /// Whether this registry may have us ask there: over TLS anybody; without, only this host or itself, and only if we speak
    /// without TLS to it. So a registry somewhere else has nobody ask services of this host for it.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn may_send_to(&self, to: &Uri) -> Result<(), &'static str> {
        let authority = to.authority().ok_or("it names no host")?.as_str();
        if authority.contains('@') {
            return Err("it has a user in it");
        }
        match to.scheme_str() {
            Some("https") => Ok(()),
            Some("http") if !self.is_plain => Err("it is without TLS"),
            Some("http")
                if authority == self.host || is_loopback(authority) && is_loopback(&self.host) =>
            {
                Ok(())
            }
            Some("http") => Err("it is without TLS on another host"),
            _ => Err("it is neither https nor http"),
        }
    }
}

/// Where a `Location` leads that was said at `from`: a whole address, or a path there.
pub(crate) fn resolve(from: &Uri, location: &str) -> Option<Uri> {
    let to: Uri = location.parse().ok()?;
    if to.scheme().is_some() {
        return Some(to);
    }
    if !location.starts_with('/') || location.starts_with("//") {
        return None;
    }
    let whole = format!("{}://{}{location}", from.scheme()?, from.authority()?);
    whole.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(host: &str, is_plain: bool) -> Endpoint {
        Endpoint {
            registry: host.to_owned(),
            host: host.to_owned(),
            is_plain,
            repository: "a/b".to_owned(),
        }
    }

    #[test]
    fn docker_hub_and_mirrors_have_their_places() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("registries.toml");
        std::fs::write(
            &path,
            "[\"docker.io\"]\nmirrors = [\"127.0.0.1:5000/hub\"]\n",
        )
        .unwrap();
        let registries = Registries::read(&path).unwrap();
        let urls = |name: &str| -> Vec<String> {
            let reference = Reference::parse(name).unwrap();
            let all = Endpoint::all(&reference, &registries);
            all.iter().map(|one| one.url("tags/list")).collect()
        };
        let hub = "https://registry-1.docker.io/v2/library/alpine/tags/list";
        assert_eq!(
            urls("alpine"),
            ["http://127.0.0.1:5000/v2/hub/library/alpine/tags/list", hub]
        );
        assert_eq!(urls("ghcr.io/a/b"), ["https://ghcr.io/v2/a/b/tags/list"]);
    }

    #[test]
    fn a_registry_sends_on_only_to_where_it_does_no_harm() {
        let check = |from: &Endpoint, to: &str, expected: bool| {
            let to: Uri = to.parse().unwrap();
            assert_eq!(
                from.may_send_to(&to).is_ok(),
                expected,
                "{} to {to}",
                from.host
            );
        };
        let far = endpoint("reg.example", false);
        check(&far, "https://cdn.example/x", true);
        check(&far, "http://cdn.example/x", false);
        check(&far, "http://127.0.0.1:8080/x", false);
        check(&far, "https://user@cdn.example/x", false);
        let near = endpoint("127.0.0.1:5000", true);
        check(&near, "http://127.0.0.1:6000/x", true);
        check(&near, "http://localhost:6000/x", true);
        check(&near, "http://cdn.example/x", false);
        check(&near, "https://cdn.example/x", true);
        let plain = endpoint("registry.lan", true);
        check(&plain, "http://registry.lan/x", true);
        check(&plain, "http://127.0.0.1/x", false);
        check(&plain, "http://other.lan/x", false);
    }

    #[test]
    fn a_location_is_whole_or_a_path() {
        let from: Uri = "https://reg.example:5000/v2/a/blobs/x".parse().unwrap();
        let check = |location: &str, expected: Option<&str>| {
            let to = resolve(&from, location).map(|to| to.to_string());
            assert_eq!(to.as_deref(), expected, "{location}");
        };
        check(
            "https://cdn.example/x?y=z",
            Some("https://cdn.example/x?y=z"),
        );
        check(
            "/v2/other?a=b",
            Some("https://reg.example:5000/v2/other?a=b"),
        );
        check("//cdn.example/x", None);
        check("other", None);
        check("", None);
    }
}
