//! How many runs go side by side.

use std::time::Duration;

use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use crate::config::NumberOrAuto;

/// Of the memory that is there, what runs may come to: what else the machine does needs some too.
const SHARE_OF_MEMORY: f64 = 0.9;
/// A run that has worked for so long without the end of an epoch has needed about what it will.
const LONG_ENOUGH: Duration = Duration::from_secs(60);

/// Runs at a time: what a config says, or, of `auto`, one until it is known what a run needs, and then as many as memory and
/// cores have room for.
pub(super) struct Abreast {
    now: usize,
    /// As far as cores go.
    most: usize,
    cores: usize,
    /// What a run was seen to need, in bytes, as long as that is still to be found out.
    seen: Option<u64>,
}

impl Abreast {
    /// For `waiting` runs of so many `threads`, where their configs say it; those on a GPU have it for themselves with `auto`,
    /// because its memory is not looked at.
    pub(super) fn new(
        jobs: NumberOrAuto,
        cores: usize,
        threads: Option<usize>,
        waiting: usize,
        on_gpu: bool,
    ) -> Self {
        let (most, auto) = match jobs {
            NumberOrAuto::Of(jobs) => (jobs.get(), false),
            NumberOrAuto::Auto if on_gpu => (1, false),
            NumberOrAuto::Auto => (cores / threads.unwrap_or(1).max(1), true),
        };
        let most = most.min(waiting).max(1);
        let seen = (auto && most > 1).then_some(0);
        Self { now: if seen.is_some() { 1 } else { most }, most, cores, seen }
    }

    /// Runs that may be at work.
    pub(super) fn now(&self) -> usize {
        self.now
    }

    /// Cores of a run that begins now beside others; `None` where all runs follow one another. The first run has what it would
    /// have if memory did not matter.
    pub(super) fn share(&self) -> Option<usize> {
        let together = if self.seen.is_some() { self.most } else { self.now };
        (self.most > 1).then(|| (self.cores / together).max(1))
    }

    /// Whether [`Self::look`] has something to find out.
    pub(super) fn looks(&self) -> bool {
        self.seen.is_some()
    }

    /// Looks at the first run, a process that has been at work for `worked` and has ended `epochs` of its epochs; whether it is
    /// now known what runs need. Of a cache in the page cache what a run has mapped counts for it, though others share it.
    pub(super) fn look(&mut self, process: u32, worked: Duration, epochs: u64) -> bool {
        let Some(seen) = &mut self.seen else { return false };
        let mut system = System::new();
        let pid = Pid::from_u32(process);
        system.refresh_processes_specifics(
            ProcessesToUpdate::Some(&[pid]),
            false,
            ProcessRefreshKind::nothing().with_memory(),
        );
        *seen = (*seen).max(system.process(pid).map_or(0, |process| process.memory()));
        if epochs == 0 && worked < LONG_ENOUGH {
            return false;
        }
        system.refresh_memory();
        // A container's limit, where it is below what the machine has. What is called free of it is without the page cache.
        let limits = system.cgroup_limits().filter(|limits| limits.total_memory < system.total_memory());
        let of_group = limits.map_or(u64::MAX, |limits| limits.total_memory.saturating_sub(limits.rss));
        self.decide(system.available_memory().min(of_group));
        true
    }

    /// As many as `free` bytes have room for beside the first; none where nobody knows what that needs.
    fn decide(&mut self, free: u64) {
        let further = match self.seen.take() {
            None | Some(0) => 0,
            Some(needed) => (free as f64 * SHARE_OF_MEMORY / needed as f64) as usize,
        };
        self.now = further.saturating_add(1).min(self.most);
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;

    fn of(jobs: usize) -> NumberOrAuto {
        NumberOrAuto::Of(NonZeroUsize::new(jobs).unwrap())
    }

    #[test]
    fn a_number_is_taken_as_it_is_and_cores_are_divided() {
        for (jobs, cores, waiting, now, share) in [
            (1, 8, 5, 1, None),
            (4, 8, 5, 4, Some(2)),
            (4, 8, 2, 2, Some(4)),
            (16, 4, 20, 16, Some(1)),
            (3, 4, 0, 1, None),
        ] {
            let abreast = Abreast::new(of(jobs), cores, None, waiting, false);
            assert_eq!((abreast.now(), abreast.share()), (now, share), "{jobs} {cores} {waiting}");
            assert!(!abreast.looks());
        }
    }

    #[test]
    fn what_is_found_out_is_found_of_the_first_run() {
        let auto = |cores, threads, gpu| Abreast::new(NumberOrAuto::Auto, cores, threads, 4, gpu);
        for (seen, free, now, share) in [
            (3 << 30, 10 << 30, 4, 4),
            (3 << 30, 7 << 30, 3, 5),
            (3 << 30, 3 << 30, 1, 16),
            (0, 10 << 30, 1, 16),
            (1, u64::MAX, 4, 4),
        ] {
            let mut abreast = auto(16, None, false);
            assert_eq!((abreast.now(), abreast.share(), abreast.looks()), (1, Some(4), true));
            abreast.seen = Some(seen);
            abreast.decide(free);
            assert_eq!(
                (abreast.now(), abreast.share(), abreast.looks()),
                (now, Some(share), false),
                "{free}"
            );
        }
        // One after the other where there is one core for each, or a GPU.
        for abreast in
            [auto(1, None, false), auto(8, Some(8), false), auto(8, Some(5), false), auto(8, None, true)]
        {
            assert_eq!((abreast.now(), abreast.share(), abreast.looks()), (1, None, false));
        }
        assert_eq!(auto(8, Some(4), false).most, 2);
    }

    #[test]
    fn a_run_is_looked_at_until_it_has_ended_an_epoch_or_worked_long_enough() {
        let auto = || Abreast::new(NumberOrAuto::Auto, 8, None, 4, false);
        let mut abreast = auto();
        assert!(!abreast.look(std::process::id(), Duration::ZERO, 0));
        assert!(abreast.seen.is_some_and(|bytes| bytes > 1 << 20), "{:?}", abreast.seen);
        assert!(abreast.look(std::process::id(), Duration::ZERO, 1) && !abreast.looks());
        assert!(!abreast.look(std::process::id(), Duration::ZERO, 2));
        assert!(auto().look(std::process::id(), LONG_ENOUGH, 0));
    }
}
