//! Whether a classifier of images says the same of an image whenever it is asked.
//!
//! One that was exported as it trains has dropout that is on, or normalises by the batch it is given: its targets would be those
//! of a moment, or of neighbours. What was exported does not say so; it is found out by asking.

use super::samples::Samples;
use super::source::{Source, SourceError};
use crate::answers::{AGAIN, ALONE, ROWS, difference};
use crate::ids::SampleView;

/// What is to be said of a teacher that gives an image different answers; `None` where it does not, or could not be asked: who
/// cannot answer will be told so soon enough.
pub(super) fn warning(source: &mut Source) -> Option<String> {
    let (again, alone) = ask(source).ok().flatten()?;
    let (share, how) = if again > AGAIN {
        (again, "from one time to the next, as with dropout that is on")
    } else if alone > ALONE {
        (alone, "with what else is in the batch, as where that is what batch normalisation goes by")
    } else {
        return None;
    };
    Some(format!(
        "warning: the teacher's answers to the same images differ {how}: its logits by {:.0} %. Export it in evaluation mode \
         (model.eval() before torch.onnx.export, torch.jit.script or torch.jit.trace)",
        100.0 * share
    ))
}

/// By how much logits differ where the first images are asked about twice, and where each is asked about alone.
fn ask(source: &mut Source) -> Result<Option<(f64, f64)>, SourceError> {
    if !matches!(source.samples, Samples::Images { .. }) {
        return Ok(None);
    }
    let count = source.samples.rows().min(ROWS).min(source.batch as u64);
    let rows: Vec<SampleView> = (0..count).map(|index| source.samples.row_at(index)).collect();
    let classes = source.reading.classes;
    let mut logits = |rows: &[SampleView]| {
        let prepared = source.samples.prepare(rows.to_vec())?;
        source.logits(&prepared, &vec![true; rows.len()])
    };
    let (first, again) = (logits(&rows)?, logits(&rows)?);
    let alone: Vec<f32> = rows.chunks(1).map(logits).collect::<Result<Vec<_>, _>>()?.concat();
    Ok(Some((difference(&first, &again, classes), difference(&alone, &first, classes))))
}
