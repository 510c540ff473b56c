//! Adapters: what they change, what they leave alone, and their files.

use serde_json::{Value, json};

use super::*;
use crate::mlx::{random, value_and_grad};
use crate::models::{AdapterFormat, DEFAULT_TARGETS, Forward, LoraConfig, Targets};
use crate::testing::{assert_close, golden_path, load_tensors};

fn model() -> Model {
    load_f32(&golden_path("models/qwen2")).unwrap()
}

fn logits(model: &Model) -> Array {
    let ids = Array::from_slice(&[5, 17, 42, 99, 3, 120, 64], &[1, 7]).unwrap();
    model.net.logits(&model.net.hidden(Forward::new(&ids)).unwrap()).unwrap()
}

fn names(names: &[&str]) -> Targets {
    Targets::Names(names.iter().map(|name| name.to_string()).collect())
}

fn config(rank: i32) -> LoraConfig {
    LoraConfig { rank, alpha: 12.0, seed: 3, ..Default::default() }
}

/// Gives every second factor values, as training would.
fn train(model: &mut Model) {
    let names: Vec<String> = model.trainable().into_iter().filter(|name| name.ends_with("lora_b")).collect();
    let parameters = model.parameters();
    let arrays: Vec<Array> = names
        .iter()
        .enumerate()
        .map(|(seed, name)| {
            let (_, held) = parameters.iter().find(|(other, _)| other == name).unwrap();
            random::normal(0.0, 0.1, held.shape(), Dtype::Float32, &random::key(seed as u64).unwrap()).unwrap()
        })
        .collect();
    model.set(&names, &arrays).unwrap();
}

#[test]
fn a_fresh_adapter_changes_nothing_and_off_means_base() {
    let mut model = model();
    let base = logits(&model);
    model.apply_lora(config(4)).unwrap();
    assert_close(&logits(&model), &base, 0.0, 0.0, "fresh adapter");
    train(&mut model);
    let moved = logits(&model).subtract(&base).unwrap().abs().unwrap().max_all().unwrap().item().unwrap();
    assert!(moved > 1e-2, "a trained adapter moves the logits, by {moved}");
    model.set_adapter_enabled(false).unwrap();
    assert_close(&logits(&model), &base, 0.0, 0.0, "adapter off");
    model.set_adapter_enabled(true).unwrap();
    assert!(logits(&model).subtract(&base).unwrap().abs().unwrap().max_all().unwrap().item().unwrap() > 1e-2);
}

#[test]
fn factors_start_as_in_peft() {
    let mut model = model();
    model.apply_lora(config(4)).unwrap();
    let mut seen = Vec::new();
    for (name, array) in model.parameters() {
        if name.ends_with("lora_b") {
            assert_eq!(array.abs().unwrap().max_all().unwrap().item().unwrap(), 0.0);
        } else if name.ends_with("lora_a") {
            let bound = 1.0 / (array.dim(1) as f32).sqrt();
            let values = array.to_f32().unwrap();
            let largest = values.iter().fold(0f32, |largest, value| largest.max(value.abs()));
            assert!(largest <= bound && largest > 0.9 * bound, "{name}: {largest} against {bound}");
            assert!(!seen.contains(&values), "two layers start alike");
            seen.push(values);
        }
    }
    assert_eq!(seen.len(), 3 * DEFAULT_TARGETS.len());
    let mut again = self::model();
    again.apply_lora(config(4)).unwrap();
    for ((name, a), (_, b)) in model.parameters().iter().zip(&again.parameters()) {
        assert_eq!(a.to_bytes().unwrap(), b.to_bytes().unwrap(), "{name}: the same seed");
    }
}

#[test]
fn gradients_reach_the_factors_as_the_chain_rule_says() {
    let ids = Array::from_slice(&[5, 17, 42, 99, 3, 120, 64], &[1, 7]).unwrap();
    for checkpointed in [false, true] {
        let mut model = model();
        model.net.set_checkpoint_layers(checkpointed);
        let target = "model.layers.1.mlp.down_proj";
        model.apply_lora(LoraConfig { target_modules: names(&[target]), ..config(4) }).unwrap();
        train(&mut model);
        let names = model.trainable();
        assert_eq!(names, [format!("{target}.lora_a"), format!("{target}.lora_b")]);
        let weight = format!("{target}.weight");
        let all: Vec<String> = names.iter().cloned().chain([weight.clone()]).collect();
        let parameters: std::collections::HashMap<_, _> = model.parameters().into_iter().collect();
        let held: Vec<Array> = all.iter().map(|name| parameters[name].clone()).collect();
        let (_, gradients) = value_and_grad(
            |inputs| {
                model.set(&all, inputs)?;
                Ok(vec![loss(&model, &ids)?])
            },
            &held,
            &[0, 1, 2],
        )
        .unwrap();
        // The layer computes x (W + s B A)ᵀ, so dA = s Bᵀ dW and dB = s dW Aᵀ.
        let scale = 12.0 / 4.0;
        let want_a = held[1].t().unwrap().matmul(&gradients[2]).unwrap().multiply_scalar(scale).unwrap();
        let want_b = gradients[2].matmul(&held[0].t().unwrap()).unwrap().multiply_scalar(scale).unwrap();
        assert_close(&gradients[0], &want_a, 1e-6, 1e-4, "gradient of A");
        assert_close(&gradients[1], &want_b, 1e-6, 1e-4, "gradient of B");
    }
}

#[test]
fn the_saved_model_is_the_one_that_generates() {
    let mut model = model();
    model.apply_lora(LoraConfig { use_rslora: true, ..config(4) }).unwrap();
    train(&mut model);
    let scratch = Scratch::new();
    model.save(&scratch.0).unwrap();
    let merged = load_f32(&scratch.0).unwrap();
    assert_eq!(merged.trainable(), self::model().trainable());
    assert_close(&logits(&merged), &logits(&model), 2e-5, 1e-5, "merged");
    model.set_adapter_enabled(false).unwrap();
    model.save(&scratch.0).unwrap();
    assert_close(&logits(&load_f32(&scratch.0).unwrap()), &logits(&self::model()), 0.0, 0.0, "base");
}

#[test]
fn adapter_files_have_peft_names_and_come_back() {
    for (targets, written) in [
        (["q_proj", "mlp.down_proj"], ["q_proj", "down_proj"]),
        (["model.layers.2.self_attn.v_proj", "o_proj"], ["o_proj", "model.layers.2.self_attn.v_proj"]),
    ] {
        let mut model = model();
        let target_modules = names(&targets);
        model.apply_lora(LoraConfig { use_rslora: true, target_modules, ..config(3) }).unwrap();
        train(&mut model);
        let scratch = Scratch::new();
        model.save_adapter(&scratch.0, "Qwen/Example", AdapterFormat::Peft).unwrap();
        let tensors = load_tensors(scratch.0.join("adapter_model.safetensors"));
        assert_eq!(tensors.len(), model.trainable().len());
        for (name, array) in model.parameters().into_iter().filter(|(name, _)| name.contains(".lora_")) {
            let key = name.replace(".lora_a", ".lora_A.weight").replace(".lora_b", ".lora_B.weight");
            assert_close(&tensors[&format!("base_model.model.{key}")], &array, 0.0, 0.0, &name);
        }
        let text = std::fs::read(scratch.0.join("adapter_config.json")).unwrap();
        let json: Value = serde_json::from_slice(&text).unwrap();
        let want = json!({"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 3, "lora_alpha": 12.0, "use_rslora": true,
            "bias": "none", "base_model_name_or_path": "Qwen/Example", "target_modules": written});
        for (key, value) in want.as_object().unwrap() {
            assert_eq!(&json[key], value, "{key}");
        }
        let mut again = self::model();
        again.load_adapter(&scratch.0).unwrap();
        assert_eq!(again.trainable(), model.trainable());
        assert_close(&logits(&again), &logits(&model), 0.0, 0.0, "loaded adapter");
        let second = Scratch::new();
        again.save_adapter(&second.0, "Qwen/Example", AdapterFormat::Peft).unwrap();
        let file = "adapter_model.safetensors";
        assert_eq!(std::fs::read(second.0.join(file)).unwrap(), std::fs::read(scratch.0.join(file)).unwrap());
    }
}

#[test]
fn impossible_adapters_are_refused() {
    let refuse = |change: fn(&mut LoraConfig), part: &str| {
        let (mut model, mut config) = (model(), config(4));
        change(&mut config);
        let error = model.apply_lora(config).unwrap_err();
        assert_eq!(error.code(), "ERR_MLX_ARGUMENT");
        assert!(error.to_string().contains(part), "{error}");
        assert_eq!(model.trainable(), self::model().trainable(), "nothing has changed");
    };
    refuse(|config| config.rank = 0, "rank must be from 1");
    refuse(|config| config.rank = -2, "not -2");
    refuse(|config| config.alpha = f32::NAN, "alpha");
    refuse(|config| config.alpha = 0.0, "alpha");
    refuse(|config| config.dropout = 1.0, "dropout must be 0 or more and below 1");
    refuse(|config| config.target_modules = names(&[]), "target_modules is empty");
    refuse(
        |config| config.target_modules = names(&["q_proj", "proj"]),
        "'proj' is no layer of this model; there are embed_tokens, q_proj",
    );
    refuse(|config| config.target_modules = names(&["lm_head"]), "down_proj");
    let mut model = model();
    assert!(model.save_adapter(&std::env::temp_dir(), "x", AdapterFormat::Peft).is_err());
    assert!(model.set_adapter_enabled(false).is_err());
    model.apply_lora(config(4)).unwrap();
    assert!(model.apply_lora(config(4)).unwrap_err().to_string().contains("already has an adapter 'default'"));
}

#[test]
fn adapter_files_that_do_not_fit_are_refused() {
    let saved = Scratch::new();
    let mut source = model();
    source.apply_lora(config(4)).unwrap();
    source.save_adapter(&saved.0, "x", AdapterFormat::Peft).unwrap();
    let edits: &[(&str, Value, &str)] = &[
        ("use_dora", json!(true), "holds no magnitudes of 'model.layers.0.mlp.down_proj', but use_dora is true"),
        ("modules_to_save", json!(["lm_head"]), "modules_to_save"),
        ("rank_pattern", json!({"q_proj": 2}), "with rank 2"),
        ("rank_pattern", json!({"q_proj": 0}), "rank_pattern is"),
        ("rank_pattern", json!({"(": 1}), "as regular expressions"),
        ("alpha_pattern", json!({"q_proj": -2}), "alpha_pattern is"),
        ("bias", json!("all"), "bias is \"all\""),
        ("fan_in_fan_out", json!(true), "fan_in_fan_out"),
        ("peft_type", json!("IA3"), "peft_type is \"IA3\""),
        ("init_lora_weights", json!("pissa_niter_4"), "init_lora_weights"),
        ("alora_invocation_tokens", json!([1, 2]), "alora_invocation_tokens"),
        ("r", json!(0), "r is 0"),
        ("r", json!(null), "r is null"),
        ("lora_alpha", json!("x"), "lora_alpha"),
        ("r", json!(8), "[4, 64] and [32, 4]; with rank 8"),
    ];
    for (key, value, part) in edits {
        let scratch = Scratch::copy_of(&saved.0);
        let path = scratch.0.join("adapter_config.json");
        let mut json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        json[*key] = value.clone();
        std::fs::write(&path, json.to_string()).unwrap();
        let mut model = model();
        let error = model.load_adapter(&scratch.0).unwrap_err().to_string();
        assert!(error.contains(part), "'{part}' should be in: {error}");
        assert!(model.adapter().is_none());
    }
    let mut other = load_f32(&golden_path("models/qwen3_untied_sharded")).unwrap();
    let error = other.load_adapter(&saved.0).unwrap_err();
    assert_eq!(error.code(), "ERR_MLX_LOAD");
    assert!(error.to_string().contains("[4, 40]"), "{error}");
}

#[test]
fn half_precision_weights_keep_float32_factors() {
    let options = LoadOptions { dtype: Some(Dtype::Bfloat16), ..LoadOptions::default() };
    let mut model = load(&golden_path("models/qwen2"), &options, &mut |_, _| Ok(())).unwrap();
    model.apply_lora(config(4)).unwrap();
    train(&mut model);
    for (name, array) in model.parameters() {
        assert_eq!(array.dtype(), if name.contains(".lora_") { Dtype::Float32 } else { Dtype::Bfloat16 }, "{name}");
    }
    assert_eq!(logits(&model).dtype(), Dtype::Bfloat16);
    let scratch = Scratch::new();
    model.save(&scratch.0).unwrap();
    let merged = load(&scratch.0, &options, &mut |_, _| Ok(())).unwrap();
    assert_close(&logits(&merged), &logits(&model), 0.1, 0.05, "merged in half precision");
}
