//! The network of a VM: what is behind its device, which ports of the host lead into it, and its address.

use std::io::ErrorKind;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use api::{Forward, NetSpec, Transport, VmName, VmSpec};
use devices::virtio::net::MacAddress;
use serde::{Deserialize, Serialize};

use super::egress::{EgressPlan, egress};
use super::{Complaints, Stage, Trouble, trouble};

/// Where a guest's packets go.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetBackend {
    /// A user-mode network without privileges: passt.
    User(UserNetwork),
    /// A tap of the host.
    Tap(String),
    /// A network between VMs, by its name: who is on it is for whoever starts the VM to arrange.
    Named(VmName),
}

/// What passt is told.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserNetwork {
    /// The program.
    #[serde(with = "api::host_path")]
    pub passt: PathBuf,
    /// Ports of the host that lead into the guest.
    pub forwards: Vec<Forward>,
    /// Whether the gateway's address leads to the host's loopback.
    pub reaches_host: bool,
}

/// The VM's network device.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetPlan {
    /// Where its packets go.
    pub backend: NetBackend,
    /// Its address.
    pub mac: MacAddress,
    /// Where its guest may send to, if that is listed; only behind a user-mode network.
    pub egress: Option<EgressPlan>,
}

/// Checks all of it; complaints are gathered. The inner `None` is a VM without a network device.
pub(super) fn network(
    spec: &VmSpec,
    stage: Stage,
    complaints: &mut Complaints,
) -> Option<Option<NetPlan>> {
    let asked = spec.net.clone().unwrap_or_default();
    let is_user = matches!(asked, NetSpec::User { .. }) || complaints.is_about("net");
    let forwards = forwards(&spec.forwards, is_user, complaints);
    let mac = match spec.mac {
        Some(mac) => MacAddress(mac.bytes()),
        None => MacAddress::of_vm(spec.shown_name()),
    };
    let backend = match asked {
        NetSpec::None => return Some(None),
        NetSpec::Tap(name) => NetBackend::Tap(complaints.take("net", tap(&name))?),
        NetSpec::Named(name) => NetBackend::Named(name),
        NetSpec::User { reaches_host } => {
            let passt = complaints.take("net", passt(spec.passt.as_deref(), stage));
            NetBackend::User(UserNetwork {
                passt: passt?,
                forwards: forwards?,
                reaches_host,
            })
        }
    };
    let forwards = match &backend {
        NetBackend::User(network) => Some(network.forwards.as_slice()),
        NetBackend::Tap(_) | NetBackend::Named(_) => None,
    };
    let egress = egress(spec, forwards, stage, complaints);
    Some(Some(NetPlan {
        backend,
        mac,
        egress,
    }))
}

fn tap(name: &str) -> Result<String, Trouble> {
    let shown = name.escape_debug();
    let make = "have one made with `ip tuntap add NAME mode tap user USER`, or write `--net user`";
    if !host::tap::is_name(name) {
        return trouble(
            format!("\"{shown}\" cannot be the name of an interface"),
            make,
        );
    }
    if !host::tap::exists(name) {
        return trouble(format!("this host has no interface {shown}"), make);
    }
    if !Path::new("/sys/class/net")
        .join(name)
        .join("tun_flags")
        .exists()
    {
        return trouble(format!("the interface {shown} is not a tap"), make);
    }
    Ok(name.to_owned())
}

fn passt(given: Option<&Path>, stage: Stage) -> Result<PathBuf, Trouble> {
    if stage == Stage::Draft {
        // It may be brought yet.
        return Ok(given.map(Path::to_owned).unwrap_or_default());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut on_path = std::env::split_paths(&path).map(|folder| folder.join("passt"));
    let found = given
        .map(Path::to_owned)
        .or_else(|| on_path.find(|path| path.is_file()));
    found.ok_or_else(|| Trouble {
        what: "this host has no passt, which carries a guest's network without privileges"
            .to_owned(),
        help: "install the package passt, or write `--net none`".to_owned(),
    })
}

/// Every forward, or complaints about each that is wrong.
fn forwards(asked: &[Forward], is_user: bool, complaints: &mut Complaints) -> Option<Vec<Forward>> {
    let mut all: Vec<Forward> = Vec::new();
    for forward in asked {
        let checked = if !is_user {
            let what = format!(
                "nothing can lead to port {} of a guest without `--net user`",
                forward.guest_port
            );
            trouble(what, "write `--net user`, or leave `-p` out")
        } else if all.iter().any(|other| other.collides(forward)) {
            let transport = forward.transport;
            let host = forward.host;
            trouble(
                format!("{transport} port {host} is asked for twice"),
                "give each forward a port of the host of its own",
            )
        } else {
            check_free(forward).map(|()| *forward)
        };
        all.extend(complaints.take("publish", checked));
    }
    (all.len() == asked.len()).then_some(all)
}

/// Tries the port: passt would only say that it could not have it, not why.
fn check_free(forward: &Forward) -> Result<(), Trouble> {
    let Forward {
        host, transport, ..
    } = forward;
    let tried = match transport {
        Transport::Tcp => TcpListener::bind(host).map(drop),
        Transport::Udp => UdpSocket::bind(host).map(drop),
    };
    let Err(error) = tried else { return Ok(()) };
    match error.kind() {
        ErrorKind::AddrInUse => trouble(
            format!("{transport} port {host} is in use"),
            "give another port, or end what uses it",
        ),
        ErrorKind::PermissionDenied => trouble(
            format!("you may not have {transport} port {host}"),
            "give a port from 1024 up, or have net.ipv4.ip_unprivileged_port_start lowered",
        ),
        ErrorKind::AddrNotAvailable => trouble(
            format!("this host has no address {}", host.ip()),
            "leave the address out for 127.0.0.1, or write 0.0.0.0 for all",
        ),
        _ => trouble(
            format!("{transport} port {host} cannot be had: {error}"),
            "give another port",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::egress::Served;

    fn spec(net: &str, forwards: &[&str]) -> VmSpec {
        VmSpec {
            net: Some(net.parse().unwrap()),
            forwards: forwards.iter().map(|text| text.parse().unwrap()).collect(),
            passt: Some(PathBuf::from("/passt")),
            ..VmSpec::default()
        }
    }

    /// The plan, or what is complained of.
    fn planned(spec: &VmSpec) -> Result<Option<NetPlan>, Vec<String>> {
        let mut complaints = Complaints::default();
        let plan = network(spec, Stage::Final, &mut complaints);
        match plan {
            Some(plan) if complaints.0.is_empty() => Ok(plan),
            _ => Err(complaints
                .0
                .into_iter()
                .map(|it| format!("{}: {}", it.field, it.what))
                .collect()),
        }
    }

    fn check(net: &str, forwards: &[&str], expected: &[&str]) {
        let complaints = planned(&spec(net, forwards)).err().unwrap_or_default();
        assert_eq!(complaints, expected, "{net} {forwards:?}");
    }

    #[test]
    fn a_network_is_understood_or_explained() {
        check("none", &[], &[]);
        check("user", &[], &[]);
        check("user,host", &[], &[]);
        check("net:lab", &[], &[]);
        check(
            "tap=",
            &[],
            &["net: \"\" cannot be the name of an interface"],
        );
        check(
            "tap=a/b",
            &[],
            &["net: \"a/b\" cannot be the name of an interface"],
        );
        check(
            "tap=mothernotap9",
            &[],
            &["net: this host has no interface mothernotap9"],
        );
        check("tap=lo", &[], &["net: the interface lo is not a tap"]);
    }

    #[test]
    fn a_forward_needs_a_network_to_lead_through() {
        check(
            "none",
            &["8080:80", "8081:81"],
            &[
                "publish: nothing can lead to port 80 of a guest without `--net user`",
                "publish: nothing can lead to port 81 of a guest without `--net user`",
            ],
        );
    }

    #[test]
    fn a_port_leads_to_one_place() {
        let twice = |port: &str| format!("publish: TCP port {port} is asked for twice");
        check(
            "user",
            &["39001:80", "39001:81"],
            &[&twice("127.0.0.1:39001")],
        );
        check(
            "user",
            &["39001:80", "0.0.0.0:39001:81"],
            &[&twice("0.0.0.0:39001")],
        );
        check(
            "user",
            &["39001:80", "39001:80/udp", "127.0.0.2:39001:80"],
            &[],
        );
    }

    #[test]
    fn a_port_that_cannot_be_had_is_told_with_the_reason() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        check(
            "user",
            &[&format!("{port}:80")],
            &[&format!("publish: TCP port 127.0.0.1:{port} is in use")],
        );
        check(
            "user",
            &["203.0.113.77:39002:80"],
            &["publish: this host has no address 203.0.113.77"],
        );
    }

    #[test]
    fn an_address_is_the_one_asked_for_or_made_of_the_name() {
        let check = |mac: Option<&str>, name: &str, expected: MacAddress| {
            let spec = VmSpec {
                mac: mac.map(|mac| mac.parse().unwrap()),
                name: Some(name.parse().unwrap()),
                ..spec("user", &[])
            };
            assert_eq!(planned(&spec).unwrap().unwrap().mac, expected);
        };
        let asked = MacAddress([0x52, 0, 0, 0x12, 0x34, 0x56]);
        check(Some("52:00:00:12:34:56"), "web", asked);
        check(None, "web", MacAddress::of_vm("web"));
    }

    #[test]
    fn a_forward_binds_the_loopback_unless_told_otherwise() {
        let plan = planned(&spec("user", &["39003:80", "0.0.0.0:39004:53/udp"]))
            .unwrap()
            .unwrap();
        let NetBackend::User(user) = plan.backend else {
            panic!("not a user network")
        };
        let shown: Vec<String> = user
            .forwards
            .iter()
            .map(|forward| {
                format!(
                    "{} {} {}",
                    forward.transport, forward.host, forward.guest_port
                )
            })
            .collect();
        assert_eq!(shown, ["TCP 127.0.0.1:39003 80", "UDP 0.0.0.0:39004 53"]);
        assert!(!user.reaches_host);
    }

    /// The plan, or what is complained of.
    fn planned_egress(net: &str, egress: &str) -> Result<Option<EgressPlan>, Vec<String>> {
        let spec = VmSpec {
            net: Some(net.parse().unwrap()),
            egress: Some(egress.parse().unwrap()),
            forwards: match net {
                "user" => vec!["39017:80".parse().unwrap(), "39018:53/udp".parse().unwrap()],
                _ => Vec::new(),
            },
            passt: Some("/passt".into()),
            ..VmSpec::default()
        };
        let mut complaints = Complaints::default();
        let plan = network(&spec, Stage::Final, &mut complaints);
        let said: Vec<String> = complaints.0.iter().map(|it| it.what.clone()).collect();
        if said.is_empty() {
            Ok(plan.unwrap().and_then(|plan| plan.egress))
        } else {
            Err(said)
        }
    }

    #[test]
    fn a_list_is_planned_with_its_names_looked_up() {
        let plan = planned_egress("user", "allow=192.0.2.0/24:443,198.51.100.7");
        let plan = plan.unwrap().unwrap();
        let networks = plan.networks.iter();
        let networks: Vec<_> = networks
            .map(|it| (it.address.to_string(), it.bits, it.port))
            .collect();
        let expected = [
            ("192.0.2.0".to_owned(), 24, Some(443)),
            ("198.51.100.7".to_owned(), 32, None),
        ];
        assert_eq!(networks, expected);
        assert_eq!(plan.served, [(Served::Tcp, 80), (Served::Udp, 53)]);
        assert_eq!(
            planned_egress("user", "deny").unwrap().unwrap().networks,
            []
        );
        assert_eq!(planned_egress("none", "deny").unwrap(), None);
    }

    #[test]
    fn a_name_that_leads_nowhere_is_told() {
        let said = planned_egress("user", "allow=no-such-name.invalid").unwrap_err();
        assert!(said[0].starts_with("this host does not know no-such-name.invalid"));
        let said = planned_egress("user", "allow=localhost").unwrap_err();
        assert!(said[0].contains("which no guest reaches"), "{said:?}");
    }
}
