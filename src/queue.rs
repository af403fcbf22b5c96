//! Items worked off by threads: what lasts long holds nobody else up, and what is wanted meanwhile is added. A panic costs
//! its own item only.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How many times `jobs` may be worked on at once, those that last long included.
const MOST: usize = 4;

/// How a run's items are worked off.
pub struct Queue<'a, T> {
    /// How many are worked on at once, those apart that last long; at least 1.
    pub jobs: usize,
    /// After how long an item lasts long. As long as one does, `more` is asked as often.
    pub long: Duration,
    /// Whether an item may hang. Such ones leave room for `jobs` others.
    pub is_suspect: fn(&T) -> bool,
    /// Whether two items are about the same thing, which is worked on once at a time.
    pub is_same: fn(&T, &T) -> bool,
    /// What is wanted by now; `None` when nothing is ever added.
    pub more: Option<&'a (dyn Fn() -> Vec<T> + Sync)>,
}

/// Calls `work` for each item, on `jobs` of them at once, and returns what it gave, in the order in which that came. Where
/// it panics, `panicked` makes the result.
pub fn each<T: Clone + PartialEq + Send + Sync, R: Send>(
    jobs: usize,
    items: Vec<T>,
    work: impl Fn(&T) -> R + Sync,
    panicked: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let queue = Queue {
        jobs,
        long: Duration::MAX,
        is_suspect: |_| false,
        is_same: T::eq,
        more: None,
    };
    queue.work_off(items, work, panicked)
}

struct State<T, R> {
    waiting: VecDeque<T>,
    active: Vec<(T, Instant)>,
    results: Vec<R>,
}

impl<T: Clone + Send + Sync> Queue<'_, T> {
    /// Calls `work` for each item and returns what it gave, in the order in which that came. Where it panics, `panicked`
    /// makes the result; the panic's message has gone to stderr by then.
    pub fn work_off<R: Send>(
        &self,
        first: Vec<T>,
        work: impl Fn(&T) -> R + Sync,
        panicked: impl Fn(&T) -> R + Sync,
    ) -> Vec<R> {
        let shared = Shared {
            state: Mutex::new(State {
                waiting: first.into(),
                active: Vec::new(),
                results: Vec::new(),
            }),
            changed: Condvar::new(),
        };
        let one = |item: &T| {
            let result = catch_unwind(AssertUnwindSafe(|| work(item)));
            let result = result.unwrap_or_else(|_| panicked(item));
            let mut state = shared.lock();
            state.active.retain(|(it, _)| !(self.is_same)(it, item));
            state.results.push(result);
            shared.changed.notify_all();
        };
        std::thread::scope(|scope| {
            let mut asked_at = Instant::now();
            let mut state = shared.lock();
            loop {
                while let Some(item) = self.take(&mut state) {
                    let one = &one;
                    scope.spawn(move || one(&item));
                }
                if state.active.is_empty() {
                    return;
                }
                let has_long = state.active.iter().any(|(_, since)| self.is_long(*since));
                if let Some(more) = self.more.filter(|_| has_long && self.is_long(asked_at)) {
                    drop(state);
                    let items = more();
                    state = shared.lock();
                    asked_at = Instant::now();
                    self.add(&mut state, items);
                    continue;
                }
                // Until something ends or begins to last long, or there is to be asked again.
                let next = state
                    .active
                    .iter()
                    .map(|(_, since)| *since)
                    .chain([asked_at])
                    .map(|since| self.long.saturating_sub(since.elapsed()))
                    .filter(|left| !left.is_zero())
                    .min();
                let patience = next.unwrap_or(self.long);
                (state, _) = shared
                    .changed
                    .wait_timeout(state, patience)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        });
        let state = shared.state.into_inner();
        state.unwrap_or_else(PoisonError::into_inner).results
    }

    /// The next item that may be begun now.
    fn take<R>(&self, state: &mut State<T, R>) -> Option<T> {
        let counted = state.active.iter().filter(|(_, at)| !self.is_long(*at));
        if counted.count() >= self.jobs || state.active.len() >= self.jobs.saturating_mul(MOST) {
            return None;
        }
        let suspects = state.active.iter().filter(|(it, _)| (self.is_suspect)(it));
        let may_hang = suspects.count() < self.jobs.saturating_mul(MOST - 1);
        let is_active = |item: &T| state.active.iter().any(|(it, _)| (self.is_same)(it, item));
        let at = state
            .waiting
            .iter()
            .position(|item| !is_active(item) && (may_hang || !(self.is_suspect)(item)))?;
        let item = state.waiting.remove(at)?;
        state.active.push((item.clone(), Instant::now()));
        Some(item)
    }

    fn add<R>(&self, state: &mut State<T, R>, items: Vec<T>) {
        for item in items {
            let mut known = state
                .waiting
                .iter()
                .chain(state.active.iter().map(|(it, _)| it));
            if !known.any(|it| (self.is_same)(it, &item)) {
                state.waiting.push_back(item);
            }
        }
    }

    fn is_long(&self, since: Instant) -> bool {
        since.elapsed() >= self.long
    }
}

struct Shared<T, R> {
    state: Mutex<State<T, R>>,
    /// Something has ended.
    changed: Condvar,
}

impl<T, R> Shared<T, R> {
    fn lock(&self) -> MutexGuard<'_, State<T, R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    fn queue<'a>(
        jobs: usize,
        more: Option<&'a (dyn Fn() -> Vec<usize> + Sync)>,
    ) -> Queue<'a, usize> {
        Queue {
            jobs,
            long: Duration::from_millis(5),
            is_suspect: |n| *n >= 200,
            is_same: |a, b| a == b,
            more,
        }
    }

    #[test]
    fn every_item_is_worked_on_once_whatever_the_number_of_threads() {
        let items: Vec<usize> = (50..150).collect();
        let none: &(dyn Fn() -> Vec<usize> + Sync) = &Vec::new;
        for jobs in [1, 2, 7, 1000] {
            for more in [None, Some(none)] {
                let queue = queue(jobs, more);
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
    fn no_more_are_worked_on_at_once_than_jobs_while_none_lasts_long() {
        let (at_once, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let work = |n: &usize| {
            most.fetch_max(at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::yield_now();
            at_once.fetch_sub(1, Ordering::SeqCst);
            *n
        };
        let queue = Queue {
            long: Duration::from_secs(3600),
            ..queue(3, None)
        };
        queue.work_off((0..200).collect(), work, |_| 0);
        assert!(most.load(Ordering::SeqCst) <= 3);
    }

    #[test]
    fn what_lasts_long_holds_nobody_up_and_there_are_four_times_as_many_at_most() {
        let (at_once, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let is_served = AtomicBool::new(false);
        // Those from 100 on last until the last one, which waits behind them all, is served.
        let work = |n: &usize| {
            most.fetch_max(at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            while *n >= 100 && !is_served.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            // The others may have been begun and not have come to work yet.
            while *n == 1 && at_once.load(Ordering::SeqCst) < 8 {
                std::thread::yield_now();
            }
            is_served.fetch_or(*n == 1, Ordering::SeqCst);
            at_once.fetch_sub(1, Ordering::SeqCst);
            *n
        };
        let mut items: Vec<usize> = (100..107).collect();
        items.push(1);
        let results = queue(2, None).work_off(items, work, |_| 0);
        assert_eq!(results.len(), 8);
        assert_eq!(most.load(Ordering::SeqCst), 8, "seven that last, and one");
    }

    #[test]
    fn what_may_hang_leaves_room_for_what_comes_later() {
        let is_served = AtomicBool::new(false);
        let work = |n: &usize| {
            while *n >= 100 && !is_served.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            is_served.fetch_or(*n == 1, Ordering::SeqCst);
            *n
        };
        let more = || vec![1];
        let results = queue(1, Some(&more)).work_off((200..210).collect(), work, |_| 0);
        assert!(
            results.contains(&1) && results.contains(&209),
            "{results:?}"
        );
    }

    #[test]
    fn what_is_wanted_is_added_while_something_lasts_long_and_nothing_runs_twice_at_once() {
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
        let results = queue(1, Some(&more)).work_off(vec![0], work, |_| 99);
        assert!(!results.contains(&99), "{results:?}");
        assert_eq!(results.iter().filter(|n| **n == 0).count(), 1);
        assert!(results.contains(&1));
        // With nothing that lasts, nobody is asked.
        let before = added.load(Ordering::SeqCst);
        let queue = Queue {
            long: Duration::from_secs(3600),
            ..queue(2, Some(&more))
        };
        queue.work_off(vec![2, 3], work, |_| 99);
        assert_eq!(added.load(Ordering::SeqCst), before);
    }
}
