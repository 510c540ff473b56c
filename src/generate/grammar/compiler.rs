//! Grammars for one tokenizer.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{InferenceCapabilities, TokEnv, TokRxInfo, TokTrie, TokenizerEnv};
use llguidance::{ParserFactory, TokenParser};

use super::{Grammar, Matcher, Source};
use crate::mlx::{Error, Result};
use crate::text::Tokenizer;

/// Compiled grammars that are kept.
const KEPT: usize = 32;
/// Rules and schemas are followed by recursion: more stack than a thread of Node's workers has. Only what is used takes memory.
const STACK: usize = 256 << 20;

/// The bytes of a tokenizer's tokens, as a trie, and the grammars compiled for it.
pub struct GrammarCompiler {
    factory: ParserFactory,
    /// A token that the tokenizer does not have: it stands for the end, whichever tokens end a request.
    end: u32,
    compiled: Mutex<VecDeque<(Grammar, Arc<CompiledGrammar>)>>,
}

impl GrammarCompiler {
    /// Reads the vocabulary: for one of 150 000 tokens that takes a second.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Result<GrammarCompiler> {
        let mut words = tokenizer.token_bytes().ok_or_else(|| {
            Error::Argument(
                "a grammar needs a tokenizer of byte-level BPE, such as Qwen's; this model's is of another kind".into(),
            )
        })?;
        let end = words.len() as u32;
        words.push(special("<|end of the grammar|>"));
        let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, end), &words);
        let env: TokEnv = Arc::new(Environment { tokenizer, trie });
        let capabilities = InferenceCapabilities { ff_tokens: true, ..InferenceCapabilities::default() };
        let slices = llguidance::earley::SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&env, capabilities, &slices)
            .map_err(|error| Error::Internal(format!("the vocabulary cannot be used for grammars: {}", reason(&error))))?;
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        Ok(GrammarCompiler { factory, end, compiled: Mutex::default() })
    }

    /// Compiles a grammar, or finds it among the last that were compiled. Others are found meanwhile.
    pub fn compile(&self, grammar: &Grammar) -> Result<Arc<CompiledGrammar>> {
        if let Some(compiled) = self.find(grammar) {
            return Ok(compiled);
        }
        let parser = self.parse(grammar)?;
        let compiled = Arc::new(CompiledGrammar { parser: Mutex::new(parser), end: self.end });
        let mut kept = self.kept();
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back((grammar.clone(), compiled.clone()));
        Ok(compiled)
    }

    /// A grammar that has been compiled, which then counts as the latest.
    fn find(&self, grammar: &Grammar) -> Option<Arc<CompiledGrammar>> {
        let mut kept = self.kept();
        let place = kept.iter().position(|(known, _)| known == grammar)?;
        let entry = kept.remove(place)?;
        let compiled = entry.1.clone();
        kept.push_back(entry);
        Some(compiled)
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<(Grammar, Arc<CompiledGrammar>)>> {
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn parse(&self, grammar: &Grammar) -> Result<TokenParser> {
        let (what, source) = match &grammar.0 {
            Source::Json(schema) => {
                let schema = serde_json::from_str(schema).map_err(|error| Error::Internal(error.to_string()))?;
                ("the JSON schema", TopLevelGrammar::from_json_schema(schema))
            }
            Source::Regex(pattern) => ("the regular expression", TopLevelGrammar::from_regex(pattern)),
            Source::Lark(text) => ("the grammar", TopLevelGrammar::from_lark(text.clone())),
        };
        let parsed = std::thread::scope(|scope| {
            let work = std::thread::Builder::new().name("grammar".into()).stack_size(STACK);
            let work = work.spawn_scoped(scope, || self.factory.create_parser(source));
            work.map(|work| work.join())
        });
        match parsed {
            Ok(Ok(Ok(mut parser))) => {
                parser.start_without_prompt();
                Ok(parser)
            }
            Ok(Ok(Err(error))) => Err(Error::Argument(format!("{what} cannot be used: {}", reason(&error)))),
            Ok(Err(_)) => Err(Error::Argument(format!("{what} cannot be used: the compiler failed on it"))),
            Err(error) => Err(Error::Internal(format!("a thread for {what} cannot be started: {error}"))),
        }
    }
}

impl std::fmt::Debug for GrammarCompiler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrammarCompiler").field("tokens", &self.end).finish_non_exhaustive()
    }
}

/// A grammar for the tokens of one tokenizer.
pub struct CompiledGrammar {
    parser: Mutex<TokenParser>,
    end: u32,
}

impl CompiledGrammar {
    /// Follows the grammar for one row. `ends` are the ids of the tokens that end a text: one of them is allowed where the grammar may
    /// end, and nowhere else.
    pub fn matcher(&self, ends: &[i32]) -> Result<Matcher> {
        self.check_ends(ends)?;
        // Nothing is shared with other rows: what one makes of the grammar neither slows the others nor uses up their limits.
        let parser = self.parser.lock().unwrap_or_else(PoisonError::into_inner).deep_clone();
        Ok(Matcher::new(parser, self.end, ends))
    }

    /// See [`Matcher::reversible`].
    pub(super) fn reversible(&self) -> bool {
        self.parser.lock().unwrap_or_else(PoisonError::into_inner).parser.grammar().lexer_spec().can_rollback()
    }

    pub(super) fn check_ends(&self, ends: &[i32]) -> Result<()> {
        match ends.is_empty() {
            true => Err(Error::Argument("a grammar needs a token that ends the text, and this model names none".into())),
            false => Ok(()),
        }
    }
}

impl std::fmt::Debug for CompiledGrammar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CompiledGrammar").finish_non_exhaustive()
    }
}

struct Environment {
    tokenizer: Arc<Tokenizer>,
    trie: TokTrie,
}

impl TokenizerEnv for Environment {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    /// The tokens of text that the grammar leaves no choice about, as the model has learnt to write it.
    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        self.trie.tokenize_with_greedy_fallback(bytes, |text| match self.tokenizer.encode(text, false) {
            // Text that looks like a special token stays text.
            Ok(ids) if !ids.iter().any(|&id| self.trie.is_special_token(id)) => ids,
            _ => self.trie.greedy_tokenize(text.as_bytes()),
        })
    }
}

/// How the trie writes a token that stands for no text.
fn special(name: &str) -> Vec<u8> {
    [&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat()
}

/// llguidance's words, without its state and traces.
pub(super) fn reason(error: &impl std::fmt::Display) -> String {
    let text = format!("{error:#}");
    let end = ["\n<", "<non-verbose/>", "<state>"].iter().filter_map(|mark| text.find(mark)).min().unwrap_or(text.len());
    let text = text[..end].trim();
    text.strip_prefix("panic: ").map_or_else(|| text.to_string(), |text| format!("the compiler failed on it ({text})"))
}
