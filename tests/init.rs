//! `[init]`: a student begins with a checkpoint's weights, and the run says all that matched and all that did not. The
//! built programs.

#![cfg(all(feature = "onnx", feature = "torch"))]

use std::path::Path;

use crate::common::{Case, fixture, kd_train};
use serde_json::{Value, json};

fn summary(run: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(run.join("summary.json")).unwrap()).unwrap()
}

/// `kd-train export --to torchscript` of a run.
fn export(case: &Case, name: &str) -> String {
    let out = case.out(&format!("{name}.pt"));
    kd_train(&args!["export", case.out(name), "--to", "torchscript", "--out", out]).code(0);
    format!("init.weights={}", out.display())
}

#[test]
fn a_module_that_was_exported_is_where_a_student_begins() {
    let case = Case::new();
    let small = format!("student={{ kind = \"torchscript\", path = {:?} }}", fixture("students/small.pt"));
    // Rates at which what was begun with is still to be seen.
    let still = "optimizer={ kind = \"sgd\", learning_rate = 1e-30 }";
    case.train("module", &[&small, "train.epochs=1"]).code(0);
    let init = export(&case, "module");

    // The same module: every parameter. Its buffers are nobody's to read, here or there.
    let report = case.train("same", &[&small, still, &init]).code(0).json();
    let expected = json!({ "taken": 6, "missing": [], "other_shapes": [], "unused": [] });
    assert_eq!(report["init"], expected);
    assert_eq!(case.weights("same"), case.weights("module"));

    // Another student: one name in one shape is in both. What was matched outlives an interruption.
    let expected = json!({
        "taken": 1,
        "missing": ["hidden0.bias", "hidden0.weight"],
        "other_shapes": [{ "name": "head.weight", "expected": [10, 16], "found": [10, 392] }],
        "unused": ["conv.bias", "conv.weight", "norm.bias", "norm.weight"],
    });
    let report = case.train("other", &[still, &init, "train.max_steps=3"]).code(0).json();
    assert_eq!((&report["init"], &summary(&case.out("other"))["init"]), (&expected, &expected));
    std::fs::remove_file(case.out("module.pt")).unwrap();
    std::fs::remove_file(case.out("other/summary.json")).unwrap();
    let report = case.resume("other", &[still, &init]).code(0).json();
    assert_eq!((&report["init"], &summary(&case.out("other"))["init"]), (&expected, &expected));
    assert_eq!(case.weights("other")["head.bias"], case.weights("module")["head.bias"]);

    // A run without it says nothing, and what is traced of a built-in student has no parameters.
    let report = case.train("plain", &[]).code(0).json();
    assert_eq!(report.get("init"), None);
    let traced = export(&case, "plain");
    case.refused(&[&traced], &["init.weights", "plain.pt", "found none", "student.safetensors"]);
}
