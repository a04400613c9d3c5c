//! What configs say of the loss.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::change::{NotNegative, Positive};
use super::{Fault, FeatureLossConfig, MixtureConfig, ReturnedLossConfig, Setting, returned};
use crate::target::TailHandling;

/// What is minimised: a weighted sum. `temperature` and the weights are numbers, or tables that say how they change
/// over the steps: `{ from = 8.0, to = 2.0 }`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LossConfig {
    /// Softmax temperature `T` of every term that looks at probabilities, for the cached target and the student alike; or a table: `from`, `to`, `shape`
    /// ("linear" or "cosine"), `start_epochs`, and `over_epochs` or `over_steps`.
    #[serde(default = "default_temperature")]
    #[schemars(with = "Positive")]
    pub temperature: Setting,
    /// How the cached target's tail is understood.
    #[serde(default)]
    pub tail: TailHandling,
    /// The terms and their weights.
    pub weights: LossWeights,
    /// Of `jsd`: from forward KL (near 0, scaled) to reverse KL (near 1).
    #[serde(default = "half")]
    #[schemars(extend("exclusiveMinimum" = 0.0, "exclusiveMaximum" = 1.0))]
    pub jsd_beta: f64,
    /// Of `dkd`.
    #[serde(default)]
    pub dkd: DkdConfig,
    /// Of `dist`.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(skip_serializing_if = "super::outline::never")]
    pub dist: DistConfig,
    /// Of `nkd`.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(skip_serializing_if = "super::outline::never")]
    pub nkd: NkdConfig,
    /// Of `ranking`.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(skip_serializing_if = "super::outline::never")]
    pub ranking: RankingConfig,
    /// Of several caches.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schemars(skip_serializing_if = "super::outline::never")]
    pub mixture: MixtureConfig,
    /// Of `cross_entropy`: share of the label that goes to all classes evenly.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub label_smoothing: f64,
    /// Terms on the teacher's features that the cache keeps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(skip_serializing_if = "super::outline::never")]
    pub features: Vec<FeatureLossConfig>,
    /// Losses that a TorchScript student returns itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(skip_serializing_if = "super::outline::never")]
    pub returned: Vec<ReturnedLossConfig>,
}

fn default_temperature() -> Setting {
    Setting::Fixed(1.0)
}

fn half() -> f64 {
    0.5
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Without terms: what a loss is made of, each at its default.
impl Default for LossConfig {
    fn default() -> Self {
        Self {
            temperature: default_temperature(),
            tail: TailHandling::default(),
            weights: LossWeights::default(),
            jsd_beta: half(),
            dkd: DkdConfig::default(),
            dist: DistConfig::default(),
            nkd: NkdConfig::default(),
            ranking: RankingConfig::default(),
            mixture: MixtureConfig::default(),
            label_smoothing: 0.0,
            features: Vec::new(),
            returned: Vec::new(),
        }
    }
}

/// Weights of the two parts of decoupled KD.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DkdConfig {
    /// Of the label against all else.
    #[schemars(range(min = 0.0))]
    pub alpha: f64,
    /// Of the other classes by themselves.
    #[schemars(range(min = 0.0))]
    pub beta: f64,
}

impl Default for DkdConfig {
    fn default() -> Self {
        Self { alpha: 1.0, beta: 8.0 }
    }
}

/// Weights of the two relations of DIST; the defaults are those of its authors' code.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DistConfig {
    /// Of each sample's relation between classes.
    #[schemars(range(min = 0.0))]
    pub beta: f64,
    /// Of each class's relation between the samples of a batch: above 0, a batch's logits exist all at once, and
    /// neither `train.accumulate` nor a language model goes with it.
    #[schemars(range(min = 0.0))]
    pub gamma: f64,
}

impl Default for DistConfig {
    fn default() -> Self {
        Self { beta: 1.0, gamma: 1.0 }
    }
}

/// Weight of the classes that are not the label in normalised KD; the default is that of its authors' code.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NkdConfig {
    /// Of the other classes by themselves.
    #[schemars(range(min = 0.0))]
    pub gamma: f64,
}

impl Default for NkdConfig {
    fn default() -> Self {
        Self { gamma: 1.5 }
    }
}

/// Which classes are ranked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RankingConfig {
    /// The first so many of each head; default: all. Memory grows with their square.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2))]
    pub top: Option<usize>,
}

/// What a term of the loss is computed from, beside the student's logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Labels alone.
    Labels,
    /// What is kept of a target, as it is.
    Target,
    /// Every class's probability in the target.
    EveryClass,
    /// That and labels.
    EveryClassAndLabels,
}

impl Needs {
    fn target(self) -> bool {
        self != Self::Labels
    }

    fn every_class(self) -> bool {
        matches!(self, Self::EveryClass | Self::EveryClassAndLabels)
    }

    fn labels(self) -> bool {
        matches!(self, Self::Labels | Self::EveryClassAndLabels)
    }
}

/// The one list of terms: what each is, its name, and what it needs.
macro_rules! terms {
    ($($(#[doc = $doc:literal])+ $(#[serde($serde:meta)])? $name:ident: $needs:ident,)+) => {
        /// Weights of the terms, each a mean over samples (of language models, over positions); a term left out is not
        /// computed. `p` is the cached target at `T`, `q` is `softmax(student / T)`. All but `cross_entropy` need a
        /// cache.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(default, deny_unknown_fields)]
        pub struct LossWeights {
            $(
                $(#[doc = $doc])+
                $(#[serde($serde)] #[schemars(skip_serializing_if = "super::outline::never")])?
                #[schemars(with = "NotNegative")]
                pub $name: Setting,
            )+
        }

        /// The weights at a step.
        #[derive(Clone, Copy, Debug, Default, PartialEq)]
        pub struct TermWeights {
            $($(#[doc = $doc])+ pub $name: f64,)+
        }

        impl LossWeights {
            /// The names of the terms.
            pub const NAMES: &[&str] = &[$(stringify!($name)),+];

            /// Every term: its name, its weight, and what it needs.
            fn each(&self) -> impl Iterator<Item = (&'static str, Setting, Needs)> {
                [$((stringify!($name), self.$name, Needs::$needs)),+].into_iter()
            }

            /// The same with what changes at its last value.
            fn settled(&self) -> Self {
                Self { $($name: Setting::Fixed(self.$name.ends()[1])),+ }
            }

            /// The number that `of` makes of each weight.
            pub fn map(&self, of: impl Fn(&Setting) -> f64) -> TermWeights {
                TermWeights { $($name: of(&self.$name)),+ }
            }
        }

        impl TermWeights {
            /// The weight of the term `name`, one of [`LossWeights::NAMES`]; 0 of any other.
            pub fn of(&self, name: &str) -> f64 {
                match name {
                    $(stringify!($name) => self.$name,)+
                    _ => 0.0,
                }
            }
        }
    };
}

terms! {
    /// `T² · KL(p ‖ q)`.
    kl: Target,
    /// Cross-entropy of the student at T = 1 on hard labels, or on the token that follows. Needs labels.
    cross_entropy: Labels,
    /// `T² · KL(q ‖ p)`.
    reverse_kl: EveryClass,
    /// `T²` · generalised Jensen–Shannon divergence at `jsd_beta`.
    jsd: EveryClass,
    /// `½ Σ |p − q|`.
    total_variation: EveryClass,
    /// `Σ (p − q)²`.
    mse: EveryClass,
    /// Mean squared difference of the head's raw logits, each side relative to its mean.
    logit_mse: Target,
    /// `1 − cos(p, q)`.
    cosine: EveryClass,
    /// `1 − cos` of the head's raw logits, each side relative to its mean; 0 where the target's are all equal, as in a
    /// head of one class. Of classes off the head it says nothing.
    #[serde(skip_serializing_if = "Setting::is_zero")]
    logit_cosine: Target,
    /// `T²` · decoupled KD. Needs labels.
    dkd: EveryClassAndLabels,
    /// `T²` · DIST: 1 − the correlation of `p` and `q` over the classes of each sample, and over the samples of the
    /// batch for each class.
    #[serde(skip_serializing_if = "Setting::is_zero")]
    dist: EveryClass,
    /// Normalised KD: cross-entropy of the label, as sure as the teacher is at T = 1, and `T²` · that of the other
    /// classes by themselves. Needs labels.
    #[serde(skip_serializing_if = "Setting::is_zero")]
    nkd: EveryClassAndLabels,
    /// Pairwise ranking of the head's classes: the mean of `log(1 + exp(sⱼ − sᵢ))`, the student's raw logits, over the
    /// pairs in which the teacher prefers class i. Of classes off the head it says nothing: give another term beside it.
    #[serde(skip_serializing_if = "Setting::is_zero")]
    ranking: Target,
}

impl LossWeights {
    /// The terms that are ever minimised: those whose weight is positive at any step.
    fn used(&self) -> impl Iterator<Item = (&'static str, f64, Needs)> {
        let used = |(name, weight, needs): (_, Setting, _)| (name, weight.largest(), needs);
        self.each().map(used).filter(|(_, largest, _)| *largest > 0.0)
    }

    /// Whether any term is ever minimised.
    pub(super) fn any(&self) -> bool {
        self.used().next().is_some()
    }

    /// Whether any term needs the cache's targets.
    pub fn of_targets(&self) -> bool {
        self.first_of_targets().is_some()
    }

    /// The first term that needs the cache's targets, and its largest weight.
    pub fn first_of_targets(&self) -> Option<(&'static str, f64)> {
        self.used().find(|(_, _, needs)| needs.target()).map(|(name, weight, _)| (name, weight))
    }

    /// Whether any term needs every class's probability in the target.
    pub fn of_every_class(&self) -> bool {
        self.used().any(|(_, _, needs)| needs.every_class())
    }

    /// A term that needs labels, and its largest weight.
    pub fn of_labels(&self) -> Option<(&'static str, f64)> {
        self.used().find(|(_, _, needs)| needs.labels()).map(|(name, weight, _)| (name, weight))
    }

    /// Whether the term `name` is a mean over labels.
    pub fn is_of_labels(name: &str) -> bool {
        Self::default().each().any(|(own, _, needs)| own == name && needs.labels())
    }

    /// The terms whose weights change, by name.
    pub fn changing(&self) -> impl Iterator<Item = (&'static str, Setting)> {
        self.each().filter(|(_, weight, _)| weight.changes()).map(|(name, weight, _)| (name, weight))
    }
}

impl LossConfig {
    /// Whether temperature or weights are not the same at every step.
    pub fn changes(&self) -> bool {
        self.temperature.changes() || self.weights.changing().next().is_some()
    }

    /// The same with temperature and weights as they are in the end.
    pub fn settled(&self) -> Self {
        let temperature = Setting::Fixed(self.temperature.ends()[1]);
        Self { temperature, weights: self.weights.settled(), ..self.clone() }
    }

    /// Whether a term relates the samples of a batch to each other, which then must be there all at once.
    pub fn of_whole_batch(&self) -> bool {
        self.weights.dist.largest() > 0.0 && self.dist.gamma > 0.0
    }

    /// Faults within the section, of a run of so many epochs and batches for each step.
    pub(super) fn validate(&self, epochs: f64, accumulate: usize) -> Vec<Fault> {
        let mut faults = self.temperature.validate("loss.temperature", epochs);
        for (name, weight, _) in self.weights.each() {
            faults.extend(weight.validate(&format!("loss.weights.{name}"), epochs));
        }
        if !self.weights.any() && self.features.is_empty() && self.returned.is_empty() {
            let problem = "expected a positive weight for kl, cross_entropy or another term, found none";
            faults.push(Fault::new("loss.weights", problem));
        }
        faults.extend(self.mixture.validate());
        faults.extend(returned::validate(&self.returned));
        if self.of_whole_batch() && accumulate > 1 {
            let problem = format!(
                "relates the samples of a whole batch, and with train.accumulate = {accumulate} none is seen whole; \
                 use accumulate = 1 and a larger train.batch, or loss.dist.gamma = 0"
            );
            faults.push(Fault::new("loss.dist.gamma", problem));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ChangeConfig, ChangeShape, ConfigError, TrainConfig, load_str};

    const GOOD: &str = r#"
        [student]
        kind = "mlp"
        hidden = [8]
        classes = 3
        [loss.weights]
        kl = 1
        [optimizer]
        kind = "adamw"
        learning_rate = 0.1
        [train]
        epochs = 4
        batch = 2
    "#;

    fn load(set: &[&str]) -> Result<TrainConfig, Vec<String>> {
        let set: Vec<String> = set.iter().map(|set| (*set).to_owned()).collect();
        load_str::<TrainConfig>(GOOD, "test", &set).map_err(|error| match error {
            ConfigError::Faults { faults, .. } => faults.iter().map(Fault::to_string).collect(),
            other => vec![other.to_string()],
        })
    }

    #[test]
    fn a_setting_is_a_number_or_a_table() {
        let config = load(&[
            "loss.temperature={ from = 8, to = 2.0, shape = \"cosine\", over_epochs = 2 }",
            "loss.weights.ranking={ from = 0, to = 0.5, over_steps = 100 }",
            "train.select_by=last",
        ])
        .unwrap();
        let expected = ChangeConfig {
            from: 8.0,
            to: 2.0,
            shape: ChangeShape::Cosine,
            start_epochs: 0.0,
            over_epochs: Some(2.0),
            over_steps: None,
        };
        assert_eq!(config.loss.temperature, Setting::Changing(expected));
        assert_eq!(config.loss.weights.kl, Setting::Fixed(1.0));
        assert_eq!(config.loss.weights.ranking.ends(), [0.0, 0.5]);
        // What is written into a run's folder is read as it was.
        let text = toml::to_string(&config).unwrap();
        assert_eq!(load_str::<TrainConfig>(&text, "again", &[]).unwrap(), config, "{text}");
    }

    /// Configs of runs that were begun before these keys are what they were.
    #[test]
    fn what_is_not_asked_for_is_not_written() {
        let text = toml::to_string(&load(&[]).unwrap()).unwrap();
        for key in ["logit_cosine", "dist", "nkd", "ranking", "layer_decay", "groups", "per ="] {
            assert!(!text.contains(key), "{key}: {text}");
        }
    }

    #[test]
    fn a_weight_that_begins_at_0_is_of_a_term_that_is_used() {
        let of = |name: &str| {
            let weight = format!("loss.weights={{ {name} = {{ from = 0.0, to = 1.0 }} }}");
            let weights = load(&[&weight, "train.select_by=last"]).unwrap().loss.weights;
            (weights.of_targets(), weights.of_every_class(), weights.of_labels().map(|(name, _)| name))
        };
        assert_eq!(of("kl"), (true, false, None));
        assert_eq!(of("dist"), (true, true, None));
        assert_eq!(of("nkd"), (true, true, Some("nkd")));
        assert_eq!(of("cross_entropy"), (false, false, Some("cross_entropy")));
        assert_eq!(of("ranking"), (true, false, None));
        assert!(LossWeights::is_of_labels("dkd") && !LossWeights::is_of_labels("dist"));
    }

    #[test]
    fn faults_of_changes_are_told_by_their_keys() {
        for (set, expected) in [
            (vec!["loss.temperature=0"], "loss.temperature: expected more than 0, found 0"),
            (
                vec!["loss.temperature={ from = 4.0, to = 0.0 }"],
                "loss.temperature.to: expected more than 0, found 0",
            ),
            (
                vec!["loss.weights.dist={ from = -1.0, to = 1.0 }"],
                "loss.weights.dist.from: expected at least 0, found -1",
            ),
            (
                vec!["loss.weights.kl={ from = 0.0, to = 1.0, shap = \"linear\" }"],
                "loss.weights.kl.shap: unknown key; did you mean shape?",
            ),
            (vec!["loss.weights.kl={ from = 1.0 }"], "loss.weights.kl.to: missing"),
            (vec!["loss.temperature=warm"], "loss.temperature: expected a number, found \"warm\""),
            (
                vec!["loss.weights.kl=0", "loss.weights.mse={ from = 0.0, to = 0.0 }"],
                "loss.weights: expected a positive weight",
            ),
            (
                vec!["loss.temperature={ from = 4.0, to = 2.0, over_epochs = 1.0, over_steps = 3 }"],
                "loss.temperature.over_steps: expected this or over_epochs",
            ),
            (
                vec!["loss.temperature={ from = 4.0, to = 2.0, start_epochs = 3.0, over_epochs = 2.0 }"],
                "loss.temperature.over_epochs: expected an end within train.epochs = 4",
            ),
            (
                vec!["loss.temperature={ from = 4.0, to = 2.0, start_epochs = 4.0 }"],
                "loss.temperature.start_epochs: expected less than train.epochs = 4",
            ),
            (
                vec!["loss.temperature={ from = 4.0, to = 2.0 }", "train.select_by=train_loss"],
                "train.select_by: expected last or a measure",
            ),
            (vec!["loss.weights.mse={ from = 0.0, to = 2.0 }"], "the default without a validation set"),
            (
                vec!["loss.weights.dist=1", "train.accumulate=2"],
                "loss.dist.gamma: relates the samples of a whole batch",
            ),
            (vec!["loss.ranking.top=1"], "loss.ranking.top: expected at least 2, found 1"),
            (vec!["optimizer.layer_decay=1.5"], "optimizer.layer_decay: expected at most 1, found 1.5"),
            (vec!["optimizer.groups=[{ rate = 2.0 }]"], "optimizer.groups[0].match: missing"),
        ] {
            let faults = load(&set).unwrap_err();
            assert!(faults.iter().any(|fault| fault.contains(expected)), "{set:?}: {faults:?}");
        }
        load(&["loss.weights.dist=1", "train.accumulate=2", "loss.dist.gamma=0"]).unwrap();
        load(&["optimizer.groups=[{ match = \"hidden\", rate = 2.0 }]", "optimizer.layer_decay=1"]).unwrap();
    }
}
