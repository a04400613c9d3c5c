//! The student as Hugging Face's transformers load it: `LlamaForCausalLM.from_pretrained(folder)`.

use std::io;
use std::path::Path;

use super::folder::{TOKENIZER, TOKENIZER_CONFIG, json};
use crate::config::LlamaConfig;
use crate::dataset::Tokenizer;
use crate::durable;

/// The weights.
pub(super) const MODEL: &str = "model.safetensors";

/// Writes `config.json`, `model.safetensors` (the variables, which have the names already) and the tokenizer.
pub(super) fn write(
    folder: &Path,
    llama: &LlamaConfig,
    vocabulary: usize,
    longest: usize,
    variables: &Path,
    tokenizer: Option<&Path>,
) -> io::Result<()> {
    durable::create_folder(folder)?;
    let end = tokenizer.map(open).transpose()?.and_then(|tokenizer| tokenizer.end());
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": llama.hidden_size,
        "intermediate_size": llama.inner_size(),
        "num_hidden_layers": llama.num_hidden_layers,
        "num_attention_heads": llama.num_attention_heads,
        "num_key_value_heads": llama.kv_heads(),
        "head_dim": llama.hidden_size / llama.num_attention_heads,
        "hidden_act": "silu",
        "max_position_embeddings": longest,
        "rms_norm_eps": llama.rms_norm_eps,
        "rope_theta": llama.rope_theta,
        // As releases from 5 on have it, beside what those before read.
        "rope_parameters": { "rope_theta": llama.rope_theta, "rope_type": "default" },
        "attention_bias": false,
        "mlp_bias": false,
        "tie_word_embeddings": llama.tie_word_embeddings,
        "dtype": "float32",
        "torch_dtype": "float32",
        "bos_token_id": null,
        "eos_token_id": end,
    });
    durable::write_file(&folder.join("config.json"), &json(&config, true)?)?;
    durable::copy_file(variables, &folder.join(MODEL))?;
    tokenizer.map_or(Ok(()), |tokenizer| write_tokenizer(folder, tokenizer))
}

/// Copies the `tokenizer.json` at `tokenizer` to `folder`, and writes beside it what ends a text by the tokenizer, where that is known.
pub(super) fn write_tokenizer(folder: &Path, tokenizer: &Path) -> io::Result<()> {
    durable::copy_file(tokenizer, &folder.join(TOKENIZER))?;
    let Some(end) = open(tokenizer)?.end_text() else { return Ok(()) };
    let config = serde_json::json!({ "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end });
    durable::write_file(&folder.join(TOKENIZER_CONFIG), &json(&config, true)?)
}

fn open(tokenizer: &Path) -> io::Result<Tokenizer> {
    Tokenizer::open(tokenizer).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_a_text_is_kept_beside_the_tokenizer() {
        let dir = tempfile::tempdir().unwrap();
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizers/bpe.json");
        write_tokenizer(dir.path(), &fixture).unwrap();
        let kept = dir.path().join(TOKENIZER);
        assert_eq!(std::fs::read(&kept).unwrap(), std::fs::read(&fixture).unwrap());
        let config = std::fs::read(dir.path().join(TOKENIZER_CONFIG)).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        assert_eq!(config["eos_token"], "<|endoftext|>");
        // From there it is known again.
        assert_eq!(open(&kept).unwrap().end_text().as_deref(), Some("<|endoftext|>"));
    }
}
