//! The policy that is meant.

use std::fs;
use std::path::{Path, PathBuf};

use policy::{Policy, PolicyError, preset};

use crate::failure::Failure;
use crate::observed;

/// The policy of a file or of a preset. A file of a preset's name is meant by a path: `./locked`.
pub fn read_policy(typed: &str) -> Result<Policy, Failure> {
    let text = match observed::about() {
        Some(about) => about.policy.clone(),
        None => policy_text(typed)?,
    };
    policy_of(typed, text.as_deref())
}

/// The policy of a text, or of a preset if there is none.
pub fn policy_of(typed: &str, text: Option<&str>) -> Result<Policy, Failure> {
    let text = text.or_else(|| preset(typed)).unwrap_or_default();
    Policy::read(text).map_err(|source| failed(typed, source))
}

/// The text of a file; none of a preset.
pub fn policy_text(typed: &str) -> Result<Option<String>, Failure> {
    if preset(typed).is_some() {
        return Ok(None);
    }
    let text = fs::read(Path::new(typed)).map_err(|source| Failure::PolicyFile {
        path: PathBuf::from(typed),
        source,
    })?;
    let text = String::from_utf8(text).map_err(|_| {
        let why = "it is no text (UTF-8)".to_owned();
        failed(typed, PolicyError::Unreadable(why))
    })?;
    Ok(Some(text))
}

fn failed(typed: &str, source: PolicyError) -> Failure {
    Failure::Policy {
        name: typed.to_owned(),
        source,
    }
}
