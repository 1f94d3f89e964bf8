//! The network of a VM: what is behind its device, which ports of the host lead into it, and its address.

use std::fmt;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use api::VmSpec;
use devices::virtio::net::MacAddress;
use serde::{Deserialize, Serialize};

use super::{Complaints, Trouble, trouble};

/// Where a guest's packets go.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetBackend {
    /// A user-mode network without privileges: passt.
    User(UserNetwork),
    /// A tap of the host.
    Tap(String),
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
}

/// Which transport a forward carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the protocols' own names")]
pub enum Transport {
    Tcp,
    Udp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Tcp => "TCP",
            Transport::Udp => "UDP",
        })
    }
}

/// A port of the host that leads into the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// Address and port of the host.
    pub host: SocketAddrV4,
    /// Port of the guest.
    pub guest_port: u16,
    /// What it carries.
    pub transport: Transport,
}

impl Forward {
    /// Whether both would bind the same port.
    fn collides(&self, other: &Forward) -> bool {
        let (ours, theirs) = (self.host.ip(), other.host.ip());
        let same_address = ours == theirs || ours.is_unspecified() || theirs.is_unspecified();
        same_address && self.host.port() == other.host.port() && self.transport == other.transport
    }
}

/// What was asked for behind the device.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Asked {
    None,
    User { reaches_host: bool },
    Tap(String),
}

/// Checks all of it; complaints are gathered. The inner `None` is a VM without a network device.
pub(super) fn network(
    spec: &VmSpec,
    name: &str,
    complaints: &mut Complaints,
) -> Option<Option<NetPlan>> {
    let asked = complaints.take("net", kind(spec.net.as_deref().unwrap_or("none")));
    let forwards = forwards(&spec.forwards, asked.as_ref(), complaints);
    let mac = complaints.take("mac", mac(spec.mac.as_deref(), name));
    let backend = match asked? {
        Asked::None => return Some(None),
        Asked::Tap(name) => NetBackend::Tap(name),
        Asked::User { reaches_host } => {
            let passt = complaints.take("net", passt(spec.passt.as_deref()));
            NetBackend::User(UserNetwork {
                passt: passt?,
                forwards: forwards?,
                reaches_host,
            })
        }
    };
    Some(Some(NetPlan { backend, mac: mac? }))
}

fn kind(text: &str) -> Result<Asked, Trouble> {
    let help = "write `--net user`, `--net user,host` (the gateway's address leads to this host's own services), \
                `--net none` or `--net tap=NAME`";
    match text {
        "none" => Ok(Asked::None),
        "user" => Ok(Asked::User {
            reaches_host: false,
        }),
        "user,host" => Ok(Asked::User { reaches_host: true }),
        _ => match text.strip_prefix("tap=") {
            Some(name) => tap(name),
            None => trouble(
                format!("there is no network \"{}\"", text.escape_debug()),
                help,
            ),
        },
    }
}

fn tap(name: &str) -> Result<Asked, Trouble> {
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
    Ok(Asked::Tap(name.to_owned()))
}

fn passt(given: Option<&Path>) -> Result<PathBuf, Trouble> {
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

fn mac(text: Option<&str>, name: &str) -> Result<MacAddress, Trouble> {
    let Some(text) = text else {
        return Ok(MacAddress::of_vm(name));
    };
    let help = "write six bytes such as 52:00:00:12:34:56; without `--mac` the VM's name makes one";
    match MacAddress::parse(text) {
        None => trouble(
            format!("\"{}\" is not a MAC address", text.escape_debug()),
            help,
        ),
        Some(mac) if mac.is_multicast() => trouble(
            format!("{mac} is the address of a group: its first byte is odd"),
            help,
        ),
        Some(MacAddress([0, 0, 0, 0, 0, 0])) => trouble("an address of zeros is nobody's", help),
        Some(mac) => Ok(mac),
    }
}

/// Every forward, or complaints about each that is wrong.
fn forwards(
    texts: &[String],
    asked: Option<&Asked>,
    complaints: &mut Complaints,
) -> Option<Vec<Forward>> {
    let is_user = !matches!(asked, Some(Asked::None | Asked::Tap(_)));
    let mut all: Vec<Forward> = Vec::new();
    let mut is_right = true;
    for text in texts {
        let checked = forward(text).and_then(|forward| {
            if !is_user {
                let what = format!(
                    "nothing can lead to port {} of a guest without `--net user`",
                    forward.guest_port
                );
                return trouble(what, "write `--net user`, or leave `-p` out");
            }
            match all.iter().find(|other| other.collides(&forward)) {
                Some(_) => trouble(
                    format!(
                        "{} port {} is asked for twice",
                        forward.transport, forward.host
                    ),
                    "give each forward a port of the host of its own",
                ),
                None => check_free(&forward).map(|()| forward),
            }
        });
        match complaints.take("publish", checked) {
            Some(forward) => all.push(forward),
            None => is_right = false,
        }
    }
    is_right.then_some(all)
}

/// Reads `[ADDRESS:]HOST:GUEST[/tcp|/udp]`.
fn forward(text: &str) -> Result<Forward, Trouble> {
    let shown = text.escape_debug();
    let help = "write [ADDRESS:]HOST:GUEST[/udp], such as 8080:80 (on 127.0.0.1), 0.0.0.0:8080:80 or 5353:53/udp";
    let (ports, transport) = match text.rsplit_once('/') {
        None => (text, Transport::Tcp),
        Some((ports, "tcp")) => (ports, Transport::Tcp),
        Some((ports, "udp")) => (ports, Transport::Udp),
        Some((_, other)) => {
            return trouble(
                format!(
                    "\"{shown}\": there is no protocol \"{}\"",
                    other.escape_debug()
                ),
                help,
            );
        }
    };
    if ports.contains('[') || ports.matches(':').count() > 2 {
        return trouble(
            format!("\"{shown}\": only IPv4 addresses can be forwarded from"),
            help,
        );
    }
    let Some((host, guest)) = ports.rsplit_once(':') else {
        return trouble(format!("\"{shown}\" is not a forward"), help);
    };
    let (address, host) = host.rsplit_once(':').unwrap_or(("127.0.0.1", host));
    let port = |what: &str, text: &str| match text.parse::<u16>() {
        _ if text.starts_with('+') => {
            trouble(format!("\"{shown}\": \"{text}\" is not a port"), help)
        }
        Ok(0) => trouble(
            format!("\"{shown}\": port 0 of the {what} is not a port"),
            help,
        ),
        Ok(port) => Ok(port),
        Err(_) => trouble(
            format!("\"{shown}\": \"{}\" is not a port", text.escape_debug()),
            help,
        ),
    };
    let Ok(address) = address.parse::<Ipv4Addr>() else {
        return trouble(
            format!(
                "\"{shown}\": \"{}\" is not an IPv4 address",
                address.escape_debug()
            ),
            help,
        );
    };
    let host = SocketAddrV4::new(address, port("host", host)?);
    Ok(Forward {
        host,
        guest_port: port("guest", guest)?,
        transport,
    })
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

    fn spec(net: &str, forwards: &[&str]) -> VmSpec {
        VmSpec {
            net: Some(net.to_owned()),
            forwards: forwards.iter().map(|text| (*text).to_owned()).collect(),
            passt: Some(PathBuf::from("/passt")),
            ..VmSpec::default()
        }
    }

    /// The plan, or what is complained of.
    fn planned(spec: &VmSpec) -> Result<Option<NetPlan>, Vec<String>> {
        let mut complaints = Complaints::default();
        let plan = network(spec, "guest", &mut complaints);
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
        check("bridge", &[], &["net: there is no network \"bridge\""]);
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
    fn every_bad_forward_is_told() {
        let bad = [
            "80",
            "0:80",
            "80:0",
            "70000:80",
            "x:80",
            "1.2.3:80:80",
            "[::1]:80:80",
            "80:80/sctp",
            "+1:+1",
        ];
        check(
            "user",
            &bad,
            &[
                "publish: \"80\" is not a forward",
                "publish: \"0:80\": port 0 of the host is not a port",
                "publish: \"80:0\": port 0 of the guest is not a port",
                "publish: \"70000:80\": \"70000\" is not a port",
                "publish: \"x:80\": \"x\" is not a port",
                "publish: \"1.2.3:80:80\": \"1.2.3\" is not an IPv4 address",
                "publish: \"[::1]:80:80\": only IPv4 addresses can be forwarded from",
                "publish: \"80:80/sctp\": there is no protocol \"sctp\"",
                "publish: \"+1:+1\": \"+1\" is not a port",
            ],
        );
        check(
            "none",
            &["8080:80"],
            &["publish: nothing can lead to port 80 of a guest without `--net user`"],
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
    fn an_address_is_understood_or_explained() {
        let check = |text: &str, expected: Option<&str>| {
            let complaints = planned(&VmSpec {
                mac: Some(text.to_owned()),
                ..spec("user", &[])
            })
            .err();
            assert_eq!(
                complaints,
                expected.map(|what| vec![format!("mac: {what}")]),
                "{text}"
            );
        };
        check("52:00:00:12:34:56", None);
        check(
            "52:00:00:12:34",
            Some("\"52:00:00:12:34\" is not a MAC address"),
        );
        check(
            "01:00:5e:00:00:01",
            Some("01:00:5e:00:00:01 is the address of a group: its first byte is odd"),
        );
        check("00:00:00:00:00:00", Some("an address of zeros is nobody's"));
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
}
