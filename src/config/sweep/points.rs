//! The runs of a sweep, and what they are called.

use serde_json::Value;

use super::{CACHE, Keys, SweepConfig};
use crate::digest::Digest;

/// Bytes of a name, at most: file systems take 255, and suffixes are to come.
const LONGEST_NAME: usize = 150;
/// Characters of a digest that tell names apart.
const MARK: usize = 8;

/// One run of a sweep.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Its name, which is also its folder's: `temperature=4,seed=0`.
    pub name: String,
    /// The keys that change from run to run, in order.
    pub keys: Keys,
}

impl SweepConfig {
    /// The runs, in order: for each of the list, every combination of the grid, of which the first key changes
    /// slowest.
    pub fn points(&self) -> Vec<Point> {
        let mut all = if self.list.is_empty() { vec![Keys::new()] } else { self.list.clone() };
        for (key, values) in &self.grid {
            let values = values.as_array().map(Vec::as_slice).unwrap_or_default();
            let with = |keys: &Keys, value: &Value| {
                let mut keys = keys.clone();
                keys.insert(key.clone(), value.clone());
                keys
            };
            all = all.iter().flat_map(|keys| values.iter().map(move |value| with(keys, value))).collect();
        }
        let swept = self.swept();
        let mut points: Vec<Point> = Vec::new();
        for keys in all {
            let mut name = name(&keys, &swept);
            let taken = points.iter().any(|other| other.name == name);
            if taken || name.len() > LONGEST_NAME {
                let whole = Digest::of_bytes(Value::from(keys.clone()).to_string().as_bytes()).to_string();
                let mark = whole.rsplit(':').next().unwrap_or_default();
                name.truncate(LONGEST_NAME - MARK - 1);
                name = format!("{name}-{}", &mark[..MARK.min(mark.len())]);
            }
            points.push(Point { name, keys });
        }
        points
    }

    /// The keys that change from run to run, in the order in which points have them.
    pub fn swept(&self) -> Vec<String> {
        let mut swept: Vec<String> = Vec::new();
        for key in self.list.iter().flat_map(Keys::keys).chain(self.grid.keys()) {
            if !swept.contains(key) {
                swept.push(key.clone());
            }
        }
        swept
    }

    /// How many points there are, without making them.
    pub(super) fn number_of_points(&self) -> usize {
        let values = self.grid.values().map(|values| values.as_array().map_or(1, Vec::len));
        values.fold(self.list.len().max(1), usize::saturating_mul)
    }
}

/// `temperature=4,seed=0`: keys by their last part, where no other has the same.
fn name(keys: &Keys, swept: &[String]) -> String {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let short = |key: &String| match swept.iter().filter(|other| last(other) == last(key)).count() {
        0 | 1 => last(key),
        _ => key.clone(),
    };
    let word = |(key, value): (&String, &Value)| match value {
        // Of a path its end.
        Value::String(path) if key == CACHE => {
            format!("{CACHE}={}", plain(path.trim_end_matches('/').rsplit('/').next().unwrap_or(path)))
        }
        value => format!("{}={}", plain(&short(key)), words(value)),
    };
    keys.iter().map(word).collect::<Vec<_>>().join(",")
}

/// A value as a part of a file's name.
fn words(value: &Value) -> String {
    let all = |values: Vec<String>| values.join("-");
    match value {
        Value::String(text) => plain(text),
        Value::Array(items) => all(items.iter().map(words).collect()),
        Value::Object(table) => all(table.values().map(words).collect()),
        other => other.to_string(),
    }
}

/// `text` with a hyphen for whatever has a meaning elsewhere.
fn plain(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+');
    let text: String = text.chars().map(|c| if is_plain(c) { c } else { '-' }).collect();
    text.trim_matches(['-', '.']).to_owned()
}
