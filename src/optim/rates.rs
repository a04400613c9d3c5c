//! What each weight has of its own: a factor of the learning rate, and a decay.

use std::collections::BTreeSet;

use tch::Tensor;

use crate::config::{OptimizerConfig, nearest};

/// Why weights cannot have the rates that a config gives.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OptimError {
    /// A group of no weight.
    #[error(
        "optimizer.groups[{at}].match: no weight that is trained has a name that begins with \"{prefix}\"; \
         the nearest is {nearest}"
    )]
    NoWeight {
        /// The group, from 0.
        at: usize,
        /// What names were to begin with.
        prefix: String,
        /// The weight whose name begins most like it.
        nearest: String,
    },
    /// A group whose weights are all in others.
    #[error(
        "optimizer.groups[{at}].match: every weight whose name begins with \"{prefix}\" is in a group before it; \
         put this one first"
    )]
    Taken {
        /// The group, from 0.
        at: usize,
        /// What names begin with.
        prefix: String,
    },
    /// Gradients that no scale of the loss makes finite.
    #[error(
        "train.precision = \"f16\": gradients are not finite, however little the loss is scaled; use bf16, or lower \
         optimizer.learning_rate"
    )]
    NotFinite,
    /// Layers that have no numbers.
    #[error(
        "optimizer.layer_decay: no weight's name has the number of a layer (as layers.3. or block3.); there are \
         {known}; use optimizer.groups"
    )]
    NoLayers {
        /// Names of weights.
        known: String,
    },
    /// Layers that are numbered anew below other numbers.
    #[error(
        "optimizer.layer_decay: expected layers that are numbered once, found {one} and {other}, below numbers of something \
         else: which of them is nearer to the input is not known; use optimizer.groups"
    )]
    Nested {
        /// A weight.
        one: String,
        /// One below another number.
        other: String,
    },
}

/// What a weight has of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Own {
    /// What the learning rate is multiplied by.
    pub(super) rate: f64,
    /// Its decay: 0 of norms and biases, unless the config says otherwise.
    pub(super) decay: f64,
}

/// What each of the trained weights has of its own.
///
/// # Errors
/// [`OptimError`]: a group of no weight, layers without numbers.
pub(super) fn own(config: &OptimizerConfig, weights: &[(String, Tensor)]) -> Result<Vec<Own>, OptimError> {
    let names: Vec<&str> = weights.iter().map(|(name, _)| name.as_str()).collect();
    let groups = config.groups();
    let group_of = |name: &str| groups.iter().position(|group| name.starts_with(&group.prefix));
    for (at, group) in groups.iter().enumerate() {
        let prefix = group.prefix.clone();
        if !names.iter().any(|name| name.starts_with(&prefix)) {
            return Err(OptimError::NoWeight { at, nearest: like(&prefix, &names), prefix });
        }
        if !names.iter().any(|name| group_of(name) == Some(at)) {
            return Err(OptimError::Taken { at, prefix });
        }
    }
    let depths = config.layer_decay().map(|decay| Ok((decay, depths(&names)?))).transpose()?;
    let own = |(at, (name, value)): (usize, &(String, Tensor))| {
        let group = group_of(name).map(|at| &groups[at]);
        let of_layer = depths.as_ref().map_or(1.0, |(decay, depths)| decay.powi(depths[at]));
        Own {
            rate: of_layer * group.map_or(1.0, |group| group.rate),
            decay: decay(config, value, group.and_then(|group| group.weight_decay)),
        }
    };
    Ok(weights.iter().enumerate().map(own).collect())
}

/// What a weight has that is of no layer and in no group.
pub(super) fn plain(config: &OptimizerConfig, value: &Tensor) -> Own {
    Own { rate: 1.0, decay: decay(config, value, None) }
}

fn decay(config: &OptimizerConfig, value: &Tensor, of_group: Option<f64>) -> f64 {
    let decays = config.decays_all() || value.dim() > 1;
    if decays { of_group.unwrap_or(config.weight_decay()) } else { 0.0 }
}

/// The weight whose name begins most like `prefix`: beginnings end where a part of the name does.
fn like(prefix: &str, names: &[&str]) -> String {
    let beginnings: Vec<&str> = names
        .iter()
        .flat_map(|name| name.match_indices('.').map(|(end, _)| &name[..end]).chain([*name]))
        .collect();
    let (_, beginning) = nearest(prefix.trim_end_matches('.'), &beginnings).unwrap_or_default();
    names.iter().find(|name| name.starts_with(beginning)).copied().unwrap_or_default().to_owned()
}

/// Words that a layer's number follows.
const LAYER: [&str; 8] = ["layer", "layers", "block", "blocks", "stage", "stages", "hidden", "h"];
/// Parts of the names of what the input goes through first.
const INPUT: [&str; 2] = ["embed", "stem"];
const INPUT_PARTS: [&str; 2] = ["wte", "wpe"];
const INPUT_BEGINNINGS: [&str; 2] = ["conv1.", "bn1."];

/// Each weight's depth below the top (Clark et al., "ELECTRA", 2020, for language models; Bao et al., "BEiT", 2022,
/// for vision): 0 of what comes after the layers, 1 of the uppermost layer, and so on; one more than the lowest
/// layer's of what comes before them.
fn depths(names: &[&str]) -> Result<Vec<i32>, OptimError> {
    let layers: BTreeSet<Vec<u64>> =
        names.iter().map(|name| layer(name)).filter(|layer| !layer.is_empty()).collect();
    if layers.is_empty() {
        return Err(OptimError::NoLayers { known: names.join(", ") });
    }
    let mut below =
        names.iter().map(|name| (name, numbers(name))).filter(|(_, found)| !found.layer.is_empty());
    if let Some((one, first)) = below.next()
        && let Some((other, _)) = below.find(|(_, found)| found.before != first.before)
    {
        return Err(OptimError::Nested { one: (*one).to_owned(), other: (*other).to_owned() });
    }
    // From the top: more layers than an i32 counts there are not.
    let count = i32::try_from(layers.len()).unwrap_or(i32::MAX);
    let depth = |name: &&str| {
        let own = layer(name);
        let below = layers.iter().rev().zip(1..).find(|(layer, _)| **layer == own);
        below.map_or(if is_of_input(name) { count.saturating_add(1) } else { 0 }, |(_, depth)| depth)
    };
    Ok(names.iter().map(depth).collect())
}

/// Numbers in a weight's name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Numbers {
    /// Those of a layer, outermost first.
    layer: Vec<u64>,
    /// Others that come before these.
    before: Vec<u64>,
}

/// The numbers of a layer in a weight's name, outermost first: `[3]` of `model.layers.3.norm`, `[2, 1]` of
/// `stage2.block1.conv2` and of `layer2.1.conv2`.
fn layer(name: &str) -> Vec<u64> {
    numbers(name).layer
}

fn numbers(name: &str) -> Numbers {
    let mut numbers = Numbers::default();
    // Whether the part before was a word or a number of a layer.
    let mut within = false;
    for part in name.split('.') {
        let word = part.trim_end_matches(|c: char| c.is_ascii_digit());
        let number = part[word.len()..].parse::<u64>().ok();
        let last = word.trim_end_matches('_').rsplit('_').next().unwrap_or_default();
        let counts = if word.is_empty() { within } else { LAYER.contains(&last) };
        match number {
            Some(number) if counts => numbers.layer.push(number),
            Some(number) if word.is_empty() && numbers.layer.is_empty() => numbers.before.push(number),
            _ => {}
        }
        within = counts;
    }
    numbers
}

fn is_of_input(name: &str) -> bool {
    name.split('.').any(|part| INPUT.iter().any(|word| part.contains(word)) || INPUT_PARTS.contains(&part))
        || INPUT_BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::config::GroupConfig;

    fn weights(names: &[&str]) -> Vec<(String, Tensor)> {
        let of_norm = |name: &str| name.contains("norm") || name.ends_with("bias");
        let size = |name: &str| if of_norm(name) { vec![2] } else { vec![2, 2] };
        let weight =
            |name: &&str| ((*name).to_owned(), Tensor::zeros(size(name), (Kind::Float, Device::Cpu)));
        names.iter().map(weight).collect()
    }

    fn config(layer_decay: Option<f64>, groups: &[(&str, f64, Option<f64>)]) -> OptimizerConfig {
        let group = |(prefix, rate, weight_decay): &(&str, f64, Option<f64>)| GroupConfig {
            prefix: (*prefix).to_owned(),
            rate: *rate,
            weight_decay: *weight_decay,
        };
        OptimizerConfig::Adamw {
            learning_rate: 0.1,
            weight_decay: 0.01,
            decay_all: false,
            betas: [0.9, 0.999],
            eps: 1e-8,
            layer_decay,
            groups: groups.iter().map(group).collect(),
        }
    }

    #[test]
    fn layers_are_known_by_their_numbers() {
        for (name, expected) in [
            ("model.layers.3.mlp.up_proj.weight", vec![3]),
            ("model.layers.12.input_layernorm.weight", vec![12]),
            ("transformer.h.7.attn.c_attn.bias", vec![7]),
            ("encoder.layer.0.attention.self.query.weight", vec![0]),
            ("layer3.0.conv1.weight", vec![3, 0]),
            ("blocks.2.1.conv_pw.weight", vec![2, 1]),
            ("stage2.block1.conv2.weight", vec![2, 1]),
            ("block0.layer1.norm.weight", vec![0, 1]),
            ("hidden1.weight", vec![1]),
            ("layer_4.weight", vec![4]),
            ("encoder.layers.encoder_layer_3.mlp.0.weight", vec![3]),
            ("conv1.weight", vec![]),
            ("head.0.weight", vec![]),
            ("layers.norm2.weight", vec![]),
        ] {
            assert_eq!(layer(name), expected, "{name}");
        }
    }

    #[test]
    fn rates_fall_from_the_head_to_the_input() {
        let names = [
            "lm_head.weight",
            "model.embed_tokens.weight",
            "model.layers.0.mlp.weight",
            "model.layers.10.mlp.weight",
            "model.layers.2.mlp.weight",
            "model.norm.weight",
        ];
        assert_eq!(depths(&names).unwrap(), [0, 4, 3, 1, 2, 0]);
        let found = own(&config(Some(0.5), &[("model.layers.2.", 3.0, None)]), &weights(&names)).unwrap();
        let rates: Vec<f64> = found.iter().map(|own| own.rate).collect();
        assert_eq!(rates, [1.0, 0.0625, 0.125, 0.5, 0.75, 1.0]);
        let resnet =
            ["conv1.weight", "bn1.norm", "layer1.0.conv1.weight", "layer1.1.conv1.weight", "fc.weight"];
        assert_eq!(depths(&resnet).unwrap(), [3, 3, 2, 1, 0]);
        let error = own(&config(Some(0.5), &[]), &weights(&["a.weight", "b.weight"])).unwrap_err();
        assert_eq!(error, OptimError::NoLayers { known: "a.weight, b.weight".into() });
        // A module in another is one; blocks of stages that are called otherwise are numbered anew in each.
        assert_eq!(depths(&["0.layers.0.weight", "0.layers.1.weight", "1.weight"]).unwrap(), [2, 1, 0]);
        let convnext = ["features.0.0.weight", "features.1.0.block.0.weight", "features.3.2.block.0.weight"];
        let error = depths(&convnext).unwrap_err().to_string();
        assert!(error.contains(convnext[1]) && error.contains(convnext[2]), "{error}");
    }

    #[test]
    fn the_first_group_that_fits_has_a_weight() {
        let names = ["head.bias", "head.weight", "hidden0.weight", "hidden1.norm", "hidden1.weight"];
        let groups = [("hidden1.", 0.5, None), ("hidden", 0.25, Some(0.0)), ("head", 2.0, Some(0.3))];
        let found = own(&config(None, &groups), &weights(&names)).unwrap();
        let expected = [(2.0, 0.0), (2.0, 0.3), (0.25, 0.0), (0.5, 0.0), (0.5, 0.01)];
        assert_eq!(found, expected.map(|(rate, decay)| Own { rate, decay }));
        // Without any, decay is of matrices alone.
        let plain = own(&config(None, &[]), &weights(&names)).unwrap();
        let decays: Vec<f64> = plain.iter().map(|own| own.decay).collect();
        assert_eq!(decays, [0.0, 0.01, 0.01, 0.0, 0.01]);
    }

    #[test]
    fn a_group_of_nothing_is_told_with_the_nearest_weight() {
        let names = ["model.embed_tokens.weight", "model.layers.0.mlp.weight", "model.layers.1.mlp.weight"];
        let error =
            |groups: &[_]| own(&config(None, groups), &weights(&names)).map(drop).unwrap_err().to_string();
        let text = error(&[("model", 1.0, None), ("model.layer.1.", 0.1, None)]);
        for words in ["optimizer.groups[1].match", "\"model.layer.1.\"", "model.layers.1.mlp.weight"] {
            assert!(text.contains(words), "{words}: {text}");
        }
        let text = error(&[("model.embd", 1.0, None)]);
        assert!(text.contains("nearest is model.embed_tokens.weight"), "{text}");
        let text = error(&[("model", 1.0, None), ("model.layers", 0.1, None)]);
        assert!(text.contains("groups[1]") && text.contains("put this one first"), "{text}");
    }
}
