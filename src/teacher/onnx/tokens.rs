//! Causal language models.

use std::borrow::Cow;
use std::fmt::Debug;
use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::Arc;

use half::{bf16, f16};
use ort::session::SessionInputValue;
use ort::value::{Outlet, PrimitiveTensorElementType, Tensor, TensorElementType};

use super::answer::Tensor as Given;
use super::runtime::{self, Model, failed};
use super::signature::{check_features, describe, dimensions, element, names, pick};
use crate::config::{FeatureConfig, TeacherConfig};
use crate::floats::{Floats, Holder};
use crate::target::FeatureBatch;
use crate::teacher::features::Reduction;
use crate::teacher::vocabulary::Vocabulary;
use crate::teacher::{RawOutput, TeacherError, TokenBatch, TokenTeacher};

/// A model of tokens, with its head in it or in a file of its own.
pub(in super::super) struct OnnxTokenTeacher {
    body: Model,
    head: Option<Head>,
    runtime: String,
    ids: Input,
    mask: Option<Input>,
    positions: Option<Input>,
    output: String,
    features: Vec<FeatureConfig>,
    /// Rows, where the model was exported for so many.
    fixed_batch: Option<usize>,
    /// Rows and tokens of a row that smaller batches are padded to: those, or what executes the model was made for.
    padded_to: (Option<usize>, Option<usize>),
    chunk: usize,
    vocabulary: Vocabulary,
}

/// An input of whole numbers `[rows, length]`.
struct Input {
    name: String,
    /// int32 rather than int64.
    narrow: bool,
}

/// Hidden states `[n, hidden]` to logits `[n, vocabulary]`.
struct Head {
    model: Model,
    input: String,
    output: String,
}

impl OnnxTokenTeacher {
    pub(in super::super) fn open(
        config: &TeacherConfig,
        features: &[FeatureConfig],
        length: usize,
    ) -> Result<Self, TeacherError> {
        let body = Model::load(config, &config.path)?;
        let path = config.path.as_path();
        let inputs = body.session.inputs();
        let (ids, mask, positions) = pick_inputs(path, config, inputs)?;
        let mut fixed = (None, None);
        for input in [Some(ids), mask, positions].into_iter().flatten() {
            let (rows, tokens) = check_input(path, input, config.token_batch(), length)?;
            fixed = (fixed.0.or(rows), fixed.1.or(tokens));
        }
        let fixed_batch = fixed.0;
        if body.of_one_size() {
            fixed = (fixed.0.or(Some(config.token_batch())), fixed.1.or(Some(length)));
        }
        check_features(path, features, body.session.outputs())?;
        let usual: &[&str] =
            if config.head.is_some() { &["hidden", "last_hidden_state"] } else { &["logits"] };
        let output = pick(path, "output", config.output.as_deref(), usual, body.session.outputs())?;
        let vocabulary = Vocabulary::of(config);
        let head = match &config.head {
            Some(file) => Some(Head::open(config, file, path, output)?),
            None => {
                // A wrong model is found out before it runs, where the file says what it gives.
                if let Some(Some(classes)) = dimensions(output).and_then(|dims| dims.last().copied()) {
                    vocabulary.kept(path, classes)?;
                }
                None
            }
        };
        let input = |outlet: &Outlet| Input {
            name: outlet.name().to_owned(),
            narrow: element(outlet) == Some(TensorElementType::Int32),
        };
        Ok(Self {
            ids: input(ids),
            mask: mask.map(input),
            positions: positions.map(input),
            output: output.name().to_owned(),
            features: features.to_vec(),
            head,
            runtime: runtime::version(),
            fixed_batch,
            padded_to: fixed,
            chunk: config.chunk,
            vocabulary,
            body,
        })
    }
}

impl TokenTeacher for OnnxTokenTeacher {
    fn runtime(&self) -> &str {
        &self.runtime
    }

    fn fixed_batch(&self) -> Option<usize> {
        self.fixed_batch
    }

    fn forward(
        &mut self,
        batch: &TokenBatch,
        sink: &mut dyn FnMut(RawOutput) -> ControlFlow<()>,
    ) -> Result<(), TeacherError> {
        let rows = self.padded_to.0.unwrap_or(0).max(batch.rows());
        let length = self.padded_to.1.unwrap_or(0).max(batch.length());
        let mut chunks = batch.chunks(length, self.chunk);
        if chunks.is_empty() {
            return Ok(());
        }
        if self.body.leaves_logits() && self.head.is_none() {
            chunks = batch.pieces(length, self.chunk);
        }
        let path = self.body.path.clone();
        let ids = batch.padded(batch.ids(), rows, length);
        let mask = batch.mask();
        let mask = batch.padded(&mask, rows, length);
        let positions = batch.padded(batch.positions(), rows, length);
        let given =
            [(Some(&self.ids), &ids), (self.mask.as_ref(), &mask), (self.positions.as_ref(), &positions)];
        let mut inputs = Vec::new();
        for (input, values) in given {
            if let Some(input) = input {
                inputs.push((input.name.as_str(), input.tensor(&self.body, values, rows, length)?));
            }
        }
        let features = self.features.iter().map(|feature| feature.output.as_str());
        let answer = match &self.head {
            None => self.body.run(inputs, Some(&self.output), features)?,
            Some(_) => self.body.run(inputs, None, features.chain([self.output.as_str()]))?,
        };
        let wide = if self.head.is_some() { "hidden" } else { "vocabulary" };
        let expected = format!("float [batch = {rows}, length = {length}, {wide}]");
        let (shape, output) = answer.floats(&path, &self.output, &expected)?;
        let output = Arc::new(output);
        let width = match shape[..] {
            [of_rows, of_length, width] if (of_rows, of_length) == (rows, length) && width > 0 => width,
            _ => {
                let found = format!("{} {shape:?}", output.name());
                return Err(TeacherError::Output { path, expected, found });
            }
        };
        let mut further = Vec::with_capacity(self.features.len());
        for feature in &self.features {
            let expected = format!("float [batch = {rows}, length = {length}, width]");
            let (shape, given) = answer.floats(&path, &feature.output, &expected)?;
            further.push((Reduction::of(&path, feature, &[rows, length], &shape, &given.name())?, given));
        }
        let vectors = |(reduction, given): &(Reduction, Given), ranges: &[Range<usize>]| {
            let mut values = Vec::new();
            for range in ranges {
                let range = range.start * reduction.numbers..range.end * reduction.numbers;
                given.floats().part(range).append_to(&mut values);
            }
            FeatureBatch { width: reduction.width, values: reduction.apply(values) }
        };
        for ranges in &chunks {
            let mut logits = match &mut self.head {
                None => cut(&path, &output, width, ranges, &self.vocabulary)?,
                Some(head) => match output.floats() {
                    Floats::F32(hidden) => head.forward(hidden, width, ranges, &self.vocabulary)?,
                    Floats::F16(hidden) => head.forward::<f16>(hidden, width, ranges, &self.vocabulary)?,
                    Floats::Bf16(hidden) => head.forward::<bf16>(hidden, width, ranges, &self.vocabulary)?,
                    Floats::F64(hidden) => head.forward(hidden, width, ranges, &self.vocabulary)?,
                },
            };
            logits.features = further.iter().map(|one| vectors(one, ranges)).collect();
            if sink(logits).is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// The first classes of the positions in `ranges`, of logits `[…, width]`.
fn cut(
    path: &Path,
    given: &Arc<Given>,
    width: usize,
    ranges: &[Range<usize>],
    vocabulary: &Vocabulary,
) -> Result<RawOutput, TeacherError> {
    let classes = vocabulary.kept(path, width)?;
    let rows = ranges.iter().map(Range::len).sum();
    let values = given.rows(width, ranges, classes);
    Ok(RawOutput { rows, classes, values, dtype: given.dtype(), features: Vec::new() })
}

impl Input {
    /// Borrows `values` where the model takes them as they are.
    fn tensor<'v>(
        &self,
        model: &Model,
        values: &'v [i64],
        rows: usize,
        length: usize,
    ) -> Result<SessionInputValue<'v>, TeacherError> {
        let failed = |error: ort::Error| failed(&model.path, "preparing the tokens", &error);
        if !self.narrow {
            return model.input(&[rows, length], values);
        }
        let narrow = |(at, value): (usize, &i64)| {
            i32::try_from(*value).map_err(|_| TeacherError::Tokens {
                row: at / length.max(1),
                problem: format!("{value} does not fit in i32, which input {:?} is", self.name),
            })
        };
        let values = values.iter().enumerate().map(narrow).collect::<Result<Vec<i32>, _>>()?;
        Ok(Tensor::from_array(([rows, length], values)).map_err(failed)?.into())
    }
}

impl Head {
    /// Loads the head `file` for the output `hidden` of the model `body`.
    fn open(config: &TeacherConfig, file: &Path, body: &Path, hidden: &Outlet) -> Result<Self, TeacherError> {
        let model = Model::load(config, file)?;
        let input = pick(file, "head", None, &["hidden"], model.session.inputs())?;
        let output = pick(file, "head", None, &["logits"], model.session.outputs())?;
        let width = dimensions(hidden).and_then(|dims| dims.last().copied()).flatten();
        let fits = match dimensions(input).as_deref() {
            Some([None, takes]) => takes.is_none() || width.is_none() || *takes == width,
            _ => false,
        };
        if !fits || element(input) != element(hidden) {
            let ty = element(hidden).map_or("floats".into(), |ty| ty.to_string());
            let width = width.map_or("hidden".into(), |width| width.to_string());
            return Err(TeacherError::Head {
                path: file.to_owned(),
                body: body.to_owned(),
                expected: format!("{ty} [any number of positions, {width}]"),
                found: describe(input),
            });
        }
        if let Some(Some(classes)) = dimensions(output).and_then(|dims| dims.last().copied()) {
            Vocabulary::of(config).kept(file, classes)?;
        }
        let (input, output) = (input.name().to_owned(), output.name().to_owned());
        Ok(Self { model, input, output })
    }

    /// Logits of the positions in `ranges`, of hidden states `[…, width]`.
    fn forward<T: PrimitiveTensorElementType + Clone + Debug + 'static>(
        &mut self,
        hidden: &[T],
        width: usize,
        ranges: &[Range<usize>],
        vocabulary: &Vocabulary,
    ) -> Result<RawOutput, TeacherError> {
        let states = |range: &Range<usize>| &hidden[range.start * width..range.end * width];
        let rows: usize = ranges.iter().map(Range::len).sum();
        let hidden: Cow<'_, [T]> = match ranges {
            [range] => states(range).into(),
            _ => ranges.iter().flat_map(states).cloned().collect::<Vec<T>>().into(),
        };
        let path = self.model.path.clone();
        let tensor = self.model.input(&[rows, width], hidden)?;
        let answer = self.model.run(vec![(self.input.as_str(), tensor)], Some(&self.output), [])?;
        let expected = format!("float [positions = {rows}, vocabulary]");
        let (shape, logits) = answer.floats(&path, &self.output, &expected)?;
        match shape[..] {
            [positions, width] if positions == rows && width > 0 => {
                cut(&path, &Arc::new(logits), width, std::slice::from_ref(&(0..rows)), vocabulary)
            }
            _ => {
                let found = format!("{} {shape:?}", logits.name());
                Err(TeacherError::Output { path, expected, found })
            }
        }
    }
}

/// Tokens, mask and places among the inputs; nothing else may be among them.
#[allow(clippy::type_complexity, reason = "three inputs, two of them optional")]
fn pick_inputs<'a>(
    path: &Path,
    config: &TeacherConfig,
    inputs: &'a [Outlet],
) -> Result<(&'a Outlet, Option<&'a Outlet>, Option<&'a Outlet>), TeacherError> {
    let of_cache = |name: &str| name.starts_with("past") || name.contains("cache");
    let cache = names(inputs.iter().filter(|input| of_cache(input.name())));
    if !cache.is_empty() {
        return Err(TeacherError::KeyValueCache { path: path.to_owned(), found: cache });
    }
    let optional = |key, wanted: &Option<String>, usual| match wanted {
        Some(name) => pick(path, key, Some(name), &[], inputs).map(Some),
        None => Ok(inputs.iter().find(|input| input.name() == usual)),
    };
    let mask = optional("attention_mask", &config.attention_mask, "attention_mask")?;
    let positions = optional("position_ids", &config.position_ids, "position_ids")?;
    let ids = pick(path, "input", config.input.as_deref(), &["input_ids"], inputs)?;
    let known = names([Some(ids), mask, positions].into_iter().flatten());
    if inputs.iter().any(|input| !known.iter().any(|name| name == input.name())) {
        let (path, found) = (path.to_owned(), names(inputs.iter()));
        return Err(TeacherError::Inputs { path, found, known: known.join(", ") });
    }
    Ok((ids, mask, positions))
}

/// Checks type and shape; gives the sizes that the model fixes.
fn check_input(
    path: &Path,
    input: &Outlet,
    rows: usize,
    length: usize,
) -> Result<(Option<usize>, Option<usize>), TeacherError> {
    let refuse = |expected: String| TeacherError::TokenInput {
        path: path.to_owned(),
        name: input.name().to_owned(),
        expected,
        found: describe(input),
    };
    let whole = matches!(element(input), Some(TensorElementType::Int64 | TensorElementType::Int32));
    let (fixed_rows, fixed_length) = match dimensions(input).as_deref() {
        Some([fixed_rows, fixed_length]) if whole => (*fixed_rows, *fixed_length),
        _ => return Err(refuse("i64 or i32 [batch, length]".into())),
    };
    if let Some(fixed) = fixed_rows.filter(|fixed| rows > *fixed) {
        return Err(refuse(format!("{rows} rows (teacher.batch); set teacher.batch = {fixed}")));
    }
    if let Some(fixed) = fixed_length.filter(|fixed| length > *fixed) {
        return Err(refuse(format!(
            "rows of {length} tokens; cut the rows to {fixed} tokens, or export the model with an open length"
        )));
    }
    Ok((fixed_rows, fixed_length))
}
