//! Pieces joined together must be the one-shot decode, whatever the ids are.

use std::sync::Arc;

use serde_json::json;

use super::{Folder, small_tokenizer};
use crate::text::{Detokenizer, Tokenizer};

fn stream(detokenizer: &mut Detokenizer, ids: &[u32]) -> Vec<String> {
    let mut pieces: Vec<String> = ids.iter().map(|&id| detokenizer.push(id).unwrap()).collect();
    pieces.push(detokenizer.finish().unwrap());
    pieces
}

/// Small xorshift, so that the ids are the same everywhere.
fn random_ids(seed: u64, count: usize, below: u64) -> Vec<u32> {
    let mut state = seed * 2 + 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..count).map(|_| (next() % below) as u32).collect()
}

fn agrees(tokenizer: &Arc<Tokenizer>, below: u64) {
    for seed in 1..400 {
        for skip in [false, true] {
            let ids = random_ids(seed, 1 + seed as usize % 40, below);
            let mut detokenizer = Detokenizer::new(tokenizer.clone(), skip);
            for _ in 0..2 {
                assert_eq!(stream(&mut detokenizer, &ids).concat(), tokenizer.decode(&ids, skip).unwrap(), "{ids:?}");
            }
        }
    }
}

#[test]
fn byte_level_pieces_join_to_the_text() {
    let tokenizer = Arc::new(Folder::small(&[]).load().unwrap());
    let mut detokenizer = Detokenizer::new(tokenizer.clone(), false);
    let euro = "€".as_bytes().iter().map(|&byte| u32::from(byte)).collect::<Vec<_>>();
    assert_eq!(stream(&mut detokenizer, &euro), ["", "", "€", ""]);
    assert_eq!(stream(&mut detokenizer, &euro[..2]), ["", "", "\u{FFFD}"]);
    // A byte that cannot follow decides that the character is broken; both come out at once.
    assert_eq!(stream(&mut detokenizer, &[0xE2, 0x82, 0x61, 0xFF]), ["", "", "\u{FFFD}a", "\u{FFFD}", ""]);
    assert_eq!(stream(&mut detokenizer, &[0xE2, 258, 104]), ["", "\u{FFFD}<|end|>", "h", ""]);
    assert_eq!(stream(&mut detokenizer, &[104, 99_999, 105]), ["h", "", "i", ""]);
    // Continuation and lead bytes only, then everything.
    agrees(&tokenizer, 262);
    for seed in 1..400 {
        let ids: Vec<u32> = random_ids(seed, 30, 116).iter().map(|id| 0x80 + id).collect();
        let mut detokenizer = Detokenizer::new(tokenizer.clone(), false);
        let pieces = stream(&mut detokenizer, &ids);
        assert_eq!(pieces.concat(), tokenizer.decode(&ids, false).unwrap());
        assert!(pieces.last().unwrap().chars().count() <= 1);
    }
}

#[test]
fn other_decoders_join_to_the_text() {
    // Llama's decoder: spaces as U+2581, byte tokens, one leading space stripped.
    let mut file = small_tokenizer();
    let words = ["▁he", "llo", "▁", "▁wörld", "!", "\u{FFFD}", "<|end|>"];
    let mut vocab: serde_json::Map<_, _> = words.iter().enumerate().map(|(id, word)| (word.to_string(), json!(id))).collect();
    for byte in [0x41, 0x0A, 0xE2, 0x82, 0xAC, 0xFF] {
        vocab.insert(format!("<0x{byte:02X}>"), json!(vocab.len()));
    }
    let below = vocab.len() as u64 + 1;
    file["model"]["vocab"] = vocab.into();
    file["model"]["merges"] = json!([]);
    file["model"]["byte_fallback"] = json!(true);
    file["pre_tokenizer"] = json!(null);
    file["added_tokens"] = json!([{"id": 6, "content": "<|end|>", "single_word": false, "lstrip": false, "rstrip": false,
                                   "normalized": false, "special": true}]);
    file["decoder"] = json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
    let folder = Folder::new(&[("tokenizer.json", file.to_string().as_bytes())]);
    let tokenizer = Arc::new(folder.load().unwrap());
    let mut detokenizer = Detokenizer::new(tokenizer.clone(), false);
    assert_eq!(stream(&mut detokenizer, &[0, 1, 3, 4]), ["he", "llo", " wörld", "!", ""]);
    assert_eq!(stream(&mut detokenizer, &[0, 9, 10, 11, 4]), ["he", "", "", "", "€!", ""]);
    agrees(&tokenizer, below);
}

#[test]
fn a_long_stream_costs_the_same_per_token() {
    let tokenizer = Arc::new(Folder::small(&[]).load().unwrap());
    let mut detokenizer = Detokenizer::new(tokenizer.clone(), true);
    let mut bytes = 0;
    // Never a whole character: a window over undecided ids would grow without end and take hours.
    for id in [0xE2, 0x82, 258].into_iter().cycle().take(600_000) {
        bytes += detokenizer.push(id).unwrap().len();
    }
    bytes += detokenizer.finish().unwrap().len();
    assert_eq!(bytes, 200_000 * '\u{FFFD}'.len_utf8());
}
