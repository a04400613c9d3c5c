//! The messages of an event file: the few fields of `Event`, `Summary` and what they hold that a run needs.
//!
//! Numbers of fields are those of TensorBoard's `event.proto`, `summary.proto` and `tensor.proto`.

use crate::tracking::Line;

/// What the first event of a file says.
const VERSION: &str = "brain.Event:2";

/// A value's form, the lower three bits of a field's key.
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

/// `Event`.
const WALL_TIME: u64 = 1;
const STEP: u64 = 2;
const FILE_VERSION: u64 = 3;
const SUMMARY: u64 = 5;
/// `Summary`, and `Summary.Value`.
const VALUE: u64 = 1;
const TAG: u64 = 1;
const SIMPLE_VALUE: u64 = 2;
const TENSOR: u64 = 8;
const METADATA: u64 = 9;
/// `SummaryMetadata`, and its `PluginData`.
const PLUGIN_DATA: u64 = 1;
const DATA_CLASS: u64 = 4;
const PLUGIN_NAME: u64 = 1;
/// `DataClass.DATA_CLASS_TENSOR`.
const OF_TENSOR: u64 = 2;
/// `TensorProto`; without a shape it is a scalar.
const DTYPE: u64 = 1;
const STRING_VAL: u64 = 8;
/// `DataType.DT_STRING`.
const DT_STRING: u64 = 7;

/// A message that is being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn number(mut self, field: u64, number: u64) -> Self {
        self.varint(field << 3 | VARINT);
        self.varint(number);
        self
    }

    fn double(mut self, field: u64, value: f64) -> Self {
        self.varint(field << 3 | FIXED64);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn float(mut self, field: u64, value: f32) -> Self {
        self.varint(field << 3 | FIXED32);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(mut self, field: u64, bytes: &[u8]) -> Self {
        self.varint(field << 3 | BYTES);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
        self
    }

    fn message(self, field: u64, inner: &Self) -> Self {
        self.bytes(field, &inner.0)
    }
}

/// The first event of a file. `seconds`: since 1970.
pub(super) fn version(seconds: f64) -> Vec<u8> {
    Message::default().double(WALL_TIME, seconds).bytes(FILE_VERSION, VERSION.as_bytes()).0
}

/// The figures of a line, in single precision, which is what a scalar summary has.
pub(super) fn scalars(seconds: f64, line: &Line) -> Vec<u8> {
    let value = |(name, value): &(String, f64)| {
        Message::default().bytes(TAG, name.as_bytes()).float(SIMPLE_VALUE, *value as f32)
    };
    let summary = line
        .figures
        .iter()
        .fold(Message::default(), |summary, figure| summary.message(VALUE, &value(figure)));
    Message::default().double(WALL_TIME, seconds).number(STEP, line.step).message(SUMMARY, &summary).0
}

/// Markdown for the page of texts, at step 0.
pub(super) fn text(seconds: f64, tag: &str, markdown: &str) -> Vec<u8> {
    let plugin = Message::default().bytes(PLUGIN_NAME, b"text");
    let metadata = Message::default().message(PLUGIN_DATA, &plugin).number(DATA_CLASS, OF_TENSOR);
    let tensor = Message::default().number(DTYPE, DT_STRING).bytes(STRING_VAL, markdown.as_bytes());
    let value =
        Message::default().bytes(TAG, tag.as_bytes()).message(TENSOR, &tensor).message(METADATA, &metadata);
    let summary = Message::default().message(VALUE, &value);
    Message::default().double(WALL_TIME, seconds).message(SUMMARY, &summary).0
}

/// Where in a run an event of [`scalars`] is.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Place {
    pub(super) step: u64,
    /// Where it is of a whole epoch.
    pub(super) epoch: Option<u32>,
}

/// The place of an event; `None` where it is no message.
pub(super) fn place(event: &[u8]) -> Option<Place> {
    let mut place = Place::default();
    for field in Fields(event) {
        match field? {
            (STEP, Found::Number(step)) => place.step = step,
            (SUMMARY, Found::Bytes(summary)) => {
                for value in Fields(summary) {
                    if let (VALUE, Found::Bytes(value)) = value? {
                        place.epoch = place.epoch.or(epoch(value)?);
                    }
                }
            }
            _ => {}
        }
    }
    Some(place)
}

/// The epoch that a value is, if it is one; `None` where it is no message.
fn epoch(value: &[u8]) -> Option<Option<u32>> {
    let (mut is_epoch, mut number) = (false, None);
    for field in Fields(value) {
        match field? {
            (TAG, Found::Bytes(tag)) => is_epoch = tag == Line::EPOCH.as_bytes(),
            // Whole numbers, exact in single precision as far as anyone counts epochs.
            (SIMPLE_VALUE, Found::Fixed32(bits)) => number = Some(f32::from_bits(bits) as u32),
            _ => {}
        }
    }
    Some(number.filter(|_| is_epoch))
}

/// A value that was read.
enum Found<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
    Fixed64,
}

/// The fields of a message; a `None` among them is where it ends in the middle of one.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn take(&mut self, length: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    fn field(&mut self) -> Option<(u64, Found<'a>)> {
        let key = self.varint()?;
        let found = match key & 7 {
            VARINT => Found::Number(self.varint()?),
            FIXED64 => {
                self.take(8)?;
                Found::Fixed64
            }
            FIXED32 => Found::Fixed32(u32::from_le_bytes(*self.take(4)?.first_chunk()?)),
            BYTES => {
                let length = self.varint()?;
                Found::Bytes(self.take(length)?)
            }
            _ => return None,
        };
        Some((key >> 3, found))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, Found<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line {
        let figures = vec![("train/epoch".to_owned(), 2.0), ("train/loss".to_owned(), 0.5)];
        Line { step: 300, epoch: 2, of_epoch: true, figures }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// `Event(…).SerializeToString(deterministic=True).hex()` of tensorboard 2.21.0 with protobuf:
    /// `wall_time=1700000000.5, file_version="brain.Event:2"`; the same time, `step=300` and
    /// `Summary(value=[Value(tag="train/epoch", simple_value=2.0), Value(tag="train/loss", simple_value=0.5)])`;
    /// and a value with a string tensor and a text plugin's metadata.
    #[test]
    fn messages_are_those_of_protobuf() {
        let seconds = 1_700_000_000.5;
        assert_eq!(hex(&version(seconds)), GOLDEN_VERSION);
        assert_eq!(hex(&scalars(seconds, &line())), GOLDEN_SCALARS);
        assert_eq!(hex(&text(seconds, "config", "a = 1")), GOLDEN_TEXT);
    }

    const GOLDEN_VERSION: &str = "0900002040fc54d9411a0d627261696e2e4576656e743a32";
    const GOLDEN_SCALARS: &str = "0900002040fc54d94110ac022a270a120a0b747261696e2f65706f636815000000400a110a0a747261696e2f6c6f7373150000003f";
    const GOLDEN_TEXT: &str =
        "0900002040fc54d9412a210a1f0a06636f6e66696742090807420561203d20314a0a0a060a04746578742002";

    #[test]
    fn places_are_read_back() {
        assert_eq!(place(&version(1.0)), Some(Place::default()));
        assert_eq!(place(&text(1.0, "config", "a")), Some(Place::default()));
        let whole = scalars(1.0, &line());
        assert_eq!(place(&whole), Some(Place { step: 300, epoch: Some(2) }));
        let mut of_step = line();
        of_step.figures.remove(0);
        assert_eq!(place(&scalars(1.0, &of_step)), Some(Place { step: 300, epoch: None }));
        // The summary is the last field: wherever it ends too early, there is no event.
        for end in 13..whole.len() {
            assert_eq!(place(&whole[..end]), None, "{end}");
        }
    }
}
