//! Guests for these measurements: the small one with a shell, told by commands what to do.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};

/// The program.
pub(super) const MOTHER: &str = "target/release/mother";

/// A guest whose shell we type into.
pub(super) struct Guest {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Guest {
    pub(super) fn start(name: &str, words: &[&str]) -> Result<Guest> {
        let mut child = Command::new(MOTHER)
            .args(["run", "--name", name, "--timeout", "580s"])
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("start mother")?;
        let input = child.stdin.take().context("the input was asked for as a pipe")?;
        let output = child.stdout.take().context("the output was asked for as a pipe")?;
        Ok(Guest { child, input, output: BufReader::new(output) })
    }

    /// Types commands.
    pub(super) fn say(&mut self, commands: &str) -> Result<()> {
        writeln!(self.input, "{commands}").context("type into the guest")?;
        self.input.flush().context("type into the guest")
    }

    /// What stands behind `word` on the next line that begins with it.
    pub(super) fn hear(&mut self, word: &str) -> Result<String> {
        let mut line = Vec::new();
        loop {
            line.clear();
            if self.output.read_until(b'\n', &mut line)? == 0 {
                bail!("the guest ended before it said {word}");
            }
            if let Some(rest) = String::from_utf8_lossy(&line).trim().strip_prefix(word) {
                return Ok(rest.trim().to_owned());
            }
        }
    }

    /// Its input ends, which ends it.
    pub(super) fn finish(self) -> Result<()> {
        let Guest { mut child, input, mut output } = self;
        drop(input);
        let _ = std::io::copy(&mut output, &mut std::io::sink());
        child.wait().context("wait for mother")?;
        Ok(())
    }
}

/// Runs `mother` with these words; its output.
pub(super) fn mother(words: &[&str]) -> Result<String> {
    let output = Command::new(MOTHER).args(words).output().context("start mother")?;
    if !output.status.success() {
        bail!("mother {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
