//! Models of prepared samples.

use tch::{IValue, Kind, Tensor};

use super::answer::Answer;
use super::module::{Module, output_type};
use crate::config::{FeatureConfig, TeacherConfig};
use crate::libtorch::{channels_last, upload};
use crate::teacher::features::other_than;
use crate::teacher::output::of_images;
use crate::teacher::{RawOutput, Teacher, TeacherError};

/// What libtorch's operators say of floats of another type than their weights.
const OTHER_TYPE: [&str; 3] = ["should be the same", "the same dtype", "expected scalar type"];

/// A module and the shape of its inputs.
pub(in super::super) struct TorchScriptTeacher {
    module: Module,
    /// Which of several results the logits are, if that is said.
    output: Option<String>,
    features: Vec<FeatureConfig>,
    runtime: String,
    channels_last: bool,
    /// The type of floats that the module takes, once it has taken some.
    kind: Option<Kind>,
    /// `[batch, …]`, the batch filled in at each pass.
    shape: Vec<i64>,
}

impl TorchScriptTeacher {
    pub(in super::super) fn open(
        config: &TeacherConfig,
        features: &[FeatureConfig],
        input_shape: &[usize],
    ) -> Result<Self, TeacherError> {
        let mut shape = vec![0];
        shape.extend(input_shape.iter().map(|d| *d as i64));
        let module = Module::load(config, &config.path)?;
        let (output, features) = (config.output.clone(), features.to_vec());
        let (runtime, channels_last) = (super::module::version(), config.channels_last);
        Ok(Self { module, output, features, runtime, channels_last, kind: None, shape })
    }
}

impl Teacher for TorchScriptTeacher {
    fn runtime(&self) -> &str {
        &self.runtime
    }

    fn forward(&mut self, inputs: &[f32], rows: usize) -> Result<RawOutput, TeacherError> {
        self.shape[0] = rows as i64;
        let input = upload(Tensor::from_slice(inputs).view(self.shape.as_slice()), self.module.device);
        let input = if self.channels_last { channels_last(&input) } else { input };
        let result = self.pass(&input)?;
        let one = matches!(result, IValue::Tensor(_));
        let answer = Answer::of(result);
        answer.check(&self.module.path, &self.features)?;
        let names = answer.names();
        let output = match &self.output {
            Some(output) => Some(output.as_str()),
            None if one => Some("0"),
            None if self.features.is_empty() => None,
            None => other_than(&self.features, &names),
        };
        let Some(output) = output.and_then(|name| answer.get(name)) else {
            let found = match &names[..] {
                [] => "no tensor".into(),
                _ => format!("results {}; name the logits' with teacher.output", names.join(", ")),
            };
            return Err(self.refuse(rows, found));
        };
        let found = || format!("{:?} {:?}", output.kind(), output.size());
        let Some(dtype) = output_type(output.kind()) else { return Err(self.refuse(rows, found())) };
        let classes = match output.size()[..] {
            [batch, classes] if batch == rows as i64 && classes >= 2 => classes as usize,
            _ => return Err(self.refuse(rows, found())),
        };
        let vectors = |feature: &FeatureConfig| {
            let feature = answer.feature(&self.module.path, feature, &[rows])?;
            Ok(feature.vectors(Tensor::shallow_clone))
        };
        let features = self.features.iter().map(vectors).collect::<Result<_, TeacherError>>()?;
        Ok(RawOutput { rows, classes, values: self.module.values(output), dtype, features })
    }
}

impl TorchScriptTeacher {
    /// One pass over images, of the type that the module takes: what that is shows in the first pass only, as weights may be
    /// constants of its code.
    fn pass(&mut self, images: &Tensor) -> Result<IValue, TeacherError> {
        let ask = |kind: Kind| self.module.forward(&[IValue::Tensor(images.to_kind(kind))]);
        if let Some(kind) = self.kind {
            return ask(kind);
        }
        let (mut kind, mut found) = (Kind::Float, ask(Kind::Float));
        for other in [Kind::Half, Kind::BFloat16, Kind::Double] {
            if !found
                .as_ref()
                .is_err_and(|error| OTHER_TYPE.iter().any(|words| error.to_string().contains(words)))
            {
                break;
            }
            if let Ok(answer) = ask(other) {
                (kind, found) = (other, Ok(answer));
            }
        }
        self.kind = found.is_ok().then_some(kind);
        found
    }

    fn refuse(&self, rows: usize, found: String) -> TeacherError {
        let expected = of_images(rows);
        TeacherError::Output { path: self.module.path.clone(), expected, found }
    }
}
