//! Where an image's parts are: files in a folder, or members of an archive.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use tar::EntryType;

use crate::container::input::{OpenPart, Parts, normal};
use crate::container::{ContainerError, digest};
use crate::tree::HeaderBounds;

/// Largest part that is read whole: descriptions, not layers.
const PART_BYTES_MAX: u64 = 16 << 20;

/// Members that an archive may have.
const MEMBERS_MAX: usize = 1 << 16;

/// A folder or an archive.
pub(super) enum Source {
    Folder(OpenPart),
    Archive {
        file: Arc<File>,
        members: HashMap<String, Member>,
    },
}

/// What an archive has under a name.
pub(super) enum Member {
    File { offset: u64, len: u64 },
    Link(String),
}

/// A part that is being read.
pub(super) struct Part {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Part {
    /// How many bytes are left of it.
    pub(super) fn left(&self) -> u64 {
        self.end.saturating_sub(self.at)
    }
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.left()).unwrap_or(usize::MAX);
        let len = buffer.len().min(left);
        let count = self.file.read_at(&mut buffer[..len], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Source {
    pub(super) fn new(parts: Parts) -> Result<Source, ContainerError> {
        let failed = |source| ContainerError::Read {
            part: "the archive".to_owned(),
            source,
        };
        let mut file = match parts {
            Parts::Folder(open) => return Ok(Source::Folder(open)),
            Parts::Archive(file) => file,
        };
        let mut head = [0; 4];
        let count = file.read(&mut head).map_err(failed)?;
        if head[..count].starts_with(&digest::GZIP) || digest::is_zstd(&head[..count]) {
            let what =
                "unpack its compression first: parts of it are read more than once".to_owned();
            return Err(ContainerError::Damaged {
                part: "the archive".to_owned(),
                what,
            });
        }
        file.rewind().map_err(failed)?;
        let members = members(&file).map_err(failed)?;
        let file = Arc::new(file);
        Ok(Source::Archive { file, members })
    }

    /// Reads a part.
    pub(super) fn reader(&self, part: &str) -> io::Result<Part> {
        let absent = || io::Error::new(io::ErrorKind::NotFound, format!("the image has no {part}"));
        let part = normal(part).ok_or_else(absent)?;
        match self {
            Source::Folder(open) => {
                let file = open(&part)?;
                let end = file.metadata()?.len();
                Ok(Part {
                    file: Arc::new(file),
                    at: 0,
                    end,
                })
            }
            Source::Archive { file, members } => {
                let mut name = part;
                // Old archives have links from one layer to another.
                for _ in 0..4 {
                    match members.get(&name).ok_or_else(absent)? {
                        Member::Link(target) => name.clone_from(target),
                        Member::File { offset, len } => {
                            return Ok(Part {
                                file: Arc::clone(file),
                                at: *offset,
                                end: offset.saturating_add(*len),
                            });
                        }
                    }
                }
                Err(absent())
            }
        }
    }

    /// The whole of a part; `None` if it is not there.
    pub(super) fn read(&self, part: &str) -> Result<Option<Vec<u8>>, ContainerError> {
        let failed = |source| ContainerError::Read {
            part: part.to_owned(),
            source,
        };
        let mut bytes = Vec::new();
        match self.reader(part) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(error)),
            Ok(reader) if reader.left() > PART_BYTES_MAX => {
                let what = "it is too large to be a description".to_owned();
                Err(ContainerError::Damaged {
                    part: part.to_owned(),
                    what,
                })
            }
            Ok(mut reader) => {
                reader.read_to_end(&mut bytes).map_err(failed)?;
                Ok(Some(bytes))
            }
        }
    }
}

fn members(file: &File) -> io::Result<HashMap<String, Member>> {
    let mut members = HashMap::new();
    let bounds = HeaderBounds::new();
    let mut archive = tar::Archive::new(bounds.around(file));
    let mut entries = archive.entries_with_seek()?;
    loop {
        bounds.begin();
        let Some(entry) = entries.next() else { break };
        let entry = entry?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let Some(name) = normal(&path) else { continue };
        let member = match entry.header().entry_type() {
            EntryType::Symlink | EntryType::Link => {
                let target = entry.link_name_bytes().unwrap_or_default();
                let target = String::from_utf8_lossy(&target).into_owned();
                let folder = Path::new(&name).parent().unwrap_or(Path::new(""));
                let is_symlink = entry.header().entry_type() == EntryType::Symlink;
                let target = if is_symlink {
                    folder.join(target)
                } else {
                    target.into()
                };
                let Some(target) = normal(&target.to_string_lossy()) else {
                    continue;
                };
                Member::Link(target)
            }
            kind if kind.is_file() => Member::File {
                offset: entry.raw_file_position(),
                len: entry.size(),
            },
            _ => continue,
        };
        members.insert(name, member);
        if members.len() > MEMBERS_MAX {
            return Err(io::Error::other("the archive has too many members"));
        }
    }
    Ok(members)
}
