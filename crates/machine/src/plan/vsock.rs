//! Where the socket device's socket will be.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::{Trouble, trouble};

/// Longest path of a Unix socket (unix(7)), without its last zero.
const PATH_BYTES_MAX: usize = 107;
/// What is put behind the path for a port of the host.
const LONGEST_PORT: &str = "_4294967295";

/// A path at which a socket can be made: nothing is there, or what an earlier VM left.
pub(super) fn vsock(path: Option<&Path>) -> Result<Option<PathBuf>, Trouble> {
    let Some(path) = path else { return Ok(None) };
    let shown = path.display();
    let limit = PATH_BYTES_MAX - LONGEST_PORT.len();
    if path.as_os_str().len() > limit || path.as_os_str().as_bytes().contains(&0) {
        return trouble(
            format!(
                "{shown} cannot be the path of a socket: with a port behind it it is over {PATH_BYTES_MAX} bytes"
            ),
            format!("give a path of at most {limit} bytes"),
        );
    }
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    if path.file_name().is_none() || !folder.is_dir() {
        return trouble(
            format!("{shown}: there is no folder {}", folder.display()),
            "make the folder",
        );
    }
    match fs::symlink_metadata(path) {
        Err(_) => Ok(Some(path.to_owned())),
        Ok(metadata) if !metadata.file_type().is_socket() => trouble(
            format!("{shown} is there and is no socket"),
            "give a path at which nothing is",
        ),
        Ok(_) if UnixStream::connect(path).is_ok() => trouble(
            format!("somebody listens at {shown}"),
            "give a path of this VM's own",
        ),
        Ok(_) => Ok(Some(path.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_socket_is_made_only_where_there_is_none() {
        let folder = std::env::temp_dir().join(format!("mother-vsock-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let check = |name: &str, expected: Option<&str>| {
            let got = vsock(Some(&folder.join(name)))
                .err()
                .map(|trouble| trouble.what);
            let got = got.map(|what| what.replace(&folder.display().to_string(), "DIR"));
            assert_eq!(got.as_deref(), expected, "{name}");
        };
        check("new", None);
        check(
            "none/new",
            Some("DIR/none/new: there is no folder DIR/none"),
        );
        fs::write(folder.join("file"), "").unwrap();
        check("file", Some("DIR/file is there and is no socket"));
        let listener = UnixListener::bind(folder.join("live")).unwrap();
        check("live", Some("somebody listens at DIR/live"));
        drop(listener);
        check("live", None);
        assert!(vsock(Some(&folder.join("x".repeat(100)))).is_err());
        fs::remove_dir_all(&folder).unwrap();
    }
}
