//! Layers, activations and losses against mlx.nn: `__test__/fixtures/nn`, made by the script beside it.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use super::activations::{self as act, GeluApprox, gelu};
use super::losses::{self, CrossEntropy, Reduction, Triplet};
use super::*;
use crate::mlx::ops::{Quantization, QuantizationMode, Quantized};
use crate::mlx::{Dtype, Error, Result, fast, kernels, ops, random, value_and_grad};
use crate::testing::{assert_close, load_tensors};

type Inputs = HashMap<String, Array>;

/// One case applied to inputs by name; `None` for an operation that these tests do not know.
fn apply(op: &str, args: &Value, inputs: &Inputs) -> Option<Result<Array>> {
    let number = |name: &str| args[name].as_f64().unwrap_or_else(|| panic!("{op} has no {name}")) as f32;
    let int = |name: &str| args[name].as_i64().unwrap_or_else(|| panic!("{op} has no {name}")) as i32;
    let flag = |name: &str| args[name].as_bool().unwrap_or_else(|| panic!("{op} has no {name}"));
    let input = |name: &str| &inputs[name];
    let maybe = |name: &str| inputs.get(name);
    let reduction = || Reduction::parse(args["reduction"].as_str().unwrap()).unwrap();
    Some(match op {
        "relu" => act::relu(input("x")),
        "relu2" => act::relu2(input("x")),
        "relu6" => act::relu6(input("x")),
        "leaky_relu" => act::leaky_relu(input("x"), number("negative_slope")),
        "elu" => act::elu(input("x"), number("alpha")),
        "celu" => act::celu(input("x"), number("alpha")),
        "selu" => act::selu(input("x")),
        "gelu" => gelu(input("x"), GeluApprox::None),
        "gelu_approx" => gelu(input("x"), GeluApprox::Tanh),
        "gelu_fast_approx" => gelu(input("x"), GeluApprox::Fast),
        "silu" => input("x").silu(),
        "sigmoid" => input("x").sigmoid(),
        "tanh" => input("x").tanh(),
        "softplus" => act::softplus(input("x")),
        "log_sigmoid" => act::log_sigmoid(input("x")),
        "softsign" => act::softsign(input("x")),
        "mish" => act::mish(input("x")),
        "hardswish" => act::hardswish(input("x")),
        "hard_tanh" => act::hard_tanh(input("x"), number("min_val"), number("max_val")),
        "hard_shrink" => act::hard_shrink(input("x"), number("lambd")),
        "softshrink" => act::softshrink(input("x"), number("lambd")),
        "step" => act::step(input("x"), number("threshold")),
        "glu" => act::glu(input("x"), int("axis")),
        "softmin" => act::softmin(input("x"), int("axis")),
        "softmax" => input("x").softmax(int("axis")),
        "log_softmax" => act::log_softmax(input("x"), int("axis")),
        "prelu" => act::prelu(input("x"), input("alpha")),
        "cross_entropy" => losses::cross_entropy(
            input("logits"),
            input("targets"),
            &CrossEntropy {
                weights: maybe("weights"),
                axis: args["axis"].as_i64().map_or(-1, |axis| axis as i32),
                label_smoothing: args["label_smoothing"].as_f64().unwrap_or(0.0) as f32,
                reduction: reduction(),
            },
        ),
        "binary_cross_entropy" => {
            losses::binary_cross_entropy(input("inputs"), input("targets"), maybe("weights"), flag("with_logits"), reduction())
        }
        "l1_loss" => losses::l1_loss(input("predictions"), input("targets"), reduction()),
        "mse_loss" => losses::mse_loss(input("predictions"), input("targets"), reduction()),
        "nll_loss" => losses::nll_loss(input("inputs"), input("targets"), int("axis"), reduction()),
        "gaussian_nll_loss" => {
            let (full, eps) = (flag("full"), number("eps"));
            losses::gaussian_nll_loss(input("inputs"), input("targets"), input("vars"), full, eps, reduction())
        }
        "kl_div_loss" => losses::kl_div_loss(input("inputs"), input("targets"), int("axis"), reduction()),
        "smooth_l1_loss" => losses::smooth_l1_loss(input("predictions"), input("targets"), number("beta"), reduction()),
        "huber_loss" => losses::huber_loss(input("inputs"), input("targets"), number("delta"), reduction()),
        "triplet_loss" => losses::triplet_loss(
            input("anchors"),
            input("positives"),
            input("negatives"),
            &Triplet { axis: int("axis"), p: number("p"), margin: number("margin"), eps: number("eps"), reduction: reduction() },
        ),
        "hinge_loss" => losses::hinge_loss(input("inputs"), input("targets"), reduction()),
        "log_cosh_loss" => losses::log_cosh_loss(input("inputs"), input("targets"), reduction()),
        "cosine_similarity_loss" => {
            losses::cosine_similarity_loss(input("x1"), input("x2"), int("axis"), number("eps"), reduction())
        }
        "margin_ranking_loss" => {
            losses::margin_ranking_loss(input("inputs1"), input("inputs2"), input("targets"), number("margin"), reduction())
        }
        "layer_norm" => layer_norm(input("x"), maybe("weight"), maybe("bias"), number("eps")),
        "group_norm" => {
            let (groups, eps, pytorch) = (int("groups"), number("eps"), flag("pytorch_compatible"));
            group_norm(input("x"), groups, maybe("weight"), maybe("bias"), eps, pytorch)
        }
        "rope" => fast::rope_with(
            input("x"),
            int("dims"),
            flag("traditional"),
            fast::RopeFrequencies::Base(number("base")),
            number("scale"),
            fast::RopeOffset::Same(int("offset")),
        ),
        "quantized_linear" | "quantized_embedding" => {
            let mode = QuantizationMode::parse(args["mode"].as_str().unwrap()).unwrap();
            let how = Quantization::new(mode, Some(int("group_size")), Some(int("bits"))).unwrap();
            let parts = [input("weight"), input("scales")].map(Array::clone);
            let [weight, scales] = parts;
            let packed = Quantized { weight, scales, biases: maybe("biases").cloned() };
            match maybe("ids") {
                Some(ids) => quantized_embedding(ids, &packed, how),
                None => quantized_linear(input("x"), &packed, maybe("bias"), how),
            }
        }
        _ => return None,
    })
}

/// Runs the cases of the kinds and returns how many there were.
fn run(kind: &str) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("__test__/fixtures/nn");
    let file: Value = serde_json::from_str(&std::fs::read_to_string(folder.join("cases.json")).unwrap()).unwrap();
    let tensors = load_tensors(folder.join("tensors.safetensors"));
    let cases: Vec<&Value> = file["cases"].as_array().unwrap().iter().filter(|case| case["kind"] == kind).collect();
    for case in &cases {
        let (name, op, args) = (case["name"].as_str().unwrap(), case["op"].as_str().unwrap(), &case["args"]);
        let names = |key: &str| -> Vec<String> {
            case[key].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_string()).collect()
        };
        let inputs: Inputs =
            names("inputs").into_iter().map(|key| (key.clone(), tensors[&format!("{name}/in/{key}")].clone())).collect();
        let tolerance = |key: &str| case["tolerance"][key].as_f64().unwrap() as f32;
        let call = |inputs: &Inputs| apply(op, args, inputs).unwrap_or_else(|| panic!("no test applies {op}"));
        let (y, wanted) = (call(&inputs).unwrap(), &tensors[&format!("{name}/out/y")]);
        assert_eq!(y.dtype(), wanted.dtype(), "{name}");
        assert_close(&y, wanted, tolerance("atol"), tolerance("rtol"), name);
        let differentiated = names("differentiate");
        if differentiated.is_empty() {
            continue;
        }
        let cotangent = &tensors[&format!("{name}/in/cotangent")];
        let at: Vec<Array> = differentiated.iter().map(|key| inputs[key].clone()).collect();
        let argnums: Vec<i32> = (0..at.len() as i32).collect();
        let scalar = |given: &[Array]| {
            let mut inputs = inputs.clone();
            inputs.extend(differentiated.iter().cloned().zip(given.iter().cloned()));
            Ok(vec![call(&inputs)?.multiply(cotangent)?.sum_all()?])
        };
        for (key, gradient) in differentiated.iter().zip(value_and_grad(scalar, &at, &argnums).unwrap().1) {
            let wanted = &tensors[&format!("{name}/grad/{key}")];
            // Sums of more terms than the outputs.
            assert_close(
                &gradient,
                wanted,
                5.0 * tolerance("atol"),
                5.0 * tolerance("rtol"),
                &format!("{name}, gradient of {key}"),
            );
        }
    }
    cases.len()
}

#[test]
fn activations_agree_with_mlx() {
    assert!(run("activation") > 100);
}

#[test]
fn losses_agree_with_mlx() {
    assert!(run("loss") > 50);
}

#[test]
fn layers_agree_with_mlx() {
    assert!(run("layer") > 6);
}

#[test]
fn rotations_agree_with_mlx() {
    assert_eq!(run("rope"), 8);
}

#[test]
fn the_kernel_rotates_part_of_a_head() {
    let x = random::normal(0., 1., &[2, 3, 5, 16], Dtype::Float32, &random::key(1).unwrap()).unwrap();
    let wavelengths = vector(&[1., 10., 100., 1000.]);
    let mlx = fast::rope(&x, 8, fast::RopeFrequencies::Table(&wavelengths), 0.5, fast::RopeOffset::Same(7)).unwrap();
    let ours = kernels::rope(&x, 8, &wavelengths, 0.5, fast::RopeOffset::Same(7)).unwrap();
    assert_close(&ours, &mlx, 1e-5, 1e-5, "the first 8 of 16");
}

#[test]
fn quantised_layers_agree_with_mlx() {
    assert_eq!(run("quantized"), 18);
}

#[test]
fn packed_layers_are_their_functions() {
    let how = Quantization::new(QuantizationMode::Affine, Some(32), Some(8)).unwrap();
    let noise = |shape: &[i32], seed| random::normal(0., 1., shape, Dtype::Float32, &random::key(seed).unwrap()).unwrap();
    let numbers = noise(&[8, 64], 1);
    let linear = Linear { weight: numbers.clone().into(), bias: Some(noise(&[8], 2)), lora: None };
    let x = noise(&[3, 64], 3);
    let packed = Linear { weight: linear.weight.pack(how).unwrap(), ..linear.clone() };
    // A weight is off by at most half of a step of (max - min) / 255, about 0.01; 64 of them add up like a random walk.
    assert_close(&packed.forward(&x).unwrap(), &linear.forward(&x).unwrap(), 0.4, 0., "linear");
    let table = Embedding { weight: linear.weight.clone(), lora: None };
    let packed = Embedding { weight: table.weight.pack(how).unwrap(), lora: None };
    assert_eq!(packed.weight.shape(), [8, 64]);
    assert_close(&packed.weight.numbers().unwrap(), &numbers, 0.02, 0., "numbers");
    for ids in [Array::from_slice(&[7i32, 0], &[1, 2]).unwrap(), Array::scalar_i32(3)] {
        assert_close(&packed.forward(&ids).unwrap(), &table.forward(&ids).unwrap(), 0.02, 0., "embedding");
    }
    let scores = x.matmul(&numbers.t().unwrap()).unwrap();
    let tied = packed.weight.project(&x).unwrap();
    assert_close(&tied, &scores, 0.4, 0., "tied");
    // Eight numbers back through what they came from, of packed numbers that are off by half a step each.
    let (back, want) = (packed.weight.project_back(&tied).unwrap(), tied.matmul(&packed.weight.numbers().unwrap()).unwrap());
    assert_close(&back, &want, 1e-3, 1e-5, "back");
    let Weight::Packed(Packed { codes, .. }) = &packed.weight else { panic!("not packed") };
    let beyond = quantized_embedding(&Array::from_slice(&[-1i32, 100], &[2]).unwrap(), codes, how).unwrap();
    let last = packed.forward(&Array::from_slice(&[7i32, 7], &[2]).unwrap()).unwrap();
    assert_close(&beyond, &last, 0., 0., "ids outside");
    let mut names = Vec::new();
    packed.visit("embed_tokens", &mut |name, _| names.push(name));
    assert_eq!(names, ["embed_tokens.weight", "embed_tokens.scales", "embed_tokens.biases"]);
    let wrong = quantized_linear(&x, codes, Some(&noise(&[1], 1)), how);
    assert_eq!(wrong.unwrap_err().code(), "ERR_MLX_SHAPE");
}

fn vector(values: &[f32]) -> Array {
    Array::from_slice(values, &[values.len() as i32]).unwrap()
}

fn gradient(function: impl Fn(&Array) -> Result<Array>, x: &Array) -> Vec<f32> {
    let scalar = |x: &[Array]| Ok(vec![function(&x[0])?.sum_all()?]);
    value_and_grad(scalar, std::slice::from_ref(x), &[0]).unwrap().1[0].to_f32().unwrap()
}

#[test]
fn gradients_are_finite_where_a_formula_is_not() {
    let far = vector(&[1000., -1000., 0.]);
    assert_eq!(gradient(|x| act::elu(x, 1.), &far), [1., 0., 1.]);
    assert_eq!(gradient(|x| act::celu(x, 1.), &far)[..2], [1., 0.]);
    assert!(gradient(act::selu, &far).iter().all(|value| value.is_finite()));
    assert!(gradient(act::softplus, &far).iter().all(|value| value.is_finite()));
    let targets = vector(&[1., 0., 1.]);
    let bce = |x: &Array| losses::binary_cross_entropy(x, &targets, None, false, Reduction::None);
    assert!(gradient(bce, &vector(&[0., 1., 0.5])).iter().all(|value| value.is_finite()));
    let zeros = ops::zeros(&[1, 3], Dtype::Float32).unwrap();
    let other = vector(&[1., 2., 2.]).reshape(&[1, 3]).unwrap();
    let cosine = |x: &Array| losses::cosine_similarity_loss(x, &other, 1, 1e-8, Reduction::None);
    assert!(gradient(cosine, &zeros).iter().all(|value| value.is_finite()));
    let l1 = losses::smooth_l1_loss(&vector(&[1., -3.]), &vector(&[0., 0.]), 0.0, Reduction::Sum).unwrap();
    assert_eq!(l1.item().unwrap(), 4.);
}

#[test]
fn half_precision_losses_are_float32() {
    let logits = random::normal(0., 1., &[4, 9], Dtype::Bfloat16, &random::key(1).unwrap()).unwrap();
    let targets = Array::from_slice(&[0i32, 3, 8, 2], &[4]).unwrap();
    let loss = |logits: &Array| losses::cross_entropy(logits, &targets, &CrossEntropy::default()).unwrap();
    let found = loss(&logits);
    assert_eq!(found.dtype(), Dtype::Float32);
    assert_close(&found, &loss(&logits.astype(Dtype::Float32).unwrap()), 0., 0., "the same arithmetic");
}

#[test]
fn integers_pass_through_relu() {
    let x = Array::from_slice(&[-2i32, 3], &[2]).unwrap();
    let y = act::relu(&x).unwrap();
    assert_eq!((y.dtype(), y.to_i32().unwrap()), (Dtype::Int32, vec![0, 3]));
    assert_eq!(gelu(&x, GeluApprox::None).unwrap().dtype(), Dtype::Float32);
}

#[test]
fn dropout_keeps_the_mean_and_its_own_key() {
    let x = ops::ones(&[100_000], Dtype::Float32).unwrap();
    let draw = |seed| dropout(&x, 0.25, &random::key(seed).unwrap()).unwrap().to_f32().unwrap();
    let y = draw(5);
    let dropped = y.iter().filter(|&&value| value == 0.).count() as f64 / y.len() as f64;
    // Six standard deviations of a share of 100 000.
    assert!((dropped - 0.25).abs() < 6. * (0.25f64 * 0.75 / 1e5).sqrt(), "{dropped}");
    assert!(y.iter().all(|&value| value == 0. || (value - 4. / 3.).abs() < 1e-6));
    assert_eq!(y, draw(5));
    assert_ne!(y, draw(6));
    let key = random::key(5).unwrap();
    assert_eq!(gradient(|x| dropout(x, 0.25, &key), &x), y);
    let infinite = dropout(&ops::full(&[1000], f64::INFINITY, Dtype::Float16).unwrap(), 0.5, &key).unwrap();
    assert_eq!(infinite.dtype(), Dtype::Float16);
    assert!(infinite.to_f32().unwrap().iter().all(|&value| value == 0. || value == f32::INFINITY));
    assert_eq!(dropout(&x, 0., &key).unwrap().to_f32().unwrap(), x.to_f32().unwrap());
    for p in [-0.1, 1., 2., f32::NAN] {
        assert_eq!(dropout(&x, p, &key).unwrap_err().code(), "ERR_MLX_ARGUMENT");
    }
}

#[test]
fn norm_layers_name_their_weights() {
    let names = |module: &dyn Module| {
        let mut names = Vec::new();
        module.visit("norm", &mut |name, _| names.push(name));
        names
    };
    let norm = LayerNorm::new(8, 1e-5, true, true, Dtype::Float32).unwrap();
    assert_eq!(names(&norm), ["norm.weight", "norm.bias"]);
    assert_eq!(names(&LayerNorm::new(8, 1e-5, true, false, Dtype::Float32).unwrap()), ["norm.weight"]);
    assert!(names(&GroupNorm::new(2, 8, 1e-5, false, true, Dtype::Float32).unwrap()).is_empty());
    let x = ops::ones(&[2, 3, 8], Dtype::Float32).unwrap();
    assert_eq!(norm.forward(&x).unwrap().shape(), [2, 3, 8]);
}

#[test]
fn what_does_not_fit_is_a_typed_error() {
    let (a, b) = (ops::ones(&[2, 3], Dtype::Float32).unwrap(), ops::ones(&[3, 2], Dtype::Float32).unwrap());
    let scalar = Array::scalar(1.);
    let floats = vector(&[0., 1.]);
    let classes = Array::from_slice(&[0i32, 1, 2], &[3]).unwrap();
    let smoothed = |label_smoothing| CrossEntropy { label_smoothing, ..Default::default() };
    let on_axis = |axis| CrossEntropy { axis, ..Default::default() };
    let none = Reduction::None;
    for (what, result, code) in [
        ("shapes", losses::mse_loss(&a, &b, none), "ERR_MLX_SHAPE"),
        ("broadcasting", losses::l1_loss(&a, &scalar, none), "ERR_MLX_SHAPE"),
        ("target count", losses::cross_entropy(&a, &classes, &CrossEntropy::default()), "ERR_MLX_SHAPE"),
        ("float classes", losses::cross_entropy(&a, &floats, &CrossEntropy::default()), "ERR_MLX_DTYPE"),
        ("smoothing", losses::cross_entropy(&a, &a, &smoothed(1.)), "ERR_MLX_ARGUMENT"),
        ("smoothing", losses::cross_entropy(&a, &a, &smoothed(f32::NAN)), "ERR_MLX_ARGUMENT"),
        ("axis", losses::cross_entropy(&a, &a, &on_axis(2)), "ERR_MLX_SHAPE"),
        ("axis", losses::cross_entropy(&a, &a, &on_axis(i32::MIN)), "ERR_MLX_SHAPE"),
        ("scalar", losses::cross_entropy(&scalar, &scalar, &CrossEntropy::default()), "ERR_MLX_SHAPE"),
        ("weights", losses::binary_cross_entropy(&a, &a, Some(&b), true, none), "ERR_MLX_SHAPE"),
        ("delta", losses::huber_loss(&a, &a, 0., none), "ERR_MLX_ARGUMENT"),
        ("beta", losses::smooth_l1_loss(&a, &a, -1., none), "ERR_MLX_ARGUMENT"),
        ("p", losses::triplet_loss(&a, &a, &a, &Triplet { p: 0., ..Default::default() }), "ERR_MLX_ARGUMENT"),
        ("glu", act::glu(&a, 1), "ERR_MLX_SHAPE"),
        ("glu", act::glu(&a, 7), "ERR_MLX_SHAPE"),
        ("celu", act::celu(&a, 0.), "ERR_MLX_ARGUMENT"),
        ("layer_norm", layer_norm(&scalar, None, None, 1e-5), "ERR_MLX_SHAPE"),
        ("layer_norm", layer_norm(&a, Some(&floats), None, 1e-5), "ERR_MLX_SHAPE"),
        ("group_norm", group_norm(&a, 2, None, None, 1e-5, true), "ERR_MLX_SHAPE"),
        ("group_norm", group_norm(&a, 0, None, None, 1e-5, false), "ERR_MLX_SHAPE"),
        ("group_norm", group_norm(&scalar, 1, None, None, 1e-5, false), "ERR_MLX_SHAPE"),
        ("group_norm", group_norm(&a, 1, Some(&floats), None, 1e-5, false), "ERR_MLX_SHAPE"),
    ] {
        let error: Error = result.expect_err(what);
        assert_eq!(error.code(), code, "{what}: {error}");
    }
    assert_eq!(Reduction::parse("average").unwrap_err().code(), "ERR_MLX_ARGUMENT");
    assert_eq!(GeluApprox::parse("erf").unwrap_err().code(), "ERR_MLX_ARGUMENT");
}
