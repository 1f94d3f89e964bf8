//! `mother serve`, and what is asked of the daemon: declared VMs, tokens, other hosts.

mod apply;
mod collector;
mod declare;
mod elsewhere;
mod server;
mod through;
mod tokens;

pub use apply::{ApplyArguments, apply};
pub use declare::{
    CreateArguments, DeleteArguments, EditArguments, EventsArguments, create, delete, edit, events,
};
pub use elsewhere::run as run_elsewhere;
pub use server::{ServeArguments, serve};
pub use through::declared_by_daemon;
pub use tokens::{TokenArguments, token};
