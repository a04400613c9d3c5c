//! Which of its arguments a module of tokens takes, and in which order.

use std::path::Path;

use tch::IValue;

use super::module::Module;
use crate::config::TeacherConfig;
use crate::teacher::TeacherError;

/// What is given for an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Argument {
    /// The tokens.
    Ids,
    /// 1 for a token, 0 for padding.
    Mask,
    /// Each token's place in its document.
    Positions,
}

/// More arguments than any module takes.
const TOO_MANY: usize = 256;

/// What `forward` takes, by the names in its declaration.
///
/// A module is asked for its declaration by a call with too many arguments: libtorch refuses it before
/// anything runs, and says what it expected. The bindings have no other way to it.
pub(super) fn of(module: &Module, config: &TeacherConfig) -> Result<Vec<Argument>, TeacherError> {
    let none: Vec<IValue> = (0..TOO_MANY).map(|_| IValue::None).collect();
    let answer = module.module.forward_is(&none).err().map(|error| error.to_string()).unwrap_or_default();
    let Some(declared) = declaration(&answer) else {
        return Err(TeacherError::Runtime {
            path: module.path.clone(),
            doing: "asking forward() for its arguments",
            problem: answer.lines().next().unwrap_or("it took every argument").to_owned(),
        });
    };
    choose(&module.path, config, &declared)
}

/// Name of each argument after `self`, and whether it may be left out.
fn declaration(message: &str) -> Option<Vec<(String, bool)>> {
    let (_, declared) = message.split_once("Declaration: forward(")?;
    let mut parts = vec![String::new()];
    let mut depth = 0;
    for letter in declared.chars() {
        match letter {
            ')' if depth == 0 => break,
            ',' if depth == 0 => {
                parts.push(String::new());
                continue;
            }
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            _ => {}
        }
        if let Some(part) = parts.last_mut() {
            part.push(letter);
        }
    }
    let argument = |part: &String| {
        let (typed, default) =
            part.split_once('=').map_or((part.as_str(), false), |(typed, _)| (typed, true));
        Some((typed.split_whitespace().next_back()?.to_owned(), default))
    };
    parts.iter().skip(1).map(argument).collect()
}

/// The leading arguments that are known, as long as the rest may be left out.
fn choose(
    path: &Path,
    config: &TeacherConfig,
    declared: &[(String, bool)],
) -> Result<Vec<Argument>, TeacherError> {
    let names: Vec<String> = declared.iter().map(|(name, _)| name.clone()).collect();
    let cache: Vec<String> = declared
        .iter()
        .filter(|(name, default)| !default && name.starts_with("past"))
        .map(|d| d.0.clone())
        .collect();
    if !cache.is_empty() {
        return Err(TeacherError::KeyValueCache { path: path.to_owned(), found: cache });
    }
    let wanted = [
        ("attention_mask", &config.attention_mask, Argument::Mask),
        ("position_ids", &config.position_ids, Argument::Positions),
    ];
    let mut chosen = vec![Argument::Ids];
    for (name, _) in declared.iter().skip(1) {
        let known = wanted.iter().find(|(usual, given, _)| given.as_deref().unwrap_or(usual) == name);
        let Some((_, _, argument)) = known else { break };
        chosen.push(*argument);
    }
    for (key, given, argument) in wanted {
        if let Some(name) = given.as_ref().filter(|_| !chosen.contains(&argument)) {
            let problem = format!("expected {name:?} after the tokens, with nothing unknown between them");
            return Err(TeacherError::Name { path: path.to_owned(), key, problem, found: names });
        }
    }
    if declared.is_empty() || declared.iter().skip(chosen.len()).any(|(_, default)| !default) {
        let known: Vec<String> = names.iter().take(chosen.len()).cloned().collect();
        return Err(TeacherError::Inputs { path: path.to_owned(), found: names, known: known.join(", ") });
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(more: &str) -> TeacherConfig {
        toml::from_str(&format!("kind = \"torchscript\"\npath = \"m.pt\"\n{more}")).unwrap()
    }

    fn chosen(declared: &str, more: &str) -> Result<Vec<Argument>, String> {
        let message = format!(
            "forward() expected at most 3 argument(s) but received 257 argument(s). \
             Declaration: forward(__torch__.M self{declared}) -> Tensor\nException raised from"
        );
        let declared = declaration(&message).unwrap();
        choose(Path::new("m.pt"), &config(more), &declared).map_err(|error| error.to_string())
    }

    #[test]
    fn arguments_are_known_by_their_names() {
        use Argument::{Ids, Mask, Positions};
        assert_eq!(chosen(", Tensor x", ""), Ok(vec![Ids]));
        assert_eq!(
            chosen(", Tensor input_ids, Tensor attention_mask, Tensor position_ids", ""),
            Ok(vec![Ids, Mask, Positions])
        );
        assert_eq!(chosen(", Tensor input_ids, Tensor position_ids", ""), Ok(vec![Ids, Positions]));
        assert_eq!(
            chosen(
                ", Tensor t, Tensor? attention_mask=None, (Tensor, Tensor)[] past=[], bool cache=False",
                ""
            ),
            Ok(vec![Ids, Mask])
        );
        assert_eq!(chosen(", Tensor t, Tensor pad", "attention_mask = \"pad\""), Ok(vec![Ids, Mask]));
    }

    #[test]
    fn what_cannot_be_given_is_named() {
        let error = chosen(", Tensor t, Tensor types", "").unwrap_err();
        assert!(error.starts_with("m.pt: takes t, types, of which a teacher gives t only"), "{error}");
        let error = chosen(", Tensor t, Tensor[] past_key_values", "").unwrap_err();
        assert!(error.contains("takes a key-value cache (past_key_values)"), "{error}");
        let error = chosen(", Tensor t", "position_ids = \"places\"").unwrap_err();
        assert!(error.contains("teacher.position_ids: m.pt has t; expected \"places\""), "{error}");
        let error = chosen("", "").unwrap_err();
        assert!(error.starts_with("m.pt: takes none"), "{error}");
    }
}
