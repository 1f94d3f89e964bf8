//! Numbers an engine counts about itself.

/// What a number means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Plain events since the start.
    Count,
    /// Bytes now.
    Bytes,
    /// Events of all vCPUs since the start: each vCPU tells the same number.
    SharedCount,
    /// Bytes now that all vCPUs share: each vCPU tells the same number.
    SharedBytes,
}

/// Named numbers, in the order to be shown. Every engine has its own set.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EngineStatistics(pub Vec<(&'static str, Unit, u64)>);

impl EngineStatistics {
    /// The number called `name`.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.0
            .iter()
            .find(|(key, ..)| *key == name)
            .map(|&(.., value)| value)
    }
}
