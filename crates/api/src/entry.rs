//! A file, folder or link on its way into a guest or out of it.
//!
//! As bytes, numbers with the lowest byte first, it is its kind (one byte: `f`, `d` or `l`), its mode, user and group (four
//! each), when it was last changed (seconds in eight, nanoseconds in four), how long it is (eight), how long its name is (two),
//! its name, and to the end where it leads if it is a link. `guests/toolbox/src/warden/agent/files/entry.rs` has the same.
//!
//! The name of the first one is that of what was named, or `.` for all that is in it; those below come after it, with
//! names below its own. Everything in one that a guest has sent is its word: [`Entry::check`] says whether it may be a name here.

use thiserror::Error;

/// Longest name, and longest target of a link (`PATH_MAX`).
const PATH_BYTES_MAX: usize = 4095;
/// Longest name of one file (`NAME_MAX`).
const NAME_BYTES_MAX: usize = 255;
/// Deepest folder.
const DEPTH_MAX: usize = 256;
/// Bytes before the name.
const HEAD_BYTES: usize = 35;

/// What it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryKind {
    /// A file, whose bytes follow.
    File,
    /// A folder, whose entries follow.
    Folder,
    /// A symbolic link.
    Link,
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// What it is.
    pub kind: EntryKind,
    /// The lower twelve bits of the mode.
    pub mode: u32,
    /// Its user's number.
    pub uid: u32,
    /// Its group's number.
    pub gid: u32,
    /// When it was last changed: seconds since 1970.
    pub seconds: i64,
    /// And nanoseconds of that second.
    pub nanoseconds: u32,
    /// Length of a file in bytes, with its holes.
    pub len: u64,
    /// Its name, below the place that it goes to.
    pub name: Vec<u8>,
    /// Where a link leads.
    pub target: Vec<u8>,
}

/// Why a name is none that may be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum BadName {
    /// It would be somewhere else than below the place that is copied to.
    #[error("its name leads out of the folder")]
    LeadsOut,
    /// No file has such a one.
    #[error("its name is none")]
    None,
    /// It would do something to the terminal of whoever lists it.
    #[error("its name has control characters")]
    Control,
    /// Longer or deeper than any file system has it.
    #[error("its name is too long")]
    TooLong,
}

impl Entry {
    /// It as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let kind = match self.kind {
            EntryKind::File => b'f',
            EntryKind::Folder => b'd',
            EntryKind::Link => b'l',
        };
        let mut bytes = vec![kind];
        bytes.extend(self.mode.to_le_bytes());
        bytes.extend(self.uid.to_le_bytes());
        bytes.extend(self.gid.to_le_bytes());
        bytes.extend(self.seconds.to_le_bytes());
        bytes.extend(self.nanoseconds.to_le_bytes());
        bytes.extend(self.len.to_le_bytes());
        // Nobody makes one that is longer: the kernel has none.
        bytes.extend((self.name.len() as u16).to_le_bytes());
        bytes.extend(&self.name);
        bytes.extend(&self.target);
        bytes
    }

    /// It from bytes; nothing if they are none.
    pub fn decode(bytes: &[u8]) -> Option<Entry> {
        let (head, rest) = bytes.split_at_checked(HEAD_BYTES)?;
        let kind = match head[0] {
            b'f' => EntryKind::File,
            b'd' => EntryKind::Folder,
            b'l' => EntryKind::Link,
            _ => return None,
        };
        let four = |at: usize| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?));
        let eight = |at: usize| Some(u64::from_le_bytes(head.get(at..at + 8)?.try_into().ok()?));
        let name_len = usize::from(u16::from_le_bytes([head[33], head[34]]));
        let (name, target) = rest.split_at_checked(name_len)?;
        let nanoseconds = four(21)?;
        let is_whole = nanoseconds < 1_000_000_000 && target.len() <= PATH_BYTES_MAX;
        is_whole.then_some(Entry {
            kind,
            mode: four(1)? & 0o7777,
            uid: four(5)?,
            gid: four(9)?,
            seconds: eight(13)?.cast_signed(),
            nanoseconds,
            len: eight(25)?,
            name: name.to_vec(),
            target: target.to_vec(),
        })
    }

    /// Whether it may be written below a folder: by its name, and as a link by where it leads.
    ///
    /// # Errors
    /// [`BadName`].
    pub fn check(&self) -> Result<(), BadName> {
        if self.name.len() > PATH_BYTES_MAX {
            return Err(BadName::TooLong);
        }
        let is_control = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            text.chars().any(char::is_control)
        };
        if self.name.contains(&0) || self.target.contains(&0) {
            return Err(BadName::None);
        }
        if is_control(&self.name) || is_control(&self.target) {
            return Err(BadName::Control);
        }
        if (self.kind == EntryKind::Link) == self.target.is_empty() {
            return Err(BadName::None);
        }
        if self.name == b"." && self.kind == EntryKind::Folder {
            return Ok(());
        }
        let mut depth = 0;
        for part in self.name.split(|&byte| byte == b'/') {
            depth += 1;
            match part {
                // The empty part before the first slash is the root.
                b"" if depth == 1 && self.name.len() > 1 => return Err(BadName::LeadsOut),
                b"" | b"." => return Err(BadName::None),
                b".." => return Err(BadName::LeadsOut),
                _ if part.len() > NAME_BYTES_MAX || depth > DEPTH_MAX => {
                    return Err(BadName::TooLong);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: EntryKind, name: &[u8], target: &[u8]) -> Entry {
        Entry {
            kind,
            mode: 0o4755,
            uid: 7,
            gid: u32::MAX,
            seconds: -5,
            nanoseconds: 999_999_999,
            len: 1 << 40,
            name: name.to_vec(),
            target: target.to_vec(),
        }
    }

    #[test]
    fn an_entry_comes_out_as_it_went_in() {
        for one in [
            entry(EntryKind::File, b"a/b \xff", b""),
            entry(EntryKind::Folder, b".", b""),
            entry(EntryKind::Link, b"l", b"../x"),
        ] {
            let bytes = one.encode();
            assert_eq!(Entry::decode(&bytes), Some(one));
            for len in 0..HEAD_BYTES {
                assert_eq!(Entry::decode(&bytes[..len]), None, "{len}");
            }
        }
        let mut strange = entry(EntryKind::File, b"a", b"").encode();
        strange[0] = b'c';
        assert_eq!(Entry::decode(&strange), None);
        let mut long = entry(EntryKind::File, b"a", b"").encode();
        long[33] = 9;
        assert_eq!(Entry::decode(&long), None);
    }

    #[test]
    fn a_name_leads_nowhere_else() {
        let check = |kind, name: &[u8], target: &[u8], expected| {
            assert_eq!(entry(kind, name, target).check(), expected, "{name:?}");
        };
        let file = |name: &[u8], expected| check(EntryKind::File, name, b"", expected);
        file(b"a", Ok(()));
        file(b"a/..b/c.", Ok(()));
        file(b"/etc/passwd", Err(BadName::LeadsOut));
        file(b"../x", Err(BadName::LeadsOut));
        file(b"a/../../x", Err(BadName::LeadsOut));
        file(b"a/..", Err(BadName::LeadsOut));
        file(b"", Err(BadName::None));
        file(b".", Err(BadName::None));
        file(b"a//b", Err(BadName::None));
        file(b"a/", Err(BadName::None));
        file(b"a\0b", Err(BadName::None));
        file(b"a\x1b[2J", Err(BadName::Control));
        file("a\u{9b}2J".as_bytes(), Err(BadName::Control));
        file(&[b'x'; 256], Err(BadName::TooLong));
        file(&b"d/".repeat(300)[..599], Err(BadName::TooLong));
        check(EntryKind::Folder, b".", b"", Ok(()));
        check(EntryKind::Link, b"l", b"/etc/passwd", Ok(()));
        check(EntryKind::Link, b"l", b"", Err(BadName::None));
        check(
            EntryKind::Link,
            b"l",
            b"\x1b]0;x\x07",
            Err(BadName::Control),
        );
        check(EntryKind::File, b"f", b"x", Err(BadName::None));
    }
}
