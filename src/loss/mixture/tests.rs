//! Averages of several teachers' targets against their definitions.

use proptest::prelude::*;

use super::*;
use crate::config::LossWeights;
use crate::libtorch::of_tests;
use crate::loss::kl::tests::{Case, case, tensor};
use crate::loss::{Means, WeightedLoss, reference};
use crate::target::TailHandling;

fn config(average: MixtureAverage, weights: &[f64], temperature: f64) -> LossConfig {
    LossConfig {
        temperature: temperature.into(),
        tail: TailHandling::Prior,
        weights: LossWeights { kl: 1.0.into(), ..LossWeights::default() },
        mixture: MixtureConfig { weights: weights.to_vec(), average },
        ..LossConfig::default()
    }
}

/// Every class's probability in the target of a row, by definition.
fn dense(case: &Case, row: usize, temperature: Temperature, tail: TailHandling) -> Vec<f64> {
    let model = case.tail_model();
    reference::dense(&case.target(row), temperature, tail, (&model, &[]))
}

/// The average of two rows of probabilities, by definition.
fn averaged(average: MixtureAverage, p: [&[f64]; 2], weights: [f64; 2]) -> Vec<f64> {
    let each = p[0].iter().zip(p[1]);
    let mixed: Vec<f64> = match average {
        MixtureAverage::Probabilities => each.map(|(a, b)| weights[0] * a + weights[1] * b).collect(),
        MixtureAverage::Logits => {
            each.map(|(a, b)| (weights[0] * a.ln() + weights[1] * b.ln()).exp()).collect()
        }
    };
    let sum: f64 = mixed.iter().sum();
    mixed.into_iter().map(|p| p / sum).collect()
}

fn kl(p: &[f64], log_q: &[f64]) -> f64 {
    p.iter().zip(log_q).filter(|(p, _)| **p > 0.0).map(|(p, log_q)| p * (p.ln() - log_q)).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn averages_agree_with_their_definitions(
        seed in 0u64..1 << 40,
        classes in 3usize..40,
        shares in [0.0f64..1.0, 0.0f64..1.0],
        temperature in 1.0f64..8.0,
        first in 0.1f64..0.9,
        of_logits: bool,
    ) {
        let rows = 4;
        let average = if of_logits { MixtureAverage::Logits } else { MixtureAverage::Probabilities };
        // Heads of two sizes, of other teachers.
        let k = shares.map(|share| 1 + (share * (classes - 1) as f64).round() as usize);
        let cases = [case(seed, rows, classes, k[0], 0), case(seed + 1, rows, classes, k[1], 0)];
        let spaces = [cases[0].space.clone(), cases[1].space.clone()];
        let weights = [first, 1.0 - first];
        // Only ratios count.
        let config = config(average, &[3.0 * weights[0], 3.0 * weights[1]], temperature);
        let t = Temperature::new(temperature).unwrap();
        let targets = [0, 1].map(|at: usize| TargetTensors::new(&cases[at].batch, of_tests()));
        let mixture = Mixture::new(&spaces, &config, t, of_tests()).unwrap();
        let students = cases[0].students(seed);
        let logits = tensor(&students);

        let log_p = mixture.log_target(&targets).unwrap();
        let divergences = mixture.per_sample(&logits, &targets);
        let mut expected_sum = 0.0;
        let mut expected_gradient = Vec::new();
        for (row, student) in students.iter().enumerate() {
            let p = [0, 1].map(|at: usize| dense(&cases[at], row, t, config.tail));
            let mixed = averaged(average, [&p[0], &p[1]], weights);
            for (class, p) in mixed.iter().enumerate() {
                let found = log_p.double_value(&[row as i64, class as i64]).exp();
                prop_assert!((found - p).abs() < 1e-5, "{found} is not {p}");
            }
            let log_q = reference::log_softmax(student, t.beta());
            let expected = match average {
                MixtureAverage::Logits => kl(&mixed, &log_q),
                MixtureAverage::Probabilities => {
                    weights[0] * kl(&p[0], &log_q) + weights[1] * kl(&p[1], &log_q)
                }
            };
            let found = divergences.double_value(&[row as i64]);
            prop_assert!((found - expected).abs() < 1e-4 * (1.0 + expected), "{found} is not {expected}");
            expected_sum += expected;
            // d KL(p ‖ softmax(β s)) / d s = β (softmax(β s) − p), of the average itself.
            expected_gradient.extend(mixed.iter().zip(&log_q).map(|(p, log_q)| t.beta() * (log_q.exp() - p)));
        }

        // The CPU's own path and libtorch's operators: the same value and gradient.
        let square = temperature * temperature;
        let leaf = || logits.copy().set_requires_grad(true);
        let loss = WeightedLoss::new(&config, &spaces, of_tests()).unwrap();
        let own = leaf();
        let mut terms = loss.forward(&own, None, &targets, Means { positions: rows, labels: 0 });
        terms.backward(1.0).unwrap();
        let whole = leaf();
        let total = mixture.per_sample(&whole, &targets).sum(Kind::Float) * (square / rows as f64);
        total.backward();
        for (value, gradient) in [(terms.value, own.grad()), (total, whole.grad())] {
            let value = value.double_value(&[]);
            let expected = expected_sum * square / rows as f64;
            prop_assert!((value - expected).abs() < 1e-4 * (1.0 + expected), "{value} is not {expected}");
            let gradient = Vec::<f32>::try_from(gradient.reshape([-1])).unwrap();
            for (found, expected) in gradient.iter().zip(&expected_gradient) {
                let expected = expected * square / rows as f64;
                prop_assert!((f64::from(*found) - expected).abs() < 1e-4, "{found} is not {expected}");
            }
        }
    }
}

#[test]
fn one_teacher_is_its_own_average() {
    let case = case(7, 3, 9, 4, 2);
    let config = LossConfig { tail: TailHandling::Shape, ..config(MixtureAverage::Logits, &[2.0], 2.0) };
    let t = Temperature::new(2.0).unwrap();
    let targets = TargetTensors::new(&case.batch, of_tests());
    let logits = tensor(&case.students(7));
    let one = KlDivergence::new(&case.space, t, config.tail, of_tests()).unwrap();
    let mixture = Mixture::new(std::slice::from_ref(&case.space), &config, t, of_tests()).unwrap();
    let targets = std::slice::from_ref(&targets);
    assert_eq!(mixture.per_sample(&logits, targets), one.per_sample(&logits, &targets[0]));
    assert_eq!(mixture.log_target(targets).unwrap(), one.log_target(&targets[0]).unwrap());
}

#[test]
fn what_has_no_average_is_refused() {
    let cases = [case(1, 1, 9, 4, 0), case(2, 1, 9, 4, 0)];
    let spaces = [cases[0].space.clone(), cases[1].space.clone()];
    let refused = |config: &LossConfig| WeightedLoss::new(config, &spaces, of_tests()).unwrap_err();
    let error = refused(&config(MixtureAverage::Probabilities, &[1.0; 3], 1.0));
    assert_eq!(error, LossError::Teachers { given: 3, teachers: 2 });
    for tail in [TailHandling::Bucket, TailHandling::Renormalize] {
        let config = LossConfig { tail, ..config(MixtureAverage::Logits, &[], 1.0) };
        assert!(matches!(refused(&config), LossError::NoMass { .. }), "{tail}");
        let mixture = MixtureConfig { average: MixtureAverage::Probabilities, ..config.mixture.clone() };
        WeightedLoss::new(&LossConfig { mixture, ..config }, &spaces, of_tests()).unwrap();
    }
}
