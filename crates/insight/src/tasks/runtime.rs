//! What runtimes call the control groups of their containers.

/// A container by its control group.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Runtime {
    /// Who runs it.
    pub runtime: &'static str,
    /// What it is called by who runs it.
    pub id: String,
    /// The path of its control group, up to the part that names it.
    pub path: String,
}

/// Control groups that are named by a prefix and an identifier.
const PREFIXES: [(&str, &str); 5] = [
    ("docker-", "docker"),
    ("libpod-", "podman"),
    ("cri-containerd-", "containerd"),
    ("nerdctl-", "containerd"),
    ("crio-", "cri-o"),
];

/// The container that a control group belongs to, by what runtimes call them (the code of each; systemd's
/// docs/CONTROL_GROUP_INTERFACE for `machine.slice`).
pub fn runtime_of(path: &str) -> Option<Runtime> {
    let is_kubernetes = path.contains("kubepods");
    let mut end = 0;
    for part in path.split_inclusive('/') {
        let parent = &path[..end];
        end += part.len();
        let name = part.trim_end_matches('/');
        let found = |runtime: &'static str, id: &str| {
            Some(Runtime {
                runtime: if is_kubernetes { "kubernetes" } else { runtime },
                id: id.to_owned(),
                path: path[..end].trim_end_matches('/').to_owned(),
            })
        };
        let bare = name.strip_suffix(".scope").unwrap_or(name);
        for (prefix, runtime) in PREFIXES {
            if let Some(id) = bare.strip_prefix(prefix).filter(|id| is_id(id)) {
                return found(runtime, id);
            }
        }
        if let Some(name) = name.strip_prefix("lxc.payload.") {
            return found("lxc", name);
        }
        let nspawn = name
            .strip_prefix("systemd-nspawn@")
            .and_then(|name| name.strip_suffix(".service"));
        if let Some(machine) = nspawn {
            return found("systemd-nspawn", &unescaped(machine));
        }
        // libvirt registers its domains there too.
        let machine = bare
            .strip_prefix("machine-")
            .filter(|_| name.ends_with(".scope"));
        if let Some(machine) = machine.filter(|name| !name.starts_with("qemu")) {
            return found("systemd-nspawn", &unescaped(machine));
        }
        // runc's and containerd's own, without systemd: a folder for the namespace, below it one for each container.
        if is_id(name) && !parent.is_empty() {
            let runtime = match parent.trim_matches('/') {
                parent if parent.ends_with("docker") => "docker",
                parent if parent.ends_with("libpod_parent") => "podman",
                _ => "containerd",
            };
            return found(runtime, name);
        }
    }
    None
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// As systemd writes a name into that of a unit: `\x2d` for a sign that it uses itself (systemd.unit(5)).
fn unescaped(text: &str) -> String {
    text.replace("\\x2d", "-").replace("\\x5f", "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_known_by_its_control_group() {
        let id = "0123456789abcdef".repeat(4);
        let check = |path: String, expected: Option<(&str, &str)>| {
            let found = runtime_of(&path);
            let found = found
                .as_ref()
                .map(|found| (found.runtime, found.id.as_str()));
            assert_eq!(found, expected, "{path}");
        };
        check(
            format!("/system.slice/docker-{id}.scope"),
            Some(("docker", &id)),
        );
        check(format!("/docker/{id}"), Some(("docker", &id)));
        check(
            format!("/kubepods.slice/x/cri-containerd-{id}.scope"),
            Some(("kubernetes", &id)),
        );
        check(
            format!("/machine.slice/libpod-{id}.scope/container"),
            Some(("podman", &id)),
        );
        check(format!("/default/{id}"), Some(("containerd", &id)));
        check(
            "/lxc.payload.web1/init.scope".to_owned(),
            Some(("lxc", "web1")),
        );
        check(
            "/machine.slice/machine-my\\x2dbox.scope/payload".to_owned(),
            Some(("systemd-nspawn", "my-box")),
        );
        check(
            "/machine.slice/systemd-nspawn@web.service/payload".to_owned(),
            Some(("systemd-nspawn", "web")),
        );
        check(
            "/machine.slice/machine-qemu\\x2d1\\x2dd1.scope".to_owned(),
            None,
        );
        check("/system.slice/docker.service".to_owned(), None);
        check("/".to_owned(), None);
    }

    #[test]
    fn a_path_ends_where_the_container_does() {
        let id = "ab".repeat(32);
        let path = format!("/machine.slice/libpod-{id}.scope");
        let found = runtime_of(&format!("{path}/container/deeper")).unwrap();
        assert_eq!(found.path, path);
    }
}
