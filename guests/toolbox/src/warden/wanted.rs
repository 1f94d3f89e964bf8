//! A program as it is wanted: the words of a configuration or of a request, and what is started of them.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::warden::ground::find;
use crate::warden::identity::Identity;
use crate::warden::terminal;

/// What zero-ended words `key=value` say; of what is said twice the last counts.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) arguments: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) identity: Identity,
    pub(crate) folder: Option<String>,
    /// Rows and columns of its terminal, if it has one.
    pub(crate) size: Option<(u16, u16)>,
    /// The root of its file system.
    pub(crate) root: Option<String>,
    /// Who it is to be, as the guest's files have them: this stands over [`Wanted::identity`].
    pub(crate) user: Option<String>,
}

impl Wanted {
    pub(crate) fn read(words: &[u8]) -> io::Result<Wanted> {
        let mut wanted = Wanted::default();
        for word in words.split(|&byte| byte == 0) {
            let word = String::from_utf8_lossy(word).into_owned();
            if let Some((key, value)) = word.split_once('=') {
                wanted.take(key, value)?;
            }
        }
        Ok(wanted)
    }

    fn take(&mut self, key: &str, value: &str) -> io::Result<()> {
        let number = || value.parse().map_err(io::Error::other);
        match key {
            "arg" => self.arguments.push(value.to_owned()),
            "env" => {
                let variable = value.split_once('=');
                let variable = variable.map(|(key, value)| (key.to_owned(), value.to_owned()));
                self.environment.extend(variable);
            }
            "cwd" => self.folder = Some(value.to_owned()),
            "tty" => self.size = Some(terminal::size(value)?),
            "root" => self.root = Some(value.to_owned()),
            "user" => self.user = Some(value.to_owned()),
            "uid" => self.identity.uid = number()?,
            "gid" => self.identity.gid = number()?,
            "group" => self.identity.groups.push(number()?),
            _ => return Err(io::Error::other(format!("strange word {key:?}"))),
        }
        Ok(())
    }

    /// The value of a variable.
    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        let found = self.environment.iter().rev().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Who it is, if that is not root.
    pub(crate) fn identity(&self) -> Option<Identity> {
        (self.identity != Identity::default()).then(|| self.identity.clone())
    }

    /// The program in this folder, looked for in its own `PATH`.
    pub(crate) fn command(&self, folder: &str) -> io::Result<Command> {
        let first = self.arguments.split_first();
        let (program, rest) = first.ok_or_else(|| io::Error::other("no program was named"))?;
        let path = self.variable("PATH").unwrap_or_default();
        let mut command = Command::new(find(program, path));
        command
            .arg0(program)
            .args(rest)
            .env_clear()
            .envs(self.environment.iter().cloned())
            .current_dir(folder);
        Ok(command)
    }
}
