//! Tests of whole machines: on vCPUs that follow a script, and on the software CPU.

mod guest;
mod run;
mod scripted;
