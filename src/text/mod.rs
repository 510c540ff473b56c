//! Text in and out: tokenizer files, streaming decode, chat templates.

mod detokenizer;
mod files;
mod gguf;
mod json;
mod template;
mod tokenizer;

pub use detokenizer::Detokenizer;
pub use tokenizer::Tokenizer;

#[cfg(test)]
mod tests;
