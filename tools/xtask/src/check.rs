//! `cargo xtask check`: does the code have the agreed shape?

use std::time::Duration;

use crate::steps::{Counts, Step, cargo};

/// Formatting, lints, house rules, documentation.
pub fn steps() -> Vec<Step> {
    vec![
        Step {
            name: "fmt".into(),
            command: cargo(&["fmt", "--all", "--check"]),
            limit: Duration::from_secs(60),
            counts: Counts::One,
        },
        Step {
            name: "tidy".into(),
            command: cargo(&["xtask", "tidy"]),
            limit: Duration::from_secs(60),
            counts: Counts::LastLine,
        },
        Step {
            name: "clippy".into(),
            command: cargo(&[
                "clippy",
                "--workspace",
                "--all-targets",
                "--",
                "--deny",
                "warnings",
            ]),
            limit: Duration::from_secs(600),
            counts: Counts::One,
        },
        Step {
            name: "docs".into(),
            command: {
                let mut command = cargo(&[
                    "doc",
                    "--workspace",
                    "--no-deps",
                    "--document-private-items",
                ]);
                // Readers of our own code see private items too.
                command.env(
                    "RUSTDOCFLAGS",
                    "--deny warnings --allow rustdoc::private_intra_doc_links",
                );
                command
            },
            limit: Duration::from_secs(600),
            counts: Counts::One,
        },
    ]
}
