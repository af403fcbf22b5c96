//! Work on many items with a few threads; a panic costs its own item only.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

/// Calls `work` for each item on up to `jobs` threads and returns what it gave, in no particular order. Where it
/// panics, `panicked` makes the result; the panic's message has gone to stderr by then.
pub(super) fn each<T: Sync, R: Send>(
    jobs: usize,
    items: &[T],
    work: impl Fn(&T) -> R + Sync,
    panicked: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let (sender, results) = mpsc::channel();
    let worker = |sender: mpsc::Sender<R>| {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            let result = catch_unwind(AssertUnwindSafe(|| work(item)));
            // The receiver outlives the scope, so that sending can't fail.
            let _ = sender.send(result.unwrap_or_else(|_| panicked(item)));
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..jobs.min(items.len()) {
            let sender = sender.clone();
            scope.spawn(|| worker(sender));
        }
        worker(sender);
    });
    results.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_is_worked_on_once_whatever_the_number_of_threads() {
        let items: Vec<usize> = (0..100).collect();
        for jobs in [0, 1, 2, 7, 1000] {
            let mut results = each(jobs, &items, |n| *n, |_| usize::MAX);
            results.sort_unstable();
            assert_eq!(results, items);
        }
    }

    #[test]
    fn a_panic_costs_its_own_item_only() {
        let work = |n: &i32| {
            assert_ne!(*n, 2, "this panic is part of the test");
            *n
        };
        let mut results = each(2, &[1, 2, 3], work, |n| -n);
        results.sort_unstable();
        assert_eq!(results, [-2, 1, 3]);
    }
}
