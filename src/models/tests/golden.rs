//! Logits, greedy tokens, loss and gradients of the recorded checkpoints.

use super::*;
use crate::cache::Cache;
use crate::mlx::io::safetensors::{Source, write as write_safetensors};
use crate::mlx::{Error, memory, value_and_grad};
use crate::models::{Forward, experts};
use crate::nn::RouterUse;
use crate::testing::{assert_close, cases, golden_path, load_tensors, on_gpu};

const CHECKPOINTS: &[&str] =
    &["qwen3", "qwen3_untied_sharded", "qwen2", "qwen3_yarn", "qwen3_yarn_default", "qwen3_moe", "qwen3_moe_all", "qwen2_moe"];

/// Runs a check on every checkpoint, under both generations of `config.json`.
fn for_each(check: impl Fn(&str, Model)) {
    for name in CHECKPOINTS {
        let dir = golden_path(&format!("models/{name}"));
        check(name, load_f32(&dir).unwrap());
        let legacy = Scratch::copy_of(&dir);
        std::fs::rename(legacy.0.join("config.legacy.json"), legacy.0.join("config.json")).unwrap();
        check(&format!("{name} (legacy config)"), load_f32(&legacy.0).unwrap());
    }
}

fn golden_name(name: &str) -> String {
    format!("models/{}", name.split(' ').next().unwrap())
}

fn io(name: &str) -> std::collections::HashMap<String, Array> {
    load_tensors(golden_path(&golden_name(name)).join("io.safetensors"))
}

fn tolerance(name: &str, of: &str) -> (f32, f32) {
    let tolerance = &cases(&golden_name(name))["cases"][0]["tolerance"][of];
    (tolerance["atol"].as_f64().unwrap() as f32, tolerance["rtol"].as_f64().unwrap() as f32)
}

fn logits(model: &Model, input: Forward) -> Array {
    model.net.logits(&model.net.hidden(input).unwrap()).unwrap()
}

/// Caches for rows padded as the mask says.
fn batch_caches(model: &Model, mask: &Array) -> Vec<Cache> {
    model.net.new_batch_caches(&left_padding(mask).to_i32().unwrap()).unwrap()
}

/// Logits with those of padding slots set to zero, as the fixtures have them.
fn real_logits(model: &Model, ids: &Array, mask: &Array) -> Array {
    let padding = left_padding(mask);
    let logits = logits(model, Forward { ids, left_padding: Some(&padding), caches: None });
    let mask = mask.astype(Dtype::Bool).unwrap().expand_dims(&[2]).unwrap();
    ops::where_(&mask, &logits, &Array::scalar(0.0)).unwrap()
}

#[test]
fn logits_match_transformers() {
    for_each(|name, model| {
        let (io, (atol, rtol)) = (io(name), tolerance(name, "logits"));
        let single = logits(&model, Forward::new(&io["single_ids"]));
        assert_close(&single, &io["single_logits"], atol, rtol, &format!("{name}: single"));
        let batch = real_logits(&model, &io["input_ids"], &io["attention_mask"]);
        assert_close(&batch, &io["batch_logits"], atol, rtol, &format!("{name}: padded batch"));
    });
}

#[test]
fn cached_chunks_match_transformers() {
    for_each(|name, model| {
        let (io, (atol, rtol)) = (io(name), tolerance(name, "logits"));
        for chunk in [1, 3, 64] {
            let mut caches = model.net.new_caches();
            let ids = &io["single_ids"];
            let mut pieces = Vec::new();
            for start in (0..ids.dim(1)).step_by(chunk as usize) {
                let piece = ids.slice_axis(1, start, (start + chunk).min(ids.dim(1))).unwrap();
                pieces.push(logits(&model, Forward::cached(&piece, &mut caches)));
            }
            let whole = ops::concatenate(&pieces, 1).unwrap();
            assert_close(&whole, &io["single_logits"], atol, rtol, &format!("{name}: chunks of {chunk}"));

            let (ids, mask) = (&io["input_ids"], &io["attention_mask"]);
            let mut caches = batch_caches(&model, mask);
            let mut pieces = Vec::new();
            for start in (0..ids.dim(1)).step_by(chunk as usize) {
                let piece = ids.slice_axis(1, start, (start + chunk).min(ids.dim(1))).unwrap();
                pieces.push(logits(&model, Forward::cached(&piece, &mut caches)));
            }
            let whole = ops::concatenate(&pieces, 1).unwrap();
            assert!(!whole.isnan().unwrap().any_all().unwrap().to_vec::<bool>().unwrap()[0], "{name}: NaN at padding");
            let real = mask.astype(Dtype::Bool).unwrap().expand_dims(&[2]).unwrap();
            let whole = ops::where_(&real, &whole, &Array::scalar(0.0)).unwrap();
            assert_close(&whole, &io["batch_logits"], atol, rtol, &format!("{name}: padded chunks of {chunk}"));
        }
    });
}

/// Greedy tokens `[B, count]` after `ids`.
fn greedy(model: &Model, ids: &Array, mut caches: Vec<Cache>, count: i32) -> Array {
    let (mut next, mut tokens) = (ids.clone(), Vec::new());
    for _ in 0..count {
        let logits = logits(model, Forward::cached(&next, &mut caches));
        let last = logits.slice_axis(1, logits.dim(1) - 1, logits.dim(1)).unwrap();
        next = last.argmax(-1, false).unwrap().astype(Dtype::Int32).unwrap();
        next.eval().unwrap();
        tokens.push(next.clone());
    }
    ops::concatenate(&tokens, 1).unwrap()
}

#[test]
fn greedy_tokens_match_transformers() {
    for_each(|name, model| {
        let io = io(name);
        let single = greedy(&model, &io["single_ids"], model.net.new_caches(), io["greedy_single"].dim(1));
        assert_eq!(single.to_i32().unwrap(), io["greedy_single"].to_i32().unwrap(), "{name}: single");
        let caches = batch_caches(&model, &io["attention_mask"]);
        let batch = greedy(&model, &io["input_ids"], caches, io["greedy_batch"].dim(1));
        assert_eq!(batch.to_i32().unwrap(), io["greedy_batch"].to_i32().unwrap(), "{name}: batch");
    });
}

/// Loss and gradients by name.
fn gradients(mut model: Model, ids: &Array) -> (Array, Vec<(String, Array)>) {
    let names = model.trainable();
    let held: Vec<Array> = model.parameters().into_iter().filter(|(name, _)| names.contains(name)).map(|(_, a)| a).collect();
    let argnums: Vec<i32> = (0..held.len() as i32).collect();
    let run = |inputs: &[Array]| {
        model.set(&names, inputs)?;
        Ok(vec![loss(&model, ids)?])
    };
    let (values, gradients) = value_and_grad(run, &held, &argnums).unwrap();
    (values[0].clone(), names.into_iter().zip(gradients).collect())
}

#[test]
fn loss_and_every_gradient_match_transformers() {
    for_each(|name, mut model| {
        let (io, (atol, rtol)) = (io(name), tolerance(name, "grads"));
        let want = load_tensors(golden_path(&golden_name(name)).join("grads.safetensors"));
        let want_loss = cases(&golden_name(name))["cases"][0]["expected"]["loss"].as_f64().unwrap() as f32;
        // Checkpointed layers must give the same gradients as plain ones.
        model.net.set_checkpoint_layers(name.contains("legacy"));
        let (loss, gradients) = gradients(model, &io["single_ids"]);
        assert!((loss.item().unwrap() - want_loss).abs() < 2e-5 + 1e-5 * want_loss, "{name}: loss {}", loss.item().unwrap());
        let mut compared = 0;
        for (parameter, gradient) in gradients {
            let parts: Vec<(String, Array)> = if experts::is_stacked(&parameter) {
                let part = |expert| gradient.slice_axis(0, expert, expert + 1).unwrap().squeeze(&[0]).unwrap();
                (0..gradient.dim(0)).map(|expert| (experts::expert_name(&parameter, expert), part(expert))).collect()
            } else {
                vec![(parameter, gradient)]
            };
            for (parameter, gradient) in parts {
                assert_close(&gradient, &want[&parameter], atol, rtol, &format!("{name}: gradient of {parameter}"));
                compared += 1;
            }
        }
        assert_eq!(compared, want.len(), "{name}: number of gradients");
    });
}

#[test]
fn the_routers_loss_and_its_gradients_match_transformers() {
    for name in ["qwen3_moe", "qwen3_moe_all", "qwen2_moe"] {
        for checkpointed in [false, true] {
            let (io, case) = (io(name), cases(&golden_name(name))["cases"][0].clone());
            let expected = |key: &str| case["expected"][key].as_f64().unwrap() as f32;
            let mut model = load_f32(&golden_path(&golden_name(name))).unwrap();
            model.net.set_checkpoint_layers(checkpointed);
            let (config, top_k) = {
                let config = model.net.config();
                (config.moe.clone().unwrap(), config.experts().unwrap().num_experts_per_tok)
            };
            let aux_loss = |model: &Model, forward: Forward, weights: Option<&Array>| {
                let router_logits = model.net.forward(forward)?.router_logits;
                let sparse = config.sparse_layers.iter().filter(|sparse| **sparse).count();
                assert_eq!(router_logits.len(), sparse, "{name}");
                RouterUse::new(&router_logits, top_k, weights)?.load_balancing_loss()
            };
            let close = |got: &Array, want: f32| {
                let got = got.item().unwrap();
                assert!((got - want).abs() < 1e-5 * want, "{name}: {got}, transformers has {want}");
            };
            let single = &io["single_ids"];
            close(&aux_loss(&model, Forward::new(single), None).unwrap(), expected("aux_loss_single"));
            let (ids, mask) = (&io["input_ids"], &io["attention_mask"]);
            let padding = left_padding(mask);
            let padded = Forward { ids, left_padding: Some(&padding), caches: None };
            close(&aux_loss(&model, padded, Some(mask)).unwrap(), expected("aux_loss_batch"));
            let mut caches = batch_caches(&model, mask);
            close(&aux_loss(&model, Forward::cached(ids, &mut caches), Some(mask)).unwrap(), expected("aux_loss_batch"));

            let names: Vec<String> = model.trainable().into_iter().filter(|name| name.ends_with(".mlp.gate.weight")).collect();
            let parameters: std::collections::HashMap<String, Array> = model.parameters().into_iter().collect();
            let held: Vec<Array> = names.iter().map(|name| parameters[name].clone()).collect();
            let argnums: Vec<i32> = (0..held.len() as i32).collect();
            let run = |inputs: &[Array]| {
                model.set(&names, inputs)?;
                Ok(vec![aux_loss(&model, Forward::new(single), None)?])
            };
            let (_, gradients) = value_and_grad(run, &held, &argnums).unwrap();
            let (atol, rtol) = tolerance(name, "grads");
            for (parameter, gradient) in names.iter().zip(gradients) {
                assert_close(&gradient, &io[&format!("aux_grad/{parameter}")], atol, rtol, &format!("{name}: {parameter}"));
            }
        }
    }
}

#[test]
fn gradients_do_not_see_padding() {
    let (name, (atol, rtol)) = ("qwen3_yarn", tolerance("qwen3_yarn", "grads"));
    let mut model = load_f32(&golden_path(&golden_name(name))).unwrap();
    let ids = &io(name)["single_ids"];
    let length = ids.dim(1);
    let padded = ids.pad(&[0, 9], &[0, 0], 0.0).unwrap();
    let padding = Array::from_slice(&[9], &[1]).unwrap();
    let names = model.trainable();
    let held: Vec<Array> = model.parameters().into_iter().map(|(_, array)| array).collect();
    let argnums: Vec<i32> = (0..held.len() as i32).collect();
    let run = |inputs: &[Array]| {
        model.set(&names, inputs)?;
        let hidden = model.net.hidden(Forward { ids: &padded, left_padding: Some(&padding), caches: None })?;
        let logps = model.net.logits(&hidden.slice_axis(1, 9, 8 + length)?)?.log_softmax(-1)?;
        let next = ids.slice_axis(1, 1, length)?.expand_dims(&[2])?;
        Ok(vec![logps.take_along_axis(&next, 2)?.mean_all()?.negative()?])
    };
    let (_, gradients) = value_and_grad(run, &held, &argnums).unwrap();
    let want = load_tensors(golden_path(&golden_name(name)).join("grads.safetensors"));
    for (parameter, gradient) in names.iter().zip(gradients) {
        assert_close(&gradient, &want[parameter], atol, rtol, parameter);
    }
}

#[test]
fn checkpointed_layers_take_less_memory() {
    // The work space of a GPU's kernels is larger than what this small model saves.
    if on_gpu() {
        return;
    }
    let ids = ops::full(&[4, 256], 7.0, Dtype::Int32).unwrap();
    let peak = |checkpointed: bool| {
        crate::runtime::block_on_owner(|| {
            let mut model = load_f32(&golden_path("models/qwen3"))?;
            model.net.set_checkpoint_layers(checkpointed);
            let names = model.trainable();
            let held: Vec<Array> = model.parameters().into_iter().map(|(_, array)| array).collect();
            let argnums: Vec<i32> = (0..held.len() as i32).collect();
            let before = memory::stats()?.active;
            memory::reset_peak()?;
            let run = |inputs: &[Array]| {
                model.set(&names, inputs)?;
                Ok(vec![loss(&model, &ids)?])
            };
            let (_, gradients) = value_and_grad(run, &held, &argnums)?;
            crate::mlx::eval(&gradients)?;
            Ok(memory::stats()?.peak.saturating_sub(before))
        })
        .unwrap()
    };
    // Other tests' arrays come and go meanwhile, so that one measurement can be far off, in either direction; undisturbed ones
    // agree.
    let settled = |checkpointed: bool| {
        let mut seen: Vec<usize> = Vec::new();
        for _ in 0..100 {
            let next = peak(checkpointed);
            if seen.iter().any(|&before| before.abs_diff(next) <= next / 200) {
                return next;
            }
            seen.push(next);
        }
        panic!("no two measurements agree: {seen:?}");
    };
    let (plain, checkpointed) = (settled(false), settled(true));
    // 26 % less when alone; other tests move either side by a few per cent.
    assert!(checkpointed < plain * 17 / 20, "{checkpointed} bytes against {plain}");
}

#[test]
fn half_precision_stays_half_and_near() {
    for name in CHECKPOINTS {
        for dtype in [Dtype::Bfloat16, Dtype::Float16] {
            let dir = golden_path(&format!("models/{name}"));
            let model = load(&dir, &LoadOptions { dtype: Some(dtype), ..LoadOptions::default() }, &mut |_, _| Ok(())).unwrap();
            let io = io(name);
            let single = logits(&model, Forward::new(&io["single_ids"]));
            assert_eq!(single.dtype(), dtype, "{name}");
            let difference = single.astype(Dtype::Float32).unwrap().subtract(&io["single_logits"]).unwrap();
            let typical = difference.square().unwrap().mean_all().unwrap().item().unwrap().sqrt();
            assert!(typical < if dtype == Dtype::Bfloat16 { 0.06 } else { 0.01 }, "{name} in {}: off by {typical}", dtype.name());
            let mut caches = batch_caches(&model, &io["attention_mask"]);
            let batch = logits(&model, Forward::cached(&io["input_ids"], &mut caches));
            assert_eq!(batch.dtype(), dtype);
            assert!(!batch.isnan().unwrap().any_all().unwrap().to_vec::<bool>().unwrap()[0], "{name}: NaN at padding");
        }
    }
}

#[test]
fn padding_changes_nothing() {
    let model = load_f32(&golden_path("models/qwen3_yarn")).unwrap();
    let row: Vec<i32> = (2..12).collect();
    let alone = logits(&model, Forward::new(&Array::from_slice(&row, &[1, 10]).unwrap()));
    let padded: Vec<i32> = [0; 7].into_iter().chain(row).collect();
    let mut both = padded.clone();
    both.extend(40..57);
    let ids = Array::from_slice(&both, &[2, 17]).unwrap();
    let padding = Array::from_slice(&[7, 0], &[2]).unwrap();
    let together = logits(&model, Forward { ids: &ids, left_padding: Some(&padding), caches: None });
    let got = together.slice(&[0, 7, 0], &[1, 17, 160]).unwrap();
    assert_close(&got, &alone, 2e-5, 1e-5, "padded row");

    // The same through a cache from which the other row has gone, and the padding with it.
    let mut caches = model.net.new_batch_caches(&[7, 0]).unwrap();
    model.net.hidden(Forward::cached(&ids, &mut caches)).unwrap();
    for cache in &mut caches {
        cache.filter(&[0]).unwrap();
        assert_eq!(cache.trim(2), 2);
        assert_eq!(cache.len(), 8);
    }
    let last = Array::from_slice(&[10, 11], &[1, 2]).unwrap();
    let got = logits(&model, Forward::cached(&last, &mut caches));
    assert_close(&got, &alone.slice_axis(1, 8, 10).unwrap(), 2e-5, 1e-5, "row taken out of a batch");
}

#[test]
fn saving_and_loading_keeps_every_bit() {
    for name in ["qwen3", "qwen3_untied_sharded", "qwen2", "qwen3_moe", "qwen2_moe"] {
        for dtype in [Dtype::Float32, Dtype::Bfloat16, Dtype::Float16] {
            let options = LoadOptions { dtype: Some(dtype), ..LoadOptions::default() };
            let dir = golden_path(&format!("models/{name}"));
            let model = load(&dir, &options, &mut |_, _| Ok(())).unwrap();
            let scratch = Scratch::new();
            model.save(&scratch.0).unwrap();
            let again = load(&scratch.0, &options, &mut |_, _| Ok(())).unwrap();
            assert_eq!(again.generation_config, model.generation_config);
            assert_eq!(again.config_json["dtype"], dtype.name());
            assert_eq!(again.eos_token_ids(), [1]);
            for ((left, a), (right, b)) in model.parameters().iter().zip(&again.parameters()) {
                assert_eq!((left, a.dtype()), (right, dtype));
                assert_eq!(a.to_bytes().unwrap(), b.to_bytes().unwrap(), "{name} {left}");
            }
            let leftovers = std::fs::read_dir(&scratch.0)
                .unwrap()
                .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().ends_with(".tmp"));
            assert_eq!(leftovers.count(), 0);
        }
    }
}

#[test]
fn experts_in_every_form_are_the_same_model() {
    let dir = golden_path("models/qwen3_moe");
    let model = load_f32(&dir).unwrap();
    let parameters = model.parameters();
    let held = |name: &str| &parameters.iter().find(|(held, _)| held == name).unwrap().1;
    type Tensors = Vec<(String, Array)>;
    let stacked: Tensors = parameters.clone();
    let mut fused: Tensors = Vec::new();
    for (name, weight) in &parameters {
        if let Some(layer) = name.strip_suffix(".switch_mlp.gate_proj.weight") {
            let up = held(&format!("{layer}.switch_mlp.up_proj.weight"));
            fused.push((format!("{layer}.experts.gate_up_proj"), ops::concatenate(&[weight.clone(), up.clone()], 1).unwrap()));
        } else if let Some(layer) = name.strip_suffix(".switch_mlp.down_proj.weight") {
            fused.push((format!("{layer}.experts.down_proj"), weight.clone()));
        } else if !name.contains("switch_mlp") {
            fused.push((name.clone(), weight.clone()));
        }
    }
    let write = |tensors: &Tensors| {
        let scratch = Scratch::new();
        std::fs::copy(dir.join("config.json"), scratch.0.join("config.json")).unwrap();
        let sources: Vec<Source> = tensors.iter().map(|(name, array)| Source::held(name.clone(), array)).collect();
        write_safetensors(&scratch.0.join("model.safetensors"), &sources.iter().collect::<Vec<_>>()).unwrap();
        scratch
    };
    for (form, tensors) in [("stacked", &stacked), ("fused", &fused)] {
        let again = load_f32(&write(tensors).0).unwrap();
        for ((name, a), (_, b)) in parameters.iter().zip(again.parameters()) {
            assert_eq!(a.to_bytes().unwrap(), b.to_bytes().unwrap(), "{form}: {name}");
        }
    }

    let refused = |change: &dyn Fn(&mut Tensors), wanted: &str| {
        let mut tensors = stacked.clone();
        change(&mut tensors);
        let error = load_f32(&write(&tensors).0).err().unwrap().to_string();
        assert!(error.contains(wanted), "{error}");
    };
    let at = stacked.iter().position(|(name, _)| name.ends_with("switch_mlp.up_proj.weight")).unwrap();
    let one = |tensors: &Tensors, expert: i32| {
        let array = tensors[at].1.slice_axis(0, expert, expert + 1).unwrap().squeeze(&[0]).unwrap();
        (experts::expert_name(&stacked[at].0, expert), array)
    };
    refused(&|tensors| tensors.push(one(tensors, 2)), "in another form");
    refused(
        &|tensors| tensors[at] = one(tensors, 0),
        "3 weights are missing, the first is 'model.layers.3.mlp.experts.1.up_proj",
    );
    refused(
        &|tensors| {
            let (name, array) = one(tensors, 0);
            tensors.push((name.replace("experts.0.", "experts.4."), array));
        },
        "experts.4.up_proj.weight' is in another file too, or there in another form",
    );
}

#[test]
fn progress_counts_bytes_and_can_stop() {
    let dir = golden_path("models/qwen3");
    let mut seen = Vec::new();
    load(&dir, &LoadOptions::default(), &mut |loaded, total| {
        seen.push((loaded, total));
        Ok(())
    })
    .unwrap();
    assert_eq!(seen.first().unwrap().0, 0);
    assert_eq!(*seen.last().unwrap(), (30784 * 4, 30784 * 4));
    assert!(seen.is_sorted());
    let stopped = load(&dir, &LoadOptions::default(), &mut |loaded, _| if loaded > 0 { Err(Error::Cancelled) } else { Ok(()) });
    assert!(matches!(stopped, Err(Error::Cancelled)));
}
