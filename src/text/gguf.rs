//! The tokenizer in a GGUF file: byte-level BPE with Qwen's rules of splitting, as the files that transformers would have written.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::mlx::io::GgufFile;
use crate::mlx::{Error, Result};

/// What Qwen splits texts into before it merges.
const SPLIT: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|",
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// llama.cpp's names of vocabularies that are split in this way.
const SPLITS: &[&str] = &["qwen2", "deepseek-r1-qwen"];

/// llama.cpp's kinds of tokens that stand for themselves: control tokens, and those that a user added.
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const NORMAL: i32 = 1;

/// `tokenizer.json` and `tokenizer_config.json`.
pub(super) fn files(file: &GgufFile, path: &Path) -> Result<(Value, Map<String, Value>)> {
    let bad = |message: String| Err(Error::load(path, message));
    let model = file.text("tokenizer.ggml.model")?;
    let split = file.text("tokenizer.ggml.pre")?;
    if model != Some("gpt2") || !split.is_some_and(|split| SPLITS.contains(&split)) {
        let known = SPLITS.join("' or '");
        return bad(format!(
            "its tokenizer is '{}' that splits like '{}'; only 'gpt2' (byte-level BPE) that splits like '{known}' can be read",
            model.unwrap_or("none"),
            split.unwrap_or("nothing named")
        ));
    }
    let (tokens, merges) = (file.texts("tokenizer.ggml.tokens")?, file.texts("tokenizer.ggml.merges")?);
    let kinds = file.integers("tokenizer.ggml.token_type")?;
    if kinds.len() != tokens.len() {
        return bad(format!("names {} tokens and the kinds of {}", tokens.len(), kinds.len()));
    }
    let (mut vocabulary, mut added) = (Map::new(), Vec::new());
    for (id, (token, kind)) in tokens.iter().zip(kinds).enumerate() {
        match kind {
            NORMAL => drop(vocabulary.insert(token.clone(), json!(id))),
            CONTROL | USER_DEFINED => added.push(json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
                "special": kind == CONTROL,
            })),
            // The embedding is padded with rows that no text leads to.
            _ => {}
        }
    }
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false });
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": { "type": "NFC" },
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                { "type": "Split", "pattern": { "Regex": SPLIT }, "behavior": "Isolated", "invert": false },
                byte_level,
            ],
        },
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "", "end_of_word_suffix": "",
            "fuse_unk": false, "byte_fallback": false, "ignore_merges": false, "vocab": vocabulary, "merges": merges,
        },
    });
    let mut config = Map::new();
    config.insert("tokenizer_class".into(), json!("Qwen2Tokenizer"));
    let named = |key: &str| -> Result<Option<Value>> {
        let id = file.integer(&format!("tokenizer.ggml.{key}"))?;
        Ok(id.and_then(|id| usize::try_from(id).ok()).and_then(|id| tokens.get(id)).map(|token| json!(token)))
    };
    for (name, key) in [("eos_token", "eos_token_id"), ("pad_token", "padding_token_id")] {
        if let Some(token) = named(key)? {
            config.insert(name.into(), token);
        }
    }
    if file.boolean("tokenizer.ggml.add_bos_token")?.unwrap_or(false)
        && let Some(token) = named("bos_token_id")?
    {
        config.insert("bos_token".into(), token);
    }
    if let Some(template) = file.text("tokenizer.chat_template")? {
        config.insert("chat_template".into(), json!(template));
    }
    Ok((tokenizer, config))
}
