//! Grammars that answers must fit.

use std::sync::{Arc, Mutex, PoisonError};

use super::tokenizer::NativeTokenizer;
use crate::generate::{CompiledGrammar, Grammar, GrammarCompiler};
use crate::mlx::{Error, Result};
use crate::text::Tokenizer;

/// The grammars compiled for a tokenizer; its vocabulary is read for the first.
#[derive(Clone, Default)]
pub(super) struct Grammars(Arc<Mutex<Option<Arc<GrammarCompiler>>>>);

impl Grammars {
    /// Who comes second waits for the first, and does not read the vocabulary again.
    fn compiler(&self, tokenizer: &Arc<Tokenizer>) -> Result<Arc<GrammarCompiler>> {
        let mut compiler = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*compiler {
            Some(compiler) => Ok(compiler.clone()),
            None => Ok(compiler.insert(Arc::new(GrammarCompiler::new(tokenizer.clone())?)).clone()),
        }
    }

    /// The grammar of a `response_format` (JSON), `None` for plain text.
    pub(super) fn compiled(&self, format: &str, tokenizer: &Arc<Tokenizer>) -> Result<Option<Arc<CompiledGrammar>>> {
        let Some(grammar) = grammar(format)? else { return Ok(None) };
        self.compiler(tokenizer)?.compile(&grammar).map(Some)
    }
}

fn grammar(format: &str) -> Result<Option<Grammar>> {
    let format = serde_json::from_str(format).map_err(|error| Error::Argument(format!("responseFormat: {error}")))?;
    Grammar::from_response_format(&format)
}

/// The grammar of a request. It is there at once when [`Grammars::compiled`] has compiled it before.
pub(super) fn compiled(format: Option<&str>, tokenizer: Option<&NativeTokenizer>) -> Result<Option<Arc<CompiledGrammar>>> {
    match (format, tokenizer) {
        (None, _) => Ok(None),
        (Some(format), Some(tokenizer)) => tokenizer.grammars.compiled(format, &tokenizer.inner),
        (Some(format), None) => match grammar(format)? {
            None => Ok(None),
            Some(_) => Err(Error::Argument("responseFormat needs a tokenizer, and this model has none".into())),
        },
    }
}
