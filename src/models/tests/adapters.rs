//! Which layers adapters are on, several of them, their files, merging, and training on packed weights.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::quantized::plainly;
use super::*;
use crate::mlx::ops::{Quantization, QuantizationMode};
use crate::mlx::{random, value_and_grad};
use crate::models::{AdapterFormat, Forward, LoraConfig, Targets};
use crate::nn::Layer;
use crate::rl::step::{StepOptions, TextRow, TrainRow, Trainer};
use crate::testing::{assert_close, golden_path, load_tensors, on_gpu};

fn model(name: &str) -> Model {
    load_f32(&golden_path(&format!("models/{name}"))).unwrap()
}

fn ids() -> Array {
    Array::from_slice(&[5, 17, 42, 99, 3, 120, 64, 8, 11, 70], &[1, 10]).unwrap()
}

fn logits(model: &Model) -> Array {
    model.net.logits(&model.net.hidden(Forward::new(&ids())).unwrap()).unwrap()
}

fn names(names: &[&str]) -> Targets {
    Targets::Names(names.iter().map(|name| name.to_string()).collect())
}

/// Every kind of layer of a model with experts.
fn everything() -> LoraConfig {
    let target_modules = names(&["**"]);
    LoraConfig { rank: 3, alpha: 6.0, target_modules, seed: 3, ..Default::default() }
}

/// Moves all of an adapter's parts, as training would.
fn train(model: &mut Model, seed: u64) {
    let parameters: BTreeMap<String, Array> = model.parameters().into_iter().collect();
    let names = model.trainable();
    let moved = |(index, name): (usize, &String)| {
        let held = &parameters[name];
        let key = random::key(seed * 1000 + index as u64).unwrap();
        let size = if name.ends_with("lora_magnitude") { 0.02 } else { 0.1 };
        let noise = random::normal(0.0, size, held.shape(), Dtype::Float32, &key).unwrap();
        if name.ends_with("lora_magnitude") {
            held.multiply(&noise.add_scalar(1.1).unwrap()).unwrap()
        } else {
            held.add(&noise).unwrap()
        }
    };
    let arrays: Vec<Array> = names.iter().enumerate().map(moved).collect();
    model.set(&names, &arrays).unwrap();
}

fn gap(a: &Array, b: &Array) -> f32 {
    a.subtract(b).unwrap().abs().unwrap().max_all().unwrap().item().unwrap()
}

/// The layers with an adapter.
fn adapted(model: &Model) -> Vec<String> {
    let of = |name: &String| name.strip_suffix(".lora_a").map(str::to_string);
    model.parameters().iter().filter_map(|(name, _)| of(name)).collect()
}

fn chosen(name: &str, change: impl FnOnce(&mut LoraConfig)) -> Vec<String> {
    let mut model = model(name);
    let mut config = LoraConfig { rank: 2, ..Default::default() };
    change(&mut config);
    model.apply_lora(config).unwrap();
    adapted(&model)
}

#[test]
fn targets_are_found_by_ends_globs_expressions_and_blocks() {
    let layers = model("qwen3_untied_sharded").net.num_layers();
    assert!(layers >= 2);
    let of = |change: fn(&mut LoraConfig)| chosen("qwen3_untied_sharded", change);
    assert_eq!(of(|_| ()).len(), 7 * layers, "by default the projections");
    assert_eq!(of(|config| config.target_modules = Targets::AllLinear).len(), 7 * layers, "the head is left out");
    assert_eq!(of(|config| config.target_modules = names(&["lm_head", "embed_tokens"])), ["model.embed_tokens", "lm_head"]);
    assert_eq!(of(|config| config.target_modules = names(&["layers.1.*.q_proj"])), ["model.layers.1.self_attn.q_proj"]);
    assert_eq!(of(|config| config.target_modules = names(&["layers.1.*.?_proj"])).len(), 4);
    assert!(chosen("qwen3_untied_sharded", |config| config.target_modules = names(&["**"])).len() == 7 * layers + 2);
    let pattern = r"model\.layers\.[01]\..*\.(q|v)_proj";
    assert_eq!(chosen("qwen3_untied_sharded", |config| config.target_modules = Targets::Pattern(pattern.into())).len(), 4);
    let blocks = |config: &mut LoraConfig| {
        config.target_modules = names(&["q_proj", "lm_head"]);
        config.num_layers = Some(1);
    };
    let last = format!("model.layers.{}.self_attn.q_proj", layers - 1);
    assert_eq!(chosen("qwen3_untied_sharded", blocks), [last, "lm_head".to_string()], "a whole name is taken wherever it is");
    let first = |config: &mut LoraConfig| config.layers_to_transform = Some(vec![0]);
    assert!(chosen("qwen3_untied_sharded", first).iter().all(|name| name.starts_with("model.layers.0.")));
    let without = |config: &mut LoraConfig| config.exclude_modules = names(&["mlp.*"]);
    assert_eq!(chosen("qwen3_untied_sharded", without).len(), 4 * layers);
}

#[test]
fn experts_and_routers_get_adapters_when_they_are_asked_for() {
    let of = |change: fn(&mut LoraConfig)| chosen("qwen3_moe_all", change);
    let usual = of(|_| ());
    assert!(usual.iter().all(|name| name.contains("self_attn")), "{usual:?}");
    let all = of(|config| config.target_modules = Targets::AllLinear);
    for end in ["mlp.gate", "mlp.switch_mlp.up_proj", "self_attn.q_proj"] {
        assert!(all.iter().any(|name| name.ends_with(end)), "{end}");
    }
    let ours = of(|config| config.target_modules = names(&["switch_mlp.down_proj"]));
    assert_eq!(of(|config| config.target_modules = names(&["experts.down_proj"])), ours, "by transformers' name");
    let shared = chosen("qwen2_moe", |config| config.target_modules = names(&["shared_expert.up_proj", "shared_expert_gate"]));
    assert!(!shared.is_empty());
}

#[test]
fn ranks_and_alphas_follow_patterns() {
    let mut model = model("qwen3_moe_all");
    let config = LoraConfig {
        rank: 2,
        alpha: 4.0,
        target_modules: Targets::AllLinear,
        rank_pattern: vec![("experts.up_proj".into(), 5), (r"layers\.0\..*_proj".into(), 3)],
        alpha_pattern: vec![("q_proj".into(), 30.0)],
        ..Default::default()
    };
    model.apply_lora(config.clone()).unwrap();
    for (name, array) in model.parameters() {
        let Some(layer) = name.strip_suffix(".lora_a") else { continue };
        let want = if layer.ends_with("switch_mlp.up_proj") {
            5
        } else if layer.contains("layers.0.") && layer.ends_with("_proj") {
            3
        } else {
            2
        };
        assert_eq!(array.dim(-2), want, "{name}");
    }
    assert_eq!(config.size("model.layers.1.self_attn.q_proj").unwrap(), (2, 15.0));
    assert_eq!(config.size("model.layers.1.self_attn.k_proj").unwrap(), (2, 2.0));
    // What other formats cannot say is folded into the factors.
    train(&mut model, 1);
    let scratch = Scratch::new();
    for format in [AdapterFormat::Peft, AdapterFormat::MlxLm] {
        model.save_adapter(&scratch.0, "x", format).unwrap();
        let mut again = self::model("qwen3_moe_all");
        again.load_adapter(&scratch.0).unwrap();
        assert_close(&logits(&again), &logits(&model), 1e-5, 1e-5, "patterns");
    }
}

#[test]
fn impossible_choices_say_what_there_is() {
    let refuse = |change: fn(&mut LoraConfig), part: &str| {
        let (mut model, mut config) = (model("qwen3"), LoraConfig::default());
        change(&mut config);
        let error = model.apply_lora(config).unwrap_err();
        assert_eq!(error.code(), "ERR_MLX_ARGUMENT");
        assert!(error.to_string().contains(part), "'{part}' should be in: {error}");
        assert!(model.adapter_names().is_empty());
    };
    refuse(|config| config.target_modules = Targets::Pattern("q_proj".into()), "a list holds ends of names");
    refuse(|config| config.target_modules = Targets::Pattern("(".into()), "no regular expression");
    refuse(|config| config.target_modules = names(&["x*"]), "'x*' is no layer of this model; there are embed_tokens, q_proj");
    refuse(|config| config.exclude_modules = names(&["**"]), "leave no layer");
    refuse(|config| config.layers_to_transform = Some(vec![99]), "names block 99; this model has 0 to");
    refuse(|config| config.layers_to_transform = Some(vec![]), "layersToTransform is empty");
    refuse(|config| config.num_layers = Some(0), "numLayers must be from 1 to");
    refuse(|config| (config.num_layers, config.layers_to_transform) = (Some(1), Some(vec![0])), "give one of them");
    refuse(|config| config.rank_pattern = vec![("q_proj".into(), 0)], "rank must be from 1");
    refuse(|config| config.rank_pattern = vec![("(".into(), 1)], "no regular expression");
    refuse(|config| config.alpha_pattern = vec![("q_proj".into(), -1.0)], "alpha must be");
}

#[test]
fn several_adapters_are_switched_and_the_base_stays() {
    let mut model = model("qwen2_moe");
    let base = logits(&model);
    let weights = model.parameters();
    model.add_adapter("one", everything()).unwrap();
    train(&mut model, 1);
    let one = logits(&model);
    let dora = LoraConfig { use_dora: true, seed: 4, ..LoraConfig::default() };
    model.add_adapter("two", dora).unwrap();
    assert_close(&logits(&model), &base, 1e-5, 1e-5, "a fresh one");
    train(&mut model, 2);
    let two = logits(&model);
    assert!(gap(&one, &base) > 1e-2 && gap(&two, &base) > 1e-2 && gap(&one, &two) > 1e-2);
    assert_eq!((model.adapter_names(), model.active_adapter()), (vec!["one".to_string(), "two".into()], Some("two")));
    for _ in 0..2 {
        model.set_adapter(Some("one")).unwrap();
        assert_close(&logits(&model), &one, 0.0, 0.0, "one");
        model.set_adapter_enabled(false).unwrap();
        assert_close(&logits(&model), &base, 0.0, 0.0, "off");
        model.set_adapter(Some("two")).unwrap();
        assert_close(&logits(&model), &two, 0.0, 0.0, "two");
        model.set_adapter(None).unwrap();
        assert_close(&logits(&model), &base, 0.0, 0.0, "none");
        assert!(model.set_adapter_enabled(true).is_err());
    }
    let four_bits = plainly(Quantization::new(QuantizationMode::Affine, Some(32), Some(4)).unwrap());
    let packing = model.plan_quantization(&four_bits).err().unwrap().to_string();
    assert!(packing.contains("the adapter 'two' is DoRA"), "{packing}");
    let unknown = model.set_adapter(Some("three")).unwrap_err().to_string();
    assert!(unknown.contains("no adapter 'three'; it has 'one', 'two'"), "{unknown}");
    assert!(Trainer::new(&mut model, StepOptions::default()).err().unwrap().to_string().contains("none is active"));
    model.set_adapter(Some("two")).unwrap();
    model.delete_adapter("two").unwrap();
    assert_close(&logits(&model), &base, 0.0, 0.0, "deleted");
    assert_eq!((model.adapter_names(), model.active_adapter()), (vec!["one".to_string()], None));
    model.delete_adapter("one").unwrap();
    for ((name, before), (_, after)) in weights.iter().zip(model.parameters()) {
        assert_eq!(before.to_bytes().unwrap(), after.to_bytes().unwrap(), "{name}");
    }
    assert_eq!(model.trainable().len(), weights.len());
    assert!(model.add_adapter("a.b", everything()).unwrap_err().to_string().contains("without dots"));
}

#[test]
fn gradients_are_the_slopes_of_the_loss() {
    for (name, checkpointed) in [("qwen3_moe_all", false), ("qwen2_moe", true), ("qwen3", false), ("qwen3_untied_sharded", false)]
    {
        let mut model = model(name);
        model.net.set_checkpoint_layers(checkpointed);
        model.apply_lora(everything()).unwrap();
        train(&mut model, 1);
        let names = model.trainable();
        for end in ["lora_a", "lora_b"] {
            // One direction through all layers at once, and one through each layer that is not in a block.
            let whole = |name: &&String| name.ends_with(end);
            let outside = |name: &&String| name.ends_with(end) && !name.contains("layers");
            for group in
                [names.iter().filter(whole).cloned().collect::<Vec<_>>(), names.iter().filter(outside).cloned().collect()]
            {
                let parameters: BTreeMap<String, Array> = model.parameters().into_iter().collect();
                let at: Vec<Array> = group.iter().map(|name| parameters[name].clone()).collect();
                let argnums: Vec<i32> = (0..at.len() as i32).collect();
                let mut evaluate = |inputs: &[Array]| {
                    model.set(&group, inputs)?;
                    Ok(vec![loss(&model, &ids())?])
                };
                let (_, gradients) = value_and_grad(&mut evaluate, &at, &argnums).unwrap();
                // Along the gradient itself the slope is its length.
                let length = gradients.iter().map(|g| g.square().unwrap().sum_all().unwrap().item().unwrap()).sum::<f32>().sqrt();
                assert!(length > 1e-3, "{name} {end}: {length}");
                let step = 5e-3;
                let mut value = |sign: f32| {
                    let move_by = |(at, g): (&Array, &Array)| at.add(&g.multiply_scalar(sign * step / length).unwrap()).unwrap();
                    let moved: Vec<Array> = at.iter().zip(&gradients).map(move_by).collect();
                    evaluate(&moved).unwrap()[0].item().unwrap()
                };
                let slope = (value(1.0) - value(-1.0)) / (2.0 * step);
                model.set(&group, &at).unwrap();
                // The loss is about 5: its rounding of some 5e-7 over a step of 0.01 is 1e-4; the rest is the third derivative's.
                assert!((slope - length).abs() < 1e-2 * length + 2e-4, "{name} {end}: slope {slope}, gradient {length}");
            }
        }
    }
}

#[test]
fn files_of_both_formats_bring_everything_back() {
    for name in ["qwen3_moe_all", "qwen2_moe", "qwen3", "qwen3_untied_sharded"] {
        for use_dora in [false, true] {
            let mut source = model(name);
            let exclude = if use_dora { names(&["embed_tokens", "switch_mlp.*"]) } else { names(&[]) };
            source.apply_lora(LoraConfig { use_dora, dropout: 0.1, exclude_modules: exclude, ..everything() }).unwrap();
            train(&mut source, 1);
            let want = logits(&source);
            assert!(gap(&want, &logits(&model(name))) > 1e-2);
            for format in [AdapterFormat::Peft, AdapterFormat::MlxLm] {
                let scratch = Scratch::new();
                source.save_adapter(&scratch.0, "Qwen/Example", format).unwrap();
                let mut again = model(name);
                again.load_adapter(&scratch.0).unwrap();
                assert_close(&logits(&again), &want, 1e-6, 1e-6, &format!("{name} {format:?} DoRA {use_dora}"));
                assert_eq!(again.trainable(), source.trainable());
                let config = again.adapter().unwrap();
                assert_eq!((config.rank, config.use_dora), (3, use_dora));
                assert!((config.dropout - 0.1).abs() < 1e-6);
            }
        }
    }
}

#[test]
fn layouts_are_those_of_the_peers() {
    let scratch = Scratch::new();
    let mut model = model("qwen3_moe_all");
    model.apply_lora(LoraConfig { num_layers: Some(1), ..everything() }).unwrap();
    let read = |scratch: &Scratch| -> Value {
        serde_json::from_slice(&std::fs::read(scratch.0.join("adapter_config.json")).unwrap()).unwrap()
    };
    model.save_adapter(&scratch.0, "Qwen/Example", AdapterFormat::Peft).unwrap();
    let tensors = load_tensors(scratch.0.join("adapter_model.safetensors"));
    let last = model.net.num_layers() - 1;
    let shape = |name: &str| tensors.get(name).map(|array| array.shape().to_vec());
    let experts = format!("base_model.model.model.layers.{last}.mlp.experts");
    let hidden = model.net.config().hidden_size;
    assert_eq!(shape(&format!("{experts}.1.up_proj.lora_A.weight")), Some(vec![3, hidden]));
    assert_eq!(shape(&format!("{experts}.1.down_proj.lora_B.weight")), Some(vec![hidden, 3]));
    assert_eq!(read(&scratch)["use_dora"], false);

    model.save_adapter(&scratch.0, "Qwen/Example", AdapterFormat::MlxLm).unwrap();
    let tensors = load_tensors(scratch.0.join("adapters.safetensors"));
    assert_eq!(tensors[&format!("model.layers.{last}.self_attn.q_proj.lora_a")].shape(), [hidden, 3]);
    let config = read(&scratch);
    assert_eq!((&config["fine_tune_type"], &config["num_layers"]), (&json!("lora"), &json!(1)));
    assert_eq!(config["lora_parameters"]["scale"], 2.0);
    let keys: Vec<&str> = config["lora_parameters"]["keys"].as_array().unwrap().iter().map(|key| key.as_str().unwrap()).collect();
    assert_eq!(keys.iter().filter(|key| **key == "self_attn.q_proj").count(), 1, "{keys:?}");

    // Blocks that are no last ones are named one by one.
    model.delete_adapter("default").unwrap();
    model
        .apply_lora(LoraConfig { layers_to_transform: Some(vec![0]), target_modules: names(&["q_proj"]), ..everything() })
        .unwrap();
    model.save_adapter(&scratch.0, "x", AdapterFormat::MlxLm).unwrap();
    assert_eq!(read(&scratch)["lora_parameters"]["keys"], json!(["model.layers.0.self_attn.q_proj"]));

    let mut table = self::model("qwen3");
    table.apply_lora(LoraConfig { target_modules: names(&["embed_tokens"]), ..everything() }).unwrap();
    let config = table.net.config().clone();
    assert!(config.tie_word_embeddings);
    table.save_adapter(&scratch.0, "x", AdapterFormat::Peft).unwrap();
    let tensors = load_tensors(scratch.0.join("adapter_model.safetensors"));
    let name = |part: &str| format!("base_model.model.model.embed_tokens.lora_embedding_{part}");
    assert_eq!(tensors[&name("A")].shape(), [3, config.vocab_size]);
    assert_eq!(tensors[&name("B")].shape(), [config.hidden_size, 3]);
    assert_eq!(read(&scratch)["ensure_weight_tying"], true);
}

#[test]
fn stacked_parameters_of_transformers_5_are_read() {
    let mut model = model("qwen3_moe_all");
    let place = "model.layers.0.mlp.switch_mlp";
    let shapes: BTreeMap<String, Vec<i32>> =
        model.parameters().into_iter().map(|(name, array)| (name, array.shape().to_vec())).collect();
    let up = &shapes[&format!("{place}.up_proj.weight")];
    let (experts, out, hidden, rank) = (up[0], up[1], up[2], 2);
    let noise = |shape: &[i32], seed| random::normal(0.0, 0.2, shape, Dtype::Float32, &random::key(seed).unwrap()).unwrap();
    let (a, b) = (noise(&[experts * rank, hidden], 1), noise(&[2 * out, rank * experts], 2));
    let (down_a, down_b) = (noise(&[experts * rank, out], 3), noise(&[hidden, rank * experts], 4));
    let prefix = "base_model.model.model.layers.0.mlp.experts";
    let scratch = Scratch::new();
    let tensors = [
        (format!("{prefix}.base_layer.lora_A.weight"), a.clone()),
        (format!("{prefix}.base_layer.lora_B.weight"), b.clone()),
        (format!("{prefix}.lora_A.weight"), down_a.clone()),
        (format!("{prefix}.lora_B.weight"), down_b.clone()),
    ];
    crate::mlx::io::safetensors::save_arrays(&scratch.0.join("adapter_model.safetensors"), &tensors).unwrap();
    let config = json!({"peft_type": "LORA", "r": rank, "lora_alpha": 6, "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]});
    std::fs::write(scratch.0.join("adapter_config.json"), config.to_string()).unwrap();
    model.load_adapter(&scratch.0).unwrap();
    let found: BTreeMap<String, Array> = model.parameters().into_iter().collect();
    // PEFT's `get_delta_weight`: einsum("o r e, e r i -> e o i").
    let delta = |a: &Array, b: &Array| {
        let (a, b) = (a.reshape(&[experts, rank, -1]).unwrap(), b.reshape(&[-1, rank, experts]).unwrap());
        ops::einsum("ore,eri->eoi", &[b, a]).unwrap()
    };
    let ours = |projection: &str| {
        let part = |part: &str| found[&format!("{place}.{projection}.lora_{part}")].clone();
        part("b").matmul(&part("a")).unwrap()
    };
    let both = delta(&a, &b);
    assert_close(&ours("gate_proj"), &both.slice_axis(1, 0, out).unwrap(), 1e-5, 1e-5, "gates");
    assert_close(&ours("up_proj"), &both.slice_axis(1, out, 2 * out).unwrap(), 1e-5, 1e-5, "ups");
    assert_close(&ours("down_proj"), &delta(&down_a, &down_b), 1e-5, 1e-5, "downs");
    assert_eq!(model.adapter().unwrap().size(&format!("{place}.up_proj")).unwrap().1, 3.0);
}

#[test]
fn files_that_are_no_adapter_for_this_model_are_refused() {
    let mut source = model("qwen3");
    source.apply_lora(LoraConfig { target_modules: names(&["q_proj"]), ..everything() }).unwrap();
    let refuse = |format: AdapterFormat, edit: &dyn Fn(&mut Value), name: &str, part: &str| {
        let scratch = Scratch::new();
        let mut source = model("qwen3");
        source.apply_lora(LoraConfig { target_modules: names(&["q_proj"]), ..everything() }).unwrap();
        source.save_adapter(&scratch.0, "x", format).unwrap();
        let path = scratch.0.join("adapter_config.json");
        let mut json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        edit(&mut json);
        std::fs::write(&path, json.to_string()).unwrap();
        let mut model = model(name);
        let error = model.load_adapter(&scratch.0).unwrap_err().to_string();
        assert!(error.contains(part), "'{part}' should be in: {error}");
        assert!(model.adapter_names().is_empty() && adapted(&model).is_empty());
    };
    let mlx_lm = AdapterFormat::MlxLm;
    refuse(mlx_lm, &|json| json["fine_tune_type"] = "full".into(), "qwen3", "fine_tune_type is \"full\"");
    refuse(mlx_lm, &|json| json["fine_tune_type"] = "dora".into(), "qwen3", "does not fit the parts");
    refuse(mlx_lm, &|json| json["lora_parameters"]["rank"] = 8.into(), "qwen3", "with rank 8");
    refuse(mlx_lm, &|json| json["lora_parameters"]["scale"] = Value::Null, "qwen3", "lora_parameters.scale is null");
    refuse(mlx_lm, &|json| json["lora_parameters"] = Value::Null, "qwen3", "lora_parameters is null");
    refuse(mlx_lm, &|_| (), "qwen3_untied_sharded", "this model takes");
    refuse(AdapterFormat::Peft, &|_| (), "qwen3_untied_sharded", "this model takes");
}

/// All weights in codes that can be, but for routers, as a quantised checkpoint has them. In four bits those whose width is no
/// multiple of 32 are in nvfp4, whose groups are of 16.
fn packed(name: &str, bits: i32) -> Model {
    let mut model = model(name);
    pack(&mut model, bits);
    model.config_json["quantization"] = json!({"group_size": 32, "bits": bits});
    model
}

fn pack(model: &mut Model, bits: i32) {
    let affine = Quantization::new(QuantizationMode::Affine, Some(32), Some(bits)).unwrap();
    let nvfp4 = Quantization::new(QuantizationMode::parse("nvfp4").unwrap(), Some(16), Some(4)).unwrap();
    let mut layers = Vec::new();
    model.net.layers("", &mut layers);
    for (name, mut layer) in layers {
        let width = *layer.weight().shape().last().unwrap();
        let how = if width % 32 == 0 { affine } else { nvfp4 };
        let narrow = bits == 4 && width % 16 == 0;
        if !name.ends_with("gate") && (width % 32 == 0 || narrow) {
            let codes = layer.weight().pack(how).unwrap();
            *layer.weight_mut() = codes;
        }
    }
}

fn is_packed(model: &mut Model) -> usize {
    let mut layers: Vec<(String, Layer)> = Vec::new();
    model.net.layers("", &mut layers);
    layers.iter().filter(|(_, layer)| layer.weight().is_packed()).count()
}

#[test]
fn fusing_leaves_what_the_adapter_made() {
    for name in ["qwen2", "qwen3_moe_all", "qwen2_moe"] {
        for use_dora in [false, true] {
            let mut model = model(name);
            model.apply_lora(LoraConfig { use_dora, ..everything() }).unwrap();
            train(&mut model, 1);
            let want = logits(&model);
            model.fuse(false).unwrap();
            assert!(model.adapter_names().is_empty() && adapted(&model).is_empty());
            // Sums of the weight and the correction before the product instead of after it, through two or three blocks.
            assert_close(&logits(&model), &want, 1e-4, 1e-4, &format!("{name} DoRA {use_dora}"));
        }
    }
    let mut model = model("qwen2");
    assert!(model.fuse(false).unwrap_err().to_string().contains("needs an active adapter"));
    model.add_adapter("one", everything()).unwrap();
    model.add_adapter("two", everything()).unwrap();
    assert!(model.fuse(false).unwrap_err().to_string().contains("the adapter 'one' belongs to; delete it first"));
}

#[test]
fn fusing_packed_weights_packs_them_again_or_not() {
    for use_dora in [false, true] {
        let mut model = packed("qwen2_moe", 8);
        let count = is_packed(&mut model);
        assert!(count >= 14, "{count}");
        model.apply_lora(LoraConfig { use_dora, ..everything() }).unwrap();
        train(&mut model, 1);
        let want = logits(&model);
        let config = model.config_json.clone();
        model.fuse(false).unwrap();
        assert_eq!((is_packed(&mut model), &model.config_json), (count, &config));
        let packed_again = logits(&model);

        let mut model = packed("qwen2_moe", 8);
        model.apply_lora(LoraConfig { use_dora, ..everything() }).unwrap();
        train(&mut model, 1);
        model.fuse(true).unwrap();
        assert_eq!(is_packed(&mut model), 0);
        assert!(model.config_json.get("quantization").is_none());
        assert_close(&logits(&model), &want, 1e-4, 1e-4, "unpacked");
        pack(&mut model, 8);
        assert_close(&packed_again, &logits(&model), 0.0, 0.0, "the merged numbers, packed as those of the base were");
    }
    let mut plain = packed("qwen3", 4);
    let want = logits(&plain);
    plain.fuse(true).unwrap();
    assert_eq!(is_packed(&mut plain), 0);
    assert_close(&logits(&plain), &want, 1e-4, 1e-4, "unpacked without an adapter");
}

fn texts() -> Vec<TextRow> {
    let row = |ids: &[i32]| TextRow { ids: ids.to_vec(), mask: vec![true; ids.len()] };
    vec![row(&[5, 17, 42, 99, 3, 120, 64]), row(&[8, 11, 70, 2, 9]), row(&[33, 21, 90, 14, 6, 77])]
}

#[test]
fn an_adapter_learns_on_packed_weights() {
    for (name, use_dora, checkpoint_layers, dropout) in [
        ("qwen3", false, false, 0.0),
        ("qwen3", true, true, 0.0),
        ("qwen3_moe_all", false, true, 0.05),
        ("qwen2_moe", true, false, 0.0),
    ] {
        let mut model = packed(name, 4);
        assert!(is_packed(&mut model) >= 12);
        let base: Vec<(String, Vec<u8>)> =
            model.parameters().into_iter().map(|(name, array)| (name, array.to_bytes().unwrap())).collect();
        let before = logits(&model);
        model.apply_lora(LoraConfig { use_dora, dropout, rank: 8, alpha: 16.0, ..everything() }).unwrap();
        let options = StepOptions { checkpoint_layers, seed: 5, ..Default::default() };
        let mut trainer = Trainer::new(&mut model, options).unwrap();
        let tokens = texts().iter().map(|row| row.ids.len() as f32 - 1.0).sum();
        let mut losses = Vec::new();
        for _ in 0..60 {
            losses.push(trainer.supervised(&mut model, &texts(), tokens, 0.0).unwrap().loss);
            trainer.step(&mut model, 1e-2).unwrap();
        }
        let (first, last) = (losses[0], losses[59]);
        assert!(first > 3.0 && last < 0.5 && losses.iter().all(|loss| loss.is_finite()), "{name}: from {first} to {last}");
        assert!(gap(&logits(&model), &before) > 0.1);
        model.set_adapter(None).unwrap();
        // cuBLAS may choose another algorithm from one call to the next.
        let rounding = if on_gpu() { 1e-5 } else { 0.0 };
        assert_close(&logits(&model), &before, rounding, rounding, "the base");
        let after: Vec<(String, Vec<u8>)> =
            model.parameters().into_iter().map(|(name, array)| (name, array.to_bytes().unwrap())).collect();
        assert_eq!(base, after, "{name}: the base weights");
    }
}

#[test]
fn dropout_is_of_the_step_and_ends_with_it() {
    let losses = |seed: u64, dropout: f32, checkpoint_layers: bool| {
        let mut model = model("qwen3");
        model.apply_lora(LoraConfig { dropout, ..everything() }).unwrap();
        train(&mut model, 1);
        let want = logits(&model);
        let mut trainer = Trainer::new(&mut model, StepOptions { seed, checkpoint_layers, ..Default::default() }).unwrap();
        let mut losses = Vec::new();
        for _ in 0..2 {
            losses.push(trainer.supervised(&mut model, &texts(), 15.0, 0.0).unwrap().loss);
        }
        assert_close(&logits(&model), &want, 0.0, 0.0, "no dropout outside a step");
        let gradients = trainer.gradients().unwrap().iter().map(|(_, array)| array.to_f32().unwrap()).collect::<Vec<_>>();
        (losses, gradients)
    };
    let (plain, _) = losses(1, 0.0, false);
    assert_eq!(plain[0], plain[1], "without dropout two micro-steps are alike");
    let (dropped, gradients) = losses(1, 0.3, false);
    assert!(dropped[0] != dropped[1] && dropped[0] != plain[0]);
    assert_eq!(losses(1, 0.3, false).0, dropped, "the same seed");
    assert_ne!(losses(2, 0.3, false).0, dropped, "another seed");
    // The recomputation drops the same inputs.
    let (again, recomputed) = losses(1, 0.3, true);
    assert!((again[0] - dropped[0]).abs() < 1e-5);
    for (a, b) in gradients.iter().flatten().zip(recomputed.iter().flatten()) {
        assert!((a - b).abs() < 1e-4 + 1e-3 * a.abs(), "{a} and {b}");
    }
}

#[test]
fn a_trainer_refuses_another_adapter() {
    let mut model = model("qwen3");
    model.add_adapter("one", everything()).unwrap();
    let mut trainer = Trainer::new(&mut model, StepOptions::default()).unwrap();
    model.add_adapter("two", everything()).unwrap();
    let error = trainer.supervised(&mut model, &texts(), 15.0, 0.0).err().unwrap().to_string();
    assert!(error.contains("made for the adapter 'one', but the adapter 'two' is active"), "{error}");
    model.set_adapter(Some("one")).unwrap();
    trainer.supervised(&mut model, &texts(), 15.0, 0.0).unwrap();
    trainer.step(&mut model, 1e-3).unwrap();
}

#[test]
fn only_changes_make_a_new_version() {
    let mut model = model("qwen3");
    let mut version = model.version();
    let mut check = |model: &Model, changes: bool, what: &str| {
        assert_eq!(model.version() != version, changes, "{what}");
        version = model.version();
    };
    model.add_adapter("one", LoraConfig { target_modules: names(&["q_proj"]), ..everything() }).unwrap();
    check(&model, true, "an adapter");
    let scratch = Scratch::new();
    model.save_adapter(&scratch.0, "x", AdapterFormat::Peft).unwrap();
    model.save(&scratch.0.join("model")).unwrap();
    check(&model, false, "saving");
    model.set_adapter(Some("one")).unwrap();
    model.set_adapter_enabled(true).unwrap();
    check(&model, false, "the adapter that is there");
    assert!(model.set_adapter(Some("two")).is_err());
    check(&model, false, "an adapter that is not there");
    model.fuse(false).unwrap();
    check(&model, true, "fusing");
    model.load_adapter_as("two", &scratch.0).unwrap();
    check(&model, true, "an adapter from a folder");
    model.set_adapter_enabled(false).unwrap();
    check(&model, true, "off");
    model.set_adapter_enabled(true).unwrap();
    check(&model, true, "on");
    let options = StepOptions { reference: true, ..StepOptions::default() };
    let mut trainer = Trainer::new(&mut model, options).unwrap();
    let rows = [TrainRow { prompt: vec![1, 2], completion: vec![3, 4] }];
    for reference in [false, true] {
        trainer.logprobs(&mut model, &rows, 1., reference, false).unwrap();
    }
    trainer.supervised(&mut model, &texts(), 4., 0.).unwrap();
    check(&model, false, "log-probs and gradients");
    trainer.step(&mut model, 1e-3).unwrap();
    check(&model, true, "a training step");
    model.set_adapter(None).unwrap();
    check(&model, true, "no adapter");
    model.delete_adapter("two").unwrap();
    check(&model, false, "deleting one that does not count");
    let names = [model.parameters()[0].0.clone()];
    assert!(model.set(&names, &[Array::scalar(1.)]).is_err());
    check(&model, false, "weights that do not fit");
    let how = Quantization::new(QuantizationMode::Affine, Some(32), Some(8)).unwrap();
    model.pack_layer("model.layers.0.self_attn.q_proj", how).unwrap();
    check(&model, true, "packing");
    model.unpack_layer("model.layers.0.self_attn.q_proj").unwrap();
    check(&model, true, "unpacking");
}
