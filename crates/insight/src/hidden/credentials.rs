//! Credentials that no system call gave. A kernel never writes into credentials that somebody has: it makes new ones and
//! exchanges them (kernel/cred.c), and some of their parts go together. Who writes a user's number into them, or takes over
//! somebody else's, leaves that undone.

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use x86::Gva;

use crate::blind::Blind;
use crate::look::Look;
use crate::observed::Observed;

/// Most findings.
const MAX_TOLD: usize = 64;

/// A process whose credentials no system call can have given it.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct StrangeCredentials {
    /// The process.
    pub pid: i32,
    /// Its name.
    pub comm: String,
    /// What is strange about them.
    pub what: String,
}

impl Look<'_> {
    /// Processes with credentials that do not fit together, or are another process's.
    pub fn strange_credentials(&self) -> Observed<Vec<StrangeCredentials>> {
        self.observed(self.read_strange_credentials())
    }

    fn read_strange_credentials(&self) -> Result<Vec<StrangeCredentials>, Blind> {
        let first = self.symbol("init_cred")?.0;
        let mut owners: HashMap<u64, i32> = HashMap::new();
        let mut found = Vec::new();
        for task in self.listed_tasks()? {
            match self.strange_credentials_of(task, first, &mut owners) {
                Ok(strange) => found.extend(strange),
                Err(Blind::OverBudget(what)) => return Err(Blind::OverBudget(what)),
                Err(Blind::NoType(what)) => return Err(Blind::NoType(what)),
                // Gone while it was read.
                Err(_) => self.space().torn(),
            }
            if found.len() >= MAX_TOLD {
                break;
            }
        }
        Ok(found)
    }

    fn strange_credentials_of(
        &self,
        task: Gva,
        first: u64,
        owners: &mut HashMap<u64, i32>,
    ) -> Result<Option<StrangeCredentials>, Blind> {
        // Threads of the kernel have what they were made with.
        let has_program = || self.member("task_struct", task, "mm").map(|mm| mm != 0);
        let credentials = self.member("task_struct", task, "real_cred")?;
        if !has_program()? {
            return Ok(None);
        }
        let pid = self.member("task_struct", task, "tgid")? as i32;
        let what = match owners.insert(credentials, pid) {
            _ if credentials == first => Some("they are the kernel's own first ones".to_owned()),
            // Each process has its own from the start; only threads of one share them (`copy_creds`).
            Some(other) => Some(format!("process {other} has the very same")),
            None => self.contradiction_in(Gva(credentials))?,
        };
        let Some(what) = what else { return Ok(None) };
        // Exchanged or gone while they were read.
        if self.member("task_struct", task, "real_cred")? != credentials || !has_program()? {
            return Ok(None);
        }
        let comm = self.object("task_struct", task)?.text("comm")?;
        Ok(Some(StrangeCredentials { pid, comm, what }))
    }

    /// What of credentials does not go together.
    fn contradiction_in(&self, credentials: Gva) -> Result<Option<String>, Blind> {
        let object = self.object("cred", credentials)?;
        let uid = object.number("uid.val")?;
        // Whoever becomes another user is counted as that one from then on (`set_user`, kernel/sys.c).
        let counted = self.member("user_struct", object.pointer("user")?, "uid.val")?;
        if uid != counted {
            return Ok(Some(format!(
                "the user is {uid}, and is counted as user {counted}"
            )));
        }
        let set = |path: &str| -> Result<u64, Blind> {
            let bytes = object.bytes(path)?.first_chunk().copied();
            Ok(bytes.map_or(0, u64::from_le_bytes))
        };
        // What is effective has been permitted (capabilities(7)).
        let more = set("cap_effective")? & !set("cap_permitted")?;
        Ok((more != 0).then(|| format!("capabilities {more:#x} are effective and not permitted")))
    }
}
