//! What a build finds out before its first shard: the tail model, and the codes of quantized values.

use std::sync::atomic::{AtomicBool, Ordering};

use super::Progress;
use super::build::BuildError;
use super::inherit::Inherited;
use super::source::Source;
use crate::cache::{Beginnings, CacheWriter, EncoderTable, Manifest};
use crate::encoding::Codebook;
use crate::tail_model::{FitError, Fitted, TailEncoder, TailFit};
use crate::target::{TailModel, TargetBatch, Temperature};

/// Stream of the seed from which the sample is drawn.
pub(super) const STREAM: u64 = 0;

/// What the cache of `plan` needs a sample for: a tail model, and codes of quantized values. Neither where they are
/// taken from another cache.
pub(super) fn needs(inherited: Option<&Inherited>, plan: &Manifest) -> (bool, bool) {
    let inherited = inherited.filter(|_| plan.has_tail());
    let coded = plan.scale().ok().flatten().is_some();
    let codes_are_there = inherited.is_some_and(|inherited| inherited.codebook(plan).is_some());
    (plan.has_tail() && inherited.is_none(), coded && !codes_are_there)
}

/// Fits tail model and codes on a seeded sample, in the order of the dataset, or takes them from another
/// cache, and commits them; returns whether the build goes on.
///
/// # Errors
/// [`BuildError`].
pub(super) fn run(
    source: &mut Source,
    writer: &mut CacheWriter,
    stop: &AtomicBool,
    progress: &dyn Progress,
) -> Result<bool, BuildError> {
    let plan = writer.manifest().clone();
    let (fitting, coding) = needs(source.inherited.as_ref(), &plan);
    let inherited = source.inherited.take().filter(|_| plan.has_tail());
    let codebook = inherited.as_ref().and_then(|inherited| inherited.codebook(&plan)).cloned();
    let mut sample = Sample::default();
    if fitting || coding {
        let new_fit =
            || TailFit::new(plan.classes, plan.head.k, &plan.tail.nodes, plan.tail.rank, &writer.scratch());
        sample.fit = fitting.then(new_fit).transpose()?;
        source.reading.encoder = inherited.as_ref().and_then(|inherited| inherited.encoder.clone());
        if !sample.ask(source, &plan, stop, progress)? {
            return Ok(false);
        }
    }
    let fitted = match sample.fit.take().map(|fit| finish(fit, stop, progress)).transpose() {
        Err(FitError::Stopped) => return Ok(false),
        fitted => fitted?,
    };
    let (model, encoder) = match (fitted, inherited) {
        (Some(fitted), _) => {
            (sample.targets.rank, sample.targets.codes) = (plan.tail.rank, fitted.codes);
            (Some(fitted.model), fitted.encoder)
        }
        (None, Some(inherited)) => (Some(inherited.model), inherited.encoder),
        (None, None) => (None, None),
    };
    let fitted_codes = coding.then(|| fit_codes(&plan, &sample.targets, model.as_ref())).flatten();
    writer.begin(Beginnings {
        model: model.as_ref(),
        encoder: encoder.as_ref().map(table).as_ref(),
        codebook: codebook.or(fitted_codes).as_ref(),
    })?;
    Ok(true)
}

/// The fit of what the sample has; it may take as long as the teacher did.
fn finish(fit: TailFit, stop: &AtomicBool, progress: &dyn Progress) -> Result<Fitted, FitError> {
    if fit.passes() > 0 {
        progress.passes("fit", fit.passes() as u64);
    }
    let fitted = fit.finish(&mut || {
        progress.advance(1);
        !stop.load(Ordering::Relaxed)
    });
    progress.finish();
    fitted
}

/// The codes for targets like those of `sample` in the cache of `plan`; `None` for floats.
pub(super) fn fit_codes(
    plan: &Manifest,
    sample: &TargetBatch,
    model: Option<&TailModel>,
) -> Option<Codebook> {
    let scale = plan.scale().ok().flatten()?;
    let popularity = model.map(|model| model.prior().at(Temperature::ONE));
    let quantised = scale.quantise(sample);
    Some(Codebook::fit(plan.code_layout(), scale.curve_step(), &quantised, popularity.as_deref()))
}

fn table(encoder: &TailEncoder) -> EncoderTable {
    EncoderTable { mean: encoder.mean().to_vec(), weights: encoder.weights().to_vec() }
}

/// What gives positions their codes in `model`, from the file that keeps it; `None` where the two are not of
/// one shape, or there is none.
pub(super) fn encoder(table: EncoderTable, model: &TailModel) -> Option<TailEncoder> {
    let shape = model.shape()?;
    TailEncoder::new(shape.rank(), table.mean, table.weights, shape.basis())
}

/// What the teacher says of the sample.
#[derive(Default)]
struct Sample {
    targets: TargetBatch,
    /// `None` where no tail model is to be fitted.
    fit: Option<TailFit>,
}

impl Sample {
    /// Asks the teacher; returns whether it has answered everything.
    fn ask(
        &mut self,
        source: &mut Source,
        plan: &Manifest,
        stop: &AtomicBool,
        progress: &dyn Progress,
    ) -> Result<bool, BuildError> {
        let positions = plan.tail.fit_samples;
        let drawn = source.samples.draw(positions, plan.seed, STREAM)?;
        progress.phase(if self.fit.is_some() { "tail model" } else { "codes" }, positions, 0);
        for wanted in drawn.chunks(source.batch) {
            if stop.load(Ordering::Relaxed) {
                progress.finish();
                return Ok(false);
            }
            source.ask(wanted, |logits, targets| {
                if let Some(fit) = &mut self.fit {
                    fit.add(logits, targets)?;
                }
                self.targets.extend(targets);
                progress.advance(targets.rows as u64);
                Ok::<(), BuildError>(())
            })?;
        }
        progress.finish();
        Ok(true)
    }
}
