//! Products with packed weights against products with the numbers that they stand for: values and gradients.
//!
//! On a GPU they are MLX's own operations, which the tests of the operations check.

use super::ops::{self, Gather, Quantization, QuantizationMode, Quantized};
use super::{Array, Dtype, Result, kernels, random, value_and_grad};
use crate::testing::on_gpu;

fn normal(seed: u64, shape: &[i32]) -> Array {
    random::normal(0., 1., shape, Dtype::Float32, &random::key(seed).unwrap()).unwrap()
}

/// Both sum the same products in float32, in another order, and packed ones are multiplied by their scale a group at a time: differences
/// of some `√K · 2⁻²⁴` of the largest values, where K is up to 1536: 2e-6, and a few times as much for the unluckiest of thousands.
#[track_caller]
fn close(found: &Array, wanted: &Array, what: &str) {
    assert_eq!(found.shape(), wanted.shape(), "{what}");
    let scale = wanted.to_f32().unwrap().iter().fold(1f32, |largest, value| largest.max(value.abs()));
    for (index, (found, wanted)) in found.to_f32().unwrap().iter().zip(wanted.to_f32().unwrap()).enumerate() {
        assert!((found - wanted).abs() <= 1e-5 * scale, "{what}: element {index}: {found} is not {wanted}");
    }
}

fn affine(group: i32, bits: i32) -> Quantization {
    Quantization::new(QuantizationMode::Affine, Some(group), Some(bits)).unwrap()
}

fn numbers(codes: &[Array], how: Quantization) -> Result<Array> {
    ops::dequantize(&codes[0], &codes[1], Some(&codes[2]), how, None, None)
}

fn parts(w: &Array, how: Quantization) -> Vec<Array> {
    let Quantized { weight, scales, biases } = ops::quantize(w, how, None).unwrap();
    vec![weight, scales, biases.unwrap()]
}

/// The gradients of a weighted sum of what the function gives.
fn gradients(inputs: &[Array], argnums: &[i32], seed: u64, function: impl Fn(&[Array]) -> Result<Array>) -> Vec<Array> {
    let weighted = |inputs: &[Array]| {
        let y = function(inputs)?;
        let weights = normal(seed, y.shape());
        Ok(vec![y.multiply(&weights)?.sum_all()?])
    };
    value_and_grad(weighted, inputs, argnums).unwrap().1
}

#[test]
fn products_are_those_of_the_numbers() {
    if on_gpu() {
        return;
    }
    for bits in [2, 3, 4, 5, 6, 8] {
        for group in [32, 64, 128] {
            let how = affine(group, bits);
            // Sizes that fill no tile, and enough rows for each way of computing.
            for (out, groups, rows) in [(7, 3, 1), (40, 1, 2), (5, 5, 3), (33, 2, 7), (130, 3, 13), (300, 12, 40)] {
                let width = groups * group;
                let mut inputs = vec![normal(1, &[rows, width])];
                inputs.extend(parts(&normal(2, &[out, width]), how));
                for transpose in [true, false] {
                    if !transpose {
                        inputs[0] = normal(3, &[rows, out]);
                    }
                    let what = format!("{bits} bits, groups of {group}, {rows} rows, [{out}, {width}], {transpose}");
                    let product = |inputs: &[Array]| {
                        ops::quantized_matmul(&inputs[0], &inputs[1], &inputs[2], Some(&inputs[3]), transpose, how)
                    };
                    let reference = |inputs: &[Array]| {
                        let w = numbers(&inputs[1..], how)?;
                        inputs[0].matmul(&if transpose { w.t()? } else { w })
                    };
                    assert!(
                        kernels::packed_product(&inputs[0], [&inputs[1], &inputs[2], &inputs[3]], None, how, transpose).is_some()
                    );
                    close(&product(&inputs).unwrap(), &reference(&inputs).unwrap(), &what);
                    let found = gradients(&inputs, &[0, 2, 3], 4, product);
                    for (found, wanted) in found.iter().zip(gradients(&inputs, &[0, 2, 3], 4, reference)) {
                        close(found, &wanted, &format!("gradients of {what}"));
                    }
                }
            }
        }
    }
}

#[test]
fn inputs_of_any_layout() {
    if on_gpu() {
        return;
    }
    let how = affine(32, 4);
    let w = parts(&normal(1, &[24, 96]), how);
    let of = |x: &Array| ops::quantized_matmul(x, &w[0], &w[1], Some(&w[2]), true, how).unwrap();
    let wanted = |x: &Array| x.matmul(&numbers(&w, how).unwrap().t().unwrap()).unwrap();
    let x = normal(2, &[96, 3, 2]).transpose(&[2, 1, 0]).unwrap();
    close(&of(&x), &wanted(&x), "transposed");
    let x = normal(3, &[96]);
    close(&of(&x), &wanted(&x), "a vector");
    let x = normal(4, &[1, 1, 96]).broadcast_to(&[2, 3, 96]).unwrap();
    close(&of(&x), &wanted(&x), "broadcast");
    // A part of the outputs: its codes begin in the middle of an array.
    let rows = Array::from_slice(&[3u32, 4, 5, 6], &[4]).unwrap();
    let some: Vec<Array> = w.iter().map(|part| part.take(&rows, 0).unwrap()).collect();
    let found = ops::quantized_matmul(&x, &some[0], &some[1], Some(&some[2]), true, how).unwrap();
    close(&found, &wanted(&x).take(&rows, -1).unwrap(), "some outputs");
}

#[test]
fn each_row_with_its_experts() {
    if on_gpu() {
        return;
    }
    let how = affine(32, 4);
    let (experts, out, width) = (5, 20, 64);
    let w = parts(&normal(1, &[experts, out, width]), how);
    let whole = numbers(&w, how).unwrap();
    // Rows with several experts each, sorted pairs, one expert for many rows; experts that no row meets.
    let cases: [(&[i32], Vec<u32>, &[i32]); 4] = [
        (&[3, 1, 1, 64], vec![4, 0, 1, 2, 4, 1], &[3, 2]),
        (&[6, 1, 64], vec![0, 0, 1, 3, 3, 3], &[6]),
        (&[30, 1, 64], vec![2; 30], &[30]),
        (&[1, 1, 1, 64], vec![3, 1, 4, 0], &[1, 4]),
    ];
    for (shape, indices, lead) in cases {
        for transpose in [true, false] {
            let indices = Array::from_slice(&indices, lead).unwrap();
            let x = if transpose { normal(2, shape) } else { normal(3, &[&shape[..shape.len() - 1], &[out]].concat()) };
            let gather = Gather { lhs: None, rhs: Some(&indices), transpose, sorted: false };
            let product = |inputs: &[Array]| ops::gather_qmm_trusted(&inputs[0], &w[0], &w[1], Some(&w[2]), how, gather);
            let reference = |inputs: &[Array]| {
                let chosen = whole.take(&indices, 0)?;
                inputs[0].matmul(&if transpose { chosen.swapaxes(-1, -2)? } else { chosen })
            };
            let what = format!("{shape:?} with {lead:?}, {transpose}");
            let inputs = [x];
            close(&product(&inputs).unwrap(), &reference(&inputs).unwrap(), &what);
            let found = gradients(&inputs, &[0], 4, product);
            close(&found[0], &gradients(&inputs, &[0], 4, reference)[0], &format!("gradient of {what}"));
        }
    }
}

#[test]
fn codes_have_no_gradient() {
    if on_gpu() {
        return;
    }
    let how = affine(32, 4);
    let w = parts(&normal(1, &[8, 32]), how);
    let x = normal(2, &[2, 32]);
    let product = |inputs: &[Array]| Ok(vec![ops::quantized_matmul(&x, &inputs[0], &w[1], Some(&w[2]), true, how)?.sum_all()?]);
    assert!(value_and_grad(product, &w[..1], &[0]).is_err());
}
