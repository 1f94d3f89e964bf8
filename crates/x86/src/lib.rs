//! Facts of the x86-64 architecture: addresses, registers, paging formats, exceptions, MSRs, CPUID.
//!
//! No I/O, no state, no unsafe. What stands here is true of every engine; sources are the AMD64 Architecture
//! Programmer's Manual (APM) and the Intel 64 Software Developer's Manual (SDM), cited by volume and section.
#![forbid(unsafe_code)]

pub mod address;
pub mod cpu_model;
pub mod cpuid;
pub mod debug;
pub mod exception;
pub mod flags;
pub mod msr;
pub mod paging;
pub mod segment;

pub use address::{Gfn, Gpa, Gva, PAGE_SIZE};
pub use cpuid::{CpuidLeaf, CpuidTable};
pub use exception::{Exception, PageFaultCode, Vector};
pub use flags::{Cr0, Cr4, Efer, Rflags};
pub use segment::{DescriptorTable, Segment};
