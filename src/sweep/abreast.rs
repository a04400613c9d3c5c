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
    most: usize,
    cores: usize,
    /// What a run was seen to need, in bytes, as long as that is still to be found out.
    seen: Option<u64>,
}

impl Abreast {
    /// For `waiting` runs; those on a GPU have it for themselves with `auto`, because its memory is not looked at.
    pub(super) fn new(jobs: NumberOrAuto, cores: usize, waiting: usize, on_gpu: bool) -> Self {
        let (most, auto) = match jobs {
            NumberOrAuto::Of(jobs) => (jobs.get(), false),
            NumberOrAuto::Auto if on_gpu => (1, false),
            NumberOrAuto::Auto => (cores, true),
        };
        let most = most.min(waiting).max(1);
        let seen = (auto && most > 1).then_some(0);
        Self { now: if seen.is_some() { 1 } else { most }, most, cores, seen }
    }

    /// Runs that may be at work.
    pub(super) fn now(&self) -> usize {
        self.now
    }

    /// Threads of each of several; `None` where one run has all cores. The same whatever memory allows, because the order of
    /// sums depends on it.
    pub(super) fn share(&self) -> Option<usize> {
        (self.most > 1).then(|| (self.cores / self.most).max(1))
    }

    /// Looks at the first run, a process that has been at work for `worked` and has ended `epochs` of its epochs.
    pub(super) fn look(&mut self, process: u32, worked: Duration, epochs: u64) {
        let Some(seen) = &mut self.seen else { return };
        let mut system = System::new();
        let pid = Pid::from_u32(process);
        system.refresh_processes_specifics(
            ProcessesToUpdate::Some(&[pid]),
            false,
            ProcessRefreshKind::nothing().with_memory(),
        );
        *seen = (*seen).max(system.process(pid).map_or(0, |process| process.memory()));
        if epochs == 0 && worked < LONG_ENOUGH {
            return;
        }
        system.refresh_memory();
        // A container's limit, where there is one, says more than the machine.
        let of_group = system.cgroup_limits().map_or(u64::MAX, |limits| limits.free_memory);
        let further = fits(system.available_memory().min(of_group), *seen);
        self.now = further.saturating_add(1).min(self.most);
        self.seen = None;
    }
}

/// Runs of `needed` bytes each that `free` bytes have room for.
fn fits(free: u64, needed: u64) -> usize {
    (free as f64 * SHARE_OF_MEMORY / needed.max(1) as f64) as usize
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
            let abreast = Abreast::new(of(jobs), cores, waiting, false);
            assert_eq!((abreast.now(), abreast.share()), (now, share), "{jobs} {cores} {waiting}");
        }
    }

    #[test]
    fn what_is_found_out_is_found_of_the_first_run() {
        let auto = |cores, waiting, gpu| Abreast::new(NumberOrAuto::Auto, cores, waiting, gpu);
        let mut abreast = auto(8, 4, false);
        assert_eq!((abreast.now(), abreast.share()), (1, Some(2)));
        // This process is no large one, and there is room for more of it.
        abreast.look(std::process::id(), Duration::ZERO, 0);
        assert_eq!(abreast.now(), 1);
        assert!(abreast.seen.is_some_and(|bytes| bytes > 1 << 20), "{:?}", abreast.seen);
        abreast.look(std::process::id(), Duration::ZERO, 1);
        assert_eq!((abreast.now(), abreast.share()), (4, Some(2)));
        // Nor does it wait for ever.
        let mut abreast = auto(8, 4, false);
        abreast.look(std::process::id(), LONG_ENOUGH, 0);
        assert_eq!(abreast.now(), 4);
        // One after the other where there is one core or a GPU.
        for abreast in [auto(1, 4, false), auto(8, 4, true)] {
            assert_eq!((abreast.now(), abreast.share()), (1, None));
        }
    }

    #[test]
    fn memory_is_divided_among_runs_with_some_left_over() {
        assert_eq!(fits(10 << 30, 3 << 30), 3);
        assert_eq!(fits(10 << 30, 20 << 30), 0);
        assert_eq!(fits(0, 1), 0);
    }
}
