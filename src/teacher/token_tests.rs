//! Language models against PyTorch, which was given each document alone and in double precision.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::PathBuf;

use serde::Deserialize;

use super::{OutputType, RawOutput, TeacherError, TokenBatch, TokenTeacher, open, open_tokens};
use crate::config::{NumberOrAuto, TeacherConfig};

const CLASSES: usize = 50;

#[derive(Deserialize)]
struct Reference {
    documents: Vec<Vec<i64>>,
    /// `[document][position][class]`.
    logits: Vec<Vec<Vec<f64>>>,
}

fn reference() -> Reference {
    let path = fixtures().join("reference/causal.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// The config of a fixture, and of its head where `more` names one.
fn config(file: &str, more: &str) -> TeacherConfig {
    let teachers = fixtures().join("teachers");
    let kind = if file.ends_with(".onnx") { "onnx" } else { "torchscript" };
    let mut config: TeacherConfig =
        toml::from_str(&format!("kind = {kind:?}\npath = {file:?}\nbatch = 2\n{more}")).unwrap();
    config.path = teachers.join(config.path);
    config.head = config.head.map(|head| teachers.join(head));
    config
}

/// Rows of documents, by number; every row is padded to `length`.
fn batch(reference: &Reference, rows: &[&[usize]], length: usize) -> TokenBatch {
    let mut batch = TokenBatch::new(length);
    for row in rows {
        let documents: Vec<&[i64]> = row.iter().map(|one| reference.documents[*one].as_slice()).collect();
        batch.push_documents(&documents).unwrap();
    }
    batch
}

fn outputs(teacher: &mut dyn TokenTeacher, batch: &TokenBatch) -> Vec<RawOutput> {
    let mut outputs = Vec::new();
    teacher
        .forward(batch, &mut |output| {
            outputs.push(output);
            ControlFlow::Continue(())
        })
        .unwrap();
    outputs
}

fn values(teacher: &mut dyn TokenTeacher, batch: &TokenBatch) -> Vec<f32> {
    outputs(teacher, batch).into_iter().flat_map(|output| output.values.into_host().into_vec()).collect()
}

/// The largest difference from PyTorch's logits of the documents, of the first `classes`.
#[track_caller]
fn difference(reference: &Reference, rows: &[&[usize]], classes: usize, values: &[f32]) -> f64 {
    let wanted: Vec<f64> = rows
        .concat()
        .iter()
        .flat_map(|one| &reference.logits[*one])
        .flat_map(|position| &position[..classes])
        .copied()
        .collect();
    assert_eq!(values.len(), wanted.len());
    values.iter().zip(wanted).map(|(found, wanted)| (f64::from(*found) - wanted).abs()).fold(0.0, f64::max)
}

fn refused(file: &str, more: &str, length: usize) -> String {
    open_tokens(&config(file, more), &[], length)
        .map(|_| ())
        .unwrap_err()
        .to_string()
        .replace(&format!("{}/", fixtures().join("teachers").display()), "")
}

#[test]
fn every_form_of_a_model_is_as_pytorch_says() {
    let reference = reference();
    let packed: &[&[usize]] = &[&[1, 2, 4], &[0]];
    let alone: &[&[usize]] = &[&[2], &[0]];
    for (file, more, rows, dtype, tolerance) in [
        ("causal.onnx", "", packed, OutputType::F32, 1e-5),
        ("causal_f64.onnx", "", packed, OutputType::F64, 1e-5),
        ("causal_f16.onnx", "", packed, OutputType::F16, 4e-3),
        ("causal_bf16.onnx", "", packed, OutputType::Bf16, 4e-2),
        ("causal_fixed.onnx", "", packed, OutputType::F32, 1e-5),
        ("causal_body.onnx", "head = \"causal_head.onnx\"", packed, OutputType::F32, 1e-5),
        ("causal_body_f16.onnx", "head = \"causal_head_f16.onnx\"", packed, OutputType::F32, 4e-3),
        ("causal_int32.onnx", "", alone, OutputType::F32, 1e-5),
        ("causal.pt", "", packed, OutputType::F32, 1e-5),
        ("causal_body.pt", "head = \"causal_head.pt\"", packed, OutputType::F32, 1e-5),
        ("causal_ids.pt", "", alone, OutputType::F32, 1e-5),
    ] {
        let mut teacher = open_tokens(&config(file, more), &[], 12).unwrap();
        let outputs = outputs(teacher.as_mut(), &batch(&reference, rows, 12));
        assert!(outputs.iter().all(|o| o.classes == CLASSES && o.dtype == dtype), "{file}: {outputs:?}");
        let values: Vec<f32> =
            outputs.into_iter().flat_map(|output| output.values.into_host().into_vec()).collect();
        let difference = difference(&reference, rows, CLASSES, &values);
        assert!(difference < tolerance, "{file}: {difference}");
    }
}

/// Where the library's tests run: on a GPU, whose matrix products are coarser, logits stay there, rows that are padded too.
#[test]
fn logits_stay_on_the_device_that_they_are_computed_on() {
    let reference = reference();
    let device = crate::libtorch::of_tests();
    let rows: &[&[usize]] = &[&[1, 2, 4], &[0], &[3]];
    for (file, more) in [
        ("causal.onnx", ""),
        ("causal_f16.onnx", ""),
        ("causal_body.onnx", "head = \"causal_head.onnx\""),
        ("causal.pt", ""),
    ] {
        let mut config = config(file, more);
        if device.is_cuda() {
            config.device = "cuda".into();
        }
        let mut teacher = open_tokens(&config, &[], 12).unwrap();
        let outputs = outputs(teacher.as_mut(), &batch(&reference, rows, 12));
        let there = |output: &RawOutput| output.values.on_device() == device.is_cuda();
        assert!(outputs.iter().all(there), "{file}");
        let values: Vec<f32> =
            outputs.into_iter().flat_map(|output| output.values.into_host().into_vec()).collect();
        let difference = difference(&reference, rows, CLASSES, &values);
        assert!(difference < 2e-2, "{file}: {difference}");
    }
}

#[test]
fn padding_and_the_other_rows_of_a_batch_change_nothing() {
    let reference = reference();
    for (file, more) in [
        ("causal.onnx", ""),
        ("causal_body.onnx", "head = \"causal_head.onnx\""),
        ("causal.pt", ""),
        ("causal_body.pt", "head = \"causal_head.pt\""),
    ] {
        let mut teacher = open_tokens(&config(file, more), &[], 16).unwrap();
        let rows: &[&[usize]] = &[&[0], &[3], &[4, 2]];
        let together = values(teacher.as_mut(), &batch(&reference, rows, 12));
        let longer = values(teacher.as_mut(), &batch(&reference, rows, 16));
        let apart: Vec<f32> = [[0].as_slice(), &[3], &[4, 2]]
            .into_iter()
            .flat_map(|row| {
                let tight = row.iter().map(|one| reference.documents[*one].len()).sum();
                values(teacher.as_mut(), &batch(&reference, &[row], tight))
            })
            .collect();
        for other in [longer, apart] {
            assert_eq!(together.len(), other.len());
            let worst = together.iter().zip(&other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-5, "{file}: {worst}");
        }
    }
}

#[test]
fn the_size_of_a_chunk_changes_no_bit_of_a_whole_model() {
    let reference = reference();
    let rows: &[&[usize]] = &[&[1, 2], &[], &[0]];
    // A head of its own is another product for another chunk, which may round another way.
    for (file, more, allowed) in [
        ("causal.onnx", "", 0.0),
        ("causal_f16.onnx", "", 0.0),
        ("causal.pt", "", 0.0),
        ("causal_body.onnx", "head = \"causal_head.onnx\"", 1e-5),
        ("causal_body.pt", "head = \"causal_head.pt\"", 1e-5),
    ] {
        let mut whole: Option<Vec<f32>> = None;
        for chunk in [256, 7, 3, 1] {
            let mut teacher =
                open_tokens(&config(file, &format!("{more}\nchunk = {chunk}")), &[], 12).unwrap();
            let outputs = outputs(teacher.as_mut(), &batch(&reference, rows, 12));
            let sizes: Vec<usize> = outputs.iter().map(|output| output.rows).collect();
            let (last, full) = sizes.split_last().unwrap();
            assert!(full.iter().all(|size| *size == chunk) && *last <= chunk, "{file}: {sizes:?}");
            assert_eq!(sizes.iter().sum::<usize>(), 20, "{file}");
            let values: Vec<f32> =
                outputs.into_iter().flat_map(|output| output.values.into_host().into_vec()).collect();
            let whole = whole.get_or_insert_with(|| values.clone());
            let worst = whole.iter().zip(&values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(whole.len() == values.len() && worst <= allowed, "{file}, chunk = {chunk}: {worst}");
        }
    }
}

#[test]
fn what_stands_in_padding_is_not_seen() {
    // Two rows of the same document, of which one goes on: the valid positions are alike.
    let reference = reference();
    let document = &reference.documents[0];
    for file in ["causal.onnx", "causal.pt", "causal_ids.pt", "causal_int32.onnx"] {
        let mut teacher = open_tokens(&config(file, ""), &[], 12).unwrap();
        let mut short = TokenBatch::new(12);
        short.push_documents(&[&document[..5]]).unwrap();
        let mut long = TokenBatch::new(12);
        long.push_documents(&[document]).unwrap();
        let (short, long) = (values(teacher.as_mut(), &short), values(teacher.as_mut(), &long));
        assert_eq!(short.len(), 5 * CLASSES);
        let worst = short.iter().zip(&long).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-5, "{file}: {worst}");
    }
}

#[test]
fn without_places_documents_see_each_other() {
    // The other side of packing: one run of places is one document, and the logits are others.
    let reference = reference();
    let both: Vec<i64> = [1, 2].iter().flat_map(|one| reference.documents[*one].clone()).collect();
    for file in ["causal.onnx", "causal.pt"] {
        let mut teacher = open_tokens(&config(file, ""), &[], 12).unwrap();
        let mut run = TokenBatch::new(12);
        run.push_documents(&[&both]).unwrap();
        let values = values(teacher.as_mut(), &run);
        assert!(difference(&reference, &[&[1, 2]], CLASSES, &values) > 0.1, "{file}");
    }
}

#[test]
fn a_padded_vocabulary_is_cut_when_that_is_asked_for() {
    let reference = reference();
    let rows: &[&[usize]] = &[&[1], &[2]];
    for (file, head) in [
        ("causal.onnx", ""),
        ("causal_body.onnx", "head = \"causal_head.onnx\""),
        ("causal.pt", ""),
        ("causal_body.pt", "head = \"causal_head.pt\""),
    ] {
        let more = format!("{head}\nclasses = 40\npadded_vocabulary = true\nchunk = 3");
        let mut teacher = open_tokens(&config(file, &more), &[], 12).unwrap();
        let outputs = outputs(teacher.as_mut(), &batch(&reference, rows, 12));
        assert!(outputs.iter().all(|o| o.classes == 40), "{file}");
        let values: Vec<f32> =
            outputs.into_iter().flat_map(|output| output.values.into_host().into_vec()).collect();
        assert!(difference(&reference, rows, 40, &values) < 1e-5, "{file}");

        let more = format!("{head}\nclasses = 40");
        let error = match open_tokens(&config(file, &more), &[], 12) {
            Err(error) => error,
            Ok(mut teacher) => {
                teacher.forward(&batch(&reference, rows, 12), &mut |_| ControlFlow::Continue(())).unwrap_err()
            }
        };
        let error = error.to_string();
        assert!(
            error.contains("teacher.classes = 40, but ") && error.contains(" gives 50 logits"),
            "{error}"
        );
        assert!(error.contains("teacher.padded_vocabulary = true"), "{error}");
    }
}

#[test]
fn a_sink_that_has_enough_is_given_no_more() {
    let reference = reference();
    for file in ["causal.onnx", "causal.pt"] {
        let mut teacher = open_tokens(&config(file, "chunk = 2"), &[], 12).unwrap();
        let mut given = 0;
        teacher
            .forward(&batch(&reference, &[&[0]], 12), &mut |_| {
                given += 1;
                if given == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .unwrap();
        assert_eq!(given, 2, "{file}");
        assert!(outputs(teacher.as_mut(), &TokenBatch::new(12)).is_empty(), "{file}: no rows");
    }
}

#[test]
fn a_model_of_a_fixed_size_is_given_no_more_than_it_takes() {
    assert_eq!(
        refused("causal_fixed.onnx", "", 13),
        "causal_fixed.onnx: input \"input_ids\" is i64 [2, 12]; expected rows of 13 tokens; cut the rows to 12 \
         tokens, or export the model with an open length"
    );
    let mut many = config("causal_fixed.onnx", "");
    many.batch = Some(NumberOrAuto::Of(NonZeroUsize::new(3).unwrap()));
    let error = open_tokens(&many, &[], 12).map(|_| ()).unwrap_err().to_string();
    assert!(error.ends_with("expected 3 rows (teacher.batch); set teacher.batch = 2"), "{error}");
    // Fewer and shorter rows are padded up to it.
    let reference = reference();
    let mut teacher = open_tokens(&config("causal_fixed.onnx", ""), &[], 5).unwrap();
    let values = values(teacher.as_mut(), &batch(&reference, &[&[1]], 5));
    assert!(difference(&reference, &[&[1]], CLASSES, &values) < 1e-5);
}

#[test]
fn wrong_models_are_refused_with_the_way_out() {
    let error = refused("causal_past.onnx", "", 12);
    assert!(error.contains("causal_past.onnx: takes a key-value cache (past_key_values.0.key, "), "{error}");
    assert!(error.contains("tools/export_lm.py"), "{error}");
    assert_eq!(
        refused("causal_types.onnx", "", 12),
        "causal_types.onnx: takes input_ids, attention_mask, position_ids, token_type_ids, of which a teacher \
         gives input_ids, attention_mask, position_ids only; name them with teacher.input, \
         teacher.attention_mask and teacher.position_ids, or export the model without the others"
    );
    assert_eq!(
        refused("linear.onnx", "", 12),
        "linear.onnx: input \"input\" is f32 [?, 1, 28, 28]; expected i64 or i32 [batch, length]"
    );
    let error = refused("causal.onnx", "position_ids = \"places\"", 12);
    assert!(error.starts_with("teacher.position_ids: causal.onnx has input_ids, "), "{error}");
    assert!(error.ends_with("expected one named \"places\""), "{error}");
    let error = refused("causal.onnx", "output = \"scores\"", 12);
    assert_eq!(error, "teacher.output: causal.onnx has logits; expected one named \"scores\"");
    assert_eq!(
        refused("causal_body_f16.onnx", "head = \"causal_head.onnx\"", 12),
        "teacher.head: causal_head.onnx: expected an input of f16 [any number of positions, 8], as \
         causal_body_f16.onnx gives; found f32 [?, 8]"
    );
    // A whole model's logits are no hidden states of this head.
    let error = refused("causal.onnx", "head = \"causal_head.onnx\"", 12);
    assert!(error.contains("[any number of positions, 50]"), "{error}");
    assert_eq!(refused("causal.onnx", "head = \"none.onnx\"", 12), "teacher.head: cannot read none.onnx");
    assert_eq!(refused("none.onnx", "", 12), "teacher.path: cannot read none.onnx");
}

#[test]
fn outputs_that_are_no_logits_of_positions_are_refused() {
    let reference = reference();
    let ask = |file: &str, more: &str| {
        let mut teacher = open_tokens(&config(file, more), &[], 12).unwrap();
        let asked = batch(&reference, &[&[1]], 12);
        teacher.forward(&asked, &mut |_| ControlFlow::Continue(())).unwrap_err().to_string()
    };
    // The image classifier takes one argument, as far as its declaration goes.
    let error = ask("linear.pt", "");
    assert!(error.contains("linear.pt: the forward pass failed: "), "{error}");
    let error = ask("causal.pt", "head = \"linear.pt\"");
    assert!(error.contains("linear.pt: the forward pass failed: "), "{error}");
    let mut teacher = open_tokens(&config("causal_int32.onnx", ""), &[], 12).unwrap();
    let mut wide = TokenBatch::new(2);
    wide.push(&[1, 1 << 40], &[0, 1]).unwrap();
    let error = teacher.forward(&wide, &mut |_| ControlFlow::Continue(())).unwrap_err().to_string();
    assert_eq!(
        error,
        "row 0 of a batch of tokens: 1099511627776 does not fit in i32, which input \"tokens\" is"
    );
}

#[test]
fn keys_of_language_models_are_refused_for_others() {
    for (more, key) in [
        ("head = \"causal_head.onnx\"", "head"),
        ("padded_vocabulary = true\nclasses = 10", "padded_vocabulary"),
        ("attention_mask = \"mask\"", "attention_mask"),
        ("position_ids = \"places\"", "position_ids"),
    ] {
        let error = open(&config("linear.onnx", more), &[], &[1, 28, 28]).map(|_| ()).unwrap_err();
        assert!(matches!(error, TeacherError::OnlyTokens { key: found } if found == key), "{error}");
        assert!(error.to_string().starts_with(&format!("teacher.{key}: ")), "{error}");
    }
}

/// How fast a real model is, and whether its head in a file of its own changes what it says.
///
/// KD_CACHE_LANGUAGE_MODELS: a folder with `onnx`, `onnx-split`, `torchscript` and `torchscript-split`, each
/// written by `tools/export_lm.py` from the same model.
#[test]
#[ignore = "needs models that tools/export_lm.py wrote"]
#[allow(clippy::disallowed_methods, reason = "the place of large files that are not in the repository")]
fn a_real_model_says_the_same_in_every_form() {
    let folder = PathBuf::from(std::env::var_os("KD_CACHE_LANGUAGE_MODELS").expect("a folder"));
    let (rows, length) = (4, 256);
    let mut batch = TokenBatch::new(length);
    for row in 0..rows {
        let ids: Vec<i64> = (0..length as i64).map(|at| 100 + (at * 7919 + row * 104_729) % 40_000).collect();
        batch.push_documents(&[&ids[..100], &ids[100..]]).unwrap();
    }
    let mut first: Option<Vec<f32>> = None;
    for (form, suffix, split) in [
        ("onnx", "onnx", false),
        ("onnx-split", "onnx", true),
        ("torchscript", "pt", false),
        ("torchscript-split", "pt", true),
    ] {
        let mut config = config(&format!("model.{suffix}"), "");
        config.batch = Some(NumberOrAuto::Of(NonZeroUsize::new(4).unwrap()));
        config.path = folder.join(form).join(format!("model.{suffix}"));
        config.head = split.then(|| folder.join(form).join(format!("head.{suffix}")));
        let mut teacher = open_tokens(&config, &[], length).unwrap();
        let mut pass = |sink: &mut dyn FnMut(RawOutput)| {
            teacher
                .forward(&batch, &mut |output| {
                    sink(output);
                    ControlFlow::Continue(())
                })
                .unwrap();
        };
        let mut logits = Vec::new();
        pass(&mut |output| logits.extend(output.values.into_host().into_vec()));
        // libtorch compiles in its first two passes.
        pass(&mut drop);
        let (passes, start) = (3, std::time::Instant::now());
        for _ in 0..passes {
            pass(&mut drop);
        }
        let speed = (passes * batch.ids().len()) as f64 / start.elapsed().as_secs_f64();
        let first = first.get_or_insert_with(|| logits.clone());
        let worst = first.iter().zip(&logits).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("{form}: {speed:.0} positions/s, logits differ from ONNX's by at most {worst:.1e}");
        assert_eq!(first.len(), logits.len(), "{form}");
        assert!(worst < 5e-3, "{form}: {worst}");
    }
}
