//! The small disk that tells a guest's cloud-init what it shall do at its first start: "NoCloud", found by the label of its file
//! system alone (cloud-init's documentation, "Datasources", NoCloud), so nothing of the machine has to name it.
//!
//! ```text
//! vfat, label CIDATA
//!   user-data   what the user wrote, byte for byte
//!   meta-data   instance-id, local-hostname, public-keys: JSON, which is YAML too
//! ```
//!
//! vfat and not ISO 9660, since whatever starts from an EFI partition has the module. The disk is a function of what was said:
//! the same words are the same bytes, times included (there is none).

mod keys;
mod user_data;

use std::io::{self, Cursor, Write};

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions, format_volume};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::hexadecimal::hexadecimal;

pub use keys::{SshKeyError, read_ssh_keys};
pub use user_data::{UserDataError, check_user_data};

/// Most bytes of user data; clouds take 16 KiB to 256 KiB of it.
pub const USER_DATA_BYTES_MAX: usize = 4 << 20;
/// Most bytes of a file of SSH keys.
pub const SSH_KEYS_BYTES_MAX: usize = 1 << 20;

/// What a file system is called that cloud-init looks for.
const LABEL: [u8; 11] = *b"CIDATA     ";
/// Bytes of a cluster, so that the largest disk here has fewer than the 4085 of a FAT12.
const CLUSTER_BYTES: usize = 4096;
/// Boot sector, both tables and the root folder take less.
const OVERHEAD_BYTES: usize = 64 << 10;
/// For a guest whose user wrote none: a configuration that asks for nothing.
const NO_USER_DATA: &[u8] = b"#cloud-config\n";
/// Characters of an instance's id behind its first word: 128 bits.
const ID_CHARACTERS: usize = 32;

/// What a guest is told at its first start.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Seed {
    /// Whose instance it is: two guests with the same words and different owners are two.
    pub owner: Vec<u8>,
    /// The user's own words, checked by [`check_user_data`].
    pub user_data: Option<Vec<u8>>,
    /// Who may log in as the image's usual user, as lines of `authorized_keys`.
    pub ssh_keys: Vec<String>,
    /// What the guest is called.
    pub hostname: Option<String>,
}

/// `meta-data`, by the names that cloud-init has for it.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct MetaData<'a> {
    instance_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    local_hostname: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    public_keys: &'a [String],
}

impl Seed {
    /// What cloud-init knows the guest by: while it stays the same, what is done once for each instance (users, keys,
    /// `runcmd`) is not done again. It is made of the owner and of all that is said, so words that have changed are carried out
    /// at the next start.
    pub fn instance_id(&self) -> String {
        let mut hash = Sha256::new();
        let mut take = |part: &[u8]| {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        };
        take(&self.owner);
        take(self.user_data.as_deref().unwrap_or(NO_USER_DATA));
        take(self.hostname.as_deref().unwrap_or_default().as_bytes());
        for key in &self.ssh_keys {
            take(key.as_bytes());
        }
        let digits = hexadecimal(&hash.finalize());
        format!("mother-{}", &digits[..ID_CHARACTERS])
    }

    /// The bytes of the disk.
    ///
    /// # Errors
    /// What the file system's writer says; with user data and keys of at most [`USER_DATA_BYTES_MAX`] and
    /// [`SSH_KEYS_BYTES_MAX`] there is room.
    pub fn disk(&self) -> io::Result<Vec<u8>> {
        let meta_data = serde_json::to_vec_pretty(&MetaData {
            instance_id: self.instance_id(),
            local_hostname: self.hostname.as_deref(),
            public_keys: &self.ssh_keys,
        })?;
        let user_data = self.user_data.as_deref().unwrap_or(NO_USER_DATA);
        let room = |bytes: &[u8]| bytes.len().next_multiple_of(CLUSTER_BYTES);
        let mut disk = vec![0; OVERHEAD_BYTES + room(&meta_data) + room(user_data)];
        let options = FormatVolumeOptions::new()
            .bytes_per_cluster(CLUSTER_BYTES as u32)
            .volume_label(LABEL);
        format_volume(Cursor::new(&mut disk[..]), options)?;
        let system = FileSystem::new(Cursor::new(&mut disk[..]), FsOptions::new())?;
        for (name, bytes) in [
            ("meta-data", meta_data.as_slice()),
            ("user-data", user_data),
        ] {
            let mut file = system.root_dir().create_file(name)?;
            file.write_all(bytes)?;
            file.flush()?;
        }
        system.unmount()?;
        Ok(disk)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use serde_json::{Value, json};

    use super::*;

    /// A file of a disk.
    fn read(disk: &[u8], name: &str) -> Vec<u8> {
        let system = FileSystem::new(Cursor::new(disk.to_vec()), FsOptions::new()).unwrap();
        let mut bytes = Vec::new();
        let mut file = system.root_dir().open_file(name).unwrap();
        file.read_to_end(&mut bytes).unwrap();
        bytes
    }

    fn seed(owner: &str, user_data: &[u8], keys: &[&str], hostname: Option<&str>) -> Seed {
        Seed {
            owner: owner.as_bytes().to_vec(),
            user_data: (!user_data.is_empty()).then(|| user_data.to_vec()),
            ssh_keys: keys.iter().map(|key| (*key).to_owned()).collect(),
            hostname: hostname.map(str::to_owned),
        }
    }

    #[test]
    fn a_disk_says_what_was_said_byte_for_byte_whatever_its_size() {
        let check = |seed: Seed, user_data: &[u8], meta_data: Value| {
            let disk = seed.disk().unwrap();
            assert!(disk.len().is_multiple_of(512));
            assert_eq!(disk, seed.disk().unwrap(), "the same bytes");
            assert_eq!(read(&disk, "user-data"), user_data);
            let mut found: Value = serde_json::from_slice(&read(&disk, "meta-data")).unwrap();
            let id = found.as_object_mut().unwrap().remove("instance-id");
            assert_eq!(id, Some(json!(seed.instance_id())));
            assert_eq!(found, meta_data);
            let system = FileSystem::new(Cursor::new(disk), FsOptions::new()).unwrap();
            let label = system.read_volume_label_from_root_dir().unwrap();
            assert_eq!(label.as_deref(), Some("CIDATA"));
            assert_eq!(system.volume_label(), "CIDATA", "what blkid may read");
        };
        check(
            seed("a", b"", &["ssh-ed25519 A one@\"host\""], Some("web")),
            NO_USER_DATA,
            json!({ "local-hostname": "web", "public-keys": ["ssh-ed25519 A one@\"host\""] }),
        );
        for len in [1, 4095, 4096, 100_000, 1 << 20, USER_DATA_BYTES_MAX] {
            let bytes: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
            check(seed("a", &bytes, &[], None), &bytes, json!({}));
        }
        let key = "k".repeat(SSH_KEYS_BYTES_MAX);
        let bytes = vec![7; USER_DATA_BYTES_MAX];
        let keys = json!({ "public-keys": [key] });
        check(seed("a", &bytes, &[&key], None), &bytes, keys);
    }

    #[test]
    fn an_instance_is_another_when_its_owner_or_its_words_are() {
        let first = seed("a", b"#!/bin/sh\n", &["k"], Some("web"));
        assert_eq!(first.instance_id(), first.clone().instance_id());
        for other in [
            seed("b", b"#!/bin/sh\n", &["k"], Some("web")),
            seed("a", b"#!/bin/sh", &["k"], Some("web")),
            seed("a", b"#!/bin/sh\n", &["k", ""], Some("web")),
            seed("a", b"#!/bin/sh\n", &["k"], Some("we")),
            seed("a", b"#!/bin/sh\n", &["k"], None),
        ] {
            assert_ne!(first.instance_id(), other.instance_id(), "{other:?}");
        }
    }
}
