//! How benches measure, and write down what they measured.

#![allow(dead_code, reason = "each bench takes a part")]

use std::time::{Duration, Instant};

/// How long a measurement takes at least.
const LEAST: Duration = Duration::from_millis(150);

/// Median, least and largest, with so many digits behind the point.
pub fn spread(mut values: Vec<f64>, digits: usize) -> String {
    values.sort_by(f64::total_cmp);
    let [median, least, largest] = [values.len() / 2, 0, values.len() - 1].map(|at| values[at]);
    format!("{median:.digits$} ({least:.digits$} to {largest:.digits$})")
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
