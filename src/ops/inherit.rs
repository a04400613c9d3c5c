//! `tail.from`: the tail model of another cache, so that all sets of one teacher share one.

use std::path::{Path, PathBuf};

use super::prepass;
use crate::cache::{CacheError, Coding, Manifest, read_encoder, read_manifest, read_tail_model};
use crate::config::CacheConfig;
use crate::digest::Digest;
use crate::encoding::Codebook;
use crate::tail_model::TailEncoder;
use crate::target::{TailModel, TailNodes};

/// Why a tail model cannot be taken from another cache.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InheritError {
    /// The other cache.
    #[error("tail.from")]
    Cache(#[from] CacheError),
    /// Its head holds every class.
    #[error("tail.from: {path} has no tail model, because its heads hold every class; remove the key")]
    NoTail {
        /// The other cache.
        path: PathBuf,
    },
    /// It was written by a version that did not keep the encoder.
    #[error(
        "tail.from: {path} has a tail model of rank {rank}, but not the file that gives positions their codes; build it again, or take the tail model of a cache of rank 0"
    )]
    NoEncoder {
        /// The other cache.
        path: PathBuf,
        /// Its rank.
        rank: usize,
    },
    /// Something that both caches must have in common.
    #[error("{key}: expected {expected}, as in {path} (tail.from), found {found}")]
    Differs {
        /// The config's key.
        key: &'static str,
        /// The other cache.
        path: PathBuf,
        /// There.
        expected: String,
        /// In the config, or of the teacher.
        found: String,
    },
}

/// What is taken from the cache of `tail.from`.
#[derive(Debug)]
pub(super) struct Inherited {
    pub(super) model: TailModel,
    /// `None` for rank 0.
    pub(super) encoder: Option<TailEncoder>,
    /// Digest of the tail model's file.
    pub(super) digest: Digest,
    codebook: Option<Codebook>,
    manifest: Manifest,
    path: PathBuf,
}

impl Inherited {
    /// Opens the cache in `path`, whose nodes and rank must be those of `config` where it says any.
    pub(super) fn open(path: &Path, config: &CacheConfig) -> Result<Self, InheritError> {
        let manifest = read_manifest(path)?;
        let no_tail = || InheritError::NoTail { path: path.to_owned() };
        let model = read_tail_model(path, &manifest)?.ok_or_else(no_tail)?;
        let digest = manifest.tail.model.as_ref().ok_or_else(no_tail)?.digest.clone();
        let encoder = read_encoder(path, &manifest)?.and_then(|table| prepass::encoder(table, &model));
        if model.rank() > 0 && encoder.is_none() {
            return Err(InheritError::NoEncoder { path: path.to_owned(), rank: model.rank() });
        }
        let codebook = Coding::read(path, &manifest)?.into_codebook();
        let inherited = Self { model, encoder, digest, codebook, manifest, path: path.to_owned() };
        let tail = &inherited.manifest.tail;
        if config.tail.nodes != TailNodes::default() {
            inherited.agree("tail.nodes", &tail.nodes, &config.tail.nodes)?;
        }
        if let Some(rank) = config.tail.rank {
            inherited.agree("tail.rank", &tail.rank, &rank)?;
        }
        Ok(inherited)
    }

    fn agree<T: PartialEq + serde::Serialize>(
        &self,
        key: &'static str,
        expected: &T,
        found: &T,
    ) -> Result<(), InheritError> {
        if expected == found {
            return Ok(());
        }
        let word = |value: &T| serde_json::to_string(value).unwrap_or_default();
        let (expected, found) = (word(expected), word(found));
        Err(InheritError::Differs { key, path: self.path.clone(), expected, found })
    }

    /// Nodes of curves and tail model.
    pub(super) fn nodes(&self) -> &TailNodes {
        &self.manifest.tail.nodes
    }

    /// Makes `plan` the manifest of a cache with this tail model.
    ///
    /// # Errors
    /// [`InheritError::Differs`] where heads or classes are others.
    pub(super) fn join(&self, plan: &mut Manifest) -> Result<(), InheritError> {
        self.agree("teacher.classes", &self.manifest.classes, &plan.classes)?;
        self.agree("head.k", &self.manifest.head.k, &plan.head.k)?;
        self.agree("head.mass", &self.manifest.head.mass, &plan.head.mass)?;
        let tail = &self.manifest.tail;
        (plan.tail.rank, plan.tail.fit_samples) = (tail.rank, tail.fit_samples);
        plan.tail.from = Some(self.digest.clone());
        Ok(())
    }

    /// The other cache's codes, where they serve `plan` too.
    pub(super) fn codebook(&self, plan: &Manifest) -> Option<&Codebook> {
        let same_scale = self.manifest.scale().ok() == plan.scale().ok();
        let same = same_scale && self.manifest.code_layout() == plan.code_layout();
        self.codebook.as_ref().filter(|_| same)
    }
}
