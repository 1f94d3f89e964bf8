//! virtio-fs (5.11): a folder of the host in the guest, of which this device sees messages alone.
//!
//! # Problem
//!
//! A guest's requests are FUSE messages in its memory, whose pages may be away, which the VM's process alone hears of. What they ask for
//! are files, which that process must not be able to open.
//!
//! # How
//!
//! The queues are here, the files are elsewhere (decision 37):
//!
//! ```text
//! chain ──copied──> one message ──> socket ──> who serves the folder (crate `folder`)
//! chain <──copied── one answer  <── socket <──
//! ```
//!
//! On its way out a message gets a number of ours in place of the guest's own (`unique`): whatever a guest numbers how, an answer belongs
//! to one chain, and one that a driver was owed which has been reset since belongs to none. Neither side is believed: a message that is not of the length
//! that it says never reaches the socket, and an answer that does not fit into the guest's buffers is an I/O error.
//!
//! **A server that is gone stays gone**, for what the guest has open went with it. Every request is an I/O error from then on, and the guest
//! lives.
//!
//! Nothing of this can be carried to another machine ([`Back::Folder`](crate::virtio::Back::Folder)).

mod device;
mod link;
mod worker;

pub use device::Folder;
pub use link::FolderPort;
