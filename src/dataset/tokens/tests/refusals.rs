//! What is wrong with files and configs, and how it is said.

use std::fs::File;
use std::panic::catch_unwind;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Array, Int32Array, ListArray, RecordBatch, StringArray};
use arrow::datatypes::Int32Type;
use arrow::ipc::writer::StreamWriter;
use parquet::arrow::ArrowWriter;

use super::{TOKENIZER, refused, try_open};
use crate::config::{CacheConfig, ConfigError, load_str};

/// Writes a file of the given bytes and gives a config of `kind` for it.
fn config(dir: &Path, kind: &str, name: &str, bytes: &[u8], more: &str) -> String {
    std::fs::write(dir.join(name), bytes).unwrap();
    format!("kind = '{kind}'\npaths = ['{}']\n{more}", dir.join(name).display())
}

#[test]
fn text_and_lines() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let text = |bytes: &[u8]| config(dir, "text", "a.txt", bytes, TOKENIZER);
    refused(&text(b"good \xff"), &["a.txt: expected UTF-8", "byte 5"]);
    refused(&text(b""), &["dataset.paths", "not empty", "1 files"]);
    let jsonl = |bytes: &[u8]| config(dir, "jsonl", "a.jsonl", bytes, TOKENIZER);
    refused(
        &jsonl(b"{\"text\": \"a\"}\n\n{\"txt\": 1, \"id\": 2}"),
        &["a.jsonl, line 3", "\"text\"", "txt, id"],
    );
    refused(&jsonl(b"{\"text\": \"a\"}\n{\"text\": [1]}"), &["line 2", "text under \"text\"", "a list"]);
    refused(&jsonl(b"{\"text\": null}"), &["line 1", "null"]);
    refused(&jsonl(b"[\"a\"]"), &["line 1", "a JSON object", "a list"]);
    refused(&jsonl(b"{\"text\": \"a"), &["line 1", "no JSON"]);
    refused(&jsonl(b"{\"text\": \"a\"}\n{\"text\": \"\xff\"}"), &["a.jsonl", "UTF-8", "byte 24"]);
    refused(&jsonl(b"\n \n"), &["not empty"]);
    // A mark of UTF-8 before it is no fault, and is counted.
    let marked = jsonl(b"\xef\xbb\xbf{\"text\": \"a\"}\n{\"text\": \"\xff\"}");
    refused(&marked, &["a.jsonl", "UTF-8", "byte 27"]);
    let field = format!("{TOKENIZER}field = 'body'");
    refused(&config(dir, "jsonl", "b.jsonl", b"{\"text\": \"a\"}", &field), &["\"body\"", "dataset.field"]);
    refused(&format!("kind = 'text'\npaths = ['/none/x.txt']\n{TOKENIZER}"), &["there is no /none/x.txt"]);
}

#[test]
fn tokenizers_and_ends_of_documents() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let broken = dir.join("tokenizer.json");
    std::fs::write(&broken, "{\"model\": 3}").unwrap();
    let more = format!("tokenizer = '{}'", broken.display());
    refused(&config(dir, "text", "a.txt", b"a", &more), &["dataset.tokenizer", "tokenizer.json"]);
    refused(&config(dir, "text", "a.txt", b"a", "tokenizer = '/none.json'"), &["cannot read /none.json"]);
    let ends =
        |end: &str| config(dir, "text", "a.txt", b"a", &format!("{TOKENIZER}rows.end_of_document = {end}"));
    refused(&ends("'</s>'"), &["dataset.rows.end_of_document", "bpe.json", "\"</s>\""]);
    refused(&ends("331"), &["dataset.rows.end_of_document", "331"]);
    let ids = [0u8; 4];
    let bin = "dtype = 'u16'\nvocabulary = 9\nrows.end_of_document = 9";
    refused(&config(dir, "tokens", "a.bin", &ids, bin), &["end_of_document", "the 9 of dataset.vocabulary"]);
}

#[test]
fn streams_of_ids() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let bin = |bytes: &[u8], more: &str| config(dir, "tokens", "a.bin", bytes, more);
    refused(&bin(&[0; 4], ""), &["dataset.dtype: missing", "a.bin"]);
    refused(&bin(&[0; 5], "dtype = 'u16'"), &["multiple of 2 bytes", "\"u16\"", "found 5"]);
    refused(&bin(&[0; 6], "dtype = 'u32'"), &["multiple of 4 bytes", "found 6"]);
    refused(&bin(&[], "dtype = 'u32'"), &["not empty"]);
    refused(&bin(&[7, 0, 7, 0], "dtype = 'u16'\nseparator = 7"), &["not empty"]);
    let wrong = bin(&[1, 0, 2, 0, 9, 0, 10, 0], "dtype = 'u16'\nvocabulary = 9");
    refused(&wrong, &["a.bin, row 2", "from 0 to 8", "found 9", "dataset.vocabulary"]);
    refused(
        &bin(&[74, 1, 75, 1], &format!("dtype = 'u16'\n{TOKENIZER}")),
        &["row 1", "0 to 330", "found 331"],
    );
    // A padded teacher knows more ids than its tokenizer.
    assert!(
        try_open(&bin(&[74, 1, 75, 1], &format!("dtype = 'u16'\nvocabulary = 400\n{TOKENIZER}"))).is_ok()
    );
    refused(&config(dir, "tokens", "a.txt", b"a", ""), &["a.txt", ".bin, .npy", "found .txt"]);

    let npy = |header: &str, payload: &[u8]| {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(payload);
        config(dir, "tokens", "a.npy", &bytes, "")
    };
    let header = |descr: &str, order: &str, shape: &str| {
        format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n")
    };
    assert!(try_open(&npy(&header("<i4", "False", "(2,)"), &[1, 0, 0, 0, 2, 0, 0, 0])).is_ok());
    refused(&npy(&header("<i4", "False", "(1,)"), &[255; 4]), &["a.npy, row 0", "from 0", "found -1"]);
    refused(&npy(&header("<u8", "False", "(1,)"), &[255; 8]), &["a.npy, row 0", "4294967295"]);
    refused(&npy(&header("<f4", "False", "(1,)"), &[0; 4]), &["whole numbers", "<f4"]);
    refused(&npy(&header("<u2", "False", "(1, 1, 1)"), &[0; 2]), &["one dimension, or two", "[1, 1, 1]"]);
    refused(&npy(&header("<u2", "True", "(2, 1)"), &[0; 4]), &["fortran_order"]);
    refused(&npy(&header("<u2", "False", "(3,)"), &[0; 4]), &["as many bytes as [3]", "found 4"]);
    refused(&npy(&header("<u2", "False", "(9223372036854775807, 9)"), &[0; 4]), &["as many bytes"]);
    refused(&npy("{'shape': (3,)}", &[]), &["NumPy array"]);
    refused(&config(dir, "tokens", "b.npy", b"\x93NUMPY\x01\x00\xff\xffshort", ""), &["NumPy array"]);
    refused(&config(dir, "tokens", "b.npy", b"\x93NUMPY\x09\x00\x00\x00\x00\x00", ""), &["version 9"]);
}

fn table(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
        .unwrap()
}

fn write_parquet(path: &Path, batch: &RecordBatch) {
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

fn lists(rows: Vec<Option<Vec<Option<i32>>>>) -> ArrayRef {
    Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(rows))
}

#[test]
fn tables() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    let config = |kind: &str, more: &str| format!("kind = '{kind}'\npaths = ['{}']\n{more}", path.display());
    let strings: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None]));
    let numbers: ArrayRef = Arc::new(Int32Array::from(vec![1, 2]));
    let ids = lists(vec![Some(vec![Some(1)]), Some(vec![Some(2), None])]);
    write_parquet(&path, &table(vec![("text", strings), ("n", numbers), ("input_ids", ids)]));
    refused(&config("parquet", TOKENIZER), &["a.parquet, row 1", "null", "\"text\""]);
    refused(&config("parquet", ""), &["dataset.tokenizer: missing", "\"text\""]);
    refused(
        &config("parquet", "column = 'n'"),
        &["dataset.column", "\"n\"", "lists of token ids", "type Int32"],
    );
    refused(&config("parquet", "column = 'body'"), &["\"body\"", "only text (Utf8), n (Int32)"]);
    refused(&config("tokens", "column = 'text'"), &["\"text\" of lists of token ids", "type Utf8"]);
    refused(&config("tokens", ""), &["a.parquet, row 1", "null", "\"input_ids\""]);

    let floats: ArrayRef = Arc::new(Float32Array::from(vec![1.0]));
    write_parquet(
        &path,
        &table(vec![("text", floats), ("input_ids", lists(vec![Some(vec![Some(1), Some(-100)])]))]),
    );
    refused(&config("parquet", TOKENIZER), &["type Float32"]);
    refused(&config("tokens", ""), &["a.parquet, row 0", "found -100"]);
    write_parquet(&path, &table(vec![("input_ids", lists(vec![Some(vec![]), Some(vec![])]))]));
    refused(&config("tokens", ""), &["not empty"]);
    let lz4 = format!("kind = 'tokens'\npaths = ['@/tokens/ids_lz4.arrow']\n{TOKENIZER}");
    refused(&lz4, &["ids_lz4.arrow as Arrow", "without compression"]);
    std::fs::write(&path, "PAR1 or not").unwrap();
    refused(&config("tokens", ""), &["cannot read", "as Parquet"]);
}

#[test]
fn no_byte_of_an_arrow_file_makes_the_reader_panic() {
    let dir = tempfile::tempdir().unwrap();
    let batch = table(vec![("input_ids", lists(vec![Some(vec![Some(1), Some(2)]), Some(vec![Some(3)])]))]);
    let mut bytes = Vec::new();
    let mut writer = StreamWriter::try_new(&mut bytes, &batch.schema()).unwrap();
    writer.write(&batch).unwrap();
    writer.finish().unwrap();
    drop(writer);
    let open = |bytes: &[u8]| {
        let config = config(dir.path(), "tokens", "a.arrow", bytes, "vocabulary = 9");
        catch_unwind(|| try_open(&config).map(|opened| opened.tokens()))
    };
    assert_eq!(open(&bytes).unwrap().unwrap(), 3);
    for end in 0..bytes.len() - 8 {
        assert!(
            open(&bytes[..end]).unwrap_or_else(|_| panic!("panicked, cut at {end}")).is_err(),
            "cut at {end}"
        );
    }
    for at in 0..bytes.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff, bytes[at] ^ 4] {
            let mut changed = bytes.clone();
            changed[at] = value;
            assert!(open(&changed).is_ok(), "panicked, byte {at} = {value}");
        }
    }
}

#[test]
fn configs() {
    let faults = |dataset: &str| {
        let text = format!("[teacher]\nkind = 'onnx'\npath = 't'\n[head]\nk = 3\n[dataset]\n{dataset}");
        match load_str::<CacheConfig>(&text, "test", &[]) {
            Ok(_) => vec![],
            Err(ConfigError::Faults { faults, .. }) => faults.iter().map(ToString::to_string).collect(),
            Err(other) => vec![other.to_string()],
        }
    };
    let good = "kind = 'text'\npaths = ['a']\ntokenizer = 't'\nlimit = 3\n\
                rows = { length = 8, packing = 'concatenate', keep_rest = false, end_of_document = 3 }\n\
                split = { part = 'train', validation = 0.1, seed = 4 }";
    assert_eq!(faults(good), [""; 0]);
    assert_eq!(faults(&good.replace("= 3 }", "= '</s>' }")), [""; 0]);
    assert_eq!(
        faults("kind = 'tokens'\npaths = ['a', 'b']\ndtype = 'u16'\nseparator = 0\nvocabulary = 9"),
        [""; 0]
    );
    assert_eq!(
        faults(
            "kind = 'jsonl'\npaths = []\nfeld = 'x'\nlimit = 0\nrows = { length = 0, packing = 'doc', \
             end_of_document = true }\nsplit = { part = 'test', validation = 1.0 }"
        ),
        [
            "dataset.feld: unknown key; did you mean field? (known: chat, field, kind, limit, paths, rows, \
             split, tokenizer)",
            "dataset.limit: expected at least 1, found 0",
            "dataset.paths: expected at least 1 of them, found 0",
            "dataset.rows.end_of_document: expected a string or an integer, found true",
            "dataset.rows.length: expected at least 1, found 0",
            "dataset.rows.packing: expected one of concatenate, document, found \"doc\"; did you mean document?",
            "dataset.split.part: expected one of train, validation, found \"test\"",
            "dataset.split.validation: expected less than 1, found 1.0",
            "dataset.tokenizer: missing",
        ]
    );
    assert_eq!(
        faults(
            "kind = 'tokens'\npaths = ['a']\nseparator = 9\nvocabulary = 9\n\
             rows = { packing = 'document', keep_rest = false, end_of_document = 'x' }"
        ),
        [
            "dataset.rows.end_of_document: belongs to packing = \"concatenate\"; remove the key, or change \
             packing",
            "dataset.rows.end_of_document: expected an id, or dataset.tokenizer beside it, found \"x\"",
            "dataset.rows.keep_rest: belongs to packing = \"concatenate\"; remove the key, or change packing",
            "dataset.separator: expected an id below dataset.vocabulary = 9, found 9",
        ]
    );
    assert_eq!(
        faults(
            "kind = 'parquet'\npaths = ['a']\ncolumn = 'b'\nchat = { date = '2026-02-30', message = 'm' }"
        ),
        [
            "dataset.chat.date: expected a day such as \"2026-03-31\", found \"2026-02-30\"",
            "dataset.chat.message: unknown key; did you mean messages? (known: date, messages, template)",
            "dataset.column: documents are text (column) or chats (chat); remove one of the keys",
            "dataset.tokenizer: missing; the text of chats becomes tokens by it",
        ]
    );
    assert_eq!(
        faults("kind = 'words'"),
        ["dataset.kind: expected one of idx, folder, text, jsonl, parquet, tokens, found \"words\""]
    );
}
