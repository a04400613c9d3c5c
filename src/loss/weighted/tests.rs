//! Values and gradients in one go against what libtorch differentiates, and a loss that changes from step to step; terms
//! against their definitions are in `terms`.

use proptest::prelude::*;

use super::*;
use crate::config::{ChangeConfig, ChangeShape, LossWeights, Setting};
use crate::libtorch::of_tests;
use crate::loss::LossSchedule;
use crate::loss::kl::tests::{Case, case, numbers, on_device, tensor};
use crate::target::{Draws, TailNodes};

mod terms;

fn weights(names: &[(&str, f64)]) -> LossWeights {
    let named = names.iter().map(|(name, weight)| ((*name).to_owned(), (*weight).into()));
    serde_json::from_value(serde_json::Value::Object(named.collect())).unwrap()
}

fn change(from: f64, to: f64) -> Setting {
    let shape = ChangeShape::Linear;
    Setting::Changing(ChangeConfig {
        from,
        to,
        shape,
        start_epochs: 0.0,
        over_epochs: None,
        over_steps: None,
    })
}

fn over(rows: usize) -> Means {
    Means { positions: rows, labels: rows }
}

/// What a loss with its gradient in the same go is asked of.
#[derive(Clone, Copy, Debug)]
struct Asked {
    seed: u64,
    classes: usize,
    k: usize,
    rank: usize,
    temperature: f64,
    smoothing: f64,
    variable: bool,
    teachers: u64,
    with_labels: bool,
    with_targets: bool,
}

/// How a [`WeightedLoss`] makes both in one go.
type Way = fn(&WeightedLoss, &mut Sum, &Tensor, Option<&Tensor>, &[TargetTensors]) -> bool;

impl Asked {
    /// Values and gradients of `way` are those of what libtorch differentiates; with the tails of which `way` makes nothing.
    fn agrees(
        &self,
        tails: &[TailHandling],
        kind: Kind,
        way: Way,
    ) -> Result<Vec<TailHandling>, TestCaseError> {
        let Self { seed, classes, k, rank, temperature, smoothing, .. } = *self;
        let rows = 5;
        let made = |seed: u64| {
            let case = case(seed, rows, classes, k, rank);
            if self.variable { case.varied(seed) } else { case }
        };
        let cases: Vec<Case> = (0..self.teachers).map(|at| made(seed + at)).collect();
        let spaces: Vec<_> = cases.iter().map(|case| case.space.clone()).collect();
        let targets: Vec<_> = cases.iter().map(|case| TargetTensors::new(&case.batch, of_tests())).collect();
        let targets = if self.with_targets { &targets[..] } else { &[] };
        let labels: Vec<i64> = (0..rows as i64).map(|row| row * 7 % (classes as i64 + 1) - 1).collect();
        let labels = self.with_labels.then(|| on_device(&labels));
        let (means, factors) = (Means { positions: 7, labels: 3 }, [0.7, 0.4]);
        let mut left_out = Vec::new();
        for tail in tails {
            let config = LossConfig {
                temperature: temperature.into(),
                tail: *tail,
                weights: weights(&[("kl", factors[0]), ("cross_entropy", factors[1])]),
                label_smoothing: smoothing,
                ..LossConfig::default()
            };
            let loss = WeightedLoss::new(&config, &spaces, of_tests()).unwrap();
            let leaf = || tensor(&cases[0].students(seed)).to_kind(kind).set_requires_grad(true);
            let (found, mut closed) = (leaf(), Sum::new(means, of_tests()));
            if !way(&loss, &mut closed, &found, labels.as_ref(), targets) {
                left_out.push(*tail);
                continue;
            }
            let (wanted, mut slow) = (leaf(), Sum::new(means, of_tests()));
            let single = wanted.to_kind(Kind::Float);
            if self.with_targets {
                let kl = loss.target.as_ref().unwrap().per_sample(&single, targets);
                slow.add("kl", factors[0], kl * temperature * temperature);
            }
            if let Some(labels) = &labels {
                slow.add_labelled("cross_entropy", factors[1], smoothed(&single, labels, smoothing));
            }
            prop_assert_eq!(closed.terms.keys().collect::<Vec<_>>(), slow.terms.keys().collect::<Vec<_>>());
            for (sum, slow) in
                closed.terms.values().zip(slow.terms.values()).chain([(&closed.total, &slow.total)])
            {
                let (found, wanted) = (sum.double_value(&[]), slow.double_value(&[]));
                let near = (found - wanted).abs() < 1e-5 * (1.0 + wanted.abs());
                prop_assert!(near, "{self:?}, {tail}: {found} and {wanted}");
            }
            if slow.terms.is_empty() {
                continue;
            }
            closed.finish().backward(1.0).unwrap();
            slow.total.backward();
            let off = (found.grad() - wanted.grad()).abs().max().double_value(&[]);
            prop_assert!(off < 2e-5, "{self:?}, {tail}: {off}");
        }
        Ok(left_out)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// The closed form is what libtorch differentiates: values and gradients, of one teacher and of two.
    #[test]
    fn the_closed_form_is_what_is_differentiated(
        seed in 0u64..1 << 40,
        classes in 2usize..60,
        share in 0.0f64..1.0,
        rank in 0usize..3,
        temperature in prop_oneof![Just(1.0), 1.0f64..8.0],
        smoothing in prop_oneof![Just(0.0), Just(0.1)],
        teachers in 1u64..3,
        (variable, with_labels, with_targets) in any::<(bool, bool, bool)>(),
    ) {
        let k = 1 + (share * (classes - 1) as f64).round() as usize;
        let asked =
            Asked { seed, classes, k, rank, temperature, smoothing, variable, teachers, with_labels, with_targets };
        let left_out = asked.agrees(&TailHandling::ALL, Kind::Float, WeightedLoss::closed)?;
        prop_assert!(left_out.iter().all(|tail| *tail == TailHandling::Bucket));
    }
}

/// The kernel's too, compiled for the GPU that tests run on, or for the CPU.
#[test]
fn the_kernel_is_what_is_differentiated() {
    use TailHandling::{Bucket, Prior, Renormalize, Shape, Uniform};
    let plain = Asked {
        seed: 11,
        classes: 60,
        k: 7,
        rank: 0,
        temperature: 1.0,
        smoothing: 0.0,
        variable: false,
        teachers: 1,
        with_labels: true,
        with_targets: true,
    };
    let everything = Asked { rank: 2, temperature: 2.5, smoothing: 0.1, variable: true, ..plain };
    let many = Asked { classes: 5000, k: 12, ..plain };
    let whole = Asked { classes: 9, k: 9, ..plain };
    for (asked, kind, tails) in [
        (plain, Kind::Float, &[Prior, Bucket][..]),
        (plain, Kind::BFloat16, &[Prior]),
        (everything, Kind::Float, &[Shape, Uniform, Bucket]),
        (Asked { teachers: 2, ..everything }, Kind::Half, &[Shape]),
        (Asked { classes: 61, with_labels: false, ..everything }, Kind::Float, &[Shape, Renormalize]),
        (Asked { with_targets: false, ..everything }, Kind::Float, &[Prior]),
        (many, Kind::Float, &[Prior]),
        (Asked { rank: 3, temperature: 4.0, ..many }, Kind::Float, &[Shape]),
        (whole, Kind::Float, &[Prior]),
    ] {
        let left_out = asked.agrees(tails, kind, WeightedLoss::by_kernel).unwrap();
        assert_eq!(left_out, []);
    }
}

/// A student that masks a class with −∞ has a loss and a gradient all the same, where no target is on it.
#[test]
fn a_class_that_the_student_masks_is_no_trouble() {
    let case = case(3, 4, 9, 4, 0);
    let config = LossConfig {
        tail: TailHandling::Renormalize,
        weights: weights(&[("kl", 0.5), ("cross_entropy", 0.5)]),
        ..LossConfig::default()
    };
    let loss = WeightedLoss::new(&config, std::slice::from_ref(&case.space), of_tests()).unwrap();
    let targets = TargetTensors::new(&case.batch, of_tests());
    // One class that is in no head.
    let masked = (0..9i64).find(|class| !case.batch.ids.contains(&(*class as u32)));
    let Some(masked) = masked else { panic!("every class is in some head") };
    let mut students = case.students(3);
    students.iter_mut().for_each(|row| row[masked as usize] = f64::NEG_INFINITY);
    let labels = on_device(&[(masked + 1) % 9; 4]);
    let leaf = tensor(&students).set_requires_grad(true);
    let mut terms = loss.forward(&leaf, Some(&labels), std::slice::from_ref(&targets), over(4));
    assert!(terms.value.double_value(&[]).is_finite(), "{terms:?}");
    terms.backward(1.0).unwrap();
    let gradient = numbers(&leaf.grad());
    assert!(
        gradient.iter().all(|value| value.is_finite()) && gradient[masked as usize].abs() < 1e-30,
        "{gradient:?}"
    );
}

/// A student that masks all that is off a head has what is infinitely bad, and a gradient that leads out of it.
#[test]
fn a_tail_that_the_student_masks_is_infinitely_bad() {
    let case = case(5, 3, 9, 4, 0);
    let weights = weights(&[("kl", 1.0)]);
    let config = LossConfig { tail: TailHandling::Bucket, weights, ..LossConfig::default() };
    let loss = WeightedLoss::new(&config, std::slice::from_ref(&case.space), of_tests()).unwrap();
    let targets = [TargetTensors::new(&case.batch, of_tests())];
    let mut students = case.students(5);
    for (row, student) in students.iter_mut().enumerate() {
        let ids = case.batch.row(row).0;
        let masked = student.iter_mut().enumerate().filter(|(class, _)| !ids.contains(&(*class as u32)));
        masked.for_each(|(_, logit)| *logit = f64::NEG_INFINITY);
    }
    for way in [WeightedLoss::fused as Way, WeightedLoss::by_kernel] {
        let leaf = tensor(&students).set_requires_grad(true);
        let mut sum = Sum::new(over(3), of_tests());
        assert!(way(&loss, &mut sum, &leaf, None, &targets));
        assert_eq!(sum.total.double_value(&[]), f64::INFINITY);
        sum.finish().backward(1.0).unwrap();
        assert!(numbers(&leaf.grad()).iter().all(|value| value.is_finite()), "{:?}", numbers(&leaf.grad()));
    }
}

#[test]
fn positions_without_a_label_and_batches_of_one_are_no_trouble() {
    let case = case(3, 1, 9, 4, 2);
    let config = LossConfig {
        temperature: 2.0.into(),
        weights: weights(&[("nkd", 1.0), ("dist", 1.0)]),
        ..LossConfig::default()
    };
    let loss = WeightedLoss::new(&config, std::slice::from_ref(&case.space), of_tests()).unwrap();
    let students = tensor(&case.students(1)).set_requires_grad(true);
    let targets = TargetTensors::new(&case.batch, of_tests());
    let labels = on_device(&[-1]);
    let mut terms = loss.forward(
        &students,
        Some(&labels),
        std::slice::from_ref(&targets),
        Means { positions: 1, labels: 0 },
    );
    terms.backward(1.0).unwrap();
    assert_eq!(terms.terms["nkd"].double_value(&[]), 0.0);
    assert!(numbers(&students.grad()).iter().all(|gradient| gradient.is_finite()));
}

/// At each step a loss that changes is the loss with that step's numbers, value and gradient, bit for bit.
#[test]
fn a_loss_that_changes_is_at_each_step_the_one_of_its_numbers() {
    for (rank, k, requires_grad) in [(2, 4, true), (0, 4, false), (0, 9, true)] {
        let case = case(11, 6, 9, k, rank);
        let targets = TargetTensors::new(&case.batch, of_tests());
        let labels = on_device(&[0, 3, 8, -1, 2, 2]);
        let (students, means) = (tensor(&case.students(5)), Means { positions: 6, labels: 5 });
        let changing = LossConfig {
            temperature: change(8.0, 2.0),
            weights: LossWeights {
                kl: change(0.0, 1.0),
                cross_entropy: change(1.0, 0.0),
                nkd: 0.5.into(),
                ranking: change(0.25, 0.5),
                ..LossWeights::default()
            },
            ..LossConfig::default()
        };
        let schedule = LossSchedule::new(&changing, 2, 4);
        let mut loss = WeightedLoss::new(&changing, std::slice::from_ref(&case.space), of_tests()).unwrap();
        let run = |loss: &WeightedLoss| {
            let students = students.copy().set_requires_grad(requires_grad);
            let mut terms = loss.forward(&students, Some(&labels), std::slice::from_ref(&targets), means);
            let total = terms.value.double_value(&[]);
            if requires_grad {
                terms.backward(1.0).unwrap();
            }
            let gradient = if requires_grad { numbers(&students.grad()) } else { Vec::new() };
            (total, gradient, terms.terms.keys().cloned().collect::<Vec<_>>())
        };
        let mut totals = Vec::new();
        // Any order: a step leaves nothing behind.
        for step in [0, 5, 3, 8, 5] {
            let now = schedule.at(step);
            loss.set(&now).unwrap();
            let found = run(&loss);
            let fixed = LossConfig {
                temperature: now.temperature.into(),
                weights: LossWeights {
                    kl: now.weights.kl.into(),
                    cross_entropy: now.weights.cross_entropy.into(),
                    nkd: now.weights.nkd.into(),
                    ranking: now.weights.ranking.into(),
                    ..LossWeights::default()
                },
                ..LossConfig::default()
            };
            let fixed = WeightedLoss::new(&fixed, std::slice::from_ref(&case.space), of_tests()).unwrap();
            let expected = run(&fixed);
            if of_tests() == Device::Cpu {
                assert_eq!(found.1, expected.1, "step {step}");
            } else {
                // A GPU adds in whatever order.
                assert!(found.1.iter().zip(&expected.1).all(|(a, b)| (a - b).abs() < 1e-7), "step {step}");
            }
            assert!((found.0 - expected.0).abs() < 1e-6, "step {step}: {} is not {}", found.0, expected.0);
            // What has no weight at a step is computed all the same, so that an epoch's means are over all steps.
            assert_eq!(found.2, ["cross_entropy", "kl", "nkd", "ranking"]);
            totals.push(found.0);
        }
        assert!(totals[1] == totals[4] && totals[0] != totals[1]);
    }
}

#[test]
fn temperatures_are_checked_over_their_whole_range() {
    let case = case(2, 2, 9, 4, 0);
    let of = |temperature: Setting| LossConfig {
        temperature,
        weights: weights(&[("kl", 1.0)]),
        ..LossConfig::default()
    };
    let nodes = TailNodes::try_from(vec![0.25, 1.0]).unwrap();
    let space = TargetSpace { nodes, ..case.space.clone() };
    // The nodes cover T from 1 on.
    for (from, to) in [(4.0, 0.5), (0.5, 4.0)] {
        let error =
            WeightedLoss::new(&of(change(from, to)), std::slice::from_ref(&space), of_tests()).unwrap_err();
        assert!(matches!(error, LossError::Temperature(_)), "{error}");
    }
    let drawn = TargetSpace { draws: Draws::new(50, 2.0), tail_model: None, ..case.space.clone() };
    for temperature in [change(2.0, 3.0), change(1.0, 2.0), 1.0.into()] {
        let error =
            WeightedLoss::new(&of(temperature), std::slice::from_ref(&drawn), of_tests()).unwrap_err();
        assert!(error.to_string().contains("drawn at temperature 2"), "{error}");
    }
    WeightedLoss::new(&of(change(2.0, 2.0)), std::slice::from_ref(&drawn), of_tests()).unwrap();
    // The label's probability is asked for at T = 1.
    let nkd =
        LossConfig { temperature: 2.0.into(), weights: weights(&[("nkd", 1.0)]), ..LossConfig::default() };
    let error = WeightedLoss::new(&nkd, std::slice::from_ref(&drawn), of_tests()).unwrap_err();
    assert!(matches!(error, LossError::Label(_)), "{error}");
}
