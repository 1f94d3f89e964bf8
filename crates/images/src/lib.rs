//! Guest images that nobody has to bring: Debian's kernel, Debian's busybox, and an initrd made of them.
//!
//! Packages are fetched by the host's own apt, with the host's own sources, keys and proxies but with private state,
//! so they are verified exactly as apt verifies, need no root and leave the host's apt as it was. What we take out of
//! them lies under `$XDG_CACHE_HOME/mother` and is used from there without calling apt again.
//!
//! Invariant: whatever has its final name in the cache is complete. Everything is made in a work folder and renamed;
//! one lock lets one process at a time do so.
#![forbid(unsafe_code)]

mod app;
mod app_guest;
mod apt;
mod archive;
mod boot_entry;
mod cache;
mod container;
mod contents;
mod debian;
mod debian_image;
mod disk_guest;
mod ext4;
pub mod fetch;
mod file;
mod guest_config;
mod hexadecimal;
mod initrd;
mod modules;
mod package;
mod passt;
mod progress;
mod runs;
mod seed;
mod stamp;
mod store;
mod toolbox;
mod tree;
mod work;

pub use app::{AppError, AppRequest, ElfError, Needs, ReadElf};
pub use apt::{AptError, has_apt};
pub use boot_entry::{
    BootEntry, BootError, BootOnto, Bootable, DiscNames, OnDisc, ReadDisk, disc_of_files,
    entry_of_files, is_disc, read_boot_entry,
};
pub use cache::{AppImageError, Begun, Cache, CacheError, DefaultGuest};
pub use container::{
    ContainerError, InThisProcess, Input, Made, Onto, OpenPart, OpenedContainer, Parts,
    ReadContainer, ToldError, is_archive,
};
pub use debian::{AssembleError, CONFIGURED_MARKER, DebianRelease};
pub use debian_image::{DebianBuild, DebianError};
pub use ext4::Ext4Error;
pub use file::FileError;
pub use guest_config::{GREETING, GuestCommand, PROGRAM_PORTS};
pub use initrd::INIT_MARKER;
pub use package::PackageError;
pub use progress::{Amount, OnProgress, Progress, Unit};
pub use runs::RunFolder;
pub use seed::{
    SSH_KEYS_BYTES_MAX, Seed, SshKeyError, USER_DATA_BYTES_MAX, UserDataError, check_user_data,
    read_ssh_keys,
};
pub use store::{Freed, Image, ImageKind, Kept, Listed, Store, StoreError};
pub use tree::{Bounded, HeaderBounds};
pub use work::remove_unfinished;
