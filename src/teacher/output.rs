//! What a teacher's numbers are, and how they become logits.

use std::cell::Cell;

use super::TeacherError;
use crate::config::OutputKind;
use crate::floats::FloatBuf;
#[cfg(feature = "torch")]
use crate::libtorch::DeviceLogits;
use crate::target::FeatureBatch;

/// The float type a teacher answers in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
    /// IEEE double precision, kept as single.
    F64,
}

impl OutputType {
    /// The word used in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::F64 => "f64",
        }
    }

    /// The smallest positive number of the type, for the types that reach below `f32`'s
    /// normal range that range's: what a probability of 0 may have been.
    fn least_positive(self) -> f32 {
        match self {
            // Half precision goes down to 2^−24 in subnormals.
            Self::F16 => 5.960_464_5e-8,
            Self::F32 | Self::Bf16 | Self::F64 => f32::MIN_POSITIVE,
        }
    }
}

/// A model's numbers, wherever they are: `[rows, classes]`.
#[derive(Debug)]
pub enum Values {
    /// In memory, row-major, as the model's runtime left them or in memory of our own.
    Host(FloatBuf),
    /// On a device of libtorch's.
    #[cfg(feature = "torch")]
    Device(DeviceLogits),
}

/// Numbers that are brought from a device at once, where there are more than are wanted together.
#[cfg(feature = "torch")]
const TOGETHER: usize = 1 << 25;

impl Values {
    /// Brings them into memory, where they are not.
    pub fn into_host(self) -> FloatBuf {
        match self {
            Self::Host(values) => values,
            #[cfg(feature = "torch")]
            Self::Device(logits) => logits.to_host().into(),
        }
    }

    /// Whether they are on a device.
    pub fn on_device(&self) -> bool {
        !matches!(self, Self::Host(_))
    }

    /// Why what is made of them where they are takes longer than it could, where that is so.
    pub fn slower(&self) -> Option<String> {
        match self {
            Self::Host(_) => None,
            #[cfg(feature = "torch")]
            Self::Device(logits) => logits.kernels().err().map(|error| error.to_string()),
        }
    }

    /// Waits until they are there.
    pub fn wait(&self) {
        match self {
            Self::Host(_) => {}
            #[cfg(feature = "torch")]
            Self::Device(logits) => logits.wait(),
        }
    }

    /// Keeps some of the rows, in memory of our own.
    ///
    /// # Panics
    /// When there are no such rows.
    pub fn keep(&mut self, rows: &[usize], classes: usize) {
        match self {
            Self::Host(values) => {
                let mut kept = Vec::with_capacity(rows.len() * classes);
                rows.iter().for_each(|row| values.floats().row(*row, classes).append_to(&mut kept));
                *self = kept.into();
            }
            #[cfg(feature = "torch")]
            Self::Device(logits) => *self = logits.some(rows).into(),
        }
    }
}

impl RawOutput {
    /// The same in parts that can be brought into memory of our own, features left out; one where it is there.
    pub fn parts(self) -> impl Iterator<Item = Self> {
        let Self { rows, classes, values, dtype, .. } = self;
        let step = match &values {
            Values::Host(_) => rows,
            #[cfg(feature = "torch")]
            Values::Device(_) => TOGETHER / classes.max(1),
        };
        let step = step.max(1);
        let mut whole = Some(values);
        (0..rows.max(1)).step_by(step).map_while(move |start| {
            let rows = step.min(rows - start);
            let values = match &whole {
                #[cfg(feature = "torch")]
                Some(Values::Device(logits)) => Values::Device(logits.rows(start, rows)),
                _ => whole.take()?,
            };
            Some(Self { rows, classes, values, dtype, features: Vec::new() })
        })
    }
}

impl RawOutput {
    /// Whether `reads` is true of every row, of which there must be some, of several classes.
    fn every_row(&self, reads: &dyn Fn(&[f32]) -> bool) -> bool {
        let (rows, classes) = (self.rows, self.classes);
        classes > 1
            && rows > 0
            && match &self.values {
                Values::Host(values) => {
                    let mut wide = Vec::new();
                    (0..rows).all(|row| reads(values.floats().row(row, classes).widened(&mut wide)))
                }
                #[cfg(feature = "torch")]
                Values::Device(logits) => {
                    let step = (TOGETHER / classes).max(1);
                    let part = |start: usize| logits.rows(start, step.min(rows - start)).to_host();
                    (0..rows).step_by(step).all(|start| part(start).chunks(classes).all(reads))
                }
            }
    }
}

impl From<Vec<f32>> for Values {
    fn from(values: Vec<f32>) -> Self {
        Self::Host(values.into())
    }
}

impl From<FloatBuf> for Values {
    fn from(values: FloatBuf) -> Self {
        Self::Host(values)
    }
}

/// A forward pass's result.
#[derive(Debug)]
pub struct RawOutput {
    /// Samples.
    pub rows: usize,
    /// Classes.
    pub classes: usize,
    /// Logits, probabilities or log-probabilities.
    pub values: Values,
    /// The type the model answered in.
    pub dtype: OutputType,
    /// The features that were asked for, in that order, a vector of each for every row.
    pub features: Vec<FeatureBatch>,
}

/// What a classifier of images is expected to answer of `rows` images, for people.
#[cfg(any(feature = "onnx", feature = "torch"))]
pub(super) fn of_images(rows: usize) -> String {
    format!(
        "float [batch = {rows}, classes], of two classes or more (where one logit z says yes or no, export [0, z]: \
         torch.cat([torch.zeros_like(z), z], dim=1))"
    )
}

/// A decided meaning of a teacher's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputReading {
    /// Raw logits.
    Logits,
    /// Probabilities at T = 1.
    Probabilities,
    /// Log-probabilities at T = 1.
    LogProbabilities,
}

/// How far from 1 a row of probabilities may sum: half precision over many classes drifts so far.
const SUM_TOLERANCE: f64 = 2e-3;

impl OutputReading {
    /// The declared meaning, or for [`OutputKind::Auto`] what `first` looks like: every row
    /// must be non-negative and sum to 1 to be probabilities, non-positive with exponentials
    /// that sum to 1 to be log-probabilities.
    pub fn decide(declared: OutputKind, first: &RawOutput) -> Self {
        let near_one = |sum: f64| (sum - 1.0).abs() < SUM_TOLERANCE;
        let probabilities =
            |row: &[f32]| row.iter().all(|p| *p >= 0.0) && near_one(row.iter().map(|p| f64::from(*p)).sum());
        let log_probabilities = |row: &[f32]| {
            row.iter().all(|p| *p <= 0.0) && near_one(row.iter().map(|p| f64::from(*p).exp()).sum())
        };
        let every_row = |reads: &dyn Fn(&[f32]) -> bool| first.every_row(reads);
        match declared {
            OutputKind::Logits => Self::Logits,
            OutputKind::Probabilities => Self::Probabilities,
            OutputKind::LogProbabilities => Self::LogProbabilities,
            OutputKind::Auto if every_row(&probabilities) => Self::Probabilities,
            OutputKind::Auto if every_row(&log_probabilities) => Self::LogProbabilities,
            OutputKind::Auto => Self::Logits,
        }
    }

    /// What is to be said of outputs that are taken as this, by the `first`: targets that are not what they seem.
    pub fn doubt(self, declared: OutputKind, first: &RawOutput) -> Option<String> {
        // The least normal number of half precision.
        const COARSE: f32 = 6.103_515_6e-5;
        /// How far from 1 the sum of what was rounded much may be.
        const NEARLY: f64 = 0.05;
        match (self, first.dtype) {
            (Self::Probabilities, OutputType::F16) => {
                let (coarse, all) = (Cell::new(0), first.rows * first.classes);
                first.every_row(&|row| {
                    coarse.set(coarse.get() + row.iter().filter(|p| **p < COARSE).count());
                    true
                });
                (coarse.get() > 0).then(|| {
                    format!(
                        "warning: {:.1} % of the teacher's probabilities are below 6e-5, where half precision is coarse and ends in 0: \
                         targets above T = 1 are wrong by that. Export logits, or log-probabilities (log_softmax)",
                        100.0 * coarse.get() as f64 / all as f64
                    )
                })
            }
            (Self::Logits, _) if declared == OutputKind::Auto => {
                let within = first.every_row(&|row| row.iter().all(|p| (0.0..=1.0).contains(p)));
                let sum = |row: &[f32]| row.iter().map(|p| f64::from(*p)).sum::<f64>();
                if within && first.every_row(&|row| (sum(row) - 1.0).abs() < NEARLY) {
                    return Some(
                        "warning: the teacher's outputs all lie from 0 to 1 and nearly sum to 1, as those of a softmax in few bits: they \
                         are taken as logits. Set teacher.output_kind = \"probabilities\", or export logits or log_softmax"
                            .to_owned(),
                    );
                }
                within.then(|| {
                    "warning: the teacher's outputs all lie from 0 to 1 and do not sum to 1, as a sigmoid's: they are taken as logits \
                     of one softmax. Export what comes before the sigmoid, or set teacher.output_kind = \"logits\" where they are logits"
                        .to_owned()
                })
            }
            _ => None,
        }
    }

    /// The word used in configs and manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Logits => "logits",
            Self::Probabilities => "probabilities",
            Self::LogProbabilities => "log_probabilities",
        }
    }

    /// The output as logits, up to a constant per row.
    ///
    /// The logarithm of a probability of 0 is taken as that of the output type's smallest
    /// positive number; a log-probability of −∞ likewise, or as the row's least other one where that is less. NaN
    /// passes through, to be reported with its sample by selection.
    ///
    /// # Errors
    /// [`TeacherError::Value`]: a probability outside `[0, 1]`, a positive log-probability.
    pub fn into_logits(self, output: RawOutput) -> Result<FloatBuf, TeacherError> {
        let RawOutput { classes, values, dtype, .. } = output;
        let values = values.into_host();
        // Rounding may lift a certain class a little above 1.
        let (lowest, highest, expected) = match self {
            Self::Logits => return Ok(values),
            Self::Probabilities => (0.0, 1.0 + SUM_TOLERANCE as f32, "a probability from 0 to 1"),
            Self::LogProbabilities => {
                (f32::NEG_INFINITY, SUM_TOLERANCE as f32, "a log-probability of at most 0")
            }
        };
        let mut values = values.into_vec();
        if let Some(at) = values.iter().position(|v| *v < lowest || *v > highest) {
            return Err(TeacherError::Value {
                kind: self.as_str(),
                row: at / classes,
                class: at % classes,
                value: values[at],
                expected,
            });
        }
        let least = dtype.least_positive();
        for row in values.chunks_mut(classes.max(1)) {
            if self == Self::Probabilities {
                for value in row.iter_mut().filter(|value| !value.is_nan()) {
                    *value = value.max(least).ln();
                }
            } else if row.contains(&f32::NEG_INFINITY) {
                // A log-probability lies as far below as it says, also where its probability would be 0 in its type.
                let finite = row.iter().filter(|value| value.is_finite());
                let lowest = finite.fold(least.ln(), |least, value| least.min(*value));
                row.iter_mut().filter(|value| **value == f32::NEG_INFINITY).for_each(|value| *value = lowest);
            }
        }
        Ok(values.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(values: &[f32], classes: usize) -> RawOutput {
        let (rows, values) = (values.len() / classes, values.to_vec().into());
        RawOutput { rows, classes, values, dtype: OutputType::F32, features: Vec::new() }
    }

    #[test]
    fn auto_tells_probabilities_from_logits() {
        let decide = |values: &[f32]| OutputReading::decide(OutputKind::Auto, &output(values, 2));
        assert_eq!(decide(&[0.25, 0.75, 1.0, 0.0]), OutputReading::Probabilities);
        assert_eq!(decide(&[0.25f32.ln(), 0.75f32.ln()]), OutputReading::LogProbabilities);
        assert_eq!(decide(&[0.25, 0.75, 1.0, 0.5]), OutputReading::Logits);
        assert_eq!(decide(&[-3.0, 4.0]), OutputReading::Logits);
        let declared = OutputReading::decide(OutputKind::Logits, &output(&[0.25, 0.75], 2));
        assert_eq!(declared, OutputReading::Logits);
    }

    #[test]
    fn outputs_that_are_not_what_they_seem_are_doubted() {
        let doubt = |values: &[f32], dtype, declared| {
            let first = RawOutput { dtype, ..output(values, 2) };
            OutputReading::decide(declared, &first).doubt(declared, &first)
        };
        let half = doubt(&[0.99999, 0.00001, 0.5, 0.5], OutputType::F16, OutputKind::Auto).unwrap();
        assert!(half.contains("25.0 %") && half.contains("log_softmax"), "{half}");
        assert_eq!(doubt(&[0.99999, 0.00001], OutputType::F32, OutputKind::Auto), None);
        assert_eq!(doubt(&[0.75, 0.25], OutputType::F16, OutputKind::Auto), None);
        let sigmoid = doubt(&[0.75, 0.75, 0.25, 1.0], OutputType::F32, OutputKind::Auto).unwrap();
        assert!(sigmoid.contains("sigmoid"), "{sigmoid}");
        let rounded = doubt(&[0.76, 0.25, 0.5, 0.52], OutputType::Bf16, OutputKind::Auto).unwrap();
        assert!(rounded.contains("output_kind = \"probabilities\""), "{rounded}");
        assert_eq!(doubt(&[0.75, 0.75], OutputType::F32, OutputKind::Logits), None);
        assert_eq!(doubt(&[0.75, -0.75], OutputType::F32, OutputKind::Auto), None);
    }

    #[test]
    fn a_zero_probability_is_finite_and_far_below() {
        let logits = OutputReading::Probabilities.into_logits(output(&[1.0, 0.0], 2)).unwrap().into_vec();
        assert_eq!(logits[0], 0.0);
        assert!((logits[1] - f32::MIN_POSITIVE.ln()).abs() < 1e-5);
        let logits = OutputReading::LogProbabilities
            .into_logits(output(&[0.0, f32::NEG_INFINITY], 2))
            .unwrap()
            .into_vec();
        assert!(logits[1].is_finite() && logits[1] < -80.0);
    }

    #[test]
    fn log_probabilities_of_half_types_are_as_low_as_they_say() {
        let rows = [-0.001, -20.0, f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY, f32::NEG_INFINITY];
        let output = RawOutput { dtype: OutputType::F16, ..output(&rows, 3) };
        let logits = OutputReading::LogProbabilities.into_logits(output).unwrap().into_vec();
        let zero = 2f32.powi(-24).ln();
        assert_eq!(logits, [-0.001, -20.0, -20.0, 0.0, zero, zero]);
    }

    #[test]
    fn what_is_no_probability_is_named() {
        let error = OutputReading::Probabilities.into_logits(output(&[0.5, 0.5, 0.2, -0.1], 2)).unwrap_err();
        assert!(error.to_string().contains("row 1, class 1 is -0.1"), "{error}");
    }
}
