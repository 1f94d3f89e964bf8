//! What a look at a guest costs, and the limits that keep a hostile guest from making it cost more.

use std::cell::Cell;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::blind::Blind;

/// How much one look may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes read from the guest.
    pub bytes: u64,
    /// Single reads, which are system calls.
    pub reads: u64,
    /// How long it took.
    pub time: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            bytes: 2 << 30,
            reads: 20_000_000,
            time: Duration::from_secs(20),
        }
    }
}

/// What it did cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct Cost {
    /// Bytes read from the guest.
    pub bytes: u64,
    /// Single reads.
    pub reads: u64,
    /// Page-table walks.
    pub walks: u64,
    /// Structures that changed while they were read and were read again, or left out.
    pub torn: u64,
    /// Microseconds from the start.
    pub time_us: u64,
}

/// Counts against [`Limits`].
#[derive(Debug)]
pub struct Account {
    limits: Limits,
    start: Instant,
    bytes: Cell<u64>,
    reads: Cell<u64>,
    steps: Cell<u64>,
    walks: Cell<u64>,
    torn: Cell<u64>,
}

impl Account {
    /// Nothing spent yet; the clock runs.
    pub fn new(limits: Limits) -> Account {
        let zero = || Cell::new(0);
        Account {
            limits,
            start: Instant::now(),
            bytes: zero(),
            reads: zero(),
            steps: zero(),
            walks: zero(),
            torn: zero(),
        }
    }

    /// One read of `len` bytes is about to happen.
    ///
    /// # Errors
    /// If that would be over a limit.
    pub fn read(&self, len: usize) -> Result<(), Blind> {
        self.bytes.set(self.bytes.get() + len as u64);
        self.reads.set(self.reads.get() + 1);
        if self.bytes.get() > self.limits.bytes {
            return Err(Blind::OverBudget("bytes"));
        }
        if self.reads.get() > self.limits.reads {
            return Err(Blind::OverBudget("reads"));
        }
        if self.reads.get().is_multiple_of(64) {
            self.check_time()?;
        }
        Ok(())
    }

    /// Something was looked up without a read: hostile lists must end here too.
    ///
    /// # Errors
    /// If that would be over a limit.
    pub fn step(&self) -> Result<(), Blind> {
        self.steps.set(self.steps.get() + 1);
        if self.steps.get() > self.limits.reads {
            return Err(Blind::OverBudget("steps"));
        }
        if self.steps.get().is_multiple_of(1024) {
            self.check_time()
        } else {
            Ok(())
        }
    }

    /// For loops that compute much and read little.
    ///
    /// # Errors
    /// If the time is over.
    pub fn check_time(&self) -> Result<(), Blind> {
        if self.start.elapsed() > self.limits.time {
            Err(Blind::OverBudget("time"))
        } else {
            Ok(())
        }
    }

    /// A page-table walk happened.
    pub fn walk(&self) {
        self.walks.set(self.walks.get() + 1);
    }

    /// A structure was seen changing.
    pub fn torn(&self) {
        self.torn.set(self.torn.get() + 1);
    }

    /// Spent so far.
    pub fn cost(&self) -> Cost {
        Cost {
            bytes: self.bytes.get(),
            reads: self.reads.get(),
            walks: self.walks.get(),
            torn: self.torn.get(),
            time_us: self.start.elapsed().as_micros() as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_spent_first_ends_the_look() {
        let check = |limits: Limits,
                     spend: &dyn Fn(&Account) -> Result<(), Blind>,
                     expected: Option<&'static str>| {
            let account = Account::new(limits);
            let end = (0..100_000).find_map(|_| spend(&account).err());
            assert_eq!(end, expected.map(Blind::OverBudget));
        };
        let limits = Limits {
            bytes: 1 << 20,
            reads: 1000,
            time: Duration::from_secs(60),
        };
        check(limits, &|account| account.read(4096), Some("bytes"));
        check(limits, &|account| account.read(8), Some("reads"));
        check(limits, &Account::step, Some("steps"));
        let short = Limits {
            time: Duration::ZERO,
            ..limits
        };
        check(short, &|account| account.read(8), Some("time"));
        check(short, &Account::check_time, Some("time"));
        check(limits, &Account::check_time, None);
    }

    #[test]
    fn what_was_spent_is_told() {
        let account = Account::new(Limits::default());
        account.read(100).unwrap();
        account.read(28).unwrap();
        account.walk();
        account.torn();
        let cost = account.cost();
        assert_eq!(
            (cost.bytes, cost.reads, cost.walks, cost.torn),
            (128, 2, 1, 1)
        );
    }
}
