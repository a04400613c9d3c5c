//! What a cache was made of: teacher, dataset, what became of samples. Two caches whose identities agree were made
//! of the same things.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{AugmentConfig, ExecutionProvider, GraphOptimization, PreprocessConfig, TeacherKind};
use crate::digest::Digest;

/// The teacher. Two teachers with one digest and one output are the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TeacherIdentity {
    /// What ran it.
    pub kind: TeacherRun,
    /// The file's name, for people; of an import the teacher's own.
    pub file: String,
    /// The file's digest; of an import one of its name and of all that it said.
    pub digest: Digest,
    /// ONNX: the input used, when the config names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// ONNX: the output used, when the config names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
    /// Where the head is a file of its own: its digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<Digest>,
    /// Where the head is a file of its own: positions it was given at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk: Option<usize>,
    /// Images were given to it with the channels of a place side by side.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub channels_last: bool,
    /// ONNX on a GPU: what executed it, if not CUDA's libraries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution_provider: Option<ExecutionProvider>,
    /// ONNX: how far its graph was rewritten, if less than it could be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub graph_optimization: Option<GraphOptimization>,
    /// `logits`, `probabilities` or `log_probabilities`.
    pub output_kind: String,
    /// Float type of the output.
    pub dtype: String,
    /// Runtime and version.
    pub runtime: String,
    /// Device it ran on.
    pub device: String,
    /// Samples per forward pass.
    pub batch: usize,
    /// Threads of the runtime, when the config says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
}

/// What ran a teacher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TeacherRun {
    /// ONNX Runtime.
    Onnx,
    /// libtorch.
    Torchscript,
    /// A program that answered batches.
    Command,
    /// Another tool, which kept its log-probabilities of the most probable classes at T = 1. Nothing else is
    /// known of the tails, so that `tail.nodes` is 1 alone.
    Import,
}

impl From<TeacherKind> for TeacherRun {
    fn from(kind: TeacherKind) -> Self {
        match kind {
            TeacherKind::Onnx => Self::Onnx,
            TeacherKind::Torchscript => Self::Torchscript,
            TeacherKind::Command => Self::Command,
        }
    }
}

impl fmt::Display for TeacherRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Onnx => "onnx",
            Self::Torchscript => "torchscript",
            Self::Command => "command",
            Self::Import => "import",
        })
    }
}

/// The dataset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DatasetIdentity {
    /// The config's kind.
    pub kind: String,
    /// Digest over shape, order and content of the samples.
    pub fingerprint: Digest,
    /// Digest of the labels; absent when there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Digest>,
    /// Dimensions of a raw sample; for tokens, how many the longest has.
    pub sample_shape: Vec<usize>,
    /// Where samples are tokens: what their numbers mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<TokensIdentity>,
}

/// What tokens are. They are kept in the shards, so that a student needs nothing else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TokensIdentity {
    /// Every token is below it.
    pub vocabulary: usize,
    /// Digest of the tokenizer's vocabulary and special tokens; absent where none was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<Digest>,
    /// The tokenizer's file, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer_file: Option<String>,
}

/// The preprocessing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PreprocessIdentity {
    /// What was done.
    #[serde(flatten)]
    pub config: PreprocessConfig,
    /// Digest of it.
    pub digest: Digest,
}

impl PreprocessIdentity {
    /// Of what was declared.
    ///
    /// # Errors
    /// When it has no JSON form.
    pub fn of(config: &PreprocessConfig) -> Result<Self, serde_json::Error> {
        Ok(Self { config: config.clone(), digest: Digest::of_json(config)? })
    }

    /// What of it cannot be, expected and found: students see samples through it.
    pub(super) fn unsound(&self) -> Option<(String, String)> {
        if let Some(fault) = self.config.validate("preprocess").into_iter().next() {
            return Some(("what configs may have".into(), fault.to_string()));
        }
        other_digest(&self.config, &self.digest)
    }
}

/// What the digest of `config` is, and what it is said to be, where these differ. Keys that this version does not know are part of it,
/// too.
fn other_digest(config: &impl Serialize, said: &Digest) -> Option<(String, String)> {
    let expected = Digest::of_json(config).ok()?;
    (expected != *said).then(|| (format!("{expected}, the digest of its keys"), said.to_string()))
}

/// The augmentation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AugmentIdentity {
    /// What was done.
    #[serde(flatten)]
    pub config: AugmentConfig,
    /// Digest of it.
    pub digest: Digest,
}

impl AugmentIdentity {
    /// Of what was declared.
    ///
    /// # Errors
    /// When it has no JSON form.
    pub fn of(config: &AugmentConfig) -> Result<Self, serde_json::Error> {
        Ok(Self { config: config.clone(), digest: Digest::of_json(config)? })
    }

    /// What of it cannot be, expected and found: students see the views that it gives.
    pub(super) fn unsound(&self) -> Option<(String, String)> {
        other_digest(&self.config, &self.digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Interpolation, Layout};

    #[test]
    fn whatever_changes_an_input_changes_the_digest_of_its_preprocessing() {
        let of = |change: fn(&mut PreprocessConfig)| {
            let mut config = PreprocessConfig::default();
            change(&mut config);
            PreprocessIdentity::of(&config).unwrap()
        };
        let all = [
            of(|_| {}),
            of(|c| c.scale = 1.0),
            of(|c| c.layout = Layout::Flat),
            of(|c| (c.resize, c.crop) = (Some(256), Some(224))),
            of(|c| c.size = Some([32, 48])),
            of(|c| (c.size, c.interpolation) = (Some([32, 48]), Interpolation::Bicubic)),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(all[..at].iter().all(|other| other.digest != one.digest));
            assert_eq!(one.unsound(), None);
        }
        // What has no geometry is what it was before there was any: caches are told apart by this.
        let json = br#"{"scale":0.00392156862745098,"mean":[0.0],"std":[1.0],"layout":"nchw"}"#;
        assert_eq!(all[0].digest, Digest::of_bytes(json));
    }

    #[test]
    fn a_preprocessing_that_was_edited_is_no_longer_the_caches() {
        let mut edited = PreprocessIdentity::of(&PreprocessConfig::default()).unwrap();
        edited.config.mean = vec![0.9];
        let (expected, found) = edited.unsound().unwrap();
        assert!(
            expected.starts_with("sha256:") && found.starts_with("sha256:") && expected[..71] != found[..]
        );
        for broken in [vec![], vec![0.0], vec![1.0, 1.0]] {
            let std = PreprocessConfig { std: broken, ..PreprocessConfig::default() };
            let (expected, found) = PreprocessIdentity::of(&std).unwrap().unsound().unwrap();
            assert!(expected == "what configs may have" && found.starts_with("preprocess."), "{found}");
        }
    }
}
