//! The tokenizer and chat template of a checkpoint.

use std::path::PathBuf;
use std::sync::Arc;

use napi::Env;
use napi::bindgen_prelude::Object;
use napi_derive::napi;

use super::error as js;
use super::grammar::Grammars;
use super::promise;
use crate::mlx::Error;
use crate::text::{Detokenizer, Tokenizer};

/// Text to token ids and back.
#[napi]
pub struct NativeTokenizer {
    pub(super) inner: Arc<Tokenizer>,
    pub(super) grammars: Grammars,
}

#[napi]
impl NativeTokenizer {
    /// Reads `tokenizer.json` and its companions from a checkpoint folder, or the tokenizer in a GGUF file.
    #[napi(ts_return_type = "Promise<NativeTokenizer>")]
    pub fn load<'env>(env: &'env Env, dir: String) -> js::Result<Object<'env>> {
        let dir = PathBuf::from(dir);
        promise::once(
            env,
            move || Tokenizer::load(&dir),
            |inner| NativeTokenizer { inner: Arc::new(inner), grammars: Grammars::default() },
        )
    }

    /// The same where a folder or a GGUF file has a tokenizer, else null.
    #[napi(ts_return_type = "Promise<NativeTokenizer | null>")]
    pub fn load_if_there<'env>(env: &'env Env, dir: String) -> js::Result<Object<'env>> {
        let dir = PathBuf::from(dir);
        promise::once(
            env,
            move || Tokenizer::load_if_there(&dir),
            |found| found.map(|inner| NativeTokenizer { inner: Arc::new(inner), grammars: Grammars::default() }),
        )
    }

    /// The files that describe a tokenizer that was not read from such files (but from GGUF): names and texts in turn.
    #[napi]
    pub fn files(&self) -> js::Result<Vec<String>> {
        let files = self.inner.files()?.into_iter().flatten();
        Ok(files.flat_map(|(name, text)| [name.to_string(), text]).collect())
    }

    #[napi]
    pub fn encode(&self, text: String, add_special_tokens: Option<bool>) -> js::Result<Vec<u32>> {
        Ok(self.inner.encode(&text, add_special_tokens.unwrap_or(true))?)
    }

    #[napi]
    pub fn decode(&self, ids: Vec<u32>, skip_special_tokens: Option<bool>) -> js::Result<String> {
        Ok(self.inner.decode(&ids, skip_special_tokens.unwrap_or(true))?)
    }

    /// Renders messages (JSON array) with options (JSON object: tools, add_generation_prompt, enable_thinking and others that
    /// the template knows).
    #[napi]
    pub fn apply_chat_template(&self, messages_json: String, options_json: String) -> js::Result<String> {
        let parse = |what: &str, text: &str| {
            serde_json::from_str::<serde_json::Value>(text)
                .map_err(|error| Error::Argument(format!("{what} is not JSON: {error}")))
        };
        Ok(self.inner.apply_chat_template(&parse("messages", &messages_json)?, &parse("options", &options_json)?)?)
    }

    /// Compiles a format (OpenAI's `response_format` as JSON), and before the first reads the vocabulary for it. Requests that ask for
    /// the format then begin at once.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn prepare_format<'env>(&self, env: &'env Env, format: String) -> js::Result<Object<'env>> {
        let (grammars, tokenizer) = (self.grammars.clone(), self.inner.clone());
        promise::aside(env, move || grammars.compiled(&format, &tokenizer), |_| ())
    }

    /// Decodes ids one at a time without ever releasing half a character.
    #[napi]
    pub fn decode_stream(&self, skip_special_tokens: Option<bool>) -> NativeDecodeStream {
        NativeDecodeStream { inner: Detokenizer::new(self.inner.clone(), skip_special_tokens.unwrap_or(true)) }
    }

    /// Ids that end a reply.
    #[napi(getter)]
    pub fn eos_token_ids(&self) -> Vec<u32> {
        self.inner.eos_token_ids().to_vec()
    }

    #[napi(getter)]
    pub fn pad_token_id(&self) -> Option<u32> {
        self.inner.pad_token_id()
    }

    #[napi(getter)]
    pub fn vocab_size(&self) -> u32 {
        self.inner.vocab_size() as u32
    }

    #[napi(getter)]
    pub fn has_chat_template(&self) -> bool {
        self.inner.has_chat_template()
    }
}

/// Streaming decode: `push` returns the text that has become certain.
#[napi]
pub struct NativeDecodeStream {
    inner: Detokenizer,
}

#[napi]
impl NativeDecodeStream {
    #[napi]
    pub fn push(&mut self, id: u32) -> js::Result<String> {
        Ok(self.inner.push(id)?)
    }

    /// What is left at the end; an unfinished character becomes U+FFFD.
    #[napi]
    pub fn finish(&mut self) -> js::Result<String> {
        Ok(self.inner.finish()?)
    }
}
