//! `mother truth --watch` without a name: every guest again and again, each at its own pace.
//!
//! A guest that works is looked at once a second, one that sleeps every [`QUIET`]: what can change in a guest that uses no
//! CPU is little. For programs there is a line when something is new, and every [`AT_LEAST`].

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use api::{VmName, VmState};
use fleet::{ClientError, Inventory};
use host::lock::Lock;
use insight::verdict::{standing, worst};
use serde_json::Value;
use watch::{Assessment, Watcher};

use super::everybody::{everybody, used};
use super::observe::cache;
use crate::answers::{self, Sighted, TruthOfOne};
use crate::failure::Failure;
use crate::output::{is_shown, say};

/// Between two looks at a guest that works, and at the list of VMs.
const EVERY: Duration = Duration::from_secs(1);
/// Between two looks at one that sleeps.
const QUIET: Duration = Duration::from_secs(5);
/// Longest silence about a guest.
const AT_LEAST: Duration = Duration::from_secs(10);
/// Between two times that memory which is not needed any more is given back.
const GIVE_BACK_EVERY: Duration = Duration::from_secs(10);
/// Who uses less of a core than this sleeps.
const WORKS_SHARE: f64 = 0.02;
/// What a guest's watcher needs of its stack.
const STACK_BYTES: usize = 2 << 20;
/// Home, and clear to the end.
const CLEAR: &str = "\x1b[H\x1b[J";

/// Held by who looks at a guest for the first time.
static FIRST: Lock<()> = Lock::new(());

/// Watches all guests until nobody reads any more.
pub(super) fn watch_all(is_json: bool) -> Result<u8, Failure> {
    if !is_json {
        let is_terminal = is_shown();
        loop {
            if is_terminal {
                say(CLEAR)?;
            }
            everybody(false)?;
            thread::sleep(EVERY);
        }
    }
    host::heap::share();
    let inventory = Inventory::of_user()?;
    let mut gave_back = Instant::now();
    // The first that cannot be written ends it.
    let failed: Arc<Lock<Option<Failure>>> = Arc::default();
    let watched: Arc<Lock<BTreeSet<VmName>>> = Arc::default();
    loop {
        if let Some(failure) = failed.lock().take() {
            return Err(failure);
        }
        for vm in inventory.list()? {
            let is_gone = matches!(vm.state, VmState::Ended | VmState::Died | VmState::Starting);
            if is_gone || !watched.lock().insert(vm.name.clone()) {
                continue;
            }
            let one = One {
                inventory: inventory.clone(),
                name: vm.name.clone(),
                cache: cache(),
            };
            let failed = Arc::clone(&failed);
            let of_all = Arc::clone(&watched);
            let watch = move || {
                if let Err(failure) = one.watch() {
                    *failed.lock() = Some(failure);
                }
                of_all.lock().remove(&one.name);
            };
            let begun = thread::Builder::new()
                .name("guest".to_owned())
                .stack_size(STACK_BYTES)
                .spawn(watch);
            if begun.is_err() {
                // The next turn tries again.
                watched.lock().remove(&vm.name);
            }
        }
        // What looking into guests that boot has taken, over all of their memory.
        if gave_back.elapsed() >= GIVE_BACK_EVERY {
            gave_back = Instant::now();
            host::heap::give_back();
        }
        thread::sleep(EVERY);
    }
}

/// One guest.
struct One {
    inventory: Inventory,
    name: VmName,
    cache: Option<PathBuf>,
}

impl One {
    /// Watches until it has ended.
    fn watch(&self) -> Result<(), Failure> {
        let record = self.inventory.record(&self.name);
        let mut watcher = match Watcher::connect(record, self.cache.clone()) {
            Ok(watcher) => watcher.for_long(),
            Err(ClientError::Connection(_)) => return Ok(()),
            Err(error) => return self.say_unseen(&error),
        };
        let mut said: Option<(Value, Instant)> = None;
        let mut cpu: Option<(f64, Instant)> = None;
        // The first look finds the kernel and compares all of its code: one guest at a time, so that what it takes is taken
        // once. What comes of it is said by the next.
        {
            let _one = FIRST.lock();
            if let Err(ClientError::Connection(_)) = watcher.assess() {
                return Ok(());
            }
        }
        loop {
            match watcher.assess() {
                Ok(assessment) => self.say_new(&assessment, &mut said)?,
                Err(ClientError::Connection(_)) => return Ok(()),
                // It starts again just now.
                Err(ClientError::Refused { .. }) => {}
                Err(error) => return self.say_unseen(&error),
            }
            let works = self.works(&mut cpu);
            watcher.wait(if works { EVERY } else { QUIET });
        }
    }

    /// Whether it has used the CPU since the last time.
    fn works(&self, last: &mut Option<(f64, Instant)>) -> bool {
        let status = self.inventory.find(&self.name).ok();
        let Some(now) = status.and_then(|vm| vm.status).map(|it| it.cpu_seconds) else {
            return true;
        };
        let before = last.replace((now, Instant::now()));
        before.is_none_or(|(used, at)| now - used > WORKS_SHARE * at.elapsed().as_secs_f64())
    }

    /// Says what is seen, if it is new.
    fn say_new(
        &self,
        assessment: &Assessment,
        said: &mut Option<(Value, Instant)>,
    ) -> Result<(), Failure> {
        let (claimed_used_bytes, kernel_used_bytes) = used(assessment);
        let sighted = Sighted {
            seen: TruthOfOne::Seen {
                name: &self.name,
                state: VmState::Running,
                worst: worst(&assessment.rows),
                standing: standing(&assessment.rows),
                rows: &assessment.rows,
                kernel: &assessment.kernel,
                cost: &assessment.cost,
            },
            memory: Some(&assessment.books.memory),
            working_set: assessment.books.working_set,
            claimed_used_bytes,
            kernel_used_bytes,
        };
        let value = serde_json::to_value(&sighted).unwrap_or_default();
        let is_known = said
            .as_ref()
            .is_some_and(|(last, at)| at.elapsed() < AT_LEAST && is_same(last, &value));
        if !is_known {
            say(&answers::short(&value))?;
            *said = Some((value, Instant::now()));
        }
        Ok(())
    }

    fn say_unseen(&self, error: &ClientError) -> Result<(), Failure> {
        let why = error.to_string();
        let sighted = Sighted {
            seen: TruthOfOne::Unseen {
                name: &self.name,
                state: VmState::Unresponsive,
                why_not: &why,
            },
            memory: None,
            working_set: None,
            claimed_used_bytes: None,
            kernel_used_bytes: None,
        };
        say(&answers::short(&sighted))?;
        thread::sleep(QUIET);
        Ok(())
    }
}

/// Whether two sights say the same of the guest; how long looking took, and how old a word is, is not about it.
fn is_same(one: &Value, other: &Value) -> bool {
    let about = |value: &Value| {
        let mut value = value.clone();
        value["cost"] = Value::Null;
        for row in value["rows"].as_array_mut().into_iter().flatten() {
            row["age_ms"] = Value::Null;
            row["readings"] = Value::Null;
        }
        value
    };
    about(one) == about(other)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_age_of_a_word_is_no_news() {
        let sight = |claim: &str, age: u64| {
            json!({ "name": "web", "cost": { "age": age },
                "rows": [{ "claim": claim, "age_ms": age, "readings": age }] })
        };
        assert!(is_same(&sight("4", 1), &sight("4", 2)));
        assert!(!is_same(&sight("4", 1), &sight("5", 1)));
    }
}
