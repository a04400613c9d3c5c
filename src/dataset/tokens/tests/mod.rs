//! Token datasets as a config opens them: every form of the same documents, parts, and what is refused.

mod chats;
mod refusals;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::tokenizer::Tokenizer;
use super::{TokenDataset, TokensError};
use crate::config::DatasetConfig;
use crate::dataset::{DatasetError, open_images};
use crate::ids::SampleId;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// Opens a config; `@` in it stands for the folder of fixtures.
fn try_open(config: &str) -> Result<Box<dyn TokenDataset>, TokensError> {
    let config = config.replace('@', fixtures().to_str().unwrap());
    let config: DatasetConfig = toml::from_str(&config).unwrap();
    super::open(&config).map(|opened| opened.unwrap())
}

fn open(config: &str) -> Box<dyn TokenDataset> {
    try_open(config).unwrap_or_else(|error| panic!("{error}\n{config}"))
}

fn error(config: &str) -> String {
    match try_open(config) {
        Ok(_) => panic!("opened: {config}"),
        Err(error) => error.to_string(),
    }
}

/// Whether all of `parts` are in the error of a config.
fn refused(config: &str, parts: &[&str]) {
    let error = error(config);
    assert!(parts.iter().all(|part| error.contains(part)), "expected {parts:?} in: {error}");
}

const TOKENIZER: &str = "tokenizer = '@/tokenizers/bpe.json'\n";

fn text(more: &str) -> String {
    format!("kind = 'text'\npaths = ['@/tokens/text']\n{TOKENIZER}{more}")
}

fn expected_ids() -> Vec<(String, Vec<u32>)> {
    let bytes = std::fs::read(fixtures().join("tokenizers/bpe.expected.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_slice(&bytes).unwrap();
    let ids = |case: &Value| serde_json::from_value(case["ids"].clone()).unwrap();
    cases.iter().map(|case| (case["text"].as_str().unwrap().to_owned(), ids(case))).collect()
}

/// All documents of a dataset with a document a row.
fn rows(dataset: &dyn TokenDataset) -> Vec<Vec<u32>> {
    (0..dataset.len()).map(|i| dataset.sequence(dataset.id_at(i)).unwrap().tokens).collect()
}

#[test]
fn tokens_are_those_of_the_python_package() {
    let tokenizer = Tokenizer::open(&fixtures().join("tokenizers/bpe.json")).unwrap();
    let cases = expected_ids();
    assert!(cases.len() > 12);
    for (text, ids) in cases {
        assert_eq!(tokenizer.encode(&text).unwrap(), ids, "{text:?}");
    }
    assert_eq!((tokenizer.identity().size, tokenizer.end()), (331, Some(0)));
}

#[test]
fn the_same_documents_are_the_same_dataset_whatever_their_form() {
    for rows in ["rows = { length = 16 }", "rows = { length = 7, packing = 'document' }"] {
        let all = [
            text(rows),
            format!("kind = 'text'\npaths = ['@/tokens/t*/*.txt']\n{TOKENIZER}{rows}"),
            format!("kind = 'jsonl'\npaths = ['@/tokens/documents.jsonl']\n{TOKENIZER}{rows}"),
            format!("kind = 'parquet'\npaths = ['@/tokens/text.parquet']\n{TOKENIZER}{rows}"),
            format!(
                "kind = 'parquet'\npaths = ['@/tokens/ids.parquet']\ncolumn = 'input_ids'\n{TOKENIZER}{rows}"
            ),
            format!("kind = 'tokens'\npaths = ['@/tokens/ids.parquet']\n{TOKENIZER}{rows}"),
            format!("kind = 'tokens'\npaths = ['@/tokens/ids_stream.arrow']\n{TOKENIZER}{rows}"),
            format!("kind = 'tokens'\npaths = ['@/tokens/ids_file.arrow']\n{TOKENIZER}{rows}"),
        ];
        let first = open(&all[0]);
        assert_eq!(first.end_of_document(), (!rows.contains("document'")).then_some(0));
        for config in &all[1..] {
            let other = open(config);
            assert_eq!(other.fingerprint(), first.fingerprint(), "{config}");
            assert_eq!(other.tokenizer(), first.tokenizer());
            assert_eq!((other.len(), other.tokens()), (first.len(), first.tokens()));
        }
    }
}

#[test]
fn documents_begin_with_what_the_config_says() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.txt");
    std::fs::write(&file, "One line.").unwrap();
    let of = |more: &str| {
        rows(open(&format!("kind = 'text'\npaths = [{file:?}]\n{TOKENIZER}rows = {{ {more} }}")).as_ref())
    };
    let plain = of("length = 64");
    let begun = of("length = 64, begin_of_document = '<|endoftext|>'");
    assert_eq!(begun[0], [&[0][..], &plain[0]].concat());
    assert_eq!(of("length = 64, begin_of_document = 0, packing = 'document'"), begun);
    // Not twice.
    std::fs::write(&file, "<|endoftext|>One line.").unwrap();
    assert_eq!(of("length = 64, begin_of_document = 0"), begun);
    refused(
        &format!("kind = 'text'\npaths = [{file:?}]\n{TOKENIZER}rows.begin_of_document = '<nothing>'"),
        &["dataset.rows.begin_of_document", "bpe.json", "<nothing>"],
    );
}

/// A tokenizer that puts something before a text, as the fixture's does, is told of, with the way to have it.
#[test]
fn what_a_tokenizer_would_put_before_documents_is_said() {
    let notes = |rows: &str| open(&text(rows)).notes().join("\n");
    let told = notes("rows.length = 16");
    for words in
        ["between documents stands \"<|endoftext|>\" (id 0)", "warning: ", "rows.begin_of_document = \"<|end"]
    {
        assert!(told.contains(words), "{words}: {told}");
    }
    assert_eq!(notes("rows = { packing = 'document', begin_of_document = 0 }"), "");
    // Nor where it is written out.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.txt");
    std::fs::write(&file, "<|endoftext|>One line.").unwrap();
    let written = open(&format!("kind = 'text'\npaths = [{file:?}]\n{TOKENIZER}"));
    assert!(!written.notes().join("").contains("warning"), "{:?}", written.notes());
    // Tokens are taken as they are, in Parquet too.
    let parquet =
        format!("kind = 'parquet'\npaths = ['@/tokens/ids.parquet']\ncolumn = 'input_ids'\n{TOKENIZER}");
    assert!(!open(&parquet).notes().join("").contains("warning"), "{:?}", open(&parquet).notes());
    let begun = format!("{parquet}rows.begin_of_document = 0");
    refused(&begun, &["dataset.rows.begin_of_document", "input_ids of", "holds tokens", "remove the key"]);
    let ids = open(&format!("kind = 'tokens'\npaths = ['@/tokens/ids.parquet']\n{TOKENIZER}"));
    assert!(!ids.notes().join("").contains("warning"), "{:?}", ids.notes());
}

/// What some programs put before UTF-8 is no text.
#[test]
fn a_byte_order_mark_is_no_part_of_a_document() {
    let dir = tempfile::tempdir().unwrap();
    let (plain, marked) = (dir.path().join("plain.txt"), dir.path().join("marked.txt"));
    std::fs::write(&plain, "One line.\nAnother.\n").unwrap();
    std::fs::write(&marked, "\u{feff}One line.\nAnother.\n").unwrap();
    let of = |path: &Path| rows(open(&format!("kind = 'text'\npaths = [{path:?}]\n{TOKENIZER}")).as_ref());
    assert_eq!(of(&plain), of(&marked));
}

#[test]
fn streams_are_cut_at_the_separator() {
    let without_6 = "paths = ['@/tokens/text/[0-5].txt', '@/tokens/text/7.txt']";
    let first = open(&format!("kind = 'text'\n{without_6}\n{TOKENIZER}rows = {{ length = 16 }}"));
    for path in ["ids_u16.bin'], dtype = 'u16", "ids_u32.bin'], dtype = 'u32", "ids.npy'], column = 'unused"]
    {
        let config = format!("d = {{ kind = 'tokens', paths = ['@/tokens/{path}', separator = 0, ");
        // Ids that no vocabulary bounds lie in four bytes, others in two: no difference.
        for end in ["vocabulary = 331, rows.length = 16 }", "rows.length = 16 }"] {
            let config: toml::Table =
                format!("{config}{end}").replace('@', fixtures().to_str().unwrap()).parse().unwrap();
            let other = open(&toml::to_string(&config["d"]).unwrap());
            assert_eq!(other.fingerprint(), first.fingerprint(), "{config:?}");
            assert_eq!(other.vocabulary(), end.contains("331").then_some(331));
            assert_eq!((other.end_of_document(), other.tokenizer()), (Some(0), None));
        }
    }
    let documents = open(
        "kind = 'tokens'\npaths = ['@/tokens/ids_u16.bin']\ndtype = 'u16'\nseparator = 0\n\
         rows = { packing = 'document' }",
    );
    let expected: Vec<Vec<u32>> =
        expected_ids().into_iter().take(8).map(|(_, ids)| ids).filter(|ids| !ids.contains(&0)).collect();
    assert_eq!(rows(documents.as_ref()), expected);
    assert_eq!(documents.largest_token(), *expected.iter().flatten().max().unwrap());
}

#[test]
fn an_array_of_two_dimensions_has_a_document_a_row() {
    let config = |more: &str| {
        let rows = "rows = { packing = 'document' }";
        format!("kind = 'tokens'\npaths = ['@/tokens/ids_2d.npy']\n{more}\n{rows}")
    };
    let whole = rows(open(&config("")).as_ref());
    assert!(whole.len() == 8 && whole.iter().all(|row| row.len() == 16));
    let cut = rows(open(&config("separator = 0")).as_ref());
    let expected: Vec<Vec<u32>> = whole
        .iter()
        .flat_map(|row| row.split(|token| *token == 0))
        .filter(|part| !part.is_empty())
        .map(<[u32]>::to_vec)
        .collect();
    assert!(expected.len() > 8);
    assert_eq!(cut, expected);
}

#[test]
fn fingerprints_tell_rows_tokens_and_boundaries_apart() {
    let rows = [
        text("rows = { length = 16 }"),
        text("rows = { length = 15 }"),
        text("rows = { length = 16, keep_rest = false }"),
        text("rows = { length = 16, packing = 'document' }"),
        text("rows = { length = 16, end_of_document = 5 }"),
        text("rows = { length = 16, end_of_document = '<tail>' }"),
        text("rows = { length = 16 }\nlimit = 3"),
        // One stream and one document, where the first is cut in eight.
        "kind = 'tokens'\npaths = ['@/tokens/ids_u16.bin']\ndtype = 'u16'\nrows.length = 16".into(),
        "kind = 'tokens'\npaths = ['@/tokens/ids_2d.npy']\nrows.length = 16".into(),
        "kind = 'tokens'\npaths = ['@/tokens/ids_2d.npy']\nrows = { length = 16, end_of_document = 0 }"
            .into(),
    ];
    let all: BTreeSet<String> = rows.iter().map(|config| open(config).fingerprint().to_string()).collect();
    assert_eq!(all.len(), rows.len());
    // The same tokens in rows of the same length: only the bounds of documents differ.
    let dir = tempfile::tempdir().unwrap();
    let one = |name: &str, text: &str, more: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        format!("kind = 'jsonl'\npaths = ['{}']\n{TOKENIZER}{more}", path.display())
    };
    let joined = one("a.jsonl", r#"{"text": "a<|endoftext|>a"}"#, "");
    let parted = one("b.jsonl", "{\"text\": \"a\"}\n{\"text\": \"a\"}", "");
    let (joined, parted) = (open(&joined), open(&parted));
    let tokens = |dataset: &dyn TokenDataset| dataset.sequence(SampleId(0)).unwrap().tokens;
    assert_eq!(tokens(joined.as_ref()), tokens(parted.as_ref()));
    assert_ne!(joined.fingerprint(), parted.fingerprint());
}

#[test]
fn a_tokenizer_is_known_by_its_tokens_not_by_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(fixtures().join("tokenizers/bpe.json")).unwrap();
    let open = |name: &str, edit: &dyn Fn(&mut Value)| {
        let mut value: Value = serde_json::from_str(&text).unwrap();
        edit(&mut value);
        let path = dir.path().join(name);
        std::fs::write(&path, serde_json::to_string_pretty(&value).unwrap()).unwrap();
        Tokenizer::open(&path).unwrap()
    };
    let first = open("a.json", &|_| {});
    let without = open("b.json", &|value| value["truncation"] = Value::Null);
    assert_eq!(first.identity().digest, without.identity().digest);
    assert_ne!(first.identity().file, without.identity().file);
    // The same size, two ids exchanged.
    let exchanged = open("c.json", &|value| {
        let vocabulary = value["model"]["vocab"].as_object_mut().unwrap();
        let (a, b) = (vocabulary["a"].clone(), vocabulary["b"].clone());
        vocabulary.insert("a".into(), b);
        vocabulary.insert("b".into(), a);
    });
    assert_eq!(first.identity().size, exchanged.identity().size);
    assert_ne!(first.identity().digest, exchanged.identity().digest);
    let ordinary = open("d.json", &|value| value["added_tokens"][0]["special"] = false.into());
    assert_ne!(first.identity().digest, ordinary.identity().digest);
    assert_eq!(ordinary.end(), None);
    // What stands beside it says more than names do.
    std::fs::write(dir.path().join("tokenizer_config.json"), r#"{"eos_token": {"content": "<tail>"}}"#)
        .unwrap();
    assert_eq!(open("a.json", &|_| {}).end(), Some(330));
}

#[test]
fn a_split_parts_documents() {
    let part = |part: &str, validation: f64, seed: u64| {
        let split = format!("split = {{ part = '{part}', validation = {validation}, seed = {seed} }}");
        rows(open(&text(&format!("rows = {{ packing = 'document' }}\n{split}"))).as_ref())
    };
    let all: Vec<Vec<u32>> = expected_ids().into_iter().take(8).map(|(_, ids)| ids).collect();
    let mut choices = BTreeSet::new();
    for seed in 0..8 {
        let (train, validation) = (part("train", 0.25, seed), part("validation", 0.25, seed));
        assert_eq!((train.len(), validation.len()), (6, 2));
        assert_eq!(part("validation", 0.25, seed), validation);
        // Disjoint, complete, and each in the order of the whole.
        let is_validation = |document: &&Vec<u32>| validation.contains(document);
        assert_eq!(all.iter().filter(is_validation).cloned().collect::<Vec<_>>(), validation);
        assert_eq!(all.iter().filter(|d| !is_validation(d)).cloned().collect::<Vec<_>>(), train);
        choices.insert(validation);
    }
    assert!(choices.len() > 3, "only {} choices under 8 seeds", choices.len());
    let split =
        |part: &str, share: f64| text(&format!("split = {{ part = '{part}', validation = {share} }}"));
    refused(&split("validation", 0.01), &["dataset.split.validation", "0.01 of 8", "\"validation\""]);
    refused(&split("train", 0.99), &["dataset.split.validation", "\"train\"", "separator"]);
}

#[test]
fn rows_that_are_not_there_are_refused() {
    let dataset = open(&text("rows = { length = 16 }"));
    assert_eq!(dataset.len(), dataset.tokens().div_ceil(16));
    assert_eq!(dataset.length(), 16);
    let last = SampleId(dataset.len() - 1);
    assert_eq!(dataset.sequence(last).unwrap().tokens.len(), dataset.sequence_len(last).unwrap());
    for error in [dataset.sequence(SampleId(dataset.len())).err(), dataset.sequence_len(SampleId(99)).err()] {
        assert!(matches!(error, Some(DatasetError::NoSuchSample { .. })));
    }
    assert_eq!(open(&text("limit = 1\nrows = { length = 4 }")).tokens(), 4);
    refused(&text("limit = 9\nrows = { length = 512 }"), &["dataset.limit", "the 1 rows", "found 9"]);
    refused(
        &text("rows = { length = 512, keep_rest = false }"),
        &["dataset.rows.length", "the 263 tokens", "512"],
    );
}

#[test]
fn images_are_wanted_elsewhere() {
    let config: DatasetConfig = toml::from_str(&text("")).unwrap();
    let error = open_images(&config, "validation.test.dataset").err().unwrap().to_string();
    assert_eq!(
        error,
        "validation.test.dataset.kind: expected images (\"folder\" or \"idx\"), found \"text\", which is of tokens"
    );
}

/// Of what lies behind the rows that are wanted nothing is looked at: it would be refused.
#[test]
fn the_first_rows_need_the_first_documents_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::create_dir(path("texts")).unwrap();
    for at in 0..40 {
        std::fs::write(path("texts").join(format!("{at:02}.txt")), format!("text number {at}. ").repeat(30))
            .unwrap();
    }
    let line =
        serde_json::json!({"text": "a line of text, again and again. ".repeat(100)}).to_string() + "\n";
    std::fs::write(path("lines.jsonl"), line.repeat(700)).unwrap();
    // Ids from 1 on, and every 1000th a separator.
    let ids = (0..1_500_000u32).map(|at| if at % 1000 == 999 { 0 } else { 1 + (at % 90) as u16 });
    std::fs::write(path("ids.bin"), ids.flat_map(u16::to_le_bytes).collect::<Vec<u8>>()).unwrap();
    let broken: [(&str, &dyn Fn()); 3] = [
        ("texts", &|| std::fs::write(path("texts/39.txt"), b"\xff").unwrap()),
        ("lines.jsonl", &|| std::fs::write(path("lines.jsonl"), line.repeat(700) + "no JSON\n").unwrap()),
        ("ids.bin", &|| {
            let mut bytes = std::fs::read(path("ids.bin")).unwrap();
            bytes.extend(60_000u16.to_le_bytes());
            std::fs::write(path("ids.bin"), bytes).unwrap();
        }),
    ];
    let config = |name: &str, more: &str| {
        let kind = match name {
            "texts" => format!("kind = 'text'\n{TOKENIZER}"),
            "lines.jsonl" => format!("kind = 'jsonl'\n{TOKENIZER}"),
            _ => "kind = 'tokens'\ndtype = 'u16'\nseparator = 0\nvocabulary = 1000\n".into(),
        };
        format!("{kind}paths = ['{}']\n{more}", path(name).display())
    };
    let all = |config: &str| {
        let dataset = open(config);
        (0..dataset.len()).map(|row| dataset.sequence(dataset.id_at(row)).unwrap()).collect::<Vec<_>>()
    };
    for (name, broken) in broken {
        let layouts = [
            "rows = { length = 64 }",
            "rows = { length = 64, packing = 'document' }",
            "rows = { length = 7, end_of_document = 3 }",
        ];
        let wanted: Vec<_> = layouts
            .iter()
            .flat_map(|rows| {
                [1, 5, 40].map(|limit| (limit, config(name, &format!("{rows}\nlimit = {limit}")), *rows))
            })
            .map(|(limit, limited, rows)| (all(&config(name, rows))[..limit].to_vec(), limited))
            .collect();
        broken();
        error(&config(name, layouts[0]));
        for (wanted, limited) in wanted {
            assert!(all(&limited) == wanted, "{limited}");
        }
        // Which documents are of a part, the number of all of them says.
        let split = "split = { validation = 0.5, part = 'train' }";
        error(&config(name, &format!("{}\nlimit = 1\n{split}", layouts[0])));
    }
}
