//! Grammars that answers must fit.

use std::sync::{Arc, OnceLock};

use super::tokenizer::NativeTokenizer;
use crate::generate::{CompiledGrammar, Grammar, GrammarCompiler};
use crate::mlx::{Error, Result};
use crate::text::Tokenizer;

/// The grammars compiled for a tokenizer; its vocabulary is read for the first.
#[derive(Default)]
pub(super) struct Grammars(OnceLock<Arc<GrammarCompiler>>);

impl Grammars {
    fn compiler(&self, tokenizer: &Arc<Tokenizer>) -> Result<&GrammarCompiler> {
        if let Some(compiler) = self.0.get() {
            return Ok(compiler);
        }
        let compiler = Arc::new(GrammarCompiler::new(tokenizer.clone())?);
        Ok(self.0.get_or_init(|| compiler))
    }
}

/// The grammar of a `response_format` (JSON), `None` for plain text.
pub(super) fn compiled(format: Option<&str>, tokenizer: Option<&NativeTokenizer>) -> Result<Option<Arc<CompiledGrammar>>> {
    let Some(format) = format else { return Ok(None) };
    let format = serde_json::from_str(format).map_err(|error| Error::Argument(format!("responseFormat: {error}")))?;
    let Some(grammar) = Grammar::from_response_format(&format)? else { return Ok(None) };
    let tokenizer =
        tokenizer.ok_or_else(|| Error::Argument("responseFormat needs a tokenizer, and this model has none".into()))?;
    tokenizer.grammars.compiler(&tokenizer.inner)?.compile(&grammar).map(Some)
}
