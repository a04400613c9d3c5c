//! Settings of the loss that may change over a run.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Fault;

/// A number, or a table that says how it changes over the steps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Setting {
    /// The same at every step.
    Fixed(f64),
    /// Another at every step.
    Changing(ChangeConfig),
}

/// How a number changes over the steps of a run: it is `from` until `start_epochs`, and `to` once `over_epochs` or
/// `over_steps` have passed after that. Lengths in epochs may be fractions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeConfig {
    /// The first value.
    pub from: f64,
    /// The last value.
    pub to: f64,
    /// The way between them.
    #[serde(default)]
    pub shape: ChangeShape,
    /// Epochs before the change begins.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub start_epochs: f64,
    /// Epochs of the change; default: the rest of the run (of its `train.epochs`), so that `to` would be reached at
    /// the step after the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub over_epochs: Option<f64>,
    /// The same in steps; one of both is enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub over_steps: Option<u64>,
}

/// The way from one value to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChangeShape {
    /// A straight line.
    #[default]
    Linear,
    /// Half a cosine: slow, fast, slow.
    Cosine,
}

impl From<f64> for Setting {
    fn from(value: f64) -> Self {
        Self::Fixed(value)
    }
}

impl Default for Setting {
    fn default() -> Self {
        Self::Fixed(0.0)
    }
}

impl Setting {
    /// The values it begins and ends with; every other lies between them.
    pub fn ends(&self) -> [f64; 2] {
        match *self {
            Self::Fixed(value) => [value; 2],
            Self::Changing(ChangeConfig { from, to, .. }) => [from, to],
        }
    }

    /// The largest value that it has.
    pub fn largest(&self) -> f64 {
        let [from, to] = self.ends();
        from.max(to)
    }

    /// Whether it is not the same at every step.
    pub fn changes(&self) -> bool {
        let [from, to] = self.ends();
        from != to
    }

    pub(super) fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    /// Faults of the setting `key` of a run of so many epochs.
    pub(super) fn validate(&self, key: &str, epochs: f64) -> Vec<Fault> {
        let Self::Changing(change) = self else { return Vec::new() };
        let mut faults = Vec::new();
        if let (Some(epochs), Some(steps)) = (change.over_epochs, change.over_steps) {
            let problem = format!("expected this or over_epochs, found both: {steps} and {epochs}");
            faults.push(Fault::new(format!("{key}.over_steps"), problem));
        }
        if change.start_epochs >= epochs {
            let problem =
                format!("expected less than train.epochs = {epochs}, found {}", change.start_epochs);
            faults.push(Fault::new(format!("{key}.start_epochs"), problem));
        }
        let end = change.start_epochs + change.over_epochs.unwrap_or(0.0);
        if change.start_epochs < epochs && end > epochs {
            let problem =
                format!("expected an end within train.epochs = {epochs}, found one after {end} epochs");
            faults.push(Fault::new(format!("{key}.over_epochs"), problem));
        }
        faults
    }
}

/// The schema of a [`Setting`] above 0.
pub(super) struct Positive;

/// The schema of a [`Setting`] from 0 up.
pub(super) struct NotNegative;

impl JsonSchema for Positive {
    fn schema_name() -> Cow<'static, str> {
        "PositiveSetting".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        bounded(generator, "exclusiveMinimum")
    }
}

impl JsonSchema for NotNegative {
    fn schema_name() -> Cow<'static, str> {
        "SettingFromZero".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        bounded(generator, "minimum")
    }
}

/// A number or a change, whose values have 0 as their `bound`.
fn bounded(generator: &mut SchemaGenerator, bound: &str) -> Schema {
    let mut change = ChangeConfig::json_schema(generator);
    if let Some(properties) = change.get_mut("properties") {
        for end in ["from", "to"] {
            properties[end][bound] = json!(0.0);
        }
    }
    json_schema!({
        "description": "A number, or a table that says how it changes over the steps.",
        "anyOf": [{ "type": "number", "format": "double", bound: 0.0 }, change],
    })
}
