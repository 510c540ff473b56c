use std::collections::HashMap;

use super::awq::clipped;
use super::codes::{numbers, pack, round};
use super::gptq::Compensation;
use super::*;
use crate::mlx::ops::{self, Quantization, Quantized};
use crate::mlx::random;
use crate::models::Forward;
use crate::models::tests::quantized::{how, plainly, random_model};
use crate::testing::assert_close;

fn noise(shape: &[i32], seed: u64) -> Array {
    random::normal(0., 1., shape, Dtype::Float32, &random::key(seed).unwrap()).unwrap()
}

/// Inputs whose features go together: a mixture of few, and a little of their own.
fn correlated(tokens: i32, width: i32) -> Array {
    let mixed = noise(&[tokens, 8], 1).matmul(&noise(&[8, width], 2)).unwrap();
    mixed.add(&noise(&[tokens, width], 3).multiply_scalar(0.3).unwrap()).unwrap()
}

fn go_on() -> Result<()> {
    Ok(())
}

fn output_error(x: &Array, weight: &Array, codes: &Quantized, how: Quantization) -> f32 {
    let off = numbers(codes, how).unwrap().subtract(weight).unwrap();
    x.matmul(&off.t().unwrap()).unwrap().square().unwrap().sum_all().unwrap().item().unwrap()
}

fn words(codes: &Quantized) -> (Vec<u32>, Vec<f32>, Vec<f32>) {
    let biases = codes.biases.as_ref().unwrap().to_f32().unwrap();
    (codes.weight.to_vec().unwrap(), codes.scales.to_f32().unwrap(), biases)
}

#[test]
fn codes_are_packed_as_mlx_reads_them() {
    for bits in [2, 3, 4, 5, 6, 8] {
        let how = how("affine", 32, bits);
        let codes: Vec<u8> = (0..3 * 64u32).map(|i| ((i * i + 3 * i) % (1 << bits)) as u8).collect();
        let ones = ops::ones(&[3, 2], Dtype::Float32).unwrap();
        let zeros = ops::zeros(&[3, 2], Dtype::Float32).unwrap();
        let packed = Quantized { weight: pack(&codes, 3, 64, bits).unwrap(), scales: ones, biases: Some(zeros) };
        let want: Vec<f32> = codes.iter().map(|&code| f32::from(code)).collect();
        assert_eq!(numbers(&packed, how).unwrap().to_f32().unwrap(), want, "{bits} bits");
    }
    assert!(pack(&[0; 5], 1, 6, 4).is_err());
}

#[test]
fn compensation_is_the_triangle_of_the_inverse() {
    let gram = Gram::of(&correlated(300, 32)).unwrap();
    let damping = 0.05;
    let upper = Compensation::new(&gram, damping).unwrap().unwrap().upper;
    let mean = gram.moments.divide_scalar(300.).unwrap();
    let level = mean.diagonal(0, 0, 1).unwrap().mean_all().unwrap().item().unwrap();
    let eye = ops::identity(32, Dtype::Float32).unwrap();
    let hessian = mean.add(&eye.multiply_scalar(level * damping).unwrap()).unwrap();
    let inverse = upper.t().unwrap().matmul(&upper).unwrap();
    // The condition number is about 300: float32 products of that with an inverse are exact to 1e-4.
    assert_close(&inverse.matmul(&hessian).unwrap(), &eye, 1e-3, 0., "inverse");
    let below = upper.tril(-1).unwrap().abs().unwrap().max_all().unwrap().item().unwrap();
    assert_eq!(below, 0.);
}

#[test]
fn gptq_is_rounding_where_inputs_do_not_go_together() {
    // One feature a token: the Hessian is diagonal, and no column can make up for another.
    let x = ops::identity(96, Dtype::Float32).unwrap().multiply(&noise(&[96], 4).add_scalar(3.).unwrap()).unwrap();
    let compensation = Compensation::new(&Gram::of(&x).unwrap(), 0.01).unwrap().unwrap();
    let weight = noise(&[70, 96], 5);
    for bits in [2, 3, 4, 5, 6, 8] {
        let how = how("affine", 32, bits);
        let found = compensation.quantize(&weight, how, Dtype::Float32, &go_on).unwrap();
        let want = ops::quantize(&weight, how, None).unwrap();
        assert_eq!(words(&found), words(&want), "{bits} bits");
    }
}

#[test]
fn gptq_is_better_than_rounding_where_they_do() {
    let (x, weight) = (correlated(400, 128), noise(&[80, 128], 6));
    let gram = Gram::of(&x).unwrap();
    let compensation = Compensation::new(&gram, 0.01).unwrap().unwrap();
    for (group, bits) in [(32, 2), (64, 3), (128, 4), (64, 8)] {
        let how = how("affine", group, bits);
        let gptq = compensation.quantize(&weight, how, Dtype::Float32, &go_on).unwrap();
        let rtn = round(&weight, how, Dtype::Float32).unwrap();
        let (found, rounded) = (output_error(&x, &weight, &gptq, how), output_error(&x, &weight, &rtn, how));
        // 8 directions hold nearly all of the inputs: there is room to make up for most of what rounding costs.
        assert!(found < 0.5 * rounded, "{bits} bits: {found} and {rounded}");
        let off = numbers(&gptq, how).unwrap().subtract(&weight).unwrap();
        let by_moments = gram.error(&off).unwrap().item().unwrap();
        assert!((by_moments - found).abs() < 1e-3 * found + 1e-2, "{by_moments} is not {found}");
    }
}

/// The algorithm as the paper begins it, in float64, with the whole inverse, from which each column is taken out when it is done.
fn reference(weight: &[f64], rows: usize, width: usize, hessian: &[f64], group: usize, bits: i32) -> Vec<f64> {
    let mut inverse = vec![0.; width * width];
    let mut work = hessian.to_vec();
    (0..width).for_each(|i| inverse[i * width + i] = 1.);
    for pivot in 0..width {
        let by = work[pivot * width + pivot];
        (0..width).for_each(|j| {
            work[pivot * width + j] /= by;
            inverse[pivot * width + j] /= by;
        });
        for row in (0..width).filter(|&row| row != pivot) {
            let factor = work[row * width + pivot];
            for j in 0..width {
                work[row * width + j] -= factor * work[pivot * width + j];
                inverse[row * width + j] -= factor * inverse[pivot * width + j];
            }
        }
    }
    let most = f64::from((1 << bits) - 1);
    let (mut w, mut out) = (weight.to_vec(), vec![0.; rows * width]);
    let mut scales = vec![(0., 0.); rows];
    for i in 0..width {
        for row in 0..rows {
            if i % group == 0 {
                let part = &w[row * width + i..][..group];
                let low = part.iter().copied().fold(f64::INFINITY, f64::min);
                let high = part.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let edge = if low.abs() > high.abs() { low } else { high };
                let step = (high - low) / most * if low.abs() > high.abs() { 1. } else { -1. };
                let steps = (edge / step).round();
                scales[row] = if steps == 0. { (step, 0.) } else { (edge / steps, edge) };
            }
            let (scale, bias) = scales[row];
            let value = w[row * width + i];
            let chosen = ((value - bias) / scale).round().clamp(0., most) * scale + bias;
            out[row * width + i] = chosen;
            let error = (value - chosen) / inverse[i * width + i];
            (i..width).for_each(|j| w[row * width + j] -= error * inverse[i * width + j]);
        }
        let column: Vec<f64> = (0..width).map(|j| inverse[j * width + i]).collect();
        for j in 0..width {
            (0..width).for_each(|k| inverse[j * width + k] -= column[j] * column[k] / column[i]);
        }
    }
    out
}

#[test]
fn gptq_agrees_with_the_paper_step_by_step() {
    let (rows, width) = (6usize, 96usize);
    let (x, weight) = (noise(&[200, 96], 8).add(&correlated(200, 96)).unwrap(), noise(&[6, 96], 7));
    let gram = Gram::of(&x).unwrap();
    let wide = |array: &Array| -> Vec<f64> { array.to_f32().unwrap().into_iter().map(f64::from).collect() };
    let mut hessian: Vec<f64> = wide(&gram.moments).into_iter().map(|sum| sum / 200.).collect();
    let level = (0..width).map(|i| hessian[i * width + i]).sum::<f64>() / width as f64;
    (0..width).for_each(|i| hessian[i * width + i] += 0.01 * level);
    let compensation = Compensation::new(&gram, 0.01).unwrap().unwrap();
    for bits in [2, 3, 4] {
        let how = how("affine", 32, bits);
        let found = compensation.quantize(&weight, how, Dtype::Float32, &go_on).unwrap();
        let want = reference(&wide(&weight), rows, width, &hessian, 32, bits);
        let want: Vec<f32> = want.into_iter().map(|value| value as f32).collect();
        let want = Array::from_slice(&want, &[6, 96]).unwrap();
        // A code that differed would be off by a step, 0.2 and more.
        assert_close(&numbers(&found, how).unwrap(), &want, 1e-4, 1e-4, &format!("{bits} bits"));
    }
}

#[test]
fn inputs_that_are_nothing_or_not_finite_leave_rounding() {
    let (weight, how) = (noise(&[8, 64], 1), how("affine", 32, 3));
    let x = correlated(50, 64).multiply(&ops::arange(0., 64., 1., Dtype::Float32).unwrap().minimum_scalar(1.).unwrap()).unwrap();
    // The first feature is 0 everywhere, and of 50 tokens no 64 features follow.
    let compensation = Compensation::new(&Gram::of(&x).unwrap(), 0.01).unwrap().unwrap();
    let codes = compensation.quantize(&weight, how, Dtype::Float32, &go_on).unwrap();
    assert!(numbers(&codes, how).unwrap().to_f32().unwrap().iter().all(|value| value.is_finite()));
    for factor in [0., f32::NAN, f32::INFINITY] {
        let gram = Gram::of(&x.multiply_scalar(factor).unwrap()).unwrap();
        assert!(Compensation::new(&gram, 0.01).unwrap().is_none(), "{factor}");
    }
}

#[test]
fn clipping_takes_what_costs_least_group_by_group() {
    // One number of each group is far out, and its input is small.
    let far = Array::from_slice(&(0..64).map(|i| if i % 32 == 5 { 6f32 } else { 1. }).collect::<Vec<_>>(), &[64]).unwrap();
    let weight = noise(&[16, 64], 1).multiply(&far).unwrap();
    let x = noise(&[300, 64], 2).divide(&far.square().unwrap()).unwrap();
    let (gram, how) = (Gram::of(&x).unwrap(), how("affine", 32, 3));
    let cut = clipped(&weight, &gram, how, Dtype::Float32, &go_on).unwrap();
    let codes = round(&cut, how, Dtype::Float32).unwrap();
    let rtn = round(&weight, how, Dtype::Float32).unwrap();
    let (found, rounded) = (output_error(&x, &weight, &codes, how), output_error(&x, &weight, &rtn, how));
    assert!(found < 0.8 * rounded, "{found} and {rounded}");
    let blocks = gram.blocks(32).unwrap();
    assert_eq!(blocks.shape(), [2, 32, 32]);
    let second = gram.moments.slice(&[32, 32], &[64, 64]).unwrap().expand_dims(&[0]).unwrap();
    assert_close(&blocks.slice_axis(0, 1, 2).unwrap(), &second, 0., 0., "blocks");
}

fn rows(count: usize, length: usize) -> Vec<Vec<i32>> {
    (0..count).map(|row| (0..length).map(|i| ((row * 31 + i * i * 7 + i * 3) % 96) as i32).collect()).collect()
}

fn options(method: Method) -> CalibrateOptions {
    CalibrateOptions { method, rows: rows(6, 24), batch_size: 4, damping: 0.01, scales: None }
}

fn run(model: &mut Model, options: &QuantizeOptions, calibrate: CalibrateOptions) -> Result<(Plan, Vec<CalibratedLayer>)> {
    let mut calibration = Calibration::new(model, options, calibrate)?;
    let watch = Watch { progress: &|_, _| (), check: &go_on };
    while !calibration.step(model, &watch)? {}
    Ok(calibration.into_report())
}

fn logits(model: &Model, row: &[i32]) -> Array {
    let ids = Array::from_slice(row, &[1, row.len() as i32]).unwrap();
    model.net.logits(&model.net.hidden(Forward::new(&ids)).unwrap()).unwrap()
}

const KINDS: [&str; 4] = ["qwen2", "qwen3", "qwen2_moe", "qwen3_moe"];

#[test]
fn awq_moves_scales_and_the_model_computes_what_it_did() {
    for kind in KINDS {
        let mut model = random_model(kind);
        // Features of very different sizes, as in trained models, and biases that are not zero.
        model.net.visit_mut("", &mut |name, weight| {
            if name.ends_with("norm.weight") {
                let size = weight.dim(0);
                *weight = noise(&[size], 3).multiply_scalar(0.8).unwrap().exp().unwrap();
            } else if name.ends_with(".bias") {
                *weight = noise(weight.shape(), 4);
            }
        });
        let plan = model.plan_quantization(&plainly(how("affine", 32, 3))).unwrap();
        let before = logits(&model, &rows(1, 20)[0]);
        let old: HashMap<String, Array> = model.parameters().into_iter().collect();
        let decoder = model.net.decoder_mut().unwrap();
        let mut hidden = embed(decoder, &options(Method::Awq)).unwrap();
        let watch = Watch { progress: &|_, _| (), check: &go_on };
        let (mut layers, mut done) = (Vec::new(), 0);
        for (index, block) in decoder.layers.iter_mut().enumerate() {
            let mut worker = Worker {
                method: Method::Awq,
                damping: 0.01,
                scales: Dtype::Float32,
                plan: &plan,
                rounded: HashMap::new(),
                layers: &mut layers,
                done: &mut done,
                watch: &watch,
            };
            worker.scale_block(&format!("model.layers.{index}"), block, &hidden).unwrap();
            for x in &mut hidden {
                let context = context(x).unwrap();
                let attended = block.input_layernorm.forward(x).unwrap();
                let y = x.add(&block.self_attn.forward(&attended, &context, None).unwrap()).unwrap();
                let inner = block.post_attention_layernorm.forward(&y).unwrap();
                *x = y.add(&block.mlp.forward(&inner).unwrap().0).unwrap();
            }
        }
        let after = logits(&model, &rows(1, 20)[0]);
        let scale = before.abs().unwrap().max_all().unwrap().item().unwrap();
        assert_close(&after, &before, 1e-4 * scale, 0., kind);
        let moved = |end: &str| {
            let changed = |(name, array): &(String, Array)| {
                name.ends_with(end) && array.array_equal(&old[name], false).unwrap().item().unwrap() == 0.
            };
            model.parameters().iter().filter(|entry| changed(entry)).count()
        };
        for end in ["input_layernorm.weight", "post_attention_layernorm.weight", "v_proj.weight", "o_proj.weight"] {
            assert!(moved(end) > 0, "{kind}: no {end} was scaled");
        }
    }
}

#[test]
fn every_layer_of_every_model_is_packed_and_none_is_worse_than_rounded() {
    for kind in KINDS {
        for method in [Method::Gptq, Method::Awq] {
            let mut model = random_model(kind);
            let (plan, layers) = run(&mut model, &plainly(how("affine", 32, 3)), options(method)).unwrap();
            assert_eq!(plan.packed.len(), model.layer_names(true).len(), "{kind}");
            // All but the embedding, and a gate with one row.
            assert_eq!(layers.len() + 1, plan.packed.len(), "{kind}");
            for layer in &layers {
                let CalibratedLayer { name, error, rtn_error, tokens, .. } = layer;
                assert!(error.is_finite() && *error > 0. && *error < 0.5, "{kind} {name}: {error}");
                assert!(*tokens > 0, "{kind} {name}");
                if method == Method::Gptq {
                    // Never more than rounding, but for sums in another order.
                    assert!(*error <= rtn_error * 1.001, "{kind} {name}: {error} and {rtn_error}");
                }
            }
            let by = |layers: &[CalibratedLayer]| layers.iter().filter(|layer| layer.method == method.name()).count();
            assert!(by(&layers) * 2 > layers.len(), "{kind}: {layers:?}");
            let noted = layers.iter().filter(|layer| layer.note.as_deref().is_some_and(|note| note.contains("experts"))).count();
            assert_eq!(noted > 0, kind.ends_with("moe"), "{kind}");
            let logits = logits(&model, &rows(1, 20)[0]);
            assert!(logits.to_f32().unwrap().iter().all(|value| value.is_finite()));
        }
    }
}

#[test]
fn experts_with_enough_tokens_are_fitted_to_their_own() {
    let mut model = random_model("qwen3_moe");
    // 4 experts, 2 a token: 40 · 96 / 2 tokens each on average, for 128 inputs.
    let many = CalibrateOptions { rows: rows(40, 96), ..options(Method::Gptq) };
    let (_, layers) = run(&mut model, &plainly(how("affine", 32, 2)), many).unwrap();
    let down = layers.iter().find(|layer| layer.name.ends_with("0.mlp.switch_mlp.down_proj")).unwrap();
    assert_eq!((down.method, &down.note, down.tokens), ("gptq", &None, 2 * 40 * 96));
    assert!(down.error < 0.9 * down.rtn_error, "{down:?}");
}

#[test]
fn scales_are_those_of_the_dtype_that_is_saved() {
    let mut model = random_model("qwen3");
    let saved = CalibrateOptions { scales: Some(Dtype::Bfloat16), ..options(Method::Gptq) };
    run(&mut model, &plainly(how("affine", 32, 4)), saved).unwrap();
    for (name, array) in model.parameters() {
        if name.ends_with(".scales") || name.ends_with(".biases") {
            assert_eq!(array.dtype(), Dtype::Float32);
            let again = array.astype(Dtype::Bfloat16).unwrap().astype(Dtype::Float32).unwrap();
            assert_close(&again, &array, 0., 0., &name);
        }
    }
}

#[test]
fn what_cannot_be_is_refused_before_anything_changes() {
    let mut model = random_model("qwen3");
    let plain = || plainly(how("affine", 32, 4));
    let mut refused = |quantize: QuantizeOptions, calibrate: CalibrateOptions, part: &str| {
        let error = run(&mut model, &quantize, calibrate).unwrap_err();
        assert_eq!(error.code(), "ERR_MLX_ARGUMENT");
        assert!(error.to_string().contains(part), "{error}");
        assert!(!model.is_quantized());
    };
    let base = || options(Method::Gptq);
    refused(plainly(how("mxfp4", 32, 4)), base(), "mxfp4");
    refused(plain(), CalibrateOptions { rows: vec![], ..base() }, "texts");
    refused(plain(), CalibrateOptions { rows: vec![vec![1], vec![]], ..base() }, "texts");
    refused(plain(), CalibrateOptions { rows: vec![vec![96]], ..base() }, "96");
    refused(plain(), CalibrateOptions { damping: f32::NAN, ..base() }, "damping");
    assert!(Method::parse("gtpq").unwrap_err().to_string().contains("did you mean 'gptq'"));
    // Stopped between two layers, it computes, and rounding does the rest.
    let mut calibration = Calibration::new(&model, &plain(), base()).unwrap();
    let told = std::cell::Cell::new(0);
    let check = || if told.get() == 4 { Err(Error::Cancelled) } else { Ok(()) };
    let watch = Watch { progress: &|done, _| told.set(done), check: &check };
    let stopped = loop {
        if let Err(error) = calibration.step(&mut model, &watch) {
            break error;
        }
    };
    assert_eq!(stopped.code(), "ERR_MLX_CANCELLED");
    assert_eq!(model.layer_names(true).len(), 4);
    assert!(logits(&model, &rows(1, 8)[0]).to_f32().unwrap().iter().all(|value| value.is_finite()));
    let error = Calibration::new(&model, &plain(), base()).err().unwrap();
    assert!(error.to_string().contains("packed already"), "{error}");
}

#[test]
fn layers_of_other_modes_are_rounded_and_say_so() {
    let mut model = random_model("qwen3");
    let rules = vec![("v_proj".into(), Some(how("mxfp4", 32, 4))), ("o_proj".into(), None)];
    let quantize = QuantizeOptions { rules, ..plainly(how("affine", 32, 4)) };
    let (plan, layers) = run(&mut model, &quantize, options(Method::Awq)).unwrap();
    assert!(plan.left.iter().all(|(name, _)| name.ends_with("o_proj")) && plan.left.len() == 3);
    let rounded: Vec<_> = layers.iter().filter(|layer| layer.name.ends_with("v_proj")).collect();
    assert!(rounded.len() == 3 && rounded.iter().all(|layer| layer.note.as_deref() == Some("mode mxfp4 is rounded")));
}
