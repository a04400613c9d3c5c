//! A config as MLflow's parameters.

use serde::Serialize;
use serde_json::Value;

/// Characters of a parameter's value that every version of MLflow takes.
const LONGEST: usize = 500;

/// Every value of `config` under its dotted key, as text: `optimizer.learning_rate`, `0.01`.
pub fn flatten(config: &impl Serialize) -> Vec<(String, String)> {
    let mut params = Vec::new();
    if let Ok(value) = serde_json::to_value(config) {
        walk(&mut params, String::new(), &value);
    }
    params
}

fn walk(params: &mut Vec<(String, String)>, key: String, value: &Value) {
    match value {
        Value::Null => {}
        Value::Object(object) => {
            for (name, value) in object {
                let inner = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                walk(params, inner, value);
            }
        }
        Value::String(text) => params.push((name(&key), shortened(text))),
        other => params.push((name(&key), shortened(&other.to_string()))),
    }
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    text.chars().take(LONGEST - 1).chain(['…']).collect()
}

/// `key` with what no version of MLflow allows in a name made an underscore.
pub(super) fn name(key: &str) -> String {
    let allowed = |c: char| c.is_alphanumeric() || "_-. /".contains(c);
    key.chars().map(|c| if allowed(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_config_becomes_dotted_keys() {
        let config = json!({
            "seed": 3,
            "student": { "kind": "mlp", "hidden": [16, 8] },
            "init": null,
            "validation": { "a(b)": { "cache": "x" } },
            "loss": { "temperature": 2.0, "weights": { "kl": 1.0 } },
            "long": "ä".repeat(700),
        });
        let found = flatten(&config);
        let expected = [
            ("seed", "3"),
            ("student.kind", "mlp"),
            ("student.hidden", "[16,8]"),
            ("validation.a_b_.cache", "x"),
            ("loss.temperature", "2.0"),
            ("loss.weights.kl", "1.0"),
        ];
        for ((key, value), found) in expected.iter().zip(&found) {
            assert_eq!((*key, *value), (found.0.as_str(), found.1.as_str()));
        }
        let last = &found[expected.len()];
        assert_eq!((last.0.as_str(), last.1.chars().count()), ("long", LONGEST));
        assert!(last.1.ends_with("ä…"));
    }
}
