//! The state of optimizers: saved and restored, refused where it does not fit, evaluated, in half precision.

use std::collections::HashMap;

use serde_json::json;

use super::tests::{names, optimizer, rules, run, same, start, state_of, vector};
use super::*;
use crate::mlx::{Array, Dtype, eval, memory, ops};
use crate::testing::on_gpu;

fn trainers(options: AdamWOptions) -> Optimizer {
    options.optimizer().unwrap()
}

#[test]
fn a_restored_optimizer_goes_on_bit_for_bit() {
    for dtype in [Dtype::Float32, Dtype::Bfloat16] {
        let (_, params, targets) = start(dtype);
        for (name, options) in rules() {
            let what = format!("{name} {options} {}", dtype.name());
            let want = run(&mut optimizer(name, &options), params.clone(), &targets, 7);
            let mut first = optimizer(name, &options);
            let middle = run(&mut first, params.clone(), &targets, 3);
            let state = state_of(&first);
            assert!(state.values().all(|array| array.dtype() == dtype), "{what}");

            let mut second = optimizer(name, &options);
            second.init(0, &names(&["w", "b"]), &params).unwrap();
            second.load_state(first.step(), &state).unwrap();
            assert_eq!(second.step(), 3);
            same(&run(&mut second, middle, &targets, 4), &want, &what);
            assert!(want.iter().all(|array| array.dtype() == dtype), "{what}");
        }
    }
}

#[test]
fn a_state_that_does_not_fit_is_refused_and_changes_nothing() {
    let (w_b, params, targets) = start(Dtype::Float32);
    for (name, options) in rules() {
        let mut saved = optimizer(name, &options);
        run(&mut saved, params.clone(), &targets, 2);
        let good = state_of(&saved);
        let mut fresh = optimizer(name, &options);
        fresh.init(0, &w_b, &params).unwrap();
        let mut refuse = |state: &HashMap<String, Array>, code: &str, want: &str| {
            let before = state_of(&fresh);
            let error = fresh.load_state(2, state).unwrap_err();
            assert_eq!((error.code(), error.to_string().contains(want)), (code, true), "{name}: {error}");
            assert_eq!(fresh.step(), 0);
            for (name, array) in state_of(&fresh) {
                assert_eq!(array.to_bytes().unwrap(), before[&name].to_bytes().unwrap());
            }
        };
        let mut extra = good.clone();
        extra.insert("other.m".into(), vector(&[1.]));
        refuse(&extra, "ERR_MLX_ARGUMENT", "'other.m' does not");
        // The last slot, so that all others have passed before it.
        if let Some((last, _)) = saved.state().pop() {
            let mut missing = good.clone();
            missing.remove(&last);
            refuse(&missing, "ERR_MLX_ARGUMENT", &format!("has no '{last}'"));
            let mut shape = good.clone();
            shape.insert(last.clone(), vector(&[1.]));
            refuse(&shape, "ERR_MLX_SHAPE", &last);
            let mut dtype = good.clone();
            dtype.insert(last.clone(), good[&last].astype(Dtype::Float16).unwrap());
            refuse(&dtype, "ERR_MLX_DTYPE", "is float16; it must be float32");
        }
    }
}

#[test]
fn a_schedule_drives_the_learning_rate_and_survives_a_restart() {
    let options = json!({ "learningRate": { "type": "linear_schedule", "init": 1, "end": 0, "steps": 4 } });
    let w = names(&["w"]);
    let (zero, one) = ([vector(&[0.])], [vector(&[1.])]);
    let mut first = optimizer("SGD", &options);
    assert_eq!(first.learning_rate(), Some(1.0));
    let step = |optimizer: &mut Optimizer| optimizer.update(&w, &zero, &one).unwrap()[0].item().unwrap();
    assert_eq!([step(&mut first), step(&mut first)], [-1.0, -0.75]);
    let mut second = optimizer("SGD", &options);
    second.load_state(2, &HashMap::new()).unwrap();
    assert_eq!(second.learning_rate(), Some(0.75));
    assert_eq!([step(&mut second), step(&mut first)], [-0.5, -0.5]);
    second.set_learning_rate(2.0).unwrap();
    assert_eq!(step(&mut second), -2.0);

    // A schedule that leaves the numbers stops before it spoils the weights.
    let grows = json!({ "learningRate": { "type": "exponential_decay", "init": 1e300, "decayRate": 1e10 } });
    let mut grown = optimizer("SGD", &grows);
    grown.update(&w, &zero, &one).unwrap();
    assert!(grown.update(&w, &zero, &one).unwrap_err().to_string().contains("the learning rate of step 1 is inf"));
    assert_eq!(grown.step(), 1);
}

#[test]
fn parameters_may_come_later_and_rest() {
    let options = json!({ "learningRate": 0.1, "momentum": 0.5 });
    let mut optimizer = optimizer("SGD", &options);
    let (a, b) = (names(&["a"]), names(&["a", "b"]));
    let one = || vector(&[1.]);
    optimizer.update(&a, &[one()], &[one()]).unwrap();
    let both = optimizer.update(&b, &[one(), one()], &[one(), one()]).unwrap();
    // Momentum 1 + 0.5 for the first, 1 for the second.
    assert_eq!([both[0].item().unwrap(), both[1].item().unwrap()], [0.85, 0.9]);
    optimizer.update(&a, &[one()], &[one()]).unwrap();
    let state = state_of(&optimizer);
    assert_eq!([state["a.v"].item().unwrap(), state["b.v"].item().unwrap()], [1.75, 1.0]);
}

/// Bytes that 25 steps with new 4 MB gradients leave behind.
fn left_behind(name: &str, options: &serde_json::Value, evaluate: bool) -> usize {
    let w = names(&["w"]);
    let mut optimizer = optimizer(name, options);
    let mut params = vec![ops::ones(&[128, 8192], Dtype::Float32).unwrap()];
    let mut early = 0;
    for step in 0..35 {
        let gradient = ops::full(&[128, 8192], 1.0, Dtype::Float32).unwrap().add_scalar(step as f32).unwrap();
        gradient.eval().unwrap();
        params = optimizer.update(&w, &params, &[gradient]).unwrap();
        if evaluate {
            eval(&params.iter().cloned().chain(optimizer.state_arrays()).collect::<Vec<_>>()).unwrap();
        }
        if step == 9 {
            early = memory::stats().unwrap().active;
        }
    }
    memory::stats().unwrap().active.saturating_sub(early)
}

#[test]
fn updates_do_not_grow_the_graph() {
    if on_gpu() {
        // Its allocator counts work space of operations under way.
        return;
    }
    // A graph that is not evaluated holds the gradients of all its steps, 100 MB; half of that is for tests beside this one.
    let limit = 50 << 20;
    assert!(left_behind("SGD", &json!({ "learningRate": 0.1, "momentum": 0.5 }), false) > limit);
    for (name, options) in rules() {
        let left = left_behind(name, &options, true);
        assert!(left < limit, "{name} {options}: {left} bytes");
    }
}

#[test]
fn small_steps_of_half_precision_weights_add_up() {
    let w = names(&["w"]);
    let one = || vec![vector(&[1.0]).astype(Dtype::Bfloat16).unwrap()];
    let steps = |optimizer: &mut Optimizer| {
        let mut weight = one();
        for _ in 0..100 {
            weight = optimizer.update(&w, &weight, &one()).unwrap();
            eval(&optimizer.state_arrays()).unwrap();
        }
        assert_eq!(weight[0].dtype(), Dtype::Bfloat16);
        weight[0].item().unwrap()
    };
    // A constant gradient moves the weight by lr a step; bfloat16 near 1 rounds to multiples of 1/256.
    let mut optimizer = trainers(AdamWOptions { lr: 1e-4, ..Default::default() });
    assert!((steps(&mut optimizer) - 0.99).abs() < 1.0 / 256.0);
    let state = state_of(&optimizer);
    assert!((state["w.master"].item().unwrap() - 0.99).abs() < 1e-5);
    assert!(state.values().all(|array| array.dtype() == Dtype::Float32));
    // MLX's way: the state is in the weight's dtype, and such steps are lost.
    let options = json!({ "learningRate": 1e-4, "weightDecay": 0, "biasCorrection": true });
    assert_eq!(steps(&mut self::optimizer("AdamW", &options)), 1.0);
}

#[test]
fn the_trainers_optimizer_resumes_bit_for_bit() {
    let options = AdamWOptions { lr: 0.1, weight_decay: 0.1, ..Default::default() };
    for dtype in [Dtype::Float32, Dtype::Bfloat16] {
        let (w_b, params, targets) = start(dtype);
        let want = run(&mut trainers(options), params.clone(), &targets, 6);
        let mut first = trainers(options);
        let middle = run(&mut first, params.clone(), &targets, 3);
        let mut second = trainers(options);
        second.init(0, &w_b, &params).unwrap();
        let state = state_of(&first);
        second.load_state(3, &state).unwrap();
        same(&run(&mut second, middle, &targets, 3), &want, dtype.name());
        if dtype == Dtype::Bfloat16 {
            let mut missing = state;
            missing.remove("b.master").unwrap();
            assert!(second.load_state(3, &missing).unwrap_err().to_string().contains("has no 'b.master'"));
        }
    }
}
