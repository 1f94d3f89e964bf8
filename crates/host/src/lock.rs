//! A mutex, a lock for readers and writers and a condition variable, without poisoning.
//!
//! The standard library's mutex is poisoned when a thread panics while it holds it, and from then on every `lock` has to
//! say what it makes of that. Here a panic is our own mistake: it ends the VM, and until then other threads come to
//! their end in good order and use what they share. So it was said the same way at every place; now it is said here.
//! Where a panic under a lock must be heard, as in the pager's core, the standard mutex stays.

use std::sync::{
    Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
    TryLockError,
};
use std::time::Duration;

/// A mutex that is not poisoned.
#[derive(Debug, Default)]
pub struct Lock<T: ?Sized>(Mutex<T>);

impl<T> Lock<T> {
    /// A lock around `value`.
    pub const fn new(value: T) -> Lock<T> {
        Lock(Mutex::new(value))
    }
}

impl<T: ?Sized> Lock<T> {
    /// Waits for it and takes it.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes it if it is free.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

/// A lock for many readers or one writer that is not poisoned.
#[derive(Debug, Default)]
pub struct SharedLock<T: ?Sized>(RwLock<T>);

impl<T> SharedLock<T> {
    /// A lock around `value`.
    pub const fn new(value: T) -> SharedLock<T> {
        SharedLock(RwLock::new(value))
    }
}

impl<T: ?Sized> SharedLock<T> {
    /// Waits for a writer to leave, and shares it with other readers.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it is free and takes it alone.
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A condition variable for a [`Lock`].
#[derive(Debug, Default)]
pub struct Condition(Condvar);

impl Condition {
    /// A condition for which no thread waits.
    pub const fn new() -> Condition {
        Condition(Condvar::new())
    }

    /// Wakes one thread that waits.
    pub fn notify_one(&self) {
        self.0.notify_one();
    }

    /// Wakes all threads that wait.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }

    /// Waits once; it may have been woken for nothing.
    pub fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        self.0.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits as long as `condition` holds.
    pub fn wait_while<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        condition: impl FnMut(&mut T) -> bool,
    ) -> MutexGuard<'a, T> {
        self.0
            .wait_while(guard, condition)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits once, at most so long; also whether the time was over.
    pub fn wait_timeout<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        patience: Duration,
    ) -> (MutexGuard<'a, T>, bool) {
        let waited = self.0.wait_timeout(guard, patience);
        let (guard, result) = waited.unwrap_or_else(PoisonError::into_inner);
        (guard, result.timed_out())
    }

    /// Waits as long as `condition` holds, at most so long.
    pub fn wait_timeout_while<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        patience: Duration,
        condition: impl FnMut(&mut T) -> bool,
    ) -> MutexGuard<'a, T> {
        let waited = self.0.wait_timeout_while(guard, patience, condition);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn what_a_panic_left_behind_is_used_like_any_other() {
        let lock = Arc::new(Lock::new(1));
        let panicking = Arc::clone(&lock);
        let panic = std::thread::spawn(move || {
            let mut value = panicking.lock();
            *value = 2;
            panic!("with the lock in hand");
        });
        assert!(panic.join().is_err());
        assert_eq!(*lock.lock(), 2);
        assert_eq!(lock.try_lock().map(|value| *value), Some(2));
        let held = lock.lock();
        assert!(lock.try_lock().is_none());
        drop(held);
        let condition = Condition::new();
        let (value, is_over) = condition.wait_timeout(lock.lock(), Duration::from_millis(1));
        assert_eq!((*value, is_over), (2, true));
    }

    #[test]
    fn what_a_writer_left_behind_in_a_panic_is_read_by_all() {
        let lock = Arc::new(SharedLock::new(1));
        let panicking = Arc::clone(&lock);
        let panic = std::thread::spawn(move || {
            let mut value = panicking.write();
            *value = 2;
            panic!("with the lock in hand");
        });
        assert!(panic.join().is_err());
        let readers = (lock.read(), lock.read());
        assert_eq!((*readers.0, *readers.1), (2, 2));
        drop(readers);
        *lock.write() += 1;
        assert_eq!(*lock.read(), 3);
    }
}
