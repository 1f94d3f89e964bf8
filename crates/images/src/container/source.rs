//! Where an image's parts are: files in a folder, or members of an archive.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Take};
use std::path::{Component, Path, PathBuf};

use tar::EntryType;

use crate::container::{ContainerError, digest};
use crate::tree::HeaderBounds;

/// Largest part that is read whole: descriptions, not layers.
const PART_BYTES_MAX: u64 = 16 << 20;

/// Members that an archive may have.
const MEMBERS_MAX: usize = 1 << 16;

/// A folder or an archive.
pub(super) enum Source {
    Folder(PathBuf),
    Archive {
        path: PathBuf,
        members: HashMap<String, Member>,
    },
}

/// What an archive has under a name.
pub(super) enum Member {
    File { offset: u64, len: u64 },
    Link(String),
}

impl Source {
    pub(super) fn open(path: &Path) -> Result<Source, ContainerError> {
        let failed = |source| ContainerError::Read {
            part: path.display().to_string(),
            source,
        };
        if path.is_dir() {
            return Ok(Source::Folder(path.to_owned()));
        }
        let mut file = File::open(path).map_err(failed)?;
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
        Ok(Source::Archive {
            path: path.to_owned(),
            members,
        })
    }

    /// Reads a part.
    pub(super) fn reader(&self, part: &str) -> io::Result<Take<File>> {
        let absent = || io::Error::new(io::ErrorKind::NotFound, format!("the image has no {part}"));
        let part = normal(part).ok_or_else(absent)?;
        match self {
            Source::Folder(folder) => {
                let file = File::open(folder.join(part))?;
                let len = file.metadata()?.len();
                Ok(file.take(len))
            }
            Source::Archive { path, members } => {
                let mut name = part;
                // Old archives have links from one layer to another.
                for _ in 0..4 {
                    match members.get(&name).ok_or_else(absent)? {
                        Member::Link(target) => name.clone_from(target),
                        Member::File { offset, len } => {
                            let mut file = File::open(path)?;
                            file.seek(SeekFrom::Start(*offset))?;
                            return Ok(file.take(*len));
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
            Ok(reader) if reader.limit() > PART_BYTES_MAX => {
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

/// A path without `.` and `..`; nothing if it leads out.
fn normal(path: &str) -> Option<String> {
    let mut parts: Vec<String> = Vec::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => parts.push(name.to_str()?.to_owned()),
            Component::CurDir => {}
            Component::ParentDir => drop(parts.pop()?),
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}
