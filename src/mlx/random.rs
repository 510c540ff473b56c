//! Random numbers from explicit keys. There is no global state: the same key gives the same numbers, on any thread.

use mlx_sys as sys;

use super::array::{element_count, output, output_pair};
use super::ops::{check, zeros};
use super::{Array, Dtype, Error, Result, stream};

/// A key (uint32 `[2]`) from a seed.
pub fn key(seed: u64) -> Result<Array> {
    // SAFETY: a plain number.
    output(|result| unsafe { sys::mlx_random_key(result, seed) })
}

fn check_key(key: &Array) -> Result<()> {
    if key.dtype() == Dtype::Uint32 && key.shape() == [2] {
        return Ok(());
    }
    Err(Error::Argument(format!("random: a key is uint32 of shape [2], as key() and split() make it, got {key:?}")))
}

/// A shape and a floating dtype to draw.
fn check_float(op: &str, shape: &[i32], dtype: Dtype) -> Result<()> {
    element_count(shape)?;
    if dtype.is_float() {
        Ok(())
    } else {
        Err(Error::Dtype(format!("random: {op} needs a floating dtype, got {}", dtype.name())))
    }
}

/// A bound or parameter that is a real array and broadcasts to the shape.
fn check_parameter(op: &str, what: &str, array: &Array, shape: &[i32]) -> Result<()> {
    if array.dtype() == Dtype::Complex64 {
        return Err(Error::Dtype(format!("random: {what} of {op} must be real, got complex64")));
    }
    if check::broadcasts_to(array.shape(), shape) {
        return Ok(());
    }
    Err(Error::Shape(format!("random: {what} of {op} has shape {:?}, which does not broadcast to {shape:?}", array.shape())))
}

/// Two independent keys from one. Use each key once.
pub fn split(key: &Array) -> Result<(Array, Array)> {
    check_key(key)?;
    // SAFETY: fills two empty handles.
    output_pair(|first, second| unsafe { sys::mlx_random_split(first, second, key.0, stream::current()) })
}

/// `count` independent keys, `[count, 2]`.
pub fn split_many(key: &Array, count: i32) -> Result<Array> {
    check_key(key)?;
    check::at_least("random.split", "the number of keys", count, 1)?;
    // SAFETY: valid handle.
    output(|result| unsafe { sys::mlx_random_split_num(result, key.0, count, stream::current()) })
}

/// Uniform bits: uint8, uint16 or uint32 for a width of 1, 2 or 4 bytes.
pub fn bits(shape: &[i32], width: i32, key: &Array) -> Result<Array> {
    check_key(key)?;
    let dtype = match width {
        1 => Dtype::Uint8,
        2 => Dtype::Uint16,
        4 => Dtype::Uint32,
        _ => return Err(Error::Argument(format!("random.bits: the width must be 1, 2 or 4 bytes, got {width}"))),
    };
    if element_count(shape)? == 0 {
        return zeros(shape, dtype);
    }
    // SAFETY: the shape lives during the call.
    output(|result| unsafe { sys::mlx_random_bits(result, shape.as_ptr(), shape.len(), width, key.0, stream::current()) })
}

/// Uniform in `[low, high)`.
pub fn uniform(low: f32, high: f32, shape: &[i32], dtype: Dtype, key: &Array) -> Result<Array> {
    uniform_array(&Array::scalar(low), &Array::scalar(high), shape, dtype, key)
}

/// Uniform in `[low, high)`, with bounds that broadcast to the shape.
pub fn uniform_array(low: &Array, high: &Array, shape: &[i32], dtype: Dtype, key: &Array) -> Result<Array> {
    check_key(key)?;
    check_float("uniform", shape, dtype)?;
    check_parameter("uniform", "low", low, shape)?;
    check_parameter("uniform", "high", high, shape)?;
    // SAFETY: the shape lives during the call.
    output(|result| unsafe {
        sys::mlx_random_uniform(result, low.0, high.0, shape.as_ptr(), shape.len(), dtype.raw(), key.0, stream::current())
    })
}

pub fn normal(mean: f32, std: f32, shape: &[i32], dtype: Dtype, key: &Array) -> Result<Array> {
    check_key(key)?;
    check_float("normal", shape, dtype)?;
    // SAFETY: the shape lives during the call.
    output(|result| unsafe {
        sys::mlx_random_normal(result, shape.as_ptr(), shape.len(), dtype.raw(), mean, std, key.0, stream::current())
    })
}

/// Normal with means and standard deviations that broadcast to the shape.
pub fn normal_array(mean: &Array, std: &Array, shape: &[i32], dtype: Dtype, key: &Array) -> Result<Array> {
    check_key(key)?;
    check_float("normal", shape, dtype)?;
    check_parameter("normal", "the mean", mean, shape)?;
    check_parameter("normal", "the standard deviation", std, shape)?;
    // SAFETY: the shape lives during the call.
    output(|result| unsafe {
        sys::mlx_random_normal_broadcast(
            result,
            shape.as_ptr(),
            shape.len(),
            dtype.raw(),
            mean.0,
            std.0,
            key.0,
            stream::current(),
        )
    })
}

/// Normal vectors with mean `[.., n]` and covariance `[.., n, n]`: `shape` (to which the leading axes broadcast) then `n`.
/// Float32, from a singular value decomposition on the CPU.
pub fn multivariate_normal(mean: &Array, covariance: &Array, shape: &[i32], key: &Array) -> Result<Array> {
    let op = "random.multivariate_normal";
    check_key(key)?;
    check::min_ndim(op, mean, 1)?;
    check::min_ndim(op, covariance, 2)?;
    let n = mean.dim(-1);
    if n == 0 || covariance.dim(-1) != n || covariance.dim(-2) != n {
        let (mean, covariance) = (mean.shape(), covariance.shape());
        return Err(Error::Shape(format!("{op}: a mean of shape {mean:?} and a covariance of {covariance:?} do not fit")));
    }
    for array in [mean, covariance] {
        if array.dtype() != Dtype::Float32 {
            return Err(Error::Dtype(format!("{op}: float32 is needed, got {}", array.dtype().name())));
        }
    }
    let outer = check::broadcast(op, &mean.shape()[..mean.ndim() - 1], &covariance.shape()[..covariance.ndim() - 2])?;
    if !check::broadcasts_to(&outer, shape) {
        return Err(Error::Shape(format!("{op}: parameters of shape {outer:?} do not broadcast to {shape:?}")));
    }
    let whole = [shape, &[n]].concat();
    if element_count(&whole)? == 0 {
        return zeros(&whole, Dtype::Float32);
    }
    // SAFETY: the shape lives during the call.
    output(|result| unsafe {
        sys::mlx_random_multivariate_normal(
            result,
            mean.0,
            covariance.0,
            shape.as_ptr(),
            shape.len(),
            Dtype::Float32.raw(),
            key.0,
            stream::cpu(),
        )
    })
}

/// Integers in `[low, high)`.
pub fn randint(low: i32, high: i32, shape: &[i32], dtype: Dtype, key: &Array) -> Result<Array> {
    if low >= high {
        return Err(Error::Argument(format!("random.randint: low {low} must be less than high {high}")));
    }
    randint_array(&Array::scalar_i32(low), &Array::scalar_i32(high), shape, dtype, key)
}

/// Integers in `[low, high)`, with bounds that broadcast to the shape. Where low is not less than high the result is low.
pub fn randint_array(low: &Array, high: &Array, shape: &[i32], dtype: Dtype, key: &Array) -> Result<Array> {
    check_key(key)?;
    element_count(shape)?;
    if !dtype.is_integer() {
        return Err(Error::Dtype(format!("random.randint: an integer dtype is needed, got {}", dtype.name())));
    }
    check_parameter("randint", "low", low, shape)?;
    check_parameter("randint", "high", high, shape)?;
    // SAFETY: the shape lives during the call.
    output(|result| unsafe {
        sys::mlx_random_randint(result, low.0, high.0, shape.as_ptr(), shape.len(), dtype.raw(), key.0, stream::current())
    })
}

/// True with the given probability.
pub fn bernoulli(probability: f32, shape: &[i32], key: &Array) -> Result<Array> {
    if !(0. ..=1.).contains(&probability) {
        return Err(Error::Argument(format!("random.bernoulli: a probability is between 0 and 1, got {probability}")));
    }
    bernoulli_array(&Array::scalar(probability), shape, key)
}

/// True with probabilities that broadcast to the shape; below 0 counts as 0, above 1 as 1.
pub fn bernoulli_array(probability: &Array, shape: &[i32], key: &Array) -> Result<Array> {
    check_key(key)?;
    element_count(shape)?;
    check::float("random.bernoulli", "the probability", probability)?;
    check_parameter("bernoulli", "the probability", probability, shape)?;
    // SAFETY: the shape lives during the call.
    output(|result| unsafe {
        sys::mlx_random_bernoulli(result, probability.0, shape.as_ptr(), shape.len(), key.0, stream::current())
    })
}

/// Standard normal within `[low, high]`, with bounds that broadcast to the shape.
pub fn truncated_normal(low: &Array, high: &Array, shape: &[i32], dtype: Dtype, key: &Array) -> Result<Array> {
    check_key(key)?;
    check_float("truncated_normal", shape, dtype)?;
    check_parameter("truncated_normal", "low", low, shape)?;
    check_parameter("truncated_normal", "high", high, shape)?;
    // SAFETY: the shape lives during the call.
    output(|result| unsafe {
        sys::mlx_random_truncated_normal(
            result,
            low.0,
            high.0,
            shape.as_ptr(),
            shape.len(),
            dtype.raw(),
            key.0,
            stream::current(),
        )
    })
}

pub fn laplace(mean: f32, scale: f32, shape: &[i32], dtype: Dtype, key: &Array) -> Result<Array> {
    check_key(key)?;
    check_float("laplace", shape, dtype)?;
    // SAFETY: the shape lives during the call.
    output(|result| unsafe {
        sys::mlx_random_laplace(result, shape.as_ptr(), shape.len(), dtype.raw(), mean, scale, key.0, stream::current())
    })
}

pub fn gumbel(shape: &[i32], dtype: Dtype, key: &Array) -> Result<Array> {
    check_key(key)?;
    check_float("gumbel", shape, dtype)?;
    // SAFETY: the shape lives during the call.
    output(|result| unsafe { sys::mlx_random_gumbel(result, shape.as_ptr(), shape.len(), dtype.raw(), key.0, stream::current()) })
}

/// The axis of the classes, which must hold some.
fn check_logits(logits: &Array, axis: i32) -> Result<usize> {
    let place = check::axis("random.categorical", axis, logits.ndim())?;
    check::filled_axis("random.categorical", logits, place)?;
    if logits.dtype() == Dtype::Complex64 {
        return Err(Error::Dtype("random.categorical: logits must be real, got complex64".into()));
    }
    Ok(place)
}

/// One index (uint32) per row, drawn from `softmax(logits)` along an axis.
pub fn categorical(logits: &Array, axis: i32, key: &Array) -> Result<Array> {
    check_key(key)?;
    check_logits(logits, axis)?;
    // SAFETY: valid handles.
    output(|result| unsafe { sys::mlx_random_categorical(result, logits.0, axis, key.0, stream::current()) })
}

/// Indices of `shape`, to which the logits without their axis broadcast.
pub fn categorical_shape(logits: &Array, axis: i32, shape: &[i32], key: &Array) -> Result<Array> {
    check_key(key)?;
    let place = check_logits(logits, axis)?;
    let mut rows = logits.shape().to_vec();
    let classes = rows.remove(place);
    if !check::broadcasts_to(&rows, shape) {
        return Err(Error::Shape(format!("random.categorical: rows {rows:?} do not broadcast to {shape:?}")));
    }
    element_count(&[shape, &[classes]].concat())?;
    if shape.contains(&0) {
        return zeros(shape, Dtype::Uint32);
    }
    // SAFETY: the shape lives during the call.
    output(|result| unsafe {
        sys::mlx_random_categorical_shape(result, logits.0, axis, shape.as_ptr(), shape.len(), key.0, stream::current())
    })
}

/// `count` indices per row, on a last axis.
pub fn categorical_samples(logits: &Array, axis: i32, count: i32, key: &Array) -> Result<Array> {
    check_key(key)?;
    let place = check_logits(logits, axis)?;
    check::at_least("random.categorical", "the number of samples", count, 0)?;
    let mut shape = logits.shape().to_vec();
    let classes = shape.remove(place);
    shape.push(count);
    element_count(&[&shape[..], &[classes]].concat())?;
    if shape.contains(&0) {
        return zeros(&shape, Dtype::Uint32);
    }
    // SAFETY: valid handles.
    output(|result| unsafe { sys::mlx_random_categorical_num_samples(result, logits.0, axis, count, key.0, stream::current()) })
}

/// `0..count` in random order.
pub fn permutation(count: i32, key: &Array) -> Result<Array> {
    check_key(key)?;
    check::at_least("random.permutation", "the count", count, 0)?;
    if count == 0 {
        return zeros(&[0], Dtype::Uint32);
    }
    // SAFETY: valid handle.
    output(|result| unsafe { sys::mlx_random_permutation_arange(result, count, key.0, stream::current()) })
}

/// The slices along an axis in random order.
pub fn permutation_of(array: &Array, axis: i32, key: &Array) -> Result<Array> {
    check_key(key)?;
    check::axis("random.permutation", axis, array.ndim())?;
    if array.size() == 0 {
        return Ok(array.clone());
    }
    // SAFETY: valid handles.
    output(|result| unsafe { sys::mlx_random_permutation(result, array.0, axis, key.0, stream::current()) })
}
