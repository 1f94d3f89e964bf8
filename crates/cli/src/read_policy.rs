//! The policy that is meant.

use std::fs;
use std::path::{Path, PathBuf};

use policy::{Policy, PolicyError, preset};

use crate::failure::Failure;

/// The policy of a file or of a preset. A file of a preset's name is meant by a path: `./locked`.
pub fn read_policy(typed: &str) -> Result<Policy, Failure> {
    let failed = |source| Failure::Policy {
        name: typed.to_owned(),
        source,
    };
    if let Some(text) = preset(typed) {
        return Policy::read(text).map_err(failed);
    }
    let text = fs::read(Path::new(typed)).map_err(|source| Failure::PolicyFile {
        path: PathBuf::from(typed),
        source,
    })?;
    let text = String::from_utf8(text).map_err(|_| {
        let why = "it is no text (UTF-8)".to_owned();
        failed(PolicyError::Unreadable(why))
    })?;
    Policy::read(&text).map_err(failed)
}
