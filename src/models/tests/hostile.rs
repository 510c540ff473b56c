//! Files that are damaged, lie or ask for what is not supported: each is refused with an error that says what and where.

use serde_json::{Value, json};

use super::*;
use crate::mlx::io::safetensors::{SafetensorsFile, Source};
use crate::models::weights::{Existing, save_sharded};
use crate::testing::golden_path;

fn refused(dir: &Path) -> crate::mlx::Error {
    match load_f32(dir) {
        Ok(_) => panic!("{} should have been refused", dir.display()),
        Err(error) => error,
    }
}

#[track_caller]
fn assert_refused(dir: &Path, code: &str, parts: &[&str]) {
    let error = refused(dir);
    let text = error.to_string();
    assert_eq!(error.code(), code, "{text}");
    for part in parts {
        assert!(text.contains(part), "'{part}' should be in: {text}");
    }
}

fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut json = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    edit(&mut json);
    std::fs::write(path, json.to_string()).unwrap();
}

/// Header and data of a safetensors file, put together again after an edit of the header's text.
fn edit_header(path: &Path, edit: impl FnOnce(String) -> String) {
    let bytes = std::fs::read(path).unwrap();
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = edit(String::from_utf8(bytes[8..end].to_vec()).unwrap());
    let mut edited = (header.len() as u64).to_le_bytes().to_vec();
    edited.extend(header.as_bytes());
    edited.extend(&bytes[end..]);
    std::fs::write(path, edited).unwrap();
}

fn edit_entries(path: &Path, edit: impl FnOnce(&mut Value)) {
    edit_header(path, |header| {
        let mut json = serde_json::from_str(&header).unwrap();
        edit(&mut json);
        json.to_string()
    });
}

const NORM: &str = "model.norm.weight";

#[test]
fn damaged_weight_files() {
    type Damage = (&'static str, fn(&Path), &'static str);
    let cases: &[Damage] = &[
        ("empty file", |path| std::fs::write(path, []).unwrap(), "truncated"),
        ("seven bytes", |path| std::fs::write(path, [0; 7]).unwrap(), "truncated"),
        ("header of zero bytes", |path| std::fs::write(path, [0; 16]).unwrap(), "bad header"),
        ("header beyond the file", |path| std::fs::write(path, [200, 0, 0, 0, 0, 0, 0, 0, 1]).unwrap(), "truncated"),
        ("header beyond all bounds", |path| std::fs::write(path, [255; 64]).unwrap(), "18446744073709551615"),
        ("no JSON", |path| edit_header(path, |header| header.replace('{', "[")), "bad header"),
        ("a list", |path| edit_header(path, |_| "[]".into()), "bad header"),
        (
            "not UTF-8",
            |path| {
                let mut bytes = std::fs::read(path).unwrap();
                bytes[12] = 0xff;
                std::fs::write(path, bytes).unwrap();
            },
            "bad header",
        ),
        ("a name twice", |path| edit_header(path, |header| header.replacen("model.layers.0.", "model.layers.1.", 1)), "twice"),
        (
            "cut off",
            |path| {
                let bytes = std::fs::read(path).unwrap();
                std::fs::write(path, &bytes[..bytes.len() - 4]).unwrap();
            },
            "truncated",
        ),
        (
            "bytes after the end",
            |path| {
                let mut bytes = std::fs::read(path).unwrap();
                bytes.push(0);
                std::fs::write(path, bytes).unwrap();
            },
            "the file has",
        ),
        ("unknown dtype", |path| edit_entries(path, |json| json[NORM]["dtype"] = json!("F8_E4M3")), "F8_E4M3"),
        ("dtype of another size", |path| edit_entries(path, |json| json[NORM]["dtype"] = json!("F16")), "[32] of float16"),
        ("an integer dtype", |path| edit_entries(path, |json| json[NORM]["dtype"] = json!("I32")), "int32"),
        ("negative size", |path| edit_entries(path, |json| json[NORM]["shape"] = json!([-32])), "shape [-32]"),
        ("fractional size", |path| edit_entries(path, |json| json[NORM]["shape"] = json!([32.5])), "shape [32.5]"),
        (
            "sizes that overflow",
            |path| edit_entries(path, |json| json[NORM]["shape"] = json!([2147483647, 2147483647, 2147483647])),
            NORM,
        ),
        ("other shape of as many bytes", |path| edit_entries(path, |json| json[NORM]["shape"] = json!([4, 8])), "[4, 8]"),
        (
            "offsets reversed",
            |path| {
                edit_entries(path, |json| {
                    json[NORM]["data_offsets"].as_array_mut().unwrap().reverse();
                })
            },
            NORM,
        ),
        ("offsets beyond the file", |path| edit_entries(path, |json| json[NORM]["data_offsets"] = json!([0, u64::MAX])), NORM),
        (
            "negative offset",
            |path| edit_entries(path, |json| json[NORM]["data_offsets"] = json!([-128, 0])),
            "data_offsets [-128,0]",
        ),
        (
            "three offsets",
            |path| edit_entries(path, |json| json[NORM]["data_offsets"] = json!([0, 1, 2])),
            "data_offsets [0,1,2]",
        ),
        (
            "overlapping tensors",
            |path| {
                edit_entries(path, |json| {
                    json[NORM]["data_offsets"] = json["model.layers.0.input_layernorm.weight"]["data_offsets"].clone();
                })
            },
            "overlaps",
        ),
        (
            "no dtype",
            |path| edit_entries(path, |json| drop(json[NORM].as_object_mut().unwrap().shift_remove("dtype"))),
            "no dtype",
        ),
        ("entry of another kind", |path| edit_entries(path, |json| json[NORM] = json!(3)), "must be an object"),
        ("metadata of another kind", |path| edit_entries(path, |json| json["__metadata__"] = json!({"a": 1})), "__metadata__"),
        (
            "unknown tensor",
            |path| {
                edit_entries(path, |json| {
                    let entry = json.as_object_mut().unwrap().shift_remove(NORM).unwrap();
                    json["model.norm.bias"] = entry;
                })
            },
            "holds tensor 'model.norm.bias' [32]",
        ),
        (
            "a folder",
            |path| {
                std::fs::remove_file(path).unwrap();
                std::fs::create_dir(path).unwrap();
            },
            "not a file",
        ),
    ];
    for (what, damage, part) in cases {
        let scratch = Scratch::copy_of(&golden_path("models/qwen3"));
        damage(&scratch.0.join("model.safetensors"));
        let error = refused(&scratch.0);
        let text = error.to_string();
        assert_eq!(error.code(), "ERR_MLX_LOAD", "{what}: {text}");
        assert!(text.contains(part) && text.contains("model.safetensors"), "{what}: '{part}' should be in: {text}");
    }
}

/// Rewrites a checkpoint's single weight file with a changed list of tensors.
fn rewrite(dir: &Path, change: impl FnOnce(&mut Vec<(String, Array)>)) {
    let path = dir.join("model.safetensors");
    let mut tensors: Vec<(String, Array)> = crate::testing::load_tensors(&path).into_iter().collect();
    tensors.sort_by(|left, right| left.0.cmp(&right.0));
    change(&mut tensors);
    let sources: Vec<Source> = tensors.iter().map(|(name, array)| Source::held(name.clone(), array)).collect();
    crate::mlx::io::safetensors::write(&path, &sources.iter().collect::<Vec<_>>()).unwrap();
}

#[test]
fn weights_that_do_not_fit_the_configuration() {
    let zeros = |shape: &[i32]| ops::zeros(shape, Dtype::Float32).unwrap();
    let scratch = Scratch::copy_of(&golden_path("models/qwen3"));
    rewrite(&scratch.0, |tensors| tensors.retain(|(name, _)| name != NORM));
    assert_refused(&scratch.0, "ERR_MLX_LOAD", &["1 weights are missing", NORM, "[32]"]);

    let scratch = Scratch::copy_of(&golden_path("models/qwen3"));
    rewrite(&scratch.0, |tensors| tensors.push(("model.layers.3.mlp.up_proj.weight".into(), zeros(&[56, 32]))));
    assert_refused(&scratch.0, "ERR_MLX_LOAD", &["model.layers.3.mlp.up_proj.weight", "does not have"]);

    let scratch = Scratch::copy_of(&golden_path("models/qwen3"));
    edit_json(&scratch.0.join("config.json"), |json| json["intermediate_size"] = json!(64));
    assert_refused(&scratch.0, "ERR_MLX_LOAD", &["[56, 32]", "[64, 32]", "config.json"]);

    // What transformers ignores is ignored here: old buffers, and a head that is tied to the embedding.
    let scratch = Scratch::copy_of(&golden_path("models/qwen3"));
    rewrite(&scratch.0, |tensors| {
        tensors.push(("model.layers.0.self_attn.rotary_emb.inv_freq".into(), zeros(&[8])));
        tensors.push(("lm_head.weight".into(), zeros(&[160, 32])));
    });
    assert!(load_f32(&scratch.0).is_ok());
}

#[test]
fn indexes_that_lie() {
    let sharded = golden_path("models/qwen3_untied_sharded");
    let index = "model.safetensors.index.json";
    for name in
        ["../x.safetensors", "/x.safetensors", "..\\x.safetensors", "a/b.safetensors", "c:x.safetensors", "x.bin", ".safetensors"]
    {
        let scratch = Scratch::copy_of(&sharded);
        edit_json(&scratch.0.join(index), |json| json["weight_map"][NORM] = json!(name));
        assert_refused(&scratch.0, "ERR_MLX_LOAD", &[index, NORM, name]);
    }
    let scratch = Scratch::copy_of(&sharded);
    edit_json(&scratch.0.join(index), |json| json["weight_map"][NORM] = json!(7));
    assert_refused(&scratch.0, "ERR_MLX_LOAD", &[index, NORM]);

    let scratch = Scratch::copy_of(&sharded);
    edit_json(&scratch.0.join(index), |json| json["weight_map"] = json!([]));
    assert_refused(&scratch.0, "ERR_MLX_LOAD", &["weight_map"]);

    let scratch = Scratch::copy_of(&sharded);
    edit_json(&scratch.0.join(index), |json| json["weight_map"][NORM] = json!("model-00001-of-00005.safetensors"));
    assert_refused(&scratch.0, "ERR_MLX_LOAD", &[NORM, "model-00001-of-00005.safetensors"]);

    let scratch = Scratch::copy_of(&sharded);
    std::fs::remove_file(scratch.0.join("model-00003-of-00005.safetensors")).unwrap();
    assert_refused(&scratch.0, "ERR_MLX_LOAD", &["model-00003-of-00005.safetensors"]);

    // The same tensor in two shards.
    let scratch = Scratch::copy_of(&sharded);
    let first = scratch.0.join("model-00001-of-00005.safetensors");
    std::fs::copy(&first, scratch.0.join("model-copy.safetensors")).unwrap();
    edit_json(&scratch.0.join(index), |json| json["weight_map"]["model.embed_tokens.weight"] = json!("model-copy.safetensors"));
    assert_refused(&scratch.0, "ERR_MLX_LOAD", &["is in another file too"]);

    let scratch = Scratch::copy_of(&golden_path("models/qwen3"));
    std::fs::remove_file(scratch.0.join("model.safetensors")).unwrap();
    assert_refused(&scratch.0, "ERR_MLX_LOAD", &["holds neither model.safetensors nor"]);
    assert_refused(&scratch.0.join("nowhere"), "ERR_MLX_LOAD", &["there is no such folder"]);
}

#[test]
fn configurations_that_cannot_be() {
    let cases: &[(&str, Value, &str)] = &[
        ("hidden_size", json!(-3), "hidden_size is -3"),
        ("hidden_size", json!(null), "hidden_size is null"),
        ("hidden_size", json!("32"), "hidden_size is \"32\""),
        ("hidden_size", json!(32.5), "hidden_size is 32.5"),
        ("hidden_size", json!(1e12), "hidden_size is 1000000000000"),
        ("intermediate_size", json!(0), "intermediate_size is 0"),
        ("num_hidden_layers", json!(0), "num_hidden_layers is 0"),
        ("num_hidden_layers", json!(2000000000), "num_hidden_layers is 2000000000"),
        ("num_attention_heads", json!(0), "num_attention_heads is 0"),
        ("num_key_value_heads", json!(3), "num_key_value_heads is 3"),
        ("vocab_size", json!(0), "vocab_size is 0"),
        ("head_dim", json!(0), "head_dim is 0"),
        ("head_dim", json!(15), "head_dim is 15"),
        ("rms_norm_eps", json!(0), "rms_norm_eps is 0"),
        ("rms_norm_eps", json!(-1e-6), "rms_norm_eps is -1e-6"),
        ("rms_norm_eps", json!([]), "rms_norm_eps is []"),
        ("max_position_embeddings", json!(0), "max_position_embeddings is 0"),
        ("hidden_act", json!("gelu"), "hidden_act is \"gelu\""),
        ("tie_word_embeddings", json!("yes"), "tie_word_embeddings is \"yes\""),
        ("attention_bias", json!(1), "attention_bias is 1"),
        ("layer_types", json!(["full_attention", "sliding_attention", "full_attention"]), "layer_types is"),
        ("layer_types", json!(["full_attention"]), "layer_types is"),
        ("quantization", json!(4), "quantization is 4"),
        ("quantization_config", json!({"quant_method": "gptq", "bits": 4}), "group_size is null"),
        ("model_type", json!(7), "model_type"),
    ];
    let dir = golden_path("models/qwen3");
    for (key, value, part) in cases {
        let scratch = Scratch::copy_of(&dir);
        edit_json(&scratch.0.join("config.json"), |json| json[*key] = value.clone());
        assert_refused(&scratch.0, "ERR_MLX_CONFIG", &[part, "config.json"]);
    }
    for text in ["", "{", "[]", "{\"model_type\": \"qwen3\", \"rms_norm_eps\": NaN}"] {
        let scratch = Scratch::copy_of(&dir);
        std::fs::write(scratch.0.join("config.json"), text).unwrap();
        assert_refused(&scratch.0, "ERR_MLX_CONFIG", &["config.json"]);
    }
    let scratch = Scratch::copy_of(&dir);
    edit_json(&scratch.0.join("config.json"), |json| json["model_type"] = json!("llama"));
    assert_refused(&scratch.0, "ERR_MLX_UNSUPPORTED_MODEL", &["'llama'", "qwen2", "qwen3"]);
    std::fs::remove_file(scratch.0.join("config.json")).unwrap();
    assert_refused(&scratch.0, "ERR_MLX_LOAD", &["config.json"]);
}

#[test]
fn sliding_windows_are_taken_only_where_no_layer_uses_them() {
    let load_with = |edit: fn(&mut Value)| {
        let scratch = Scratch::copy_of(&golden_path("models/qwen3"));
        edit_json(&scratch.0.join("config.json"), |json| {
            json.as_object_mut().unwrap().shift_remove("layer_types");
            json["sliding_window"] = json!(4096);
            edit(json);
        });
        load_f32(&scratch.0).map(drop)
    };
    assert!(load_with(|_| ()).is_ok());
    assert!(load_with(|json| json["use_sliding_window"] = json!(true)).is_ok(), "28 layers stay full");
    let used = load_with(|json| {
        json["use_sliding_window"] = json!(true);
        json["max_window_layers"] = json!(2);
    });
    assert!(used.unwrap_err().to_string().contains("use_sliding_window is true"));
    let without_width = load_with(|json| {
        json["use_sliding_window"] = json!(true);
        json["max_window_layers"] = json!(2);
        json["sliding_window"] = json!(null);
    });
    assert!(without_width.is_ok());
}

#[test]
fn shards_are_written_and_replaced_whole() {
    let model = load_f32(&golden_path("models/qwen3")).unwrap();
    let scratch = Scratch::copy_of(&golden_path("models/qwen3"));
    let parameters = model.parameters();
    let sources: Vec<Source> = parameters.iter().map(|(name, array)| Source::held(name.clone(), array)).collect();
    save_sharded(&scratch.0, &sources, 30_000, Existing::Replaced, &mut |_, _| Ok(())).unwrap();
    assert!(!scratch.0.join("model.safetensors").exists(), "the older single file would be preferred");
    let shards = std::fs::read_dir(&scratch.0).unwrap().filter(|entry| {
        let path = entry.as_ref().unwrap().path();
        let is_shard = path.extension().is_some_and(|extension| extension == "safetensors");
        if is_shard && path.file_name().unwrap().to_string_lossy().starts_with("model-") {
            assert!(SafetensorsFile::open(&path).unwrap().entries.iter().map(|entry| entry.length).sum::<u64>() <= 30_000);
            return true;
        }
        false
    });
    assert_eq!(shards.count(), 5);
    let again = load_f32(&scratch.0).unwrap();
    for ((name, a), (_, b)) in parameters.iter().zip(&again.parameters()) {
        assert_eq!(a.to_bytes().unwrap(), b.to_bytes().unwrap(), "{name}");
    }
    again.save(&scratch.0).unwrap();
    assert!(!scratch.0.join("model.safetensors.index.json").exists());
    assert!(load_f32(&scratch.0).is_ok());
}

#[test]
fn a_failed_save_says_so_and_leaves_nothing() {
    let model = load_f32(&golden_path("models/qwen3")).unwrap();
    let scratch = Scratch::new();
    let taken = scratch.0.join("file");
    std::fs::write(&taken, "x").unwrap();
    assert_eq!(model.save(&taken.join("model")).unwrap_err().code(), "ERR_MLX_SAVE");
    // A folder where the weights should go: the rename fails, the temporary file goes.
    std::fs::create_dir_all(scratch.0.join("model.safetensors/in the way")).unwrap();
    assert_eq!(model.save(&scratch.0).unwrap_err().code(), "ERR_MLX_SAVE");
    let names: Vec<_> = std::fs::read_dir(&scratch.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| !name.to_string_lossy().ends_with(".tmp")), "{names:?}");
}
