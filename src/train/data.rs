//! Which samples a run was begun with: where they lie may change while it is interrupted, what they are may not.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::setup::Training;
use super::validation::ValidationSet;
use super::{RunFolder, TrainError};
use crate::cache::CacheError;
use crate::digest::Digest;
use crate::loader::Samples;

/// The samples that a run learns from and those that it is measured on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RunData {
    /// Learned from.
    train: Set,
    /// What its classes are called, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    class_names: Option<Vec<String>>,
    /// By name.
    validation: BTreeMap<String, Set>,
}

/// Samples, wherever they lie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Set {
    fingerprint: Digest,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    labels: Option<Digest>,
    /// [`crate::cache::Manifest::targets_digest`] of a cache over them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    targets: Option<Digest>,
}

impl Set {
    fn of(samples: &Samples) -> Result<Self, CacheError> {
        Ok(Self {
            fingerprint: samples.fingerprint().clone(),
            labels: samples.labels_digest().cloned(),
            targets: samples.cache().map(|cache| cache.manifest().targets_digest()).transpose()?,
        })
    }
}

impl fmt::Display for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "samples with fingerprint {}", self.fingerprint)?;
        self.labels.iter().try_for_each(|labels| write!(f, ", labels {labels}"))?;
        self.targets.iter().try_for_each(|targets| write!(f, ", targets {targets}"))
    }
}

impl RunData {
    /// What `training`, whose classes are called `class_names`, and `sets` are made of.
    ///
    /// # Errors
    /// What [`crate::cache::Manifest::targets_digest`] returns.
    pub(super) fn of(
        training: &Training,
        class_names: Option<&[String]>,
        sets: &[ValidationSet],
    ) -> Result<Self, CacheError> {
        let named = |set: &ValidationSet| Ok((set.name.clone(), Set::of(&set.samples)?));
        let validation = sets.iter().map(named).collect::<Result<_, CacheError>>()?;
        // Of the caches that are learned from, `RunCaches` knows.
        let train = Set { targets: None, ..Set::of(&training.samples)? };
        Ok(Self { train, class_names: class_names.map(<[String]>::to_vec), validation })
    }

    /// What the classes are called that the student was trained on, where that is known.
    pub(super) fn class_names(&self) -> Option<&[String]> {
        self.class_names.as_deref()
    }

    /// What the run in `folder` was begun with; `None` where it was begun before that was kept.
    ///
    /// # Errors
    /// [`TrainError::Read`], [`TrainError::State`].
    pub(super) fn read(folder: &RunFolder) -> Result<Option<Self>, TrainError> {
        folder.read_json(folder.data())
    }

    /// Keeps it with the run in `folder`.
    ///
    /// # Errors
    /// [`TrainError::Write`].
    pub(super) fn write(&self, folder: &RunFolder) -> Result<(), TrainError> {
        folder.write_json(folder.data(), self)
    }

    /// Keys of a config that say where the samples lie which `now` has as this has them.
    pub(super) fn places(&self, now: &Self) -> Vec<String> {
        let mut keys = Vec::new();
        if self.train == now.train {
            keys.push("dataset".to_owned());
        }
        for (name, set) in &self.validation {
            if now.validation.get(name) == Some(set) {
                keys.extend(["dataset", "cache"].map(|key| format!("validation.{name}.{key}")));
            }
        }
        keys
    }

    /// The first key whose samples are others in `now`, and what they were and are. A config may name them as before.
    pub(super) fn difference(&self, now: &Self) -> Option<(String, String, String)> {
        let told = |key: String, begun: &Set, now: &Set| {
            (begun != now).then(|| (key, begun.to_string(), now.to_string()))
        };
        told("dataset".into(), &self.train, &now.train).or_else(|| {
            self.validation
                .iter()
                .find_map(|(name, set)| told(format!("validation.{name}"), set, now.validation.get(name)?))
        })
    }
}
