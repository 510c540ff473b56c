//! Text of a row as its tokens arrive, and the stop strings in it.

use std::sync::Arc;

use crate::mlx::Result;
use crate::text::{Detokenizer, Tokenizer};

/// Decodes tokens and looks for stop strings in the text, wherever tokens begin and end.
pub struct TextOutput {
    detokenizer: Detokenizer,
    stop: StopStrings,
}

impl TextOutput {
    pub fn new(tokenizer: Arc<Tokenizer>, stop: &[String]) -> TextOutput {
        TextOutput { detokenizer: Detokenizer::new(tokenizer, true), stop: StopStrings::new(stop) }
    }

    /// The text that has become certain with `token`, and whether a stop string has ended it.
    pub fn push(&mut self, token: i32) -> Result<(String, bool)> {
        let text = self.detokenizer.push(token as u32)?;
        Ok(self.stop.push(&text))
    }

    /// The rest at the end, and whether a stop string has ended it.
    pub fn finish(&mut self) -> Result<(String, bool)> {
        let text = self.detokenizer.finish()?;
        let (mut released, stopped) = self.stop.push(&text);
        if !stopped {
            released.push_str(&self.stop.finish());
        }
        Ok((released, stopped))
    }
}

/// Finds the first of some strings in a text that comes in pieces. What may be the beginning of one is held back.
struct StopStrings {
    strings: Vec<String>,
    held: String,
}

impl StopStrings {
    fn new(strings: &[String]) -> StopStrings {
        StopStrings { strings: strings.to_vec(), held: String::new() }
    }

    /// The match that ends first counts, of those the longest: how the text was cut into pieces makes no difference.
    fn push(&mut self, piece: &str) -> (String, bool) {
        if self.strings.is_empty() {
            return (piece.to_string(), false);
        }
        self.held.push_str(piece);
        let found = self
            .strings
            .iter()
            .filter_map(|string| self.held.find(string.as_str()).map(|start| (start + string.len(), start)))
            .min();
        if let Some((_, start)) = found {
            self.held.truncate(start);
            return (std::mem::take(&mut self.held), true);
        }
        let certain = self.held.len() - self.open();
        let rest = self.held.split_off(certain);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// Bytes at the end of the held text that a stop string may begin with.
    fn open(&self) -> usize {
        let longest = self.strings.iter().map(|string| string.len() - 1).max().unwrap_or(0);
        let first = self.held.len().saturating_sub(longest);
        (first..self.held.len())
            .find(|&start| {
                self.held.is_char_boundary(start) && self.strings.iter().any(|string| string.starts_with(&self.held[start..]))
            })
            .map_or(0, |start| self.held.len() - start)
    }

    fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::StopStrings;

    /// Released pieces and the pieces read when the text was stopped.
    fn run(stop: &[&str], pieces: &[&str]) -> (Vec<String>, Option<usize>) {
        let stop: Vec<String> = stop.iter().map(|string| string.to_string()).collect();
        let mut strings = StopStrings::new(&stop);
        let mut released = Vec::new();
        for (index, piece) in pieces.iter().enumerate() {
            let (text, stopped) = strings.push(piece);
            released.push(text);
            if stopped {
                return (released, Some(index));
            }
        }
        released.push(strings.finish());
        (released, None)
    }

    #[test]
    fn beginnings_of_stop_strings_are_held_back() {
        assert_eq!(run(&["END"], &["aE", "N", "x"]), (vec!["a".into(), "".into(), "ENx".into(), "".into()], None));
        assert_eq!(run(&["END"], &["aE", "N", "Dx"]), (vec!["a".into(), "".into(), "".into()], Some(2)));
        assert_eq!(run(&["END"], &["aEN"]), (vec!["a".into(), "EN".into()], None));
        // The beginning of a match that fails may hold the beginning of another.
        assert_eq!(run(&["aab"], &["aa", "a", "b"]), (vec!["".into(), "a".into(), "".into()], Some(2)));
        assert_eq!(run(&["äö"], &["xä", "ü"]), (vec!["x".into(), "äü".into(), "".into()], None));
    }

    #[test]
    fn pieces_make_no_difference() {
        let cases: [(&[&str], &str, &str, bool); 6] = [
            (&["abcd", "bc"], "xabcd", "xa", true),
            (&["bc", "abc"], "xabcd", "x", true),
            (&["\n\n", "User:"], "one\ntwo\n\nUser:", "one\ntwo", true),
            (&["日本"], "の日の日本", "の日の", true),
            (&["zz"], "azbz", "azbz", false),
            (&[], "abc", "abc", false),
        ];
        for (stop, text, wanted, stopped) in cases {
            let characters: Vec<String> = text.chars().map(String::from).collect();
            for size in 1..=characters.len() {
                let pieces: Vec<String> = characters.chunks(size).map(|chunk| chunk.concat()).collect();
                let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
                let (released, at) = run(stop, &pieces);
                assert_eq!((released.concat().as_str(), at.is_some()), (wanted, stopped), "{stop:?} in {pieces:?}");
            }
        }
    }
}
