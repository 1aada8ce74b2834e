//! Which pages of a pool are free: best fit, lowest address first, neighbours merged; every step is O(log n).
//!
//! Best fit keeps to pages that were used before, so that the untouched end of a pool stays off the resident set. Counts
//! pages only; it never sees memory.
//!
//! Invariant: `by_page` and `by_size` hold the same runs, which are disjoint, not empty, and never touch each other.

use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug)]
pub(crate) struct Allocator {
    by_page: BTreeMap<u32, u32>,
    by_size: BTreeSet<(u32, u32)>,
    free_pages: u32,
}

impl Allocator {
    /// All of `pages` free.
    pub(crate) fn new(pages: u32) -> Self {
        let mut this = Self { by_page: BTreeMap::new(), by_size: BTreeSet::new(), free_pages: 0 };
        this.release(0, pages);
        this
    }

    /// The first page of a run of `pages`, no longer free.
    pub(crate) fn allocate(&mut self, pages: u32) -> Option<u32> {
        let (run, first) = self.by_size.range((pages, 0)..).next().copied()?;
        self.by_size.remove(&(run, first));
        self.by_page.remove(&first);
        if run > pages {
            self.insert(first + pages, run - pages);
        }
        self.free_pages -= pages;
        Some(first)
    }

    /// Gives back exactly what `allocate` returned, or a part of it.
    pub(crate) fn release(&mut self, first: u32, pages: u32) {
        if pages == 0 {
            return;
        }
        self.free_pages += pages;
        let (mut first, mut pages) = (first, pages);
        if let Some((&before, &run)) = self.by_page.range(..first).next_back()
            && before + run == first
        {
            self.remove(before, run);
            (first, pages) = (before, run + pages);
        }
        if let Some(&run) = self.by_page.get(&(first + pages)) {
            self.remove(first + pages, run);
            pages += run;
        }
        self.insert(first, pages);
    }

    pub(crate) fn free_pages(&self) -> u32 {
        self.free_pages
    }

    fn insert(&mut self, first: u32, pages: u32) {
        self.by_page.insert(first, pages);
        self.by_size.insert((pages, first));
    }

    fn remove(&mut self, first: u32, pages: u32) {
        self.by_page.remove(&first);
        self.by_size.remove(&(pages, first));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against the simplest model there is: a bit for each page.
        #[test]
        fn runs_are_disjoint_and_come_back(steps in prop::collection::vec((any::<bool>(), 1u32..40, any::<prop::sample::Index>()), 1..200)) {
            let mut allocator = Allocator::new(256);
            let mut used = [false; 256];
            let mut held: Vec<(u32, u32)> = Vec::new();
            for (take, pages, which) in steps {
                if take || held.is_empty() {
                    match allocator.allocate(pages) {
                        Some(first) => {
                            for page in first..first + pages {
                                prop_assert!(!used[page as usize]);
                                used[page as usize] = true;
                            }
                            held.push((first, pages));
                        }
                        None => {
                            let longest = used.split(|used| *used).map(<[bool]>::len).max().unwrap_or(0);
                            prop_assert!(longest < pages as usize);
                        }
                    }
                } else {
                    let (first, pages) = held.swap_remove(which.index(held.len()));
                    used[first as usize..(first + pages) as usize].fill(false);
                    allocator.release(first, pages);
                }
                prop_assert_eq!(allocator.free_pages() as usize, used.iter().filter(|used| !**used).count());
            }
            for (first, pages) in held {
                allocator.release(first, pages);
            }
            prop_assert_eq!(allocator.allocate(256), Some(0));
        }
    }
}
