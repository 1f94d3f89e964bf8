//! Guests for measurements: the small one with a shell, told by commands what to do.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// The program.
pub(super) const MOTHER: &str = "target/release/mother";

/// A guest whose shell we type into.
pub struct Guest {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Guest {
    /// `mother run` with these words; ended after `limit` whatever happens.
    pub fn start(name: &str, words: &[&str], limit: Duration) -> Result<Guest> {
        let mut mother = Command::new(MOTHER);
        mother
            .args([
                "run",
                "--name",
                name,
                "--timeout",
                &format!("{}s", limit.as_secs()),
            ])
            .args(words);
        Guest::spawn(mother)
    }

    /// A program whose input and output are those of a guest's console.
    pub fn spawn(mut program: Command) -> Result<Guest> {
        let mut child = program
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("start {}", program.get_program().to_string_lossy()))?;
        let input = child
            .stdin
            .take()
            .context("the input was asked for as a pipe")?;
        let output = child
            .stdout
            .take()
            .context("the output was asked for as a pipe")?;
        Ok(Guest {
            child,
            input,
            output: BufReader::new(output),
        })
    }

    /// Types commands.
    pub fn say(&mut self, commands: &str) -> Result<()> {
        writeln!(self.input, "{commands}").context("type into the guest")?;
        self.input.flush().context("type into the guest")
    }

    /// What stands behind `word` on the next line that begins with it.
    pub fn hear(&mut self, word: &str) -> Result<String> {
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
    pub fn finish(self) -> Result<()> {
        let Guest {
            mut child,
            input,
            mut output,
        } = self;
        drop(input);
        let _ = std::io::copy(&mut output, &mut std::io::sink());
        child.wait().context("wait for mother")?;
        Ok(())
    }
}

/// Runs `mother` with these words; its output.
pub fn mother(words: &[&str]) -> Result<String> {
    let output = Command::new(MOTHER)
        .args(words)
        .output()
        .context("start mother")?;
    if !output.status.success() {
        bail!(
            "mother {}: {}",
            words.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
