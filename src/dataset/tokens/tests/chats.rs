//! Chats, and the text that a template makes of them: numbers of `transformers`.

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
    assert_eq!(
        note(&asked("<assistant>")),
        "; an answer stands behind \"<assistant>\" (responses.begin), up to \"</s>\" (responses.end)"
    );
    // What is asked for is more than what stands before an answer that was given.
    assert_eq!(
        note(&asked("<assistant><think>\n")),
        "; an answer stands behind \"<assistant>\" (responses.begin), up to \"</s>\" (responses.end)"
    );
    assert_eq!(note(TURNS), "");
    assert_eq!(note("{{ messages[0].content }}"), "");
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
    refused(&chat("3"), &["a.jsonl, line 2", "dataset.chat", "a list of messages"]);
    refused(&chat("[3]"), &["line 2", "objects", "3"]);
    refused(&chat(r#"[{"text": "a", "x": 1}]"#), &["line 2", "\"role\"", "text, x"]);
    refused(&chat(r#""{""#), &["line 2", "no JSON"]);
    refused(&chat(r#"[{"role": "judge", "content": "a"}]"#), &["line 2", "nobody is called judge"]);
    refused(&lines(r#"{"chat": []}"#, &told), &["line 1", "\"messages\" (dataset.chat.messages)", "chat"]);
    // The date, of which nothing is said.
    let undated = "{ template = '@/chats/template.jinja' }";
    refused(&lines(good, undated), &["line 1", "strftime_now", "dataset.chat.date"]);
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
