//! What a sweep's picture shows: a line for each combination of keys over the first number that changes, or bars where
//! none does. Runs that differ in their seed alone are one point, their mean and their spread.

use kd_cache::sweep::{PointReport, SweepReport};
use serde_json::Value;

use super::table::word;

/// What is averaged over, wherever something else changes, too.
const SEED: &str = "seed";

/// Scores of runs that differ in their seed alone.
#[derive(Clone, Debug, PartialEq)]
pub struct Spread {
    /// Their mean.
    pub mean: f64,
    /// The lowest.
    pub low: f64,
    /// The highest.
    pub high: f64,
    /// How many.
    pub runs: usize,
}

impl Spread {
    fn of(scores: &[f64]) -> Self {
        Self {
            mean: scores.iter().sum::<f64>() / scores.len().max(1) as f64,
            low: scores.iter().copied().fold(f64::INFINITY, f64::min),
            high: scores.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            runs: scores.len(),
        }
    }
}

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Its keys; empty where no other key changes.
    pub name: String,
    /// From left to right.
    pub points: Vec<(f64, Spread)>,
}

/// A picture's numbers.
#[derive(Clone, Debug, PartialEq)]
pub enum Series {
    /// Over a key that is a number.
    Lines {
        /// The key.
        key: String,
        /// Where points lie, rising.
        places: Vec<f64>,
        /// The lines, in the order of the runs.
        lines: Vec<Line>,
    },
    /// By name.
    Bars(Vec<(String, Spread)>),
}

/// What `report` has to show.
pub fn series(report: &SweepReport) -> Series {
    let done: Vec<(&PointReport, f64)> =
        report.points.iter().filter_map(|point| Some((point, point.score?))).collect();
    let alone = report.keys.len() == 1;
    let is_number = |key: &&String| {
        let places = places(&done, key);
        (alone || *key != SEED)
            && places.len() > 1
            && done.iter().all(|(point, _)| number(point, key).is_some())
    };
    let Some(key) = report.keys.iter().find(is_number) else {
        let bars = grouped(&done, |point| name(report, point, None));
        return Series::Bars(bars.into_iter().map(|(name, runs)| (name, spread(&runs))).collect());
    };
    let places = places(&done, key);
    let lines = grouped(&done, |point| name(report, point, Some(key)));
    let lines = lines.into_iter().map(|(name, runs)| {
        let at = |place: f64| {
            let here: Vec<_> =
                runs.iter().filter(|(point, _)| number(point, key) == Some(place)).copied().collect();
            (!here.is_empty()).then(|| (place, spread(&here)))
        };
        Line { name, points: places.iter().copied().filter_map(at).collect() }
    });
    Series::Lines { key: key.clone(), places: places.clone(), lines: lines.collect() }
}

fn number(point: &PointReport, key: &str) -> Option<f64> {
    point.keys.get(key).and_then(Value::as_f64)
}

/// The values of a key, each once, rising.
fn places(done: &[(&PointReport, f64)], key: &str) -> Vec<f64> {
    let mut places: Vec<f64> = done.iter().filter_map(|(point, _)| number(point, key)).collect();
    places.sort_by(f64::total_cmp);
    places.dedup();
    places
}

fn spread(runs: &[(&PointReport, f64)]) -> Spread {
    Spread::of(&runs.iter().map(|(_, score)| *score).collect::<Vec<_>>())
}

/// Runs under one name, in the order in which names come first.
fn grouped<'a>(
    done: &[(&'a PointReport, f64)],
    name: impl Fn(&PointReport) -> String,
) -> Vec<(String, Vec<(&'a PointReport, f64)>)> {
    let mut groups: Vec<(String, Vec<(&PointReport, f64)>)> = Vec::new();
    for run in done {
        let name = name(run.0);
        match groups.iter_mut().find(|(known, _)| *known == name) {
            Some((_, runs)) => runs.push(*run),
            None => groups.push((name, vec![*run])),
        }
    }
    groups
}

/// The keys of a run but for its seed and the one along the axis.
fn name(report: &SweepReport, point: &PointReport, axis: Option<&String>) -> String {
    let alone = report.keys.len() == 1;
    let shown = report.keys.iter().filter(|key| Some(*key) != axis && (alone || *key != SEED));
    let words = shown.filter_map(|key| {
        let value = word(point.keys.get(key)?);
        Some(format!("{} {value}", key.rsplit('.').next().unwrap_or(key)))
    });
    words.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use kd_cache::sweep::{PointState, SweepOutcome};
    use serde_json::json;

    fn report(keys: &[&str], points: &[(&[Value], Option<f64>)]) -> SweepReport {
        let point = |(at, (values, score)): (usize, &(&[Value], Option<f64>))| PointReport {
            name: format!("p{at}"),
            run: format!("runs/p{at}"),
            keys: keys.iter().map(|key| (*key).to_owned()).zip(values.iter().cloned()).collect(),
            state: PointState::Trained,
            rank: None,
            score: *score,
            validation: Default::default(),
            train_loss: None,
            best_epoch: None,
            epochs: None,
            parameters: None,
            student_bytes: None,
            cache: None,
            cache_bytes: None,
            seconds: None,
            error: None,
        };
        SweepReport {
            outcome: SweepOutcome::Finished,
            base: "train.toml".into(),
            rank_by: Some("test.accuracy".into()),
            higher_is_better: true,
            keys: keys.iter().map(|key| (*key).to_owned()).collect(),
            points: points.iter().enumerate().map(point).collect(),
            seconds: 1.0,
        }
    }

    #[test]
    fn lines_run_over_the_first_number_and_seeds_are_averaged() {
        let report = report(
            &["loss.tail", "seed", "loss.temperature"],
            &[
                (&[json!("prior"), json!(0), json!(4.0)], Some(0.5)),
                (&[json!("prior"), json!(1), json!(4)], Some(0.7)),
                (&[json!("prior"), json!(0), json!(1)], Some(0.4)),
                (&[json!("bucket"), json!(0), json!(1)], Some(0.1)),
                (&[json!("bucket"), json!(0), json!(2)], None),
            ],
        );
        let Series::Lines { key, places, lines } = series(&report) else { panic!("no lines") };
        assert_eq!((key.as_str(), places.as_slice()), ("loss.temperature", [1.0, 4.0].as_slice()));
        let names: Vec<&str> = lines.iter().map(|line| line.name.as_str()).collect();
        assert_eq!(names, ["tail prior", "tail bucket"]);
        let (place, spread) = &lines[0].points[1];
        assert_eq!((*place, spread.low, spread.high, spread.runs), (4.0, 0.5, 0.7, 2));
        assert!((spread.mean - 0.6).abs() < 1e-12);
        assert_eq!(lines[1].points.len(), 1);
    }

    #[test]
    fn words_are_bars_and_seeds_alone_are_numbers() {
        let students = [json!({ "kind": "mlp" }), json!({ "kind": "conv" })];
        let bars = report(&["student"], &[(&students[..1], Some(1.0)), (&students[1..], Some(2.0))]);
        let Series::Bars(bars) = series(&bars) else { panic!("no bars") };
        assert_eq!((bars[0].0.as_str(), bars[1].1.mean), ("student kind mlp", 2.0));
        let seeds = report(&["seed"], &[(&[json!(0)], Some(1.0)), (&[json!(1)], Some(2.0))]);
        assert!(matches!(series(&seeds), Series::Lines { key, .. } if key == "seed"));
    }
}
