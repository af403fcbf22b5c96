//! The instances of one run, worked off by a few threads: those that may hang never take all of them, and what is wanted
//! meanwhile is added while the first ones take their time. A panic costs its own item only.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// How a run's items are worked off.
pub(super) struct Queue<'a, T> {
    /// How many are worked on at once; at least 1.
    pub(super) workers: usize,
    /// Whether an item may hang.
    pub(super) is_suspect: fn(&T) -> bool,
    /// Whether two items are about the same thing, which is worked on once at a time.
    pub(super) is_same: fn(&T, &T) -> bool,
    /// What is wanted by now, asked for by workers that have nothing else to do; `None` when nothing is ever added.
    pub(super) more: Option<&'a (dyn Fn() -> Vec<T> + Sync)>,
    /// How often it is asked.
    pub(super) more_every: Duration,
}

struct Item<T> {
    value: T,
    /// Whether it was there from the beginning: as long as such a one is not done, others are added.
    is_first: bool,
}

struct State<T> {
    waiting: VecDeque<Item<T>>,
    active: Vec<Item<T>>,
    asked_at: Instant,
}

impl<T> State<T> {
    fn has_first(&self) -> bool {
        self.waiting
            .iter()
            .chain(&self.active)
            .any(|item| item.is_first)
    }
}

/// What a worker does next.
enum Next<T> {
    Work(T),
    Ask,
    Done,
}

impl<T: Clone + Send> Queue<'_, T> {
    /// Calls `work` for each item and returns what it gave, in no particular order. Where it panics, `panicked` makes
    /// the result; the panic's message has gone to stderr by then.
    pub(super) fn work_off<R: Send>(
        &self,
        first: Vec<T>,
        work: impl Fn(&T) -> R + Sync,
        panicked: impl Fn(&T) -> R + Sync,
    ) -> Vec<R> {
        if first.is_empty() {
            return Vec::new();
        }
        let threads = match self.more {
            Some(_) => self.workers,
            None => self.workers.min(first.len()),
        };
        let shared = Shared {
            state: Mutex::new(State {
                waiting: first
                    .into_iter()
                    .map(|value| Item {
                        value,
                        is_first: true,
                    })
                    .collect(),
                active: Vec::new(),
                asked_at: Instant::now(),
            }),
            changed: Condvar::new(),
        };
        let (sender, results) = mpsc::channel();
        let worker = |sender: mpsc::Sender<R>| {
            loop {
                match self.next(&shared) {
                    Next::Done => return,
                    Next::Ask => self.add_more(&shared),
                    Next::Work(item) => {
                        let result = catch_unwind(AssertUnwindSafe(|| work(&item)));
                        // The receiver outlives the scope, so that sending can't fail.
                        let _ = sender.send(result.unwrap_or_else(|_| panicked(&item)));
                        let mut state = shared.lock();
                        state.active.retain(|it| !(self.is_same)(&it.value, &item));
                        shared.changed.notify_all();
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..threads {
                let sender = sender.clone();
                scope.spawn(|| worker(sender));
            }
            worker(sender);
        });
        results.into_iter().collect()
    }

    /// Waits until there is something to do, or nothing will be.
    fn next(&self, shared: &Shared<T>) -> Next<T> {
        let mut state = shared.lock();
        loop {
            if let Some(item) = self.take(&mut state) {
                return Next::Work(item);
            }
            if state.active.is_empty() && state.waiting.is_empty() {
                return Next::Done;
            }
            let mut patience = self.more_every;
            if self.more.is_some() && state.has_first() {
                patience = self.more_every.saturating_sub(state.asked_at.elapsed());
                if patience.is_zero() {
                    state.asked_at = Instant::now();
                    return Next::Ask;
                }
            }
            (state, _) = shared
                .changed
                .wait_timeout(state, patience)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The next item that may be begun now.
    fn take(&self, state: &mut State<T>) -> Option<T> {
        let suspects = state
            .active
            .iter()
            .filter(|it| (self.is_suspect)(&it.value));
        // One worker has time for what is added, whatever the others wait for.
        let may_hang = match self.more {
            Some(_) if self.workers > 1 => suspects.count() < self.workers - 1,
            Some(_) | None => true,
        };
        let at = state.waiting.iter().position(|item| {
            let is_active = state
                .active
                .iter()
                .any(|it| (self.is_same)(&it.value, &item.value));
            !is_active && (may_hang || !(self.is_suspect)(&item.value))
        })?;
        let item = state.waiting.remove(at)?;
        let value = item.value.clone();
        state.active.push(item);
        Some(value)
    }

    fn add_more(&self, shared: &Shared<T>) {
        let more = self.more.map_or_else(Vec::new, |more| more());
        let mut state = shared.lock();
        for value in more {
            let is_known = state
                .waiting
                .iter()
                .chain(&state.active)
                .any(|it| (self.is_same)(&it.value, &value));
            if !is_known {
                state.waiting.push_back(Item {
                    value,
                    is_first: false,
                });
            }
        }
        shared.changed.notify_all();
    }
}

struct Shared<T> {
    state: Mutex<State<T>>,
    /// Something has ended, or was added.
    changed: Condvar,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    /// Items from 100 on may hang.
    fn queue<'a>(
        workers: usize,
        more: Option<&'a (dyn Fn() -> Vec<usize> + Sync)>,
    ) -> Queue<'a, usize> {
        Queue {
            workers,
            is_suspect: |n| *n >= 100,
            is_same: |a, b| a == b,
            more,
            more_every: Duration::from_millis(5),
        }
    }

    #[test]
    fn every_item_is_worked_on_once_whatever_the_number_of_threads() {
        let items: Vec<usize> = (50..150).collect();
        let none: &(dyn Fn() -> Vec<usize> + Sync) = &Vec::new;
        for workers in [1, 2, 7, 1000] {
            for more in [None, Some(none)] {
                let queue = queue(workers, more);
                let mut results = queue.work_off(items.clone(), |n| *n, |_| usize::MAX);
                results.sort_unstable();
                assert_eq!(results, items);
            }
        }
        let nothing = queue(2, Some(none)).work_off(Vec::new(), |n| *n, |_| usize::MAX);
        assert_eq!(nothing, Vec::<usize>::new());
    }

    #[test]
    fn a_panic_costs_its_own_item_only() {
        let work = |n: &usize| {
            assert_ne!(*n, 2, "this panic is part of the test");
            *n
        };
        let mut results = queue(2, None).work_off(vec![1, 2, 3], work, |n| n + 10);
        results.sort_unstable();
        assert_eq!(results, [1, 3, 12]);
    }

    #[test]
    fn what_may_hang_leaves_a_worker_for_what_comes_later() {
        let served = AtomicBool::new(false);
        let more = || vec![1];
        let work = |n: &usize| {
            // Those that hang do so until the late one has been served.
            while *n >= 100 && !served.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            served.fetch_or(*n == 1, Ordering::SeqCst);
            *n
        };
        let mut results = queue(3, Some(&more)).work_off((100..105).collect(), work, |_| 0);
        results.sort_unstable();
        results.dedup();
        assert_eq!(results, [1, 100, 101, 102, 103, 104]);
    }

    #[test]
    fn nothing_is_added_once_the_first_ones_are_done_and_nothing_runs_twice_at_once() {
        let at_work = AtomicUsize::new(0);
        let added = AtomicUsize::new(0);
        let more = || {
            added.fetch_add(1, Ordering::SeqCst);
            vec![1]
        };
        let work = |n: &usize| {
            if *n == 1 {
                assert_eq!(at_work.fetch_add(1, Ordering::SeqCst), 0);
                std::thread::yield_now();
                at_work.fetch_sub(1, Ordering::SeqCst);
            }
            while *n == 0 && added.load(Ordering::SeqCst) < 3 {
                std::thread::yield_now();
            }
            *n
        };
        let results = queue(4, Some(&more)).work_off(vec![0], work, |_| 99);
        assert!(!results.contains(&99), "{results:?}");
        assert_eq!(results.iter().filter(|n| **n == 0).count(), 1);
    }
}
