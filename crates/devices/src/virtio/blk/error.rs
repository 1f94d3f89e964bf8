//! Why an image could not be opened.

use std::io;

use thiserror::Error;

use super::formats::{HeadError, ImageFormat};

/// Why an image could not be opened.
#[derive(Debug, Error)]
pub enum ImageError {
    /// Its first bytes are of no use.
    #[error("cannot use it")]
    Head(#[from] HeadError),
    /// It names a backing file, and no base was given.
    #[error("it is an overlay over \"{0}\", and no base was given")]
    NeedsBase(String),
    /// A base was given to an image that cannot have one.
    #[error("it is a {0} image and cannot lie over a base")]
    TakesNoBase(ImageFormat),
    /// The base is an overlay itself.
    #[error("its base is an overlay itself, over \"{0}\"")]
    DeepBase(String),
    /// What the format's library found.
    #[error("cannot open it as {format}")]
    Open {
        /// As what.
        format: ImageFormat,
        /// What the host said.
        source: io::Error,
    },
}
