//! New arrays from shapes and ranges.

use napi_derive::napi;

use super::{ArrayHandle, DtypeName, integers};
use crate::mlx::{Dtype, ops};
use crate::node::error as js;

/// Zeros of a shape, float32 unless named.
#[napi(namespace = "ops", catch_unwind)]
pub fn zeros(shape: Vec<f64>, dtype: Option<DtypeName>) -> js::Result<ArrayHandle> {
    Ok(ops::zeros(&integers("shape", &shape)?, DtypeName::or(dtype, Dtype::Float32)?)?.into())
}

/// Ones of a shape, float32 unless named.
#[napi(namespace = "ops", catch_unwind)]
pub fn ones(shape: Vec<f64>, dtype: Option<DtypeName>) -> js::Result<ArrayHandle> {
    Ok(ops::ones(&integers("shape", &shape)?, DtypeName::or(dtype, Dtype::Float32)?)?.into())
}

/// A shape filled with one number, float32 unless named.
#[napi(namespace = "ops", catch_unwind)]
pub fn full(shape: Vec<f64>, value: f64, dtype: Option<DtypeName>) -> js::Result<ArrayHandle> {
    Ok(ops::full(&integers("shape", &shape)?, value, DtypeName::or(dtype, Dtype::Float32)?)?.into())
}
