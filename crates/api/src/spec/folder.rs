//! Folders of the host that a guest shares: `HOST:GUEST[:ro]`.
//!
//! The guest's place is what is behind the last colon, so a folder of the host may have one in its name, and the place in the guest has
//! none.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::text::{BadText, Text, bad, written_as_text};

/// A folder of the host, and where it is in the guest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FolderSpec {
    host: String,
    guest: String,
    is_read_only: bool,
}

const HELP: &str =
    "write HOST:GUEST or HOST:GUEST:ro, such as ./data:/data; the place in the guest is absolute";

impl FolderSpec {
    /// The folder of the host.
    pub fn host(&self) -> &Path {
        Path::new(&self.host)
    }

    /// Where it is in the guest: absolute, with no part that leads up, and not the root.
    pub fn guest(&self) -> &str {
        &self.guest
    }

    /// Whether the guest may not write.
    pub fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    /// By what a guest mounts the `n`th folder: its tag. It is what the device is called too.
    pub fn tag(n: usize) -> String {
        format!("folder{n}")
    }

    /// The same with a folder of the host that is found from anywhere, if it is looked for from here.
    #[must_use]
    pub fn looked_for_from(&self, here: &Path) -> FolderSpec {
        let mut found = self.clone();
        // What cannot be written as a text cannot be named here either.
        if let Ok(host) = here.join(&self.host).into_os_string().into_string() {
            found.host = host;
        }
        found
    }
}

impl fmt::Display for FolderSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.guest)?;
        f.write_str(if self.is_read_only { ":ro" } else { "" })
    }
}

impl FromStr for FolderSpec {
    type Err = BadText;

    fn from_str(text: &str) -> Result<FolderSpec, BadText> {
        let shown = text.escape_debug();
        let (places, is_read_only) = match text.strip_suffix(":ro") {
            Some(places) => (places, true),
            None => (text, false),
        };
        let Some((host, guest)) = places.rsplit_once(':') else {
            return bad(format!("\"{shown}\" does not say where in the guest"), HELP);
        };
        if host.is_empty() || text.contains('\0') {
            return bad(format!("\"{shown}\" names no folder of this host"), HELP);
        }
        if !guest.starts_with('/') {
            let guest = guest.escape_debug();
            return bad(
                format!("\"{shown}\": \"{guest}\" is no place in a guest"),
                HELP,
            );
        }
        let parts: PathBuf = Path::new(guest).components().collect();
        let is_plain = guest.split('/').all(|part| part != "." && part != "..");
        let guest = match parts.to_str() {
            Some(guest) if is_plain && guest != "/" => guest.to_owned(),
            _ => {
                let guest = guest.escape_debug();
                return bad(
                    format!("\"{shown}\": nothing can be mounted at \"{guest}\""),
                    "name a folder below the guest's root, without `.` and `..`",
                );
            }
        };
        Ok(FolderSpec {
            host: host.to_owned(),
            guest,
            is_read_only,
        })
    }
}

impl Text for FolderSpec {
    const NAME: &'static str = "Folder";
    const EXAMPLES: &'static [&'static str] = &["./data:/data", "/srv/www:/var/www:ro"];
}

written_as_text!(FolderSpec);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_says_what_where_and_whether_it_is_written() {
        let check = |text: &str, expected: Result<(&str, &str, bool), &str>| {
            let read = text.parse::<FolderSpec>();
            let shown = read
                .as_ref()
                .map(|it| (it.host.as_str(), it.guest(), it.is_read_only()));
            match (shown, expected) {
                (Ok(shown), expected) => assert_eq!(Ok(shown), expected, "{text}"),
                (Err(error), Err(part)) => assert!(error.what.contains(part), "{text}: {error}"),
                (Err(error), Ok(_)) => panic!("{text}: {error}"),
            }
        };
        check("a:/b", Ok(("a", "/b", false)));
        check("/srv/www:/var/www:ro", Ok(("/srv/www", "/var/www", true)));
        check("a:b:/c", Ok(("a:b", "/c", false)));
        check("ro:/ro", Ok(("ro", "/ro", false)));
        check("./x y:/x y/ü", Ok(("./x y", "/x y/ü", false)));
        check("a://b///c/", Ok(("a", "/b/c", false)));
        check("a", Err("where in the guest"));
        check("a:ro", Err("where in the guest"));
        check("", Err("where in the guest"));
        check(":/b", Err("no folder of this host"));
        check("a:b", Err("is no place"));
        check("a:", Err("is no place"));
        check("a:/b:rw", Err("is no place"));
        check("a:/", Err("nothing can be mounted"));
        check("a://:ro", Err("nothing can be mounted"));
        check("a:/b/../c", Err("nothing can be mounted"));
        check("a:/b/./c", Err("nothing can be mounted"));
    }

    #[test]
    fn a_folder_is_found_from_elsewhere() {
        let check = |text: &str, expected: &str| {
            let folder: FolderSpec = text.parse().unwrap();
            let found = folder.looked_for_from(Path::new("/home"));
            assert_eq!(found.to_string(), expected);
        };
        check("a:/b:ro", "/home/a:/b:ro");
        check("/a:/b", "/a:/b");
    }
}
