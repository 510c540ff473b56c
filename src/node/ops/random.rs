//! Random numbers. Every draw takes a key; the TypeScript layer splits one off its own state where the caller gives none.

use napi_derive::napi;

use super::{
    ArrayHandle, DtypeName, NumberOrArray, RandomKey, integer, integer_or, integers, optional_integer, optional_integers,
};
use crate::mlx::ops::check;
use crate::mlx::{Array, Dtype, Error, Result, random};
use crate::node::error as js;

/// A key (uint32 `[2]`) from a seed, a whole number of at least 0.
#[napi(namespace = "random", catch_unwind)]
pub fn key(seed: f64) -> js::Result<ArrayHandle> {
    if seed.fract() != 0. || !(0. ..=9_007_199_254_740_991.).contains(&seed) {
        return Err(Error::Argument(format!("random.key: a seed is a whole number from 0 to 2^53 - 1, got {seed}")).into());
    }
    Ok(random::key(seed as u64)?.into())
}

/// Independent keys `[count, 2]` from one; 2 of them unless told.
#[napi(namespace = "random", catch_unwind)]
pub fn split(key: ArrayHandle, count: Option<f64>) -> js::Result<ArrayHandle> {
    Ok(random::split_many(&key, integer_or("count", count, 2)?)?.into())
}

/// Two independent keys from one.
#[napi(namespace = "core", catch_unwind)]
pub fn split_key(key: ArrayHandle) -> js::Result<Vec<ArrayHandle>> {
    let (first, second) = random::split(&key)?;
    Ok(vec![first.into(), second.into()])
}

/// The shape of a draw; without one that of its parameters.
fn shape_or(op: &str, shape: Option<Vec<f64>>, parameters: [&Array; 2]) -> Result<Vec<i32>> {
    match shape {
        Some(shape) => integers("shape", &shape),
        None => check::broadcast(op, parameters[0].shape(), parameters[1].shape()),
    }
}

/// Of `bits`.
#[napi(object, object_to_js = false)]
pub struct BitsOptions {
    /// Bytes of a number: 1, 2 or 4 (default) for uint8, uint16 or uint32.
    pub width: Option<f64>,
    /// Without one, the next of the global state.
    pub key: RandomKey,
}

/// Uniform bits of a shape, as unsigned integers.
#[napi(namespace = "random", catch_unwind)]
pub fn bits(shape: Vec<f64>, options: BitsOptions) -> js::Result<ArrayHandle> {
    Ok(random::bits(&integers("shape", &shape)?, integer_or("width", options.width, 4)?, &options.key)?.into())
}

/// Of `uniform`.
#[napi(object, object_to_js = false)]
pub struct UniformOptions {
    /// float32 unless named.
    pub dtype: Option<DtypeName>,
    /// Without one, the next of the global state.
    pub key: RandomKey,
}

/// Uniform numbers in `[low, high)`, 0 and 1 unless given. Arrays as bounds broadcast to the shape, which is theirs by default.
#[napi(namespace = "random", catch_unwind)]
pub fn uniform(
    low: Option<NumberOrArray>,
    high: Option<NumberOrArray>,
    shape: Option<Vec<f64>>,
    options: UniformOptions,
) -> js::Result<ArrayHandle> {
    let (low, high) = (NumberOrArray::or(low, 0.).array(), NumberOrArray::or(high, 1.).array());
    let shape = shape_or("random.uniform", shape, [&low, &high])?;
    Ok(random::uniform_array(&low, &high, &shape, DtypeName::or(options.dtype, Dtype::Float32)?, &options.key)?.into())
}

/// Of `normal`.
#[napi(object, object_to_js = false)]
pub struct NormalOptions {
    /// float32 unless named.
    pub dtype: Option<DtypeName>,
    /// The mean, 0; an array broadcasts to the shape.
    pub loc: Option<NumberOrArray>,
    /// The standard deviation, 1; an array broadcasts to the shape.
    pub scale: Option<NumberOrArray>,
    /// Without one, the next of the global state.
    pub key: RandomKey,
}

/// Normally distributed numbers of a shape (one number without it).
#[napi(namespace = "random", catch_unwind)]
pub fn normal(shape: Option<Vec<f64>>, options: NormalOptions) -> js::Result<ArrayHandle> {
    let dtype = DtypeName::or(options.dtype, Dtype::Float32)?;
    let shape = integers("shape", &shape.unwrap_or_default())?;
    let (loc, scale) = (NumberOrArray::or(options.loc, 0.), NumberOrArray::or(options.scale, 1.));
    Ok(match (&loc, &scale) {
        (NumberOrArray::Number(loc), NumberOrArray::Number(scale)) => {
            random::normal(*loc as f32, *scale as f32, &shape, dtype, &options.key)?
        }
        _ => random::normal_array(&loc.array(), &scale.array(), &shape, dtype, &options.key)?,
    }
    .into())
}

/// Of `truncatedNormal`.
#[napi(object, object_to_js = false)]
pub struct TruncatedNormalOptions {
    /// float32 unless named.
    pub dtype: Option<DtypeName>,
    /// Without one, the next of the global state.
    pub key: RandomKey,
}

/// Standard normal numbers within `[lower, upper]`. Arrays as bounds broadcast to the shape, which is theirs by default.
#[napi(namespace = "random", catch_unwind)]
pub fn truncated_normal(
    lower: NumberOrArray,
    upper: NumberOrArray,
    shape: Option<Vec<f64>>,
    options: TruncatedNormalOptions,
) -> js::Result<ArrayHandle> {
    let (lower, upper) = (lower.array(), upper.array());
    let shape = shape_or("random.truncatedNormal", shape, [&lower, &upper])?;
    let dtype = DtypeName::or(options.dtype, Dtype::Float32)?;
    Ok(random::truncated_normal(&lower, &upper, &shape, dtype, &options.key)?.into())
}

/// Of `multivariateNormal`.
#[napi(object, object_to_js = false)]
pub struct MultivariateNormalOptions {
    /// Without one, the next of the global state.
    pub key: RandomKey,
}

/// Normal vectors `[...shape, n]` (float32) with mean `[.., n]` and covariance `[.., n, n]`, whose leading axes broadcast to the
/// shape, which is theirs by default.
#[napi(namespace = "random", catch_unwind)]
pub fn multivariate_normal(
    mean: ArrayHandle,
    covariance: ArrayHandle,
    shape: Option<Vec<f64>>,
    options: MultivariateNormalOptions,
) -> js::Result<ArrayHandle> {
    let op = "random.multivariateNormal";
    let shape = match shape {
        Some(shape) => integers("shape", &shape)?,
        None => {
            let leading = |array: &Array, axes: usize| array.shape()[..array.ndim().saturating_sub(axes)].to_vec();
            check::broadcast(op, &leading(&mean, 1), &leading(&covariance, 2))?
        }
    };
    Ok(random::multivariate_normal(&mean, &covariance, &shape, &options.key)?.into())
}

/// Of `randint`.
#[napi(object, object_to_js = false)]
pub struct RandintOptions {
    /// int32 unless named.
    pub dtype: Option<DtypeName>,
    /// Without one, the next of the global state.
    pub key: RandomKey,
}

/// Integers in `[low, high)`. Arrays as bounds broadcast to the shape, which is theirs by default.
#[napi(namespace = "random", catch_unwind)]
pub fn randint(
    low: NumberOrArray,
    high: NumberOrArray,
    shape: Option<Vec<f64>>,
    options: RandintOptions,
) -> js::Result<ArrayHandle> {
    let dtype = DtypeName::or(options.dtype, Dtype::Int32)?;
    if let (NumberOrArray::Number(low), NumberOrArray::Number(high)) = (&low, &high) {
        let shape = integers("shape", &shape.unwrap_or_default())?;
        return Ok(random::randint(integer("low", *low)?, integer("high", *high)?, &shape, dtype, &options.key)?.into());
    }
    let (low, high) = (low.integers("low")?, high.integers("high")?);
    let shape = shape_or("random.randint", shape, [&low, &high])?;
    Ok(random::randint_array(&low, &high, &shape, dtype, &options.key)?.into())
}

/// Of `bernoulli`.
#[napi(object, object_to_js = false)]
pub struct BernoulliOptions {
    /// Without one, the next of the global state.
    pub key: RandomKey,
}

/// True with probability `p` (0.5). An array of them broadcasts to the shape, which is theirs by default.
#[napi(namespace = "random", catch_unwind)]
pub fn bernoulli(p: Option<NumberOrArray>, shape: Option<Vec<f64>>, options: BernoulliOptions) -> js::Result<ArrayHandle> {
    let p = NumberOrArray::or(p, 0.5);
    if let NumberOrArray::Number(p) = p {
        let shape = integers("shape", &shape.unwrap_or_default())?;
        return Ok(random::bernoulli(p as f32, &shape, &options.key)?.into());
    }
    let p = p.array();
    let shape = shape_or("random.bernoulli", shape, [&p, &p])?;
    Ok(random::bernoulli_array(&p, &shape, &options.key)?.into())
}

/// Of `laplace`.
#[napi(object, object_to_js = false)]
pub struct LaplaceOptions {
    /// float32 unless named.
    pub dtype: Option<DtypeName>,
    /// The mean, 0.
    pub loc: Option<f64>,
    /// The mean distance from the mean, 1.
    pub scale: Option<f64>,
    /// Without one, the next of the global state.
    pub key: RandomKey,
}

/// Numbers of the Laplace distribution, of a shape (one number without it).
#[napi(namespace = "random", catch_unwind)]
pub fn laplace(shape: Option<Vec<f64>>, options: LaplaceOptions) -> js::Result<ArrayHandle> {
    let dtype = DtypeName::or(options.dtype, Dtype::Float32)?;
    let (loc, scale) = (options.loc.unwrap_or(0.) as f32, options.scale.unwrap_or(1.) as f32);
    Ok(random::laplace(loc, scale, &integers("shape", &shape.unwrap_or_default())?, dtype, &options.key)?.into())
}

/// Of `gumbel`.
#[napi(object, object_to_js = false)]
pub struct GumbelOptions {
    /// float32 unless named.
    pub dtype: Option<DtypeName>,
    /// Without one, the next of the global state.
    pub key: RandomKey,
}

/// Numbers of the standard Gumbel distribution, of a shape (one number without it).
#[napi(namespace = "random", catch_unwind)]
pub fn gumbel(shape: Option<Vec<f64>>, options: GumbelOptions) -> js::Result<ArrayHandle> {
    let dtype = DtypeName::or(options.dtype, Dtype::Float32)?;
    Ok(random::gumbel(&integers("shape", &shape.unwrap_or_default())?, dtype, &options.key)?.into())
}

/// Of `categorical`: a shape or a number of samples, not both.
#[napi(object, object_to_js = false)]
pub struct CategoricalOptions {
    /// The shape of the result, to which the logits without their axis broadcast.
    pub shape: Option<Vec<f64>>,
    /// Draws per row, on a new last axis.
    pub num_samples: Option<f64>,
    /// Without one, the next of the global state.
    pub key: RandomKey,
}

/// Indices (uint32) drawn from `softmax(logits)` along an axis (-1): one per row unless the options ask for more.
#[napi(namespace = "random", catch_unwind)]
pub fn categorical(logits: ArrayHandle, axis: Option<f64>, options: CategoricalOptions) -> js::Result<ArrayHandle> {
    let axis = integer_or("axis", axis, -1)?;
    let shape = optional_integers("shape", options.shape)?;
    let samples = optional_integer("numSamples", options.num_samples)?;
    Ok(match (shape, samples) {
        (None, None) => random::categorical(&logits, axis, &options.key)?,
        (Some(shape), None) => random::categorical_shape(&logits, axis, &shape, &options.key)?,
        (None, Some(count)) => random::categorical_samples(&logits, axis, count, &options.key)?,
        (Some(_), Some(_)) => {
            return Err(Error::Argument("random.categorical: give shape or numSamples, not both".into()).into());
        }
    }
    .into())
}

/// Of `permutation`.
#[napi(object, object_to_js = false)]
pub struct PermutationOptions {
    /// Without one, the next of the global state.
    pub key: RandomKey,
}

/// The numbers below `x` in random order (uint32), or the slices of an array along an axis (0).
#[napi(namespace = "random", catch_unwind)]
pub fn permutation(x: NumberOrArray, axis: Option<f64>, options: PermutationOptions) -> js::Result<ArrayHandle> {
    Ok(match x {
        NumberOrArray::Number(count) => random::permutation(integer("x", count)?, &options.key)?,
        NumberOrArray::Array(array) => random::permutation_of(&array, integer_or("axis", axis, 0)?, &options.key)?,
    }
    .into())
}
