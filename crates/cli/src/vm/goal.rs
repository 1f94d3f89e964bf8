//! What `mother wait --for` waits for, and how it is seen from outside of the guest.
//!
//! A login is seen on the console, because nothing else tells it for every guest: a line that ends in `login:`, or a
//! prompt with nothing behind it. A server in the guest is seen through the port of the host that leads to it. The network
//! takes a connection there before the guest does, and closes it when the guest refuses: so a connection that stays open
//! for a moment, or brings a byte, is one to a server.

use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::time::Duration;

use api::{Transport, VmOrigin, VmState};

/// How long a connection has to stay open.
const STAYS: Duration = Duration::from_millis(300);
/// The first line of a kernel: what was shown before is of an earlier boot.
const KERNEL_BEGINS: &str = "Linux version ";

/// What to wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Goal {
    /// The end.
    Exit,
    /// The guest runs.
    Running,
    /// Somebody could log in, or is logged in, on the console.
    Login,
    /// A server answers at this port of the guest.
    Port(u16),
}

impl Goal {
    /// From the command line.
    pub(super) fn parse(text: &str) -> Result<Goal, String> {
        let port = text.strip_prefix("port=").map(str::parse);
        match (text, port) {
            ("exit", _) => Ok(Goal::Exit),
            ("running", _) => Ok(Goal::Running),
            ("login", _) => Ok(Goal::Login),
            (_, Some(Ok(port @ 1..))) => Ok(Goal::Port(port)),
            _ => Err("write exit, running, login, or port=N with a port of the guest".to_owned()),
        }
    }

    /// As it is said of a VM that has not got there.
    pub(super) fn words(self) -> String {
        match self {
            Goal::Exit => "it has not ended".to_owned(),
            Goal::Running => "its guest does not run".to_owned(),
            Goal::Login => "its console shows no login".to_owned(),
            Goal::Port(port) => format!("nothing answers at port {port} of its guest"),
        }
    }
}

/// Whether the guest's instructions are being executed.
pub(super) fn runs(state: VmState) -> bool {
    matches!(state, VmState::Running | VmState::Stopping)
}

/// The address of the host that leads to a port of the guest, by TCP.
pub(super) fn way_to(port: u16, origin: Option<&VmOrigin>) -> Option<SocketAddr> {
    let forwards = origin.map_or(&[][..], |origin| &origin.given.forwards);
    let is_it =
        |forward: &&api::Forward| forward.guest_port == port && forward.transport == Transport::Tcp;
    let host = forwards.iter().find(is_it)?.host;
    let ip = match *host.ip() {
        ip if ip.is_unspecified() => Ipv4Addr::LOCALHOST,
        ip => ip,
    };
    Some(SocketAddrV4::new(ip, host.port()).into())
}

/// Whether a server answers behind this address.
pub(super) fn answers(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect_timeout(&address, STAYS) else {
        return false;
    };
    if stream.set_read_timeout(Some(STAYS)).is_err() {
        return false;
    }
    match stream.read(&mut [0]) {
        Ok(count) => count > 0,
        Err(error) => matches!(
            error.kind(),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
        ),
    }
}

/// A console that is watched for a login.
#[derive(Debug, Default)]
pub(super) struct Screen {
    /// The line that is not ended yet.
    line: Vec<u8>,
    has_login: bool,
    /// The line that looked like a prompt when it was last looked at.
    candidate: Option<Vec<u8>>,
}

impl Screen {
    /// Takes what the console printed since the last look; whether it has shown a login.
    pub(super) fn see(&mut self, bytes: &[u8]) -> bool {
        for &byte in bytes {
            if byte == b'\n' {
                self.end_line();
            } else {
                self.line.push(byte);
            }
        }
        let line = visible(&self.line);
        if is_login(&line) {
            self.has_login = true;
        }
        // The kernel may just be in the middle of a line: a prompt is one that nothing follows.
        let is_prompt = is_prompt(&line);
        if is_prompt && self.candidate.as_ref() == Some(&self.line) {
            self.has_login = true;
        }
        self.candidate = is_prompt.then(|| self.line.clone());
        self.has_login
    }

    fn end_line(&mut self) {
        let line = visible(&self.line);
        self.line.clear();
        if line.contains(KERNEL_BEGINS) {
            self.has_login = false;
        } else if is_login(&line) || is_answered_prompt(&line) {
            self.has_login = true;
        }
    }
}

/// `debian login:`, with or without a name behind it.
fn is_login(line: &str) -> bool {
    line.trim_end().ends_with(" login:") || line.contains(" login: ") && !line.starts_with('[')
}

fn is_prompt(line: &str) -> bool {
    ["# ", "$ ", "% ", "> "]
        .iter()
        .any(|end| line.ends_with(end))
}

/// `root@debian:~# ls`: somebody has typed at a prompt.
fn is_answered_prompt(line: &str) -> bool {
    let prompt = line.split_once(":~# ").or_else(|| line.split_once(":~$ "));
    prompt.is_some_and(|(host, _)| !host.is_empty() && !host.contains(' '))
}

/// A line as it is on the screen: without escape sequences and carriage returns.
fn visible(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let mut visible = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => {
                // CSI ends with a letter or the like (ECMA-48, 5.4); all others are two characters long here.
                let is_csi = chars.next() == Some('[');
                while is_csi && chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {}
            }
            '\r' => {}
            c => visible.push(c),
        }
    }
    visible
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// What consoles print, and whether that is a login when nothing has followed for a moment.
    #[test]
    fn a_login_is_a_prompt_that_nothing_follows() {
        for (printed, is_login) in [
            ("Debian GNU/Linux 12 debian ttyS0\n\ndebian login: ", true),
            ("debian login: root\nPassword: ", true),
            ("\u{1b}[?2004hroot@debian:~# ", true),
            ("guest:~# ", true),
            ("guest:~# ls\r\n", true),
            ("welcome\r\n$ ", true),
            ("[    1.5] systemd[1]: waits for # ", false),
            (
                "[    0.0] Linux version 6.1\r\n[    0.1] Command line: a # b\r\n",
                false,
            ),
            (
                "guest:~# reboot\n[    0.0] Linux version 6.1\n[    0.1] cpu\n",
                false,
            ),
            ("50% done\n", false),
            ("", false),
        ] {
            let mut screen = Screen::default();
            let is_kernel = printed.starts_with('[') && printed.ends_with("# ");
            screen.see(printed.as_bytes());
            let more: &[u8] = if is_kernel { b"more\n" } else { b"" };
            assert_eq!(screen.see(more), is_login, "{printed:?}");
        }
    }

    #[test]
    fn a_port_answers_if_its_connections_stay() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            // As a network does in front of a guest that refuses, a server that waits, and one that speaks first.
            drop(listener.accept().unwrap());
            let waits = listener.accept().unwrap();
            let (mut speaks, _) = listener.accept().unwrap();
            speaks.write_all(b"SSH").unwrap();
            waits
        });
        assert!(!answers(address));
        assert!(answers(address));
        assert!(answers(address));
        drop(server.join().unwrap());
        assert!(!answers(address), "nothing listens any more");
    }

    #[test]
    fn words_of_the_command_line_are_goals() {
        for (text, goal) in [
            ("exit", Some(Goal::Exit)),
            ("running", Some(Goal::Running)),
            ("login", Some(Goal::Login)),
            ("port=80", Some(Goal::Port(80))),
            ("port=0", None),
            ("port=", None),
            ("80", None),
        ] {
            assert_eq!(Goal::parse(text).ok(), goal, "{text}");
        }
    }
}
