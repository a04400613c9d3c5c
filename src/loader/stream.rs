//! One pass over the samples, prepared ahead.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use super::order::{Order, Visits};
use super::{Batch, Counts, LoaderError, Samples, Share};

/// What a thread of its own makes ahead, in order.
pub struct Ahead<T> {
    /// Dropped first: the worker's next send then fails, and it ends.
    from_worker: Option<Receiver<T>>,
    worker: Option<JoinHandle<()>>,
}

/// The batches of one pass, in order, whatever the threads do.
pub type Batches = Ahead<Result<Batch, LoaderError>>;

/// The batches of one pass in their turns, as one of several ranks has them.
pub type Turns = Ahead<Result<Turn, LoaderError>>;

/// A batch in its turn.
pub struct Turn {
    /// What is in it, whoever takes it: means are over the batches of all ranks.
    pub counts: Counts,
    /// The batch, where it is this rank's.
    pub batch: Option<Batch>,
}

impl Turn {
    /// That of a batch which is this rank's.
    pub fn own(batch: Batch) -> Self {
        Self { counts: batch.counts(), batch: Some(batch) }
    }
}

impl<T: Send + 'static> Ahead<T> {
    /// Has `work` send what it makes, of which up to `ahead` wait to be asked for. It is to end when nobody takes it.
    pub fn of(ahead: usize, work: impl FnOnce(SyncSender<T>) + Send + 'static) -> Self {
        let (to, from_worker) = sync_channel(ahead.max(1));
        Self { from_worker: Some(from_worker), worker: Some(std::thread::spawn(move || work(to))) }
    }
}

/// Begins a pass over `samples` in batches of `batch` (the last may be smaller), without the first `skip` of
/// these, up to `ahead` of them prepared before they are asked for.
pub fn stream(samples: &Arc<Samples>, order: Order, batch: usize, ahead: usize, skip: u64) -> Batches {
    pass(samples, order, batch, ahead, skip, |samples, _, indices, view| samples.batch(indices, view))
}

/// The same pass as a rank has it: every batch in its turn, whole where it is of the rank's `share`. Of others only what
/// is in them is counted.
pub fn share(
    samples: &Arc<Samples>,
    order: Order,
    batch: usize,
    ahead: usize,
    skip: u64,
    share: Share,
) -> Turns {
    pass(samples, order, batch, ahead, skip, move |samples, place, indices, view| {
        if share.takes(place) {
            return samples.batch(indices, view).map(Turn::own);
        }
        Ok(Turn { counts: samples.counts(indices)?, batch: None })
    })
}

/// One pass, of which `make` makes each batch from its place, the samples' indices and their view.
fn pass<T: Send + 'static>(
    samples: &Arc<Samples>,
    order: Order,
    batch: usize,
    ahead: usize,
    skip: u64,
    make: impl Fn(&Samples, u64, &[u64], u16) -> Result<T, LoaderError> + Send + 'static,
) -> Ahead<Result<T, LoaderError>> {
    let samples = Arc::clone(samples);
    Ahead::of(ahead, move |to| {
        let len = samples.len();
        let mut visits = Visits::new(order, len);
        let view = match order {
            Order::Sequential => 0,
            Order::Shuffled { epoch, .. } => (epoch % u32::from(samples.views().max(1))) as u16,
        };
        let first = skip.saturating_mul(batch as u64).min(len);
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (soon, wanted) = channel::<Range<u64>>();
            if visits.reads_ahead() {
                let (samples, ended) = (&*samples, &ended);
                scope.spawn(move || {
                    let go_on = |_: &Range<u64>| !ended.load(Ordering::Relaxed);
                    wanted.into_iter().take_while(go_on).for_each(|range| samples.will_need(range, view));
                });
            }
            for start in (first..len).step_by(batch.max(1)) {
                let turns = start..start.saturating_add(batch as u64).min(len);
                // Where nobody reads ahead, there is nothing to read.
                turns
                    .clone()
                    .flat_map(|turn| visits.soon(turn, first))
                    .for_each(|range| drop(soon.send(range)));
                let indices: Vec<u64> = turns.map(|turn| visits.at(turn)).collect();
                let prepared = make(&samples, start / batch.max(1) as u64, &indices, view);
                let failed = prepared.is_err();
                if to.send(prepared).is_err() || failed {
                    break;
                }
            }
            ended.store(true, Ordering::Relaxed);
        });
    })
}

impl<T> Iterator for Ahead<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        if let Ok(made) = self.from_worker.as_ref()?.recv() {
            return Some(made);
        }
        // The worker is gone: at the end, or by a panic that must not pass for the end.
        self.from_worker = None;
        if let Some(Err(panic)) = self.worker.take().map(JoinHandle::join) {
            std::panic::resume_unwind(panic);
        }
        None
    }
}

impl<T> Drop for Ahead<T> {
    fn drop(&mut self) {
        self.from_worker = None;
        if let Some(worker) = self.worker.take() {
            // A panic in a worker whose batches nobody wants any more changes nothing.
            drop(worker.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::{Layout, PreprocessConfig, ShuffleConfig};
    use crate::dataset::{Dataset, DatasetError, Sample};
    use crate::digest::Digest;
    use crate::ids::SampleId;
    use crate::loader::{Inputs, Ranks};
    use crate::preprocess::Preprocess;

    /// Samples that are their own index, but for one that cannot be read.
    struct Counting {
        len: u64,
        broken: Option<u64>,
        fingerprint: Digest,
    }

    impl Dataset for Counting {
        fn len(&self) -> u64 {
            self.len
        }
        fn sample_shape(&self) -> &[usize] {
            &[1]
        }
        fn id_at(&self, index: u64) -> SampleId {
            SampleId(index)
        }
        fn sample(&self, id: SampleId) -> Result<Sample<'_>, DatasetError> {
            if self.broken == Some(id.0) {
                return Err(DatasetError::NoSuchSample { sample: id, samples: self.len });
            }
            Ok(Sample { bytes: vec![id.0 as u8].into(), shape: (&[1]).into() })
        }
        fn label(&self, id: SampleId) -> Result<Option<u32>, DatasetError> {
            Ok(Some(id.0 as u32))
        }
        fn fingerprint(&self) -> &Digest {
            &self.fingerprint
        }
        fn labels_digest(&self) -> Option<&Digest> {
            None
        }
    }

    fn samples(len: u64, broken: Option<u64>) -> Arc<Samples> {
        let config = PreprocessConfig { scale: 1.0, layout: Layout::Flat, ..PreprocessConfig::default() };
        let dataset = Counting { len, broken, fingerprint: Digest::of_bytes(b"counting") };
        Arc::new(Samples::images(Box::new(dataset), Preprocess::new(&config, &[1]).unwrap(), None))
    }

    fn ids(order: Order, batch: usize) -> Vec<Vec<u64>> {
        let all = stream(&samples(100, None), order, batch, 2, 0);
        all.map(|batch| {
            let batch = batch.unwrap();
            let Inputs::Images(inputs) = &batch.inputs else { panic!("{batch:?}") };
            for ((id, input), label) in batch.ids.iter().zip(inputs).zip(batch.labels.unwrap()) {
                assert_eq!((id.0 as f32, id.0 as i64), (*input, label));
            }
            batch.ids.iter().map(|id| id.0).collect()
        })
        .collect()
    }

    #[test]
    fn every_sample_comes_once_in_the_order_of_seed_and_epoch() {
        let shuffled = |epoch| ids(Order::Shuffled { seed: 7, epoch, within: None }, 32);
        let first = shuffled(0);
        assert_eq!(first.iter().map(Vec::len).collect::<Vec<_>>(), [32, 32, 32, 4]);
        let mut sorted = first.concat();
        assert_ne!(sorted, (0..100).collect::<Vec<_>>());
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
        assert_eq!(first, shuffled(0));
        assert_ne!(first, shuffled(1));
        assert_eq!(ids(Order::Sequential, 7).concat(), (0..100).collect::<Vec<_>>());
        let within = Some(ShuffleConfig { block: 10, buffer: Some(30) });
        let order = Order::Shuffled { seed: 7, epoch: 2, within };
        let in_blocks = ids(order, 32);
        assert_eq!(in_blocks, ids(order, 32));
        let mut sorted = in_blocks.concat();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
        let order = Order::Shuffled { seed: 7, epoch: 0, within: None };
        let rest = stream(&samples(100, None), order, 32, 2, 2).map(|batch| batch.unwrap().ids.len());
        assert_eq!(rest.collect::<Vec<_>>(), [32, 4]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Ranks take every batch of an epoch once, as one process alone has it, and count alike what all of them take.
        #[test]
        fn ranks_together_have_the_batches_of_one(
            len in 1u64..100,
            batch in 1usize..9,
            group in 1usize..7,
            world in 1u32..6,
            epoch in 0u32..3,
            steps in 0u64..4,
            blocks in any::<bool>(),
        ) {
            let samples = samples(len, None);
            let within = blocks.then_some(ShuffleConfig { block: 5, buffer: Some(15) });
            let order = Order::Shuffled { seed: 7, epoch, within };
            // An epoch that goes on behind some steps.
            let skip = steps * group as u64;
            let alone: Vec<Batch> = stream(&samples, order, batch, 2, skip).map(Result::unwrap).collect();
            let ids = |batch: &Batch| batch.ids.iter().map(|id| id.0).collect::<Vec<_>>();
            let mut taken = vec![Vec::new(); alone.len()];
            for rank in 0..world {
                let own = Share { ranks: Ranks::new(rank, world).unwrap(), group };
                let turns: Vec<Turn> = share(&samples, order, batch, 2, skip, own).map(Result::unwrap).collect();
                prop_assert_eq!(turns.len(), alone.len());
                for ((turn, alone), taken) in turns.iter().zip(&alone).zip(&mut taken) {
                    prop_assert_eq!(turn.counts, alone.counts());
                    prop_assert_eq!(turn.counts.samples, alone.ids.len());
                    if let Some(batch) = &turn.batch {
                        prop_assert_eq!(ids(batch), ids(alone));
                        taken.push(rank);
                    }
                }
                // Of each step a rank has as many as any other, or one fewer.
                for step in turns.chunks(group) {
                    let own = step.iter().filter(|turn| turn.batch.is_some()).count();
                    let even = step.len() / world as usize;
                    prop_assert!(own == even || own == even + 1, "{own} of {}", step.len());
                }
            }
            prop_assert!(taken.iter().all(|ranks| ranks.len() == 1), "{taken:?}");
        }
    }

    #[test]
    fn a_fault_is_the_last_item_and_a_dropped_stream_ends_its_worker() {
        let all: Vec<_> = stream(&samples(100, Some(40)), Order::Sequential, 10, 2, 0).collect();
        assert_eq!(all.len(), 5);
        assert!(all[..4].iter().all(Result::is_ok) && all[4].is_err());
        let samples = samples(100, None);
        let mut batches = stream(&samples, Order::Sequential, 1, 1, 0);
        assert!(batches.next().is_some());
        drop(batches);
        assert_eq!(Arc::strong_count(&samples), 1);
    }
}
