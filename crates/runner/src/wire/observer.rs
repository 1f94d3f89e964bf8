//! What a process that looks into guests and the process that started it say to each other.
//!
//! What is asked and answered is the command's, who knows what was typed and what belongs to it; here it is a text. Long ones
//! lie in a file without a name.

use api::Jail;
use serde::{Deserialize, Serialize};

use crate::own_log::LogWish;

/// What an observer is to do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Look {
    /// What it says of itself.
    pub(crate) log: LogWish,
    /// It was born into namespaces of its own.
    pub(crate) is_apart: bool,
    /// What was typed, the command's name first, as bytes.
    pub(crate) words: Vec<Vec<u8>>,
    /// What it has to know of its surroundings, in words of the command's.
    pub(crate) about: String,
}

/// From the observer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum FromObserver {
    /// It has locked itself in.
    Jailed(Jail),
    /// It asks for something; descriptors may come with this. Answered with [`ToObserver`].
    Asks(Size),
}

/// To the observer: the answer, and descriptors.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct ToObserver(pub(crate) Size);

/// A text, here or in the first descriptor.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Size {
    /// It is this.
    Here(String),
    /// It is in the first descriptor.
    There,
}
