//! What `guests/toolbox/src/warden`, the program that starts other programs in a guest, is told: one file of words.
//!
//! Each word ends with a zero byte, as arguments and environment do in the kernel, so any text can stand in one.

use serde::{Deserialize, Serialize};

/// What the warden says first on the control port; messages follow (see `guests/toolbox/src/warden`).
pub const GREETING: &[u8] = b"\0mother warden 2\n";

/// The ports of the console device that the warden opens: control, and the program's three streams.
pub const PROGRAM_PORTS: [&str; 4] = [
    "mother.control",
    "mother.input",
    "mother.output",
    "mother.errors",
];

/// SIGTERM, which asks a program to end unless its image says otherwise.
pub(crate) const TERMINATE: u32 = 15;

/// What runs in the guest, and as whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestCommand {
    /// The program and its arguments.
    pub arguments: Vec<String>,
    /// `NAME=VALUE`, nothing else is in the program's environment.
    pub environment: Vec<String>,
    /// Its working folder.
    pub folder: String,
    /// Its user's number.
    pub uid: u32,
    /// Its group's number.
    pub gid: u32,
    /// Its further groups.
    pub groups: Vec<u32>,
    /// The signal that asks it to end.
    pub stop_signal: u32,
    /// The folder that is its root, if that is another one.
    pub root: Option<String>,
    /// The size of the terminal that its three streams are, in rows and columns; pipes if there is none.
    pub terminal: Option<(u16, u16)>,
    /// How many of the arguments are a container image's entrypoint, which stays when arguments are replaced.
    pub entrypoint_count: usize,
}

impl Default for GuestCommand {
    fn default() -> GuestCommand {
        GuestCommand {
            arguments: Vec::new(),
            environment: Vec::new(),
            folder: String::new(),
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            stop_signal: TERMINATE,
            root: None,
            terminal: None,
            entrypoint_count: 0,
        }
    }
}

impl GuestCommand {
    /// Puts these words in place of all arguments that are not the entrypoint.
    pub fn replace_arguments(&mut self, words: &[String]) {
        self.arguments.truncate(self.entrypoint_count);
        self.arguments.extend_from_slice(words);
    }

    /// Its streams are a terminal of this kind and size, if it is to have one.
    #[must_use]
    pub fn at_terminal(mut self, terminal: Option<(&str, (u16, u16))>) -> GuestCommand {
        let Some((kind, size)) = terminal else {
            return self;
        };
        self.terminal = Some(size);
        if !self
            .environment
            .iter()
            .any(|word| word.starts_with("TERM="))
        {
            self.environment.push(format!("TERM={kind}"));
        }
        self
    }

    /// The file's bytes. Words with a zero byte in them cannot be given to any program and are cut there.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut words: Vec<(&str, &str)> = Vec::new();
        words.extend(self.root.iter().map(|root| ("root", root.as_str())));
        let uid = self.uid.to_string();
        let gid = self.gid.to_string();
        words.extend([("cwd", self.folder.as_str()), ("uid", &uid), ("gid", &gid)]);
        let groups: Vec<String> = self.groups.iter().map(u32::to_string).collect();
        let size = self
            .terminal
            .map(|(rows, columns)| format!("{rows}x{columns}"));
        words.extend(size.iter().map(|size| ("tty", size.as_str())));
        words.extend(groups.iter().map(|group| ("group", group.as_str())));
        words.extend(self.environment.iter().map(|word| ("env", word.as_str())));
        words.extend(self.arguments.iter().map(|word| ("arg", word.as_str())));
        let mut bytes = Vec::new();
        for (key, value) in words {
            let value = value.split('\0').next().unwrap_or_default();
            bytes.extend_from_slice(format!("{key}={value}\0").as_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_stands_alone() {
        let command = GuestCommand {
            arguments: vec!["/bin/sh".into(), "-c".into(), "a\nb=c".into()],
            environment: vec!["A=1".into()],
            folder: "/x y".into(),
            groups: vec![29, 10],
            ..GuestCommand::default()
        };
        let at_terminal = command.clone().at_terminal(Some(("vt100", (24, 80))));
        let text = String::from_utf8(at_terminal.to_bytes()).unwrap();
        assert!(text.contains("\0tty=24x80\0") && text.contains("\0env=TERM=vt100\0"));
        let text = String::from_utf8(command.to_bytes()).unwrap();
        assert_eq!(
            text,
            "cwd=/x y\0uid=0\0gid=0\0group=29\0group=10\0env=A=1\0arg=/bin/sh\0arg=-c\0arg=a\nb=c\0"
        );
    }
}
