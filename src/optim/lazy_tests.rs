//! Step and learning rate as arrays: the same numbers as where they are known, and not frozen by a trace.

use serde_json::{Value, json};

use super::tests::{rules, start};
use super::*;
use crate::mlx::{Array, Dtype, compiled};
use crate::testing::assert_close;

fn schedules() -> Vec<Value> {
    let cosine = json!({ "type": "cosine_decay", "init": 0.1, "decaySteps": 20, "end": 0.01 });
    let warm = json!({ "type": "linear_schedule", "init": 0, "end": 0.1, "steps": 7 });
    let mut all = vec![
        json!(0.1),
        json!({ "type": "exponential_decay", "init": 0.1, "decayRate": 0.9 }),
        json!({ "type": "exponential_decay", "init": 0.1, "decayRate": 0 }),
        json!({ "type": "step_decay", "init": 0.1, "decayRate": 0.5, "stepSize": 7 }),
        json!({ "type": "join_schedules", "schedules": [warm.clone(), cosine.clone(), 0.02], "boundaries": [7, 27] }),
        cosine,
        warm,
    ];
    let transformers = [
        json!({ "lrSchedulerType": "constant" }),
        json!({ "lrSchedulerType": "constant_with_warmup" }),
        json!({ "lrSchedulerType": "linear" }),
        json!({ "lrSchedulerType": "cosine" }),
        json!({ "lrSchedulerType": "cosine_with_restarts", "numCycles": 3 }),
        json!({ "lrSchedulerType": "cosine_with_restarts", "numCycles": 7 }),
        json!({ "lrSchedulerType": "polynomial", "power": 2, "lrEnd": 1e-4 }),
        json!({ "lrSchedulerType": "inverse_sqrt" }),
        json!({ "lrSchedulerType": "cosine_with_min_lr", "minLr": 0.02 }),
        json!({ "lrSchedulerType": "cosine_warmup_with_min_lr", "minLrRate": 0.1, "warmupLrRate": 0.2 }),
        json!({ "lrSchedulerType": "cosine_warmup_with_min_lr", "minLrRate": 0.1 }),
        json!({ "lrSchedulerType": "warmup_stable_decay", "numDecaySteps": 11, "warmupType": "1-sqrt", "decayType": "1-sqrt" }),
        json!({ "lrSchedulerType": "warmup_stable_decay", "numDecaySteps": 11, "warmupType": "cosine", "minLrRatio": 0.1 }),
    ];
    for options in transformers {
        for warmup in [0, 6] {
            let mut options = options.clone();
            for (name, value) in [("learningRate", json!(0.1)), ("warmupSteps", json!(warmup)), ("maxSteps", json!(40))] {
                options[name] = value;
            }
            all.push(options);
        }
    }
    all
}

#[test]
fn schedules_of_an_array_agree_with_those_of_a_number() {
    let steps: Vec<u64> = (0..=45).collect();
    for json in schedules() {
        let schedule = Schedule::from_json(json.clone()).unwrap();
        // One trace for all steps: a frozen step would give 46 equal rates.
        let rate = schedule.clone();
        let traced = compiled(move |inputs| Ok(vec![rate.at(&Scalar::lazy(&inputs[0])).array(Dtype::Float32)?]), false).unwrap();
        for &step in &steps {
            let array = Array::from_slice(&[step], &[]).unwrap();
            let got = traced.call(&[array]).unwrap()[0].item().unwrap() as f64;
            let want = schedule.lr(step);
            // A few roundings in float32 of numbers up to the highest rate: 8 half-units of 0.1.
            assert!(
                (got - want).abs() <= 8.0 * 0.1 * f64::from(f32::EPSILON) / 2.0,
                "{json} step {step}: {got} should be {want}"
            );
        }
    }
}

/// Parameters and state after steps with fixed gradients.
fn run(plan: &Plan, params: &[Array], gradients: &[Array], lazy: bool) -> Vec<Array> {
    let mut weights = params.to_vec();
    let mut states: Vec<Vec<Array>> = (0..params.len()).map(|index| plan.zeros(index).unwrap()).collect();
    for step in 0..12u64 {
        let scalar = |step: u64| match lazy {
            true => Scalar::lazy(&Array::from_slice(&[step], &[]).unwrap()),
            false => Scalar::Known(step as f64),
        };
        let rates = plan.rates(&scalar(step)).unwrap();
        let members: Vec<Member> = (0..params.len())
            .map(|index| Member { index, weight: &weights[index], gradient: &gradients[index], state: &states[index] })
            .collect();
        let results = plan.step(&members, &scalar(step + 1), &rates, None).unwrap();
        (weights, states) = results.into_iter().unzip();
    }
    weights.into_iter().chain(states.into_iter().flatten()).collect()
}

#[test]
fn steps_with_arrays_agree_with_those_with_numbers() {
    let (names, params, gradients) = start(Dtype::Float32);
    for (name, mut options) in rules() {
        if let Some(rate) = options.get("learningRate").cloned() {
            options["learningRate"] = json!({ "type": "cosine_decay", "init": rate, "decaySteps": 20 });
        }
        let group = json!({ "optimizer": name, "options": options, "learningRateScale": 0.5, "decayedParameters": "matrices" });
        let mut plan = Plan::new(Group::list_from_json(group).unwrap()).unwrap();
        for (name, weight) in names.iter().zip(&params) {
            plan.add(0, name, weight).unwrap();
        }
        let (got, want) = (run(&plan, &params, &gradients, true), run(&plan, &params, &gradients, false));
        for (got, want) in got.iter().zip(&want) {
            // Rates and corrections are off by a few float32 roundings, 1e-7 each, of 12 steps.
            assert_close(got, want, 2e-6, 2e-6, &format!("{name} {options}"));
        }
    }
}

#[test]
fn corrections_keep_their_digits() {
    for (beta, step) in [(0.999, 1u64), (0.999, 2), (0.9999, 1), (0.9, 1), (0.0, 1), (0.999, 100_000)] {
        let array = Array::from_slice(&[step], &[]).unwrap();
        let got = Scalar::lazy(&array).correction_of(beta).array(Dtype::Float32).unwrap().item().unwrap() as f64;
        let want = 1.0 - beta.powf(step as f64);
        // 1 - 0.999f32 would be off by 1e-5 of itself.
        assert!((got - want).abs() <= 4e-7 * want, "{beta}^{step}: {got} should be {want}");
    }
}
