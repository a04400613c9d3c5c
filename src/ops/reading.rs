//! What a teacher's numbers are, and what is kept of them.

#[cfg(feature = "torch")]
use std::sync::Mutex;

use super::keep::{self, Keep};
use super::samples::Samples;
use super::source::SourceError;
use crate::cache::FeatureLayout;
use crate::config::{CacheConfig, FeatureValues};
use crate::dataset;
use crate::encoding::FeatureNumbers;
use crate::floats::FloatBuf;
use crate::ids::Position;
#[cfg(feature = "torch")]
use crate::libtorch::DeviceLogits;
use crate::select::NonFinite;
#[cfg(feature = "torch")]
use crate::tail_model::EncoderOnDevice;
use crate::tail_model::TailEncoder;
use crate::target::{TailNodes, TargetBatch};
#[cfg(feature = "torch")]
use crate::teacher::Values;
use crate::teacher::{OutputReading, RawOutput, TeacherError};

/// Up to so many logits are brought here and selected from sooner than dozens of operators can be asked for.
#[cfg(feature = "torch")]
const FEW: usize = 1 << 19;

/// What the teacher's numbers are, and what is kept of them.
pub(super) struct Reading {
    pub(super) classes: usize,
    pub(super) output: OutputReading,
    /// What is to be said of that.
    pub(super) doubt: Option<String>,
    /// Of the tail curves.
    pub(super) nodes: TailNodes,
    pub(super) keep: Keep,
    /// What is kept beside the logits.
    pub(super) features: Vec<FeatureLayout>,
    /// Gives positions their tail codes, once it is known.
    pub(super) encoder: Option<TailEncoder>,
    /// The same where logits are on a device, once there were some.
    #[cfg(feature = "torch")]
    on_device: Mutex<Option<EncoderOnDevice>>,
}

impl Reading {
    /// What the teacher's numbers are by its first ones, once they fit config and data.
    pub(super) fn decide(
        config: &CacheConfig,
        nodes: &TailNodes,
        samples: &Samples,
        first: &RawOutput,
    ) -> Result<Self, SourceError> {
        let classes = first.classes;
        let path = || config.teacher.path.display().to_string();
        if let Some(expected) = config.teacher.classes.filter(|expected| *expected != classes) {
            return Err(SourceError::Classes { path: path(), expected, found: classes });
        }
        match samples {
            Samples::Images { dataset, .. } => dataset::check_labels(dataset.as_ref(), classes)?,
            Samples::Tokens(dataset) => {
                let largest = dataset.largest_token();
                let vocabulary = dataset.vocabulary().unwrap_or(largest.saturating_add(1));
                if vocabulary as usize > classes {
                    return Err(SourceError::Vocabulary { path: path(), classes, vocabulary });
                }
            }
        }
        let keep = Keep::new(&keep::layout(&config.head, classes), classes, nodes, config.seed)?;
        let output = OutputReading::decide(config.teacher.output_kind, first);
        let widths = first.features.iter().map(|vectors| vectors.width);
        let features = config.features.iter().zip(widths).map(|(one, width)| FeatureLayout::new(one, width));
        let features = features.collect();
        Ok(Self {
            classes,
            output,
            doubt: output.doubt(config.teacher.output_kind, first),
            nodes: nodes.clone(),
            keep,
            features,
            encoder: None,
            #[cfg(feature = "torch")]
            on_device: Mutex::new(None),
        })
    }

    /// Takes the features out of an output, as they are kept; `positions` are whose they are.
    pub(super) fn features(
        &self,
        output: &mut RawOutput,
        positions: &[Position],
    ) -> Result<Vec<FeatureNumbers>, SourceError> {
        let given = std::mem::take(&mut output.features);
        let mut kept = Vec::with_capacity(given.len());
        for (layout, vectors) in self.features.iter().zip(given) {
            if (vectors.width, vectors.rows()) != (layout.width, output.rows) {
                let expected = format!(
                    "{} vectors of {} numbers for the feature {}, as in the first batch",
                    output.rows, layout.width, layout.name
                );
                let found = format!("{} of {}", vectors.rows(), vectors.width);
                return Err(TeacherError::Output { path: "teacher".into(), expected, found }.into());
            }
            let mut numbers = FeatureNumbers::new(layout.values);
            for (vector, position) in vectors.values.chunks_exact(layout.width).zip(positions) {
                numbers.push(vector).map_err(|(at, value)| SourceError::Feature {
                    name: layout.name.clone(),
                    sample: position.row.sample,
                    expected: match layout.values {
                        FeatureValues::F16 => {
                            "numbers within half precision (values = \"i8\" keeps larger ones)"
                        }
                        FeatureValues::I8 => "finite numbers up to 1e38",
                    },
                    value,
                    at,
                })?;
            }
            kept.push(numbers);
        }
        Ok(kept)
    }

    /// What is kept of an output; `positions` are whose it is. Where logits are on a device, so is the selection.
    pub(super) fn targets(
        &self,
        output: RawOutput,
        positions: &[Position],
    ) -> Result<TargetBatch, SourceError> {
        #[cfg(feature = "torch")]
        if let (Values::Device(logits), OutputReading::Logits) = (&output.values, self.output)
            && output.rows * output.classes > FEW
        {
            self.check(output.classes)?;
            if let Some(selected) = self.selected_on_device(logits, positions) {
                return selected;
            }
        }
        let (mut targets, mut done) = (TargetBatch::default(), 0);
        for part in output.parts() {
            let here = done..done + part.rows;
            done = here.end;
            targets.extend(&self.read(part, &positions[here])?.1);
        }
        Ok(targets)
    }

    /// What is selected from logits on a device; `None` where it is drawn.
    #[cfg(feature = "torch")]
    fn selected_on_device(
        &self,
        logits: &DeviceLogits,
        positions: &[Position],
    ) -> Option<Result<TargetBatch, SourceError>> {
        // What was left by a panic is as good as before: nothing is changed in it.
        let mut there = self.on_device.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let encoder = self.encoder.as_ref();
        let there =
            encoder.map(|encoder| &*there.get_or_insert_with(|| EncoderOnDevice::new(encoder, logits)));
        // Asked for before the selection is waited for.
        let product = there.map(|there| there.product(logits));
        let selected = self.keep.selected_on_device(logits)?;
        Some(selected.map_err(|source| not_finite(source, positions)).map(|mut selected| {
            if let (Some(encoder), Some(there), Some(product)) = (encoder, there, product) {
                encoder.encode_product(there, product, &mut selected);
            }
            selected.targets
        }))
    }

    fn check(&self, classes: usize) -> Result<(), SourceError> {
        if classes == self.classes {
            return Ok(());
        }
        let found = format!("{classes} classes");
        let expected = format!("{} classes, as in the first batch", self.classes);
        Err(TeacherError::Output { path: "teacher".into(), expected, found }.into())
    }

    /// An output as logits, and what is kept of them; `positions` are whose they are.
    pub(super) fn read(
        &self,
        output: RawOutput,
        positions: &[Position],
    ) -> Result<(FloatBuf, TargetBatch), SourceError> {
        self.check(output.classes)?;
        let logits = self.output.into_logits(output).map_err(|source| match source {
            TeacherError::Value { row, .. } => {
                SourceError::Value { sample: positions[row].row.sample, source }
            }
            other => other.into(),
        })?;
        let targets = self.keep.targets(logits.floats(), positions);
        let mut targets = targets.map_err(|source| not_finite(source, positions))?;
        if let Some(encoder) = &self.encoder {
            encoder.encode(logits.floats(), &mut targets);
        }
        Ok((logits, targets))
    }
}

/// Whose logit is not finite.
fn not_finite(source: NonFinite, positions: &[Position]) -> SourceError {
    SourceError::NonFinite { sample: positions[source.row].row.sample, source }
}

#[cfg(test)]
#[cfg(feature = "torch")]
mod tests {
    use tch::Tensor;

    use super::*;
    use crate::cache::HeadLayout;
    use crate::ids::{SampleId, SampleView};
    use crate::libtorch::of_tests;
    use crate::teacher::OutputType;

    const ROWS: usize = 6;
    /// More than [`FEW`] in so many rows.
    const CLASSES: usize = 100_000;

    fn reading(head: &HeadLayout, output: OutputReading, encoder: Option<TailEncoder>) -> Reading {
        let nodes = TailNodes::default();
        let keep = Keep::new(head, CLASSES, &nodes, 7).unwrap();
        let on_device = Mutex::new(None);
        Reading {
            classes: CLASSES,
            output,
            doubt: None,
            nodes,
            keep,
            features: Vec::new(),
            encoder,
            on_device,
        }
    }

    fn output(values: &[f32], on_device: bool) -> RawOutput {
        let tensor = || Tensor::from_slice(values).view([ROWS as i64, -1]).to_device(of_tests());
        let values =
            if on_device { Values::Device(DeviceLogits::new(tensor())) } else { values.to_vec().into() };
        RawOutput { rows: ROWS, classes: CLASSES, values, dtype: OutputType::F32, features: Vec::new() }
    }

    /// What is made of an output does not depend on where it is.
    #[test]
    fn outputs_here_and_on_a_device_are_read_alike() {
        let noise = crate::permutation::Permutation::new(1 << 24, 3, 0);
        let number = |i: usize| noise.at(i as u64) as f32 / (1 << 24) as f32;
        let logits: Vec<f32> = (0..ROWS * CLASSES).map(|i| number(i).powi(4) * 20.0 - 4.0).collect();
        let probabilities: Vec<f32> = logits
            .chunks(CLASSES)
            .flat_map(|row| {
                let sum: f64 = row.iter().map(|z| f64::from(*z).exp()).sum();
                row.iter().map(move |z| (f64::from(*z).exp() / sum) as f32)
            })
            .collect();
        let positions: Vec<Position> = (0..ROWS as u64)
            .map(|id| Position { row: SampleView { sample: SampleId(id), view: 0 }, position: 0 })
            .collect();
        let rank = 2;
        let basis: Vec<f32> = (0..CLASSES * rank).map(|i| (number(i) - 0.5) / 50.0).collect();
        let encoder = || TailEncoder::new(rank, vec![-18.0; CLASSES], vec![1.0; CLASSES], &basis);
        let selected = HeadLayout { k: 12, mass: None, draws: None, temperature: None };
        let by_mass = HeadLayout { k: 40, mass: Some(0.001), draws: None, temperature: None };
        let drawn = HeadLayout { k: 30, mass: None, draws: Some(30), temperature: Some(1.0) };
        let codes = |batch: &TargetBatch| batch.codes.iter().map(|code| i32::from(*code)).collect::<Vec<_>>();
        for (head, kind, values, encoder) in [
            (&selected, OutputReading::Logits, &logits, encoder()),
            (&selected, OutputReading::Logits, &logits, None),
            (&selected, OutputReading::Probabilities, &probabilities, None),
            (&drawn, OutputReading::Logits, &logits, None),
            (&by_mass, OutputReading::Logits, &logits, encoder()),
        ] {
            let reading = reading(head, kind, encoder);
            let [here, there] = [false, true]
                .map(|on_device| reading.targets(output(values, on_device), &positions).unwrap());
            assert_eq!((&here.ids, &here.values, &here.counts), (&there.ids, &there.values, &there.counts));
            // libtorch's sums of powers on the CPU, which nobody else asks for, are of one long addition.
            let most = if of_tests() == tch::Device::Cpu { 1e-4 } else { 1e-5 };
            let near = |(a, b): (&f32, &f32)| (a - b).abs() < most * (1.0 + a.abs());
            assert!(here.curve.iter().zip(&there.curve).all(near), "{:?} {:?}", here.curve, there.curve);
            let off = codes(&here).iter().zip(codes(&there)).map(|(a, b)| (a - b).abs()).max();
            assert!(off.unwrap_or(0) <= 1 && here.rank == there.rank, "{off:?}");
            // Whose it is, is told alike.
            let mut bad = values.clone();
            bad[4 * CLASSES + 17] = f32::NAN;
            let [here, there] = [false, true].map(|on_device| {
                reading.targets(output(&bad, on_device), &positions).unwrap_err().to_string()
            });
            assert!(here == there && here.contains("sample 4"), "{here}; {there}");
        }
    }

    #[test]
    fn rows_that_are_kept_are_those_that_were_asked_for() {
        let values: Vec<f32> = (0..ROWS * CLASSES).map(|i| i as f32).collect();
        for on_device in [false, true] {
            let mut output = output(&values, on_device);
            output.values.keep(&[1, 4], CLASSES);
            let kept = output.values.into_host().into_vec();
            assert_eq!(kept.len(), 2 * CLASSES);
            assert_eq!([kept[5], kept[CLASSES + 5]], [CLASSES + 5, 4 * CLASSES + 5].map(|at| at as f32));
        }
    }
}
