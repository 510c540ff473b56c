//! Output that must fit a JSON schema, a regular expression or a context-free grammar.
//!
//! A `GrammarCompiler` belongs to a tokenizer; it turns a `Grammar` into a `CompiledGrammar` once, and each row follows that with a
//! `Matcher` of its own: which tokens may come next, and, after the token is chosen, where the grammar stands.
//!
//! The work is done by `llguidance` (MIT, no unsafe dependencies of weight): it is what vLLM, SGLang and llama.cpp offer for this, it
//! follows the tokenizer's trie instead of the whole vocabulary, so that a mask costs microseconds, it says which schema keywords it
//! does not know instead of ignoring them, and it bounds its own work.

mod compiler;
mod format;
mod mask;
mod matcher;
mod schema;
mod thinking;

pub use compiler::{CompiledGrammar, GrammarCompiler};
pub use matcher::Matcher;
pub use thinking::Thinking;

#[cfg(test)]
mod tests;

use serde_json::{Value, json};

use crate::mlx::{Error, Result};

/// Longest text of a grammar, in bytes; a JSON schema's is that of its JSON.
const LONGEST: usize = 1 << 20;
/// Deepest nesting of brackets in a pattern or grammar.
const DEEPEST: usize = 200;

/// White space in JSON, between its tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Whitespace {
    /// A blank, or a line break and the indentation of the next line; so a model can write JSON as it has seen it, but not go on with
    /// blanks for ever.
    #[default]
    Flexible,
    /// None at all.
    None,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct JsonOptions {
    pub whitespace: Whitespace,
    /// Ignores keywords that cannot be enforced, which are refused otherwise; `oneOf` is read as `anyOf`.
    pub lenient: bool,
}

/// What a grammar is made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Source {
    /// The schema with its options, for llguidance.
    Json(String),
    Regex(String),
    Lark(String),
}

/// A grammar, checked as far as that is possible without a tokenizer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Grammar(Source);

impl Grammar {
    /// JSON that satisfies a JSON schema (draft 2020-12, or the draft that `$schema` names). References must stay within the schema.
    pub fn json_schema(schema: &Value, options: JsonOptions) -> Result<Grammar> {
        let text = schema::prepare(schema, options)?;
        check_length("the JSON schema", &text)?;
        Ok(Grammar(Source::Json(text)))
    }

    /// Any JSON object.
    pub fn json() -> Result<Grammar> {
        Grammar::json_schema(&json!({"type": "object"}), JsonOptions::default())
    }

    /// A text that a regular expression matches from its beginning to its end, whether or not it is anchored. Syntax of Rust's `regex`:
    /// no look-around, no references to groups.
    pub fn regex(pattern: &str) -> Result<Grammar> {
        check_length("the regular expression", pattern)?;
        check_nesting("the regular expression", pattern)?;
        let inner = pattern.strip_prefix('^').unwrap_or(pattern);
        let escaped = |text: &str| text.chars().rev().take_while(|&c| c == '\\').count() % 2 == 1;
        let inner = inner.strip_suffix('$').filter(|rest| !escaped(rest)).unwrap_or(inner);
        if inner.is_empty() {
            return Err(Error::Argument("the regular expression is empty: it would allow no text at all".into()));
        }
        Ok(Grammar(Source::Regex(inner.into())))
    }

    /// A text that a grammar in Lark's syntax derives from `start`. Tokens without text are named in angle brackets, as the tokenizer
    /// spells them: `<|im_start|>`.
    pub fn lark(grammar: &str) -> Result<Grammar> {
        check_length("the grammar", grammar)?;
        check_nesting("the grammar", grammar)?;
        if grammar.trim().is_empty() {
            return Err(Error::Argument("the grammar is empty: it needs a rule `start`".into()));
        }
        Ok(Grammar(Source::Lark(grammar.into())))
    }
}

fn check_length(what: &str, text: &str) -> Result<()> {
    match text.len() {
        0..=LONGEST => Ok(()),
        length => Err(Error::Argument(format!("{what} has {length} bytes; the most is {LONGEST}"))),
    }
}

/// What reads them follows brackets by recursion.
fn check_nesting(what: &str, text: &str) -> Result<()> {
    let mut depth = 0_usize;
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEEPEST {
            return Err(Error::Argument(format!("the brackets of {what} are nested more than {DEEPEST} deep")));
        }
    }
    Ok(())
}
