//! Causal language models.

use std::ops::{ControlFlow, Range};
use std::path::Path;

use tch::{Device, IValue, Tensor};

use super::answer::{Answer, Feature};
use super::arguments::{self, Argument};
use super::module::{self, Module, output_type};
use crate::config::{FeatureConfig, TeacherConfig};
use crate::libtorch::upload;
use crate::teacher::vocabulary::Vocabulary;
use crate::teacher::{RawOutput, TeacherError, TokenBatch, TokenTeacher};

/// A module of tokens, with its head in it or in a file of its own.
pub(in super::super) struct TorchScriptTokenTeacher {
    body: Module,
    head: Option<Module>,
    /// Which of several results is wanted; the first unless it is said.
    output: Option<String>,
    features: Vec<FeatureConfig>,
    runtime: String,
    arguments: Vec<Argument>,
    chunk: usize,
    vocabulary: Vocabulary,
}

impl TorchScriptTokenTeacher {
    pub(in super::super) fn open(
        config: &TeacherConfig,
        features: &[FeatureConfig],
    ) -> Result<Self, TeacherError> {
        let body = Module::load(config, &config.path)?;
        let arguments = arguments::of(&body, config)?;
        let head = config.head.as_ref().map(|path| Module::load(config, path)).transpose()?;
        let vocabulary = Vocabulary::of(config);
        Ok(Self {
            body,
            head,
            output: config.output.clone(),
            features: features.to_vec(),
            runtime: module::version(),
            arguments,
            chunk: config.chunk,
            vocabulary,
        })
    }
}

impl TokenTeacher for TorchScriptTokenTeacher {
    fn runtime(&self) -> &str {
        &self.runtime
    }

    fn forward(
        &mut self,
        batch: &TokenBatch,
        sink: &mut dyn FnMut(RawOutput) -> ControlFlow<()>,
    ) -> Result<(), TeacherError> {
        let mut chunks = batch.chunks(batch.length(), self.chunk);
        if chunks.is_empty() {
            return Ok(());
        }
        let shape = [batch.rows() as i64, batch.length() as i64];
        let mask = batch.mask();
        let given = |argument: &Argument| {
            let values = match argument {
                Argument::Ids => batch.ids(),
                Argument::Mask => &mask,
                Argument::Positions => batch.positions(),
            };
            IValue::Tensor(upload(Tensor::from_slice(values).view(shape), self.body.device))
        };
        let arguments: Vec<IValue> = self.arguments.iter().map(given).collect();
        let wide = if self.head.is_some() { "hidden" } else { "vocabulary" };
        let expected = format!("float [batch = {}, length = {}, {wide}]", shape[0], shape[1]);
        let answer = Answer::of(self.body.forward(&arguments)?);
        answer.check(&self.body.path, &self.features)?;
        let output = floats(&self.body.path, &answer, self.output.as_deref(), &shape, &expected)?;
        let leading = [batch.rows(), batch.length()];
        let further = |feature| answer.feature(&self.body.path, feature, &leading);
        let further =
            self.features.iter().map(further).collect::<Result<Vec<Feature<'_>>, TeacherError>>()?;
        let flat = output.flatten(0, 1);
        if self.body.device != Device::Cpu && self.head.is_none() {
            chunks = batch.pieces(batch.length(), self.chunk);
        }
        for ranges in &chunks {
            let rows: usize = ranges.iter().map(Range::len).sum();
            let of_chunk = |flat: &Tensor| {
                let part = |range: &Range<usize>| flat.narrow(0, range.start as i64, range.len() as i64);
                match &ranges[..] {
                    [range] => part(range),
                    _ => Tensor::cat(&ranges.iter().map(part).collect::<Vec<_>>(), 0),
                }
            };
            let positions = of_chunk(&flat);
            let (path, logits) = match &self.head {
                None => (&self.body.path, positions),
                Some(head) => {
                    let expected = format!("float [positions = {rows}, vocabulary]");
                    let logits = Answer::of(head.forward(&[IValue::Tensor(positions)])?);
                    (&head.path, floats(&head.path, &logits, None, &[rows as i64], &expected)?)
                }
            };
            let width = logits.size().last().copied().unwrap_or(0);
            let classes = self.vocabulary.kept(path, width as usize)?;
            let Some(dtype) = output_type(logits.kind()) else {
                let found = format!("{:?}", logits.kind());
                return Err(TeacherError::Output { path: path.clone(), expected, found });
            };
            let values = self.body.values(&logits.narrow(-1, 0, classes as i64));
            let features = further.iter().map(|feature| feature.vectors(of_chunk)).collect();
            if sink(RawOutput { rows, classes, values, dtype, features }).is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// The result `name`, or the first of several, as a tensor of floats `[…shape, some]`.
fn floats(
    path: &Path,
    answer: &Answer,
    name: Option<&str>,
    shape: &[i64],
    expected: &str,
) -> Result<Tensor, TeacherError> {
    let refuse =
        |found: String| TeacherError::Output { path: path.to_owned(), expected: expected.to_owned(), found };
    let names = answer.names();
    let wanted = name.or(names.first().map(String::as_str));
    let Some(tensor) = wanted.and_then(|name| answer.get(name)) else {
        return Err(refuse(match name {
            None => "no tensor, nor one first in a tuple".into(),
            Some(name) => format!("results {}, none of them {name:?} (teacher.output)", names.join(", ")),
        }));
    };
    let size = tensor.size();
    let fits = matches!(size.split_last(), Some((width, before)) if *width > 0 && before == shape);
    if output_type(tensor.kind()).is_none() || !fits {
        return Err(refuse(format!("{:?} {size:?}", tensor.kind())));
    }
    Ok(tensor.shallow_clone())
}
