//! Chats, and the text that a template makes of them: numbers of `transformers`.

use std::fs::File;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, ListArray, RecordBatch, StringArray, StructArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Fields};
use parquet::arrow::ArrowWriter;
use serde_json::json;

use super::*;

/// A config of a kind over `paths`, a chat in each row.
fn config(kind: &str, paths: &str, chat: &str) -> String {
    format!(
        "kind = '{kind}'\npaths = ['{paths}']\n{TOKENIZER}rows = {{ length = 4096, packing = 'document' }}\nchat = {chat}"
    )
}

/// A template and a day.
const TOLD: &str = "template = '@/chats/template.jinja', date = '2026-03-01'";

/// The texts that `transformers` makes of the chats, as tokens.
fn expected() -> Vec<Vec<u32>> {
    let tokenizer = Tokenizer::open(&fixtures().join("tokenizers/bpe.json")).unwrap();
    let texts: Vec<String> =
        serde_json::from_slice(&std::fs::read(fixtures().join("chats/expected.json")).unwrap()).unwrap();
    texts.iter().map(|text| tokenizer.encode(text).unwrap()).collect()
}

/// The fixtures' tokenizer and its config in a folder of their own.
fn beside(dir: &Path) -> String {
    for (from, to) in
        [("tokenizers/bpe.json", "tokenizer.json"), ("chats/tokenizer_config.json", "tokenizer_config.json")]
    {
        std::fs::copy(fixtures().join(from), dir.join(to)).unwrap();
    }
    format!("tokenizer = '{}'\n", dir.join("tokenizer.json").display())
}

/// Special tokens that templates write are in a file beside the tokenizer.
fn with_config(config: &str, tokenizer: &str) -> String {
    config.replace(TOKENIZER, tokenizer)
}

#[test]
fn chats_are_laid_out_as_transformers_does_it() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = beside(dir.path());
    let opened = |kind: &str, file: &str, chat: &str| {
        let config = config(kind, &format!("@/chats/{file}"), chat);
        rows(&*open(&with_config(&config, &tokenizer)))
    };
    let all = expected();
    assert_eq!(all.len(), 4);
    let told = format!("{{ {TOLD} }}");
    assert_eq!(opened("jsonl", "chats.jsonl", &told), all);
    // Where a table cannot have it, as JSON in a text.
    assert_eq!(opened("parquet", "strings.parquet", &told), all);
    assert_eq!(opened("parquet", "chats.parquet", &told), all[..2]);
    // The template that lies beside the tokenizer, and other names for the same.
    assert_eq!(opened("jsonl", "chats.jsonl", "{ date = '2026-03-01' }"), all);
    let named = format!("{{ messages = 'conversations', {TOLD} }}");
    assert_eq!(opened("jsonl", "sharegpt.jsonl", &named), all[..2]);
    // A file of its own goes before the one in the config.
    std::fs::write(dir.path().join("chat_template.jinja"), "{{ messages | length }}").unwrap();
    assert_eq!(opened("jsonl", "chats.jsonl", "{}").iter().map(Vec::len).collect::<Vec<_>>(), [1; 4]);
}

#[test]
fn a_build_says_between_what_answers_stand() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = beside(dir.path());
    let note = |template: &str| {
        let path = dir.path().join("t.jinja");
        std::fs::write(&path, template).unwrap();
        let chat = format!("{{ template = '{}' }}", path.display());
        let config =
            config("jsonl", "@/chats/sharegpt.jsonl", &chat.replace("{ ", "{ messages = 'conversations', "));
        let rows = open(&with_config(&config, &tokenizer));
        let note = rows.notes().iter().find(|note| note.contains("t.jinja")).unwrap();
        note.split_once("t.jinja").unwrap().1.to_owned()
    };
    const TURNS: &str = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}\n{% endfor %}";
    let asked = |prompt: &str| format!("{TURNS}{{% if add_generation_prompt %}}{prompt}{{% endif %}}");
    let between = "; answers stand between \"<assistant>\" and \"</s>\" (responses.begin and responses.end)";
    assert_eq!(note(&asked("<assistant>")), between);
    // What is asked for is more than what stands before an answer that was given.
    assert_eq!(note(&asked("<assistant><think>\n")), between);
    // Nor does the last answer say what stands around the others.
    let last = asked("<assistant>")
        .replace("{{ m.content", "{{ '<think>' if loop.last and m.role == 'assistant' }}{{ m.content");
    assert_eq!(note(&last), between);
    let last = asked("<assistant>")
        .replace("{{ eos_token", "{{ '<stop>' if loop.last and m.role == 'assistant' else eos_token");
    assert_eq!(note(&last), "");
    assert_eq!(note(TURNS), "");
    assert_eq!(note("{{ messages[0].content }}"), "");
    let dated = format!(
        "{{% if strftime_now is defined %}}{{{{ strftime_now('%Y') }}}}{{% endif %}}{}",
        asked("<assistant>")
    );
    assert_eq!(note(&dated), format!(", which asks for today's date and is told none (chat.date){between}"));
}

/// Those who write data sets give every message every key, and templates ask whether one is there.
#[test]
fn what_is_null_is_not_there_but_for_a_content() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let template = dir.join("t.jinja");
    let source = "{% for m in messages %}{{ m.content }}|{{ 'calls' if 'calls' in m }}{{ m.content is none }}\r\n{% endfor %}";
    std::fs::write(&template, source).unwrap();
    let chat = format!("{{ template = '{}' }}", template.display());
    let tokens = |text: &str| {
        vec![Tokenizer::open(&fixtures().join("tokenizers/bpe.json")).unwrap().encode(text).unwrap()]
    };
    let lines = dir.join("a.jsonl");
    let message = |content: &str, more: &str| format!(r#"{{"role": "user", "content": {content}{more}}}"#);
    let line = |messages: &[String]| format!(r#"{{"messages": [{}]}}"#, messages.join(", "));
    let opened = |text: &str| {
        std::fs::write(&lines, text).unwrap();
        rows(&*open(&config("jsonl", lines.to_str().unwrap(), &chat)))
    };
    let nulls = [message("\"a\"", ", \"calls\": null"), message("null", ", \"calls\": 1")];
    let expected = tokens("a|False\nNone|callsTrue\n");
    assert_eq!(opened(&line(&nulls)), expected);
    // A part that is text has no image, though it has the key.
    let parts = message(r#"[{"text": "a", "image": null}]"#, "");
    assert_eq!(opened(&line(&[parts])), tokens("[{'text': 'a'}]|False\n"));
    // The same out of a table, where a null is all that can stand there.
    let text = StringArray::from(vec![Some("a"), None]);
    let calls = Int32Array::from(vec![None, Some(1)]);
    let roles = StringArray::from(vec!["user", "user"]);
    let fields = [("role", DataType::Utf8), ("content", DataType::Utf8), ("calls", DataType::Int32)];
    let fields: Fields = fields.map(|(name, kind)| Field::new(name, kind, true)).into_iter().collect();
    let structs =
        StructArray::new(fields.clone(), vec![Arc::new(roles), Arc::new(text), Arc::new(calls)], None);
    let item = Arc::new(Field::new_list_field(DataType::Struct(fields), true));
    let list = ListArray::new(item, OffsetBuffer::from_lengths([2]), Arc::new(structs), None);
    let batch = RecordBatch::try_from_iter([("messages", Arc::new(list) as ArrayRef)]).unwrap();
    let table = dir.join("a.parquet");
    let mut writer = ArrowWriter::try_new(File::create(&table).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    assert_eq!(rows(&*open(&config("parquet", table.to_str().unwrap(), &chat))), expected);
}

#[test]
fn chats_with_tools_have_a_template_of_their_own_where_there_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = beside(dir.path());
    let config = with_config(&config("jsonl", "@/chats/chats.jsonl", "{}"), &tokenizer);
    let said = || rows(&*open(&config)).iter().map(Vec::len).collect::<Vec<_>>();
    let named = json!({ "chat_template": [
        { "name": "tool_use", "template": "" }, { "name": "default", "template": "a" }, { "name": "rag", "template": "{% if" },
    ] });
    std::fs::write(dir.path().join("tokenizer_config.json"), named.to_string()).unwrap();
    // Of the third chat, which has tools, nothing is left, and what has no tokens is no document.
    assert_eq!(said(), [1; 3]);
    std::fs::write(dir.path().join("chat_template.jinja"), "aa aa aa").unwrap();
    assert_eq!(said().len(), 4);
    std::fs::create_dir(dir.path().join("additional_chat_templates")).unwrap();
    std::fs::write(dir.path().join("additional_chat_templates/tool_use.jinja"), "").unwrap();
    assert_eq!(said().len(), 3);
}

#[test]
fn what_is_no_chat_or_no_template_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let lines = |text: &str, chat: &str| {
        std::fs::write(dir.join("a.jsonl"), text).unwrap();
        config("jsonl", dir.join("a.jsonl").to_str().unwrap(), chat)
    };
    let told = format!("{{ {TOLD} }}");
    let good = r#"{"messages": [{"role": "user", "content": "a"}]}"#;
    let chat = |messages: &str| lines(&format!("{good}\n{{\"messages\": {messages}}}"), &told);
    refused(&chat("3"), &["a.jsonl, line 2", "dataset.chat", "a list of messages, found a number"]);
    refused(&chat("[3]"), &["line 2", "objects, found a number"]);
    refused(&chat(r#"[{"text": "a", "x": 1}]"#), &["line 2", "\"role\"", "text, x"]);
    refused(&chat(r#""{""#), &["line 2", "messages", "no JSON"]);
    refused(&chat("null"), &["line 2", "a list of messages, found null"]);
    refused(&chat(r#"[{"role": "judge", "content": "a"}]"#), &["line 2", "nobody is called judge"]);
    refused(&lines(r#"{"chat": []}"#, &told), &["line 1", "\"messages\" (dataset.chat.messages)", "chat"]);
    // The date, of which nothing is said.
    let undated = "{ template = '@/chats/template.jinja' }";
    refused(&lines(good, undated), &["line 1", "strftime_now", "template.jinja", "dataset.chat.date"]);
    // Templates.
    refused(&lines(good, "{}"), &["dataset.chat.template", "bpe.json", "chat_template.jinja"]);
    let template = |text: &str| {
        std::fs::write(dir.join("t.jinja"), text).unwrap();
        lines(good, &format!("{{ template = '{}' }}", dir.join("t.jinja").display()))
    };
    refused(&template("{% if %}"), &["t.jinja", "chat template"]);
    refused(&template("{{ messages[0].content.zip() }}"), &["line 1", "zip"]);
    refused(&template("{{ 1 | tojson(indent=1, width=2) }}"), &["line 1", "width"]);
    refused(&lines(good, "{ template = '/none.jinja' }"), &["/none.jinja", "no such file"]);
    std::fs::write(dir.join("t.json"), "{}").unwrap();
    let keyless = format!("{{ template = '{}' }}", dir.join("t.json").display());
    refused(&lines(good, &keyless), &["t.json", "\"chat_template\""]);
    // Columns.
    let column = |name: &str, chat: &str| config("parquet", &format!("@/tokens/{name}"), chat);
    let named = format!("{{ messages = 'n', {TOLD} }}");
    refused(&column("text.parquet", &told), &["dataset.chat.messages", "\"messages\"", "text (Utf8)"]);
    refused(&column("text.parquet", &named), &["dataset.chat.messages", "\"n\"", "Int64"]);
}
