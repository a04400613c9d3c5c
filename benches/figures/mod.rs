//! How benches measure, and write down what they measured.

#![allow(dead_code, reason = "each bench takes a part")]

use std::process::Command;
use std::time::{Duration, Instant};

/// How long a measurement takes at least.
const LEAST: Duration = Duration::from_millis(150);

/// The value in the middle; of an even number the larger of the two.
pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Median, least and largest, with so many digits behind the point.
pub fn spread(mut values: Vec<f64>, digits: usize) -> String {
    let median = median(&values);
    values.sort_by(f64::total_cmp);
    let [least, largest] = [0, values.len() - 1].map(|at| values[at]);
    format!("{median:.digits$} ({least:.digits$} to {largest:.digits$})")
}

/// The built `kd-train`, or on a machine where nothing was built what `KD_TRAIN` names.
pub fn kd_train() -> Command {
    let built = option_env!("CARGO_BIN_EXE_kd-train").unwrap_or("kd-train");
    Command::new(std::env::var_os("KD_TRAIN").unwrap_or_else(|| built.into()))
}

/// Something that is timed.
pub type Arm<'a> = (&'static str, Box<dyn FnMut() + 'a>);

/// Seconds of one call of each arm, round by round.
pub fn take_turns(arms: &mut [Arm<'_>], rounds: usize) -> Vec<Vec<f64>> {
    // So many calls that a measurement is long enough; the first ones warm up.
    let calls: Vec<u32> = arms
        .iter_mut()
        .map(|(_, call)| {
            let (begun, mut calls) = (Instant::now(), 0);
            while begun.elapsed() < LEAST {
                call();
                calls += 1;
            }
            calls
        })
        .collect();
    let mut seconds = vec![Vec::with_capacity(rounds); arms.len()];
    for round in 0..rounds {
        for at in (0..arms.len()).map(|at| (at + round) % calls.len()) {
            let begun = Instant::now();
            (0..calls[at]).for_each(|_| arms[at].1());
            seconds[at].push(begun.elapsed().as_secs_f64() / f64::from(calls[at]));
        }
    }
    seconds
}
