//! What an engine holds of the host's memory beside the guest's pages, and how much that may be.

/// See the module. Any thread may ask and say, while vCPUs run.
pub trait EngineMemory: Send + Sync {
    /// Bytes that all vCPUs of the VM hold together, with what they share.
    fn held_bytes(&self) -> u64;

    /// Of these, bytes of code made of the guest's, which lie in a memory file and not in the process's own memory.
    fn code_bytes(&self) -> u64;

    /// So many bytes may be held from now on; `None`: as many as the engine makes use of. Each vCPU's
    /// thread gives back what is too much when it next asks ([`crate::Vcpu::keep_memory_limit`]), so who cannot wait kicks it.
    fn set_limit(&self, bytes: Option<u64>);
}
