//! What is said to the guest agent, which is a program of the guest and believed in nothing.
//!
//! It is at port [`PORT`] of the guest's socket device. The agent says [`GREETING`] first; what follows are messages: their
//! kind (one byte), their length (four bytes, the lowest first), and that many bytes. What they mean stands at the
//! other end, `guests/toolbox/src/warden/agent/mod.rs`, which has the same numbers (a test compares them).

/// Its port.
pub const PORT: u32 = 668;

/// What the agent says first.
pub const GREETING: &[u8] = b"\0mother agent 1\n";

/// Longest message, without its head.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Standard input that may be under way.
pub const WINDOW: usize = 256 * 1024;

/// Kinds of messages to the agent.
pub mod to_agent {
    /// Start a program: zero-ended words `key=value` (`arg`, `env`, `cwd`, `user`, `tty`).
    pub const START: u8 = 1;
    /// Standard input.
    pub const INPUT: u8 = 2;
    /// Its end.
    pub const INPUT_ENDS: u8 = 3;
    /// Send its processes the signal with this number (one byte).
    pub const SIGNAL: u8 = 4;
    /// Its terminal has so many rows and columns now (two bytes each).
    pub const SIZE: u8 = 5;
    /// Hold the guest still.
    pub const FREEZE: u8 = 6;
    /// Let it go on.
    pub const THAW: u8 = 7;
    /// Send files: zero-ended words `key=value` (`path`, and `follow` if what is named and is a link stands for where that
    /// leads). What comes is [`super::copied`].
    pub const GIVE: u8 = 8;
    /// Put files there: words (`to`, `several`, `owners`). What follows is [`super::copied`].
    pub const TAKE: u8 = 9;
}

/// Kinds of messages that carry files, in either direction.
pub mod copied {
    /// A file, folder or link ([`crate::Entry`]). What there is of it comes before the next.
    pub const ENTRY: u8 = 10;
    /// Bytes of the file that was named last: where they are in it (eight bytes), and they. What is left out is a hole.
    pub const DATA: u8 = 11;
    /// Nothing more comes.
    pub const END: u8 = 12;
}

/// Kinds of messages from the agent.
pub mod from_agent {
    /// Standard output.
    pub const OUTPUT: u8 = 65;
    /// Standard error.
    pub const ERRORS: u8 = 66;
    /// So many bytes of the input were taken (four bytes).
    pub const TOOK: u8 = 67;
    /// The program has ended with this status (four bytes).
    pub const EXIT: u8 = 68;
    /// It cannot be done: an exit status (four bytes), and why.
    pub const FAILED: u8 = 69;
    /// The guest stands still.
    pub const FROZEN: u8 = 70;
    /// It goes on, with random numbers of its own.
    pub const THAWED: u8 = 71;
    /// All files are there: how many could not be (eight bytes).
    pub const DONE: u8 = 72;
    /// Something was left out: a zero-ended path, and why.
    pub const LEFT_OUT: u8 = 73;
    /// How much is going to come: entries, and bytes of files (eight bytes each).
    pub const TOTAL: u8 = 74;
}

#[cfg(test)]
mod tests {
    /// Constants with a number, by name.
    fn numbers(source: &str) -> Vec<(String, String)> {
        let lines = source.lines().map(str::trim);
        let found = lines.filter_map(|line| {
            let line = line.trim_start_matches("pub ");
            let (name, value) = line.strip_prefix("const ")?.split_once(": ")?;
            let (_, value) = value.split_once(" = ")?;
            Some((name.to_owned(), value.trim_end_matches(';').to_owned()))
        });
        found.collect()
    }

    #[test]
    fn both_ends_have_the_same_numbers() {
        let guest = numbers(include_str!(
            "../../../guests/toolbox/src/warden/agent/mod.rs"
        ));
        let ours = numbers(include_str!("agent.rs"));
        assert!(ours.len() > 20, "{ours:?}");
        for constant in &ours {
            assert!(guest.contains(constant), "{constant:?} is not the guest's");
        }
    }
}
