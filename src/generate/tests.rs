//! Sampling against mlx-lm's filters and exact distributions; decoding against transformers' greedy tokens.

use std::collections::HashMap;

use serde_json::Value;

use super::*;
use crate::mlx::Array;
use crate::testing::{assert_close, cases, golden_path, load_tensors};

fn tensor<'a>(tensors: &'a HashMap<String, Array>, value: &Value) -> &'a Array {
    &tensors[value["tensor"].as_str().unwrap()]
}

/// What is kept, row by row.
fn kept(filtered: &Array) -> Vec<bool> {
    filtered.to_f32().unwrap().iter().map(|value| value.is_finite()).collect()
}

#[test]
fn filters_keep_what_mlx_lm_keeps() {
    let tensors = load_tensors(golden_path("sampling/tensors.safetensors"));
    let mut counts = HashMap::new();
    for case in cases("sampling")["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let options = &case["options"];
        let number = |key: &str| options[key].as_f64().unwrap_or(0.) as f32;
        let kind = case["kind"].as_str().unwrap();
        match (kind, options["filter"].as_str().or(options["processor"].as_str())) {
            ("filter", Some("top_k")) => {
                let logprobs = tensor(&tensors, &case["inputs"]["logprobs"]);
                let k = options["top_k"].as_i64().unwrap() as i32;
                let filtered = apply_top_k(logprobs, k).unwrap();
                if case["expected"]["logprobs"].is_null() {
                    // Equals of the last one: mlx-lm keeps some five, ours keeps them all, so the five best are the same.
                    let width = filtered.dim(-1);
                    let best = filtered.sort(-1).unwrap().slice_axis(-1, width - k, width).unwrap();
                    let wanted = tensor(&tensors, &case["expected"]["kept_values_sorted"]).sort(-1).unwrap();
                    assert_close(&best, &wanted, 0., 0., name);
                } else {
                    assert_eq!(kept(&filtered), kept(tensor(&tensors, &case["expected"]["logprobs"])), "{name}");
                }
                *counts.entry("top_k").or_insert(0) += 1;
            }
            ("filter", Some("top_p")) => {
                let p = number("top_p");
                // mlx-lm takes values outside (0, 1) for "off"; ours refuses them before a graph is built.
                if p > 0. && p < 1. {
                    let filtered = apply_top_p(tensor(&tensors, &case["inputs"]["logprobs"]), p).unwrap();
                    assert_eq!(kept(&filtered), kept(tensor(&tensors, &case["expected"]["logprobs"])), "{name}");
                    *counts.entry("top_p").or_insert(0) += 1;
                }
            }
            ("filter", Some("min_p")) if options["min_tokens_to_keep"].as_i64().unwrap_or(1) <= 1 => {
                let filtered = apply_min_p(tensor(&tensors, &case["inputs"]["logprobs"]), number("min_p")).unwrap();
                assert_eq!(kept(&filtered), kept(tensor(&tensors, &case["expected"]["logprobs"])), "{name}");
                *counts.entry("min_p").or_insert(0) += 1;
            }
            ("processor", Some("repetition")) => {
                let logits = tensor(&tensors, &case["inputs"]["logits"]);
                let tokens = tensor(&tensors, &case["inputs"]["tokens"]).to_i32().unwrap();
                let size = match options["context_size"].as_i64().unwrap() {
                    -1 => tokens.len(),
                    size => size as usize,
                };
                let seen = &tokens[tokens.len().saturating_sub(size)..];
                let history = Array::from_slice(seen, &[1, seen.len() as i32]).unwrap();
                let history = history.broadcast_to(&[logits.dim(0), seen.len() as i32]).unwrap();
                let penalised = apply_repetition_penalty(logits, &history, number("penalty")).unwrap();
                assert_close(&penalised, tensor(&tensors, &case["expected"]["logits"]), 1e-5, 1e-5, name);
                *counts.entry("repetition").or_insert(0) += 1;
            }
            _ => {}
        }
    }
    for (kind, least) in [("top_k", 13), ("top_p", 18), ("min_p", 10), ("repetition", 18)] {
        assert!(counts[kind] >= least, "{kind}: {} cases ran", counts[kind]);
    }
}

/// Pearson's statistic of `rows` draws from one distribution, with the degrees of freedom.
fn chi_squared(options: &SamplerOptions, logits: &[f32], expected: &[f64], rows: usize) -> (f64, usize) {
    let mut sampler = Sampler::new();
    (0..rows as u64).for_each(|row| sampler.push(&SamplerOptions { row, ..options.clone() }, &[0]).unwrap());
    let logits =
        Array::from_slice(logits, &[1, logits.len() as i32]).unwrap().broadcast_to(&[rows as i32, logits.len() as i32]).unwrap();
    let tokens = sampler.sample(&logits, None).unwrap().tokens.to_i32().unwrap();
    let mut counts = vec![0f64; expected.len()];
    tokens.iter().for_each(|&token| counts[token as usize] += 1.);
    let mut statistic = 0.;
    let mut freedom = 0;
    for (&count, &probability) in counts.iter().zip(expected) {
        if probability == 0. {
            assert_eq!(count, 0., "a removed token was drawn");
        } else {
            statistic += (count - rows as f64 * probability).powi(2) / (rows as f64 * probability);
            freedom += 1;
        }
    }
    (statistic, freedom - 1)
}

#[test]
fn draws_follow_the_distribution() {
    let logits = [1.0f32, 0.2, -0.5, 2.0, 0.0, -3.0];
    let softmax = |temperature: f64, keep: &[bool]| {
        let weights: Vec<f64> =
            logits.iter().zip(keep).map(|(&l, &keep)| if keep { (l as f64 / temperature).exp() } else { 0. }).collect();
        let total: f64 = weights.iter().sum();
        weights.into_iter().map(|weight| weight / total).collect::<Vec<_>>()
    };
    let all = [true; 6];
    let cases = [
        (SamplerOptions { seed: 1, ..Default::default() }, softmax(1., &all)),
        (SamplerOptions { seed: 2, temperature: 0.7, ..Default::default() }, softmax(0.7, &all)),
        (SamplerOptions { seed: 3, top_k: 3, ..Default::default() }, softmax(1., &[true, true, false, true, false, false])),
        // At temperature 2 the masses in order are .36 .22 .15 .13 .10 .03: 0.6 needs three tokens.
        (
            SamplerOptions { seed: 4, temperature: 2., top_p: 0.6, ..Default::default() },
            softmax(2., &[true, true, false, true, false, false]),
        ),
        (SamplerOptions { seed: 5, min_p: 0.2, ..Default::default() }, softmax(1., &[true, false, false, true, false, false])),
    ];
    for (options, expected) in cases {
        let (statistic, freedom) = chi_squared(&options, &logits, &expected, 20_000);
        // Mean `freedom`, variance `2 * freedom`; six standard deviations above (p < 1e-5 for these few degrees).
        let bound = freedom as f64 + 6. * (2. * freedom as f64).sqrt();
        assert!(statistic < bound, "{options:?}: chi-squared {statistic:.1} with {freedom} degrees of freedom");
    }
}

#[test]
fn logprobs_are_of_the_unfiltered_distribution() {
    let logits = Array::from_slice(&[1f32, 2., 3., 0.5], &[1, 4]).unwrap();
    let options = SamplerOptions { temperature: 0.5, top_k: 1, ..Default::default() };
    let mut sampler = Sampler::new();
    sampler.push(&options, &[0]).unwrap();
    let sampled = sampler.sample(&logits, None).unwrap();
    assert_eq!(sampled.tokens.to_i32().unwrap(), [2]);
    let scaled = [2f64, 4., 6., 1.];
    let wanted = 6. - scaled.iter().map(|value| value.exp()).sum::<f64>().ln();
    assert!((sampled.logprobs.item().unwrap() as f64 - wanted).abs() < 1e-5);
}

#[test]
fn options_out_of_range_are_refused_before_anything_runs() {
    let bad = [
        SamplerOptions { temperature: -1., ..Default::default() },
        SamplerOptions { temperature: f32::NAN, ..Default::default() },
        SamplerOptions { top_k: -1, ..Default::default() },
        SamplerOptions { top_p: 0., ..Default::default() },
        SamplerOptions { top_p: 1.1, ..Default::default() },
        SamplerOptions { min_p: 2., ..Default::default() },
        SamplerOptions { repetition_penalty: 0., ..Default::default() },
        SamplerOptions { repetition_context_size: Some(-3), ..Default::default() },
    ];
    for options in bad {
        let error = Sampler::new().push(&options, &[1]).err().unwrap_or_else(|| panic!("{options:?} was accepted"));
        assert_eq!(error.code(), "ERR_MLX_ARGUMENT");
    }
}
