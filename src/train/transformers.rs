//! The student as Hugging Face's transformers load it: `LlamaForCausalLM.from_pretrained(folder)`.

use std::io;
use std::path::Path;

use super::folder::{TOKENIZER, json};
use crate::config::LlamaConfig;
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
        "eos_token_id": null,
    });
    durable::write_file(&folder.join("config.json"), &json(&config, true)?)?;
    durable::copy_file(variables, &folder.join(MODEL))?;
    tokenizer.map_or(Ok(()), |tokenizer| durable::copy_file(tokenizer, &folder.join(TOKENIZER)))
}
