//! Every term on cached targets against its definition: heads of one length and of several, and every tail handling.

use super::*;
use crate::config::{DistConfig, DkdConfig, NkdConfig, RankingConfig};
use crate::loss::reference;
use crate::target::TargetBatch;

/// What terms are asked with: no default, and no two alike.
fn asked(name: &str, temperature: f64, tail: TailHandling) -> LossConfig {
    LossConfig {
        temperature: temperature.into(),
        tail,
        weights: weights(&[(name, 1.0)]),
        jsd_beta: 0.3,
        dkd: DkdConfig { alpha: 1.5, beta: 4.0 },
        dist: DistConfig { beta: 0.7, gamma: 1.3 },
        nkd: NkdConfig { gamma: 1.1 },
        ranking: RankingConfig { top: Some(4) },
        label_smoothing: 0.15,
        ..LossConfig::default()
    }
}

/// The value of one term, of weight 1, on all rows of a case; `None` where targets lack the mass that it needs.
fn term(case: &Case, config: &LossConfig, students: &Tensor, labels: &Tensor, name: &str) -> Option<f64> {
    let loss = match WeightedLoss::new(config, std::slice::from_ref(&case.space), of_tests()) {
        Err(LossError::NoMass { .. }) => return None,
        loss => loss.unwrap(),
    };
    let targets = TargetTensors::new(&case.batch, of_tests());
    let terms = loss.forward(students, Some(labels), std::slice::from_ref(&targets), over(case.batch.rows));
    let value = terms.terms[name].double_value(&[]);
    assert!((terms.value.double_value(&[]) - value).abs() < 1e-6 * (1.0 + value.abs()));
    Some(value)
}

/// Whether a term is refused of targets whose tails are seen so.
fn is_refused(name: &str, tail: TailHandling) -> bool {
    match name {
        "logit_mse" | "logit_cosine" | "ranking" => false,
        "reverse_kl" => matches!(tail, TailHandling::Bucket | TailHandling::Renormalize),
        _ => tail == TailHandling::Bucket,
    }
}

fn softmax(z: &[f64], beta: f64) -> Vec<f64> {
    reference::log_softmax(z, beta).iter().map(|log| log.exp()).collect()
}

/// A term's value by definition, and by how much single precision may be off.
struct Defined {
    name: &'static str,
    value: f64,
    off: f64,
}

impl Defined {
    /// A mean that is multiplied by `factor`, as its rounding is.
    fn new(name: &'static str, factor: f64, mean: f64) -> Self {
        let value = factor * mean;
        Self { name, value, off: 2e-5 * (factor + value.abs()) }
    }

    /// The same of one that makes more of what is rounded: differences of what is nearly the same, or logarithms.
    fn roughly(name: &'static str, factor: f64, mean: f64) -> Self {
        let value = factor * mean;
        Self { name, value, off: 2e-4 * (1.0 + value.abs()) }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn terms_agree_with_their_definitions(
        seed in 0u64..1 << 40,
        classes in 3usize..40,
        share in 0.0f64..1.0,
        rank in 0usize..4,
        temperature in 1.0f64..8.0,
        variable: bool,
    ) {
        let rows = 5;
        let k = 1 + (share * (classes - 1) as f64).round() as usize;
        let case = case(seed, rows, classes, k, rank);
        let case = if variable { case.varied(seed) } else { case };
        // The student as the fast path sees it: rounded to f32.
        let single = |row: &Vec<f64>| row.iter().map(|s| f64::from(*s as f32)).collect();
        let students: Vec<Vec<f64>> = case.students(seed).iter().map(single).collect();
        let labels: Vec<usize> = (0..rows).map(|row| (seed as usize + 7 * row) % classes).collect();
        let label_tensor = on_device(&labels.iter().map(|label| *label as i64).collect::<Vec<_>>());
        let (t, model) = (Temperature::new(temperature).unwrap(), case.tail_model());
        let mean = |of: &dyn Fn(usize) -> f64| (0..rows).map(of).sum::<f64>() / rows as f64;
        // What each row's head alone says.
        let of_head = |of: fn(&[f64], &[u32], &[f32]) -> f64| {
            mean(&|row| {
                let target = case.target(row);
                of(&students[row], target.ids, target.values)
            })
        };
        let square = temperature * temperature;
        let q: Vec<Vec<f64>> = students.iter().map(|z| softmax(z, t.beta())).collect();
        for tail in TailHandling::ALL {
            let of_every_class = |at: Temperature| -> Vec<Vec<f64>> {
                (0..rows)
                    .map(|row| reference::dense(&case.target(row), at, tail, (&model, case.batch.code(row))))
                    .collect()
            };
            let (p, p_one) = (of_every_class(t), of_every_class(Temperature::ONE));
            let of_both = |of: fn(&[f64], &[f64]) -> f64| mean(&|row| of(&p[row], &q[row]));
            let mut defined = vec![
                Defined::new(
                    "cross_entropy",
                    1.0,
                    mean(&|row| reference::cross_entropy(&students[row], labels[row], 0.15)),
                ),
                Defined::new("reverse_kl", square, of_both(reference::reverse_kl)),
                Defined::new("jsd", square, of_both(|p, q| reference::jsd(p, q, 0.3))),
                Defined::new("total_variation", 1.0, of_both(reference::total_variation)),
                Defined::new("mse", 1.0, of_both(reference::mse)),
                Defined::new("cosine", 1.0, of_both(reference::cosine)),
                Defined::roughly("dist", square, reference::dist(&p, &q, 0.7, 1.3)),
                Defined::new("logit_mse", 1.0, of_head(reference::logit_mse)),
                Defined::new("logit_cosine", 1.0, of_head(reference::logit_cosine)),
                Defined::roughly(
                    "ranking",
                    1.0,
                    of_head(|student, ids, values| reference::ranking(student, ids, values, 4)),
                ),
            ];
            // Where no class but the label has mass, there is nothing to be normalised.
            let others = |(p, label): (&Vec<f64>, &usize)| p.iter().sum::<f64>() - p[*label] > 1e-6;
            if p.iter().zip(&labels).all(others) {
                let of_dkd = mean(&|row| reference::dkd(labels[row], &p[row], &q[row], 1.5, 4.0));
                let of_nkd = mean(&|row| {
                    let label = labels[row];
                    let at_one = (p_one[row][label], softmax(&students[row], 1.0)[label]);
                    reference::nkd(label, at_one, &p[row], &q[row], 1.1 * square)
                });
                let dkd = Defined::new("dkd", square, of_dkd);
                // Two divergences with weights that sum to 5.5.
                defined.push(Defined { off: 5.5 * dkd.off, ..dkd });
                defined.push(Defined::roughly("nkd", 1.0, of_nkd));
            }
            for Defined { name, value, off } in defined {
                let config = asked(name, temperature, tail);
                let refused = name != "cross_entropy" && k < classes && is_refused(name, tail);
                match term(&case, &config, &tensor(&students), &label_tensor, name) {
                    None => prop_assert!(refused, "{name}, {tail}: refused"),
                    Some(found) => {
                        prop_assert!(!refused, "{name}, {tail}: not refused");
                        prop_assert!((found - value).abs() < off, "{name}, {tail}: {found} is not {value}");
                    }
                }
            }
        }
    }
}

/// The constant that a softmax ignores does not turn a head's logits, nor does their scale, which a temperature changes.
#[test]
fn a_shift_of_either_sides_logits_turns_nothing() {
    for (k, variable) in [(9, false), (7, true), (2, false), (1, false)] {
        let case = case(17, 8, 9, k, 0);
        let case = if variable { case.varied(17) } else { case };
        let targets = TargetTensors::new(&case.batch, of_tests());
        let (ids, values, in_head) = (&targets.ids, &targets.values, targets.in_head());
        let student = tensor(&case.students(4)).gather(-1, ids, false);
        let of = |values: &Tensor, student: &Tensor| {
            numbers(&dense::logit_cosine(values, student, in_head.as_ref()))
        };
        // Another shift for each position.
        let shift = tensor(&(0..8).map(|row| vec![f64::from(row) * 2.5 - 9.0]).collect::<Vec<_>>());
        let found = of(values, &student);
        for moved in [
            of(values, &(&student + &shift)),
            of(&(values + &shift), &student),
            of(&(values - &shift), &(&student + &shift)),
            of(&(values * 0.25), &(&student * 4.0)),
        ] {
            for (row, (moved, found)) in moved.iter().zip(&found).enumerate() {
                // Two logits that are nearly equal are turned by what rounding does to them at another level.
                assert!((moved - found).abs() < 1e-4, "k = {k}, row {row}: {moved} is not {found}");
                assert!(case.batch.count(row) > 1 || *found == 0.0, "k = {k}, row {row}: {found}");
            }
        }
        // The same logits at whatever level: no angle. And turned round: the largest.
        for (student, expected) in [(values + &shift, 0.0), (&shift - values, 2.0)] {
            for (row, found) in of(values, &student).iter().enumerate() {
                let expected = if case.batch.count(row) == 1 { 0.0 } else { expected };
                assert!((found - expected).abs() < 1e-4, "k = {k}, row {row}: {found} is not {expected}");
            }
        }
    }
}

/// Where the target's logits are all equal they point nowhere, and no student is off them; where the student's are, it is
/// a right angle off.
#[test]
fn a_head_whose_logits_are_equal_has_no_angle() {
    let batch = TargetBatch {
        rows: 3,
        k: 3,
        ids: vec![2, 0, 1, 1, 3, 0, 3, 2, 1],
        values: vec![0.0, 0.0, 0.0, 0.0, -1.0, -1.5, 0.0, 0.0, 0.0],
        ..TargetBatch::default()
    };
    let targets = TargetTensors::new(&batch, of_tests());
    let logits = vec![vec![0.5, -0.3, 1.0, 0.2], vec![2.0; 4], vec![2.0; 4]];
    let leaf = tensor(&logits).set_requires_grad(true);
    let term = dense::logit_cosine(&targets.values, &leaf.gather(-1, &targets.ids, false), None);
    assert_eq!(numbers(&term), [0.0, 1.0, 0.0]);
    term.sum(Kind::Float).backward();
    let gradient = numbers(&leaf.grad());
    assert!(gradient.iter().all(|gradient| gradient.is_finite()), "{gradient:?}");
    assert!(gradient[..4].iter().chain(&gradient[8..]).all(|gradient| *gradient == 0.0), "{gradient:?}");
    // It leads towards the class that the target prefers.
    assert!(gradient[5] < 0.0 && gradient[4] > 0.0, "{gradient:?}");
}

/// Quantised logits may be equal, and the teacher then prefers neither.
#[test]
fn pairs_that_the_teacher_does_not_tell_apart_have_no_order() {
    let batch = TargetBatch {
        rows: 2,
        k: 3,
        ids: vec![2, 0, 1, 1, 3, 0],
        values: vec![0.0, -1.0, -1.0, 0.0, 0.0, 0.0],
        ..TargetBatch::default()
    };
    let logits = vec![vec![0.5, -0.3, 1.0, 0.2], vec![3.0, 2.0, 1.0, 0.0]];
    let found = numbers(&ranking(&tensor(&logits), &TargetTensors::new(&batch, of_tests()), None));
    let expected = ((1.0f64 + (-0.5f64).exp()).ln() + (1.0f64 + (-1.3f64).exp()).ln()) / 2.0;
    assert!((found[0] - expected).abs() < 1e-6 && found[1] == 0.0, "{found:?}, not {expected}");
}
