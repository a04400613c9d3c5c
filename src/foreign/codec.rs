//! DistillKit's compressed log-probabilities: some exact values, and for the others the coefficients of a curve
//! over their ranks, with what it leaves in coarse bins.
//!
//! Source: DistillKit, `distillkit/compression` (the form that `compression_config.yaml` describes). The curve is
//! evaluated in `f64`, so that nothing is lost but what its coefficients are.

use std::path::{Path, PathBuf};

use half::{bf16, f16};
use serde::Deserialize;

use super::ForeignError;

/// The file that a capture leaves beside its rows.
const CONFIG: &str = "compression_config.yaml";

/// How positions are written.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(super) struct Codec {
    /// Classes the ids are of: it decides their bits.
    d: usize,
    /// Classes kept.
    pub(super) k: usize,
    /// Of which so many are exact.
    exact_k: usize,
    #[serde(default)]
    exact_dtype: Float,
    #[serde(default)]
    polynomial_terms: Option<Vec<Term>>,
    #[serde(default)]
    term_dtype: Float,
    #[serde(default)]
    residual_bins: Vec<Bin>,
    /// Whether each value is the step from the one before.
    #[serde(default = "yes")]
    delta_encoding: bool,
    /// Whether ranks run from 0 to 1.
    #[serde(default)]
    normalize_t: bool,
}

fn yes() -> bool {
    true
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Float {
    Float16,
    Bfloat16,
    #[default]
    Float32,
    Float64,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
enum Term {
    Power(i32),
    Special(Special),
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Special {
    Sqrt,
    Exp,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Bin {
    scale_dtype: Float,
    element_bits: u32,
    num_elements: usize,
}

impl Float {
    fn width(self) -> usize {
        match self {
            Self::Float16 | Self::Bfloat16 => 2,
            Self::Float32 => 4,
            Self::Float64 => 8,
        }
    }

    /// The first number of `bytes`, which are enough.
    fn read(self, bytes: &[u8]) -> f64 {
        match (self, bytes) {
            (Self::Float16, [a, b, ..]) => f16::from_le_bytes([*a, *b]).to_f64(),
            (Self::Bfloat16, [a, b, ..]) => bf16::from_le_bytes([*a, *b]).to_f64(),
            (Self::Float32, [a, b, c, d, ..]) => f64::from(f32::from_le_bytes([*a, *b, *c, *d])),
            (Self::Float64, [a, b, c, d, e, f, g, h, ..]) => {
                f64::from_le_bytes([*a, *b, *c, *d, *e, *f, *g, *h])
            }
            _ => f64::NAN,
        }
    }
}

impl Term {
    fn at(&self, t: f64) -> f64 {
        match self {
            Self::Power(power) => t.powi(*power),
            Self::Special(Special::Sqrt) => t.sqrt(),
            Self::Special(Special::Exp) => t.exp(),
        }
    }
}

impl Codec {
    /// Reads the config at `given`, or the one beside `file`; `None` where there is neither.
    pub(super) fn find(given: Option<&Path>, file: &Path) -> Result<Option<Self>, ForeignError> {
        let beside = file.with_file_name(CONFIG);
        let path: PathBuf = match given {
            Some(given) => given.to_owned(),
            None if beside.exists() => beside,
            None => return Ok(None),
        };
        let text = std::fs::read_to_string(&path)
            .map_err(|source| ForeignError::Read { path: path.clone(), source })?;
        let wrong = |expected: &str, found: String| ForeignError::Format {
            path: path.clone(),
            expected: expected.to_owned(),
            found,
        };
        let codec: Self = serde_saphyr::from_str(&text)
            .map_err(|error| wrong("DistillKit's compression config", error.to_string()))?;
        let binned: usize = codec.residual_bins.iter().map(|bin| bin.num_elements).sum();
        if codec.k == 0 || codec.exact_k > codec.k || codec.k > codec.d || binned > codec.k - codec.exact_k {
            let found =
                format!("d = {}, k = {}, exact_k = {}, {binned} in bins", codec.d, codec.k, codec.exact_k);
            return Err(wrong("0 < k ≤ d, exact_k ≤ k, and at most k − exact_k in bins", found));
        }
        if let Some(bin) = codec.residual_bins.iter().find(|bin| !(1..=32).contains(&bin.element_bits)) {
            return Err(wrong("element_bits from 1 to 32", bin.element_bits.to_string()));
        }
        Ok(Some(codec))
    }

    /// Bits of a class id.
    fn id_bits(&self) -> usize {
        self.d.next_power_of_two().trailing_zeros() as usize
    }

    /// Bytes of a position's ids and values.
    fn widths(&self) -> (usize, usize) {
        let terms = self.polynomial_terms.as_ref().map_or(0, Vec::len);
        let bins = self
            .residual_bins
            .iter()
            .map(|bin| bin.scale_dtype.width() + (bin.num_elements * bin.element_bits as usize).div_ceil(8));
        let values = self.exact_k * self.exact_dtype.width() + terms * self.term_dtype.width();
        ((self.k * self.id_bits()).div_ceil(8), values + bins.sum::<usize>())
    }

    /// A position's classes and log-probabilities.
    pub(super) fn decode(&self, ids: &[u8], values: &[u8]) -> Result<Vec<(u32, f32)>, String> {
        let (id_width, value_width) = self.widths();
        if (ids.len(), values.len()) != (id_width, value_width) {
            return Err(format!(
                "expected {id_width} bytes of ids and {value_width} of values, as the compression config says, found \
                 {} and {}; is it the config of these files?",
                ids.len(),
                values.len()
            ));
        }
        let mut logprobs = self.values(values);
        if self.delta_encoding {
            let mut sum = 0.0;
            for value in &mut logprobs {
                sum += *value;
                *value = sum;
            }
        }
        let ids = (0..self.k).map(|at| bits(ids, at * self.id_bits(), self.id_bits()));
        // The curve may lift a value a little above 0.
        Ok(ids.zip(logprobs).map(|(id, logprob)| (id, logprob.min(0.0) as f32)).collect())
    }

    /// The values, or their steps.
    fn values(&self, mut bytes: &[u8]) -> Vec<f64> {
        let mut take = |float: Float| {
            let value = float.read(bytes);
            bytes = &bytes[float.width()..];
            value
        };
        let mut values: Vec<f64> = (0..self.exact_k).map(|_| take(self.exact_dtype)).collect();
        let rest = self.k - self.exact_k;
        let terms = self.polynomial_terms.as_deref().unwrap_or_default();
        let coefficients: Vec<f64> = terms.iter().map(|_| take(self.term_dtype)).collect();
        let unit = if self.normalize_t { 1.0 / (rest.max(2) - 1) as f64 } else { 1.0 };
        let mut curve: Vec<f64> = (0..rest)
            .map(|rank| {
                let t = rank as f64 * unit;
                terms.iter().zip(&coefficients).map(|(term, coefficient)| term.at(t) * coefficient).sum()
            })
            .collect();
        let mut first = 0;
        for bin in &self.residual_bins {
            let scale = bin.scale_dtype.read(bytes);
            bytes = &bytes[bin.scale_dtype.width()..];
            let width = bin.element_bits as usize;
            for (at, value) in curve[first..first + bin.num_elements].iter_mut().enumerate() {
                let number = f64::from(bits(bytes, at * width, width));
                *value += scale
                    * match width {
                        1 => 2.0 * number - 1.0,
                        _ => number - f64::powi(2.0, width as i32 - 1),
                    };
            }
            bytes = &bytes[(bin.num_elements * width).div_ceil(8)..];
            first += bin.num_elements;
        }
        values.append(&mut curve);
        values
    }
}

/// `width` bits of `bytes` from bit `start`, the most significant first.
fn bits(bytes: &[u8], start: usize, width: usize) -> u32 {
    let bit = |at: usize| u32::from(bytes[at / 8] >> (7 - at % 8) & 1);
    (start..start + width).fold(0, |value, at| value << 1 | bit(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codec(text: &str) -> Result<Option<Codec>, ForeignError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(CONFIG), text).unwrap();
        Codec::find(None, &dir.path().join("data_0.parquet"))
    }

    #[test]
    fn curves_steps_and_bins_are_read_as_they_were_written() {
        let text = "d: 5\nk: 4\nexact_k: 1\nexact_dtype: float32\npolynomial_terms: [0, 1, sqrt]\n\
                    term_dtype: float32\nresidual_bins:\n- {scale_dtype: float16, element_bits: 3, num_elements: 2}\n\
                    delta_encoding: false\nnormalize_t: false\nerror_diffusion: false\n";
        let mut codec = codec(text).unwrap().unwrap();
        assert_eq!(codec.widths(), (2, 4 + 12 + 2 + 1));
        let mut values = Vec::new();
        for value in [-0.5f32, -1.0, -0.5, -0.25] {
            values.extend(value.to_le_bytes());
        }
        values.extend(f16::from_f32(0.125).to_le_bytes());
        values.push(0b0001_1100); // 000 and 111: −4 and 3 eighths
        // Ids 4, 2, 0, 3 in three bits each: 100 010 000 011.
        let ids = [0b1000_1000, 0b0011_0000];
        let found = codec.decode(&ids, &values).unwrap();
        let curve = [-1.0 - 0.5, -1.0 - 0.5 - 0.25 + 0.375, -1.0 - 1.0 - 0.25 * 2f64.sqrt()];
        let expected = [(4, -0.5), (2, curve[0] as f32), (0, curve[1] as f32), (3, curve[2] as f32)];
        assert_eq!(found, expected);
        codec.delta_encoding = true;
        let steps = codec.decode(&ids, &values).unwrap();
        assert_eq!(steps[1].1, (-0.5 + curve[0]) as f32);
        assert_eq!(steps[2].1, (-0.5 + curve[0] + curve[1]) as f32);
        assert!(codec.decode(&ids[..1], &values).unwrap_err().contains("found 1 and 19"));
    }

    #[test]
    fn a_config_that_makes_no_sense_is_refused() {
        let wrong = |text: &str| codec(text).unwrap_err().to_string();
        assert!(wrong("d: 5\nk: 9\nexact_k: 1\nresidual_bins: []\n").contains("found d = 5, k = 9"));
        assert!(wrong("k: 9\n").contains("DistillKit's compression config"));
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Codec::find(None, &dir.path().join("data_0.parquet")).unwrap(), None);
        let gone = dir.path().join("gone.yaml");
        assert!(matches!(Codec::find(Some(&gone), &gone), Err(ForeignError::Read { .. })));
    }
}
