//! What every optimizer must do: converge, and hold its ground on bad input; groups, precision, clipping.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::*;
use crate::mlx::{Array, Dtype, eval, ops, random};
use crate::testing::{self, assert_close};

pub(super) fn vector(values: &[f32]) -> Array {
    Array::from_slice(values, &[values.len() as i32]).unwrap()
}

pub(super) fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| name.to_string()).collect()
}

pub(super) fn state_of(optimizer: &Optimizer) -> HashMap<String, Array> {
    optimizer.state().into_iter().collect()
}

/// Every rule with the options that give it the most state, at a learning rate that suits a small quadratic.
pub(super) fn rules() -> Vec<(&'static str, Value)> {
    vec![
        ("SGD", json!({ "learningRate": 0.1 })),
        ("SGD", json!({ "learningRate": 0.05, "momentum": 0.8, "dampening": 0.1, "dampenFirst": false })),
        ("SGD", json!({ "learningRate": 0.05, "momentum": 0.8, "nesterov": true, "weightDecay": 1e-4 })),
        ("Adam", json!({ "learningRate": 0.05 })),
        ("Adam", json!({ "learningRate": 0.05, "biasCorrection": true, "weightDecay": 1e-4 })),
        ("Adam", json!({ "learningRate": 0.05, "biasCorrection": true, "amsgrad": true })),
        ("AdamW", json!({ "learningRate": 0.05, "weightDecay": 1e-4, "biasCorrection": true })),
        ("Adamax", json!({ "learningRate": 0.05 })),
        ("RMSprop", json!({ "learningRate": 0.01 })),
        ("RMSprop", json!({ "learningRate": 0.005, "alpha": 0.9, "momentum": 0.3, "centered": true })),
        ("Adagrad", json!({ "learningRate": 0.5 })),
        ("AdaDelta", json!({ "learningRate": 10 })),
        ("Adafactor", json!({})),
        ("Adafactor", json!({ "learningRate": 0.05, "relativeStep": false, "scaleParameter": false, "beta1": 0.8 })),
        ("Lion", json!({ "learningRate": 0.01, "weightDecay": 1e-3 })),
        ("Muon", json!({ "learningRate": 0.02, "weightDecay": 1e-4 })),
    ]
}

fn group(name: &str, options: &Value) -> Value {
    json!({ "optimizer": name, "options": options })
}

pub(super) fn optimizer(name: &str, options: &Value) -> Optimizer {
    Optimizer::from_json(group(name, options)).unwrap()
}

/// A matrix and a vector, and the point that a quadratic pulls them to.
pub(super) fn start(dtype: Dtype) -> (Vec<String>, Vec<Array>, Vec<Array>) {
    let normal = |shape: &[i32], seed: u64| random::normal(0., 1., shape, Dtype::Float32, &random::key(seed).unwrap()).unwrap();
    let arrays = [normal(&[4, 3], 1), normal(&[5], 2), normal(&[4, 3], 3), normal(&[5], 4)];
    let mut arrays = arrays.iter().map(|array| array.astype(dtype).unwrap()).collect::<Vec<_>>();
    let targets = arrays.split_off(2);
    (names(&["w", "b"]), arrays, targets)
}

fn gradients(params: &[Array], targets: &[Array]) -> Vec<Array> {
    params.iter().zip(targets).map(|(param, target)| param.subtract(target).unwrap()).collect()
}

fn distance(params: &[Array], targets: &[Array]) -> f32 {
    global_norm(&gradients(params, targets)).unwrap().item().unwrap()
}

pub(super) fn run(optimizer: &mut Optimizer, mut params: Vec<Array>, targets: &[Array], steps: usize) -> Vec<Array> {
    let names = names(&["w", "b"]);
    for _ in 0..steps {
        params = optimizer.update(&names, &params, &gradients(&params, targets)).unwrap();
        eval(&params.iter().cloned().chain(optimizer.state_arrays()).collect::<Vec<_>>()).unwrap();
    }
    params
}

pub(super) fn same(got: &[Array], want: &[Array], what: &str) {
    for (got, want) in got.iter().zip(want) {
        assert_eq!(got.dtype(), want.dtype(), "{what}");
        assert_eq!(got.to_bytes().unwrap(), want.to_bytes().unwrap(), "{what}");
    }
}

#[test]
fn every_rule_converges_on_a_quadratic() {
    let (_, start, targets) = start(Dtype::Float32);
    let before = distance(&start, &targets);
    for (name, options) in rules() {
        let mut optimizer = optimizer(name, &options);
        let mut params = start.clone();
        // The slowest here is Adafactor, whose second moment forgets the large gradients of the beginning slowly.
        while distance(&params, &targets) > before / 10.0 {
            assert!(optimizer.step() < 3000, "{name} {options}: {before} became {}", distance(&params, &targets));
            params = run(&mut optimizer, params, &targets, 50);
        }
    }
}

#[test]
fn inputs_that_do_not_fit_are_refused_and_change_nothing() {
    let mut optimizer = optimizer("AdamW", &json!({ "learningRate": 0.1 }));
    let (w, weight) = (names(&["w"]), [vector(&[1., 2.])]);
    optimizer.init(0, &w, &weight).unwrap();
    let integers = Array::from_slice(&[1i32, 2], &[2]).unwrap();
    let half = weight[0].astype(Dtype::Float16).unwrap();
    let twice = names(&["w", "w"]);
    let pair = [weight[0].clone(), weight[0].clone()];
    type Case<'a> = (&'a [String], &'a [Array], &'a [Array], &'a str, &'a str);
    let table: [Case; 8] = [
        (&w, &[], &[], "ERR_MLX_ARGUMENT", "1 names, 0 parameters and 0 gradients"),
        (&w, &weight, &[], "ERR_MLX_ARGUMENT", "1 names, 1 parameters and 0 gradients"),
        (&w, &weight, &[vector(&[1.])], "ERR_MLX_SHAPE", "'w' has shape [2]; its gradient has [1]"),
        (&w, &[vector(&[1.])], &[vector(&[1.])], "ERR_MLX_SHAPE", "'w' has shape [2]; got [1]"),
        (&w, std::slice::from_ref(&integers), &weight, "ERR_MLX_DTYPE", "only floats can be trained"),
        (&w, &weight, std::slice::from_ref(&integers), "ERR_MLX_DTYPE", "the gradient of 'w' is int32"),
        (&w, std::slice::from_ref(&half), std::slice::from_ref(&half), "ERR_MLX_DTYPE", "'w' is float32; got float16"),
        (&twice, &pair, &pair, "ERR_MLX_ARGUMENT", "'w' is there twice"),
    ];
    for (names, params, grads, code, want) in table {
        let error = optimizer.update(names, params, grads).unwrap_err();
        assert_eq!((error.code(), error.to_string().contains(want)), (code, true), "{error}");
    }
    assert!(optimizer.init(1, &w, &weight).unwrap_err().to_string().contains("there is no group 1"));
    assert_eq!((optimizer.step(), optimizer.state().len()), (0, 2));
    assert_eq!(state_of(&optimizer)["w.m"].to_f32().unwrap(), [0., 0.]);
}

#[test]
fn options_outside_their_range_are_refused_by_name() {
    let table = [
        ("SGD", json!({}), "SGD: learningRate is missing"),
        ("SGD", json!({ "learningRate": -1 }), "learningRate is -1; it must be a finite number of at least 0"),
        ("SGD", json!({ "learningRate": "x" }), "learningRate is \"x\""),
        ("SGD", json!({ "learningRate": 1, "momentum": -1 }), "SGD: momentum is -1"),
        ("SGD", json!({ "learningRate": 1, "dampening": 2 }), "SGD: dampening is 2; it must be between 0 and 1"),
        ("SGD", json!({ "learningRate": 1, "nesterov": true }), "nesterov needs a momentum"),
        ("SGD", json!({ "learningRate": 1, "momentun": 1 }), "did you mean 'momentum'?"),
        ("SGD", json!({ "learningRate": 1, "momentum": null }), "SGD: momentum: invalid type: null"),
        ("Adam", json!({ "learningRate": 1, "betas": [0.9, 1] }), "Adam: betas[1] is 1; it must be at least 0 and below 1"),
        ("Adam", json!({ "learningRate": 1, "eps": -1 }), "Adam: eps is -1"),
        ("AdamW", json!({ "learningRate": 1, "weightDecay": -1 }), "AdamW: weightDecay is -1"),
        ("AdamW", json!({ "learningRate": 1, "betas": [-0.1, 0] }), "AdamW: betas[0] is -0.1"),
        ("Adamax", json!({ "learningRate": 1, "betas": [2, 0] }), "Adamax: betas[0] is 2"),
        ("RMSprop", json!({ "learningRate": 1, "eps": 0 }), "RMSprop: eps is 0; it must be a finite number above 0"),
        ("RMSprop", json!({ "learningRate": 1, "alpha": 1.5 }), "RMSprop: alpha is 1.5"),
        ("Adagrad", json!({ "learningRate": 1, "eps": 0 }), "Adagrad: eps is 0"),
        ("AdaDelta", json!({ "learningRate": 1, "rho": -1 }), "AdaDelta: rho is -1"),
        ("Adafactor", json!({ "relativeStep": false }), "without relativeStep learningRate is needed"),
        ("Adafactor", json!({ "eps": [1, -1] }), "Adafactor: eps[1] is -1"),
        ("Adafactor", json!({ "decayRate": 0.8 }), "Adafactor: decayRate is 0.8; it must be a finite number of at most 0"),
        ("Adafactor", json!({ "beta1": 1 }), "Adafactor: beta1 is 1"),
        ("Adafactor", json!({ "clipThreshold": 0 }), "Adafactor: clipThreshold is 0"),
        ("Lion", json!({ "learningRate": 1, "betas": [0.9, 1.1] }), "Lion: betas[1] is 1.1"),
        ("Muon", json!({ "learningRate": 1, "nsSteps": 0 }), "Muon: nsSteps is 0; it must lie between 1 and 100"),
        ("Muon", json!({ "learningRate": 1, "nsSteps": -1 }), "Muon: nsSteps: invalid value"),
        ("Adan", json!({}), "did you mean 'Adam'?"),
    ];
    for (name, options, want) in table {
        let error = Optimizer::from_json(group(name, &options)).unwrap_err();
        assert_eq!((error.code(), error.to_string().contains(want)), ("ERR_MLX_ARGUMENT", true), "{name} {options}: {error}");
    }
    let nan = AdamW { learning_rate: Some(Schedule::constant(0.1).unwrap()), eps: f64::NAN, ..Default::default() };
    assert!(Optimizer::new(nan).unwrap_err().to_string().contains("eps is NaN"));
    assert!(AdamWOptions { beta2: 1.0, ..Default::default() }.optimizer().is_err());
    assert!(Optimizer::from_json(json!([])).is_err());
    let scaled = json!({ "optimizer": "SGD", "options": { "learningRate": 1 }, "learningRateScale": -1 });
    assert!(Optimizer::from_json(scaled).unwrap_err().to_string().contains("learningRateScale is -1"));
}

#[test]
fn groups_have_their_own_rule_rate_and_decay() {
    // MLX's MultiOptimizer: Muon for the matrix, AdamW for the rest.
    let muon = json!({ "learningRate": 0.02 });
    let adamw = json!({ "learningRate": 0.05 });
    let (w_b, params, targets) = start(Dtype::Float32);
    let mut multi = Optimizer::from_json(json!([group("Muon", &muon), group("AdamW", &adamw)])).unwrap();
    multi.init(0, &w_b[..1], &params[..1]).unwrap();
    let got = run(&mut multi, params.clone(), &targets, 3);
    let mut keys: Vec<String> = multi.state().into_iter().map(|(name, _)| name).collect();
    keys.sort();
    assert_eq!(keys, ["b.m", "b.v", "w.v"]);
    same(&got[..1], &run(&mut optimizer("Muon", &muon), params.clone(), &targets, 3)[..1], "w");
    same(&got[1..], &run(&mut optimizer("AdamW", &adamw), params.clone(), &targets, 3)[1..], "b");
    assert!(multi.init(1, &w_b[..1], &params[..1]).unwrap_err().to_string().contains("in group 0 already"));

    // One gradient for all, so that the steps are the learning rates.
    let sgd =
        |rate: f64, scale: f64| json!({ "optimizer": "SGD", "options": { "learningRate": rate }, "learningRateScale": scale });
    let mut two = Optimizer::from_json(json!([sgd(0.5, 1.0), sgd(0.25, 0.5)])).unwrap();
    let (ones, zeros) = (vec![vector(&[1.]), vector(&[1.])], vec![vector(&[0.]), vector(&[0.])]);
    two.init(0, &w_b[..1], &zeros[..1]).unwrap();
    let steps = |two: &mut Optimizer| {
        let updated = two.update(&w_b, &zeros, &ones).unwrap();
        [updated[0].item().unwrap(), updated[1].item().unwrap()]
    };
    assert_eq!(steps(&mut two), [-0.5, -0.125]);
    assert_eq!(two.learning_rate(), Some(0.5));
    two.set_learning_rate(1.0).unwrap();
    assert_eq!(steps(&mut two), [-1.0, -0.5]);
    two.set_group_learning_rate(1, 4.0).unwrap();
    assert_eq!(steps(&mut two), [-1.0, -2.0]);
    assert!(two.set_learning_rate(f64::NAN).is_err() && two.set_group_learning_rate(2, 1.0).is_err());
    assert_eq!(two.learning_rate(), Some(1.0));

    // With a gradient of 0 only decay moves a weight.
    let decayed = |kind: &str| {
        let group = json!({
            "optimizer": "SGD", "options": { "learningRate": 1, "weightDecay": 0.5 }, "decayedParameters": kind,
        });
        let matrix = ops::ones(&[1, 1], Dtype::Float32).unwrap();
        let params = [matrix.clone(), vector(&[1.]), matrix];
        let grads = params.each_ref().map(|param| ops::zeros_like(param).unwrap());
        let names = names(&["linear.weight", "linear.bias", "norm.weight"]);
        let updated = Optimizer::from_json(group).unwrap().update(&names, &params, &grads).unwrap();
        updated.iter().map(|array| array.item().unwrap()).collect::<Vec<f32>>()
    };
    assert_eq!(decayed("all"), [0.5, 0.5, 0.5]);
    assert_eq!(decayed("matrices"), [0.5, 1.0, 1.0]);
}

#[test]
fn updates_can_be_built_on_several_threads() {
    let (_, params, targets) = start(Dtype::Float32);
    let want = run(&mut optimizer("AdamW", &json!({ "learningRate": 0.1 })), params.clone(), &targets, 5);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| run(&mut optimizer("AdamW", &json!({ "learningRate": 0.1 })), params.clone(), &targets, 5)))
            .collect();
        for thread in threads {
            same(&thread.join().unwrap(), &want, "another thread");
        }
    });
}

#[test]
fn float64_keeps_its_precision() {
    if crate::mlx::device() != "cpu" {
        return;
    }
    let w = names(&["w"]);
    let weight = [Array::from_slice(&[1.0f64], &[1]).unwrap()];
    let mut optimizer = optimizer("SGD", &json!({ "learningRate": 0.1 }));
    let updated = optimizer.update(&w, &weight, &weight).unwrap();
    assert_eq!(updated[0].to_vec::<f64>().unwrap(), [1.0 - 0.1]);
}

#[test]
fn the_fast_adam_agrees_with_single_operations() {
    let normal = |seed: u64| random::normal(0., 1., &[1000], Dtype::Float32, &random::key(seed).unwrap()).unwrap();
    let (weight, gradient) = (normal(1), normal(2));
    let constants = adam::Constant {
        step_size: 0.1.into(),
        root: 1.0.into(),
        kept: (1.0 - 0.1 * 0.5).into(),
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
    };
    let zero = ops::zeros_like(&weight).unwrap();
    let scale = Array::scalar(0.5);
    let inputs = constants.inputs([&weight, &gradient, &zero, &zero], Some(&scale)).unwrap();
    let want = adam::composed(&inputs).unwrap();
    let mut optimizer = optimizer("AdamW", &json!({ "learningRate": 0.1, "weightDecay": 0.5 }));
    let got = optimizer.update_scaled(&names(&["w"]), &[weight], &[gradient], Some(&scale)).unwrap();
    // Both round each operation; a fused multiply and add rounds once less.
    assert_close(&got[0], &want[0], 1e-6, 1e-6, "weight");
    let state = state_of(&optimizer);
    assert_close(&state["w.m"], &want[1], 1e-7, 1e-6, "m");
    assert_close(&state["w.v"], &want[2], 1e-9, 1e-6, "v");
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
    // 1e-8 of 60000 is a float16; 1e-8 itself is not.
    let large = vector(&[6e4, 0.]).astype(Dtype::Float16).unwrap();
    let (clipped, norm) = clip_by_global_norm(&[large], 6e-4).unwrap();
    assert_eq!((norm.item().unwrap().round(), clipped[0].dtype()), (60000.0, Dtype::Float16));
    assert_close(&clipped[0].astype(Dtype::Float32).unwrap(), &vector(&[6e-4, 0.]), 0.0, 1e-3, "float16");
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
#[ignore = "a measurement: cargo test --release update_rate -- --ignored --nocapture"]
fn update_rate() {
    let size = 1 << 23;
    let normal = |seed: u64| random::normal(0., 1., &[size], Dtype::Float32, &random::key(seed).unwrap()).unwrap();
    let gradient = [normal(2)];
    let w = names(&["w"]);
    for (name, options) in rules() {
        let mut optimizer = optimizer(name, &options);
        let mut weight = vec![ops::zeros_like(&gradient[0]).unwrap()];
        let mut best = f64::INFINITY;
        for _ in 0..5 {
            eval(&[&weight[0], &gradient[0]]).unwrap();
            let start = std::time::Instant::now();
            let updated = optimizer.update(&w, &weight, &gradient).unwrap();
            weight = updated;
            eval(&weight.iter().cloned().chain(optimizer.state_arrays()).collect::<Vec<_>>()).unwrap();
            best = best.min(start.elapsed().as_secs_f64());
        }
        println!("{name} {options}: {:.1} ns per 1000 parameters", best / f64::from(size) * 1e12);
    }
}
