//! Which of several processes of one run this is, and what of each step is its own.

/// One of the processes (ranks) that train one student together, each on a device of its own.
///
/// The only place that knows how many there are. Today a run is refused unless it is alone: what is here says what each
/// would do, and nothing yet brings together what they did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranks {
    rank: u32,
    world: u32,
}

/// No such rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ranks: expected a rank below the number of ranks, which is 1 or more, found rank {rank} of {world}")]
pub struct RanksError {
    /// Which one.
    pub rank: u32,
    /// Of how many.
    pub world: u32,
}

impl Default for Ranks {
    /// Alone: 0 of 1.
    fn default() -> Self {
        Self { rank: 0, world: 1 }
    }
}

impl Ranks {
    /// Parts the seeds of ranks from each other.
    const SEED: u64 = 0xd1b5_4a32_d192_ed03;

    /// The process `rank`, from 0, of `world`.
    ///
    /// # Errors
    /// [`RanksError`]: there are not so many.
    pub fn new(rank: u32, world: u32) -> Result<Self, RanksError> {
        if rank < world { Ok(Self { rank, world }) } else { Err(RanksError { rank, world }) }
    }

    /// Which one this is.
    pub fn rank(self) -> u32 {
        self.rank
    }

    /// How many there are.
    pub fn world(self) -> u32 {
        self.world
    }

    /// Whether this is the one that measures and writes: the run's folder is the first rank's.
    pub fn is_first(self) -> bool {
        self.rank == 0
    }

    /// The seed of what is random on this rank alone (dropout, say), of one that all share; the first rank's is that one.
    pub fn seed(self, shared: u64) -> u64 {
        shared ^ u64::from(self.rank).wrapping_mul(Self::SEED)
    }
}

/// Which batches of a pass are a rank's own: of the `group` batches of each step every n-th, n being the number of ranks.
///
/// A function of a batch's place alone, so that ranks agree without talking. Steps are the same whatever the number of
/// ranks; a rank beyond the batches of a step has none of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Whose.
    pub ranks: Ranks,
    /// Batches of a step (`train.accumulate`); the last step of a pass may have fewer.
    pub group: usize,
}

impl Share {
    /// Whether the batch at `place` of the pass, from 0, is this rank's.
    pub fn takes(self, place: u64) -> bool {
        place % self.group.max(1) as u64 % u64::from(self.ranks.world) == u64::from(self.ranks.rank)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_is_one_of_the_world() {
        assert_eq!(Ranks::new(0, 1), Ok(Ranks::default()));
        assert_eq!(
            Ranks::new(3, 4).map(|ranks| (ranks.rank(), ranks.world(), ranks.is_first())),
            Ok((3, 4, false))
        );
        for (rank, world) in [(0, 0), (1, 1), (4, 4), (u32::MAX, 2)] {
            let error = Ranks::new(rank, world).unwrap_err();
            assert!(error.to_string().contains(&format!("rank {rank} of {world}")), "{error}");
        }
    }

    #[test]
    fn the_first_rank_has_the_runs_own_seeds_and_no_two_share_one() {
        let seeds: std::collections::BTreeSet<u64> =
            (0..64).map(|rank| Ranks::new(rank, 64).unwrap().seed(42)).collect();
        assert!(seeds.len() == 64 && Ranks::default().seed(42) == 42);
        assert_eq!(Ranks::new(0, 64).unwrap().seed(42), 42);
    }

    #[test]
    fn batches_of_a_step_go_round() {
        let taken = |rank, world, group| {
            let share = Share { ranks: Ranks::new(rank, world).unwrap(), group };
            (0..8).filter(|place| share.takes(*place)).collect::<Vec<u64>>()
        };
        assert_eq!((taken(0, 2, 4), taken(1, 2, 4)), (vec![0, 2, 4, 6], vec![1, 3, 5, 7]));
        // Each step begins with the first rank.
        assert_eq!((taken(0, 2, 3), taken(1, 2, 3)), (vec![0, 2, 3, 5, 6], vec![1, 4, 7]));
        assert_eq!((taken(0, 3, 2), taken(2, 3, 2)), (vec![0, 2, 4, 6], vec![]));
        assert_eq!(taken(0, 1, 1), (0..8).collect::<Vec<_>>());
    }
}
