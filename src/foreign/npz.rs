//! NumPy arrays in one `.npz`: `input_ids [rows, length]`, `token_ids` and `logprobs` `[rows, positions, k]`.
//!
//! Entry p of a row is the distribution of the token after token p: positions are as many as tokens, or one fewer.
//! Where rows differ in length, `lengths [rows]` has the tokens of each; what is behind them, and behind as many
//! positions or one fewer, is not read.
//! An archive is read whole: of much data, make several.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use npyz::{NpyFile, Order};
use zip::ZipArchive;

use super::parquet::format_error as wrong;
use super::{ForeignError, ForeignRow, ForeignRows, Place};

/// An array of the archive.
struct Array {
    shape: Vec<usize>,
    values: Vec<f64>,
}

pub(super) fn rows(path: &Path) -> Result<ForeignRows<'_>, ForeignError> {
    let read = |source| ForeignError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(read)?;
    let mut archive = ZipArchive::new(BufReader::new(file))
        .map_err(|error| wrong(path, "a NumPy archive (.npz)", error.to_string()))?;
    let tokens = required(path, &mut archive, "input_ids", 2)?;
    let ids = required(path, &mut archive, "token_ids", 3)?;
    let logprobs = required(path, &mut archive, "logprobs", 3)?;
    let lengths = array(path, &mut archive, "lengths", 1)?;
    let (rows, length) = (tokens.shape[0], tokens.shape[1]);
    let (positions, k) = (ids.shape[1], ids.shape[2]);
    let fits = ids.shape == logprobs.shape && ids.shape[0] == rows;
    if !fits || !(positions..=positions + 1).contains(&length) {
        let expected =
            "token_ids and logprobs [rows, positions, k] and input_ids [rows, positions or one more]";
        let found = format!("{:?}, {:?} and {:?}", ids.shape, logprobs.shape, tokens.shape);
        return Err(wrong(path, expected, found));
    }
    if let Some(lengths) = lengths.as_ref().filter(|lengths| lengths.shape != [rows]) {
        return Err(wrong(path, &format!("lengths [{rows}]"), format!("{:?}", lengths.shape)));
    }
    Ok(Box::new((0..rows).map(move |number| {
        let mut row = ForeignRow::new(Place::new(path, format!("row {number}")));
        let own = lengths
            .as_ref()
            .map_or(Ok(length), |lengths| whole(lengths.values[number]).map(|own| own as usize));
        let own = own.map_err(|_| row.place.wrong("expected a length that is a whole number"))?;
        if own > length {
            return Err(row.place.wrong(format!("expected a length of at most {length}, found {own}")));
        }
        // Where nothing is said after the longest row's last token, nothing is after a shorter one's.
        for position in 0..own.saturating_sub(length - positions) {
            let at = (number * positions + position) * k;
            let mut entry = Vec::with_capacity(k);
            for (id, logprob) in ids.values[at..at + k].iter().zip(&logprobs.values[at..at + k]) {
                // What fills up an entry of fewer classes has no id to speak of.
                if *logprob != f64::NEG_INFINITY {
                    let id = whole(*id).map_err(|problem| row.place.wrong_at(position, &problem))?;
                    entry.push((id, *logprob as f32));
                }
            }
            row.push(entry);
        }
        let tokens = tokens.values[number * length..][..own].iter().map(|token| whole(*token));
        let tokens = tokens.collect::<Result<_, _>>().map_err(|problem| row.place.wrong(problem))?;
        row.close(tokens)
    })))
}

/// A token's id.
fn whole(value: f64) -> Result<u32, String> {
    let id = value as u32;
    if f64::from(id) == value { Ok(id) } else { Err(format!("expected the id of a token, found {value}")) }
}

type Archive = ZipArchive<BufReader<File>>;

fn required(
    path: &Path,
    archive: &mut Archive,
    name: &str,
    dimensions: usize,
) -> Result<Array, ForeignError> {
    array(path, archive, name, dimensions)?.ok_or_else(|| {
        let names: Vec<String> =
            archive.file_names().flatten().map(|name| name.trim_end_matches(".npy").to_owned()).collect();
        wrong(path, "the arrays input_ids, token_ids and logprobs", names.join(", "))
    })
}

/// The array `name`, if the archive has it.
fn array(
    path: &Path,
    archive: &mut Archive,
    name: &str,
    dimensions: usize,
) -> Result<Option<Array>, ForeignError> {
    let fault = |found: String| wrong(path, &format!("{name}, an array of numbers"), found);
    let member = match archive.by_name(&format!("{name}.npy")) {
        Ok(member) => member,
        Err(zip::result::ZipError::FileNotFound) => return Ok(None),
        Err(error) => return Err(fault(error.to_string())),
    };
    let npy = NpyFile::new(member).map_err(|error| fault(error.to_string()))?;
    let shape: Vec<usize> = npy.shape().iter().map(|size| *size as usize).collect();
    if shape.len() != dimensions || npy.order() != Order::C {
        let found = format!("{:?} in {:?} order", shape, npy.order());
        return Err(wrong(path, &format!("{name} of {dimensions} dimensions in C order"), found));
    }
    let values = numbers(npy).map_err(|error| fault(error.to_string()))?;
    Ok(Some(Array { shape, values }))
}

/// Whatever numbers they are, as those that hold every id and every log-probability.
fn numbers<R: std::io::Read>(npy: NpyFile<R>) -> std::io::Result<Vec<f64>> {
    macro_rules! try_each {
        ($npy:ident, $($number:ty => $widen:expr),*) => {{
            $(let $npy = match $npy.try_data::<$number>() {
                Ok(values) => return values.map(|value| value.map($widen)).collect(),
                Err(npy) => npy,
            };)*
            Err(std::io::Error::other(format!("numbers of type {}", $npy.dtype().descr())))
        }};
    }
    try_each!(npy,
        f32 => f64::from, f64 => |value| value, half::f16 => half::f16::to_f64,
        i8 => f64::from, i16 => f64::from, i32 => f64::from, i64 => |value| value as f64,
        u8 => f64::from, u16 => f64::from, u32 => f64::from, u64 => |value| value as f64
    )
}
