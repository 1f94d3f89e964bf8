//! What keeps a vCPU from running guest code.

/// What keeps a vCPU from running guest code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rest {
    /// Nothing: it runs.
    None,
    /// HLT: until an interrupt or NMI.
    Halted,
    /// INIT: until SIPI. So are all vCPUs but the first at the start.
    WaitsForSipi,
}
