//! What stands in for kernels of MLX 0.32.2's CUDA backend that are wrong, or that add up in another order each time. Measured on an H100.

use mlx_sys as sys;

use super::device::Device;
use super::ops::{self, Quantization};
use super::{Array, Dtype, Result, stream, transforms};

/// Numbers that MLX's kernels read at once.
const VECTOR: i32 = 8;
/// Ids compared with all others at a time: bounds the memory of `embedding`'s gradient.
const BLOCK: i32 = 4096;

/// Whether this thread's operations run on the CUDA backend.
fn active() -> bool {
    sys::CUDA && stream::default_device() == Device::Gpu
}

/// The input gradient of `fast::layer_norm` is wrong where the last axis is no multiple of what its kernel reads at once (6: off by 60 %).
pub(super) fn layer_norm_is_wrong(width: i32) -> bool {
    active() && width % VECTOR != 0
}

/// `fast::layer_norm` in plain operations.
pub(super) fn layer_norm(x: &Array, weight: Option<&Array>, bias: Option<&Array>, eps: f32) -> Result<Array> {
    let wide = x.astype(Dtype::Float32)?;
    let centred = wide.subtract(&wide.mean(&[-1], true)?)?;
    let variance = centred.square()?.mean(&[-1], true)?;
    let mut y = centred.multiply(&variance.add(&Array::scalar(eps))?.rsqrt()?)?;
    if let Some(weight) = weight {
        y = y.multiply(weight)?;
    }
    if let Some(bias) = bias {
        y = y.add(bias)?;
    }
    y.astype(x.dtype())
}

/// The kernel of a Hadamard transform of 12, 20 or 28 numbers does not compile; those with a further power of two do.
pub(super) fn hadamard_fails(size: i32) -> bool {
    active() && matches!(size, 12 | 20 | 28)
}

/// The stream for a product: those of empty matrices crash the process on the GPU.
pub(super) fn product_stream(operands: &[&Array]) -> sys::mlx_stream {
    if active() && operands.iter().any(|operand| operand.size() == 0) { stream::cpu() } else { stream::current() }
}

/// `quantized_matmul` is wrong from the second row on where a row of the weight is a single group.
pub(super) fn product_is_wrong(scales: &Array) -> bool {
    active() && scales.dim(-1) == 1
}

/// `quantized_matmul` with the weight unpacked.
pub(super) fn quantized_matmul(
    x: &Array,
    w: &Array,
    scales: &Array,
    biases: Option<&Array>,
    transpose: bool,
    how: Quantization,
) -> Result<Array> {
    let weight = ops::dequantize(w, scales, biases, how, None, Some(x.dtype()))?;
    x.matmul(&if transpose { weight.swapaxes(-1, -2)? } else { weight })
}

/// `quantized_matmul` finds no kernel for several matrices that lie apart, as a cache's do in its larger buffer.
pub(super) fn product_needs_them_together(w: &Array) -> bool {
    active() && w.ndim() > 2
}

/// `gather_mm` computes wrong numbers, or reads at addresses that end the process, where rows are no multiple of what its kernels read at
/// once (3 in float32, 4 in bfloat16: the factors of adapters of small rank).
pub(super) fn gather_mm_is_wrong(a: &Array, b: &Array) -> bool {
    active() && (a.dim(-1) % VECTOR != 0 || b.dim(-1) % VECTOR != 0)
}

/// The operands of a `gather_mm` filled up with zeros to whole vectors; of the product only the first columns count.
pub(super) fn whole_vectors(a: &Array, b: &Array) -> Result<[Array; 2]> {
    let missing = |size: i32| (VECTOR - size % VECTOR) % VECTOR;
    let filled = |array: &Array, rows: i32, columns: i32| {
        let mut high = vec![0; array.ndim()];
        let ends = array.ndim() - 2;
        (high[ends], high[ends + 1]) = (rows, columns);
        array.pad(&vec![0; array.ndim()], &high, 0.0)
    };
    let inner = missing(a.dim(-1));
    Ok([filled(a, 0, inner)?, filled(b, inner, missing(b.dim(-1)))?])
}

/// Rows of a `table` `[V, D]` by int32 `ids`: `[.., D]`. On CUDA the gradient of `take` adds up in another order each time, so that
/// no run could be repeated; this one is the same every time.
pub(crate) fn embedding(table: &Array, ids: &Array) -> Result<Array> {
    if active() { embedding_in_order(table, ids) } else { table.take(ids, 0) }
}

fn embedding_in_order(table: &Array, ids: &Array) -> Result<Array> {
    let places = ids.clone();
    let forward = |inputs: &[Array]| Ok(vec![inputs[0].take(&inputs[1], 0)?]);
    let gradient = move |inputs: &[Array], cotangents: &[Array], _: &[Array]| {
        Ok(vec![embedding_gradient(&inputs[0], &places, &cotangents[0])?, ops::zeros_like(&places)?])
    };
    Ok(transforms::custom_vjp(forward, gradient, &[table.clone(), ids.clone()])?.swap_remove(0))
}

/// Every position gets the sum over all positions of its id, as a product with a matrix of equal ids; then each row is written as
/// often as its id occurs, with the same numbers.
fn embedding_gradient(table: &Array, ids: &Array, cotangent: &Array) -> Result<Array> {
    let (count, width) = (ids.size() as i32, table.dim(1));
    let ids = ids.reshape(&[count])?.astype(Dtype::Int32)?;
    let ids = ops::where_(&ids.less(&Array::scalar_i32(0))?, &ids.add(&Array::scalar_i32(table.dim(0)))?, &ids)?;
    let cotangent = cotangent.reshape(&[count, width])?.astype(Dtype::Float32)?;
    let mut sums = ops::zeros(&[count, width], Dtype::Float32)?;
    for start in (0..count).step_by(BLOCK as usize) {
        let stop = count.min(start + BLOCK);
        let equal = ids.reshape(&[count, 1])?.equal(&ids.slice_axis(0, start, stop)?.reshape(&[1, stop - start])?)?;
        sums = sums.add(&equal.astype(Dtype::Float32)?.matmul(&cotangent.slice_axis(0, start, stop)?)?)?;
    }
    let rows = ids.reshape(&[count, 1])?.broadcast_to(&[count, width])?;
    ops::zeros_like(table)?.put_along_axis(&rows, &sums.astype(table.dtype())?, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mlx::{fast, random};
    use crate::testing::assert_close;

    fn noise(shape: &[i32], seed: u64) -> Array {
        random::normal(0., 1., shape, Dtype::Float32, &random::key(seed).unwrap()).unwrap()
    }

    #[test]
    fn layer_norm_is_that_of_the_kernel() {
        let (x, weight, bias) = (noise(&[3, 6], 1), noise(&[6], 2), noise(&[6], 3));
        let fast = fast::layer_norm(&x, Some(&weight), Some(&bias), 1e-5).unwrap();
        assert_close(&layer_norm(&x, Some(&weight), Some(&bias), 1e-5).unwrap(), &fast, 1e-6, 1e-6, "layer_norm");
        assert_close(
            &layer_norm(&x, None, None, 1e-5).unwrap(),
            &fast::layer_norm(&x, None, None, 1e-5).unwrap(),
            1e-6,
            1e-6,
            "plain",
        );
    }

    #[test]
    fn gradient_of_an_embedding_is_that_of_take() {
        let (table, weights) = (noise(&[7, 5], 1), noise(&[3, 4, 5], 2));
        let ids = Array::from_slice(&[0, 6, -1, 2, 0, 6, 1, 1, 4, 6, 0, 3], &[3, 4]).unwrap();
        let gradient = |lookup: fn(&Array, &Array) -> Result<Array>| {
            let (ids, weights) = (ids.clone(), weights.clone());
            let loss = move |inputs: &[Array]| Ok(vec![lookup(&inputs[0], &ids)?.multiply(&weights)?.sum_all()?]);
            transforms::value_and_grad(loss, std::slice::from_ref(&table), &[0]).unwrap().1.swap_remove(0)
        };
        let ordered = gradient(embedding_in_order);
        assert_close(&ordered, &gradient(|table, ids| table.take(ids, 0)), 1e-5, 1e-5, "embedding");
        assert_eq!(ordered.to_vec::<f32>().unwrap(), gradient(embedding_in_order).to_vec::<f32>().unwrap());
    }
}
