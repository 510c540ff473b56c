//! Random numbers. Every draw takes a key; the TypeScript layer splits one off its own state where the caller gives none.

use napi_derive::napi;

use super::{ArrayHandle, DtypeName, RandomKey, integers};
use crate::mlx::{Dtype, random};
use crate::node::error as js;

/// A key (uint32 `[2]`) from a seed.
#[napi(namespace = "random", catch_unwind)]
pub fn key(seed: f64) -> js::Result<ArrayHandle> {
    Ok(random::key(seed as u64)?.into())
}

/// Independent keys `[count, 2]` from one.
#[napi(namespace = "random", catch_unwind)]
pub fn split(key: ArrayHandle, count: Option<f64>) -> js::Result<ArrayHandle> {
    Ok(random::split_many(&key, super::integer_or("count", count, 2)?)?.into())
}

/// Two independent keys from one.
#[napi(namespace = "core", catch_unwind)]
pub fn split_key(key: ArrayHandle) -> js::Result<Vec<ArrayHandle>> {
    let (first, second) = random::split(&key)?;
    Ok(vec![first.into(), second.into()])
}

/// Of `normal`.
#[napi(object, object_to_js = false)]
pub struct NormalOptions {
    /// float32 unless named.
    pub dtype: Option<DtypeName>,
    /// The mean, 0.
    pub loc: Option<f64>,
    /// The standard deviation, 1.
    pub scale: Option<f64>,
    /// Without one, the next of the global state.
    pub key: RandomKey,
}

/// Normally distributed numbers.
#[napi(namespace = "random", catch_unwind)]
pub fn normal(shape: Vec<f64>, options: NormalOptions) -> js::Result<ArrayHandle> {
    let dtype = DtypeName::or(options.dtype, Dtype::Float32)?;
    let (loc, scale) = (options.loc.unwrap_or(0.) as f32, options.scale.unwrap_or(1.) as f32);
    Ok(random::normal(loc, scale, &integers("shape", &shape)?, dtype, &options.key)?.into())
}
