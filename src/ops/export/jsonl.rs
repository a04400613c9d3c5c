//! One JSON object a position.

use std::collections::BTreeMap;
use std::io::Write;

use schemars::JsonSchema;
use serde::Serialize;

use super::selection::Selection;
use super::{Failure, Progress};
use crate::cache::Manifest;
use crate::cache::format::{LABEL, TAIL_CODE, TAIL_CURVE, VIEW};
use crate::target::{FeatureBatch, PositionTarget, TargetBatch, Temperature};

/// A line of `kd-cache export --to jsonl`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ExportRow<'a> {
    /// The sample.
    pub sample: u64,
    /// The augmentation view.
    pub view: u16,
    /// The position in the sample, where samples are made of tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<usize>,
    /// The token there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<u32>,
    /// Its label, where the dataset has labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<u32>,
    /// Classes of the head, by falling logit: `[k]`.
    pub ids: &'a [u32],
    /// What the teacher says of them.
    #[serde(flatten)]
    pub target: ExportTarget<'a>,
    /// Features of the teacher by name, scales applied: `[width]` each; absent where none are kept.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub features: BTreeMap<&'a str, &'a [f32]>,
}

/// A row's target.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum ExportTarget<'a> {
    /// As the cache has it.
    Raw {
        /// Logits relative to the largest: `[k]`.
        logits: &'a [f32],
        /// The tail curve at the cache's nodes; absent when the head holds every class.
        #[serde(skip_serializing_if = "Option::is_none")]
        tail_curve: Option<&'a [f32]>,
        /// The tail's code; absent in a cache of rank 0.
        #[serde(skip_serializing_if = "Option::is_none")]
        tail_code: Option<&'a [i8]>,
    },
    /// At a temperature.
    Decoded {
        /// Probabilities of the head's classes: `[k]`.
        probabilities: Vec<f64>,
        /// Mass of all other classes; with the head's it sums to 1.
        tail_mass: f64,
    },
}

/// The keys of a line.
pub(super) fn columns(manifest: &Manifest, temperature: Option<Temperature>) -> Vec<&'static str> {
    let columns = manifest.columns();
    let mut names = vec!["sample", VIEW];
    if columns.tokens.is_some() {
        names.extend(["position", "token"]);
    }
    names.extend(columns.labelled.then_some(LABEL));
    names.push("ids");
    if temperature.is_some() {
        names.extend(["probabilities", "tail_mass"]);
    } else {
        names.push("logits");
        names.extend((columns.nodes > 0).then_some(TAIL_CURVE));
        names.extend((columns.rank > 0).then_some(TAIL_CODE));
    }
    names.extend((!columns.features.is_empty()).then_some("features"));
    names
}

/// Writes every row to `out`, and gives the number of bytes.
pub(super) fn write(
    selection: &Selection<'_>,
    temperature: Option<Temperature>,
    out: &mut dyn Write,
    progress: &dyn Progress,
) -> Result<u64, Failure> {
    let manifest = selection.manifest();
    let mut targets = TargetBatch::default();
    let mut features = vec![FeatureBatch::default(); manifest.features.len()];
    let (mut text, mut bytes) = (Vec::new(), 0);
    progress.phase("export", selection.rows(), 0);
    selection.for_each(|block| {
        block.reader.gather(block.rows, &mut targets)?;
        for (at, vectors) in features.iter_mut().enumerate() {
            block.reader.gather_feature(at, block.rows, vectors)?;
        }
        text.clear();
        let mut places = Vec::with_capacity(targets.rows);
        for (at, row) in block.at.iter().zip(block.rows) {
            match block.reader.tokens(*row)? {
                None => places.push((*at, None)),
                Some(row) => {
                    places.extend(row.tokens.into_iter().enumerate().map(|place| (*at, Some(place))))
                }
            }
        }
        for (row, (at, place)) in places.iter().enumerate() {
            let (ids, values, curve) = targets.row(row);
            let target = match temperature {
                None => {
                    let code = targets.code(row);
                    ExportTarget::Raw {
                        logits: values,
                        tail_curve: (!curve.is_empty()).then_some(curve),
                        tail_code: (!code.is_empty()).then_some(code),
                    }
                }
                Some(temperature) => {
                    let nodes = &manifest.tail.nodes;
                    let target = PositionTarget { classes: manifest.classes, ids, values, nodes, curve };
                    let decoded = target.decode(temperature);
                    ExportTarget::Decoded {
                        probabilities: decoded.probabilities,
                        tail_mass: decoded.tail_mass,
                    }
                }
            };
            let line = ExportRow {
                sample: block.shard.sample_ids()[*at],
                view: block.shard.views()[*at],
                position: place.map(|(position, _)| position),
                token: place.map(|(_, token)| token),
                label: block.shard.labels().map(|labels| labels[*at]),
                ids,
                target,
                features: manifest
                    .features
                    .iter()
                    .zip(&features)
                    .map(|(f, all)| (f.name.as_str(), all.row(row)))
                    .collect(),
            };
            serde_json::to_writer(&mut text, &line).map_err(std::io::Error::from)?;
            text.push(b'\n');
        }
        out.write_all(&text)?;
        bytes += text.len() as u64;
        progress.advance(block.rows.len() as u64);
        Ok(())
    })?;
    out.flush()?;
    progress.finish();
    Ok(bytes)
}
