//! How long ago something was, as a person says it.

use std::time::{Duration, SystemTime};

/// From then to now; what is to come is just now.
pub fn ago(time: SystemTime) -> String {
    let passed = SystemTime::now()
        .duration_since(time)
        .unwrap_or(Duration::ZERO)
        .as_secs();
    match passed {
        0..120 => "just now".to_owned(),
        120..7200 => format!("{} minutes ago", passed / 60),
        7200..172_800 => format!("{} hours ago", passed / 3600),
        _ => format!("{} days ago", passed / 86_400),
    }
}
