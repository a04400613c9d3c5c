//! What a cache does not know of its tails at the temperature of a run.

use super::TrainError;
use super::setup::Training;
use crate::config::TrainConfig;
use crate::loader::Samples;
use crate::loss::TargetSpace;
use crate::target::{PositionTarget, Temperature};

/// Positions over which means are taken, at least, if there are as many.
const POSITIONS: usize = 4096;
/// Samples that are read at once.
const ROWS: u64 = 16;

/// A warning where the tails of the cache, the first of several, are known at T = 1 alone and `loss.temperature` is ever another: what mass
/// they may have there, and what is taken.
///
/// # Errors
/// Those of reading the cache.
pub(super) fn of_tails(config: &TrainConfig, training: &Training) -> Result<Option<String>, TrainError> {
    let [first, last] = config.loss.temperature.ends();
    let mut temperatures = vec![first, last];
    temperatures.dedup();
    // Between T = 1 and another, what is not known grows: the ends say the most that can be said.
    temperatures.retain(|temperature| *temperature != Temperature::ONE.get());
    let of_curve = config.loss.weights.of_targets() && config.loss.tail.reads_curve();
    let mut spaces = training.spaces.iter().enumerate();
    let Some(doubtful) = spaces.find(|(_, space)| {
        of_curve && space.has_tail() && space.nodes.as_slice() == [1.0] && !temperatures.is_empty()
    }) else {
        return Ok(None);
    };
    let known = temperatures
        .iter()
        .map(|temperature| tails(Temperature::new(*temperature)?, doubtful, &training.samples))
        .collect::<Result<Vec<String>, TrainError>>()?;
    let asked = if first == last { format!("= {first}") } else { format!("goes from {first} to {last}") };
    Ok(Some(format!(
        "warning: loss.temperature {asked}, and this cache knows its tails at T = 1 alone: {}. Targets are exact at \
         T = 1; a cache that kd-cache build makes is right at every temperature",
        known.join("; "),
    )))
}

/// What is known of the tails' mass at a temperature.
fn tails(
    temperature: Temperature,
    (teacher, space): (usize, &TargetSpace),
    samples: &Samples,
) -> Result<String, TrainError> {
    let (mut least, mut taken, mut most, mut positions) = (0.0, 0.0, 0.0, 0usize);
    let mut first = 0;
    while positions < POSITIONS && first < samples.len() {
        let indices: Vec<u64> = (first..samples.len().min(first + ROWS)).collect();
        first += ROWS;
        let Some(batch) = samples.batch(&indices, 0)?.targets.into_iter().nth(teacher) else { break };
        for row in 0..batch.rows {
            let (ids, values, curve) = batch.row(row);
            let count = batch.count(row);
            let target = PositionTarget {
                classes: space.classes,
                ids: &ids[..count],
                values: &values[..count],
                nodes: &space.nodes,
                curve,
            };
            let Some(bounds) = target.tail_mass_bounds(temperature) else { continue };
            least += bounds.0;
            most += bounds.1;
            taken += target.decode(temperature).tail_mass;
            positions += 1;
        }
    }
    let mean = |sum: f64| 100.0 * sum / positions.max(1) as f64;
    Ok(format!(
        "at {} they have between {:.1} % and {:.1} % of the mass, and {:.1} % is taken (means over {positions} \
         positions)",
        temperature.get(),
        mean(least),
        mean(most),
        mean(taken),
    ))
}
