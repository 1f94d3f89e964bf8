//! What a user says to cloud-init in a guest: read before anything is started, and laid down as one more small disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use api::{Complaint, DiskFormat, DiskSerial, DiskSpec, HostName, VmSpec};
use images::{
    Cache, CacheError, FileError, RunFolder, SSH_KEYS_BYTES_MAX, Seed, USER_DATA_BYTES_MAX,
    check_user_data, read_ssh_keys,
};

use crate::failure::Failure;

/// The disk's file in the folder of the run.
const FILE: &str = "cidata.img";
/// What the guest sees as the disk's serial number.
const SERIAL: &str = "cidata";

/// Reads what the files say; none if nothing was said for cloud-init. What is wrong with them is complained of, never what is in
/// them.
pub fn read(spec: &VmSpec, complaints: &mut Vec<Complaint>) -> Option<Seed> {
    spec.for_cloud_init()?;
    let mut seed = Seed {
        owner: owner(spec),
        hostname: hostname(spec),
        ..Seed::default()
    };
    if let Some(path) = &spec.user_data {
        let checked = whole(path, USER_DATA_BYTES_MAX).and_then(|bytes| {
            let bad = |error: images::UserDataError| Bad::new(&error, error.help());
            check_user_data(&bytes).map_err(bad)?;
            Ok(bytes)
        });
        match checked {
            Ok(bytes) => seed.user_data = Some(bytes),
            Err(bad) => complaints.push(bad.complaint("user-data", path)),
        }
    }
    for path in &spec.ssh_keys {
        let keys = whole(path, SSH_KEYS_BYTES_MAX).and_then(|bytes| {
            read_ssh_keys(&bytes).map_err(|error| Bad::new(&error, error.help()))
        });
        match keys {
            Ok(keys) => seed.ssh_keys.extend(keys),
            Err(bad) => complaints.push(bad.complaint("ssh-key", path)),
        }
    }
    Some(seed)
}

/// Makes the disk and puts it behind those that the VM has; what must stay as long as it runs.
pub fn lay(seed: &Seed, spec: &mut VmSpec) -> Result<RunFolder, Failure> {
    let run = Cache::of_user()?.run_folder()?;
    let path = run.path().join(FILE);
    let written = seed.disk().and_then(|bytes| {
        // There may be passwords in it.
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(&path);
        file?.write_all(&bytes)
    });
    written.map_err(|source| {
        let act = "write";
        let path = path.clone();
        CacheError::from(FileError { act, path, source })
    })?;
    spec.disks.push(DiskSpec {
        path,
        format: Some(DiskFormat::Raw),
        read_only: true,
        serial: SERIAL.parse::<DiskSerial>().ok(),
        ..DiskSpec::default()
    });
    Ok(run)
}

/// Whose instance it is: the disk's that it starts from, by where that lies, so that it is the same after `restart` and under
/// another name, and a copy of the disk is another one.
fn owner(spec: &VmSpec) -> Vec<u8> {
    let image = spec.image.as_deref().map(Path::new);
    let disk = image.or(spec.disks.first().map(|disk| disk.path.as_path()));
    let Some(disk) = disk else {
        return spec.shown_name().as_bytes().to_vec();
    };
    let whole = fs::canonicalize(disk).unwrap_or_else(|_| disk.to_owned());
    whole.as_os_str().as_bytes().to_vec()
}

/// As it was said, or the VM's name if a host can have that.
fn hostname(spec: &VmSpec) -> Option<String> {
    let name = || spec.name.as_ref()?.as_str().parse::<HostName>().ok();
    let name = spec.hostname.clone().or_else(name)?;
    Some(name.as_str().to_owned())
}

/// What is wrong with a file, and what to do.
struct Bad {
    what: String,
    help: String,
}

impl Bad {
    fn new(what: &dyn std::error::Error, help: &str) -> Bad {
        Bad {
            what: what.to_string(),
            help: help.to_owned(),
        }
    }

    fn complaint(self, field: &str, path: &Path) -> Complaint {
        Complaint {
            field: field.to_owned(),
            what: format!("{}: {}", path.display(), self.what),
            help: self.help,
        }
    }
}

/// The bytes of a file that has at most so many.
fn whole(path: &Path, bytes_max: usize) -> Result<Vec<u8>, Bad> {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = File::open(path)?;
        file.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| Bad::new(&error, "name a file that can be read"))?;
    if bytes.len() > bytes_max {
        return Err(Bad {
            what: format!("it has more than {} MiB", bytes_max >> 20),
            help: "name a smaller one; user data can lead to more with #include".to_owned(),
        });
    }
    Ok(bytes)
}
