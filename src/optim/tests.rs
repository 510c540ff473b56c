//! Against torch's and transformers' numbers.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::*;
use crate::mlx::{Array, Dtype, eval, ops, random};
use crate::testing::{self, assert_close};

fn golden() -> (Value, HashMap<String, Array>) {
    let tensors = testing::load_tensors(testing::golden_path("optim/tensors.safetensors"));
    let file = testing::cases("optim");
    assert_eq!(file["cases"].as_array().unwrap().len(), 56);
    (file, tensors)
}

fn select<'a>(file: &'a Value, kind: &str) -> Vec<&'a Value> {
    file["cases"].as_array().unwrap().iter().filter(|case| case["kind"] == kind).collect()
}

fn tolerance(case: &Value) -> (f64, f64) {
    (case["tolerance"]["atol"].as_f64().unwrap(), case["tolerance"]["rtol"].as_f64().unwrap())
}

fn check_number(got: f64, want: &Value, case: &Value, what: &str) {
    let ((atol, rtol), want) = (tolerance(case), want.as_f64().unwrap());
    assert!((got - want).abs() <= atol + rtol * want.abs(), "{} {what}: {got} should be {want}", case["name"]);
}

#[test]
fn adamw_agrees_with_torch() {
    let (file, tensors) = golden();
    let mut count = 0;
    for case in select(&file, "torch") {
        let (options, name) = (&case["options"], case["name"].as_str().unwrap());
        let args = &options["args"];
        // Adam without weight decay is AdamW without; with it, Adam adds it to the gradient, and amsgrad keeps a maximum.
        let plain_adam = options["optimizer"] == "Adam" && args.get("weight_decay").is_none();
        if !(options["optimizer"] == "AdamW" || plain_adam) || args.get("amsgrad").is_some() {
            continue;
        }
        count += 1;
        let number = |key: &str| args.get(key).map(|value| value.as_f64().unwrap());
        let betas = args.get("betas").cloned().unwrap_or(json!([0.9, 0.999]));
        let decay = number("weight_decay").or(number("weight_decay_w")).unwrap_or(if plain_adam { 0.0 } else { 0.01 });
        let lr = number("lr").unwrap();
        let adamw = AdamWOptions {
            lr,
            beta1: betas[0].as_f64().unwrap(),
            beta2: betas[1].as_f64().unwrap(),
            eps: number("eps").unwrap_or(1e-8),
            weight_decay: decay,
        };
        let schedule = options.get("schedule").map(|kind| {
            let settings =
                json!({ "lrSchedulerType": kind, "learningRate": lr, "warmupSteps": options["warmup_steps"], "maxSteps": 10 });
            Schedule::from_json(settings).unwrap()
        });
        let tensor = |group: &str, key: &str| tensors[case[group][key]["tensor"].as_str().unwrap()].clone();
        let mut params = vec![tensor("inputs", "w0"), tensor("inputs", "b0")];
        let names = ["w", "b"].map(String::from).into_iter();
        let decays_b = number("weight_decay_b") != Some(0.0);
        let shapes =
            names.zip(&params).zip([true, decays_b]).map(|((name, array), decays)| (name, array.shape().to_vec(), decays));
        let mut optimizer = AdamW::new(adamw, shapes).unwrap();

        let (atol, rtol) = tolerance(case);
        for step in 0..10 {
            let row = |array: Array| array.slice_axis(0, step, step + 1).unwrap().squeeze(&[0]).unwrap();
            let grads = [row(tensor("inputs", "grads_w")), row(tensor("inputs", "grads_b"))];
            params = match &schedule {
                Some(schedule) => {
                    let rate = schedule.lr(step as u64);
                    check_number(rate, &case["expected"]["lr"][step as usize], case, "lr");
                    optimizer.set_lr(rate);
                    let norm = global_norm(&grads).unwrap();
                    check_number(norm.item().unwrap().into(), &case["expected"]["grad_norm"][step as usize], case, "norm");
                    let scale = clip_coefficient(&norm, options["max_grad_norm"].as_f64().unwrap()).unwrap();
                    optimizer.update_scaled(&params, &grads, &scale).unwrap()
                }
                None => optimizer.update(&params, &grads).unwrap(),
            };
            for (got, key) in params.iter().zip(["w", "b"]) {
                let want = row(tensor("expected", key));
                assert_close(got, &want, atol as f32, rtol as f32, &format!("{name} {key} after step {step}"));
            }
        }
        assert_eq!(optimizer.step(), 10);
    }
    // AdamW 0, 1, 2, Adam 4 and the two with a schedule.
    assert_eq!(count, 6);
}

#[test]
fn schedules_agree_with_transformers() {
    let (file, _) = golden();
    let known = ["linear", "cosine", "constant", "constant_with_warmup", "cosine_with_min_lr"];
    let mut count = 0;
    for case in select(&file, "schedule") {
        let options = &case["options"];
        if !known.contains(&options["lr_scheduler_type"].as_str().unwrap()) {
            continue;
        }
        count += 1;
        let mut settings = json!({
            "lrSchedulerType": options["lr_scheduler_type"], "learningRate": options["learning_rate"],
            "warmupSteps": options["warmup_steps"], "maxSteps": options["max_steps"],
        });
        for (theirs, ours) in [("num_cycles", "numCycles"), ("min_lr", "minLr"), ("min_lr_rate", "minLrRate")] {
            if let Some(value) = options["lr_scheduler_kwargs"].get(theirs) {
                settings[ours] = value.clone();
            }
        }
        let schedule = Schedule::from_json(settings).unwrap();
        let rates = case["expected"]["lr"].as_array().unwrap();
        assert_eq!(rates.len(), 21);
        rates
            .iter()
            .enumerate()
            .for_each(|(step, want)| check_number(schedule.lr(step as u64), want, case, &format!("step {step}")));
    }
    assert_eq!(count, 14);
}

#[test]
fn clipping_agrees_with_torch() {
    let (file, tensors) = golden();
    let cases = select(&file, "clip");
    assert_eq!(cases.len(), 3);
    for case in cases {
        let tensor = |group: &str, key: &str| tensors[case[group][key]["tensor"].as_str().unwrap()].clone();
        let max_norm = case["options"]["max_norm"].as_f64().unwrap();
        let (clipped, norm) = clip_by_global_norm(&[tensor("inputs", "a"), tensor("inputs", "b")], max_norm).unwrap();
        check_number(norm.item().unwrap().into(), &case["expected"]["norm"], case, "norm");
        let (atol, rtol) = tolerance(case);
        for (got, key) in clipped.iter().zip(["a", "b"]) {
            assert_close(got, &tensor("expected", key), atol as f32, rtol as f32, key);
        }
    }
}

fn vector(values: &[f32]) -> Array {
    Array::from_slice(values, &[values.len() as i32]).unwrap()
}

#[test]
fn clipping_by_value_and_norms_that_are_not_finite() {
    let clipped = clip_by_value(&[vector(&[-3., 0.5, 2.])], 1.0).unwrap();
    assert_eq!(clipped[0].to_f32().unwrap(), [-1., 0.5, 1.]);
    for bad in [f32::NAN, f32::INFINITY] {
        assert!(!global_norm(&[vector(&[1.]), vector(&[bad, 0.])]).unwrap().item().unwrap().is_finite());
    }
    assert_eq!(global_norm(&[vector(&[3., 0.]), vector(&[4.])]).unwrap().item().unwrap(), 5.0);
    assert!(clip_by_global_norm(&[vector(&[1.])], 0.0).is_err());
    assert!(clip_by_value(&[vector(&[1.])], f64::NAN).is_err());
}

fn one(options: AdamWOptions, size: i32) -> AdamW {
    AdamW::new(options, [("w".to_string(), vec![size], false)]).unwrap()
}

#[test]
fn small_steps_of_half_precision_weights_add_up() {
    let options = AdamWOptions { lr: 1e-4, ..Default::default() };
    let mut optimizer = one(options, 1);
    let mut weight = vec![vector(&[1.0]).astype(Dtype::Bfloat16).unwrap()];
    for _ in 0..100 {
        weight = optimizer.update(&weight, &[vector(&[1.0]).astype(Dtype::Bfloat16).unwrap()]).unwrap();
        eval(&optimizer.state_arrays()).unwrap();
    }
    // A constant gradient moves the weight by lr a step; bfloat16 near 1 rounds to multiples of 1/256.
    assert_eq!(weight[0].dtype(), Dtype::Bfloat16);
    assert!((weight[0].item().unwrap() - 0.99).abs() < 1.0 / 256.0);
    let state: HashMap<_, _> = optimizer.state().into_iter().collect();
    assert!((state["master.w"].item().unwrap() - 0.99).abs() < 1e-5);
}

#[test]
fn a_loaded_state_continues_as_if_nothing_had_happened() {
    let options = AdamWOptions { lr: 0.1, weight_decay: 0.1, ..Default::default() };
    let gradient = |step: i32| vector(&[1.0, -2.0, step as f32]);
    let run = |optimizer: &mut AdamW, weight: &Array, steps: std::ops::Range<i32>| {
        steps.fold(weight.clone(), |weight, step| optimizer.update(&[weight], &[gradient(step)]).unwrap().remove(0))
    };
    let start = vector(&[1., 2., 3.]);
    let want = run(&mut one(options, 3), &start, 0..6);

    let mut first = one(options, 3);
    let middle = run(&mut first, &start, 0..3);
    let state: HashMap<_, _> = first.state().into_iter().collect();
    let mut second = one(options, 3);
    second.load_state(first.step(), &state).unwrap();
    assert_eq!(run(&mut second, &middle, 3..6).to_f32().unwrap(), want.to_f32().unwrap());

    let mut other = one(options, 2);
    assert_eq!(other.load_state(3, &state).unwrap_err().code(), "ERR_MLX_SHAPE");
    assert!(one(options, 3).load_state(3, &HashMap::new()).unwrap_err().to_string().contains("no moments of 'w'"));
    let mut extra = state.clone();
    extra.insert("exp_avg.other".into(), start.clone());
    assert!(one(options, 3).load_state(3, &extra).unwrap_err().to_string().contains("3 arrays, of which 2"));
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    let mut optimizer = one(AdamWOptions::default(), 2);
    assert!(optimizer.update(&[], &[]).unwrap_err().to_string().contains("1 parameters"));
    let error = optimizer.update(&[vector(&[1., 2.])], &[vector(&[1.])]).unwrap_err();
    assert!(error.to_string().contains("'w' has shape [2]"), "{error}");
    let integers = Array::from_slice(&[1i32, 2], &[2]).unwrap();
    assert_eq!(optimizer.update(&[integers], &[vector(&[1., 2.])]).unwrap_err().code(), "ERR_MLX_DTYPE");
    assert_eq!(optimizer.step(), 0);
    assert!(AdamW::new(AdamWOptions { beta2: 1.0, ..Default::default() }, []).is_err());
    assert!(Schedule::from_json(json!({ "lrSchedulerType": "cosine_with_min_lr" })).is_err());
    assert!(Schedule::from_json(json!({ "minLr": 0.1 })).is_err());
    assert!(Schedule::from_json(json!({ "lrSchedulerType": "cosin" })).unwrap_err().to_string().contains("'cosine'"));
}

#[test]
fn weight_decay_is_for_matrices() {
    let want = &testing::cases("grpo_e2e/dapo")["cases"][0]["inputs"]["weight_decay_applies_to"];
    let want: Vec<&str> = want.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    let start = testing::load_tensors(testing::golden_path("grpo_e2e/dapo/start/model.safetensors"));
    let mut got: Vec<&str> =
        start.iter().filter(|(name, array)| decays(name, array.ndim())).map(|(name, _)| name.as_str()).collect();
    got.sort_unstable();
    assert_eq!(got, want);
    assert!(got.len() < start.len());
}

#[test]
#[ignore = "a measurement: cargo test update_rate -- --ignored --nocapture"]
fn update_rate() {
    let size = 1 << 23;
    let normal = |seed: u64| random::normal(0., 1., &[size], Dtype::Float32, &random::key(seed).unwrap()).unwrap();
    let gradient = normal(2);
    for fused in [true, false] {
        let mut optimizer = one(AdamWOptions { lr: 1e-3, ..Default::default() }, size);
        if !fused {
            optimizer = optimizer.without_fusion();
        }
        let mut weight = ops::zeros_like(&gradient).unwrap();
        let mut best = f64::INFINITY;
        for _ in 0..5 {
            eval(&[&weight, &gradient]).unwrap();
            let start = std::time::Instant::now();
            weight = optimizer.update(&[weight], std::slice::from_ref(&gradient)).unwrap().remove(0);
            let mut arrays = optimizer.state_arrays();
            arrays.push(weight.clone());
            eval(&arrays).unwrap();
            best = best.min(start.elapsed().as_secs_f64());
        }
        println!("fused {fused}: {:.1} ns per 1000 parameters", best / f64::from(size) * 1e12);
    }
}
