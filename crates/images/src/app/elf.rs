//! What an ELF file says it needs (System V ABI, "Dynamic Linking").

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use goblin::elf::Elf;
use goblin::elf::header::EM_X86_64;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::container::InThisProcess;

/// Why a file is of no use.
#[derive(Clone, PartialEq, Eq, Debug, Error, Serialize, Deserialize)]
pub enum ElfError {
    /// Its headers contradict each other.
    #[error("it is a broken ELF file: {0}")]
    Broken(String),
    /// It is for another machine.
    #[error("it is for another machine than a 64-bit PC")]
    OtherMachine,
    /// The host does not let it be read, or what reads it is gone.
    #[error("it cannot be read: {0}")]
    Unread(String),
}

/// Reads what ELF files need, in a process that may be another one: programs are foreign too.
pub trait ReadElf {
    /// Reads the needs of one file.
    ///
    /// # Errors
    /// If it is no ELF file of this machine's, or cannot be read.
    fn needs(&self, file: &File) -> Result<Needs, ElfError>;
}

impl ReadElf for InThisProcess {
    fn needs(&self, file: &File) -> Result<Needs, ElfError> {
        let unread = |error: io::Error| ElfError::Unread(error.to_string());
        let len = file.metadata().map_err(unread)?.len();
        if len > FILE_BYTES_MAX {
            return Err(ElfError::Broken(format!(
                "it is longer than {FILE_BYTES_MAX} bytes"
            )));
        }
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        file.read_exact_at(&mut bytes, 0).map_err(unread)?;
        needs(&bytes)
    }
}

/// Longest program or library that is looked into.
const FILE_BYTES_MAX: u64 = 4 << 30;

/// Needs of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needs {
    /// The dynamic loader.
    pub interpreter: Option<String>,
    /// Libraries, as they are named in the file.
    pub libraries: Vec<String>,
    /// Folders to look in before all others, also for the libraries' libraries.
    pub rpath: Vec<String>,
    /// Folders to look in for this file's libraries.
    pub runpath: Vec<String>,
}

/// Whether a file starts as ELF files do.
pub(super) fn is_elf(head: &[u8]) -> bool {
    head.starts_with(b"\x7fELF")
}

/// Reads the needs of a whole file.
fn needs(bytes: &[u8]) -> Result<Needs, ElfError> {
    let elf = Elf::parse(bytes).map_err(|error| ElfError::Broken(error.to_string()))?;
    if !elf.is_64 || elf.header.e_machine != EM_X86_64 || !elf.little_endian {
        return Err(ElfError::OtherMachine);
    }
    let paths = |lists: &[&str]| -> Vec<String> {
        lists
            .iter()
            .flat_map(|list| list.split(':'))
            .filter(|path| !path.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let runpath = paths(&elf.runpaths);
    // A file with a RUNPATH has no RPATH (ld.so(8)).
    let rpath = if runpath.is_empty() {
        paths(&elf.rpaths)
    } else {
        Vec::new()
    };
    Ok(Needs {
        interpreter: elf.interpreter.map(str::to_owned),
        libraries: elf.libraries.iter().map(|&name| name.to_owned()).collect(),
        rpath,
        runpath,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_very_test_needs_a_loader_and_the_c_library() {
        let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let needs = needs(&bytes).unwrap();
        assert!(needs.interpreter.is_some_and(|path| path.contains("ld-")));
        assert!(
            needs.libraries.iter().any(|name| name.starts_with("libc.")),
            "{:?}",
            needs.libraries
        );
    }

    #[test]
    fn a_cut_file_is_broken_and_another_machines_is_refused() {
        let mut bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(matches!(needs(&bytes[..40]), Err(ElfError::Broken(_))));
        // e_machine: 183 is AArch64.
        bytes[18] = 183;
        assert!(matches!(needs(&bytes), Err(ElfError::OtherMachine)));
    }
}
