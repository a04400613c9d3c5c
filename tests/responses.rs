//! Learning from responses alone, out of a cache of whole documents: the built programs, and the batches they learn from.

#![cfg(all(feature = "onnx", feature = "torch"))]

use std::io::Write;
use std::path::PathBuf;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Float32Type, UInt32Type, UInt64Type};

use crate::common::{Case, kd_train, talking_build, write};
use crate::inference::{lists, numbers, read};
use crate::language_student::{language_case, tokenizer};
use kd_cache::cache::CacheReader;
use kd_cache::loader::{Inputs, Responses, Samples};
use serde_json::json;

/// What begins a response and what ends one.
const BEGIN: [u32; 2] = [30, 31];
const END: u32 = 32;
/// The same in a config.
const SECTION: &str = "[responses]\nbegin = \"w30 w31\"\nend = \"w32\"";

/// Chats of two answers each, the last of which has no end, packed by gzip; a tokenizer; a cache over them and a student.
fn case() -> Case {
    let dir = tempfile::tempdir().unwrap();
    let own = tokenizer(dir.path(), "own.json", 40);
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    for chat in 0..12u32 {
        let word = |at: u32| format!("w{}", (chat * 5 + at * 3) % 20);
        let said = |from: u32, to: u32| (from..to).map(word).collect::<Vec<_>>().join(" ");
        let text = format!(
            "{} w30 w31 {} w32 {} w30 w31 {}",
            said(0, 2 + chat % 3),
            said(4, 7),
            said(8, 9),
            said(11, 12 + chat % 3)
        );
        writeln!(packed, "{}", json!({ "text": text })).unwrap();
    }
    let documents = dir.path().join("chats.jsonl.gz");
    std::fs::write(&documents, packed.finish().unwrap()).unwrap();
    let folder = dir.path();
    let dataset = format!(
        r#"[dataset]
kind = "jsonl"
paths = [{folder:?}]
tokenizer = {own:?}
rows = {{ length = 16, packing = "document" }}"#
    );
    let first = format!("tokenizer = {own:?}\n{SECTION}");
    language_case(dir, &dataset, &[], &first, "epochs = 1\nselect_by = \"last\"")
}

/// The same training config, which learns from everything.
fn without_responses(case: &Case) -> PathBuf {
    let text = std::fs::read_to_string(&case.config).unwrap();
    write(case.dir.path(), "without.toml", &text.replace(SECTION, ""))
}

/// Whether what follows each token is learned from: by hand, of the chats above.
fn expected(tokens: &[u32]) -> Vec<bool> {
    let mut inside = false;
    (0..tokens.len())
        .map(|at| {
            if at > 0 && tokens[at - 1..=at] == BEGIN {
                inside = true;
            } else if tokens[at] == END {
                inside = false;
            }
            inside
        })
        .collect()
}

#[test]
fn batches_have_the_positions_of_responses_alone() {
    let case = case();
    let open = || Samples::tokens(CacheReader::open(&case.out("cache")).unwrap(), true);
    let responses = Responses { begin: BEGIN.to_vec(), end: Some(vec![END]) };
    let (all, some) = (open(), open().with_responses(Some(responses)));
    let indices: Vec<u64> = vec![5, 0, 7, 11];
    let (whole, part) = (all.batch(&indices, 0).unwrap(), some.batch(&indices, 0).unwrap());
    let (Inputs::Tokens(tokens), Inputs::Tokens(of_part)) = (&whole.inputs, &part.inputs) else {
        panic!("no tokens")
    };
    assert_eq!((&tokens.tokens, &tokens.documents), (&of_part.tokens, &of_part.documents));
    let cache = CacheReader::open(&case.out("cache")).unwrap();
    let learned: Vec<bool> =
        indices.iter().flat_map(|row| expected(&cache.tokens(*row).unwrap().unwrap().tokens)).collect();
    let wanted: Vec<usize> = (0..learned.len()).filter(|at| learned[*at]).collect();
    assert!(wanted.len() > 20 && wanted.len() < learned.len() * 2 / 3, "{wanted:?}");
    let picked = |values: &[i64]| wanted.iter().map(|at| values[*at]).collect::<Vec<_>>();
    assert_eq!(of_part.positions, picked(&tokens.positions));
    assert_eq!(part.labels, whole.labels.as_deref().map(picked));
    assert_eq!(part.targets[0], whole.targets[0].of(&wanted));
    assert_eq!(some.counts(&indices).unwrap(), part.counts());
    assert_eq!(some.learned_of(&indices).unwrap(), (wanted.len(), learned.len()));
}

#[test]
fn what_is_learned_and_measured_is_that_of_responses() {
    let case = case();
    // Steps too small to change anything: what is told is of the first weights.
    let still = ["optimizer.learning_rate=1e-12", "loss.weights={ cross_entropy = 1.0 }"];
    let run = case.train("some", &still).code(0);
    assert!(run.err.is_empty(), "{}", run.err);
    let some = run.json();
    case.run_of(&without_responses(&case), "all", false, &still).code(0);
    let predict = |run: &str| {
        let out = case.out("p.parquet");
        kd_train(&args!["predict", case.out(run), "--dataset", "seen", "--out", out, "--logits"]).code(0);
        read(&out)
    };
    let (all, of_some) = (predict("all"), predict("some"));
    // Every position's loss, from the logits; which of them count, from the tokens.
    let samples = all.column_by_name("sample").unwrap().as_primitive::<UInt64Type>().values();
    let tokens = numbers(&all, "token");
    let (mut learned, mut start) = (Vec::new(), 0);
    for row in samples.chunk_by(|a, b| a == b) {
        learned.extend(expected(&tokens[start..start + row.len()]));
        start += row.len();
    }
    let kept: Vec<usize> = (0..learned.len()).filter(|at| learned[*at]).collect();
    assert_eq!(kept.len(), of_some.num_rows());
    let labels = all.column_by_name("label").unwrap().as_primitive::<UInt32Type>();
    let logits = lists(&all, "logits");
    let loss = |at: &usize| {
        let logits = logits[*at].as_primitive::<Float32Type>().values();
        let sum: f64 = logits.iter().map(|z| f64::from(*z).exp()).sum();
        labels.is_valid(*at).then(|| sum.ln() - f64::from(logits[labels.value(*at) as usize]))
    };
    let losses: Vec<f64> = kept.iter().filter_map(loss).collect();
    // The last token of a chat has a target and no label.
    assert_eq!(losses.len() + 12, kept.len());
    let mean = losses.iter().sum::<f64>() / losses.len() as f64;
    let told = some["train_loss"].as_f64().unwrap();
    let measured = some["validation"]["seen"]["cross_entropy"].as_f64().unwrap();
    // Steps have losses of their own, of which the epoch's is the mean over labels.
    assert!((told - mean).abs() < 1e-5 && (measured - mean).abs() < 1e-5, "{told}, {measured}, {mean}");
    assert_eq!(some["validation"]["seen"]["samples"], json!(kept.len()));
    let loud: Vec<_> = case.args("loud", &still, &[]);
    let said = kd_train(&loud).code(0).err;
    let share = format!(
        "responses: {:.1} % of the tokens of the first 12 rows",
        100.0 * kept.len() as f64 / learned.len() as f64
    );
    assert!(said.contains(&share), "{share}: {said}");
    let eval = kd_train(&args!["eval", case.out("some"), "--format", "json"]).code(0).json();
    assert!((eval["validation"]["seen"]["cross_entropy"].as_f64().unwrap() - mean).abs() < 1e-5);

    // The same by ids; what the run keeps is the ids, so that it goes on without the tokenizer's text.
    let ids = ["responses.begin=[30, 31]", "responses.end=[32]"];
    case.train("ids", &[&still[..], &ids].concat()).code(0);
    assert!(case.results("ids").1 == case.results("some").1);
    case.resume("some", &[&still[..], &ids].concat()).code(0);
    case.resume("some", &[&still[..], &["responses.end=[33]"]].concat()).refused(&[
        "responses.end",
        "[32]",
        "[33]",
    ]);

    // Targets and positions belong together: a student comes close to the teacher where it learns.
    let report = case.train("taught", &["train.epochs=80"]).code(0).json();
    let epochs = case.epochs("taught");
    let kl = |epoch: &serde_json::Value| epoch["validation"]["seen"]["kl"].as_f64().unwrap();
    assert!(kl(&epochs[79]) < kl(&epochs[0]) / 5.0, "{report}");
}

#[test]
fn responses_that_are_not_there_are_told() {
    let case = case();
    case.refused(&["responses.begin=w33"], &["responses.begin", "first 12 rows", "[33]", "ids"]);
    case.refused(&["responses.begin="], &["responses.begin", "empty"]);
    case.refused(&["responses.begin=[]"], &["responses.begin", "at least 1"]);
    case.refused(&["responses.begin=[-1]"], &["responses.begin[0]", "at least 0"]);
    let text = std::fs::read_to_string(&case.config).unwrap();
    let bare = text.lines().filter(|line| !line.starts_with("tokenizer")).collect::<Vec<_>>().join("\n");
    let bare = write(case.dir.path(), "bare.toml", &bare);
    case.run_of(&bare, "refused", false, &[]).refused(&["responses.begin", "expected ids", "tokenizer"]);
    // A part of which most rows have none: their steps change nothing.
    let rare = ["responses.begin=[0, 3, 30, 31]", "responses.end=[32]", "train.batch=1", "train.epochs=2"];
    let report = case.train("rare", &rare).code(0).json();
    assert_eq!(report["steps"], json!(24));
    assert!(report["train_loss"].as_f64().unwrap().is_finite(), "{report}");
    // An average that counts steps without responses too is the same, gone on with or not.
    let averaged = [&rare[..], &["train.ema=0.9", "train.keep_every=1"]].concat();
    case.train("averaged", &averaged).code(0);
    case.train("parts", &[&averaged[..], &["train.max_steps=12"]].concat()).code(0);
    case.resume("parts", &averaged).code(0);
    assert!(case.results("parts").1 == case.results("averaged").1);
    // Steps that had none at all are not taken for a loss that is no number.
    let said = case.train("none", &[&rare[..], &["train.max_steps=1"]].concat());
    said.refused(&["epoch 1", "responses.begin", "train.max_steps"]);
    // Another config's sets are measured on as the run learned, unless it says otherwise.
    let without = without_responses(&case);
    let measured = |more: &[&str]| {
        let mut args = args!["eval", case.out("rare"), "--format", "json"].to_vec();
        more.iter().for_each(|more| args.push(more.into()));
        kd_train(&args).code(0).json()["validation"]["seen"]["samples"].clone()
    };
    assert_eq!(measured(&["--config", without.to_str().unwrap()]), measured(&[]));
    // Of images there are none.
    let images = Case::new();
    images.refused(&["responses.begin=[1]"], &["responses", "images", "leave the key out"]);
}

/// Messages that a template lays out are the text that it says, and a build tells between what its answers stand.
#[test]
fn chats_laid_out_by_a_template_are_their_text() {
    let case = case();
    let dir = case.dir.path();
    let chats = |chat: u32| {
        let said = |from: u32, to: u32| {
            (from..to).map(|at| format!("w{}", (chat + at) % 20)).collect::<Vec<_>>().join(" ")
        };
        [("user", said(0, 3)), ("assistant", said(2, 4)), ("user", said(7, 8)), ("assistant", said(5, 9))]
    };
    let (mut messages, mut texts) = (String::new(), String::new());
    for chat in (0..12).map(chats) {
        let laid_out = chat.iter().map(|(role, said)| match *role {
            "assistant" => format!("w30 w31 {said} w32\n"),
            _ => format!("{said}\n"),
        });
        texts += &format!("{}\n", json!({ "text": laid_out.collect::<String>() }));
        let chat =
            chat.iter().map(|(role, said)| json!({ "role": role, "content": said })).collect::<Vec<_>>();
        messages += &format!("{}\n", json!({ "messages": chat }));
    }
    let template = "{% for message in messages %}\n{% if message.role == 'assistant' %}\nw30 w31 {{ message.content }} w32\n\
                    {% else %}\n{{ message.content }}\n{% endif %}\n{% endfor %}\n\
                    {% if add_generation_prompt %}\nw30 w31 {% endif %}";
    write(dir, "chat_template.jinja", template);
    let built = |name: &str, lines: &str, more: &str| {
        let folder = dir.join(name);
        std::fs::create_dir(&folder).unwrap();
        write(&folder, "a.jsonl", lines);
        let text = std::fs::read_to_string(dir.join("cache.toml")).unwrap();
        let paths = format!("paths = [{dir:?}]");
        assert!(text.contains(&paths));
        let text = text.replace(&paths, &format!("paths = [{folder:?}]\n{more}"));
        let out = folder.join("cache");
        let err = talking_build(&write(&folder, "c.toml", &text), &out, &[]).code(0).err;
        (std::fs::read(out.join("shards/00000.arrow")).unwrap(), err)
    };
    let (of_text, quiet) = built("text", &texts, "");
    let (of_chats, told) = built("chats", &messages, "chat = {}");
    assert_eq!(of_text, of_chats);
    assert!(!quiet.contains("responses.begin"), "{quiet}");
    let between = "answers stand between \"w30 w31\" and \"w32\" (responses.begin and responses.end)";
    assert!(told.contains("chat_template.jinja") && told.contains(between), "{told}");
}
