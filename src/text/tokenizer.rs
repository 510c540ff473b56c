//! A model's tokenizer, read from the files beside its weights.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tokenizers::{AddedToken, DecoderWrapper};

use super::detokenizer::push_token_bytes;
use super::files::{broken_json, describe, read, read_object};
use super::gguf;
use super::template::ChatTemplates;
use crate::mlx::io::{GgufFile, is_gguf};
use crate::mlx::{Error, Result};

/// The special tokens that have a name, as transformers calls them.
const NAMED_TOKENS: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Text to token ids and back, and the model's chat template.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    templates: ChatTemplates,
    /// `bos_token` … and their text, for the template.
    special_tokens: Map<String, Value>,
    eos_token_ids: Vec<u32>,
    pad_token_id: Option<u32>,
    /// `tokenizer_config.json`, where it was made up from other things.
    config: Option<Map<String, Value>>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a model folder, and what else is there: `tokenizer_config.json` (added and special tokens, chat
    /// template; the layouts of transformers 4 and 5), `special_tokens_map.json`, the chat template files, and
    /// `generation_config.json` and `config.json` for the end-of-text ids.
    pub fn load(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        if is_gguf(dir) {
            return Self::from_gguf(&GgufFile::open(dir)?, dir);
        }
        let path = dir.join("tokenizer.json");
        let inner = parse_tokenizer(&path, &read_tokenizer(dir, &path)?)?;
        let config_path = dir.join("tokenizer_config.json");
        let mut config = read_object(&config_path)?;
        if !config.contains_key("added_tokens_decoder") {
            // Older checkpoints keep the names of their special tokens apart.
            config.extend(read_object(&dir.join("special_tokens_map.json"))?);
        }
        let templates = ChatTemplates::load(dir, &config_path, &config)?;
        let mut ids = Vec::new();
        for name in ["generation_config.json", "config.json"] {
            let path = dir.join(name);
            let config = read_object(&path)?;
            ids.push((path, config));
        }
        Self::assemble(inner, &path, &config, &config_path, templates, &ids)
    }

    /// `load` where there is one: `tokenizer.json` in a folder, or what a GGUF file calls a tokenizer, readable or not.
    pub fn load_if_there(path: &Path) -> Result<Option<Self>> {
        if !is_gguf(path) {
            return if path.join("tokenizer.json").exists() { Self::load(path).map(Some) } else { Ok(None) };
        }
        let file = GgufFile::open(path)?;
        if file.value("tokenizer.ggml.model").is_none() {
            return Ok(None);
        }
        Self::from_gguf(&file, path).map(Some)
    }

    /// The tokenizer in a file of llama.cpp's format.
    fn from_gguf(file: &GgufFile, path: &Path) -> Result<Self> {
        let (tokenizer, config) = gguf::files(file, path)?;
        let inner = parse_tokenizer(path, tokenizer.to_string().as_bytes())?;
        let templates = ChatTemplates::from_config(path, &config)?;
        Ok(Self { config: Some(config.clone()), ..Self::assemble(inner, path, &config, path, templates, &[])? })
    }

    /// `tokenizer.json` and `tokenizer_config.json` of a tokenizer that was not read from such files.
    pub fn files(&self) -> Result<Option<[(&'static str, String); 2]>> {
        let Some(config) = &self.config else { return Ok(None) };
        let failed = |error: String| Error::Internal(format!("the tokenizer cannot be written: {error}"));
        let tokenizer = self.inner.to_string(false).map_err(|error| failed(error.to_string()))?;
        let config = serde_json::to_string_pretty(config).map_err(|error| failed(error.to_string()))?;
        Ok(Some([("tokenizer.json", tokenizer), ("tokenizer_config.json", config)]))
    }

    fn assemble(
        mut inner: tokenizers::Tokenizer,
        path: &Path,
        config: &Map<String, Value>,
        config_path: &Path,
        templates: ChatTemplates,
        ids: &[(PathBuf, Map<String, Value>)],
    ) -> Result<Self> {
        // These belong to training corpora; transformers turns them off unless a call asks for them.
        let pad_token = inner.get_padding().map(|padding| padding.pad_token.clone());
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|error| Error::load(path, error.to_string()))?;
        let mut special_tokens = add_tokens(&mut inner, config).map_err(|message| Error::load(config_path, message))?;
        if let Some(token) = pad_token.filter(|token| inner.token_to_id(token).is_some()) {
            special_tokens.entry("pad_token").or_insert(Value::String(token));
        }

        let id_of = |name: &str| special_tokens.get(name).and_then(Value::as_str).and_then(|token| inner.token_to_id(token));
        let mut eos_token_ids = Vec::from_iter(id_of("eos_token"));
        let mut pad_token_id = id_of("pad_token");
        for (path, config) in ids {
            let ids = |key: &str| token_ids(config, key).map_err(|message| Error::load(path, message));
            for id in ids("eos_token_id")? {
                if !eos_token_ids.contains(&id) {
                    eos_token_ids.push(id);
                }
            }
            let pad = ids("pad_token_id")?;
            pad_token_id = pad_token_id.or(pad.first().copied());
        }
        Ok(Self { inner, templates, special_tokens, eos_token_ids, pad_token_id, config: None })
    }

    /// The ids of a text. Special tokens written in the text (`<|im_start|>`) are recognised; `add_special_tokens` lets the
    /// model's own template for sequences add more (none for Qwen).
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        match self.inner.encode_fast(text, add_special_tokens) {
            Ok(encoding) => Ok(encoding.get_ids().to_vec()),
            Err(error) => Err(Error::Internal(format!("the tokenizer cannot encode a text of {} bytes: {error}", text.len()))),
        }
    }

    /// The text of ids; `skip_special` leaves special tokens out. Bytes that form no character become U+FFFD, ids outside the
    /// vocabulary are ignored. `clean_up_tokenization_spaces` is not applied: transformers ignores it for BPE, since it removes
    /// spaces that the model wrote.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let text = self.inner.decode(ids, skip_special);
        text.map_err(|error| Error::Internal(format!("the tokenizer cannot decode {} ids: {error}", ids.len())))
    }

    /// Renders a conversation with the model's chat template, as transformers' `apply_chat_template(tokenize=False)` does.
    ///
    /// `messages`: array of objects. `options`: an object or null; `tools`, `documents`, `add_generation_prompt` (default
    /// false), `continue_final_message` (true or a field name), `chat_template` (a name among the model's templates, or a
    /// template); any other key is a variable of the template, for example `enable_thinking`. Encode the result with
    /// `add_special_tokens` false.
    ///
    /// [`Error::Template`] carries the template's own words when it refuses the conversation.
    pub fn apply_chat_template(&self, messages: &Value, options: &Value) -> Result<String> {
        self.templates.render(&self.special_tokens, messages, options)
    }

    pub fn has_chat_template(&self) -> bool {
        !self.templates.is_empty()
    }

    /// The ids that end a text, without repetition: the tokenizer's `eos_token`, then `eos_token_id` of `generation_config.json`,
    /// then of `config.json`.
    pub fn eos_token_ids(&self) -> &[u32] {
        &self.eos_token_ids
    }

    /// The tokenizer's `pad_token`, else `pad_token_id` of `generation_config.json` or `config.json`.
    pub fn pad_token_id(&self) -> Option<u32> {
        self.pad_token_id
    }

    /// The tokenizer's `bos_token`; Qwen has none.
    pub fn bos_token_id(&self) -> Option<u32> {
        self.special_token("bos_token").and_then(|token| self.token_to_id(token))
    }

    /// The text of a named special token, for example `eos_token`.
    pub fn special_token(&self, name: &str) -> Option<&str> {
        self.special_tokens.get(name).and_then(Value::as_str)
    }

    /// Number of tokens, added tokens included. The rows of a model's embedding are usually padded to more.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The token as the vocabulary spells it (`Ġworld`), not its text.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Whether `decode` with `skip_special` leaves this id out.
    pub fn is_special(&self, id: u32) -> bool {
        let added = self.inner.get_added_vocabulary();
        added.get_added_tokens_decoder().get(&id).is_some_and(|token| added.is_special_token(&token.content))
    }

    /// The bytes of each token, by id, where tokens are bytes (byte-level BPE) or the text that they are named after. Tokens that stand
    /// for themselves and not for text, which are the special ones and those in angle brackets, begin with 0xFF, which no text has; ids
    /// without a token are empty.
    pub fn token_bytes(&self) -> Option<Vec<Vec<u8>>> {
        let push: fn(&mut Vec<u8>, &str) = match self.inner.get_decoder() {
            Some(DecoderWrapper::ByteLevel(_)) => push_token_bytes,
            Some(DecoderWrapper::Fuse(_)) => |bytes, token| bytes.extend(token.as_bytes()),
            _ => return None,
        };
        let vocabulary = self.inner.get_vocab(true);
        let size = vocabulary.values().max().map_or(0, |&id| id as usize + 1);
        let mut bytes = vec![Vec::new(); size];
        for (token, id) in &vocabulary {
            push(&mut bytes[*id as usize], token);
        }
        for (id, token) in self.inner.get_added_vocabulary().get_added_tokens_decoder() {
            let text = &token.content;
            let Some(bytes) = bytes.get_mut(*id as usize) else { continue };
            bytes.clear();
            if token.special || (text.starts_with('<') && text.ends_with('>')) {
                bytes.push(0xFF);
            }
            bytes.extend(text.as_bytes());
        }
        Some(bytes)
    }

    pub(super) fn is_byte_level(&self) -> bool {
        matches!(self.inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_)))
    }
}

fn read_tokenizer(dir: &Path, path: &Path) -> Result<Vec<u8>> {
    if !dir.is_dir() {
        return Err(Error::load(dir, "is not a folder: pass the folder that holds tokenizer.json"));
    }
    read(path)?.ok_or_else(|| {
        Error::load(
            path,
            "not found. A tokenizer in this format is needed; where a model has only vocab.json and merges.txt, write it with \
             transformers: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)",
        )
    })
}

/// `path` is where the text of `tokenizer.json` came from.
fn parse_tokenizer(path: &Path, bytes: &[u8]) -> Result<tokenizers::Tokenizer> {
    if let Err(broken) = serde_json::from_slice::<serde::de::IgnoredAny>(bytes) {
        return Err(Error::load(path, broken_json(bytes.len(), &broken)));
    }
    // The tokenizers crate panics on some files, for example on a decoder nested a thousand levels deep.
    let refused = |reason: String| Error::load(path, format!("is not a tokenizer that this version can read: {reason}"));
    match std::panic::catch_unwind(|| tokenizers::Tokenizer::from_bytes(bytes)) {
        Ok(read) => read.map_err(|error| refused(error.to_string())),
        Err(_) => Err(refused("the tokenizers library failed on it".into())),
    }
}

/// Adds the tokens that only the configuration names, and returns the named special tokens.
fn add_tokens(
    tokenizer: &mut tokenizers::Tokenizer,
    config: &Map<String, Value>,
) -> std::result::Result<Map<String, Value>, String> {
    if let Some(value) = config.get("added_tokens_decoder").filter(|value| !value.is_null()) {
        let Value::Object(entries) = value else {
            return Err(format!("added_tokens_decoder must be an object, found {}", describe(value)));
        };
        let mut tokens = Vec::new();
        for (key, value) in entries {
            let id: u32 = key.parse().map_err(|_| format!("added_tokens_decoder: {key:?} is not a token id"))?;
            tokens.push((id, added_token(value, false, &format!("added_tokens_decoder[{key}]"))?));
        }
        tokens.sort_by_key(|(id, _)| *id);
        for (id, token) in tokens {
            let content = token.content.clone();
            if tokenizer.get_added_vocabulary().get_vocab().contains_key(&content) {
                continue;
            }
            tokenizer.add_tokens([token]).map_err(|error| format!("added token {content:?}: {error}"))?;
            match tokenizer.token_to_id(&content) {
                Some(found) if found != id => {
                    return Err(format!(
                        "added token {content:?} has the id {id}, but in tokenizer.json its place is {found}: the two files do \
                         not belong together"
                    ));
                }
                _ => {}
            }
        }
    }

    let mut named = Map::new();
    let mut special = Vec::new();
    for name in NAMED_TOKENS {
        if let Some(value) = config.get(name).filter(|value| !value.is_null()) {
            let token = added_token(value, true, name)?;
            named.insert(name.into(), Value::String(token.content.clone()));
            special.push(token);
        }
    }
    // transformers 4 wrote a list under the first name, transformers 5 a list or an object of names under the second.
    for name in ["additional_special_tokens", "extra_special_tokens"] {
        let values: Vec<&Value> = match config.get(name) {
            None | Some(Value::Null) => continue,
            Some(Value::Array(list)) => list.iter().collect(),
            Some(Value::Object(entries)) => entries.values().collect(),
            Some(other) => return Err(format!("{name} must be a list or an object, found {}", describe(other))),
        };
        for value in values {
            special.push(added_token(value, true, name)?);
        }
    }
    special.retain(|token| !token.content.is_empty() && !tokenizer.get_added_vocabulary().is_special_token(&token.content));
    tokenizer.add_special_tokens(special).map_err(|error| format!("special tokens: {error}"))?;
    Ok(named)
}

/// A token of `tokenizer_config.json`: its text, or an object with `content` and flags. `special` overrides its flag.
fn added_token(value: &Value, special: bool, place: &str) -> std::result::Result<AddedToken, String> {
    let content = value.as_str().or_else(|| value.get("content").and_then(Value::as_str));
    let content =
        content.ok_or_else(|| format!("{place} must be a string or an object with `content`, found {}", describe(value)))?;
    let flag = |name: &str| value.get(name).and_then(Value::as_bool);
    let special = special || flag("special").unwrap_or(false);
    Ok(AddedToken::from(content, special)
        .single_word(flag("single_word").unwrap_or(false))
        .lstrip(flag("lstrip").unwrap_or(false))
        .rstrip(flag("rstrip").unwrap_or(false))
        .normalized(flag("normalized").unwrap_or(!special)))
}

/// `eos_token_id` and the like: an id, a list of ids, or nothing.
fn token_ids(config: &Map<String, Value>, key: &str) -> std::result::Result<Vec<u32>, String> {
    let value = config.get(key).unwrap_or(&Value::Null);
    let values = match value {
        Value::Null => &[],
        Value::Array(list) => list.as_slice(),
        single => std::slice::from_ref(single),
    };
    values
        .iter()
        .map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok()))
        .collect::<Option<_>>()
        .ok_or_else(|| format!("{key} must be a token id or a list of token ids, found {}", describe(value)))
}
