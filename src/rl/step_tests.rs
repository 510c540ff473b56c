//! Training steps against recorded TRL runs: the same tokens and rewards give TRL's losses, gradients and weights.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::LossOptions;
use super::step::{GrpoBatch, PerToken, StepOptions, TextRow, TrainRow, Trainer};
use crate::mlx::{Array, Dtype, Error, ops};
use crate::models::{self, LoadOptions, LoraConfig, Model};
use crate::optim::AdamWOptions;
use crate::testing::{assert_close, cases, golden_path, load_tensors};

const RUNS: [&str; 8] = [
    "dapo",
    "grpo_kl",
    "dr_grpo_iterations2",
    "dapo_spg2_ga2",
    "grpo_spg4_ga2",
    "truncated_batch_entropy",
    "gspo_iterations2",
    "moe_dapo",
];

fn model(folder: &str) -> Model {
    models::load(&golden_path(folder), &LoadOptions { dtype: Some(Dtype::Float32), ..LoadOptions::default() }, &mut |_, _| Ok(()))
        .unwrap()
}

fn ids(value: &Value) -> Vec<i32> {
    value.as_array().unwrap().iter().map(|id| id.as_i64().unwrap() as i32).collect()
}

/// The options of `_compute_loss` among a run's options.
fn loss_options(options: &Value, num_items: f64) -> LossOptions {
    let mut chosen = Map::new();
    for (snake, camel) in [
        ("loss_type", "lossType"),
        ("beta", "beta"),
        ("epsilon", "epsilon"),
        ("epsilon_high", "epsilonHigh"),
        ("delta", "delta"),
        ("importance_sampling_level", "importanceSamplingLevel"),
        ("use_bias_correction_kl", "useBiasCorrectionKl"),
        ("top_entropy_quantile", "topEntropyQuantile"),
        ("entropy_coef", "entropyCoef"),
        ("max_completion_length", "maxCompletionLength"),
        ("gradient_accumulation_steps", "gradientAccumulationSteps"),
        ("steps_per_generation", "stepsPerGeneration"),
        ("router_aux_loss_coef", "routerAuxLossCoef"),
    ] {
        if options[snake].is_null() {
            continue;
        }
        chosen.insert(camel.into(), options[snake].clone());
    }
    chosen.insert("numItemsInBatch".into(), json!(num_items));
    LossOptions::from_json(Value::Object(chosen)).unwrap()
}

/// `[B, T]` cut to the lengths of the rows' completions.
fn rows_of(tensor: &Array, rows: &[TrainRow]) -> PerToken {
    let width = tensor.dim(1) as usize;
    let values = tensor.to_f32().unwrap();
    values.chunks(width).zip(rows).map(|(values, row)| values[..row.completion.len()].to_vec()).collect()
}

/// A recorded array by the model's name; transformers has one for each expert.
fn held(recorded: &HashMap<String, Array>, name: &str, experts: i32) -> Array {
    let find = |name: String| recorded.get(&name).unwrap_or_else(|| panic!("nothing is recorded for {name}")).clone();
    match name.split_once(".switch_mlp.") {
        None => find(name.to_string()),
        Some((layer, part)) => {
            let parts: Vec<Array> = (0..experts).map(|expert| find(format!("{layer}.experts.{expert}.{part}"))).collect();
            ops::stack(&parts, 0).unwrap()
        }
    }
}

/// The share of all weights within `atol`.
fn share_within(model: &Model, want: &HashMap<String, Array>, atol: f32) -> f64 {
    let (mut within, mut all) = (0, 0);
    for (name, got) in model.parameters() {
        let want = held(want, &name, got.dim(0));
        for (got, want) in got.to_f32().unwrap().iter().zip(want.to_f32().unwrap()) {
            within += usize::from((got - want).abs() <= atol);
            all += 1;
        }
    }
    within as f64 / all as f64
}

#[test]
fn recorded_runs_of_trl_are_reproduced() {
    for (variant, checkpoint_layers) in RUNS.map(|run| (run, false)).into_iter().chain([("moe_dapo", true)]) {
        let folder = format!("grpo_e2e/{variant}");
        let file = cases(&folder);
        let case = &file["cases"][0];
        let (options, expected, tolerance) = (&case["options"], &case["expected"], &case["tolerance"]);
        let number = |value: &Value| value.as_f64().unwrap();
        let micro_tensors = load_tensors(golden_path(&format!("{folder}/micro.safetensors")));
        let mut model = model(&format!("{folder}/start"));
        let beta = number(&options["beta"]);
        let step_options = StepOptions {
            optimizer: AdamWOptions { weight_decay: number(&options["weight_decay"]), ..Default::default() },
            max_grad_norm: number(&options["max_grad_norm"]) as f32,
            reference: beta > 0.,
            checkpoint_layers,
            ..Default::default()
        };
        let mut trainer = Trainer::new(&mut model, step_options).unwrap();
        let temperature = number(&options["temperature"]) as f32;
        let micro_batches = expected["micro_batches"].as_array().unwrap();
        let mut logged = 0.;
        for (index, micro) in micro_batches.iter().enumerate() {
            let what = format!("{variant} micro-batch {index}");
            let round = &case["inputs"]["generation_rounds"][micro["generation_round"].as_u64().unwrap() as usize];
            let rows: Vec<TrainRow> = ids(&micro["rows"])
                .iter()
                .map(|&row| TrainRow {
                    prompt: ids(&round["prompt_ids"][row as usize]),
                    completion: ids(&round["completion_ids"][row as usize]),
                })
                .collect();
            let recorded = |name: &str| micro_tensors.get(&format!("micro{index}/{name}"));
            let mask = rows_of(recorded("completion_mask").unwrap(), &rows);
            let mask: Vec<Vec<i32>> = mask.iter().map(|row| row.iter().map(|&counts| counts as i32).collect()).collect();
            let advantages = recorded("advantages").unwrap().to_f32().unwrap();

            let now = trainer.logprobs(&mut model, &rows, temperature, false, true).unwrap();
            let atol = number(&tolerance["logps"]["atol"]) as f32;
            let same = |got: &PerToken, name: &str| {
                for ((got, want), mask) in got.iter().zip(rows_of(recorded(name).unwrap(), &rows)).zip(&mask) {
                    for ((got, want), _) in got.iter().zip(want).zip(mask).filter(|(_, mask)| **mask != 0) {
                        assert!((got - want).abs() <= atol, "{what} {name}: {got} {want}");
                    }
                }
            };
            same(&now.logprobs, "per_token_logps");
            same(now.entropies.as_ref().unwrap(), "entropies");
            let reference = (beta > 0.).then(|| trainer.logprobs(&mut model, &rows, temperature, true, false).unwrap().logprobs);
            if let Some(reference) = &reference {
                same(reference, "ref_per_token_logps");
            }

            let batch = GrpoBatch {
                old_logprobs: recorded("old_per_token_logps").map(|tensor| rows_of(tensor, &rows)),
                reference_logprobs: reference,
                sampling_logprobs: None,
                completion_mask: Some(mask.clone()),
                advantages,
                rows,
            };
            let loss_options = loss_options(options, number(&round["num_items_in_batch"]));
            let step = trainer.grpo(&mut model, &batch, temperature, &loss_options).unwrap();
            let close = |got: f32, want: f64, rule: &Value, what: &str| {
                let bound = rule["atol"].as_f64().unwrap_or(0.) + rule["rtol"].as_f64().unwrap_or(0.) * want.abs();
                assert!((got as f64 - want).abs() <= bound, "{what}: {got}, TRL has {want} (bound {bound})");
            };
            close(step.loss, number(&micro["loss"]), &tolerance["loss"], &format!("{what} loss"));
            // The trainer logs the coefficient itself, once per optimizer step.
            for (name, want) in micro["metrics"].as_object().unwrap().iter().filter(|(name, _)| *name != "entropy_coef") {
                let got = step.metrics.iter().find(|(candidate, _)| candidate == name);
                let got = got.unwrap_or_else(|| panic!("{what}: no metric {name}")).1;
                // Metrics are averages of the log-probs and entropies checked above.
                close(got, number(want), &json!({"atol": 1e-4, "rtol": 1e-4}), &format!("{what} {name}"));
            }
            logged += step.loss as f64;

            let this = micro["optimizer_step"].as_u64().unwrap() as usize;
            let last = micro_batches.get(index + 1).is_none_or(|next| next["optimizer_step"].as_u64() != Some(this as u64));
            if !last {
                continue;
            }
            let want = &expected["optimizer_steps"][this];
            if this == 0 {
                let norm = number(&want["grad_norm"]);
                let clip = (number(&options["max_grad_norm"]) / (norm + 1e-6)).min(1.) as f32;
                let recorded = load_tensors(golden_path(&format!("{folder}/clipped_grads_step1.safetensors")));
                let rule = &tolerance["clipped_grads_step1"];
                for (name, gradient) in trainer.gradients().unwrap() {
                    let got = gradient.multiply_scalar(clip).unwrap();
                    let (atol, rtol) = (number(&rule["atol"]) as f32, number(&rule["rtol"]) as f32);
                    assert_close(&got, &held(&recorded, name, got.dim(0)), atol, rtol, &format!("{variant} gradient of {name}"));
                }
            }
            close(logged as f32, number(&want["logged_loss"]), &tolerance["loss"], &format!("{variant} step {this} loss"));
            logged = 0.;
            let done = trainer.step(&mut model, number(&want["learning_rate"])).unwrap();
            assert!(!done.skipped);
            close(done.grad_norm, number(&want["grad_norm"]), &tolerance["grad_norm"], &format!("{variant} step {this} norm"));
            for (after, name) in [(0, "weights_step1"), (2, "weights_step3")] {
                if this == after {
                    let recorded = load_tensors(golden_path(&format!("{folder}/{name}.safetensors")));
                    let rule = &tolerance[name];
                    let share = share_within(&model, &recorded, number(&rule["atol"]) as f32);
                    assert!(share >= number(&rule["share"]), "{variant} {name}: {share} of the weights agree");
                }
            }
        }
    }
}

fn rows() -> Vec<TrainRow> {
    vec![TrainRow { prompt: vec![3, 4, 5], completion: vec![6, 7, 8, 1] }, TrainRow { prompt: vec![9], completion: vec![2, 10] }]
}

fn batch() -> GrpoBatch {
    GrpoBatch { rows: rows(), advantages: vec![1., -0.5], ..Default::default() }
}

#[test]
fn supervised_steps_overfit_a_batch() {
    let mut model = model("models/qwen3");
    let mut trainer = Trainer::new(&mut model, StepOptions::default()).unwrap();
    let rows = vec![
        TextRow { ids: vec![3, 4, 5, 6, 7], mask: vec![false, false, true, true, true] },
        TextRow { ids: vec![9, 2, 10], mask: vec![false, true, true] },
    ];
    let mut losses = Vec::new();
    for _ in 0..60 {
        let step = trainer.supervised(&mut model, &rows, 5., 0.).unwrap();
        assert_eq!(step.tokens, 5);
        losses.push(step.loss);
        trainer.step(&mut model, 3e-3).unwrap();
    }
    assert!(losses[0] > 2. && losses[59] < 0.1, "{} {}", losses[0], losses[59]);
}

#[test]
fn micro_batches_add_up() {
    let options = LossOptions::from_json(json!({"lossType": "dapo", "numItemsInBatch": 6})).unwrap();
    let gathered = |parts: &[&[usize]]| {
        let mut model = model("models/qwen2");
        let mut trainer = Trainer::new(&mut model, StepOptions::default()).unwrap();
        for part in parts {
            let all = batch();
            let chosen = GrpoBatch {
                rows: part.iter().map(|&row| all.rows[row].clone()).collect(),
                advantages: part.iter().map(|&row| all.advantages[row]).collect(),
                ..Default::default()
            };
            trainer.grpo(&mut model, &chosen, 1., &options).unwrap();
        }
        trainer.gradients().unwrap().into_iter().map(|(name, array)| (name.to_string(), array.clone())).collect::<Vec<_>>()
    };
    for ((name, together), (_, apart)) in gathered(&[&[0, 1]]).iter().zip(gathered(&[&[0], &[1]])) {
        assert_close(&apart, together, 1e-6, 1e-4, name);
    }
}

#[test]
fn gradients_that_are_not_finite_change_nothing() {
    let mut model = model("models/qwen3");
    let mut trainer = Trainer::new(&mut model, StepOptions::default()).unwrap();
    let before = model.parameters();
    let poisoned = GrpoBatch { advantages: vec![f32::NAN, 1.], ..batch() };
    let options = LossOptions::default();
    trainer.grpo(&mut model, &poisoned, 1., &options).unwrap();
    let step = trainer.step(&mut model, 1e-2).unwrap();
    assert!(step.skipped && !step.grad_norm.is_finite());
    for ((name, before), (_, after)) in before.iter().zip(model.parameters()) {
        assert_eq!(before.to_f32().unwrap(), after.to_f32().unwrap(), "{name}");
    }
    // The next step is an ordinary first one.
    trainer.grpo(&mut model, &batch(), 1., &options).unwrap();
    assert!(!trainer.step(&mut model, 1e-2).unwrap().skipped);
}

#[test]
fn an_adapter_learns_alone_and_the_reference_stays() {
    let mut model = model("models/qwen3");
    model.apply_lora(LoraConfig { rank: 4, alpha: 8., ..Default::default() }).unwrap();
    let mut trainer = Trainer::new(&mut model, StepOptions { reference: true, ..Default::default() }).unwrap();
    let frozen = model.parameters();
    let start = trainer.logprobs(&mut model, &rows(), 1., false, false).unwrap().logprobs;
    for _ in 0..3 {
        trainer.grpo(&mut model, &batch(), 1., &LossOptions::default()).unwrap();
        trainer.step(&mut model, 1e-2).unwrap();
    }
    let trainable = model.trainable();
    for ((name, before), (_, after)) in frozen.iter().zip(model.parameters()) {
        let same = before.to_f32().unwrap() == after.to_f32().unwrap();
        assert_eq!(same, !trainable.contains(name), "{name}");
    }
    assert_eq!(trainer.logprobs(&mut model, &rows(), 1., true, false).unwrap().logprobs, start);
    assert_ne!(trainer.logprobs(&mut model, &rows(), 1., false, false).unwrap().logprobs, start);
}

#[test]
fn a_restored_optimizer_goes_on_as_if_never_stopped() {
    let options = || StepOptions { reference: true, ..Default::default() };
    let once = |trainer: &mut Trainer, model: &mut Model| {
        trainer.grpo(model, &batch(), 1., &LossOptions::default()).unwrap();
        trainer.step(model, 1e-3).unwrap();
    };
    let mut model = model("models/qwen3");
    let mut trainer = Trainer::new(&mut model, options()).unwrap();
    once(&mut trainer, &mut model);
    let weights = model.parameters();
    let state: HashMap<String, Array> = trainer.state().unwrap().into_iter().collect();
    once(&mut trainer, &mut model);

    let mut resumed_model = self::model("models/qwen3");
    let (names, arrays): (Vec<String>, Vec<Array>) = weights.into_iter().unzip();
    resumed_model.set(&names, &arrays).unwrap();
    let mut resumed = Trainer::new(&mut resumed_model, options()).unwrap();
    resumed.load_state(state.clone()).unwrap();
    once(&mut resumed, &mut resumed_model);
    for ((name, straight), (_, again)) in model.parameters().iter().zip(resumed_model.parameters()) {
        assert_eq!(straight.to_f32().unwrap(), again.to_f32().unwrap(), "{name}");
    }
    assert_eq!(
        trainer.logprobs(&mut model, &rows(), 1., true, false).unwrap().logprobs,
        resumed.logprobs(&mut resumed_model, &rows(), 1., true, false).unwrap().logprobs,
    );
    let mut cut = state;
    cut.remove("step");
    assert!(resumed.load_state(cut).is_err());
}

#[test]
fn bad_batches_are_typed_errors_and_leave_the_model_whole() {
    let mut model = model("models/qwen3");
    let vocabulary = model.net.config().vocab_size;
    let mut trainer = Trainer::new(&mut model, StepOptions::default()).unwrap();
    let before = trainer.logprobs(&mut model, &rows(), 1., false, false).unwrap().logprobs;
    let options = LossOptions::default();
    let row = |prompt: &[i32], completion: &[i32]| TrainRow { prompt: prompt.to_vec(), completion: completion.to_vec() };
    let bad = [
        (GrpoBatch::default(), "ERR_MLX_ARGUMENT"),
        (GrpoBatch { rows: vec![row(&[], &[1])], advantages: vec![1.], ..Default::default() }, "ERR_MLX_ARGUMENT"),
        (GrpoBatch { rows: vec![row(&[1], &[])], advantages: vec![1.], ..Default::default() }, "ERR_MLX_ARGUMENT"),
        (GrpoBatch { rows: vec![row(&[1], &[vocabulary])], advantages: vec![1.], ..Default::default() }, "ERR_MLX_ARGUMENT"),
        (GrpoBatch { advantages: vec![1.], ..batch() }, "ERR_MLX_SHAPE"),
        (GrpoBatch { old_logprobs: Some(vec![vec![0.; 4], vec![0.]]), ..batch() }, "ERR_MLX_SHAPE"),
    ];
    for (batch, code) in bad {
        assert_eq!(trainer.grpo(&mut model, &batch, 1., &options).err().unwrap().code(), code, "{batch:?}");
    }
    assert_eq!(trainer.grpo(&mut model, &batch(), 0., &options).err().unwrap().code(), "ERR_MLX_ARGUMENT");
    let needs_reference = LossOptions { beta: 0.1, ..Default::default() };
    assert_eq!(trainer.grpo(&mut model, &batch(), 1., &needs_reference).err().unwrap().code(), "ERR_MLX_ARGUMENT");
    assert!(matches!(trainer.step(&mut model, 1e-3), Err(Error::Argument(_))), "no gradients were gathered");
    assert_eq!(trainer.logprobs(&mut model, &rows(), 1., false, false).unwrap().logprobs, before);
    assert_eq!(ops::zeros(&[1], Dtype::Float32).unwrap().item().unwrap(), 0.);
}

#[test]
fn sharing_prompts_changes_nothing() {
    // Rows of three prompts of different lengths, shuffled, with completions of different lengths, one of them empty.
    let prompts = [vec![5, 9, 3, 7, 11, 2, 30], vec![8, 4, 6], vec![1, 1, 2, 3, 5, 8, 13, 21, 34, 55]];
    let order = [2, 0, 1, 0, 2, 1, 2, 0, 0, 2];
    let rows: Vec<TrainRow> = order
        .iter()
        .enumerate()
        .map(|(index, &prompt)| TrainRow {
            prompt: prompts[prompt].clone(),
            completion: (0..(index as i32 * 3) % 5).map(|column| (7 * index as i32 + 13 * column) % 60).collect(),
        })
        .collect();
    let batch = GrpoBatch {
        advantages: (0..rows.len()).map(|index| index as f32 / 3. - 1.4).collect(),
        reference_logprobs: Some(
            rows.iter().map(|row| row.completion.iter().map(|&id| -4. - id as f32 / 400.).collect()).collect(),
        ),
        rows,
        ..Default::default()
    };
    for (start, router_aux_loss_coef) in [("grpo_e2e/dapo/start", 0.), ("grpo_e2e/moe_dapo/start", 0.1)] {
        shared_prompts_change_nothing(start, &batch, router_aux_loss_coef);
    }
}

fn shared_prompts_change_nothing(start: &str, batch: &GrpoBatch, router_aux_loss_coef: f64) {
    let loss = json!({ "lossType": "grpo", "beta": 0.1, "routerAuxLossCoef": router_aux_loss_coef });
    let loss = LossOptions::from_json(loss).unwrap();
    let run = |checkpoint_layers: bool| {
        let mut model = model(start);
        // Nothing is shared where layers are computed again.
        let mut trainer = Trainer::new(&mut model, StepOptions { checkpoint_layers, ..Default::default() }).unwrap();
        let logprobs = trainer.logprobs(&mut model, &batch.rows, 0.9, false, false).unwrap().logprobs;
        let step = trainer.grpo(&mut model, batch, 0.9, &loss).unwrap();
        let gradients: Vec<Array> = trainer.gradients().unwrap().into_iter().map(|(_, gradient)| gradient.clone()).collect();
        (logprobs, step, gradients)
    };
    let (shared, whole) = (run(false), run(true));
    for (shared, whole) in shared.0.iter().flatten().zip(whole.0.iter().flatten()) {
        assert!((shared - whole).abs() < 1e-5, "log-prob {shared} {whole}");
    }
    assert_ne!(shared.0, whole.0, "equal bits: nothing was shared");
    let (loss, whole_loss) = (shared.1.loss, whole.1.loss);
    assert!((loss - whole_loss).abs() < 1e-5 * whole_loss.abs(), "loss {loss} {whole_loss}");
    for ((name, shared), (_, whole)) in shared.1.metrics.iter().zip(&whole.1.metrics) {
        assert!((shared - whole).abs() <= 1e-5 + 1e-5 * whole.abs(), "{name}: {shared} {whole}");
    }
    for (shared, whole) in shared.2.iter().zip(&whole.2) {
        let size = whole.to_f32().unwrap().iter().fold(1e-3f32, |most, value| most.max(value.abs()));
        // A weight of few tokens, or of terms that nearly cancel as a router's, has less to average rounding over.
        let bound = if router_aux_loss_coef == 0. { 1e-5 } else { 1e-4 };
        assert_close(shared, whole, bound * size, 0., "a gradient");
    }
}
