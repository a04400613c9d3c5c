//! The figures of a line, under the names that every tracker gets.

use serde_json::{Map, Value};

/// Which of a run's two files a line stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineKind {
    /// `steps.jsonl`.
    Step,
    /// `metrics.jsonl` of a run without lines of steps: what is trained on is told by epochs.
    Epoch,
    /// `metrics.jsonl` of a run with lines of steps, which have the names `train/…`.
    EpochBesideSteps,
}

/// A line of a run: what it is of, and its figures.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Steps since the run began.
    pub step: u64,
    /// Counts from 1.
    pub epoch: u32,
    /// Whether it is of a whole epoch.
    pub of_epoch: bool,
    /// Names and values, finite, in the order of the line: `train/loss`, `train/kl`, `test/accuracy` and so on. What
    /// is measured over an epoch is called `epoch/…` where lines of steps have the names `train/…`.
    pub figures: Vec<(String, f64)>,
}

/// Keys of a line that say what it is of, and the time it took.
const NO_FIGURES: [&str; 3] = ["epoch", "step", "seconds"];

impl Line {
    /// The epoch's number, among the figures of a line of an epoch.
    pub const EPOCH: &str = "train/epoch";

    /// The line in `text`; `None` where it is none, such as one that is half written.
    pub fn parse(text: &str, kind: LineKind) -> Option<Self> {
        Self::of(&serde_json::from_str(text).ok()?, kind)
    }

    /// The line that `value` is.
    pub fn of(value: &Value, kind: LineKind) -> Option<Self> {
        let object = value.as_object()?;
        let number = |key: &str| object.get(key).and_then(Value::as_u64);
        let (step, epoch) = (number("step")?, u32::try_from(number("epoch")?).ok()?);
        let of_epoch = kind != LineKind::Step;
        let mut figures = Vec::new();
        if of_epoch {
            figures.push((Self::EPOCH.to_owned(), f64::from(epoch)));
        }
        let before = if kind == LineKind::EpochBesideSteps { "epoch" } else { "train" };
        add(&mut figures, before, object);
        for (set, measures) in object.get("validation").and_then(Value::as_object).into_iter().flatten() {
            add(&mut figures, set, measures.as_object()?);
        }
        Some(Self { step, epoch, of_epoch, figures })
    }
}

/// Adds the numbers of `object`; JSON has no others than finite ones.
fn add(figures: &mut Vec<(String, f64)>, before: &str, object: &Map<String, Value>) {
    for (key, value) in object.iter().filter(|(key, _)| !NO_FIGURES.contains(&key.as_str())) {
        let name = if key == "train_loss" { "loss" } else { key };
        figures.extend(value.as_f64().map(|value| (format!("{before}/{name}"), value)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: &str = r#"{"epoch":2,"step":16,"learning_rate":0.01,"train_loss":1.5,"kl":1.25,"gradient_norm":null,
        "seconds":3.5,"samples_per_second":20.0,"validation":{"test":{"samples":10,"accuracy":0.5}}}"#;

    fn names(line: &Line) -> Vec<&str> {
        line.figures.iter().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn figures_have_the_names_of_their_kind() {
        let line = Line::parse(EPOCH, LineKind::Epoch).unwrap();
        assert_eq!((line.step, line.epoch, line.of_epoch), (16, 2, true));
        let expected = [
            "train/epoch",
            "train/learning_rate",
            "train/loss",
            "train/kl",
            "train/samples_per_second",
            "test/samples",
            "test/accuracy",
        ];
        assert_eq!(names(&line), expected);
        assert_eq!(line.figures[2].1, 1.5);
        let line = Line::parse(EPOCH, LineKind::EpochBesideSteps).unwrap();
        assert_eq!(names(&line)[..3], ["train/epoch", "epoch/learning_rate", "epoch/loss"]);
        let line = Line::parse(r#"{"step":5,"epoch":1,"train_loss":2.0}"#, LineKind::Step).unwrap();
        assert_eq!((names(&line), line.of_epoch), (vec!["train/loss"], false));
    }

    #[test]
    fn what_is_no_line_is_none() {
        for text in ["", "{", "[]", r#"{"step":5}"#, r#"{"step":-1,"epoch":1}"#, &EPOCH[..60]] {
            assert_eq!(Line::parse(text, LineKind::Epoch), None, "{text}");
        }
    }
}
