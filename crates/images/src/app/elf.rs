//! What an ELF file says it needs (System V ABI, "Dynamic Linking").

use goblin::elf::Elf;
use goblin::elf::header::EM_X86_64;
use thiserror::Error;

/// Why a file is of no use.
#[derive(Debug, Error)]
pub enum ElfError {
    /// Its headers contradict each other.
    #[error("it is a broken ELF file: {0}")]
    Broken(String),
    /// It is for another machine.
    #[error("it is for another machine than a 64-bit PC")]
    OtherMachine,
}

/// Needs of one file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// The dynamic loader.
    pub(super) interpreter: Option<String>,
    /// Libraries, as they are named in the file.
    pub(super) libraries: Vec<String>,
    /// Folders to look in before all others, also for the libraries' libraries.
    pub(super) rpath: Vec<String>,
    /// Folders to look in for this file's libraries.
    pub(super) runpath: Vec<String>,
}

/// Whether a file starts as ELF files do.
pub(super) fn is_elf(head: &[u8]) -> bool {
    head.starts_with(b"\x7fELF")
}

/// Reads the needs of a whole file.
pub(super) fn needs(bytes: &[u8]) -> Result<Needs, ElfError> {
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
