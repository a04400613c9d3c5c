//! The divergence against its definition, its own limits, finite differences and PyTorch.

use proptest::prelude::*;
use tch::{Device, Kind, Tensor};

use super::*;
use crate::libtorch::of_tests;
use crate::loss::cross_entropy::smoothed;
use crate::loss::{fused, reference};
use crate::target::{NotCovered, PositionTarget, TailModel, TailNodes, TailPrior, TailShape, TargetBatch};

/// A batch of targets over `classes` classes made from random logits, and their space.
pub(in crate::loss) struct Case {
    pub(in crate::loss) space: TargetSpace,
    pub(in crate::loss) batch: TargetBatch,
    teacher: Vec<Vec<f64>>,
}

/// Numbers that look random and are the same everywhere.
fn noise(seed: u64, scale: f64) -> impl FnMut() -> f64 {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 11) as f64 / (1u64 << 53) as f64 - 0.5) * 2.0 * scale
    }
}

pub(in crate::loss) fn case(seed: u64, rows: usize, classes: usize, k: usize, rank: usize) -> Case {
    let mut next = noise(seed, 5.0);
    let nodes = TailNodes::default();
    let mut prior = || {
        let weights = (0..nodes.len() * classes).map(|_| (next() / 4.0) as f32).collect();
        TailPrior::new(nodes.clone(), classes, weights).unwrap()
    };
    let (prior, base) = (prior(), prior());
    let basis = (0..classes * rank).map(|_| (next() / 100.0) as f32).collect();
    let rank = if k < classes { rank } else { 0 };
    let shape = (rank > 0).then(|| TailShape::new(base, rank, basis).unwrap());
    let tail_model = (k < classes).then(|| TailModel::new(prior, shape).unwrap());
    let kept = if k < classes { nodes.len() } else { 0 };
    let mut batch = TargetBatch::default();
    let mut teacher = Vec::new();
    for _ in 0..rows {
        let z: Vec<f64> = (0..classes).map(|_| next()).collect();
        let mut order: Vec<usize> = (0..classes).collect();
        order.sort_by(|a, b| z[*b].total_cmp(&z[*a]));
        let largest = z[order[0]];
        let tail = |beta: f64| order[k..].iter().map(|c| ((z[*c] - largest) * beta).exp()).sum::<f64>().ln();
        batch.extend(&TargetBatch {
            counts: Vec::new(),
            rows: 1,
            k,
            nodes: kept,
            ids: order[..k].iter().map(|c| *c as u32).collect(),
            values: order[..k].iter().map(|c| (z[*c] - largest) as f32).collect(),
            curve: nodes.as_slice()[..kept].iter().map(|beta| tail(*beta) as f32).collect(),
            rank,
            codes: (0..rank).map(|_| (next() * 25.0) as i8).collect(),
        });
        teacher.push(z);
    }
    Case { space: TargetSpace { classes, k, draws: None, nodes, tail_model }, batch, teacher }
}

impl Case {
    /// Heads of 1 to k classes: what is cut goes into the tail, by definition.
    pub(in crate::loss) fn varied(mut self, seed: u64) -> Self {
        if !self.space.has_tail() {
            return self;
        }
        let mut next = noise(seed, 0.5);
        self.batch.vary();
        for (row, z) in self.teacher.iter().enumerate() {
            let count = 1 + ((next() + 0.5) * self.space.k as f64) as usize;
            let count = count.min(self.space.k);
            let kept: Vec<u32> = self.batch.row(row).0[..count].to_vec();
            let largest = z[kept[0] as usize];
            for (node, beta) in self.space.nodes.as_slice().iter().enumerate() {
                let tail = z.iter().enumerate().filter(|(class, _)| !kept.contains(&(*class as u32)));
                let sum: f64 = tail.map(|(_, z)| ((z - largest) * beta).exp()).sum();
                self.batch.curve[row * self.batch.nodes + node] = sum.ln() as f32;
            }
            self.batch.set_count(row, count);
        }
        self.batch.pad();
        self
    }

    pub(in crate::loss) fn target(&self, row: usize) -> PositionTarget<'_> {
        let (ids, values, curve) = self.batch.row(row);
        PositionTarget { classes: self.space.classes, ids, values, nodes: &self.space.nodes, curve }
    }

    pub(in crate::loss) fn tail_model(&self) -> TailModel {
        let flat = || {
            let nodes = self.space.nodes.clone();
            let weights = vec![0.0; nodes.len() * self.space.classes];
            TailModel::new(TailPrior::new(nodes, self.space.classes, weights).unwrap(), None).unwrap()
        };
        self.space.tail_model.clone().unwrap_or_else(flat)
    }

    /// The definition, for one row and student.
    fn slow(&self, row: usize, student: &[f64], t: Temperature, tail: TailHandling) -> f64 {
        reference::kl(student, &self.target(row), t, tail, (&self.tail_model(), self.batch.code(row)))
    }

    pub(in crate::loss) fn students(&self, seed: u64) -> Vec<Vec<f64>> {
        let mut next = noise(seed ^ 0xabcd, 4.0);
        self.teacher.iter().map(|row| row.iter().map(|_| next()).collect()).collect()
    }

    fn fast(&self, students: &Tensor, t: Temperature, tail: TailHandling, dense: bool) -> Tensor {
        let kl = KlDivergence::with_form(&self.space, t, tail, of_tests(), dense).unwrap();
        kl.per_sample(students, &TargetTensors::new(&self.batch, of_tests()))
    }
}

pub(in crate::loss) fn on_device<T: tch::kind::Element>(values: &[T]) -> Tensor {
    Tensor::from_slice(values).to_device(of_tests())
}

pub(in crate::loss) fn tensor(rows: &[Vec<f64>]) -> Tensor {
    let flat: Vec<f64> = rows.concat();
    on_device(&flat).to_kind(Kind::Float).view([rows.len() as i64, -1])
}

pub(in crate::loss) fn numbers(tensor: &Tensor) -> Vec<f64> {
    Vec::<f64>::try_from(tensor.to_kind(Kind::Double).reshape([-1])).unwrap()
}

fn t(value: f64) -> Temperature {
    Temperature::new(value).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn agrees_with_the_definition(
        seed in 0u64..1 << 40,
        classes in 2usize..60,
        share in 0.0f64..1.0,
        rank in 0usize..4,
        temperature in 1.0f64..12.0,
        dense: bool,
        variable: bool,
    ) {
        let k = 1 + (share * (classes - 1) as f64).round() as usize;
        let case = case(seed, 4, classes, k, rank);
        let case = if variable { case.varied(seed) } else { case };
        let students = case.students(seed);
        for tail in TailHandling::ALL {
            let fast = numbers(&case.fast(&tensor(&students), t(temperature), tail, dense));
            for (row, fast) in fast.iter().enumerate() {
                // The student as the fast path sees it: rounded to f32.
                let student: Vec<f64> = students[row].iter().map(|s| f64::from(*s as f32)).collect();
                let slow = case.slow(row, &student, t(temperature), tail);
                prop_assert!((fast - slow).abs() < 2e-5 * (1.0 + slow.abs()), "{tail}: {fast} and {slow}");
                prop_assert!(*fast > -1e-5, "{tail}: {fast}");
            }
        }
    }

    #[test]
    fn is_zero_where_the_student_is_the_target(
        seed in 0u64..1 << 40,
        classes in 3usize..60,
        temperature in 1.0f64..12.0,
        rank in 0usize..4,
        dense: bool,
    ) {
        let case = case(seed, 4, classes, classes / 2, rank);
        let model = case.tail_model();
        let model = model.at(t(temperature));
        for tail in TailHandling::ALL.into_iter().filter(|tail| *tail != TailHandling::Renormalize) {
            let students: Vec<Vec<f64>> = (0..4)
                .map(|row| {
                    let log_weights = model.log_weights(tail, case.batch.code(row));
                    let p = case.target(row).dense(t(temperature), tail, log_weights.as_deref());
                    // softmax(s / T) = p.
                    p.iter().map(|p| p.ln() * temperature).collect()
                })
                .collect();
            for kl in numbers(&case.fast(&tensor(&students), t(temperature), tail, dense)) {
                prop_assert!(kl.abs() < 2e-5, "{tail}: {kl}");
            }
        }
    }
}

/// The closed form's values and gradients are those of the operators that libtorch differentiates.
#[test]
fn the_closed_form_is_the_same_with_and_without_a_dense_target() {
    for (seed, classes, k, rank) in
        [(1, 50, 12, 0), (2, 50, 12, 3), (3, 9, 9, 0), (4, 30, 29, 0), (5, 40, 1, 0)]
    {
        for case in [case(seed, 6, classes, k, rank), case(seed, 6, classes, k, rank).varied(seed)] {
            for (tail, dense) in TailHandling::ALL.into_iter().flat_map(|tail| [(tail, true), (tail, false)])
            {
                let kl = KlDivergence::with_form(&case.space, t(2.5), tail, of_tests(), dense).unwrap();
                let targets = TargetTensors::new(&case.batch, of_tests());
                let input = tensor(&case.students(seed)).set_requires_grad(true);
                let wanted = kl.per_sample(&input, &targets);
                wanted.sum(Kind::Float).backward();
                let log_q = (input.detach() / 2.5).log_softmax(-1, Kind::Float);
                let Some((found, taken)) = tch::no_grad(|| kl.closed(&log_q, &targets)) else {
                    assert!(tail == TailHandling::Bucket && case.space.has_tail());
                    continue;
                };
                let off = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]);
                assert!(off(&found, &wanted) < 2e-5, "{tail}, {dense}: {}", off(&found, &wanted));
                let mut q = log_q.exp();
                taken.take_from(&mut q, 1.0);
                let gradient = q / 2.5;
                assert!(
                    off(&gradient, &input.grad()) < 2e-6,
                    "{tail}, {dense}: {}",
                    off(&gradient, &input.grad())
                );
            }
        }
    }
}

#[test]
fn gradients_agree_with_finite_differences_of_the_definition() {
    let case = case(3, 3, 12, 4, 2).varied(1);
    let students = case.students(5);
    for (tail, dense) in TailHandling::ALL.into_iter().flat_map(|tail| [(tail, true), (tail, false)]) {
        let input = tensor(&students).set_requires_grad(true);
        case.fast(&input, t(2.5), tail, dense).sum(Kind::Float).backward();
        let gradient = numbers(&input.grad());
        for (row, student) in students.iter().enumerate() {
            for class in 0..12 {
                let at = |step: f64| {
                    let mut moved = student.clone();
                    moved[class] += step;
                    case.slow(row, &moved, t(2.5), tail)
                };
                let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
                let found = gradient[row * 12 + class];
                assert!(
                    (slope - found).abs() < 1e-5,
                    "{tail}, row {row}, class {class}: {slope} and {found}"
                );
            }
        }
    }
}

#[test]
fn with_every_class_in_the_head_it_is_the_usual_distillation_loss() {
    let case = case(8, 4, 10, 10, 0);
    let students = case.students(9);
    let teacher = tensor(&case.teacher);
    let student = tensor(&students);
    for tail in TailHandling::ALL {
        for temperature in [0.5, 1.0, 4.0] {
            let p = (&teacher / temperature).softmax(-1, Kind::Float);
            let usual = (&p * (p.log() - (&student / temperature).log_softmax(-1, Kind::Float)))
                .sum_dim_intlist(-1, false, Kind::Float);
            let found = case.fast(&student, t(temperature), tail, true);
            assert!(f64::try_from((usual - found).abs().max()).unwrap() < 1e-5);
        }
    }
}

#[test]
fn a_temperature_below_the_nodes_is_refused_where_the_curve_is_needed() {
    let case = case(1, 1, 10, 3, 0);
    let new = |tail| KlDivergence::new(&case.space, t(0.5), tail, of_tests()).map(|_| ());
    let refused = LossError::Temperature(NotCovered::Nodes { temperature: 0.5, lowest: 1.0, beta: 2.0 });
    assert_eq!(new(TailHandling::Prior), Err(refused));
    assert_eq!(new(TailHandling::Renormalize), Ok(()));
    let mut without = case.space.clone();
    without.tail_model = None;
    let refused = KlDivergence::new(&without, t(1.0), TailHandling::Prior, of_tests()).map(|_| ());
    assert_eq!(refused, Err(LossError::NoTailModel { tail: TailHandling::Prior }));
}

#[test]
fn a_million_to_one_head_keeps_the_large_form_finite() {
    // A prior that lies almost wholly on the head: 1 − W is near 0.
    let mut case = case(4, 2, 40, 2, 0);
    let nodes = case.space.nodes.clone();
    let mut weights = vec![-15.0f32; nodes.len() * 40];
    for node in 0..nodes.len() {
        weights[node * 40 + case.batch.ids[0] as usize] = 15.0;
    }
    case.space.tail_model = TailModel::new(TailPrior::new(nodes, 40, weights).unwrap(), None);
    let students = case.students(2);
    let slow = |row: usize| {
        let student: Vec<f64> = students[row].iter().map(|s| f64::from(*s as f32)).collect();
        case.slow(row, &student, t(2.0), TailHandling::Prior)
    };
    let dense = numbers(&case.fast(&tensor(&students), t(2.0), TailHandling::Prior, true));
    for (row, fast) in dense.iter().enumerate() {
        assert!((fast - slow(row)).abs() < 1e-4, "{fast} and {}", slow(row));
    }
}

/// What is computed in chunks is what is computed at once, gradients too.
#[test]
fn chunks_change_nothing() {
    let case = case(6, 7, 30, 2, 3);
    let targets = TargetTensors::new(&case.batch, of_tests());
    let at = |chunk_values: i64| {
        let input = tensor(&case.students(1)).set_requires_grad(true);
        let mut kl = KlDivergence::new(&case.space, t(2.0), TailHandling::Shape, of_tests()).unwrap();
        kl.chunk_values = chunk_values;
        let loss = kl.per_sample(&input, &targets);
        loss.sum(Kind::Float).backward();
        (numbers(&loss), numbers(&input.grad()))
    };
    let (losses, gradient) = at(CHUNK_VALUES);
    // Never less than one sample; libtorch's sums over other shapes differ in the last bits.
    for chunk_values in [1, 30, 90, 210] {
        let found = at(chunk_values);
        let differences = found.0.iter().zip(&losses).chain(found.1.iter().zip(&gradient));
        for (found, wanted) in differences {
            assert!((found - wanted).abs() < 2e-6, "{chunk_values}: {found} and {wanted}");
        }
    }
}

/// The CPU's own path: value and gradient of `0.7 Σ KL + 0.3 Σ CE`.
fn fused(
    case: &Case,
    students: &Tensor,
    temperature: f64,
    tail: TailHandling,
    labels: &[i64],
) -> fused::Fused {
    let kl = KlDivergence::new(&case.space, t(temperature), tail, Device::Cpu).unwrap();
    let part = kl.part(&TargetTensors::new(&case.batch, Device::Cpu), 0.7).unwrap();
    let labels = fused::LabelPart { labels: labels.to_vec(), smoothing: 0.1, factor: 0.3 };
    fused::rows(students, Some(&part), Some(&labels))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Against the definition, and against what libtorch differentiates; over more classes than are handled at once.
    #[test]
    fn the_fused_path_is_the_same(
        seed in 0u64..1 << 40,
        classes in prop_oneof![2usize..40, 1000usize..1100, 2040usize..2060],
        share in 0.0f64..1.0,
        rank in 0usize..4,
        temperature in prop_oneof![Just(1.0f64), 1.0f64..12.0],
        variable: bool,
    ) {
        let k = 1 + (share * (classes - 1) as f64).round() as usize;
        let case = case(seed, 6, classes, k, rank);
        let case = if variable { case.varied(seed) } else { case };
        let students = case.students(seed);
        let labels: Vec<i64> = (0..6).map(|row| (row as i64 * 7) % (classes as i64 + 1) - 1).collect();
        for tail in TailHandling::ALL {
            let input = tensor(&students).set_requires_grad(true);
            let found = fused(&case, &input, temperature, tail, &labels);
            let slow: f64 = students.iter().enumerate().map(|(row, student)| {
                let student: Vec<f64> = student.iter().map(|s| f64::from(*s as f32)).collect();
                case.slow(row, &student, t(temperature), tail)
            }).sum();
            prop_assert!((found.kl - slow).abs() < 1e-5 * (1.0 + slow.abs()), "{tail}: {} and {slow}", found.kl);
            let ce = smoothed(&input, &on_device(&labels), 0.1).sum(Kind::Float);
            let slow = ce.double_value(&[]);
            prop_assert!((found.cross_entropy - slow).abs() < 1e-5 * (1.0 + slow.abs()));
            let kl = case.fast(&input, t(temperature), tail, true).sum(Kind::Float);
            (kl * 0.7 + ce * 0.3).backward();
            let off = (input.grad() - found.gradient.to_device(of_tests())).abs().max().double_value(&[]);
            prop_assert!(off < 2e-6, "{tail}: {off}");
        }
    }
}

/// A student that is far off, or no number at all.
#[test]
fn the_fused_path_at_the_edges() {
    let case = case(3, 2, 40, 5, 2);
    let mut students = case.students(1);
    for (class, z) in students[0].iter_mut().enumerate() {
        *z = if class == 7 { 300.0 } else { -(class as f64) * 20.0 };
    }
    for tail in TailHandling::ALL {
        let input = tensor(&students);
        let found = fused(&case, &input, 2.0, tail, &[3, -1]);
        let slow: f64 = (0..2).map(|row| case.slow(row, &students[row], t(2.0), tail)).sum();
        assert!((found.kl - slow).abs() < 1e-5 * slow.abs(), "{tail}: {} and {slow}", found.kl);
    }
    students[1][39] = f64::NAN;
    let found = fused(&case, &tensor(&students), 2.0, TailHandling::Shape, &[3, -1]);
    assert!(found.kl.is_nan());
    let rows = numbers(&found.gradient);
    assert!(rows[..40].iter().all(|g| g.is_finite()) && rows[40..].iter().all(|g| g.is_nan()));
}

/// A student whose head is so far above the rest that nothing of its softmax is left off the head, and one that masks whole
/// blocks of classes: values and gradients are libtorch's.
#[test]
fn the_fused_path_far_apart() {
    let case = case(5, 2, 2100, 5, 2);
    let far = |students: &mut [Vec<f64>]| {
        students[0].iter_mut().for_each(|z| *z = 0.0);
        case.batch.row(0).0.iter().for_each(|id| students[0][*id as usize] = 2000.0);
    };
    let masked = |students: &mut [Vec<f64>]| {
        for (row, masked) in [(0, 0..1024), (1, 1024..2048)] {
            students[row][masked].iter_mut().for_each(|z| *z -= 1e6);
        }
    };
    for (apart, temperature) in [(true, 1.0), (true, 4.0), (false, 1.0), (false, 4.0)] {
        let mut students = case.students(7);
        if apart {
            far(&mut students)
        } else {
            masked(&mut students)
        }
        for tail in TailHandling::ALL {
            let input = tensor(&students).set_requires_grad(true);
            let found = fused(&case, &input, temperature, tail, &[-1, -1]);
            // The definition's softmax has no class left whose logarithm it could take.
            let kl = case.fast(&input, t(temperature), tail, true).sum(Kind::Float);
            let value = kl.double_value(&[]);
            assert!((found.kl - value).abs() < 1e-5 * (1.0 + value), "{tail}: {} and {value}", found.kl);
            (kl * 0.7).backward();
            let off = (input.grad() - found.gradient.to_device(of_tests())).abs().max().double_value(&[]);
            // libtorch's logarithms of a softmax are around −2000 here, of which single precision keeps four digits
            // behind the point.
            assert!(off < 1e-5, "{tail}: {off}");
        }
    }
}

/// With every class in the head there is nothing off it.
#[test]
fn the_fused_path_without_a_tail() {
    let case = case(8, 4, 10, 10, 0);
    let input = tensor(&case.students(9));
    let found = fused(&case, &input, 4.0, TailHandling::Shape, &[-1; 4]);
    let usual = case.fast(&input, t(4.0), TailHandling::Shape, true).sum(Kind::Float).double_value(&[]);
    assert!((found.kl - usual).abs() < 1e-5, "{} and {usual}", found.kl);
    assert_eq!(found.cross_entropy, 0.0);
}
