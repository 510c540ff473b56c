//! Packed and gathered matrices beyond the recorded cases: those that MLX's CPU code does not take as they are.

use crate::mlx::ops::{self, Quantization, QuantizationMode, Quantized};
use crate::mlx::{Array, Dtype, random, vjp};
use crate::testing::assert_close;

fn noise(shape: &[i32], seed: u64) -> Array {
    random::normal(0., 1., shape, Dtype::Float32, &random::key(seed).unwrap()).unwrap()
}

#[test]
fn an_odd_number_of_groups_is_packed_like_an_even_one() {
    let how = Quantization::new(QuantizationMode::Nvfp4, None, None).unwrap();
    let numbers = |codes: &Quantized, scale: Option<&Array>| {
        ops::dequantize(&codes.weight, &codes.scales, None, how, scale, Some(Dtype::Float32)).unwrap()
    };
    for width in [16, 48, 80] {
        // Twice the same rows: an even number of groups, which MLX packs itself.
        let w = noise(&[3, width], 1);
        let twice = ops::concatenate(&[w.clone(), w.clone()], 0).unwrap();
        for scale in [None, Some(w.abs().unwrap().max_all().unwrap())] {
            let (odd, even) =
                (ops::quantize(&w, how, scale.as_ref()).unwrap(), ops::quantize(&twice, how, scale.as_ref()).unwrap());
            let half = |part: &Array| part.slice_axis(0, 0, 3).unwrap();
            assert_eq!(odd.weight.to_vec::<u32>().unwrap(), half(&even.weight).to_vec::<u32>().unwrap());
            assert_eq!(odd.scales.to_vec::<u8>().unwrap(), half(&even.scales).to_vec::<u8>().unwrap());
            assert_eq!((odd.weight.shape(), odd.scales.shape()), (&[3, width / 8][..], &[3, width / 16][..]));
            let (found, want) = (numbers(&odd, scale.as_ref()), half(&numbers(&even, scale.as_ref())));
            assert_close(&found, &want, 0., 0., "numbers");
            // A step of e2m1 is at most 2 where the largest is 6, and the scale is e4m3, off by a 16th: a quarter of the
            // largest number, which is below 4.5.
            assert_close(&found, &w, 0.25 * 4.5, 0., "near the original");
        }
        // Experts, whose rows are odd only together, and rows of a table one at a time.
        let stack = ops::quantize(&noise(&[3, 1, width], 2), how, None).unwrap();
        assert_eq!(numbers(&stack, None).shape(), [3, 1, width]);
        let table = ops::quantize(&noise(&[4, width], 3), how, None).unwrap();
        for ids in [vec![2], vec![3, 0, 3]] {
            let ids = Array::from_slice(&ids, &[ids.len() as i32]).unwrap();
            let rows = crate::nn::quantized_embedding(&ids, &table, how).unwrap().astype(Dtype::Float32).unwrap();
            assert_close(&rows, &numbers(&table, None).take(&ids, 0).unwrap(), 0., 0., "rows");
        }
    }
}

#[test]
fn few_of_many_matrices_in_half_precision_are_those_of_all() {
    let indices = Array::from_slice(&[3u32, 25, 3, 0, 31, 25], &[3, 2]).unwrap();
    // Sums of 32 products of about 1, rounded to so many bits.
    for (dtype, unit) in [(Dtype::Bfloat16, 1. / 256.), (Dtype::Float16, 1. / 2048.)] {
        let (x, w) = (noise(&[3, 1, 1, 32], 1).astype(dtype).unwrap(), noise(&[32, 24, 32], 2).astype(dtype).unwrap());
        let product = |inputs: &[Array]| {
            let transposed = inputs[1].swapaxes(-1, -2)?;
            Ok(vec![ops::gather_mm(&inputs[0], &transposed, None, Some(&indices), false)?])
        };
        let cotangent = noise(&[3, 2, 1, 24], 3).astype(dtype).unwrap();
        let (found, gradients) = vjp(product, &[x.clone(), w.clone()], std::slice::from_ref(&cotangent)).unwrap();
        let wide = |array: &Array| array.astype(Dtype::Float32).unwrap();
        let (want, exact) = vjp(product, &[wide(&x), wide(&w)], &[wide(&cotangent)]).unwrap();
        assert_eq!((found[0].dtype(), found[0].shape()), (dtype, &[3, 2, 1, 24][..]));
        assert_close(&wide(&found[0]), &want[0], unit * 8., unit, "product");
        for (found, exact) in gradients.iter().zip(&exact) {
            assert_eq!(found.dtype(), dtype);
            // The sum over the two that chose an expert is of rounded ones.
            assert_close(&wide(found), exact, unit * 24., 2. * unit, "gradient");
        }
        // Of two dtypes the result is float32, as of a product over all.
        let mixed = product(&[wide(&x), w.clone()]).unwrap();
        assert_eq!(mixed[0].dtype(), Dtype::Float32);
        assert_close(&mixed[0], &want[0], 1e-4, 1e-5, "mixed");
    }
}
