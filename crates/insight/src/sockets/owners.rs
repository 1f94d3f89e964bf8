//! Which processes hold which sockets: through the open files of every process.

use std::collections::{BTreeSet, HashMap};

use x86::Gva;

use super::Owner;
use crate::blind::Blind;
use crate::look::Look;

/// Most open files of one process that are looked at.
const MAX_FILES: u64 = 1 << 20;
/// Bytes of a table of open files that are read at once.
const PIECE: usize = 1 << 16;

/// Holders of sockets, by where their `struct sock` is.
#[derive(Debug, Default)]
pub(super) struct Owners(HashMap<u64, BTreeSet<Owner>>);

impl Owners {
    /// Who holds a socket.
    pub(super) fn of(&self, sock: Gva) -> Vec<Owner> {
        self.0.get(&sock.0).into_iter().flatten().cloned().collect()
    }
}

impl Look<'_> {
    /// Looks at the open files of every process.
    pub(super) fn socket_owners(&self) -> Result<Owners, Blind> {
        let operations = self.symbol("socket_file_ops")?;
        let mut owners = Owners::default();
        // Many processes hold the same files: each is looked at once.
        let mut sockets: HashMap<u64, Option<u64>> = HashMap::new();
        for task in self.listed_tasks()? {
            match self.sockets_of(task, operations, &mut sockets, &mut owners) {
                Ok(()) => {}
                Err(Blind::OverBudget(what)) => return Err(Blind::OverBudget(what)),
                Err(Blind::NoType(what)) => return Err(Blind::NoType(what)),
                Err(_) => self.space().torn(),
            }
        }
        Ok(owners)
    }

    fn sockets_of(
        &self,
        task: Gva,
        operations: Gva,
        sockets: &mut HashMap<u64, Option<u64>>,
        owners: &mut Owners,
    ) -> Result<(), Blind> {
        let files = self.member("task_struct", task, "files")?;
        if files == 0 {
            return Ok(());
        }
        let table = self.object(
            "fdtable",
            Gva(self.member("files_struct", Gva(files), "fdt")?),
        )?;
        let count = table.number("max_fds")?.min(MAX_FILES) as usize;
        let start = table.pointer("fd")?;
        let mut held = BTreeSet::new();
        for first in (0..count * 8).step_by(PIECE) {
            let bytes = self.space().bytes(
                Gva(start.0.wrapping_add(first as u64)),
                PIECE.min(count * 8 - first),
            )?;
            let pointers = bytes
                .chunks_exact(8)
                .filter_map(|pointer| pointer.try_into().ok());
            for file in pointers
                .map(u64::from_le_bytes)
                .filter(|pointer| *pointer != 0)
            {
                let sock = match sockets.get(&file) {
                    Some(sock) => *sock,
                    None => {
                        let sock = self.sock_of(Gva(file), operations);
                        if let Err(Blind::OverBudget(what)) = sock {
                            return Err(Blind::OverBudget(what));
                        }
                        // A file that was closed meanwhile is nobody's socket.
                        let sock = sock.ok().flatten();
                        sockets.insert(file, sock);
                        sock
                    }
                };
                held.extend(sock);
            }
        }
        if held.is_empty() {
            return Ok(());
        }
        let leader = self.object("task_struct", task)?;
        let owner = Owner {
            pid: leader.i32("tgid")?,
            comm: leader.text("comm")?,
        };
        for sock in held {
            owners.0.entry(sock).or_default().insert(owner.clone());
        }
        Ok(())
    }

    /// The socket that an open file stands for, if it is one.
    fn sock_of(&self, file: Gva, operations: Gva) -> Result<Option<u64>, Blind> {
        if self.member("file", file, "f_op")? != operations.0 {
            return Ok(None);
        }
        let socket = self.member("file", file, "private_data")?;
        Ok(Some(self.member("socket", Gva(socket), "sk")?).filter(|sock| *sock != 0))
    }
}
