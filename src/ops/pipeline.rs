//! The stages of a build, overlapped: read and prepare, teacher, selection, writing.
//!
//! Batches are cut by the config, never by timing: each shard is split into batches of
//! `teacher.batch` samples, the last one smaller, so that the bytes do not depend on threads,
//! speed or interruptions. (With `"auto"` that number is measured once, and then kept with the build.) Channels hold a few batches; a stage that fails or stops closes its
//! channels, and the others run dry.

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

/// A batch, and whether a shard ends with it.
struct Batch {
    prepared: Prepared,
    last_of_shard: bool,
}

/// What the teacher's stage hands on.
enum Answer {
    /// What the teacher says of some positions of a batch.
    Positions(RawOutput, Vec<Position>),
    /// The batch is done.
    End { rows: Vec<SampleView>, tokens: Vec<TokenRow>, last_of_shard: bool },
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
    let batches = batches(rows, shard, source.batch as u64);
    let Source { samples, model, reading, on_device, .. } = source;
    let (samples, reading) = (&*samples, &*reading);

    let (to_teacher, prepared) = sync_channel(DEPTH);
    let (to_selection, predicted) = sync_channel(if *on_device { DEPTH_ON_DEVICE } else { DEPTH });
    let (to_writer, shards) = sync_channel(1);
    let (read, taught, selected, written) = std::thread::scope(|scope| {
        let reader = scope.spawn(move || read(samples, batches, stop, to_teacher));
        let selection = scope.spawn(move || select(reading, samples, predicted, to_writer, progress));
        let writing = scope.spawn(move || write(writer, shards));
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

/// Batches of the rows in `range` (indices), aligned to shards, and whether each ends one.
fn batches(range: Range<u64>, shard: u64, batch: u64) -> impl Iterator<Item = (Range<u64>, bool)> {
    let end = range.end;
    let mut start = range.start;
    std::iter::from_fn(move || {
        if start >= end {
            return None;
        }
        let shard_end = (start / shard + 1).saturating_mul(shard).min(end);
        let stop = start.saturating_add(batch).min(shard_end);
        let item = (start..stop, stop == shard_end);
        start = stop;
        Some(item)
    })
}

fn read(
    samples: &Samples,
    batches: impl Iterator<Item = (Range<u64>, bool)>,
    stop: &AtomicBool,
    to: SyncSender<Batch>,
) -> Result<(), BuildError> {
    for (range, last_of_shard) in batches {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let prepared = samples.prepare(range.map(|index| samples.row_at(index)).collect())?;
        if to.send(Batch { prepared, last_of_shard }).is_err() {
            break;
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
    to: SyncSender<ShardRows>,
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
        if last_of_shard && to.send(std::mem::take(&mut shard)).is_err() {
            break;
        }
    }
    // What is left belongs to a shard that was interrupted: it is made anew when resumed.
    Ok(())
}

fn write(writer: &mut CacheWriter, from: Receiver<ShardRows>) -> Result<(), BuildError> {
    for shard in from {
        writer.commit_shard(&shard)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_never_cross_shards_and_do_not_depend_on_where_a_build_resumes() {
        let all: Vec<_> = batches(0..25, 10, 4).collect();
        let expected = [
            (0..4, false),
            (4..8, false),
            (8..10, true),
            (10..14, false),
            (14..18, false),
            (18..20, true),
            (20..24, false),
            (24..25, true),
        ];
        assert_eq!(all, expected);
        assert_eq!(batches(10..25, 10, 4).collect::<Vec<_>>(), expected[3..]);
        assert_eq!(batches(0..3, 10, 100).collect::<Vec<_>>(), [(0..3, true)]);
        assert_eq!(batches(5..5, 10, 4).count(), 0);
    }
}
