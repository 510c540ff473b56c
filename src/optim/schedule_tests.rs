//! Schedules that the fixtures do not have, against numbers that MLX 0.32.4 and transformers 5.23.0 gave.

use serde_json::{Value, json};

use super::Schedule;

fn schedule(value: Value) -> Schedule {
    Schedule::from_json(value).unwrap()
}

fn refused(value: Value) -> String {
    let error = Schedule::from_json(value).unwrap_err();
    assert_eq!(error.code(), "ERR_MLX_ARGUMENT");
    error.to_string()
}

#[test]
fn schedules_agree_with_mlx() {
    let exponential = json!({ "type": "exponential_decay", "init": 0.1, "decayRate": 0.9 });
    let halving = json!({ "type": "exponential_decay", "init": 0.01, "decayRate": 0.5 });
    let step = json!({ "type": "step_decay", "init": 0.1, "decayRate": 0.9, "stepSize": 10 });
    let cosine = json!({ "type": "cosine_decay", "init": 0.1, "decaySteps": 20, "end": 0.01 });
    let to_zero = json!({ "type": "cosine_decay", "init": 0.1, "decaySteps": 20 });
    let linear = json!({ "type": "linear_schedule", "init": 0.02, "end": 0.1, "steps": 10 });
    let rise = json!({ "type": "linear_schedule", "init": 0, "end": 0.1, "steps": 10 });
    let join = json!({ "type": "join_schedules", "schedules": [rise, to_zero, halving], "boundaries": [10, 25] });
    let steps = [0, 1, 5, 9, 10, 11, 20, 24, 25, 27, 40];
    let table = [
        (
            exponential,
            [
                0.1,
                0.09,
                0.05904899,
                0.03874204,
                0.03486783,
                0.03138105,
                0.01215766,
                0.007976639,
                0.007178975,
                0.00581497,
                0.001478087,
            ],
        ),
        (step, [0.1, 0.1, 0.1, 0.1, 0.09, 0.09, 0.08099999, 0.08099999, 0.08099999, 0.08099999, 0.06560999]),
        (cosine, [0.1, 0.09944598, 0.08681981, 0.06203955, 0.055, 0.04796045, 0.01, 0.01, 0.01, 0.01, 0.01]),
        (linear, [0.02, 0.028, 0.06, 0.09200001, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]),
        (join, [0.0, 0.01, 0.05, 0.09, 0.1, 0.09938442, 0.05, 0.02061074, 0.01, 0.0025, 3.051758e-07]),
    ];
    for (options, want) in table {
        let schedule = schedule(options.clone());
        for (step, want) in steps.into_iter().zip(want) {
            let got: f64 = schedule.lr(step);
            // MLX computes in float32, a power with a few roundings more.
            assert!((got - want).abs() <= 2e-6 * want, "{options} step {step}: {got} should be {want}");
        }
    }
}

#[test]
fn schedules_agree_with_transformers_beyond_the_fixtures() {
    let table: [(&str, Value, &[f64]); 7] = [
        (
            "cosine_warmup_with_min_lr",
            json!({ "minLrRate": 0.1 }),
            &[
                0.0032,
                0.0064,
                0.0096,
                0.0128,
                0.016,
                0.01584266273,
                0.0153775273,
                0.01462492236,
                0.01361774037,
                0.0124,
                0.01102492236,
                0.009552604936,
                0.008047395064,
                0.006575077641,
                0.0052,
                0.003982259634,
                0.002975077641,
                0.002222472705,
                0.001757337275,
                0.0016,
                0.001757337275,
                0.002222472705,
                0.002975077641,
            ],
        ),
        (
            "cosine_warmup_with_min_lr",
            json!({ "minLr": 0.002, "warmupLrRate": 0.25 }),
            &[
                0.004,
                0.007,
                0.01,
                0.013,
                0.016,
                0.01584703321,
                0.0153948182,
                0.01466311896,
                0.01368391424,
                0.0125,
                0.01116311896,
                0.009731699243,
                0.008268300757,
                0.006836881039,
                0.0055,
                0.004316085755,
                0.003336881039,
                0.002605181797,
                0.002152966795,
                0.002,
                0.002152966795,
                0.002605181797,
                0.003336881039,
            ],
        ),
        (
            "warmup_stable_decay",
            json!({ "numDecaySteps": 6 }),
            &[
                0.0,
                0.0032,
                0.0064,
                0.0096,
                0.0128,
                0.016,
                0.016,
                0.016,
                0.016,
                0.016,
                0.016,
                0.016,
                0.016,
                0.016,
                0.016,
                0.01492820323,
                0.012,
                0.008,
                0.004,
                0.00107179677,
                0.0,
                0.0,
                0.0,
            ],
        ),
        (
            "warmup_stable_decay",
            json!({
                "numDecaySteps": 6, "numStableSteps": 4, "warmupType": "cosine", "decayType": "1-sqrt", "minLrRatio": 0.1,
            }),
            &[
                0.0016,
                0.002975077641,
                0.006575077641,
                0.01102492236,
                0.01462492236,
                0.016,
                0.016,
                0.016,
                0.016,
                0.016,
                0.01012122462,
                0.007686156124,
                0.005817662351,
                0.004242449235,
                0.00285465862,
                0.0016,
                0.0016,
                0.0016,
                0.0016,
                0.0016,
                0.0016,
                0.0016,
                0.0016,
            ],
        ),
        (
            "warmup_stable_decay",
            json!({ "numDecaySteps": 8, "warmupType": "1-sqrt", "decayType": "linear", "minLrRatio": 0.05 }),
            &[
                0.0008,
                0.002404706697,
                0.004226130628,
                0.006386675913,
                0.009202353348,
                0.016,
                0.016,
                0.016,
                0.016,
                0.016,
                0.016,
                0.016,
                0.016,
                0.0141,
                0.0122,
                0.0103,
                0.0084,
                0.0065,
                0.0046,
                0.0027,
                0.0008,
                0.0008,
                0.0008,
            ],
        ),
        (
            "inverse_sqrt",
            json!({ "timescale": 3 }),
            &[
                0.0,
                0.0032,
                0.0064,
                0.0096,
                0.0128,
                0.016,
                0.01385640646,
                0.01239354671,
                0.0113137085,
                0.01047445873,
                0.009797958971,
                0.009237604307,
                0.00876356092,
                0.008355727486,
                0.008,
                0.007686151383,
                0.007406560798,
                0.007155417528,
                0.00692820323,
                0.006721344403,
                0.006531972647,
                0.006357755314,
                0.006196773354,
            ],
        ),
        (
            "polynomial",
            json!({}),
            &[
                0.0, 0.0032, 0.0064, 0.0096, 0.0128, 0.016, 0.01493334, 0.01386668, 0.01280002, 0.01173336, 0.0106667,
                0.00960004, 0.00853338, 0.00746672, 0.00640006, 0.0053334, 0.00426674, 0.00320008, 0.00213342, 0.00106676, 1e-07,
                1e-07, 1e-07,
            ],
        ),
    ];
    for (kind, extra, want) in table {
        let mut options = json!({ "lrSchedulerType": kind, "learningRate": 0.016, "warmupSteps": 5, "maxSteps": 20 });
        options.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let schedule = schedule(options.clone());
        assert_eq!(want.len(), 23);
        for (step, &want) in want.iter().enumerate() {
            let got = schedule.lr(step as u64);
            // The numbers were written with ten digits.
            assert!((got - want).abs() <= 1e-12 + 1e-9 * want, "{options} step {step}: {got} should be {want}");
        }
    }
}

#[test]
fn a_number_is_a_constant_schedule_and_ends_are_kept() {
    assert_eq!(schedule(json!(0.25)).lr(u64::MAX), 0.25);
    for kind in ["linear", "cosine_with_restarts", "constant_with_warmup", "inverse_sqrt"] {
        // No steps at all, and a warmup as long as the training.
        for (warmup, max) in [(0, 0), (5, 5), (9, 5)] {
            let options = json!({ "lrSchedulerType": kind, "learningRate": 1, "warmupSteps": warmup, "maxSteps": max });
            let schedule = schedule(options);
            for step in [0, 4, 5, 8, 9, 10, u64::MAX] {
                assert!((0.0..=1.0).contains(&schedule.lr(step)), "{kind} {warmup} {max} {step}");
            }
        }
    }
    let linear = schedule(json!({ "learningRate": 1, "warmupSteps": 5, "maxSteps": 5 }));
    assert_eq!([4, 5, 6].map(|step| linear.lr(step)), [0.8, 0.0, 0.0]);
}

#[test]
fn impossible_schedules_are_refused() {
    let table = [
        (json!(-1), "learningRate is -1"),
        (json!("fast"), "a number or a schedule"),
        (json!({ "learningRate": -0.5 }), "learningRate is -0.5; it must be a finite number of at least 0"),
        (json!({ "warmupSteps": -1 }), "warmupSteps: invalid value: integer `-1`"),
        (json!({ "lrSchedulerType": "cosin" }), "'cosine'"),
        (json!({ "lrSchedulerType": "cosine_with_min_lr" }), "cosine_with_min_lr needs either minLr or minLrRate"),
        (json!({ "lrSchedulerType": "cosine_with_min_lr", "minLrRate": 1.5 }), "is 1.5; it must lie between 0 and 1"),
        (json!({ "minLr": 0.1 }), "minLr belongs to lrSchedulerType 'cosine_with_min_lr'"),
        (json!({ "power": 2 }), "power belongs to lrSchedulerType 'polynomial', not to 'linear'"),
        (json!({ "lrSchedulerType": "cosine", "numCycles": 0 }), "numCycles is 0"),
        (json!({ "lrSchedulerType": "polynomial", "lrEnd": 1 }), "lrEnd is 1; it must lie below the learningRate"),
        (json!({ "lrSchedulerType": "inverse_sqrt", "timescale": 0 }), "timescale is 0"),
        (json!({ "lrSchedulerType": "warmup_stable_decay" }), "needs numDecaySteps"),
        (json!({ "lrSchedulerType": "warmup_stable_decay", "numDecaySteps": 9, "maxSteps": 8 }), "do not fit into maxSteps"),
        (
            json!({ "type": "cosine" }),
            "unknown value 'cosine'; did you mean 'cosine_decay'? Known: exponential_decay, step_decay, cosine_decay",
        ),
        (json!({ "type": "cosine_decay", "init": 1, "decaySteps": 0 }), "decaySteps is 0; it must be at least 1"),
        (json!({ "type": "step_decay", "init": 1, "decayRate": -1, "stepSize": 1 }), "decayRate is -1"),
        (json!({ "type": "linear_schedule", "init": 1, "end": 0, "step": 1 }), "did you mean 'steps'?"),
        (json!({ "type": "join_schedules", "schedules": [1, 2], "boundaries": [] }), "2 schedules and 0 boundaries"),
        (json!({ "type": "join_schedules", "schedules": [1, 2, 3], "boundaries": [5, 5] }), "boundaries must rise"),
        (json!({ "type": "join_schedules", "schedules": [-1], "boundaries": [] }), "learningRate is -1"),
    ];
    for (options, want) in table {
        let message = refused(options.clone());
        assert!(message.contains(want), "{options}: {message}");
    }
    assert!(Schedule::constant(f64::NAN).is_err());
}
