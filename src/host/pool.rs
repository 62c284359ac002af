//! The one thread pool of the product. It has as many threads as torch uses on the calling thread, is made at first
//! use, and is made anew in a forked child, where the parent's threads do not exist and waiting for them would hang.

use rayon::{ThreadPool, ThreadPoolBuilder};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// One pool; nodes are never freed, so that the list can be read without a lock (a lock could be held during a fork).
struct Node {
    process: u32,
    threads: usize,
    pool: ThreadPool,
    next: *const Node,
}

static POOLS: AtomicPtr<Node> = AtomicPtr::new(ptr::null_mut());

/// Threads that the kernels use: torch's own setting (`torch.set_num_threads`).
pub fn threads() -> usize {
    tch::get_num_threads().clamp(1, 1024) as usize
}

fn find(head: *const Node, process: u32, threads: usize) -> Option<&'static ThreadPool> {
    let mut node = head;
    // SAFETY: nodes are leaked boxes, written once before they are published.
    while let Some(entry) = unsafe { node.as_ref() } {
        if entry.process == process && entry.threads == threads {
            return Some(&entry.pool);
        }
        node = entry.next;
    }
    None
}

/// The pool of this process for the current number of threads; None where no thread can be started.
fn pool() -> Option<&'static ThreadPool> {
    let (process, threads) = (std::process::id(), threads());
    let mut head = POOLS.load(Ordering::Acquire);
    if let Some(pool) = find(head, process, threads) {
        return Some(pool);
    }
    let pool = ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("pipa-{i}")).build().ok()?;
    let node = Box::leak(Box::new(Node { process, threads, pool, next: head }));
    while let Err(seen) = POOLS.compare_exchange(head, node, Ordering::AcqRel, Ordering::Acquire) {
        head = seen;
        node.next = head;
    }
    Some(&node.pool)
}

/// Runs `work` inside the pool, so that rayon iterators in it use the pool's threads. Do not touch tensors in the
/// parallel parts: libtorch's grad mode is thread-local. Work must not fork.
pub fn run<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    match pool() {
        Some(pool) => pool.install(work),
        None => work(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rayon::prelude::*;

    #[test]
    fn one_pool_serves_repeated_calls() {
        let total: u64 = run(|| (0..1000u64).into_par_iter().sum());
        assert_eq!(total, 499_500);
        let first = pool().map(|p| p as *const ThreadPool);
        assert_eq!(first, pool().map(|p| p as *const ThreadPool));
        assert_eq!(run(rayon::current_num_threads), threads());
    }
}
