//! What is had of another hypervisor's process: opened by whoever may, read by somebody who may open nothing.
//!
//! Everything that a look needs is one of few things ([`ProcessReach`]): texts that the kernel writes, memory, the file behind
//! RAM that is shared, numbers, and lines of QMP. [`HostProcess`] opens them; it reads no byte of the guest's, and of what
//! the process itself may have written (names of its threads, answers of QMP) it reads nothing but how long it is.

use std::fs::File;
use std::io;

use fleet::foreign::{Foreign, ProcessBooks};
use serde::{Deserialize, Serialize};

use super::files::ProcessFiles;
use super::maps::{self, Mapping};
use super::qmp::{QmpLink, QmpSocket};

/// Most threads that are looked at.
const THREADS_MAX: usize = 1 << 14;
/// The longest name of a thread, and the longest text of its schedstat.
const WORDS_MAX: u64 = 256;

/// A text that the kernel writes of a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ProcessText {
    /// Its mappings.
    Maps,
    /// The same, with what is there of each.
    Smaps,
    /// What it read and wrote.
    Io,
}

impl ProcessText {
    fn name(self) -> &'static str {
        match self {
            ProcessText::Maps => "maps",
            ProcessText::Smaps => "smaps",
            ProcessText::Io => "io",
        }
    }
}

/// A thread as the kernel tells of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ThreadText {
    /// Its number.
    pub tid: u32,
    /// The name that it gave itself.
    pub comm: String,
    /// Its times (kernel documentation, scheduler/sched-stats).
    pub schedstat: String,
}

/// A process of another hypervisor that is looked at.
pub trait ProcessReach: Send + Sync {
    /// What was found of it.
    fn vm(&self) -> &Foreign;

    /// A text of it, as it is now.
    ///
    /// # Errors
    /// If it has ended, or the host does not say.
    fn text(&self, text: ProcessText) -> io::Result<String>;

    /// Its memory and its page map, for reading.
    ///
    /// # Errors
    /// As [`ProcessReach::text`].
    fn memory(&self) -> io::Result<[File; 2]>;

    /// The file behind a shared mapping that may be RAM, for reading.
    ///
    /// # Errors
    /// As [`ProcessReach::text`], or if there is no such mapping.
    fn behind(&self, mapping: &Mapping) -> io::Result<File>;

    /// Its threads.
    ///
    /// # Errors
    /// As [`ProcessReach::text`].
    fn threads(&self) -> io::Result<Vec<ThreadText>>;

    /// What it costs.
    ///
    /// # Errors
    /// If nobody answers.
    fn costs(&self) -> io::Result<ProcessBooks>;

    /// Its first QMP socket; nothing where it has none.
    ///
    /// # Errors
    /// If that cannot be reached.
    fn qmp(&self) -> io::Result<Option<Box<dyn QmpLink>>>;
}

/// A process that was opened here, with the rights that this takes.
pub struct HostProcess {
    vm: Foreign,
    files: ProcessFiles,
}

impl HostProcess {
    /// Opens the process of a VM.
    ///
    /// # Errors
    /// If it is gone, or belongs to somebody else.
    pub fn open(vm: Foreign) -> io::Result<HostProcess> {
        let files = ProcessFiles::open(vm.pid)?;
        Ok(HostProcess { vm, files })
    }

    /// A text of it, as the kernel writes it.
    ///
    /// # Errors
    /// If it has ended, or the host does not say.
    pub fn bytes(&self, text: ProcessText) -> io::Result<Vec<u8>> {
        self.files.bytes(text.name())
    }

    /// A connection to its first QMP socket; nothing where it has none.
    ///
    /// # Errors
    /// If that cannot be reached.
    pub fn connect_qmp(&self) -> io::Result<Option<QmpSocket>> {
        let path = self.vm.qmp.first();
        path.map(|path| QmpSocket::connect(path)).transpose()
    }
}

impl ProcessReach for HostProcess {
    fn vm(&self) -> &Foreign {
        &self.vm
    }

    fn text(&self, text: ProcessText) -> io::Result<String> {
        let bytes = self.bytes(text)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn memory(&self) -> io::Result<[File; 2]> {
        Ok([self.files.file("mem")?, self.files.file("pagemap")?])
    }

    fn behind(&self, mapping: &Mapping) -> io::Result<File> {
        // Whoever asks may be the guest's: of the process's other files it gets none.
        let all = maps::mappings(&self.text(ProcessText::Maps)?);
        let ram = maps::ram(&all, self.vm.memory_believed_bytes, super::RAM_BYTES_MIN);
        let is_ram = mapping.is_shared && ram.contains(mapping);
        if !is_ram {
            return Err(io::Error::from(rustix::io::Errno::PERM));
        }
        self.files.behind(mapping)
    }

    fn threads(&self) -> io::Result<Vec<ThreadText>> {
        let names = self.files.names("task")?.into_iter().take(THREADS_MAX);
        let thread = |name: String| {
            let text = |file: &str| self.files.words(&format!("task/{name}/{file}"), WORDS_MAX);
            Some(ThreadText {
                tid: name.parse().ok()?,
                comm: text("comm").ok()?,
                schedstat: text("schedstat").ok()?,
            })
        };
        Ok(names.filter_map(thread).collect())
    }

    fn costs(&self) -> io::Result<ProcessBooks> {
        Ok(ProcessBooks::of(self.vm.pid))
    }

    fn qmp(&self) -> io::Result<Option<Box<dyn QmpLink>>> {
        let socket = self.connect_qmp()?;
        Ok(socket.map(|socket| Box::new(socket) as Box<dyn QmpLink>))
    }
}
