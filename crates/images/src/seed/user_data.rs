//! What cloud-init takes for user data. It looks at the first bytes (`cloudinit/handlers/__init__.py`, `INCLUSION_TYPES_MAP`), and
//! what begins otherwise is passed over with a warning in the guest's log: a guest without its user, and nobody told.

use std::io::Read;

use flate2::read::GzDecoder;
use thiserror::Error;

/// With what text begins that cloud-init carries out, whatever stands before it of white space and in whatever case.
const HEADS: [&str; 7] = [
    "#cloud-config",
    "#!",
    "#include",
    "#cloud-boothook",
    "#part-handler",
    "## template: jinja",
    "#upstart-job",
];
/// What a message of several parts has among its first lines, in any case; a `Content-Type:` alone makes none.
const MIME: &[u8] = b"mime-version:";
/// Bytes at the start in which that is looked for (`cloudinit/user_data.py`, `convert_string`).
const MIME_BYTES: usize = 4096;
/// First bytes of gzip (RFC 1952, 2.3.1).
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// The mark that some editors put before UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Why something is no user data. What is in it is not shown: there may be passwords.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum UserDataError {
    /// There is nothing in it.
    #[error("it is empty")]
    Empty,
    /// An editor's mark is before what cloud-init looks for.
    #[error("it begins with a byte order mark, behind which cloud-init finds nothing")]
    Marked,
    /// A message that does not say so.
    #[error(
        "it begins with \"Content-Type:\" and has no line \"MIME-Version: 1.0\", without which cloud-init takes it for text"
    )]
    HalfMessage,
    /// cloud-init would not know what it is.
    #[error("its first line is none that cloud-init knows")]
    Unknown,
    /// What is packed in it is none, or cannot be unpacked.
    #[error("it is packed with gzip, and what is in there is nothing that cloud-init knows")]
    Packed,
}

impl UserDataError {
    /// What to do about it.
    pub fn help(self) -> &'static str {
        match self {
            UserDataError::Empty => "leave it out, or write \"#cloud-config\" as its first line",
            UserDataError::Marked => "save it as UTF-8 without a mark",
            UserDataError::HalfMessage => "add that line to its head",
            UserDataError::Unknown | UserDataError::Packed => {
                "begin it with #cloud-config (without a space), #!, #include, #cloud-boothook, #part-handler, ## template: \
                 jinja, or as a MIME message; gzip of these is taken too"
            }
        }
    }
}

/// Whether cloud-init will know what this is.
///
/// # Errors
/// [`UserDataError`] for what it would pass over.
pub fn check_user_data(bytes: &[u8]) -> Result<(), UserDataError> {
    if bytes.starts_with(&GZIP) {
        let mut head = Vec::new();
        // What can be unpacked of a damaged one does not matter: cloud-init takes all or nothing.
        return match GzDecoder::new(bytes)
            .take(MIME_BYTES as u64)
            .read_to_end(&mut head)
        {
            Ok(_) => check_plain(&head).map_err(|_| UserDataError::Packed),
            Err(_) => Err(UserDataError::Packed),
        };
    }
    check_plain(bytes)
}

fn check_plain(bytes: &[u8]) -> Result<(), UserDataError> {
    let head = bytes[..bytes.len().min(MIME_BYTES)].to_ascii_lowercase();
    let text = head.trim_ascii_start();
    if text.is_empty() {
        return Err(UserDataError::Empty);
    }
    if text.starts_with(BYTE_ORDER_MARK) {
        return Err(UserDataError::Marked);
    }
    let is_message = head.windows(MIME.len()).any(|window| window == MIME);
    if is_message || HEADS.iter().any(|it| text.starts_with(it.as_bytes())) {
        return Ok(());
    }
    Err(if text.starts_with(b"content-type:") {
        UserDataError::HalfMessage
    } else {
        UserDataError::Unknown
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed.write_all(bytes).unwrap();
        packed.finish().unwrap()
    }

    #[test]
    fn what_cloud_init_would_pass_over_is_told() {
        let check = |bytes: &[u8], expected: Result<(), UserDataError>| {
            let shown = String::from_utf8_lossy(bytes);
            assert_eq!(check_user_data(bytes), expected, "{shown}");
        };
        for good in [
            "#cloud-config\nusers: []\n",
            "#cloud-config",
            "\n  #Cloud-Config\n",
            "#cloud-config-archive\n- type: x\n",
            "#!/bin/sh\ntrue\n",
            "#include\nhttps://example.org/\n",
            "#include-once\n",
            "#cloud-boothook\n",
            "#part-handler\n",
            "## template: jinja\n#cloud-config\n",
            "Content-Type: multipart/mixed; boundary=\"x\"\nMIME-Version: 1.0\n\n--x\n",
            "MIME-Version: 1.0\nContent-Type: text/cloud-config\n\n",
        ] {
            check(good.as_bytes(), Ok(()));
            check(&gzip(good.as_bytes()), Ok(()));
        }
        check(b"", Err(UserDataError::Empty));
        check(b" \n\n", Err(UserDataError::Empty));
        check(b"users: []\n", Err(UserDataError::Unknown));
        check(b"# cloud-config\n", Err(UserDataError::Unknown));
        check(
            b"Content-Type: multipart/mixed\n\n",
            Err(UserDataError::HalfMessage),
        );
        check(b"\xef\xbb\xbf#cloud-config\n", Err(UserDataError::Marked));
        check(&gzip(b"users: []\n"), Err(UserDataError::Packed));
        check(b"\x1f\x8b\x08garbage", Err(UserDataError::Packed));
        check(b"\x7fELF\x02", Err(UserDataError::Unknown));
    }
}
