//! Policies that make sense as they are.

/// Names of presets, with what is in them.
pub const PRESETS: [(&str, &str); 3] = [
    ("observe", include_str!("presets/observe.toml")),
    ("guarded", include_str!("presets/guarded.toml")),
    ("locked", include_str!("presets/locked.toml")),
];

/// The text of a preset.
pub fn preset(name: &str) -> Option<&'static str> {
    let found = PRESETS.iter().find(|(other, _)| *other == name);
    found.map(|(_, text)| *text)
}
