//! Against TRL's numbers, and the chunked head against the dense computation.

use std::time::Instant;

use super::*;
use crate::mlx::ops::{Quantization, QuantizationMode};
use crate::mlx::{eval, fast, memory, random, value_and_grad};
use crate::nn::{Dora, Lora, Module};
use crate::testing::{self, assert_close, on_gpu};

#[test]
fn values_and_gradients_agree_with_trl() {
    let tensors = testing::load_tensors(testing::golden_path("logprobs/tensors.safetensors"));
    let file = testing::cases("logprobs");
    let cases = file["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 20);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let tensor = |group: &str, key: &str| tensors[case[group][key]["tensor"].as_str().unwrap()].clone();
        let temperature = case["options"]["temperature"].as_f64().unwrap() as f32;
        let (atol, rtol) =
            (case["tolerance"]["atol"].as_f64().unwrap() as f32, case["tolerance"]["rtol"].as_f64().unwrap() as f32);
        let (index, w_logps, w_entropy) = (tensor("inputs", "index"), tensor("inputs", "w_logps"), tensor("inputs", "w_entropy"));
        let logits = tensor("inputs", "logits");
        let (values, gradients) = value_and_grad(
            |inputs| {
                let logps = selective_log_softmax(&inputs[0], &index, temperature)?;
                let entropy = entropy_from_logits(&inputs[0], temperature)?;
                let sum = logps.multiply(&w_logps)?.sum_all()?.add(&entropy.multiply(&w_entropy)?.sum_all()?)?;
                Ok(vec![sum, logps, entropy])
            },
            std::slice::from_ref(&logits),
            &[0],
        )
        .unwrap();
        assert_close(&values[1], &tensor("expected", "logps"), atol, rtol, &format!("{name} logps"));
        assert_close(&values[2], &tensor("expected", "entropy"), atol, rtol, &format!("{name} entropy"));
        assert_close(&gradients[0], &tensor("expected", "grad_logits"), atol, rtol, &format!("{name} grad_logits"));

        // The chunked head with the identity as weight sees the same logits.
        let vocabulary = logits.dim(-1);
        let identity = ops::full(&[vocabulary, vocabulary], 1.0, Dtype::Float32).unwrap();
        let identity = identity.multiply(&ops::tri(vocabulary, vocabulary, 0, Dtype::Float32).unwrap()).unwrap();
        let identity = identity.subtract(&ops::tri(vocabulary, vocabulary, -1, Dtype::Float32).unwrap()).unwrap();
        let options = HeadOptions { temperature, entropy: Entropy::Differentiable, chunk: 3, train_head: false };
        let (values, gradients) = value_and_grad(
            |inputs| {
                let flat = inputs[0].reshape(&[-1, vocabulary])?;
                let got = head_logprobs(&flat, Head::from(&Weight::from(identity.clone())), &index.flatten()?, &options)?;
                let (logps, entropy) = (got.logps.reshape(index.shape())?, got.entropies.unwrap().reshape(index.shape())?);
                let sum = logps.multiply(&w_logps)?.sum_all()?.add(&entropy.multiply(&w_entropy)?.sum_all()?)?;
                Ok(vec![sum, logps, entropy])
            },
            &[logits],
            &[0],
        )
        .unwrap();
        assert_close(&values[1], &tensor("expected", "logps"), atol, rtol, &format!("{name} head logps"));
        assert_close(&values[2], &tensor("expected", "entropy"), atol, rtol, &format!("{name} head entropy"));
        assert_close(&gradients[0], &tensor("expected", "grad_logits"), atol, rtol, &format!("{name} head gradient"));
    }
}

struct Problem {
    hidden: Array,
    weight: Array,
    ids: Array,
    cotangents: [Array; 2],
}

fn problem(tokens: i32, width: i32, vocabulary: i32) -> Problem {
    let normal = |seed: u64, shape: &[i32], scale: f32| {
        random::normal(0., scale, shape, Dtype::Float32, &random::key(seed).unwrap()).unwrap()
    };
    let ids: Vec<i32> = (0..tokens).map(|token| (token * 7919 + 13) % vocabulary).collect();
    let problem = Problem {
        hidden: normal(1, &[tokens, width], 1.0),
        weight: normal(2, &[vocabulary, width], 2.0 / (width as f32).sqrt()),
        ids: Array::from_slice(&ids, &[tokens]).unwrap(),
        cotangents: [normal(3, &[tokens], 1.0), normal(4, &[tokens], 1.0)],
    };
    eval(&[&problem.hidden, &problem.weight, &problem.cotangents[0], &problem.cotangents[1]]).unwrap();
    problem
}

/// Value, gradients to hidden and head, log-probs, entropies; `head` None is the dense computation.
fn run(problem: &Problem, temperature: f32, entropy: Entropy, head: Option<HeadOptions>) -> Vec<Array> {
    let train_head = head.is_none_or(|options| options.train_head);
    let argnums: &[i32] = if train_head { &[0, 1] } else { &[0] };
    let (mut values, gradients) = value_and_grad(
        |inputs| {
            let (logps, entropies) = match head {
                Some(options) => {
                    let options = HeadOptions { temperature, entropy, ..options };
                    let got = head_logprobs(&inputs[0], Head::from(&Weight::from(inputs[1].clone())), &problem.ids, &options)?;
                    (got.logps, got.entropies)
                }
                None => {
                    let logits = inputs[0].matmul(&inputs[1].t()?)?;
                    let entropies = (entropy != Entropy::Skip).then(|| entropy_from_logits(&logits, temperature)).transpose()?;
                    (selective_log_softmax(&logits, &problem.ids, temperature)?, entropies)
                }
            };
            let mut sum = logps.multiply(&problem.cotangents[0])?.sum_all()?;
            if let Some(entropies) = entropies.as_ref().filter(|_| entropy == Entropy::Differentiable) {
                sum = sum.add(&entropies.multiply(&problem.cotangents[1])?.sum_all()?)?;
            }
            let mut outputs = vec![sum, logps];
            outputs.extend(entropies.map(|entropies| entropies.stop_gradient()).transpose()?);
            Ok(outputs)
        },
        &[problem.hidden.clone(), problem.weight.clone()],
        argnums,
    )
    .unwrap();
    values.extend(gradients);
    eval(&values).unwrap();
    values
}

#[test]
fn chunks_change_neither_values_nor_gradients() {
    let problem = problem(37, 16, 211);
    for entropy in [Entropy::Skip, Entropy::Value, Entropy::Differentiable] {
        for temperature in [1.0, 0.7] {
            let want = run(&problem, temperature, entropy, None);
            for chunk in [1, 8, 37, 100, 0] {
                let got = run(&problem, temperature, entropy, Some(HeadOptions { chunk, ..Default::default() }));
                assert_eq!(got.len(), want.len());
                for (index, (got, want)) in got.iter().zip(&want).enumerate() {
                    assert_close(got, want, 2e-4, 2e-4, &format!("{entropy:?} {temperature} chunk {chunk} result {index}"));
                }
            }
        }
    }
}

#[test]
fn half_precision_heads_are_computed_in_float32() {
    let mut problem = problem(24, 16, 97);
    problem.hidden = problem.hidden.astype(Dtype::Bfloat16).unwrap();
    problem.weight = problem.weight.astype(Dtype::Bfloat16).unwrap();
    let want = run(&problem, 0.8, Entropy::Differentiable, None);
    let got = run(&problem, 0.8, Entropy::Differentiable, Some(HeadOptions { chunk: 7, ..Default::default() }));
    assert_eq!(got[1].dtype(), Dtype::Float32);
    for (index, (got, want)) in got.iter().zip(&want).enumerate() {
        assert_eq!(got.dtype(), want.dtype());
        assert_close(got, want, 0.1, 0.03, &format!("result {index}"));
    }
}

#[test]
fn ids_outside_the_vocabulary_stay_inside_memory() {
    let mut problem = problem(4, 8, 11);
    problem.ids = Array::from_slice(&[-100, 3, 11, i32::MAX], &[4]).unwrap();
    let got = run(&problem, 1.0, Entropy::Skip, Some(HeadOptions::default()));
    assert!(got.iter().all(|array| array.to_f32().unwrap().iter().all(|value| value.is_finite())));
}

#[test]
fn cross_entropy_is_the_masked_sum() {
    let problem = problem(19, 8, 53);
    let mask: Vec<i32> = (0..19).map(|token| token % 3).collect();
    let mask = Array::from_slice(&mask, &[19]).unwrap();
    let (values, gradients) = value_and_grad(
        |inputs| {
            Ok(vec![head_cross_entropy(&inputs[0], Head::from(&Weight::from(inputs[1].clone())), &problem.ids, &mask, 5, true)?])
        },
        &[problem.hidden.clone(), problem.weight.clone()],
        &[0, 1],
    )
    .unwrap();
    let (want, want_gradients) = value_and_grad(
        |inputs| {
            let losses = fast::cross_entropy(&inputs[0].matmul(&inputs[1].t()?)?, &problem.ids)?;
            Ok(vec![losses.multiply(&mask.greater_scalar(0.5)?.astype(Dtype::Float32)?)?.sum_all()?])
        },
        &[problem.hidden.clone(), problem.weight.clone()],
        &[0, 1],
    )
    .unwrap();
    assert_close(&values[0], &want[0], 1e-4, 1e-5, "loss");
    assert_close(&gradients[0], &want_gradients[0], 1e-4, 1e-4, "gradient of hidden");
    assert_close(&gradients[1], &want_gradients[1], 1e-4, 1e-4, "gradient of head");
}

#[test]
fn a_packed_head_is_the_head_of_its_numbers() {
    let how = Quantization::new(QuantizationMode::Affine, Some(32), Some(4)).unwrap();
    let problem = problem(19, 64, 53);
    let packed = Weight::from(problem.weight.clone()).pack(how).unwrap();
    let numbers = Weight::from(packed.numbers().unwrap());
    let options = HeadOptions { temperature: 0.7, entropy: Entropy::Differentiable, chunk: 5, train_head: true };
    let run = |head: &Weight| {
        let scored = |inputs: &[Array]| {
            let got = head_logprobs(&inputs[0], Head::from(head), &problem.ids, &options)?;
            let entropies = got.entropies.unwrap();
            let sum = got.logps.multiply(&problem.cotangents[0])?.add(&entropies.multiply(&problem.cotangents[1])?)?;
            Ok(vec![sum.sum_all()?, got.logps, entropies])
        };
        let (values, gradients) = value_and_grad(scored, std::slice::from_ref(&problem.hidden), &[0]).unwrap();
        [values, gradients].concat()
    };
    for (found, want) in run(&packed).iter().zip(&run(&numbers)) {
        // Sums of 64 or 53 products of about 1, in another order.
        assert_close(found, want, 1e-4, 1e-4, "packed head");
    }
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    let problem = problem(4, 8, 11);
    let try_head = |hidden: &Array, ids: &Array, temperature: f32| {
        let options = HeadOptions { temperature, ..Default::default() };
        head_logprobs(hidden, Head::from(&Weight::from(problem.weight.clone())), ids, &options).err().unwrap().to_string()
    };
    assert!(try_head(&problem.hidden, &problem.ids, 0.0).contains("temperature is 0"));
    assert!(try_head(&problem.weight, &problem.ids, 1.0).contains("[11]"));
    assert!(try_head(&problem.weight.t().unwrap(), &problem.ids, 1.0).contains("do not fit"));
    assert!(try_head(&problem.hidden.flatten().unwrap(), &problem.ids, 1.0).contains("[N, H]"));
    let error = selective_log_softmax(&problem.hidden, &problem.hidden, 1.0).unwrap_err();
    assert_eq!(error.code(), "ERR_MLX_SHAPE");
}

fn peak(work: impl FnOnce() -> Vec<Array>) -> usize {
    let before = memory::stats().unwrap().active;
    memory::reset_peak().unwrap();
    let results = work();
    let peak = memory::stats().unwrap().peak.saturating_sub(before);
    drop(results);
    peak
}

#[test]
fn the_logits_of_all_tokens_are_never_in_memory() {
    // The work space of a GPU's matrix products is as large as the logits of this small problem.
    if on_gpu() {
        return;
    }
    let problem = problem(1024, 8, 16384);
    let logits = 1024 * 16384 * 4;
    for entropy in [Entropy::Skip, Entropy::Differentiable] {
        let dense = peak(|| run(&problem, 1.0, entropy, None));
        let chunked = peak(|| run(&problem, 1.0, entropy, Some(HeadOptions { chunk: 32, ..Default::default() })));
        assert!(dense > logits, "dense {dense}");
        assert!(chunked < logits / 2, "{entropy:?}: chunked {chunked}, all logits {logits}");
    }
}

#[test]
#[ignore = "a measurement: cargo test head_rate -- --ignored --nocapture"]
fn head_rate() {
    let problem = problem(1024, 512, 8192);
    let time = |work: &dyn Fn() -> Vec<Array>| {
        let runs = (0..4).map(|_| {
            let start = Instant::now();
            work();
            start.elapsed().as_secs_f64() * 1e3
        });
        runs.fold(f64::INFINITY, f64::min)
    };
    for train_head in [true, false] {
        for entropy in [Entropy::Skip, Entropy::Value, Entropy::Differentiable] {
            let dense = time(&|| run(&problem, 1.0, entropy, None));
            let dense_peak = peak(|| run(&problem, 1.0, entropy, None)) >> 20;
            print!("train_head {train_head} {entropy:?}: dense {dense:.0} ms {dense_peak} MiB;");
            for chunk in [128, 512] {
                let options = HeadOptions { chunk, train_head, ..Default::default() };
                let chunked = time(&|| run(&problem, 1.0, entropy, Some(options)));
                let chunked_peak = peak(|| run(&problem, 1.0, entropy, Some(options))) >> 20;
                print!(" {chunk}: {chunked:.0} ms ({:.2}) {chunked_peak} MiB;", chunked / dense);
            }
            println!();
        }
    }
    let fused = time(&|| {
        let (values, gradients) = value_and_grad(
            |inputs| {
                let losses = fast::cross_entropy(&inputs[0].matmul(&inputs[1].t()?)?, &problem.ids)?;
                Ok(vec![losses.multiply(&problem.cotangents[0])?.sum_all()?])
            },
            &[problem.hidden.clone(), problem.weight.clone()],
            &[0, 1],
        )
        .unwrap();
        let results = [values, gradients].concat();
        eval(&results).unwrap();
        results
    });
    println!("dense with mlx_fast_cross_entropy: {fused:.0} ms");
}

#[test]
fn a_head_with_an_adapter_agrees_with_its_dense_logits() {
    let how = Quantization::new(QuantizationMode::Affine, Some(32), Some(8)).unwrap();
    let problem = problem(19, 64, 53);
    for (packed, dora, tied, temperature) in [
        (false, false, false, 1.0),
        (true, false, true, 0.7),
        (false, true, false, 0.7),
        (true, true, false, 1.3),
        (false, true, true, 0.7),
    ] {
        let plain = Weight::from(problem.weight.clone());
        let weight = if packed { plain.pack(how).unwrap() } else { plain };
        let noise = |shape: &[i32], seed| random::normal(0.0, 0.2, shape, Dtype::Float32, &random::key(seed).unwrap()).unwrap();
        let mut lora = Lora::of(noise(&[3, 64], 5), noise(&[53, 3], 6), 1.5);
        if dora {
            let mut dora = Dora::new(&weight, tied).unwrap();
            dora.magnitude = dora.magnitude.multiply(&noise(dora.magnitude.shape(), 7).add_scalar(1.0).unwrap()).unwrap();
            lora.dora = Some(dora);
        }
        let mut inputs = vec![problem.hidden.clone()];
        lora.visit("", &mut |_, part| inputs.push(part.clone()));
        let argnums: Vec<i32> = (0..inputs.len() as i32).collect();
        let run = |chunked: bool, entropy: Entropy| {
            let scored = |inputs: &[Array]| {
                let (mut lora, mut given) = (lora.clone(), inputs[1..].iter());
                lora.visit_mut("", &mut |_, part| *part = given.next().unwrap().clone());
                let head = if tied { Head::tied(&weight, Some(&lora)) } else { Head::own(&weight, Some(&lora)) };
                let (logps, entropies) = if chunked {
                    let options = HeadOptions { temperature, entropy, chunk: 5, train_head: false };
                    let got = head_logprobs(&inputs[0], head, &problem.ids, &options)?;
                    (got.logps, got.entropies)
                } else {
                    let logits = head.project(&inputs[0])?;
                    let entropies = (entropy != Entropy::Skip).then(|| entropy_from_logits(&logits, temperature)).transpose()?;
                    (selective_log_softmax(&logits, &problem.ids, temperature)?, entropies)
                };
                let mut sum = logps.multiply(&problem.cotangents[0])?.sum_all()?;
                if let (Some(entropies), Entropy::Differentiable) = (&entropies, entropy) {
                    sum = sum.add(&entropies.multiply(&problem.cotangents[1])?.sum_all()?)?;
                }
                Ok([vec![sum, logps], entropies.into_iter().collect()].concat())
            };
            let (values, gradients) = value_and_grad(scored, &inputs, &argnums).unwrap();
            [values, gradients].concat()
        };
        for entropy in [Entropy::Skip, Entropy::Value, Entropy::Differentiable] {
            let (found, want) = (run(true, entropy), run(false, entropy));
            assert_eq!(found.len(), want.len());
            for (index, (found, want)) in found.iter().zip(&want).enumerate() {
                // Sums of 64 or 53 products of about 1, in another order.
                assert_close(found, want, 2e-4, 2e-4, &format!("{packed} {dora} {tied} {entropy:?}: output {index}"));
            }
        }
    }
}
