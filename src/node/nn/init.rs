//! Random weights.

use napi_derive::napi;

use super::{ArrayHandle, DtypeName, RandomKey, integers};
use crate::nn::init;
use crate::node::error as js;

/// Normal numbers, of which each row loses a share to zeros at random places.
#[napi(namespace = "nn", catch_unwind)]
pub fn sparse(shape: Vec<f64>, sparsity: f64, mean: f64, std: f64, dtype: DtypeName, key: RandomKey) -> js::Result<ArrayHandle> {
    Ok(init::sparse(&integers("shape", &shape)?, sparsity, mean as f32, std as f32, dtype.parse()?, &key)?.into())
}

/// A part of a random orthogonal matrix times `gain`.
#[napi(namespace = "nn", catch_unwind)]
pub fn orthogonal(shape: Vec<f64>, gain: f64, dtype: DtypeName, key: RandomKey) -> js::Result<ArrayHandle> {
    Ok(init::orthogonal(&integers("shape", &shape)?, gain as f32, dtype.parse()?, &key)?.into())
}
