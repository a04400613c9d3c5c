//! Causal language models.

use std::ops::{ControlFlow, Range};
use std::path::Path;

use tch::{IValue, Tensor};

use super::arguments::{self, Argument};
use super::module::{self, Module, output_type, values};
use crate::config::TeacherConfig;
use crate::teacher::vocabulary::Vocabulary;
use crate::teacher::{RawOutput, TeacherError, TokenBatch, TokenTeacher};

/// A module of tokens, with its head in it or in a file of its own.
pub(in super::super) struct TorchScriptTokenTeacher {
    body: Module,
    head: Option<Module>,
    runtime: String,
    arguments: Vec<Argument>,
    chunk: usize,
    vocabulary: Vocabulary,
}

impl TorchScriptTokenTeacher {
    pub(in super::super) fn open(config: &TeacherConfig) -> Result<Self, TeacherError> {
        let body = Module::load(config, &config.path)?;
        let arguments = arguments::of(&body, config)?;
        let head = config.head.as_ref().map(|path| Module::load(config, path)).transpose()?;
        let vocabulary = Vocabulary::of(config);
        Ok(Self { body, head, runtime: module::version(), arguments, chunk: config.chunk, vocabulary })
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
        let chunks = batch.chunks(batch.length(), self.chunk);
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
            IValue::Tensor(Tensor::from_slice(values).view(shape).to_device(self.body.device))
        };
        let arguments: Vec<IValue> = self.arguments.iter().map(given).collect();
        let wide = if self.head.is_some() { "hidden" } else { "vocabulary" };
        let expected = format!("float [batch = {}, length = {}, {wide}]", shape[0], shape[1]);
        let output = floats(&self.body.path, self.body.forward(&arguments)?, &shape, &expected)?;
        let flat = output.flatten(0, 1);
        for ranges in &chunks {
            let rows: usize = ranges.iter().map(Range::len).sum();
            let part = |range: &Range<usize>| flat.narrow(0, range.start as i64, range.len() as i64);
            let positions = match &ranges[..] {
                [range] => part(range),
                _ => Tensor::cat(&ranges.iter().map(part).collect::<Vec<_>>(), 0),
            };
            let (path, logits) = match &self.head {
                None => (&self.body.path, positions),
                Some(head) => {
                    let expected = format!("float [positions = {rows}, vocabulary]");
                    let logits = head.forward(&[IValue::Tensor(positions)])?;
                    (&head.path, floats(&head.path, logits, &[rows as i64], &expected)?)
                }
            };
            let width = logits.size().last().copied().unwrap_or(0);
            let classes = self.vocabulary.kept(path, width as usize)?;
            let Some(dtype) = output_type(logits.kind()) else {
                let found = format!("{:?}", logits.kind());
                return Err(TeacherError::Output { path: path.clone(), expected, found });
            };
            let values = values(&logits.narrow(-1, 0, classes as i64));
            if sink(RawOutput { rows, classes, values, dtype }).is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// A result, or the first of several, as a tensor of floats `[…shape, some]`.
fn floats(path: &Path, result: IValue, shape: &[i64], expected: &str) -> Result<Tensor, TeacherError> {
    let refuse =
        |found: String| TeacherError::Output { path: path.to_owned(), expected: expected.to_owned(), found };
    let first = match result {
        IValue::Tuple(all) => all.into_iter().next().unwrap_or(IValue::None),
        one => one,
    };
    let IValue::Tensor(tensor) = first else {
        return Err(refuse("no tensor, nor one first in a tuple".into()));
    };
    let size = tensor.size();
    let fits = matches!(size.split_last(), Some((width, before)) if *width > 0 && before == shape);
    if output_type(tensor.kind()).is_none() || !fits {
        return Err(refuse(format!("{:?} {size:?}", tensor.kind())));
    }
    Ok(tensor)
}
