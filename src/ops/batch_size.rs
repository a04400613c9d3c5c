//! How many samples a teacher is best asked about at once: tried out.
//!
//! What is found depends on the machine and its moment, and the last bits of some runtimes' results depend on the batch. So it
//! is found once, before anything is written, and stands in the manifest from then on.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::samples::{Model, Samples};
use super::source::SourceError;
use crate::teacher::TeacherError;

/// Gains below this are none.
const WORTH: f64 = 1.03;
/// Sizes are tried until so many in a row have gained nothing.
const PATIENCE: usize = 2;
/// Passes of a size that are timed, unless they take longer together than [`LONG`].
const PASSES: usize = 3;
const LONG: Duration = Duration::from_secs(1);
/// No pass takes longer, as far as that can be known beforehand.
const LONGEST: Duration = Duration::from_secs(20);
/// Logits that are in memory at once, at most: 2 GiB in single precision.
const MOST_VALUES: usize = 1 << 29;

/// The smallest power of two, of at most `most` samples, that the teacher goes through nearly as quickly as through any other.
///
/// A model that is made for one size has that. Where a larger batch fails, as for want of memory, the largest that did not is not
/// taken either, because a build needs more than a pass does; and the teacher is `opened` anew, whatever has become of it.
pub(super) fn measured(
    samples: &Samples,
    model: &mut Model,
    most: u64,
    opened: impl FnOnce() -> Result<Model, TeacherError>,
) -> Result<usize, SourceError> {
    if let Some(fixed) = model.fixed_batch() {
        return Ok(usize::try_from(most).map_or(fixed, |most| fixed.min(most.max(1))));
    }
    let mut rates = Vec::new();
    let mut size = 1u64;
    while size <= most.max(1) {
        let timed = match time(samples, model, size) {
            Ok(timed) => timed,
            // The smallest must do.
            Err(error) if rates.is_empty() => return Err(error),
            Err(_) => {
                *model = opened()?;
                if rates.len() > 1 {
                    rates.pop();
                }
                break;
            }
        };
        rates.push((size as usize, size as f64 / timed.seconds.as_secs_f64().max(1e-9)));
        if timed.values.saturating_mul(2) > MOST_VALUES || timed.seconds * 2 > LONGEST || settled(&rates) {
            break;
        }
        size *= 2;
    }
    Ok(best(&rates))
}

/// Whether the last sizes were no better than one before them.
fn settled(rates: &[(usize, f64)]) -> bool {
    let Some(before) = rates.len().checked_sub(PATIENCE).filter(|before| *before > 0) else { return false };
    let (earlier, last) = rates.split_at(before);
    let quickest = earlier.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
    last.iter().all(|(_, rate)| *rate < quickest * WORTH)
}

/// The smallest size whose rate is as good as the best.
fn best(rates: &[(usize, f64)]) -> usize {
    let quickest = rates.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
    rates.iter().find(|(_, rate)| rate * WORTH >= quickest).map_or(1, |(size, _)| *size)
}

/// The quickest pass of a size.
struct Timed {
    seconds: Duration,
    /// Logits of a pass.
    values: usize,
}

fn time(samples: &Samples, model: &mut Model, size: u64) -> Result<Timed, SourceError> {
    let prepared = samples.prepare((0..size).map(|index| samples.row_at(index)).collect())?;
    let mut quickest: Option<Duration> = None;
    let (mut values, begun) = (0, Instant::now());
    for pass in 0..=PASSES {
        let asked = Instant::now();
        values = 0;
        model.forward(&prepared, &mut |output| {
            output.values.wait();
            values += output.rows * output.classes;
            ControlFlow::Continue(())
        })?;
        let took = asked.elapsed();
        // The first pass of a size prepares what later ones find, and the very first one all that there is; of larger sizes
        // one that is slow enough by itself counts.
        if pass > 0 || size > 1 && took >= LONG {
            quickest = Some(quickest.map_or(took, |quickest| quickest.min(took)));
        }
        if quickest.is_some() && begun.elapsed() >= LONG {
            break;
        }
    }
    Ok(Timed { seconds: quickest.unwrap_or_default(), values })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_that_is_as_quick_as_any_is_taken() {
        assert_eq!(best(&[(1, 10.0), (2, 19.0), (4, 30.0), (8, 30.5), (16, 29.0)]), 4);
        assert_eq!(best(&[(1, 10.0), (2, 9.0), (4, 8.0)]), 1);
        assert_eq!(best(&[(1, 10.0)]), 1);
    }

    #[test]
    fn it_is_over_when_larger_ones_gain_nothing_twice() {
        assert!(!settled(&[(1, 10.0)]));
        assert!(!settled(&[(1, 10.0), (2, 10.1)]));
        assert!(settled(&[(1, 10.0), (2, 10.1), (4, 10.2)]));
        // A size that is bad by itself, as some are for some kernels, ends nothing.
        assert!(!settled(&[(1, 10.0), (2, 9.0), (4, 15.0)]));
        assert!(!settled(&[(1, 10.0), (2, 18.0), (4, 18.1)]));
        assert!(settled(&[(1, 10.0), (2, 18.0), (4, 18.1), (8, 17.0)]));
    }
}
