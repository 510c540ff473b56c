//! The GRPO loss against TRL's recorded numbers.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::ratios::{SamplerRatioOptions, importance_ratios, sampler_ratio};
use super::*;
use crate::mlx::{Array, Dtype};
use crate::testing::{self, assert_close};

struct Case<'a> {
    case: &'a Value,
    defaults: &'a Map<String, Value>,
    tensors: &'a HashMap<String, Array>,
}

impl Case<'_> {
    fn name(&self) -> &str {
        self.case["name"].as_str().unwrap()
    }

    fn tensor(&self, group: &str, name: &str) -> Option<Array> {
        let entry = self.case[group].get(name)?;
        Some(self.tensors[entry["tensor"].as_str().unwrap()].clone())
    }

    fn input(&self, name: &str) -> Array {
        self.tensor("inputs", name).unwrap_or_else(|| panic!("{} has no {name}", self.name()))
    }

    fn trl(&self, name: &str) -> &Value {
        self.case["options"]["trl"].get(name).unwrap_or_else(|| self.defaults.get(name).unwrap_or(&Value::Null))
    }

    fn tolerance(&self) -> (f32, f32) {
        let number = |name: &str| self.case["tolerance"][name].as_f64().unwrap() as f32;
        (number("atol"), number("rtol"))
    }

    fn check_number(&self, got: f64, want: &Value, what: &str) {
        let (atol, rtol) = self.tolerance();
        let want = number(want).unwrap_or_else(|| panic!("{}: {what} is {want}", self.name()));
        assert_close(&Array::scalar(got as f32), &Array::scalar(want as f32), atol, rtol, &format!("{} {what}", self.name()));
    }

    fn check_tensor(&self, got: &Array, name: &str) {
        let (atol, rtol) = self.tolerance();
        let want = self.tensor("expected", name).unwrap();
        assert_close(got, &want, atol, rtol, &format!("{} {name}", self.name()));
    }

    /// The same names and the same values, `entropy_coef` aside: it belongs to the controller.
    fn check_metrics(&self, got: &[(&'static str, Array)]) {
        let want = self.case["expected"]["metrics"].as_object().unwrap();
        let mut names: Vec<&str> = got.iter().map(|(name, _)| *name).collect();
        let mut expected: Vec<&str> = want.keys().map(String::as_str).filter(|name| *name != "entropy_coef").collect();
        names.sort_unstable();
        expected.sort_unstable();
        assert_eq!(names, expected, "{}", self.name());
        for (name, value) in got {
            assert_eq!(value.shape(), [0i32; 0], "{} {name} is a scalar", self.name());
            self.check_number(value.item().unwrap().into(), &want[*name], name);
        }
    }
}

fn number(value: &Value) -> Option<f64> {
    match value.as_str() {
        Some("NaN") => Some(f64::NAN),
        Some("Infinity") => Some(f64::INFINITY),
        _ => value.as_f64(),
    }
}

fn for_each_case(kind: &str, mut check: impl FnMut(&Case)) -> usize {
    let tensors = testing::load_tensors(testing::golden_path("grpo_loss/tensors.safetensors"));
    let file = testing::cases("grpo_loss");
    let defaults = file["defaults"].as_object().unwrap();
    let cases = file["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 257);
    let chosen: Vec<_> = cases.iter().filter(|case| case["kind"] == kind).collect();
    chosen.iter().for_each(|case| check(&Case { case, defaults, tensors: &tensors }));
    chosen.len()
}

fn loss_options(case: &Case) -> LossOptions {
    let mut options = Map::new();
    for (ours, theirs) in [
        ("lossType", "loss_type"),
        ("importanceSamplingLevel", "importance_sampling_level"),
        ("epsilon", "epsilon_low"),
        ("epsilonHigh", "epsilon_high"),
        ("delta", "delta"),
        ("beta", "beta"),
        ("useBiasCorrectionKl", "use_bias_correction_kl"),
        ("offPolicyMaskThreshold", "off_policy_mask_threshold"),
        ("topEntropyQuantile", "top_entropy_quantile"),
        ("entropyCoef", "entropy_coef"),
        ("useAdaptiveEntropy", "use_adaptive_entropy"),
        ("entropyCoefMin", "entropy_coef_min"),
        ("entropyCoefMax", "entropy_coef_max"),
        ("entropyCoefDelta", "entropy_coef_delta"),
        ("entropyTarget", "entropy_target"),
        ("sapoTemperatureNeg", "sapo_temperature_neg"),
        ("sapoTemperaturePos", "sapo_temperature_pos"),
        ("vespoKPos", "vespo_k_pos"),
        ("vespoLambdaPos", "vespo_lambda_pos"),
        ("vespoKNeg", "vespo_k_neg"),
        ("vespoLambdaNeg", "vespo_lambda_neg"),
        ("maxCompletionLength", "max_completion_length"),
        ("gradientAccumulationSteps", "current_gradient_accumulation_steps"),
        ("stepsPerGeneration", "steps_per_generation"),
        ("routerAuxLossCoef", "router_aux_loss_coef"),
    ] {
        options.insert(ours.into(), case.trl(theirs).clone());
    }
    options.insert("numItemsInBatch".into(), case.case["options"]["num_items_in_batch"].clone());
    options.insert("training".into(), case.case["options"]["training"].clone());
    if let Some(last) = case.trl("_last_world_entropy").as_f64() {
        options.insert("lastEntropy".into(), json!(last));
    }
    LossOptions::from_json(options.into()).unwrap()
}

#[test]
fn losses_gradients_and_metrics_agree_with_trl() {
    let (mut adaptive, mut entropy_gradients) = (0, 0);
    let count = for_each_case("loss", |case| {
        let options = loss_options(case);
        assert_eq!(options.has_entropy_bonus(), case.trl("_entropy_bonus_enabled") == true, "{}", case.name());
        let inputs = LossInputs {
            old_per_token_logps: case.tensor("inputs", "old_per_token_logps"),
            ref_per_token_logps: case.tensor("inputs", "ref_per_token_logps"),
            sampling_per_token_logps: case.tensor("inputs", "sampling_per_token_logps"),
            importance_sampling_ratio: case.tensor("inputs", "importance_sampling_ratio"),
            entropies: case.tensor("inputs", "entropies"),
            tool_mask: case.tensor("inputs", "tool_mask"),
            aux_loss: case.case["options"]["aux_loss"].as_f64().map(|loss| Array::scalar(loss as f32)),
            ..LossInputs::new(case.input("per_token_logps"), case.input("completion_mask"), case.input("advantages"))
        };
        let result = grpo_loss_and_grad(&inputs, &options).unwrap();
        case.check_number(result.output.loss.item().unwrap().into(), &case.case["expected"]["loss"], "loss");
        case.check_tensor(&result.grad_per_token_logps, "grad_per_token_logps");
        if case.case["expected"].get("grad_entropies").is_some() {
            case.check_tensor(result.grad_entropies.as_ref().unwrap(), "grad_entropies");
            entropy_gradients += 1;
        }
        case.check_metrics(&result.output.metrics);

        let mut controller = EntropyController::new(&options);
        if let Some((sum, tokens)) = &result.output.entropy_stats {
            controller.record(sum.item().unwrap().into(), tokens.item().unwrap().into());
        }
        if case.case["options"].get("sync_gradients") != Some(&json!(false)) {
            let coefficient = controller.end_step(&options);
            if let Some(want) = case.case["expected"]["metrics"].get("entropy_coef") {
                case.check_number(coefficient, want, "entropy_coef");
            }
        }
        if let Some(state) = case.case["expected"].get("state") {
            adaptive += 1;
            case.check_number(controller.coef(), &state["entropy_coef"], "state.entropy_coef");
            let last = controller.last_entropy().unwrap_or(f64::INFINITY);
            case.check_number(last, &state["last_world_entropy"], "state.last_world_entropy");
            match &state["entropy_window_stats"] {
                Value::Null => assert_eq!(controller.window(), None, "{}", case.name()),
                want => {
                    let (sum, tokens) = controller.window().unwrap();
                    case.check_number(sum, &want[0], "window sum");
                    case.check_number(tokens, &want[1], "window tokens");
                }
            }
        }
    });
    assert_eq!((count, adaptive, entropy_gradients), (245, 4, 23));
}

#[test]
fn sampler_ratios_agree_with_trl() {
    let count = for_each_case("sampler_ratio", |case| {
        let options = crate::options::from_json::<SamplerRatioOptions>(
            json!({
                "mode": case.trl("vllm_importance_sampling_mode"),
                "clipMin": case.trl("vllm_importance_sampling_clip_min"),
                "clipMax": case.trl("vllm_importance_sampling_clip_max"),
            }),
            "sampler ratio",
        )
        .unwrap();
        let (old, sampling) = (case.input("old_per_token_logps"), case.input("sampling_per_token_logps"));
        let (ratio, metrics) = sampler_ratio(&old, &sampling, &case.input("completion_mask"), &options).unwrap();
        case.check_tensor(&ratio, "importance_sampling_ratio");
        case.check_metrics(&metrics);
    });
    assert_eq!(count, 12);
}

fn matrix(values: &[f32], columns: i32) -> Array {
    Array::from_slice(values, &[values.len() as i32 / columns, columns]).unwrap()
}

#[test]
fn nothing_at_masked_positions_reaches_the_gradient() {
    let poison = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1e30];
    for loss_type in ["grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"] {
        for level in ["token", "sequence"] {
            let options = LossOptions::from_json(json!({
                "lossType": loss_type, "importanceSamplingLevel": level, "beta": 0.1, "delta": 1.5, "entropyCoef": 0.1,
                "topEntropyQuantile": 0.5, "offPolicyMaskThreshold": 0.5, "maxCompletionLength": 4,
            }))
            .unwrap();
            let run = |fill: f32| {
                let with = |a: f32, b: f32| matrix(&[a, b, fill, fill, b, a, a, fill], 4);
                let inputs = LossInputs {
                    old_per_token_logps: Some(with(-1.1, -0.7)),
                    ref_per_token_logps: Some(with(-1.3, -0.9)),
                    sampling_per_token_logps: Some(with(-1.2, -0.8)),
                    importance_sampling_ratio: Some(with(0.9, 1.1)),
                    entropies: Some(with(0.3, 0.4)),
                    ..LossInputs::new(
                        with(-1.0, -0.8),
                        matrix(&[1., 1., 0., 0., 1., 1., 1., 0.], 4).astype(Dtype::Int32).unwrap(),
                        Array::from_slice(&[0.7f32, -1.2], &[2]).unwrap(),
                    )
                };
                let result = grpo_loss_and_grad(&inputs, &options).unwrap();
                let mut numbers = vec![result.output.loss.item().unwrap()];
                numbers.extend(result.grad_per_token_logps.to_f32().unwrap());
                numbers.extend(result.grad_entropies.unwrap().to_f32().unwrap());
                numbers.extend(result.output.metrics.iter().map(|(_, value)| value.item().unwrap()));
                numbers
            };
            let want = run(0.0);
            assert!(want.iter().all(|value| value.is_finite()), "{loss_type} {level}: {want:?}");
            for fill in poison {
                assert_eq!(run(fill), want, "{loss_type} {level} with {fill} in the padding");
            }
        }
    }
}

#[test]
fn an_exploded_ratio_leaves_finite_gradients() {
    let mut inputs = LossInputs::new(matrix(&[-1., -200.], 2), matrix(&[1., 1.], 2), Array::from_slice(&[1f32], &[1]).unwrap());
    inputs.old_per_token_logps = Some(matrix(&[-300., -1.], 2));
    let result = grpo_loss_and_grad(&inputs, &LossOptions::default()).unwrap();
    assert_eq!(result.grad_per_token_logps.to_f32().unwrap(), [0.0, 0.0]);
    assert_eq!(result.output.loss.item().unwrap(), -0.6);
}

#[test]
fn without_a_count_every_micro_batch_is_its_own_mean() {
    let inputs = LossInputs::new(
        matrix(&[-1., -2., -3., -4.], 2),
        matrix(&[1., 1., 1., 0.], 2),
        Array::from_slice(&[1f32, -1.], &[2]).unwrap(),
    );
    let options = LossOptions { gradient_accumulation_steps: 2, ..Default::default() };
    // Ratios are 1: (-1 - 1 + 1) / 3 tokens / 2 steps.
    assert_close(&grpo_loss(&inputs, &options).unwrap().loss, &Array::scalar(-1.0 / 6.0), 1e-7, 0.0, "loss");
}

#[test]
fn ratios_per_token_and_per_sequence() {
    let (current, old) = (matrix(&[-1., -2., -3., -4.], 2), matrix(&[-1.5, -2.25, -3., -9.], 2));
    let mask = matrix(&[1., 1., 1., 0.], 2);
    let token = importance_ratios(&current, Some(&old), &mask, ImportanceSamplingLevel::Token).unwrap();
    assert_close(&token, &matrix(&[0.5f32.exp(), 0.25f32.exp(), 1., 1.], 2), 1e-6, 0.0, "token");
    let sequence = importance_ratios(&current, Some(&old), &mask, ImportanceSamplingLevel::Sequence).unwrap();
    assert_close(&sequence, &matrix(&[0.375f32.exp(), 1.], 1), 1e-6, 0.0, "sequence");
    let error = importance_ratios(&current, Some(&mask.flatten().unwrap()), &mask, ImportanceSamplingLevel::Token).unwrap_err();
    assert!(error.to_string().contains("oldPerTokenLogps has shape [4]"), "{error}");
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    let make = || LossInputs::new(matrix(&[-1., -2.], 2), matrix(&[1., 1.], 2), Array::from_slice(&[1f32], &[1]).unwrap());
    let refused = |inputs: LossInputs, options: Value, code: &str, text: &str| {
        let error = match grpo_loss(&inputs, &LossOptions::from_json(options).unwrap()) {
            Err(error) => error,
            Ok(_) => panic!("'{text}' was not refused"),
        };
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(text), "{error}");
    };
    refused(make(), json!({ "beta": 0.1 }), "ERR_MLX_ARGUMENT", "refPerTokenLogps");
    refused(make(), json!({ "entropyCoef": 0.1 }), "ERR_MLX_ARGUMENT", "entropies");
    refused(make(), json!({ "topEntropyQuantile": 0.5 }), "ERR_MLX_ARGUMENT", "entropies");
    let wrong = LossInputs { completion_mask: matrix(&[1., 1., 1.], 3), ..make() };
    refused(wrong, json!({}), "ERR_MLX_SHAPE", "completionMask has shape [1, 3]");
    let wrong = LossInputs { advantages: Array::from_slice(&[1f32, 2., 3.], &[3]).unwrap(), ..make() };
    refused(wrong, json!({}), "ERR_MLX_SHAPE", "advantages have shape [3]");
    let wrong = LossInputs { per_token_logps: Array::from_slice(&[1f32], &[1]).unwrap(), ..make() };
    refused(wrong, json!({}), "ERR_MLX_SHAPE", "perTokenLogps has shape [1]");
    let wrong = LossInputs { importance_sampling_ratio: Some(matrix(&[1.], 1)), ..make() };
    refused(wrong, json!({ "lossType": "vespo" }), "ERR_MLX_ARGUMENT", "token_truncate");
}
