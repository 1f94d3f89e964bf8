//! Tar archives into a tree: Debian packages and layers of container images.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use tar::EntryType;
use thiserror::Error;

use crate::tree::sparse::SparseHeaders;
use crate::tree::{Attributes, Content, HeaderBounds, Kind, LINK_BYTES_MAX, Tree, TreeError, text};

/// What starts the name of a file that hides another (OCI image specification, layer.md, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";

/// The name of the file that hides all of its folder's lower layers.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// How extended attributes are called in pax headers.
const PAX_XATTR: &str = "SCHILY.xattr.";

/// What archives are made of.
const BLOCK_BYTES: u64 = 512;

/// What all files of one tree may have together, so that a small archive with large holes cannot fill every disk.
const SPOOL_BYTES_MAX: u64 = 64 << 30;

/// What is unpacked of a layer, beside holes, may be so many times as large as the layer: packers reach a tenth of that with
/// files that people make.
const GROWTH_MAX: u64 = 256;

/// So much may be unpacked of layers in any case.
const GROWN_BYTES_MIN: u64 = 1 << 30;

/// Bytes that are copied at once; so many zeros in a row are a hole.
const PIECE_BYTES: usize = 64 << 10;

/// Why an archive did not become a part of a tree.
#[derive(Debug, Error)]
pub(crate) enum UnpackError {
    /// The archive is broken.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The host has no room for what is unpacked.
    #[error("cannot write what is unpacked")]
    Spool(#[source] io::Error),
    /// A file cannot be where the archive has it.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

/// Where the bytes of unpacked files wait until they are written.
pub(crate) struct Spool {
    file: Arc<File>,
    len: u64,
    /// Bytes that were written, without holes, and how many may be.
    written: u64,
    pub(super) room: u64,
}

impl Spool {
    /// A new file at `path`, which is unlinked at once: whatever happens, it leaves nothing behind.
    pub(crate) fn new(path: &Path) -> io::Result<Spool> {
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)?;
        std::fs::remove_file(path)?;
        Ok(Spool::of(file))
    }

    /// This file, which is empty.
    pub(crate) fn of(file: File) -> Spool {
        Spool {
            file: Arc::new(file),
            len: 0,
            written: 0,
            room: u64::MAX,
        }
    }

    /// A layer of so many bytes, as it is packed, comes next. From the first one on there is no more room than its growth may
    /// take.
    pub(crate) fn expect_layer(&mut self, packed_bytes: u64) {
        let room = if self.room == u64::MAX {
            GROWN_BYTES_MIN
        } else {
            self.room
        };
        self.room = room.saturating_add(packed_bytes.saturating_mul(GROWTH_MAX));
    }

    /// Bytes of all files so far.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    fn take(&mut self, from: &mut impl Read) -> Result<Content, UnpackError> {
        let offset = self.len;
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let mut count = 0;
            while count < piece.len() {
                match from.read(&mut piece[count..])? {
                    0 => break,
                    more => count += more,
                }
            }
            if count == 0 {
                break;
            }
            if self.len + count as u64 > SPOOL_BYTES_MAX {
                return Err(
                    io::Error::other("its files are larger than any disk of a guest").into(),
                );
            }
            if piece[..count].iter().any(|&byte| byte != 0) {
                self.written += count as u64;
                if self.written > self.room {
                    let what =
                        format!("its files are more than {GROWTH_MAX} times as large as it is");
                    return Err(io::Error::other(what).into());
                }
                let written = self.file.write_all_at(&piece[..count], self.len);
                written.map_err(UnpackError::Spool)?;
            }
            self.len += count as u64;
        }
        // A hole at the end belongs to the file.
        self.file.set_len(self.len).map_err(UnpackError::Spool)?;
        let len = self.len - offset;
        Ok(Content::Part {
            file: self.file.clone(),
            offset,
            len,
        })
    }
}

/// The other name of a file, if it shall have one.
type Rename<'a> = dyn Fn(&[u8]) -> Option<Vec<u8>> + 'a;

/// Unpacks archives of one kind into a tree.
pub(crate) struct Unpacker<'a> {
    tree: &'a mut Tree,
    spool: &'a mut Spool,
    /// Paths that come in under another name.
    rename: Box<Rename<'a>>,
    /// Whether this is a layer, with whiteouts, whose folders replace links; a package's folders follow them.
    is_layer: bool,
}

impl<'a> Unpacker<'a> {
    /// For a package: a folder of its may be a symbolic link to one (as dpkg has it); `rename` gives files other names.
    pub(crate) fn of_package(
        tree: &'a mut Tree,
        spool: &'a mut Spool,
        rename: impl Fn(&[u8]) -> Option<Vec<u8>> + 'a,
    ) -> Unpacker<'a> {
        Unpacker {
            tree,
            spool,
            rename: Box::new(rename),
            is_layer: false,
        }
    }

    /// For a layer over what is there.
    pub(crate) fn of_layer(tree: &'a mut Tree, spool: &'a mut Spool) -> Unpacker<'a> {
        tree.next_layer();
        Unpacker {
            tree,
            spool,
            rename: Box::new(|_| None),
            is_layer: true,
        }
    }

    /// Reads the archive to its end; for a package, the paths of all that was put.
    pub(crate) fn unpack(&mut self, archive: &mut dyn Read) -> Result<Vec<Vec<u8>>, UnpackError> {
        let is_cut = Cell::new(false);
        let bounds = HeaderBounds::new();
        let mut archive = tar::Archive::new(bounds.around(Padded {
            from: archive,
            len: 0,
            is_cut: &is_cut,
        }));
        let mut paths = Vec::new();
        let mut entries = archive.entries()?;
        loop {
            bounds.begin();
            let Some(entry) = entries.next() else { break };
            let mut entry = entry?;
            bounds.end();
            let headers = PaxHeaders::read(&mut entry)?;
            let path = match &headers.sparse.name {
                Some(name) => name.clone(),
                None => entry.path_bytes().into_owned(),
            };
            self.put(&mut entry, &path, headers)?;
            // What nobody wanted of it. Holes could be without an end, and the library does not step through those.
            if entry.header().entry_type() != EntryType::GNUSparse {
                io::copy(&mut entry, &mut io::sink())?;
            }
            if is_cut.get() {
                let what = format!("the archive ends inside of {:?}", text(&path));
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what).into());
            }
            if !self.is_layer {
                paths.push(path);
            }
        }
        Ok(paths)
    }

    fn put<R: Read>(
        &mut self,
        entry: &mut tar::Entry<'_, R>,
        path: &[u8],
        headers: PaxHeaders,
    ) -> Result<(), UnpackError> {
        if self.is_layer && self.is_whiteout(path)? {
            return Ok(());
        }
        let attributes = attributes(entry, &headers)?;
        let name = (self.rename)(path);
        let path = name.as_deref().unwrap_or(path);
        let header = entry.header();
        let kind = match header.entry_type() {
            EntryType::Directory => return self.put_folder(path, attributes),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                Kind::File(match headers.sparse.fill(&mut *entry)? {
                    Some(mut filled) => self.spool.take(&mut filled)?,
                    None => self.spool.take(entry)?,
                })
            }
            EntryType::Symlink => Kind::Symlink(link_target(entry, path)?),
            EntryType::Link => {
                let target = link_target(entry, path)?;
                let target = (self.rename)(&target).unwrap_or(target);
                return Ok(self.tree.put_hard_link(path, &target)?);
            }
            kind @ (EntryType::Char | EntryType::Block) => Kind::Device {
                is_block: kind == EntryType::Block,
                major: header.device_major()?.unwrap_or(0),
                minor: header.device_minor()?.unwrap_or(0),
            },
            EntryType::Fifo => Kind::Fifo,
            // Headers of other kinds say something about the archive, not about a file.
            _ => return Ok(()),
        };
        self.tree.put(path, attributes, kind)?;
        Ok(())
    }

    fn put_folder(&mut self, path: &[u8], attributes: Attributes) -> Result<(), UnpackError> {
        let is_link_to_folder = |tree: &Tree| {
            let own = tree.find(path, false);
            let followed = tree.find(path, true);
            own != followed && followed.is_some_and(|node| tree.is_folder(node))
        };
        if self.is_layer || !is_link_to_folder(self.tree) {
            self.tree.put_folder(path, attributes)?;
        }
        Ok(())
    }

    /// Does what a whiteout asks for.
    fn is_whiteout(&mut self, path: &[u8]) -> Result<bool, UnpackError> {
        let trimmed = path.strip_suffix(b"/").unwrap_or(path);
        let at = trimmed
            .iter()
            .rposition(|&byte| byte == b'/')
            .map_or(0, |slash| slash + 1);
        let (folder, name) = trimmed.split_at(at);
        if name == OPAQUE {
            self.tree.white_out_inside(folder);
            return Ok(true);
        }
        let Some(hidden) = name.strip_prefix(WHITEOUT) else {
            return Ok(false);
        };
        if hidden.is_empty() || hidden == b"." || hidden == b".." {
            return Err(TreeError::BadPath(text(path)).into());
        }
        self.tree.white_out(folder, hidden);
        Ok(true)
    }
}

fn link_target<R: Read>(entry: &tar::Entry<'_, R>, path: &[u8]) -> Result<Vec<u8>, UnpackError> {
    let target = entry
        .link_name_bytes()
        .map(|target| target.into_owned())
        .unwrap_or_default();
    if target.is_empty() || target.len() > LINK_BYTES_MAX {
        return Err(TreeError::BadPath(text(path)).into());
    }
    Ok(target)
}

/// An archive whose last block is filled up: some writers end with the last byte of the last file, and other readers
/// take that for the end that it is.
struct Padded<'a> {
    from: &'a mut dyn Read,
    len: u64,
    /// Set when bytes were asked for that only the padding has.
    is_cut: &'a Cell<bool>,
}

impl Read for Padded<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        self.len += count as u64;
        if count > 0 || buffer.is_empty() {
            return Ok(count);
        }
        let missing = self.len.next_multiple_of(BLOCK_BYTES) - self.len;
        let count = buffer
            .len()
            .min(usize::try_from(missing).unwrap_or(usize::MAX));
        buffer[..count].fill(0);
        self.len += count as u64;
        self.is_cut.set(count > 0);
        Ok(count)
    }
}

/// What pax headers say of a file beside its name and size, which are the library's affair.
#[derive(Default)]
struct PaxHeaders {
    xattrs: Vec<(String, Vec<u8>)>,
    mtime: Option<i64>,
    sparse: SparseHeaders,
}

impl PaxHeaders {
    fn read<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<PaxHeaders> {
        let mut headers = PaxHeaders::default();
        for extension in entry.pax_extensions()?.into_iter().flatten() {
            let extension = extension?;
            let Ok(key) = extension.key() else { continue };
            let value = extension.value_bytes();
            if let Some(name) = key.strip_prefix(PAX_XATTR) {
                headers.xattrs.push((name.to_owned(), value.to_vec()));
            } else if key == "mtime" {
                let seconds = text(value);
                headers.mtime = seconds.split('.').next().and_then(|text| text.parse().ok());
            } else {
                headers.sparse.take(key, value)?;
            }
        }
        Ok(headers)
    }
}

fn attributes<R: Read>(
    entry: &tar::Entry<'_, R>,
    headers: &PaxHeaders,
) -> Result<Attributes, UnpackError> {
    let header = entry.header();
    let id = |id: u64| {
        u32::try_from(id)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a user's number is too large"))
    };
    let mtime = || i64::try_from(header.mtime().ok()?).ok();
    Ok(Attributes {
        mode: (header.mode()? & 0o7777) as u16,
        uid: id(header.uid()?)?,
        gid: id(header.gid()?)?,
        // A time that cannot be read is no reason to refuse a file.
        mtime: headers.mtime.or_else(mtime).unwrap_or(0),
        xattrs: headers.xattrs.clone(),
    })
}
