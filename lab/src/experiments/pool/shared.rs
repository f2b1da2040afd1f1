//! The pool: connections that threads of one process take and give back.
//!
//! All of it is a list under a lock, and a bell for those who wait. Whoever takes a connection gets a [`Lent`], and it
//! goes back when that is dropped: on every way out of a function, also that of an error. What the pool cannot do
//! anything about is a `Lent` that is never dropped.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Things that are lent out.
pub(super) struct Pool<T> {
    there: Mutex<Vec<T>>,
    back: Condvar,
}

/// One of them. It goes back when this is dropped.
pub(super) struct Lent<'a, T> {
    pool: &'a Pool<T>,
    /// `None` only while it goes back.
    it: Option<T>,
}

impl<T> Pool<T> {
    pub(super) fn of(things: Vec<T>) -> Self {
        Self { there: Mutex::new(things), back: Condvar::new() }
    }

    /// One of them, as soon as there is one; `None`: there was none for so long.
    pub(super) fn take(&self, patience: Duration) -> Option<Lent<'_, T>> {
        let there = self.there.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.back.wait_timeout_while(there, patience, |there| there.is_empty());
        let (mut there, _) = waited.unwrap_or_else(PoisonError::into_inner);
        there.pop().map(|it| Lent { pool: self, it: Some(it) })
    }
}

impl<T> Lent<'_, T> {
    /// What a bug does: it keeps the thing and never gives it back.
    pub(super) fn forget(mut self) -> Option<T> {
        self.it.take()
    }
}

impl<T> Drop for Lent<'_, T> {
    fn drop(&mut self) {
        if let Some(it) = self.it.take() {
            self.pool.there.lock().unwrap_or_else(PoisonError::into_inner).push(it);
            self.pool.back.notify_one();
        }
    }
}

impl<T> Lent<'_, T> {
    /// Uses it. `None` only while it goes back, which nobody sees who holds one.
    pub(super) fn with<R>(&mut self, use_it: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.it.as_mut().map(use_it)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says what is wrong by failing")]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_comes_back_and_what_is_forgotten_does_not() {
        let pool = Pool::of(vec![1, 2]);
        let mut one = pool.take(Duration::ZERO).unwrap();
        assert_eq!(one.with(|it| *it), Some(2));
        drop(one);
        let kept = [pool.take(Duration::ZERO).unwrap().forget(), pool.take(Duration::ZERO).unwrap().forget()];
        assert_eq!(kept, [Some(2), Some(1)]);
        assert!(pool.take(Duration::from_millis(1)).is_none());
    }

    #[test]
    fn who_waits_gets_what_comes_back() {
        let pool = Pool::of(vec![1]);
        let first = pool.take(Duration::ZERO).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| pool.take(Duration::from_secs(20)).is_some());
            drop(first);
            assert!(waiting.join().unwrap());
        });
    }
}
