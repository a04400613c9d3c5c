//! The stages of a build, overlapped: read and prepare, teacher, selection, writing.
//!
//! Batches are cut by config and data, never by timing: each shard is split into batches of `teacher.batch` samples, the last
//! one smaller, so that the bytes do not depend on threads, speed or interruptions. (With `"auto"` that number is measured
//! once, and then kept with the build.) Where rows differ in length, a shard's longest come first: a batch is padded to the
//! longest of its rows, which are of nearly the same length then. Channels hold a few batches; a stage that fails or stops closes
//! its channels, and the others run dry.

use std::cmp::Reverse;
use std::ops::{ControlFlow, Range};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::Progress;
use super::build::BuildError;
use super::reading::Reading;
use super::samples::{Model, Prepared, Samples};
use super::source::{Source, SourceError};
use crate::cache::{CacheWriter, ShardRows, TokenRow};
use crate::ids::{Position, SampleView};
use crate::teacher::RawOutput;

/// Batches that wait between two stages.
const DEPTH: usize = 3;
/// The same where a teacher's logits stay on a device, whose memory is dear. What waits is the end of the batch that is selected
/// from, so that the teacher can be asked about the next one, and about no more.
const DEPTH_ON_DEVICE: usize = 1;

/// A batch, and where a shard ends with it that shard's order.
struct Batch {
    prepared: Prepared,
    last_of_shard: Option<Order>,
}

/// A shard's rows as the teacher is asked about them: by their indices in the dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Order(Vec<u64>);

/// What the teacher's stage hands on.
enum Answer {
    /// What the teacher says of some positions of a batch.
    Positions(RawOutput, Vec<Position>),
    /// The batch is done.
    End { rows: Vec<SampleView>, tokens: Vec<TokenRow>, last_of_shard: Option<Order> },
}

/// Fills the shards that are missing. Returns whether it came to the end.
pub(super) fn run(
    source: &mut Source,
    writer: &mut CacheWriter,
    stop: &AtomicBool,
    progress: &dyn Progress,
) -> Result<bool, BuildError> {
    // A sample's views lie in one shard.
    let shard = writer.manifest().storage.shard_samples.saturating_mul(u64::from(source.samples.views()));
    loop {
        let before = writer.manifest().committed_rows();
        let missing = writer.missing()?;
        progress.advance(writer.manifest().committed_rows() - before);
        let rows = |shards: u64| shards.saturating_mul(shard).min(source.samples.rows());
        let rows = rows(missing.start)..rows(missing.end);
        if rows.is_empty() {
            return Ok(true);
        }
        if !fill(source, writer, rows, shard, stop, progress)? {
            return Ok(false);
        }
    }
}

/// Fills the shards that `rows` make, of `shard` rows each but for the last. Returns whether it came to the end.
fn fill(
    source: &mut Source,
    writer: &mut CacheWriter,
    rows: Range<u64>,
    shard: u64,
    stop: &AtomicBool,
    progress: &dyn Progress,
) -> Result<bool, BuildError> {
    let (parts, batch) = (shards(rows, shard), source.batch);
    let Source { samples, model, reading, on_device, .. } = source;
    let (samples, reading) = (&*samples, &*reading);

    let (to_teacher, prepared) = sync_channel(DEPTH);
    let (to_selection, predicted) = sync_channel(if *on_device { DEPTH_ON_DEVICE } else { DEPTH });
    let (to_writer, filled) = sync_channel(1);
    let (read, taught, selected, written) = std::thread::scope(|scope| {
        let reader = scope.spawn(move || read(samples, parts, batch, stop, to_teacher));
        let selection = scope.spawn(move || select(reading, samples, predicted, to_writer, progress));
        let writing = scope.spawn(move || write(writer, filled));
        // The teacher stays on this thread: some runtimes are bound to the one that loaded them.
        let taught = teach(model, prepared, to_selection);
        (join(reader), taught, join(selection), join(writing))
    });
    // The last stage's error is the cause when several failed: it closed the channels before it.
    written?;
    selected?;
    taught?;
    read?;
    Ok(!stop.load(Ordering::Relaxed))
}

/// A stage's result; a panic in it goes on in the caller.
fn join<T>(handle: std::thread::ScopedJoinHandle<'_, T>) -> T {
    handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The rows in `range` (indices), by shards.
fn shards(range: Range<u64>, shard: u64) -> impl Iterator<Item = Range<u64>> {
    let end = range.end;
    let mut start = range.start;
    std::iter::from_fn(move || {
        let stop = (start / shard + 1).saturating_mul(shard).min(end);
        let rows = start..stop;
        start = stop;
        (!rows.is_empty()).then_some(rows)
    })
}

impl Order {
    /// Of a shard's `rows` long ones first, of `length` each, and of equal ones in their own order.
    fn longest_first<E>(rows: Range<u64>, length: impl Fn(u64) -> Result<usize, E>) -> Result<Self, E> {
        let mut lengths = rows.map(|row| Ok((row, length(row)?))).collect::<Result<Vec<_>, E>>()?;
        lengths.sort_by_key(|(_, length)| Reverse(*length));
        Ok(Self(lengths.into_iter().map(|(row, _)| row).collect()))
    }

    /// What was asked about in this order, in the dataset's.
    fn undo(&self, asked: ShardRows) -> ShardRows {
        if self.0.is_sorted() {
            return asked;
        }
        let mut places: Vec<usize> = (0..self.0.len()).collect();
        places.sort_unstable_by_key(|place| self.0[*place]);
        asked.of(&places)
    }
}

fn read(
    samples: &Samples,
    shards: impl Iterator<Item = Range<u64>>,
    batch: usize,
    stop: &AtomicBool,
    to: SyncSender<Batch>,
) -> Result<(), BuildError> {
    for rows in shards {
        let order = Order::longest_first(rows, |row| samples.positions_of(samples.row_at(row).sample))?;
        let mut batches = order.0.chunks(batch.max(1)).peekable();
        while let Some(rows) = batches.next() {
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let prepared = samples.prepare(rows.iter().map(|row| samples.row_at(*row)).collect())?;
            let last_of_shard = batches.peek().is_none().then(|| order.clone());
            if to.send(Batch { prepared, last_of_shard }).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn teach(model: &mut Model, from: Receiver<Batch>, to: SyncSender<Answer>) -> Result<(), BuildError> {
    for Batch { prepared, last_of_shard } in from {
        let mut left = prepared.positions();
        let mut open = true;
        model
            .forward(&prepared, &mut |output| {
                let rest = left.split_off(output.rows.min(left.len()));
                let positions = std::mem::replace(&mut left, rest);
                open = to.send(Answer::Positions(output, positions)).is_ok();
                if open { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })
            .map_err(SourceError::from)?;
        let Prepared { rows, tokens, .. } = prepared;
        if !open || to.send(Answer::End { rows, tokens, last_of_shard }).is_err() {
            break;
        }
    }
    Ok(())
}

fn select(
    reading: &Reading,
    samples: &Samples,
    from: Receiver<Answer>,
    to: SyncSender<(Order, ShardRows)>,
    progress: &dyn Progress,
) -> Result<(), BuildError> {
    let mut shard = ShardRows::default();
    for answer in from {
        let (rows, tokens, last_of_shard) = match answer {
            Answer::Positions(mut output, positions) => {
                let features = reading.features(&mut output, &positions)?;
                match shard.features.is_empty() {
                    true => shard.features = features,
                    false => {
                        shard.features.iter_mut().zip(&features).for_each(|(all, more)| all.extend(more))
                    }
                }
                shard.targets.extend(&reading.targets(output, &positions)?);
                continue;
            }
            Answer::End { rows, tokens, last_of_shard } => (rows, tokens, last_of_shard),
        };
        for row in &rows {
            shard.labels.extend(samples.label(row.sample)?);
        }
        shard.tokens.extend(tokens);
        progress.advance(rows.len() as u64);
        shard.sample_ids.extend(rows.iter().map(|row| row.sample));
        shard.views.extend(rows.iter().map(|row| row.view));
        if let Some(order) = last_of_shard
            && to.send((order, std::mem::take(&mut shard))).is_err()
        {
            break;
        }
    }
    // What is left belongs to a shard that was interrupted: it is made anew when resumed.
    Ok(())
}

fn write(writer: &mut CacheWriter, from: Receiver<(Order, ShardRows)>) -> Result<(), BuildError> {
    for (order, asked) in from {
        writer.commit_shard(&order.undo(asked))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::FeatureValues;
    use crate::encoding::FeatureNumbers;
    use crate::ids::SampleId;
    use crate::target::TargetBatch;

    #[test]
    fn shards_do_not_depend_on_where_a_build_resumes() {
        assert_eq!(shards(0..25, 10).collect::<Vec<_>>(), [0..10, 10..20, 20..25]);
        assert_eq!(shards(10..25, 10).collect::<Vec<_>>(), [10..20, 20..25]);
        assert!(shards(0..3, 10).eq(std::iter::once(0..3)));
        assert!(shards(0..3, u64::MAX).eq(std::iter::once(0..3)));
        assert_eq!(shards(5..5, 10).count(), 0);
    }

    #[test]
    fn long_rows_are_asked_about_first_and_kept_in_their_own_order() {
        let lengths = [3usize, 0, 5, 3, 1, 5];
        let order = Order::longest_first(10..16, |row| Ok::<_, ()>(lengths[row as usize - 10])).unwrap();
        assert_eq!(order.0, [12, 15, 10, 13, 14, 11]);
        assert_eq!(Order::longest_first(0..3, Err::<usize, _>), Err(0));
        let row =
            |row: u64| TokenRow { tokens: vec![row as u32; lengths[row as usize - 10]], documents: vec![0] };
        let mut asked = ShardRows::default();
        let mut targets = TargetBatch::zeroed(lengths.iter().sum(), 1, 2);
        asked.tokens = order.0.iter().map(|at| row(*at)).collect();
        asked.sample_ids = order.0.iter().map(|row| SampleId(*row)).collect();
        targets.ids = asked.tokens.iter().flat_map(|row| row.tokens.clone()).collect();
        targets.curve = targets.ids.iter().flat_map(|id| [*id as f32, -(*id as f32)]).collect();
        asked.targets = targets;
        let mut halves = FeatureNumbers::new(FeatureValues::F16);
        let mut bytes = FeatureNumbers::new(FeatureValues::I8);
        for id in &asked.targets.ids {
            halves.push(&[*id as f32, 1.0]).unwrap();
            bytes.push(&[127.0 * *id as f32]).unwrap();
        }
        asked.features = vec![halves, bytes];

        let kept = order.undo(asked.clone());
        assert_eq!(kept.sample_ids, (10..16).map(SampleId).collect::<Vec<_>>());
        assert_eq!(kept.tokens, (10..16).map(row).collect::<Vec<_>>());
        let ids: Vec<u32> = (10..16).flat_map(|at| row(at).tokens).collect();
        assert_eq!((&kept.targets.ids, kept.targets.rows), (&ids, 17));
        assert_eq!(
            kept.targets.curve,
            ids.iter().flat_map(|id| [*id as f32, -(*id as f32)]).collect::<Vec<_>>()
        );
        let FeatureNumbers::F16(halves) = &kept.features[0] else { panic!("of half precision") };
        let expected = ids.iter().flat_map(|id| [*id as f32, 1.0]);
        assert!(halves.iter().map(|half| half.to_f32()).eq(expected));
        let scales = ids.iter().map(|id| *id as f32).collect::<Vec<_>>();
        assert_eq!(kept.features[1], FeatureNumbers::I8 { whole: vec![127; 17], scales });
        // What is in order is left as it is, labels and views too.
        let rows = ShardRows { labels: vec![4, 5], views: vec![0, 1], ..ShardRows::default() };
        assert_eq!(Order(vec![7, 8]).undo(rows.clone()).labels, [4, 5]);
    }
}
