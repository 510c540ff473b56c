//! Against the numbers of torch, MLX and transformers: every case of the folder.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::*;
use crate::mlx::Array;
use crate::testing::{self, assert_close};

struct Golden {
    cases: Vec<Value>,
    tensors: HashMap<String, Array>,
}

impl Golden {
    fn new() -> Self {
        let cases = testing::cases("optim")["cases"].as_array().unwrap().clone();
        Golden { cases, tensors: testing::load_tensors(testing::golden_path("optim/tensors.safetensors")) }
    }

    fn tensor(&self, case: &Value, group: &str, key: &str) -> Array {
        self.tensors[case[group][key]["tensor"].as_str().unwrap()].clone()
    }
}

fn tolerance(case: &Value) -> (f64, f64) {
    (case["tolerance"]["atol"].as_f64().unwrap(), case["tolerance"]["rtol"].as_f64().unwrap())
}

fn check_number(got: f64, want: &Value, case: &Value, what: &str) {
    let ((atol, rtol), want) = (tolerance(case), want.as_f64().unwrap());
    assert!((got - want).abs() <= atol + rtol * want.abs(), "{} {what}: {got} should be {want}", case["name"]);
}

#[test]
fn every_case_agrees_with_its_peer() {
    let golden = Golden::new();
    let mut counts = HashMap::new();
    for case in &golden.cases {
        let kind = case["kind"].as_str().unwrap();
        match kind {
            "torch" | "mlx" => check_trajectory(&golden, case),
            "schedule" => check_schedule(case),
            "clip" => check_clip(&golden, case),
            other => panic!("{} is of the unknown kind {other}", case["name"]),
        }
        *counts.entry(kind).or_insert(0) += 1;
    }
    assert_eq!(counts, HashMap::from([("torch", 16), ("mlx", 17), ("schedule", 20), ("clip", 3)]));
}

fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap().to_string();
    words.fold(first, |name, word| name + &word[..1].to_uppercase() + &word[1..])
}

/// Our options for the peer's arguments; an argument that we do not have is refused as an unknown option.
fn options(case: &Value) -> Map<String, Value> {
    let mut options = Map::new();
    for (name, value) in case["options"]["args"].as_object().unwrap() {
        match name.as_str() {
            "lr" => options.insert("learningRate".into(), value.clone()),
            // Given per parameter, or left to the default.
            "weight_decay_w" | "weight_decay_b" => None,
            _ if value.is_null() => None,
            name => options.insert(camel_case(name), value.clone()),
        };
    }
    if case["kind"] == "torch" {
        let name = case["options"]["optimizer"].as_str().unwrap();
        match name {
            "Adam" | "AdamW" => options.insert("biasCorrection".into(), json!(true)),
            "SGD" => options.insert("dampenFirst".into(), json!(false)),
            "RMSprop" => None,
            other => panic!("torch's {other} has no counterpart"),
        };
    }
    options
}

/// The optimizer of a case, with one group for `w` and one for `b`.
fn optimizer(case: &Value, names: &[String], params: &[Array]) -> Optimizer {
    let settings = &case["options"];
    let groups: Vec<Value> = ["w", "b"]
        .iter()
        .map(|name| {
            let mut options = options(case);
            if let Some(decay) = settings["args"].get(format!("weight_decay_{name}")) {
                options.insert("weightDecay".into(), decay.clone());
            }
            if let Some(kind) = settings.get("schedule") {
                options["learningRate"] = json!({
                    "lrSchedulerType": kind, "learningRate": settings["args"]["lr"],
                    "warmupSteps": settings["warmup_steps"], "maxSteps": 10,
                });
            }
            json!({ "optimizer": settings["optimizer"], "options": options })
        })
        .collect();
    let mut optimizer = Optimizer::from_json(Value::Array(groups)).unwrap_or_else(|error| panic!("{}: {error}", case["name"]));
    for group in 0..2 {
        optimizer.init(group, &names[group..=group], &params[group..=group]).unwrap();
    }
    optimizer
}

fn check_trajectory(golden: &Golden, case: &Value) {
    let names = ["w", "b"].map(String::from);
    let mut params = ["w0", "b0"].map(|key| golden.tensor(case, "inputs", key)).to_vec();
    let gradients = ["grads_w", "grads_b"].map(|key| golden.tensor(case, "inputs", key));
    let mut optimizer = optimizer(case, &names, &params);
    let (atol, rtol) = tolerance(case);
    let row = |array: &Array, step: i32| array.slice_axis(0, step, step + 1).unwrap().squeeze(&[0]).unwrap();
    for step in 0..10 {
        let grads = gradients.each_ref().map(|gradients| row(gradients, step));
        let scale = case["options"].get("max_grad_norm").map(|limit| {
            let norm = global_norm(&grads).unwrap();
            check_number(norm.item().unwrap().into(), &case["expected"]["grad_norm"][step as usize], case, "norm");
            clip_coefficient(&norm, limit.as_f64().unwrap()).unwrap()
        });
        params = optimizer.update_scaled(&names, &params, &grads, scale.as_ref()).unwrap();
        if let Some(rates) = case["expected"].get("lr") {
            check_number(optimizer.learning_rate().unwrap(), &rates[step as usize], case, "lr");
        }
        for (got, key) in params.iter().zip(["w", "b"]) {
            let want = row(&golden.tensor(case, "expected", key), step);
            assert_close(got, &want, atol as f32, rtol as f32, &format!("{} {key} after step {step}", case["name"]));
        }
    }
    assert_eq!(optimizer.step(), 10);
}

fn check_schedule(case: &Value) {
    let options = &case["options"];
    let mut settings = json!({
        "lrSchedulerType": options["lr_scheduler_type"], "learningRate": options["learning_rate"],
        "warmupSteps": options["warmup_steps"], "maxSteps": options["max_steps"],
    });
    for (name, value) in options["lr_scheduler_kwargs"].as_object().unwrap() {
        settings[camel_case(name)] = value.clone();
    }
    let schedule = Schedule::from_json(settings).unwrap();
    let rates = case["expected"]["lr"].as_array().unwrap();
    assert_eq!(rates.len(), 21);
    for (step, want) in rates.iter().enumerate() {
        check_number(schedule.lr(step as u64), want, case, &format!("step {step}"));
    }
}

fn check_clip(golden: &Golden, case: &Value) {
    let max_norm = case["options"]["max_norm"].as_f64().unwrap();
    let gradients = ["a", "b"].map(|key| golden.tensor(case, "inputs", key));
    let (clipped, norm) = clip_by_global_norm(&gradients, max_norm).unwrap();
    check_number(norm.item().unwrap().into(), &case["expected"]["norm"], case, "norm");
    let (atol, rtol) = tolerance(case);
    for (got, key) in clipped.iter().zip(["a", "b"]) {
        assert_close(got, &golden.tensor(case, "expected", key), atol as f32, rtol as f32, key);
    }
}
