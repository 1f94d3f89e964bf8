//! What lies in a process's own address space: its command line, read through its own page tables.

use x86::{Gpa, Gva};

use crate::blind::Blind;
use crate::look::Look;
use crate::space::Root;

/// Longest command line that is read.
const MAX_COMMAND_LINE: u64 = 64 << 10;

impl Look<'_> {
    /// The words a process was started with.
    pub(super) fn command_line(&self, mm: Gva) -> Result<Vec<String>, Blind> {
        let object = self.object("mm_struct", mm)?;
        let start = object.number("arg_start")?;
        let end = object.number("arg_end")?;
        let len = end.saturating_sub(start).min(MAX_COMMAND_LINE);
        let table = self.space().translate(object.pointer("pgd")?)?;
        let levels = self.space().root().map_or(4, |root| root.levels);
        let own = self.space().through(Root {
            gpa: Gpa(table.0),
            levels,
        });
        let bytes = own
            .bytes(Gva(start), len as usize)
            .map_err(|blind| match blind {
                Blind::Unmapped(_) => {
                    Blind::NotGiven("the page with the command line is not in the guest's memory")
                }
                blind => blind,
            })?;
        let text = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
        if text.is_empty() {
            return Ok(Vec::new());
        }
        Ok(text
            .split(|&byte| byte == 0)
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect())
    }

    /// The path of a process's program.
    pub(super) fn executable(&self, mm: Gva) -> Result<String, Blind> {
        let file = self.member("mm_struct", mm, "exe_file")?;
        if file == 0 {
            return Err(Blind::NotGiven("the process has let go of its program"));
        }
        self.marked_path(Gva(file))
    }
}
