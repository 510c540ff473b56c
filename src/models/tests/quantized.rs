//! Models whose layers are packed.

use serde_json::{Value, json};

use super::*;
use crate::mlx::io::safetensors::{Source, write};
use crate::mlx::ops::{Quantization, QuantizationMode};
use crate::mlx::{random, value_and_grad};
use crate::models::{Forward, LoraConfig, QuantizeOptions, Recipe, init};
use crate::rl::step::{StepOptions, Trainer};
use crate::testing::assert_close;

/// All modes and numbers of bits.
const MODES: [(&str, i32, i32); 21] = {
    let mut all = [("affine", 0, 0); 21];
    let (groups, widths) = ([32, 64, 128], [2, 3, 4, 5, 6, 8]);
    let mut at = 0;
    while at < 18 {
        all[at] = ("affine", groups[at / 6], widths[at % 6]);
        at += 1;
    }
    all[18] = ("mxfp4", 32, 4);
    all[19] = ("mxfp8", 32, 8);
    all[20] = ("nvfp4", 16, 4);
    all
};

pub(in crate::models) fn how(mode: &str, group: i32, bits: i32) -> Quantization {
    Quantization::new(QuantizationMode::parse(mode).unwrap(), Some(group), Some(bits)).unwrap()
}

pub(in crate::models) fn plainly(how: Quantization) -> QuantizeOptions {
    QuantizeOptions { how, recipe: None, rules: Vec::new() }
}

fn config(model_type: &str) -> Value {
    let mut config = json!({
        "model_type": model_type, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 64, "vocab_size": 96, "max_position_embeddings": 64, "tie_word_embeddings": true,
        "initializer_range": 0.08,
    });
    if model_type.ends_with("moe") {
        let moe = json!({
            "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 128, "shared_expert_intermediate_size": 128,
            "norm_topk_prob": true, "mlp_only_layers": [1], "tie_word_embeddings": false,
        });
        config.as_object_mut().unwrap().extend(moe.as_object().unwrap().clone());
    }
    config
}

pub(in crate::models) fn random_model(model_type: &str) -> Model {
    init(config(model_type), Path::new("config"), Dtype::Float32, 7).unwrap()
}

pub(super) fn quantize(model: &mut Model, options: &QuantizeOptions) {
    for (name, how) in model.plan_quantization(options).unwrap().packed {
        model.pack_layer(&name, how).unwrap();
    }
}

fn ids() -> Array {
    Array::from_slice(&(0..24).map(|i| (i * 37 + i * i) % 96).collect::<Vec<i32>>(), &[2, 12]).unwrap()
}

fn logits(model: &Model) -> Array {
    let ids = ids();
    model.net.logits(&model.net.hidden(Forward::new(&ids)).unwrap()).unwrap()
}

pub(super) fn assert_same(left: &Model, right: &Model, what: &str) {
    let (left, right) = (left.parameters(), right.parameters());
    assert_eq!(left.len(), right.len(), "{what}");
    for ((name, left), (other, right)) in left.iter().zip(&right) {
        assert_eq!((name, left.dtype()), (other, right.dtype()), "{what}");
        assert!(left.to_bytes().unwrap() == right.to_bytes().unwrap(), "{what}: {name} differs");
    }
}

#[test]
fn every_mode_computes_what_its_numbers_do_and_is_read_as_it_was_saved() {
    for model_type in ["qwen3", "qwen2_moe", "qwen3_moe"] {
        let modes = if model_type == "qwen3" { &MODES[..] } else { &MODES[1..21] };
        // Every mode of a dense model; of experts a few.
        for (mode, group, bits) in modes.iter().step_by(if model_type == "qwen3" { 1 } else { 6 }) {
            let what = format!("{model_type} {mode} {group} {bits}");
            let mut model = random_model(model_type);
            let plain = logits(&model);
            quantize(&mut model, &plainly(how(mode, *group, *bits)));
            let packed = logits(&model);
            let far = packed.subtract(&plain).unwrap().abs().unwrap().max_all().unwrap().item().unwrap();
            assert!(far > 0., "{what}: nothing has changed");
            let scratch = Scratch::new();
            model.save(&scratch.0).unwrap();
            let read = load_f32(&scratch.0).unwrap();
            assert_same(&read, &model, &what);
            assert_eq!(read.quantization(), model.quantization());
            assert_eq!(read.size(), model.size());
            for name in model.layer_names(true) {
                model.unpack_layer(&name).unwrap();
            }
            assert!(model.quantization().is_none());
            // The same products of float32 numbers, summed in another order.
            assert_close(&packed, &logits(&model), 2e-4, 2e-4, &what);
            assert_eq!(read.size().parameters, model.size().parameters);
        }
    }
}

#[test]
fn packing_while_loading_is_packing_after_it() {
    for model_type in ["qwen3", "qwen3_moe"] {
        let mut model = random_model(model_type);
        let scratch = Scratch::new();
        model.save(&scratch.0).unwrap();
        let rules = vec![("v_proj".to_string(), Some(how("affine", 32, 8))), ("*.2.*".to_string(), None)];
        let options = QuantizeOptions { how: how("nvfp4", 16, 4), recipe: None, rules };
        let load_options = LoadOptions { dtype: Some(Dtype::Float32), quantize: Some(options.clone()) };
        let read = load(&scratch.0, &load_options, &mut |_, _| Ok(())).unwrap();
        quantize(&mut model, &options);
        assert_same(&read, &model, model_type);
        let block = read.quantization().unwrap();
        assert_eq!((&block["bits"], &block["mode"]), (&json!(4), &json!("nvfp4")));
        assert_eq!(block["model.layers.0.self_attn.v_proj"], json!({"group_size": 32, "bits": 8, "mode": "affine"}));
        assert!(read.layer_names(false).iter().all(|name| name.contains(".2.")));
        let router = block.get("model.layers.0.mlp.gate");
        assert_eq!(router.is_some(), model_type == "qwen3_moe");
        assert!(router.is_none_or(|how| *how == json!({"group_size": 64, "bits": 8, "mode": "affine"})));
    }
}

#[test]
fn the_file_is_laid_out_as_mlx_lm_lays_it_out() {
    let mut model = random_model("qwen3_moe");
    quantize(&mut model, &plainly(how("affine", 64, 4)));
    let scratch = Scratch::new();
    model.save(&scratch.0).unwrap();
    let tensors = crate::testing::load_tensors(scratch.0.join("model.safetensors"));
    assert_eq!(tensors["model.layers.0.mlp.switch_mlp.up_proj.weight"].shape(), [4, 128, 16]);
    assert_eq!(tensors["model.layers.0.mlp.switch_mlp.up_proj.scales"].shape(), [4, 128, 2]);
    assert!(tensors.keys().all(|name| !name.contains("experts")));
    let config: Value = serde_json::from_slice(&std::fs::read(scratch.0.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["quantization"], config["quantization_config"]);
    assert_eq!(config["quantization"]["group_size"], 64);
    // And not a word of it when it is unpacked again.
    for name in model.layer_names(true) {
        model.unpack_layer(&name).unwrap();
    }
    model.save(&scratch.0).unwrap();
    let config: Value = serde_json::from_slice(&std::fs::read(scratch.0.join("config.json")).unwrap()).unwrap();
    assert!(config.get("quantization").is_none() && config.get("quantization_config").is_none());
    assert!(load_f32(&scratch.0).is_ok());
}

/// Rewrites the weights and the configuration of a saved model.
fn edited(
    dir: &Path,
    tensors: impl FnOnce(&mut std::collections::BTreeMap<String, Array>),
    config: impl FnOnce(&mut Value),
) -> Scratch {
    let scratch = Scratch::copy_of(dir);
    let path = scratch.0.join("model.safetensors");
    let mut held: std::collections::BTreeMap<String, Array> = crate::testing::load_tensors(&path).into_iter().collect();
    tensors(&mut held);
    let sources: Vec<Source> = held.iter().map(|(name, array)| Source::held(name.clone(), array)).collect();
    write(&path, &sources.iter().collect::<Vec<_>>()).unwrap();
    let file = scratch.0.join("config.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    config(&mut json);
    std::fs::write(file, json.to_string()).unwrap();
    scratch
}

#[test]
fn what_a_configuration_leaves_out_the_shapes_tell() {
    let mut model = random_model("qwen3");
    let rules = vec![
        ("q_proj".to_string(), Some(how("mxfp8", 32, 8))),
        ("k_proj".to_string(), Some(how("mxfp4", 32, 4))),
        ("v_proj".to_string(), Some(how("nvfp4", 16, 4))),
        ("o_proj".to_string(), None),
        ("up_proj".to_string(), Some(how("affine", 128, 3))),
    ];
    quantize(&mut model, &QuantizeOptions { how: how("affine", 32, 5), recipe: None, rules });
    let scratch = Scratch::new();
    model.save(&scratch.0).unwrap();
    let cases: [fn(&mut Value); 3] = [
        |json| {
            json.as_object_mut().unwrap().retain(|key, _| !key.starts_with("quantization"));
        },
        // The layers' own entries are gone, and what holds for the others is wrong.
        |json| json["quantization"] = json!({"group_size": 64, "bits": 2, "mode": "affine"}),
        |json| {
            let block = json.as_object_mut().unwrap().shift_remove("quantization").unwrap();
            json["quantization_config"] = block;
        },
    ];
    for case in cases {
        assert_same(&load_f32(&edited(&scratch.0, |_| (), case).0).unwrap(), &model, "inferred");
    }
}

#[test]
fn packed_experts_of_their_own_are_stacked() {
    let mut model = random_model("qwen3_moe");
    quantize(&mut model, &plainly(how("affine", 32, 4)));
    let scratch = Scratch::new();
    model.save(&scratch.0).unwrap();
    let split = |tensors: &mut std::collections::BTreeMap<String, Array>| {
        for (name, array) in std::mem::take(tensors) {
            if name.contains("switch_mlp") {
                for expert in 0..4 {
                    let one = array.slice_axis(0, expert, expert + 1).unwrap().squeeze(&[0]).unwrap().contiguous().unwrap();
                    tensors.insert(name.replace("switch_mlp", &format!("experts.{expert}")), one);
                }
            } else {
                tensors.insert(name, array);
            }
        }
    };
    let apart = edited(&scratch.0, split, |_| ());
    assert_same(&load_f32(&apart.0).unwrap(), &model, "stacked");
    let lacking = edited(&apart.0, |tensors| drop(tensors.remove("model.layers.0.mlp.experts.2.up_proj.scales")), |_| ());
    let error = load_f32(&lacking.0).err().unwrap().to_string();
    assert!(error.contains("model.layers.0.mlp.experts.2.up_proj.scales"), "{error}");
    let one_more = |tensors: &mut std::collections::BTreeMap<String, Array>| {
        let scales = tensors["model.layers.0.mlp.experts.2.up_proj.scales"].clone();
        tensors.insert("model.layers.0.mlp.experts.4.up_proj.scales".into(), scales);
    };
    let error = load_f32(&edited(&apart.0, one_more, |_| ()).0).err().unwrap().to_string();
    assert!(error.contains("experts.4.up_proj.scales' [128, 4], which this model does not have"), "{error}");
}

#[test]
fn what_does_not_fit_together_is_refused_by_name() {
    let mut model = random_model("qwen3");
    quantize(&mut model, &plainly(how("affine", 32, 4)));
    let saved = Scratch::new();
    model.save(&saved.0).unwrap();
    const Q: &str = "model.layers.1.self_attn.q_proj";
    let zeros = |shape: &[i32], dtype| ops::zeros(shape, dtype).unwrap();
    type Change = Box<dyn Fn(&mut std::collections::BTreeMap<String, Array>)>;
    let replace = |part: &str, array: Array| -> Change {
        let name = format!("{Q}.{part}");
        Box::new(move |tensors| drop(tensors.insert(name.clone(), array.clone())))
    };
    let cases: Vec<(Change, &str)> = vec![
        (Box::new(|tensors| drop(tensors.remove(&format!("{Q}.scales")))), "q_proj.scales"),
        (Box::new(|tensors| drop(tensors.remove(&format!("{Q}.biases")))), "q_proj.biases"),
        (Box::new(|tensors| drop(tensors.remove(&format!("{Q}.weight")))), "q_proj.weight"),
        (replace("scales", zeros(&[128, 3], Dtype::Float32)), "q_proj.scales"),
        (replace("scales", zeros(&[128, 0], Dtype::Float32)), "q_proj.scales"),
        (replace("scales", zeros(&[127, 4], Dtype::Float32)), "[127, 4]"),
        (replace("scales", zeros(&[128, 4], Dtype::Int32)), "q_proj.scales"),
        (replace("biases", zeros(&[128, 2], Dtype::Float32)), "q_proj.biases"),
        (replace("biases", zeros(&[128, 4], Dtype::Uint8)), "q_proj.biases"),
        (replace("weight", zeros(&[128, 7], Dtype::Uint32)), "q_proj.weight"),
        (replace("weight", zeros(&[128, 16], Dtype::Int32)), "q_proj.weight"),
        (replace("weight", zeros(&[128, 128], Dtype::Float32)), "q_proj"),
        (replace("weight", zeros(&[16], Dtype::Uint32)), "q_proj"),
        (replace("bias_of_nothing", zeros(&[1], Dtype::Float32)), "bias_of_nothing"),
    ];
    for (index, (change, part)) in cases.iter().enumerate() {
        let scratch = edited(&saved.0, change, |_| ());
        let error = load_f32(&scratch.0).err().unwrap_or_else(|| panic!("case {index} was taken"));
        assert_eq!(error.code(), "ERR_MLX_LOAD", "{index}: {error}");
        assert!(error.to_string().contains(part), "{index}: {error}");
    }
    for (entry, code, part) in [
        (json!(false), "ERR_MLX_LOAD", "q_proj.scales"),
        (json!({"bits": 8, "group_size": 32}), "ERR_MLX_LOAD", "q_proj.weight"),
        (json!({"bits": 4, "group_size": 128}), "ERR_MLX_LOAD", "q_proj.scales"),
        (json!({"mode": "nvfp4"}), "ERR_MLX_LOAD", "q_proj"),
        (json!({"bits": 4, "group_size": 0}), "ERR_MLX_CONFIG", "q_proj"),
        (json!({"bits": -4}), "ERR_MLX_CONFIG", "-4"),
    ] {
        let scratch = edited(&saved.0, |_| (), |json| json["quantization"][Q] = entry.clone());
        let error = load_f32(&scratch.0).err().unwrap_or_else(|| panic!("{entry} was taken"));
        assert_eq!(error.code(), code, "{entry}: {error}");
        assert!(error.to_string().contains(part), "{entry}: {error}");
    }
}

#[test]
fn plans_say_what_is_left_and_refuse_what_does_nothing() {
    let narrow = |width: i32| {
        let mut config = config("qwen3");
        config["intermediate_size"] = json!(width);
        init(config, Path::new("config"), Dtype::Float32, 1).unwrap()
    };
    let plan = narrow(96).plan_quantization(&plainly(how("affine", 64, 4))).unwrap();
    assert_eq!(
        plan.left.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        [0, 1, 2].map(|i| format!("model.layers.{i}.mlp.down_proj"))
    );
    assert!(plan.left[0].1.contains("96") && plan.left[0].1.contains("64"));
    let refused = |model: &Model, options: QuantizeOptions, part: &str| {
        let error = model.plan_quantization(&options).unwrap_err();
        assert_eq!(error.code(), "ERR_MLX_ARGUMENT");
        assert!(error.to_string().contains(part), "{error}");
    };
    let mut model = random_model("qwen3");
    let options = |rules, recipe, how| QuantizeOptions { how, recipe, rules };
    refused(&model, options(vec![("qproj".into(), None)], None, how("affine", 64, 4)), "q_proj");
    refused(&model, options(vec![("*".into(), None)], None, how("affine", 64, 4)), "a rule");
    refused(&model, options(vec![], Some(Recipe::Mixed3To6), how("mxfp4", 32, 4)), "affine");
    quantize(&mut model, &plainly(how("affine", 64, 4)));
    refused(&model, plainly(how("affine", 64, 4)), "already");
    // What an interrupted run has left can be packed by another.
    model.unpack_layer("model.embed_tokens").unwrap();
    assert_eq!(model.plan_quantization(&plainly(how("affine", 64, 4))).unwrap().packed.len(), 1);
    assert_eq!(model.pack_layer("nothing", how("affine", 64, 4)).unwrap_err().code(), "ERR_MLX_ARGUMENT");
}

#[test]
fn only_an_adapter_is_trained_and_its_gradients_are_those_of_the_numbers() {
    let mut model = random_model("qwen3_moe");
    quantize(&mut model, &plainly(how("affine", 32, 4)));
    assert!(model.trainable().is_empty());
    let error = Trainer::new(&mut model, StepOptions::default()).err().unwrap();
    assert_eq!(error.code(), "ERR_MLX_ARGUMENT");
    assert!(error.to_string().contains("applyLora"), "{error}");
    model.apply_lora(LoraConfig { rank: 4, ..LoraConfig::default() }).unwrap();
    let names = model.trainable();
    assert!(!names.is_empty() && names.iter().all(|name| name.contains(".lora_")));
    // Second factors that are not zero, so that the first ones have gradients.
    let held: Vec<Array> =
        model.parameters().into_iter().filter(|(name, _)| names.contains(name)).map(|(_, array)| array).collect();
    let noise: Vec<Array> = held
        .iter()
        .enumerate()
        .map(|(i, array)| random::normal(0., 0.05, array.shape(), Dtype::Float32, &random::key(i as u64).unwrap()).unwrap())
        .collect();
    let gradients = |model: &mut Model, checkpointed: bool| {
        model.net.set_checkpoint_layers(checkpointed);
        let argnums: Vec<i32> = (0..noise.len() as i32).collect();
        let ids = ids().slice_axis(0, 0, 1).unwrap();
        let run = |inputs: &[Array]| {
            model.set(&names, inputs)?;
            Ok(vec![loss(model, &ids)?])
        };
        let gradients = value_and_grad(run, &noise, &argnums).unwrap().1;
        model.set(&names, &noise).unwrap();
        gradients
    };
    let packed = gradients(&mut model, false);
    let checkpointed = gradients(&mut model, true);
    for name in model.layer_names(true) {
        model.unpack_layer(&name).unwrap();
    }
    let plain = gradients(&mut model, false);
    let mut largest = 0f32;
    for ((packed, checkpointed), (plain, name)) in packed.iter().zip(&checkpointed).zip(plain.iter().zip(&names)) {
        // float32 sums in another order, through three blocks.
        assert_close(packed, plain, 2e-5, 1e-3, name);
        assert_close(checkpointed, packed, 2e-6, 1e-4, name);
        largest = largest.max(plain.abs().unwrap().max_all().unwrap().item().unwrap());
    }
    assert!(largest > 1e-2, "gradients of {largest} would agree anyway");
}

#[test]
fn an_adapter_is_merged_into_what_it_lies_on() {
    let mut model = random_model("qwen3");
    quantize(&mut model, &plainly(how("affine", 32, 8)));
    model.apply_lora(LoraConfig { rank: 2, ..LoraConfig::default() }).unwrap();
    let names = model.trainable();
    for (index, name) in names.iter().enumerate() {
        let (_, held) = model.parameters().into_iter().find(|(candidate, _)| candidate == name).unwrap();
        let noise = random::normal(0., 0.1, held.shape(), Dtype::Float32, &random::key(index as u64).unwrap()).unwrap();
        model.set(std::slice::from_ref(name), &[noise]).unwrap();
    }
    let want = logits(&model);
    let scratch = Scratch::new();
    model.save(&scratch.0).unwrap();
    let merged = load_f32(&scratch.0).unwrap();
    assert_eq!(merged.quantization(), model.quantization());
    model.set_adapter_enabled(false).unwrap();
    let distance = |left: &Array| left.subtract(&want).unwrap().square().unwrap().sum_all().unwrap().item().unwrap();
    let (merged, base) = (distance(&logits(&merged)), distance(&logits(&model)));
    // Of the adapter all but the rounding of 8 bits is left.
    assert!(merged < base / 100., "{merged} of {base}");
}

#[test]
fn codes_are_not_replaced_by_numbers() {
    let mut model = random_model("qwen3");
    quantize(&mut model, &plainly(how("affine", 64, 4)));
    let name = "model.layers.0.mlp.up_proj.weight".to_string();
    let (_, codes) = model.parameters().into_iter().find(|(candidate, _)| *candidate == name).unwrap();
    let numbers = codes.astype(Dtype::Float32).unwrap();
    assert_eq!(model.set(std::slice::from_ref(&name), &[numbers]).unwrap_err().code(), "ERR_MLX_SHAPE");
    model.set(std::slice::from_ref(&name), &[codes]).unwrap();
}
