//! The gradients of one batch, without all of its logits at once.

use tch::{TchError, Tensor};

use super::TrainError;
use super::further::Further;
use super::upload::{DeviceBatch, chunks};
use crate::libtorch;
use crate::loss::{LossTerms, Means, WeightedLoss};
use crate::student::Model;

/// Adds the gradients of the batch's loss, a mean over `means`, times `scale` to the model's variables, and gives the
/// loss without it.
///
/// Of many positions and classes, logits and loss are made for a few positions at a time: their gradients go
/// into a copy of the features that is cut off from the model, and from there through the model at once. The
/// sums are the same, in another order. What is lost elsewhere (`further`), of few numbers a position, is made at once.
pub(super) fn backward(
    model: &dyn Model,
    batch: &DeviceBatch,
    loss: &WeightedLoss,
    further: &Further,
    means: Means,
    classes: usize,
    scale: f64,
) -> Result<LossTerms, TrainError> {
    let positions = |features: &Tensor| match loss.of_whole_batch() {
        true => vec![(0, features.size()[0])],
        false => chunks(features, classes).collect(),
    };
    backward_in(model, batch, loss, further, means, scale, positions)
}

/// The same with the parts that `parts` cuts the features into.
fn backward_in(
    model: &dyn Model,
    batch: &DeviceBatch,
    loss: &WeightedLoss,
    further: &Further,
    means: Means,
    scale: f64,
    parts: impl FnOnce(&Tensor) -> Vec<(i64, i64)>,
) -> Result<LossTerms, TrainError> {
    let failed = |error: TchError| TrainError::Libtorch {
        doing: "the backward pass",
        problem: libtorch::plain_message(&error),
    };
    let (features, further) = if further.wanted().is_empty() {
        (model.features(&batch.inputs)?, None)
    } else {
        let answer = model.answer(&batch.inputs, further.wanted())?;
        let lost = further.forward(&answer, batch, means);
        (answer.features, Some(lost))
    };
    let parts = parts(&features);
    if parts.len() < 2 {
        let logits = model.head(&features);
        let mut terms = loss.forward(&logits, batch.labels.as_ref(), &batch.targets, means);
        if let Some((total, named)) = further {
            terms.add(total, named);
        }
        if !features.requires_grad() && !terms.has_gradient() {
            return Err(TrainError::NoGradient);
        }
        terms.backward(scale).map_err(failed)?;
        return Ok(terms);
    }
    let leaf = features.detach().set_requires_grad(features.requires_grad());
    let (mut sum, mut learns): (Option<LossTerms>, _) = (None, features.requires_grad());
    for (start, len) in parts {
        let (labels, targets) = batch.part(start, len);
        let logits = model.head(&leaf.narrow(0, start, len));
        let mut terms = loss.forward(&logits, labels.as_ref(), &targets, means);
        learns |= terms.has_gradient();
        terms.backward(scale).map_err(failed)?;
        terms.add_to(&mut sum);
    }
    let mut sum = sum.ok_or(TrainError::Empty)?;
    if let Some((total, named)) = further {
        sum.add(total, named);
    }
    if !learns && !sum.has_gradient() {
        return Err(TrainError::NoGradient);
    }
    // Where all that makes the features is frozen, or nothing of the loss is on logits, there is none to find.
    let gradient = Some(leaf.grad()).filter(Tensor::defined);
    if let Some(mut gradient) = gradient {
        if scale != 1.0 {
            gradient /= scale;
        }
        sum.give(features, gradient);
    }
    sum.backward(scale).map_err(failed)?;
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;
    use crate::config::{
        DistConfig, FEATURES_LAYER, FeatureLossConfig, FeatureLossKind, LlamaConfig, LossConfig, LossWeights,
        RankingConfig, StudentConfig,
    };
    use crate::libtorch::of_tests;
    use crate::loader::{Batch, Inputs, TokenInputs};
    use crate::loss::{FeatureLoss, ReturnedLoss, TargetSpace};
    use crate::select::Selector;
    use crate::student::{self, Asked, Student};
    use crate::target::{FeatureBatch, TailHandling, TailModel, TailNodes, TailPrior};

    const CLASSES: usize = 37;
    /// Of [`batch`].
    const MEANS: Means = Means { positions: 12, labels: 9 };

    fn student() -> Box<dyn Student> {
        student_with(true)
    }

    fn student_with(tie_word_embeddings: bool) -> Box<dyn Student> {
        let config = StudentConfig::Llama(LlamaConfig {
            hidden_size: 16,
            intermediate_size: Some(24),
            num_hidden_layers: 1,
            num_attention_heads: 2,
            num_key_value_heads: None,
            rope_theta: 10_000.0,
            rms_norm_eps: 1e-5,
            tie_word_embeddings,
            classes: None,
        });
        student::create(&config, Asked::Tokens, CLASSES, of_tests()).unwrap()
    }

    /// Two rows, the second shorter, the first of two documents.
    fn batch(selector: &Selector) -> DeviceBatch {
        let tokens = vec![3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 0, 0];
        let positions: Vec<i64> = (0..12).collect();
        let logits: Vec<f32> = (0..12 * CLASSES).map(|at| ((at * 7919) % 1009) as f32 / 150.0).collect();
        let batch = Batch {
            ids: Vec::new(),
            inputs: Inputs::Tokens(TokenInputs {
                rows: 2,
                length: 7,
                tokens,
                places: vec![0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 3, 4, 0, 0],
                documents: vec![0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, -1, -1],
                positions,
            }),
            labels: Some(vec![1, 4, 1, -1, 9, 2, -1, 5, 3, 5, 8, -1]),
            targets: vec![selector.select(&logits).unwrap()],
            features: vec![FeatureBatch {
                width: 3,
                values: (0..36).map(|at| ((at * 7919) % 1009) as f32 / 500.0 - 1.0).collect(),
            }],
        };
        DeviceBatch::new(&batch, None, of_tests())
    }

    /// Nothing beside the loss of the logits.
    fn nothing() -> Further {
        Further::new(FeatureLoss::new(&[], &[], of_tests()), ReturnedLoss::default())
    }

    /// Every variable's gradient, divided by `scale`, and the loss.
    fn gradients(
        student: &dyn Student,
        batch: &DeviceBatch,
        loss: &WeightedLoss,
        further: &Further,
        (step, scale): (i64, f64),
    ) -> (Vec<Tensor>, [f64; 4]) {
        let all =
            || student.variables().variables().into_iter().chain(further.features.variables().variables());
        for (_, mut variable) in all() {
            variable.zero_grad();
        }
        let parts = |features: &Tensor| {
            let rows = features.size()[0];
            (0..rows).step_by(step as usize).map(|start| (start, step.min(rows - start))).collect()
        };
        let terms = backward_in(student, batch, loss, further, MEANS, scale, parts).unwrap();
        let value = |tensor: &Tensor| tensor.double_value(&[]);
        let of = |name: &str| value(&terms.terms[name]);
        let terms = [value(&terms.value), of("kl"), of("cross_entropy"), of("feature_hidden")];
        let mut named: Vec<_> = all().collect();
        named.sort_by(|a, b| a.0.cmp(&b.0));
        (named.into_iter().map(|(_, variable)| variable.grad() / scale).collect(), terms)
    }

    #[test]
    fn parts_of_a_batch_have_the_gradients_of_the_whole() {
        tch::manual_seed(5);
        let nodes = TailNodes::default();
        let selector = Selector::new(CLASSES, 4, &nodes).unwrap();
        let prior: Vec<f32> = (0..5 * CLASSES).map(|at| (at % 7) as f32 / 3.0).collect();
        let prior = TailPrior::new(nodes.clone(), CLASSES, prior).unwrap();
        let space = TargetSpace {
            classes: CLASSES,
            k: 4,
            draws: None,
            nodes,
            tail_model: TailModel::new(prior, None),
        };
        let weights = LossWeights {
            kl: 0.7.into(),
            cross_entropy: 0.3.into(),
            ranking: 0.1.into(),
            ..LossWeights::default()
        };
        let (student, batch) = (student(), batch(&selector));
        let feature = FeatureLossConfig {
            name: "hidden".into(),
            weight: 0.4,
            kind: FeatureLossKind::Mse,
            layer: FEATURES_LAYER.into(),
        };
        let of_features = FeatureLoss::new(&[feature], &[(16, 3)], of_tests());
        let beside = Further::new(of_features, ReturnedLoss::default());
        for tail in TailHandling::ALL {
            let further = LossWeights {
                jsd: 0.5.into(),
                dkd: 0.1.into(),
                logit_mse: 0.2.into(),
                dist: 0.3.into(),
                nkd: 0.2.into(),
                ..weights.clone()
            };
            let weights = if tail == TailHandling::Bucket { weights.clone() } else { further };
            let config = LossConfig {
                temperature: 2.0.into(),
                tail,
                weights,
                jsd_beta: 0.3,
                dist: DistConfig { beta: 1.0, gamma: 0.0 },
                ranking: RankingConfig { top: Some(3) },
                label_smoothing: 0.1,
                ..LossConfig::default()
            };
            let loss = WeightedLoss::new(&config, std::slice::from_ref(&space), of_tests()).unwrap();
            let (whole, terms) = gradients(student.as_ref(), &batch, &loss, &beside, (100, 1.0));
            // Also where the loss is scaled.
            for part in [(1, 1.0), (5, 1.0), (11, 1.0), (5, 1024.0), (100, 1024.0)] {
                let (parts, found) = gradients(student.as_ref(), &batch, &loss, &beside, part);
                for (a, b) in terms.iter().zip(found) {
                    assert!((a - b).abs() < 1e-5, "{tail}: {a} is not {b}");
                }
                for (whole, found) in whole.iter().zip(parts) {
                    // Sums in another order differ by their last bits, which are those of the largest gradient.
                    let largest = |of: &Tensor| of.abs().max().double_value(&[]);
                    let off = largest(&(whole - found));
                    assert!(off < 1e-6 * (1.0 + largest(whole)), "{tail}, {part:?}: {off}");
                }
            }
        }
    }

    /// A student that nothing can be learnt by is not trained to no avail; a head alone learns, and a body alone.
    #[test]
    fn a_loss_that_nothing_trained_leads_to_is_refused() {
        tch::manual_seed(5);
        let selector = Selector::new(CLASSES, CLASSES, &TailNodes::default()).unwrap();
        let space = TargetSpace {
            classes: CLASSES,
            k: CLASSES,
            draws: None,
            nodes: TailNodes::default(),
            tail_model: None,
        };
        let batch = batch(&selector);
        let weights = LossWeights { kl: 1.0.into(), ..LossWeights::default() };
        let config = LossConfig { weights, ..LossConfig::default() };
        let loss = WeightedLoss::new(&config, std::slice::from_ref(&space), of_tests()).unwrap();
        for (tied, frozen, learns) in [
            (true, &[""][..], false),
            (false, &["lm_head"], true),
            (false, &["model"], true),
            (false, &[], true),
        ] {
            let student = student_with(tied);
            for (name, variable) in student.variables().variables() {
                let freeze = frozen.iter().any(|part| name.contains(part));
                drop(variable.set_requires_grad(!freeze));
            }
            for step in [100, 5] {
                let parts = |features: &Tensor| {
                    let rows = features.size()[0];
                    (0..rows).step_by(step).map(|start| (start, (step as i64).min(rows - start))).collect()
                };
                let done = backward_in(student.as_ref(), &batch, &loss, &nothing(), MEANS, 1.0, parts);
                let refused = matches!(done, Err(TrainError::NoGradient));
                assert_eq!(refused, !learns, "{frozen:?} in parts of {step}: {:?}", done.err());
                for (name, variable) in student.variables().variables() {
                    assert_eq!(variable.grad().defined(), variable.requires_grad(), "{name}, {frozen:?}");
                }
            }
        }
    }

    /// What relates the samples of a batch is given all of them, however many classes there are.
    #[test]
    fn a_batch_whose_samples_are_related_stays_whole() {
        tch::manual_seed(5);
        let nodes = TailNodes::default();
        let selector = Selector::new(CLASSES, CLASSES, &nodes).unwrap();
        let space = TargetSpace { classes: CLASSES, k: CLASSES, draws: None, nodes, tail_model: None };
        let (student, batch) = (student(), batch(&selector));
        let loss = |gamma: f64| {
            let config = LossConfig {
                weights: LossWeights { dist: 1.0.into(), ..LossWeights::default() },
                dist: DistConfig { beta: 0.0, gamma },
                ..LossConfig::default()
            };
            WeightedLoss::new(&config, std::slice::from_ref(&space), of_tests()).unwrap()
        };
        let total = |terms: LossTerms| terms.value.double_value(&[]);
        let whole = |features: &Tensor| vec![(0, features.size()[0])];
        let further = nothing();
        let related = loss(1.0);
        let expected =
            backward_in(student.as_ref(), &batch, &related, &further, MEANS, 1.0, whole).map(total).unwrap();
        // So many classes that each position would be a part.
        let found =
            backward(student.as_ref(), &batch, &related, &further, MEANS, 1 << 26, 1.0).map(total).unwrap();
        assert!((expected - found).abs() < 1e-6 && found > 0.0, "{found} is not {expected}");
        let features = Tensor::zeros([12, 2], (Kind::Float, of_tests()));
        assert!(chunks(&features, 1 << 26).count() == 12 && !loss(0.0).of_whole_batch());
    }
}
