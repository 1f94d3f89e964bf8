//! A guest's sockets and mounts as tables.

use std::collections::BTreeSet;

use insight::mounts::{Mount, MountNamespace};
use insight::sockets::{
    InetSocket, Owner, Protocol, SocketState, Sockets, UnixAddress, UnixSocket,
};
use insight::{Look, Observed};

use super::words::{columns, printable};

/// Every socket of TCP and UDP, and every one of Unix that has a name.
pub(super) fn sockets(look: &Look<'_>) -> String {
    match look.sockets() {
        Observed::Seen { value, .. } => socket_table(&value),
        Observed::NotObservable { why } => format!("sockets not observable: {}\n", printable(&why)),
    }
}

/// The mounts of the first process, and of other namespaces what those have beside them.
pub(super) fn mounts(look: &Look<'_>) -> String {
    match look.mounts() {
        Observed::Seen { value, .. } => mount_table(&value),
        Observed::NotObservable { why } => format!("mounts not observable: {}\n", printable(&why)),
    }
}

fn socket_table(sockets: &Sockets) -> String {
    let named: Vec<&UnixSocket> = sockets
        .unix
        .iter()
        .filter(|socket| socket.name.is_some())
        .collect();
    let unnamed = sockets.unix.len() - named.len();
    let mut rows: Vec<[String; 5]> = sockets.inet.iter().map(inet).collect();
    rows.sort();
    let mut unix: Vec<[String; 5]> = named.into_iter().map(unix_row).collect();
    unix.sort();
    // Connections to a server have its name too.
    unix.dedup();
    rows.extend(unix);
    let mut text = columns(&["SOCKET", "STATE", "LOCAL", "REMOTE", "HELD BY"], &rows);
    if unnamed > 0 {
        text.push_str(&format!("and {unnamed} Unix sockets without a name\n"));
    }
    for missing in &sockets.missing {
        text.push_str(&format!("not observable: {}\n", printable(missing)));
    }
    text
}

fn inet(socket: &InetSocket) -> [String; 5] {
    let kind = match socket.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    let remote = match socket.remote {
        nobody if nobody.port() == 0 && nobody.ip().is_unspecified() => "-".to_owned(),
        remote => remote.to_string(),
    };
    // A socket that only has an address is no connection that ended.
    let state = match (socket.protocol, socket.state) {
        (Protocol::Udp, SocketState::Closed) => "-",
        (_, state) => words(state),
    };
    [
        kind.to_owned(),
        state.to_owned(),
        socket.local.to_string(),
        remote,
        held_by(&socket.owners),
    ]
}

fn unix_row(socket: &UnixSocket) -> [String; 5] {
    let name = match &socket.name {
        Some(UnixAddress::Path(path)) => printable(path),
        Some(UnixAddress::Abstract(name)) => printable(&format!("@{}", name.replace('\0', "@"))),
        None => "-".to_owned(),
    };
    let state = if socket.state == SocketState::Closed {
        "-"
    } else {
        words(socket.state)
    };
    let kind = format!("unix {}", printable(&socket.kind));
    [
        kind,
        state.to_owned(),
        name,
        "-".to_owned(),
        held_by(&socket.owners),
    ]
}

fn held_by(owners: &[Owner]) -> String {
    let owners: BTreeSet<String> = owners
        .iter()
        .map(|owner| printable(&format!("{} ({})", owner.comm, owner.pid)))
        .collect();
    if owners.is_empty() {
        "-".to_owned()
    } else {
        owners.into_iter().collect::<Vec<_>>().join(", ")
    }
}

fn words(state: SocketState) -> &'static str {
    match state {
        SocketState::Established => "connected",
        SocketState::SynSent => "connecting",
        SocketState::SynReceived => "accepting",
        SocketState::FinWait1 | SocketState::FinWait2 => "closing here",
        SocketState::CloseWait | SocketState::LastAck => "closed there",
        SocketState::TimeWait => "lingers",
        SocketState::Closing => "closing",
        SocketState::Closed => "closed",
        SocketState::Listen => "listens",
    }
}

fn mount_table(namespaces: &[MountNamespace]) -> String {
    let Some((own, others)) = namespaces.split_first() else {
        return "no mounts\n".to_owned();
    };
    let heads = ["MOUNT", "TYPE", "SOURCE", "OPTIONS"];
    let mut text = columns(
        &heads,
        &own.mounts.iter().map(mount_row).collect::<Vec<_>>(),
    );
    let known: BTreeSet<[String; 4]> = own.mounts.iter().map(mount_row).collect();
    for other in others {
        let more: Vec<[String; 4]> = other
            .mounts
            .iter()
            .map(mount_row)
            .filter(|row| !known.contains(row))
            .collect();
        let pids: Vec<String> = other.pids.iter().map(ToString::to_string).collect();
        let who = format!("namespace {} of {}", other.number, pids.join(" "));
        if more.is_empty() {
            text.push_str(&format!("\n{who}: nothing that is not above\n"));
        } else {
            text.push_str(&format!(
                "\n{who}, beside that:\n{}",
                columns(&heads, &more)
            ));
        }
    }
    text
}

fn mount_row(mount: &Mount) -> [String; 4] {
    let mut options: Vec<&str> = mount.options.iter().map(String::as_str).collect();
    if mount.is_read_only && !options.contains(&"ro") {
        options.push("read-only file system");
    }
    if mount.is_reachable == Some(false) {
        options.push("out of reach");
    }
    let source = if mount.root == "/" {
        mount.source.clone()
    } else {
        format!("{}[{}]", mount.source, mount.root)
    };
    [
        printable(&mount.point),
        printable(&mount.system),
        printable(&source),
        printable(&options.join(",")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(point: &str, source: &str) -> Mount {
        Mount {
            id: 1,
            parent_id: 1,
            device: (0, 1),
            root: "/".to_owned(),
            point: point.to_owned(),
            source: source.to_owned(),
            system: "tmpfs".to_owned(),
            options: vec!["rw".to_owned()],
            is_read_only: false,
            is_reachable: Some(true),
        }
    }

    #[test]
    fn a_namespace_shows_only_what_the_first_has_not() {
        let space = |number, pids: &[i32], mounts| MountNamespace {
            number,
            pids: pids.to_vec(),
            mounts,
        };
        let first = space(1, &[1], vec![mount("/", "root")]);
        let check = |other: MountNamespace, expected: &str| {
            let text = mount_table(&[first.clone(), other]);
            assert!(
                text.starts_with("MOUNT  TYPE   SOURCE  OPTIONS\n/      tmpfs  root    rw\n"),
                "{text}"
            );
            assert!(text.ends_with(expected), "{text}");
        };
        check(
            space(2, &[7, 8], vec![mount("/", "root")]),
            "\nnamespace 2 of 7 8: nothing that is not above\n",
        );
        let inner = vec![mount("/", "root"), mount("/mnt\n", "inner")];
        check(space(3, &[9], inner), "\n/mnt\u{fffd}  tmpfs  inner   rw\n");
    }

    #[test]
    fn a_socket_says_who_holds_it_and_whom_it_talks_to() {
        let socket = |protocol, state, remote: &str| InetSocket {
            protocol,
            state,
            local: "10.0.2.15:80".parse().unwrap(),
            remote: remote.parse().unwrap(),
            inode: 5,
            uid: Some(0),
            net_namespace: 1,
            owners: vec![Owner {
                pid: 7,
                comm: "nginx".to_owned(),
            }],
            address: 1,
        };
        let check = |socket: InetSocket, expected: [&str; 5]| assert_eq!(inet(&socket), expected);
        let listens = socket(Protocol::Tcp, SocketState::Listen, "0.0.0.0:0");
        check(
            listens,
            ["tcp", "listens", "10.0.2.15:80", "-", "nginx (7)"],
        );
        let talks = socket(Protocol::Udp, SocketState::Closed, "[::1]:53");
        check(talks, ["udp", "-", "10.0.2.15:80", "[::1]:53", "nginx (7)"]);
    }
}
