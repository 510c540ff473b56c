//! Tests of the text modules: golden numbers, small tokenizers, hostile files.

mod golden;
mod hostile;
mod stream;
mod template;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::Tokenizer;

/// A model folder that is removed with the value.
struct Folder(PathBuf);

impl Folder {
    fn new(files: &[(&str, &[u8])]) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("mlx-node-text-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = Self(std::env::temp_dir().join(name));
        for (name, content) in files {
            let path = folder.0.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        folder
    }

    /// A folder with the small tokenizer and more files.
    fn small(files: &[(&str, Value)]) -> Self {
        let mut all = vec![("tokenizer.json", small_tokenizer())];
        all.extend(files.iter().cloned());
        let text: Vec<(&str, Vec<u8>)> = all.iter().map(|(name, json)| (*name, json.to_string().into_bytes())).collect();
        Self::new(&text.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect::<Vec<_>>())
    }

    fn load(&self) -> crate::mlx::Result<Tokenizer> {
        Tokenizer::load(&self.0)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The 256 byte tokens in GPT-2's alphabet: the id of a byte is its place in that alphabet.
fn byte_alphabet() -> Vec<(u8, char)> {
    let printable = |byte: u8| matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut next = 0x100;
    (0..=255)
        .map(|byte| {
            if printable(byte) {
                (byte, char::from(byte))
            } else {
                next += 1;
                (byte, char::from_u32(next - 1).unwrap())
            }
        })
        .collect()
}

/// Byte-level BPE as Qwen has it: id = byte, 256 "he", 257 "hel", 258 <|end|> (special), 259 <tool> (not special).
fn small_tokenizer() -> Value {
    let mut vocab: serde_json::Map<String, Value> =
        byte_alphabet().into_iter().map(|(byte, c)| (c.to_string(), json!(byte))).collect();
    vocab.insert("he".into(), json!(256));
    vocab.insert("hel".into(), json!(257));
    let added = |id: u32, content: &str, special: bool| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
               "special": special})
    };
    json!({
        "version": "1.0", "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 258,
                    "pad_type_id": 0, "pad_token": "<|end|>"},
        "added_tokens": [added(258, "<|end|>", true), added(259, "<tool>", false)],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                  "vocab": vocab, "merges": [["h", "e"], ["he", "l"]]}
    })
}

#[test]
fn a_small_tokenizer_reads_all_its_files() {
    let folder = Folder::small(&[
        (
            "tokenizer_config.json",
            json!({"bos_token": null, "eos_token": {"__type": "AddedToken", "content": "<|end|>"}, "unk_token": "<unk>",
                   "added_tokens_decoder": {"260": {"content": "<new>", "special": true}, "258": {"content": "<|end|>"}},
                   "additional_special_tokens": ["<tool>"], "clean_up_tokenization_spaces": true}),
        ),
        ("generation_config.json", json!({"eos_token_id": [7, 258, 5], "pad_token_id": 3})),
        ("config.json", json!({"eos_token_id": 5, "pad_token_id": null})),
    ]);
    let tokenizer = folder.load().unwrap();
    assert_eq!(tokenizer.encode("hello", true).unwrap(), [257, 108, 111], "no truncation or padding");
    assert_eq!(tokenizer.encode("a<new><tool>", false).unwrap(), [97, 260, 259]);
    assert_eq!(tokenizer.decode(&[257, 108, 111, 32, 46, 258, 259, 9999], false).unwrap(), "hello .<|end|><tool>");
    assert_eq!(tokenizer.decode(&[257, 258, 259, 260], true).unwrap(), "hel");
    assert_eq!(tokenizer.eos_token_ids(), [258, 7, 5]);
    assert_eq!((tokenizer.pad_token_id(), tokenizer.bos_token_id()), (Some(258), None));
    assert_eq!((tokenizer.special_token("unk_token"), tokenizer.token_to_id("<unk>")), (Some("<unk>"), Some(261)));
    assert_eq!(tokenizer.vocab_size(), 262);
    assert_eq!((tokenizer.id_to_token(32).as_deref(), tokenizer.id_to_token(262)), (Some("Ġ"), None));
    assert!(tokenizer.is_special(260) && tokenizer.is_special(259) && !tokenizer.is_special(97));
    assert!(!tokenizer.has_chat_template());
}

#[test]
fn tokenizers_are_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Tokenizer>();
    shared::<super::Detokenizer>();
}

#[test]
fn a_tokenizer_alone_and_the_other_layouts() {
    let alone = Folder::small(&[]).load().unwrap();
    assert_eq!(
        (alone.eos_token_ids(), alone.pad_token_id()),
        (&[][..], Some(258)),
        "the padding of tokenizer.json names a token"
    );
    let legacy = Folder::small(&[("special_tokens_map.json", json!({"eos_token": "<|end|>", "bos_token": {"content": "<s>"}}))]);
    let legacy = legacy.load().unwrap();
    assert_eq!((legacy.eos_token_ids(), legacy.bos_token_id()), (&[258][..], Some(260)));
    for extra in [json!(["<x>", {"content": "<y>"}]), json!({"x_token": "<x>", "y_token": "<y>"})] {
        let five = Folder::small(&[("tokenizer_config.json", json!({"extra_special_tokens": extra}))]).load().unwrap();
        assert_eq!(five.encode("<x><y>", false).unwrap(), [260, 261]);
        assert_eq!(five.decode(&[260, 104, 261], true).unwrap(), "h");
    }
}
