//! Models of prepared samples.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use half::{bf16, f16};
use ort::value::{Outlet, PrimitiveTensorElementType, TensorElementType};

use super::answer::Answer;
use super::runtime::{self, Model};
use super::signature::{check_features, describe, dimensions, element, names, pick};
use crate::config::{FeatureConfig, TeacherConfig};
use crate::floats::Holder;
use crate::target::FeatureBatch;
use crate::teacher::features::{Reduction, other_than};
use crate::teacher::output::of_images;
use crate::teacher::{RawOutput, Teacher, TeacherError};

/// A session, its input and output.
pub(in super::super) struct OnnxTeacher {
    model: Model,
    runtime: String,
    input: String,
    /// The type of the input's floats.
    element: TensorElementType,
    output: String,
    features: Vec<FeatureConfig>,
    /// `[batch, …]`, the batch filled in at each pass.
    shape: Vec<usize>,
    /// The batch the model was exported with, when it is fixed.
    fixed_batch: Option<usize>,
    /// What smaller batches are padded to: that one, or what executes the model was made for.
    padded_to: Option<usize>,
}

impl OnnxTeacher {
    pub(in super::super) fn open(
        config: &TeacherConfig,
        features: &[FeatureConfig],
        input_shape: &[usize],
    ) -> Result<Self, TeacherError> {
        let model = Model::load(config, &config.path)?;
        let path = config.path.clone();
        let (inputs, outputs) = (model.session.inputs(), model.session.outputs());
        let input = pick(&path, "input", config.input.as_deref(), &[], inputs)?;
        check_features(&path, features, outputs)?;
        let all = names(outputs.iter());
        let unless_given = if features.is_empty() { None } else { other_than(features, &all) };
        let output = pick(&path, "output", config.output.as_deref().or(unless_given), &[], outputs)?;
        let mut shape = vec![0];
        shape.extend_from_slice(input_shape);
        let (element, fixed_batch) = check_input(&path, input, &shape)?;
        let (input, output) = (input.name().to_owned(), output.name().to_owned());
        if let Some(fixed) = fixed_batch.filter(|fixed| config.image_batch() > *fixed) {
            return Err(TeacherError::FixedBatch { path, name: input, fixed, found: config.image_batch() });
        }
        let padded_to = fixed_batch.or(model.of_one_size().then(|| config.image_batch()));
        let (runtime, features) = (runtime::version(), features.to_vec());
        Ok(Self { model, runtime, input, element, output, features, shape, fixed_batch, padded_to })
    }

    /// One pass over numbers of the input's type.
    fn pass<T: PrimitiveTensorElementType + Clone + std::fmt::Debug + 'static>(
        &mut self,
        inputs: Cow<'_, [T]>,
    ) -> Result<Answer, TeacherError> {
        let tensor = self.model.input(&self.shape, inputs)?;
        let features = self.features.iter().map(|feature| feature.output.as_str());
        self.model.run(vec![(self.input.as_str(), tensor)], Some(&self.output), features)
    }
}

impl Teacher for OnnxTeacher {
    fn runtime(&self) -> &str {
        &self.runtime
    }

    fn fixed_batch(&self) -> Option<usize> {
        self.fixed_batch
    }

    fn forward(&mut self, inputs: &[f32], rows: usize) -> Result<RawOutput, TeacherError> {
        // A model exported for one batch size gets empty rows up to it; they are cut off again.
        let run_rows = self.padded_to.unwrap_or(rows).max(rows);
        let mut inputs = Cow::Borrowed(inputs);
        if run_rows > rows {
            let len = inputs.len() / rows.max(1) * run_rows;
            inputs.to_mut().resize(len, 0.0);
        }
        self.shape[0] = run_rows;
        let path = self.model.path.clone();
        let cast = inputs.iter().copied();
        let answer = match self.element {
            TensorElementType::Float16 => self.pass::<f16>(cast.map(f16::from_f32).collect()),
            TensorElementType::Bfloat16 => self.pass::<bf16>(cast.map(bf16::from_f32).collect()),
            TensorElementType::Float64 => self.pass::<f64>(cast.map(f64::from).collect()),
            _ => self.pass(inputs),
        }?;
        let expected = of_images(run_rows);
        let (shape, logits) = answer.floats(&path, &self.output, &expected)?;
        let classes = match shape[..] {
            [batch, classes] if batch == run_rows && classes >= 2 => classes,
            _ => {
                return Err(TeacherError::Output {
                    path,
                    expected,
                    found: format!("{} {shape:?}", logits.name()),
                });
            }
        };
        let feature = |feature: &FeatureConfig| {
            let expected = format!("float [batch = {run_rows}, width]");
            let (shape, tensor) = answer.floats(&path, &feature.output, &expected)?;
            let reduction = Reduction::of(&path, feature, &[run_rows], &shape, &tensor.name())?;
            let mut values = Vec::with_capacity(rows * reduction.numbers);
            tensor.floats().part(0..rows * reduction.numbers).append_to(&mut values);
            Ok(FeatureBatch { width: reduction.width, values: reduction.apply(values) })
        };
        let features = self.features.iter().map(feature).collect::<Result<_, TeacherError>>()?;
        let dtype = logits.dtype();
        let values = Arc::new(logits).rows(classes, std::slice::from_ref(&(0..rows)), classes);
        Ok(RawOutput { rows, classes, values, dtype, features })
    }
}

/// Checks type and shape; gives the type, and the batch when the model fixes it.
fn check_input(
    path: &Path,
    input: &Outlet,
    shape: &[usize],
) -> Result<(TensorElementType, Option<usize>), TeacherError> {
    let sample = &shape[1..];
    let refuse = |found: String| TeacherError::Input {
        path: path.to_owned(),
        name: input.name().to_owned(),
        expected: format!(
            "float [batch, {}]",
            sample.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")
        ),
        found,
    };
    let (Some(ty), Some(dims)) = (element(input), dimensions(input)) else {
        return Err(refuse(describe(input)));
    };
    let fits = dims.len() == shape.len()
        && dims[1..].iter().zip(sample).all(|(dim, size)| dim.is_none_or(|dim| dim == *size));
    let is_float = matches!(
        ty,
        TensorElementType::Float32
            | TensorElementType::Float16
            | TensorElementType::Bfloat16
            | TensorElementType::Float64
    );
    if !is_float || !fits {
        return Err(refuse(describe(input)));
    }
    Ok((ty, dims[0]))
}
