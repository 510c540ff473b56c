//! Random numbers from explicit keys. There is no global state: the same key gives the same numbers, on any thread.

use mlx_sys as sys;

use super::array::{element_count, output};
use super::error::check;
use super::{Array, Dtype, Result, stream};

/// A key (uint32 `[2]`) from a seed.
pub fn key(seed: u64) -> Result<Array> {
    // SAFETY: a plain number.
    output(|result| unsafe { sys::mlx_random_key(result, seed) })
}

/// Two independent keys from one. Use each key once.
pub fn split(key: &Array) -> Result<(Array, Array)> {
    let mut first = Array(unsafe { sys::mlx_array_new() });
    let mut second = Array(unsafe { sys::mlx_array_new() });
    // SAFETY: fills two empty handles.
    check(unsafe { sys::mlx_random_split(&mut first.0, &mut second.0, key.0, stream::current()) })?;
    Ok((first, second))
}

/// `count` independent keys, `[count, 2]`.
pub fn split_many(key: &Array, count: i32) -> Result<Array> {
    // SAFETY: valid handle.
    output(|result| unsafe { sys::mlx_random_split_num(result, key.0, count, stream::current()) })
}

/// Uniform in `[low, high)`.
pub fn uniform(low: f32, high: f32, shape: &[i32], dtype: Dtype, key: &Array) -> Result<Array> {
    element_count(shape)?;
    let (low, high) = (Array::scalar(low), Array::scalar(high));
    // SAFETY: the shape lives during the call.
    output(|result| unsafe {
        sys::mlx_random_uniform(result, low.0, high.0, shape.as_ptr(), shape.len(), dtype.raw(), key.0, stream::current())
    })
}

pub fn normal(mean: f32, std: f32, shape: &[i32], dtype: Dtype, key: &Array) -> Result<Array> {
    element_count(shape)?;
    // SAFETY: the shape lives during the call.
    output(|result| unsafe {
        sys::mlx_random_normal(result, shape.as_ptr(), shape.len(), dtype.raw(), mean, std, key.0, stream::current())
    })
}

/// Integers in `[low, high)`.
pub fn randint(low: i32, high: i32, shape: &[i32], dtype: Dtype, key: &Array) -> Result<Array> {
    element_count(shape)?;
    let (low, high) = (Array::scalar_i32(low), Array::scalar_i32(high));
    // SAFETY: the shape lives during the call.
    output(|result| unsafe {
        sys::mlx_random_randint(result, low.0, high.0, shape.as_ptr(), shape.len(), dtype.raw(), key.0, stream::current())
    })
}

/// True with the given probability.
pub fn bernoulli(probability: f32, shape: &[i32], key: &Array) -> Result<Array> {
    element_count(shape)?;
    let probability = Array::scalar(probability);
    // SAFETY: the shape lives during the call.
    output(|result| unsafe {
        sys::mlx_random_bernoulli(result, probability.0, shape.as_ptr(), shape.len(), key.0, stream::current())
    })
}

pub fn gumbel(shape: &[i32], dtype: Dtype, key: &Array) -> Result<Array> {
    element_count(shape)?;
    // SAFETY: the shape lives during the call.
    output(|result| unsafe { sys::mlx_random_gumbel(result, shape.as_ptr(), shape.len(), dtype.raw(), key.0, stream::current()) })
}

/// One index (uint32) per row, drawn from `softmax(logits)` along an axis.
pub fn categorical(logits: &Array, axis: i32, key: &Array) -> Result<Array> {
    // SAFETY: valid handles.
    output(|result| unsafe { sys::mlx_random_categorical(result, logits.0, axis, key.0, stream::current()) })
}

/// `0..count` in random order.
pub fn permutation(count: i32, key: &Array) -> Result<Array> {
    // SAFETY: valid handle.
    output(|result| unsafe { sys::mlx_random_permutation_arange(result, count, key.0, stream::current()) })
}
