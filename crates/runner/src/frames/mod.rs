//! What the processes on a guest's wire share: frames in a stream, the fields of a frame that decide where it goes, names that
//! are answered, and the account of what was refused.
//!
//! Everything that is read here was written by a guest, so all of it is used in jails alone.

pub(crate) mod names;
pub(crate) mod packet;
pub(crate) mod refusals;
pub(crate) mod stream;
