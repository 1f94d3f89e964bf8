//! How packages are fetched, for tools beside the product that bring guests and machines of their own: with the same care as
//! the default guest, into the same cache; and what `registry` does with files.

use std::path::Path;

pub use crate::apt::{Apt, on_path, unpack, with_package_archive};
pub use crate::debian::{SourceLine, source_lines};
pub use crate::file::{create_folder, error, rename, stem};
pub use crate::initrd::build as build_initrd;
pub use crate::package::extract_modules;
use crate::package::{PackageError, Wanted, extract};
pub use crate::work::Work;

/// Copies the kernel in its package to `to`.
///
/// # Errors
/// If the package is damaged or has none, or the file cannot be written.
pub fn extract_kernel(package: &Path, to: &Path) -> Result<(), PackageError> {
    extract(package, Wanted::Kernel, to)
}
