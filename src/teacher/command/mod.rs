//! Any program as teacher: batches go to its standard input, logits come from its standard output.
//!
//! `schemas/teacher-command.md` is the protocol. One batch is on its way at a time, so that neither side has to hold
//! more; the program ends when its standard input does.

mod exchange;
mod process;

use std::ops::ControlFlow;
use std::sync::Arc;

use arrow::array::{ArrayRef, FixedSizeListArray, Float32Array, Int64Array, ListArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field};

use self::exchange::{Exchange, item};
use super::vocabulary::Vocabulary;
use super::{RawOutput, Teacher, TeacherError, TokenBatch, TokenTeacher};
use crate::config::{FeatureConfig, TeacherConfig};
use crate::digest::Digest;

/// A program that answers images.
pub(super) struct CommandTeacher {
    exchange: Exchange,
    /// Numbers of one sample.
    width: i32,
}

impl CommandTeacher {
    pub(super) fn open(
        config: &TeacherConfig,
        features: &[FeatureConfig],
        input_shape: &[usize],
    ) -> Result<Self, TeacherError> {
        let width = input_shape.iter().product::<usize>();
        let width = i32::try_from(width).map_err(|_| TeacherError::Command {
            command: config.command.join(" "),
            doing: "describing the samples to it",
            problem: format!("expected at most {} numbers in a sample, found {width}", i32::MAX),
            said: String::new(),
        })?;
        let columns =
            vec![Field::new("inputs", DataType::FixedSizeList(item(DataType::Float32), width), false)];
        let shape = input_shape.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        let about = [("kd_cache.input", "images".into()), ("kd_cache.shape", shape)];
        Ok(Self { exchange: Exchange::open(config, features, columns, &about)?, width })
    }
}

impl Teacher for CommandTeacher {
    fn runtime(&self) -> &str {
        self.exchange.runtime()
    }

    fn digest(&self) -> Option<&Digest> {
        Some(self.exchange.digest())
    }

    fn forward(&mut self, inputs: &[f32], rows: usize) -> Result<RawOutput, TeacherError> {
        let values = Arc::new(Float32Array::from(inputs.to_vec()));
        let column = FixedSizeListArray::try_new(item(DataType::Float32), self.width, values, None)
            .map_err(|error| self.exchange.failed("preparing the batch", &error.to_string()))?;
        self.exchange.send(vec![Arc::new(column)])?;
        let mut whole: Option<RawOutput> = None;
        self.exchange.receive(rows, rows.max(1), &Vocabulary::of_images(), &mut |part| {
            match &mut whole {
                None => whole = Some(part),
                Some(whole) => {
                    whole.rows += part.rows;
                    let vectors = whole.features.iter_mut().zip(&part.features);
                    vectors.for_each(|(whole, part)| whole.values.extend_from_slice(&part.values));
                    let mut all =
                        std::mem::replace(&mut whole.values, Vec::new().into()).into_host().into_vec();
                    part.values.into_host().floats().append_to(&mut all);
                    whole.values = all.into();
                }
            }
            ControlFlow::Continue(())
        })?;
        whole.ok_or_else(|| self.exchange.failed("the answer", "expected a row for each sample, found none"))
    }
}

/// A program that answers rows of tokens.
pub(super) struct CommandTokenTeacher {
    exchange: Exchange,
    chunk: usize,
    vocabulary: Vocabulary,
}

impl CommandTokenTeacher {
    pub(super) fn open(
        config: &TeacherConfig,
        features: &[FeatureConfig],
        length: usize,
    ) -> Result<Self, TeacherError> {
        let list = || DataType::List(item(DataType::Int64));
        let columns = vec![Field::new("input_ids", list(), false), Field::new("position_ids", list(), false)];
        let about = [("kd_cache.input", "tokens".into()), ("kd_cache.length", length.to_string())];
        let exchange = Exchange::open(config, features, columns, &about)?;
        let vocabulary = Vocabulary::of(config);
        // Before a single token is asked about.
        vocabulary.kept(&config.path, exchange.classes())?;
        Ok(Self { exchange, chunk: config.chunk, vocabulary })
    }
}

impl TokenTeacher for CommandTokenTeacher {
    fn runtime(&self) -> &str {
        self.exchange.runtime()
    }

    fn digest(&self) -> Option<&Digest> {
        Some(self.exchange.digest())
    }

    fn forward(
        &mut self,
        batch: &TokenBatch,
        sink: &mut dyn FnMut(RawOutput) -> ControlFlow<()>,
    ) -> Result<(), TeacherError> {
        let positions = batch.valid().iter().sum();
        if positions == 0 {
            return Ok(());
        }
        let column = |values: &[i64]| -> ArrayRef {
            let rows = values.chunks(batch.length().max(1)).zip(batch.valid());
            let flat: Vec<i64> = rows.flat_map(|(row, valid)| row[..*valid].iter().copied()).collect();
            let offsets = OffsetBuffer::from_lengths(batch.valid().iter().copied());
            Arc::new(ListArray::new(item(DataType::Int64), offsets, Arc::new(Int64Array::from(flat)), None))
        };
        self.exchange.send(vec![column(batch.ids()), column(batch.positions())])?;
        self.exchange.receive(positions, self.chunk, &self.vocabulary, sink)
    }
}
