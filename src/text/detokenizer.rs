//! Streaming decode: ids one by one in, text out, never half a character.

use std::sync::Arc;

use super::Tokenizer;
use crate::mlx::Result;

/// Turns ids into text as they arrive. The pieces of [`push`](Self::push) and [`finish`](Self::finish) joined together are
/// exactly [`Tokenizer::decode`] of all ids. The cost of an id does not depend on how many came before.
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    skip_special: bool,
    state: State,
}

enum State {
    /// Byte-level BPE (every Qwen model): tokens are bytes, so only an unfinished character has to wait.
    Bytes(Vec<u8>),
    /// Other decoders look at neighbouring tokens: decode a window that starts with the tokens of the last piece.
    Window { ids: Vec<u32>, context: usize, released: String },
}

impl Detokenizer {
    /// `skip_special` leaves special tokens (`<|im_end|>` …) out of the text.
    pub fn new(tokenizer: Arc<Tokenizer>, skip_special: bool) -> Self {
        let state = Self::start(&tokenizer);
        Self { tokenizer, skip_special, state }
    }

    fn start(tokenizer: &Tokenizer) -> State {
        if tokenizer.is_byte_level() {
            State::Bytes(Vec::new())
        } else {
            State::Window { ids: Vec::new(), context: 0, released: String::new() }
        }
    }

    /// The text that `id` completes; empty while a character is unfinished. An id outside the vocabulary adds nothing, as in
    /// [`Tokenizer::decode`].
    pub fn push(&mut self, id: u32) -> Result<String> {
        let Some(token) = self.tokenizer.id_to_token(id) else { return Ok(String::new()) };
        if self.skip_special && self.tokenizer.is_special(id) {
            return Ok(String::new());
        }
        match &mut self.state {
            State::Bytes(pending) => {
                push_token_bytes(pending, &token);
                Ok(take_characters(pending))
            }
            State::Window { ids, context, released } => {
                ids.push(id);
                let text = self.tokenizer.decode(ids, self.skip_special)?;
                // U+FFFD may be a character whose other bytes are still to come, and a byte token (`<0xE2>`) may yet be
                // judged together with its successors.
                let unfinished = text.ends_with('\u{FFFD}') || (token.starts_with("<0x") && token.ends_with('>'));
                match text.strip_prefix(released.as_str()) {
                    Some(piece) if !unfinished && !piece.is_empty() => {
                        let piece = piece.to_string();
                        ids.drain(..*context);
                        *context = ids.len();
                        *released = self.tokenizer.decode(ids, self.skip_special)?;
                        Ok(piece)
                    }
                    _ => Ok(String::new()),
                }
            }
        }
    }

    /// The rest at the end of the text: U+FFFD for an unfinished character. The detokenizer is then ready for another text.
    pub fn finish(&mut self) -> Result<String> {
        match std::mem::replace(&mut self.state, Self::start(&self.tokenizer)) {
            State::Bytes(pending) => Ok(String::from_utf8_lossy(&pending).into_owned()),
            State::Window { ids, released, .. } => {
                let text = self.tokenizer.decode(&ids, self.skip_special)?;
                let common: usize =
                    text.chars().zip(released.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
                Ok(text[common..].to_string())
            }
        }
    }
}

/// Appends the bytes that a byte-level token stands for. A token with a character outside the byte alphabet (an added token)
/// stands for its own text.
pub(super) fn push_token_bytes(bytes: &mut Vec<u8>, token: &str) {
    let start = bytes.len();
    for c in token.chars() {
        let Some(byte) = byte_of(c) else {
            bytes.truncate(start);
            return bytes.extend(token.as_bytes());
        };
        bytes.push(byte);
    }
}

/// GPT-2's byte alphabet: printable Latin-1 characters stand for themselves, the 68 other bytes for U+0100 .. U+0143 in order.
fn byte_of(c: char) -> Option<u8> {
    match c as u32 {
        code @ (0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) => Some(code as u8),
        code @ 0x100..=0x120 => Some((code - 0x100) as u8),
        code @ 0x121..=0x142 => Some((code - 0x121 + 0x7F) as u8),
        0x143 => Some(0xAD),
        _ => None,
    }
}

/// Takes all that is decided off the front: whole characters, and U+FFFD for bytes that can no longer become one.
/// At most three bytes remain.
fn take_characters(pending: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut rest = pending.as_slice();
    loop {
        match std::str::from_utf8(rest) {
            Ok(valid) => {
                text.push_str(valid);
                rest = &[];
                break;
            }
            Err(error) => {
                let (valid, after) = rest.split_at(error.valid_up_to());
                text.push_str(&String::from_utf8_lossy(valid));
                rest = after;
                match error.error_len() {
                    Some(length) => {
                        text.push('\u{FFFD}');
                        rest = &rest[length..];
                    }
                    None => break,
                }
            }
        }
    }
    pending.drain(..pending.len() - rest.len());
    text
}
