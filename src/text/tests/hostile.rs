//! Damaged and hostile files end in an error that names the file, never in a panic.

use serde_json::{Value, json};

use super::{Folder, small_tokenizer};
use crate::mlx::Error;
use crate::text::Tokenizer;

/// The error of loading a folder, which must name `file` and say `reason`.
fn refused(folder: &Folder, file: &str, reason: &str) {
    match folder.load() {
        Err(Error::Load { path, message }) => {
            assert_eq!(path, folder.path().join(file), "{message}");
            assert!(message.contains(reason), "{message:?} does not say {reason:?}");
        }
        other => panic!("{file}: expected a load error with {reason:?}, got {other:?}"),
    }
}

#[test]
fn a_broken_tokenizer_file() {
    let whole = small_tokenizer().to_string();
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for (content, reason) in [
        ("", "ends too early"),
        (&whole[..whole.len() / 2], "ends too early"),
        ("{\"version\": 1.0,, }", "damaged"),
        (deep.as_str(), "not a tokenizer"),
        (&format!("{{\"decoder\": {deep}}}"), "not a tokenizer"),
        (&format!("{{\"model\": {deep}}}"), "not a tokenizer"),
        ("[]", "not a tokenizer"),
        ("{}", "not a tokenizer"),
        ("null", "not a tokenizer"),
        ("{\"version\": \"1.0\", \"model\": {\"type\": \"BPE\", \"vocab\": 3, \"merges\": []}}", "not a tokenizer"),
    ] {
        refused(&Folder::new(&[("tokenizer.json", content.as_bytes())]), "tokenizer.json", reason);
    }
    refused(&Folder::new(&[("tokenizer.json", b"\xFF\xFE\x00{")]), "tokenizer.json", "not valid JSON");
    refused(&Folder::new(&[("vocab.json", b"{}")]), "tokenizer.json", "save_pretrained");
    let missing = Tokenizer::load("/no/such/folder").unwrap_err();
    assert!(missing.to_string().contains("/no/such/folder: is not a folder"), "{missing}");
}

#[test]
fn every_cut_of_the_file_is_an_error() {
    let whole = small_tokenizer().to_string();
    for cut in (0..whole.len()).step_by(97) {
        let Some(part) = whole.get(..cut) else { continue };
        refused(&Folder::new(&[("tokenizer.json", part.as_bytes())]), "tokenizer.json", "not valid JSON");
    }
}

#[test]
fn wrong_types_in_the_tokenizer_file() {
    // Each leaf and branch below the top replaced by something else: an error or a working tokenizer.
    let whole = small_tokenizer();
    let wrong = [json!(null), json!(-1), json!("x"), json!([]), json!({}), json!([[[]]]), json!(1e300)];
    let paths = [
        "/version",
        "/truncation",
        "/truncation/max_length",
        "/padding",
        "/padding/strategy",
        "/padding/pad_id",
        "/added_tokens",
        "/added_tokens/0",
        "/added_tokens/0/id",
        "/added_tokens/0/content",
        "/normalizer",
        "/normalizer/type",
        "/pre_tokenizer",
        "/pre_tokenizer/type",
        "/post_processor",
        "/decoder",
        "/decoder/type",
        "/model",
        "/model/type",
        "/model/vocab",
        "/model/vocab/he",
        "/model/merges",
        "/model/merges/0",
        "/model/merges/0/0",
        "/model/byte_fallback",
    ];
    for path in paths {
        for value in &wrong {
            let mut file = whole.clone();
            *file.pointer_mut(path).unwrap() = value.clone();
            match Folder::small(&[("tokenizer.json", file)]).load() {
                Ok(tokenizer) => {
                    let ids = tokenizer.encode("hello <|end|>", true).unwrap();
                    tokenizer.decode(&ids, false).unwrap();
                }
                Err(error) => assert!(error.to_string().contains("tokenizer.json"), "{path} = {value}: {error}"),
            }
        }
    }
}

#[test]
fn wrong_types_in_the_configuration() {
    let config = |value: Value| Folder::small(&[("tokenizer_config.json", value)]);
    for (value, reason) in [
        (json!([]), "must hold a JSON object"),
        (json!({"eos_token": 5}), "eos_token must be a string"),
        (json!({"eos_token": {"text": "x"}}), "eos_token must be a string"),
        (json!({"added_tokens_decoder": []}), "added_tokens_decoder must be an object"),
        (json!({"added_tokens_decoder": {"x": {"content": "a"}}}), "not a token id"),
        (json!({"added_tokens_decoder": {"-1": {"content": "a"}}}), "not a token id"),
        (json!({"added_tokens_decoder": {"300": {"special": true}}}), "added_tokens_decoder[300]"),
        (json!({"added_tokens_decoder": {"300": {"content": "<far>"}}}), "do not belong together"),
        (json!({"additional_special_tokens": "x"}), "additional_special_tokens must be a list"),
        (json!({"extra_special_tokens": [1]}), "extra_special_tokens must be a string"),
        (json!({"chat_template": 1}), "chat_template must be a string or a list"),
        (json!({"chat_template": [{"name": "default"}]}), "`name` and `template`"),
    ] {
        refused(&config(value), "tokenizer_config.json", reason);
    }
    for name in ["generation_config.json", "config.json"] {
        for value in [
            json!({"eos_token_id": "x"}),
            json!({"eos_token_id": [1, -1]}),
            json!({"eos_token_id": 1.5}),
            json!({"eos_token_id": {}}),
        ] {
            refused(&Folder::small(&[(name, value)]), name, "eos_token_id must be a token id");
        }
    }
    let deep = format!("{{\"a\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let small = small_tokenizer().to_string();
    for (content, reason) in [("", "ends too early"), ("{\"eos_token\": \"<|en", "ends too early"), (&deep, "not valid JSON")] {
        let folder = Folder::new(&[("tokenizer.json", small.as_bytes()), ("tokenizer_config.json", content.as_bytes())]);
        refused(&folder, "tokenizer_config.json", reason);
    }
    let folder = Folder::new(&[("tokenizer.json", small.as_bytes()), ("chat_template.jinja", b"\xFF")]);
    refused(&folder, "chat_template.jinja", "UTF-8");
}
