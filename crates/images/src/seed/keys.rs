//! Public SSH keys, as `authorized_keys` has them (sshd(8), "AUTHORIZED_KEYS FILE FORMAT"): options, type, base64, comment.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

/// What files of private keys say of themselves: OpenSSH's and PEM's, PuTTY's.
const PRIVATE: [&str; 2] = ["PRIVATE KEY-----", "PuTTY-User-Key-File-"];
/// What a public key in the form of RFC 4716 begins with, as PuTTY and others write it.
const FOREIGN: &str = "---- BEGIN SSH2 PUBLIC KEY";

/// Why a file has no keys for a guest. What is in it is never shown: it may be a private key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum SshKeyError {
    /// A secret of the user's, which no guest needs.
    #[error("it is a private key, which stays where it is: nothing of it was used")]
    Private,
    /// A public key in a form that `authorized_keys` does not have.
    #[error("it has a public key in the form of RFC 4716")]
    Foreign,
    /// Nothing is in it.
    #[error("there is no key in it")]
    Empty,
    /// A line that sshd would not take.
    #[error("line {0} of it is no public key as authorized_keys has them")]
    Line(usize),
    /// It is no text.
    #[error("it is no text")]
    Binary,
}

impl SshKeyError {
    /// What to do about it.
    pub fn help(self) -> &'static str {
        match self {
            SshKeyError::Private => "name the public one, whose file ends in .pub",
            SshKeyError::Foreign => "`ssh-keygen -i -f FILE` writes it as OpenSSH has it",
            _ => {
                "name a file with lines such as \"ssh-ed25519 AAAA... comment\", as `ssh-keygen` writes FILE.pub"
            }
        }
    }
}

/// The lines with keys; empty lines and comments are passed over.
///
/// # Errors
/// [`SshKeyError`] if one of them is none, or there is none.
pub fn read_ssh_keys(bytes: &[u8]) -> Result<Vec<String>, SshKeyError> {
    let shown = String::from_utf8_lossy(bytes);
    if PRIVATE.iter().any(|mark| shown.contains(mark)) {
        return Err(SshKeyError::Private);
    }
    if shown.contains(FOREIGN) {
        return Err(SshKeyError::Foreign);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| SshKeyError::Binary)?;
    let mut keys = Vec::new();
    for (n, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if !is_key(line) && !is_key(behind_options(line)) {
            return Err(SshKeyError::Line(n + 1));
        }
        keys.push(line.to_owned());
    }
    if keys.is_empty() {
        return Err(SshKeyError::Empty);
    }
    Ok(keys)
}

/// Whether a line begins with a type and a key that says that it is of that type (RFC 4253, 6.6: a length, then its name).
fn is_key(line: &str) -> bool {
    let mut words = line.split_ascii_whitespace();
    let (Some(kind), Some(key)) = (words.next(), words.next()) else {
        return false;
    };
    let Ok(bytes) = STANDARD.decode(key) else {
        return false;
    };
    let Some((len, rest)) = bytes.split_first_chunk::<4>() else {
        return false;
    };
    let len = u32::from_be_bytes(*len) as usize;
    // A key has a number or a point behind its name.
    let is_one_line = !line.contains(|c: char| c.is_control() && c != '\t');
    is_one_line && rest.len() > len && rest.get(..len) == Some(kind.as_bytes())
}

/// What stands behind a line's options, in which spaces stand between quotes only.
fn behind_options(line: &str) -> &str {
    let mut is_quoted = false;
    let mut is_escaped = false;
    for (at, letter) in line.char_indices() {
        match letter {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            ' ' | '\t' if !is_quoted => return line[at..].trim_start(),
            _ => {}
        }
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED25519: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f me@home";

    #[test]
    fn public_keys_are_taken_and_all_else_is_told_without_showing_it() {
        let check = |text: &str, expected: Result<&[&str], SshKeyError>| {
            let read = read_ssh_keys(text.as_bytes());
            let expected = expected.map(|keys| keys.iter().map(|it| (*it).to_owned()).collect());
            assert_eq!(read, expected, "{text}");
        };
        check(ED25519, Ok(&[ED25519]));
        let several = format!("# mine\n\n{ED25519}\r\n  {ED25519}\n");
        check(&several, Ok(&[ED25519, ED25519]));
        let limited = format!("no-pty,command=\"echo \\\"a b\\\"\",from=\"10.0.0.0/8\" {ED25519}");
        check(&limited, Ok(&[&limited]));
        check("", Err(SshKeyError::Empty));
        check("# nothing\n", Err(SshKeyError::Empty));
        let lie = ED25519.replace("ssh-ed25519", "ssh-rsa");
        check(&format!("{ED25519}\n{lie}"), Err(SshKeyError::Line(2)));
        check("ssh-ed25519 AAAA", Err(SshKeyError::Line(1)));
        check("ssh-ed25519", Err(SshKeyError::Line(1)));
        check("hello world", Err(SshKeyError::Line(1)));
        check("restrict \"", Err(SshKeyError::Line(1)));
        check(
            "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n",
            Err(SshKeyError::Private),
        );
        check(
            "-----BEGIN RSA PRIVATE KEY-----\n",
            Err(SshKeyError::Private),
        );
        check("PuTTY-User-Key-File-3: x", Err(SshKeyError::Private));
        check("---- BEGIN SSH2 PUBLIC KEY ----", Err(SshKeyError::Foreign));
        let binary = read_ssh_keys(b"ssh-rsa \xff");
        assert_eq!(binary, Err(SshKeyError::Binary));
    }
}
