//! Tests of whole machines: on vCPUs that follow a script, and on the software CPU.

mod guest;
mod run;
pub(crate) mod scripted;
