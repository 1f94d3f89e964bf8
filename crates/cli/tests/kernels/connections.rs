//! Sockets and mounts against what the guest prints of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use insight::Kernel;
use insight::mounts::{Mount, MountNamespace};
use insight::sockets::{Protocol, SocketState, Sockets, UnixAddress};

use crate::guest::Guest;
use crate::look;

/// A guest changes between being read and being asked.
const TRIES: usize = 3;

/// Gives the guest sockets of every kind and mounts with every option, some in namespaces of their own.
pub fn prepare(guest: &mut Guest) {
    for line in [
        "ifconfig lo 127.0.0.1 up; mkdir '/tmp/a b' /tmp/sys; syslogd -R 127.0.0.1:999",
        // It opens its socket with the first line that it hears, once it listens itself.
        "i=0; until grep -q :03E7 /proc/net/udp || [ $i = 50 ]; do logger hello; sleep 0.1; i=$((i+1)); done",
        "(sleep 900 | nc -l -p 5555) >/dev/null 2>&1 &",
        "(sleep 900 | nc -l -p 5556) >/dev/null 2>&1 & sleep 1",
        "(sleep 900 | nc 127.0.0.1 5556) >/dev/null 2>&1 &",
        "unshare -n -m sh -c 'mount -t tmpfs inner /mnt; nc -l -p 7777' >/dev/null 2>&1 &",
        "mount -t tmpfs -o ro,nosuid,nodev,noexec,noatime odd '/tmp/a b'; mount -o bind /proc/sys /tmp/sys; sleep 1",
    ] {
        guest.ask(line);
    }
}

fn again(mut compare: impl FnMut() -> Vec<String>) -> Vec<String> {
    let mut complaints = compare();
    for _ in 1..TRIES {
        if complaints.is_empty() {
            break;
        }
        complaints = compare();
    }
    complaints
}

fn differ<T: Ord + std::fmt::Debug>(
    what: &str,
    ours: &BTreeSet<T>,
    theirs: &BTreeSet<T>,
) -> Vec<String> {
    let more = ours
        .difference(theirs)
        .map(|item| format!("{what}: only here: {item:?}"));
    let less = theirs
        .difference(ours)
        .map(|item| format!("{what}: only in the guest: {item:?}"));
    more.chain(less).collect()
}

/// TCP, UDP and Unix sockets, and who holds them.
pub fn sockets(guest: &mut Guest, kernel: &Kernel) -> Vec<String> {
    again(|| {
        let seen = look(kernel, &[], |look| look.sockets());
        let Some(ours) = seen.value() else {
            return vec![format!("{:?}", seen.why_not())];
        };
        let mut complaints: Vec<String> = ours.missing.clone();
        complaints.extend(inet(guest, ours));
        complaints.extend(unix(guest, ours));
        complaints.extend(owners(guest, ours));
        let is_inner = |port: u16| ours.inet.iter().find(|socket| socket.local.port() == port);
        match is_inner(7777) {
            Some(socket) if socket.owners.iter().any(|owner| owner.comm == "nc") => {}
            other => complaints.push(format!("the socket of another namespace: {other:?}")),
        }
        complaints
    })
}

fn own_namespace(guest: &mut Guest) -> u32 {
    let link = guest.ask("readlink /proc/1/ns/net");
    link.chars()
        .filter(char::is_ascii_digit)
        .collect::<String>()
        .parse()
        .unwrap_or(0)
}

/// As `/proc/net` writes them: words of 32 bits as the CPU has them.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let words = ip.as_bytes().chunks(8).map(|word| {
        let word = std::str::from_utf8(word).ok()?;
        Some(u32::from_str_radix(word, 16).ok()?.to_le_bytes())
    });
    let bytes: Vec<u8> = words.collect::<Option<Vec<_>>>()?.concat();
    let ip = match <[u8; 16]>::try_from(bytes.as_slice()) {
        Ok(bytes) => IpAddr::V6(Ipv6Addr::from(bytes)),
        Err(_) => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.as_slice()).ok()?)),
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// The kernel's number (include/net/tcp_states.h).
fn number(state: SocketState) -> u8 {
    match state {
        SocketState::Established => 1,
        SocketState::SynSent => 2,
        SocketState::SynReceived => 3,
        SocketState::FinWait1 => 4,
        SocketState::FinWait2 => 5,
        SocketState::TimeWait => 6,
        SocketState::Closed => 7,
        SocketState::CloseWait => 8,
        SocketState::LastAck => 9,
        SocketState::Listen => 10,
        SocketState::Closing => 11,
    }
}

fn inet(guest: &mut Guest, ours: &Sockets) -> Vec<String> {
    let own = own_namespace(guest);
    let mut complaints = Vec::new();
    for (protocol, what) in [(Protocol::Tcp, "tcp"), (Protocol::Udp, "udp")] {
        let text = guest.ask(&format!("cat /proc/net/{what} /proc/net/{what}6"));
        let theirs: BTreeSet<_> = text
            .lines()
            .filter_map(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                let state = u8::from_str_radix(words.get(3)?, 16).ok()?;
                Some((
                    address(words[1])?,
                    address(words[2])?,
                    state,
                    (*words.get(9)?).to_owned(),
                    (*words.get(7)?).to_owned(),
                ))
            })
            .collect();
        let here = ours
            .inet
            .iter()
            .filter(|socket| socket.protocol == protocol && socket.net_namespace == own);
        let here: BTreeSet<_> = here
            .map(|socket| {
                let uid = socket.uid.unwrap_or(0).to_string();
                (
                    socket.local,
                    socket.remote,
                    number(socket.state),
                    socket.inode.to_string(),
                    uid,
                )
            })
            .collect();
        complaints.extend(differ(what, &here, &theirs));
        if theirs.is_empty() {
            complaints.push(format!(
                "the guest shows no sockets of {what}: nothing was compared"
            ));
        }
    }
    complaints
}

fn unix(guest: &mut Guest, ours: &Sockets) -> Vec<String> {
    let own = own_namespace(guest);
    let text = guest.ask("cat /proc/net/unix");
    let theirs: BTreeSet<(String, bool, String, String)> = text
        .lines()
        .skip(1)
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let kind = match *words.get(4)? {
                "0001" => "stream",
                "0002" => "datagram",
                _ => "seqpacket",
            };
            let name = words.get(7).copied().unwrap_or_default();
            Some((
                kind.to_owned(),
                words[3] == "00010000",
                (*words.get(6)?).to_owned(),
                name.to_owned(),
            ))
        })
        .collect();
    let here = ours
        .unix
        .iter()
        .filter(|socket| socket.net_namespace == own)
        .map(|socket| {
            let name = match &socket.name {
                Some(UnixAddress::Path(path)) => path.clone(),
                Some(UnixAddress::Abstract(name)) => format!("@{}", name.replace('\0', "@")),
                None => String::new(),
            };
            (
                socket.kind.clone(),
                socket.state == SocketState::Listen,
                socket.inode.to_string(),
                name,
            )
        });
    differ("unix", &here.collect(), &theirs)
}

fn owners(guest: &mut Guest, ours: &Sockets) -> Vec<String> {
    let text = guest.ask("ls -l /proc/[0-9]*/fd 2>/dev/null | grep -E 'socket:|^/proc'");
    let mut theirs: BTreeMap<u64, BTreeSet<i32>> = BTreeMap::new();
    let mut pid = 0;
    for line in text.lines() {
        let digits = |text: &str| {
            text.chars()
                .filter(char::is_ascii_digit)
                .collect::<String>()
        };
        match line.split_once("socket:[") {
            Some((_, inode)) => {
                theirs
                    .entry(digits(inode).parse().unwrap_or(0))
                    .or_default()
                    .insert(pid);
            }
            None => pid = digits(line).parse().unwrap_or(0),
        }
    }
    let inet = ours
        .inet
        .iter()
        .map(|socket| (socket.inode, &socket.owners));
    let all = inet.chain(
        ours.unix
            .iter()
            .map(|socket| (socket.inode, &socket.owners)),
    );
    let mut complaints = Vec::new();
    let mut count = 0;
    for (inode, owners) in all.filter(|(inode, _)| *inode != 0) {
        let here: BTreeSet<i32> = owners.iter().map(|owner| owner.pid).collect();
        let there = theirs.get(&inode).cloned().unwrap_or_default();
        count += there.len();
        if here != there {
            complaints.push(format!(
                "socket {inode} is held by {here:?}, in the guest by {there:?}"
            ));
        }
    }
    if count == 0 {
        complaints.push("no socket has an owner: nothing was compared".to_owned());
    }
    complaints
}

type Row = (
    i32,
    i32,
    String,
    String,
    String,
    Vec<String>,
    String,
    String,
    bool,
);

/// Mounts of the first process's namespace, and that another one's are its own.
pub fn mounts(guest: &mut Guest, kernel: &Kernel) -> Vec<String> {
    again(|| {
        let seen = look(kernel, &[], |look| look.mounts());
        let Some(namespaces) = seen.value() else {
            return vec![format!("{:?}", seen.why_not())];
        };
        let Some(own) = namespaces
            .iter()
            .find(|namespace| namespace.pids.contains(&1))
        else {
            return vec!["the first process is in no mount namespace".to_owned()];
        };
        let theirs: BTreeSet<Row> = guest
            .ask("cat /proc/self/mountinfo")
            .lines()
            .filter_map(mountinfo)
            .collect();
        // The guest shows what it can get to.
        let shown = own
            .mounts
            .iter()
            .filter(|mount| mount.is_reachable == Some(true));
        let mut complaints = differ("mounts", &shown.map(row).collect(), &theirs);
        if theirs.len() < 5 {
            complaints.push(format!("the guest shows {} mounts", theirs.len()));
        }
        let has_inner = |namespace: &MountNamespace| {
            namespace
                .mounts
                .iter()
                .any(|mount| mount.source == "inner" && mount.point == "/mnt")
        };
        if has_inner(own) || !namespaces.iter().any(has_inner) {
            complaints.push("the mount of another namespace is not where it is".to_owned());
        }
        complaints
    })
}

fn row(mount: &Mount) -> Row {
    (
        mount.id,
        mount.parent_id,
        format!("{}:{}", mount.device.0, mount.device.1),
        mount.root.clone(),
        mount.point.clone(),
        mount.options.clone(),
        mount.system.clone(),
        mount.source.clone(),
        mount.is_read_only,
    )
}

/// A line of mountinfo (proc_pid_mountinfo(5)).
fn mountinfo(line: &str) -> Option<Row> {
    let (mount, system) = line.split_once(" - ")?;
    let words: Vec<String> = mount
        .split(' ')
        .map(|word| word.replace("\\040", " "))
        .collect();
    let system: Vec<&str> = system.split(' ').collect();
    let options: Vec<String> = words.get(5)?.split(',').map(str::to_owned).collect();
    let is_read_only = options[0] == "ro" || system.get(2)?.split(',').any(|option| option == "ro");
    Some((
        words[0].parse().ok()?,
        words[1].parse().ok()?,
        words[2].clone(),
        words[3].clone(),
        words[4].clone(),
        options,
        system[0].to_owned(),
        (*system.get(1)?).to_owned(),
        is_read_only,
    ))
}
