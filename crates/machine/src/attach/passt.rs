//! passt, the program that carries a guest's network without privileges: started, waited for, understood.
//!
//! It gets one end of a socket pair as its standard input. When the other end is closed, by us or because this process
//! was killed, it ends: nothing of it can be left behind. It is told addresses of its own, so that a guest does not
//! see the host's, and IPv4 only: it has one IPv6 address of the host's to give and no other.
//!
//! It says nothing when it is ready. So it is asked: an ARP request, sent before the guest can send anything, is
//! answered as soon as all its ports are bound.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use api::{Forward, Transport};
use devices::virtio::net::MacAddress;
use host::deep_socket;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};
use thiserror::Error;

use crate::plan::UserNetwork;

/// What the guest gets by DHCP.
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
/// The gateway of a guest on the user network.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// Where the host's resolver is for the guest if it listens on the host's loopback only.
const RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
const NETMASK_BITS: &str = "24";
/// The gateway's address on the wire, locally administered.
const GATEWAY_MAC: MacAddress = MacAddress([0x52, 0x4d, 0, 0, 0, 2]);

/// What the socket holds: more than a guest's TCP lets be on the way, for passt drops what does not fit and notices
/// late.
const SOCKET_BYTES: u32 = 16 << 20;

/// How long it may take to be ready.
const START_TIME: Duration = Duration::from_secs(10);
/// How long one look at the socket waits.
const PATIENCE: Duration = Duration::from_millis(20);
/// Of what it complains, this much is read.
const COMPLAINT_BYTES: u64 = 16 << 10;

/// What passt says when this host has no way out.
const NO_ROUTE: &str = "No external routable interface";
/// When a forwarded port is gone.
const NO_PORT: &str = "Failed to bind";
/// When it cannot make the namespaces that it locks itself into.
const NO_NAMESPACE: [&str; 2] = ["namespace", "Failed to detach"];
/// When it was started as root and cannot become somebody else.
const NO_PRIVILEGE: [&str; 4] = [
    "Can't set GID",
    "Can't set UID",
    "Can't drop",
    "Failed to drop",
];

/// Why there is no network.
#[derive(Debug, Error)]
pub(crate) enum PasstError {
    /// It could not be started.
    #[error("cannot start {}", .program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// What the host said.
        source: io::Error,
    },
    /// The socket to it broke.
    #[error("cannot talk to passt")]
    Socket(#[source] io::Error),
    /// Nobody could listen to it.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// It did not become ready.
    #[error("passt does not answer")]
    Silent,
    /// A port was taken since the plan was made.
    #[error("passt cannot have a forwarded port: {said}")]
    Port {
        /// Its words.
        said: String,
    },
    /// The host forbids what it needs.
    #[error("passt cannot lock itself in ({said}): this host gives no user namespaces")]
    Namespace {
        /// Its words.
        said: String,
    },
    /// It does not run as root, and this root may not become another user.
    #[error(
        "passt cannot become a user without privileges ({said}): this root has not its capabilities"
    )]
    Privilege {
        /// Its words.
        said: String,
    },
    /// Anything else.
    #[error("passt ended: {said}")]
    Ended {
        /// Its words.
        said: String,
    },
}

impl PasstError {
    /// What to do, if something can be done.
    pub(crate) fn help(&self) -> Option<&'static str> {
        match self {
            PasstError::Namespace { .. } => Some(
                "have them allowed (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, \
                 kernel.apparmor_restrict_unprivileged_userns), or run with `--net none`",
            ),
            PasstError::Privilege { .. } => Some(
                "start Mother as a user who is not root, give this root CAP_SETUID and CAP_SETGID (container engines: \
                 `--cap-add SETUID --cap-add SETGID`), or run with `--net none`",
            ),
            _ => None,
        }
    }
}

/// A running passt. Ends when it is dropped, and with this process.
#[derive(Debug)]
pub(crate) struct Passt {
    child: Child,
}

/// Is called when a passt that was ready has ended, by itself or not.
pub(crate) type WhenGone = Arc<dyn Fn() + Send + Sync>;

impl Passt {
    /// Starts it for a guest with this address; the socket of the guest's side.
    ///
    /// # Errors
    /// [`PasstError`] if it does not start or is not ready in time.
    pub(crate) fn start(
        network: &UserNetwork,
        mac: MacAddress,
        when_gone: &WhenGone,
    ) -> Result<(Passt, UnixStream), PasstError> {
        let (mut passt, socket) = Passt::start_where_it_can(network, mac)?;
        attend(&mut passt.child, when_gone).map_err(PasstError::Thread)?;
        Ok((passt, socket))
    }

    fn start_where_it_can(
        network: &UserNetwork,
        mac: MacAddress,
    ) -> Result<(Passt, UnixStream), PasstError> {
        match start_once(network, mac, None) {
            Err(PasstError::Ended { said }) if said.contains(NO_ROUTE) => {
                tracing::warn!(
                    "this host has no way out by IPv4: the guest's network ends at this host's own addresses"
                );
                start_once(network, mac, Some("lo"))
            }
            other => other,
        }
    }
}

impl Drop for Passt {
    fn drop(&mut self) {
        // Its socket is closed by now or will be; a passt that does not mind is ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start_once(
    network: &UserNetwork,
    mac: MacAddress,
    interface: Option<&str>,
) -> Result<(Passt, UnixStream), PasstError> {
    let (ours, theirs) = deep_socket::pair(SOCKET_BYTES).map_err(PasstError::Socket)?;
    let resolvers = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let mut command = Command::new(&network.passt);
    command
        .args(arguments(network, loopback_resolver(&resolvers)))
        .args(interface.iter().flat_map(|name| ["--interface", name]))
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        // It reads what a guest sends, and has no use for what is its user's.
        .env_clear()
        .current_dir("/")
        // Signals of a terminal are for the VM, which ends passt by itself.
        .process_group(0);
    let child = command.spawn();
    // The command holds passt's end of the socket, and would hold it open after passt is gone.
    drop(command);
    let program = network.passt.clone();
    let mut passt = Passt {
        child: child.map_err(|source| PasstError::Start { program, source })?,
    };
    let mut socket = ours;
    wait_until_ready(&mut passt, &mut socket, mac)?;
    Ok((passt, socket))
}

/// Reads its complaints for as long as it lives, for a full pipe would stop it and a closed one end it, and tells when it
/// does not live any more.
fn attend(child: &mut Child, when_gone: &WhenGone) -> io::Result<()> {
    let Some(stderr) = child.stderr.take() else {
        return Ok(());
    };
    let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    let when_gone = Arc::clone(when_gone);
    let read = move || {
        let lines = BufReader::new(stderr).split(b'\n').map_while(Result::ok);
        lines.for_each(|line| tracing::debug!("passt: {}", String::from_utf8_lossy(&line)));
        // It is left to its owner to be reaped, who may have done so already.
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while let Err(Errno::INTR) = waitid(WaitId::PidFd(process.as_fd()), options) {}
        when_gone();
    };
    thread::Builder::new()
        .name("passt".to_owned())
        .spawn(read)
        .map(drop)
}

/// What passt is told (passt(1)).
fn arguments(network: &UserNetwork, resolver: Option<Ipv4Addr>) -> Vec<String> {
    let mut words: Vec<String> = ["--quiet", "--foreground", "--fd", "0", "--ipv4-only"]
        .map(String::from)
        .into();
    let mut option = |name: &str, value: String| words.extend([name.to_owned(), value]);
    option("--address", GUEST.to_string());
    option("--netmask", NETMASK_BITS.to_owned());
    option("--gateway", GATEWAY.to_string());
    option("--mac-addr", GATEWAY_MAC.to_string());
    if let Some(resolver) = resolver {
        // The first is who is asked, the second whom the guest is told to ask.
        option("--dns", resolver.to_string());
        option("--dns", RESOLVER.to_string());
        option("--dns-forward", RESOLVER.to_string());
    }
    for (name, transport) in [
        ("--tcp-ports", Transport::Tcp),
        ("--udp-ports", Transport::Udp),
    ] {
        let mut specs: Vec<String> = network
            .forwards
            .iter()
            .filter(|forward| forward.transport == transport)
            .map(port_spec)
            .collect();
        if specs.is_empty() {
            // Else it forwards UDP wherever it forwards TCP.
            specs.push("none".to_owned());
        }
        specs.into_iter().for_each(|spec| option(name, spec));
    }
    if !network.reaches_host {
        words.push("--no-map-gw".to_owned());
    }
    words
}

fn port_spec(forward: &Forward) -> String {
    format!(
        "{}/{}:{}",
        forward.host.ip(),
        forward.host.port(),
        forward.guest_port
    )
}

/// The host's first resolver, if it is one that a guest cannot reach itself.
fn loopback_resolver(resolv_conf: &str) -> Option<Ipv4Addr> {
    let servers = resolv_conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"));
    let first = servers
        .filter_map(|server| server.trim().parse::<Ipv4Addr>().ok())
        .next();
    first.filter(Ipv4Addr::is_loopback)
}

/// Asks until it answers or ends.
fn wait_until_ready(
    passt: &mut Passt,
    socket: &mut UnixStream,
    mac: MacAddress,
) -> Result<(), PasstError> {
    let give_up = Instant::now() + START_TIME;
    socket
        .set_read_timeout(Some(PATIENCE))
        .map_err(PasstError::Socket)?;
    let asked = socket.write_all(&arp_request(mac));
    let mut answer = Vec::new();
    let mut part = [0; 256];
    while asked.is_ok() && Instant::now() < give_up {
        match socket.read(&mut part) {
            Ok(0) => break,
            Ok(count) => answer.extend(&part[..count]),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(_) => break,
        }
        // The only thing it can have to say, so what comes is the answer, whole when its last byte is there.
        let len = answer
            .first_chunk()
            .map(|prefix| u32::from_be_bytes(*prefix) as usize);
        if len.is_some_and(|len| answer.len() >= 4 + len) {
            socket.set_read_timeout(None).map_err(PasstError::Socket)?;
            return Ok(());
        }
    }
    if Instant::now() >= give_up {
        return Err(PasstError::Silent);
    }
    let mut said = String::new();
    // It has closed its end, so it ends.
    if let Some(stderr) = &mut passt.child.stderr {
        let mut bytes = Vec::new();
        let _ = stderr.take(COMPLAINT_BYTES).read_to_end(&mut bytes);
        said = complaint(&String::from_utf8_lossy(&bytes));
    }
    Err(classify(said))
}

/// Its last word that is a complaint.
fn complaint(said: &str) -> String {
    let is_chatter = |line: &&str| {
        line.is_empty()
            || line.starts_with("Failed to send")
            || line.starts_with("Don't run as root")
            || line.starts_with("Started as root")
            || line.starts_with("Can't run AVX2 build")
    };
    let lines: Vec<&str> = said
        .lines()
        .map(str::trim)
        .filter(|line| !is_chatter(line))
        .collect();
    if lines.is_empty() {
        "it does not say why".to_owned()
    } else {
        lines.join("; ")
    }
}

fn classify(said: String) -> PasstError {
    if said.contains(NO_PORT) {
        PasstError::Port { said }
    } else if is_root_without_capabilities() {
        // Newer versions end without a word then.
        PasstError::Privilege { said }
    } else if NO_PRIVILEGE.iter().any(|sign| said.contains(sign)) {
        PasstError::Privilege { said }
    } else if NO_NAMESPACE.iter().any(|sign| said.contains(sign)) {
        PasstError::Namespace { said }
    } else {
        PasstError::Ended { said }
    }
}

/// Whether this is a root that cannot become another user: without CAP_SETGID or CAP_SETUID (capabilities(7)).
fn is_root_without_capabilities() -> bool {
    const NEEDED: u64 = 1 << 6 | 1 << 7;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    rustix::process::geteuid().is_root() && effective.is_some_and(|bits| bits & NEEDED != NEEDED)
}

/// "Who has the gateway's address?" (RFC 826), with the length before it.
fn arp_request(mac: MacAddress) -> Vec<u8> {
    let frame = [
        &[0xff; 6][..],
        &mac.0,
        &[0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1],
        &mac.0,
        &GUEST.octets(),
        &[0; 6],
        &GATEWAY.octets(),
    ]
    .concat();
    [&(frame.len() as u32).to_be_bytes(), frame.as_slice()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddrV4;

    #[test]
    fn only_a_resolver_on_the_loopback_needs_a_stand_in() {
        let check = |text, expected: Option<[u8; 4]>| {
            assert_eq!(
                loopback_resolver(text),
                expected.map(Ipv4Addr::from),
                "{text}"
            );
        };
        check(
            "nameserver 127.0.0.53\noptions edns0\n",
            Some([127, 0, 0, 53]),
        );
        check(
            "# a comment\nnameserver 192.0.2.53\nnameserver 127.0.0.1\n",
            None,
        );
        check(
            "nameserver ::1\nnameserver 127.0.0.1\n",
            Some([127, 0, 0, 1]),
        );
        check("", None);
    }

    #[test]
    fn passt_is_told_exactly_the_ports_that_were_asked_for() {
        let forward = |port, guest_port, transport| Forward {
            host: SocketAddrV4::new(Ipv4Addr::LOCALHOST, port),
            guest_port,
            transport,
        };
        let check = |forwards: Vec<Forward>, expected: &str| {
            let network = UserNetwork {
                passt: PathBuf::new(),
                forwards,
                reaches_host: false,
            };
            let words = arguments(&network, None).join(" ");
            let ports = words
                .split_once("--tcp-ports")
                .map(|(_, ports)| ports.trim());
            assert_eq!(ports, Some(expected));
        };
        check(Vec::new(), "none --udp-ports none --no-map-gw");
        check(
            vec![
                forward(8080, 80, Transport::Tcp),
                forward(2222, 22, Transport::Tcp),
            ],
            "127.0.0.1/8080:80 --tcp-ports 127.0.0.1/2222:22 --udp-ports none --no-map-gw",
        );
        check(
            vec![forward(53, 5353, Transport::Udp)],
            "none --udp-ports 127.0.0.1/53:5353 --no-map-gw",
        );
    }

    #[test]
    fn what_passt_says_becomes_a_sentence() {
        let check = |said: &str, expected: &str| {
            assert_eq!(
                classify(complaint(said))
                    .to_string()
                    .split_once(':')
                    .unwrap()
                    .0,
                expected,
                "{said}"
            );
        };
        check(
            "Don't run as root. Changing to nobody...\nFailed to bind any port for '-t 127.0.0.1/80:80', exiting\n",
            "passt cannot have a forwarded port",
        );
        check(
            "Failed to send 62 bytes to syslog\nCouldn't create user namespace: No space left on device\n",
            "passt cannot lock itself in (Couldn't create user namespace",
        );
        check(
            "Don't run as root. Changing to nobody...\nCan't set GID to 65534: Operation not permitted\n",
            "passt cannot become a user without privileges (Can't set GID to 65534",
        );
        check("", "passt ended");
    }
}
