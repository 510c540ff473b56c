//! Devices and waiting for them.

use std::collections::HashMap;

use napi::Env;
use napi::bindgen_prelude::{Either, Object};
use napi_derive::napi;

use super::error as js;
use super::promise;
use crate::mlx::{self, Device, Property};

/// Where this thread places operations: `cpu` or `gpu`.
#[napi]
pub fn default_device() -> &'static str {
    mlx::default_device().name()
}

/// Places this thread's later operations on a device; returns the one before.
#[napi]
pub fn set_default_device(device: String) -> js::Result<&'static str> {
    Ok(mlx::set_default_device(Device::parse(&device)?)?.name())
}

/// Whether operations can be placed on a device.
#[napi]
pub fn is_available(device: String) -> js::Result<bool> {
    Ok(Device::parse(&device)?.is_available())
}

/// What MLX knows about a device.
#[napi]
pub fn device_info(device: String) -> js::Result<HashMap<String, Either<String, f64>>> {
    let properties = Device::parse(&device)?.info()?.into_iter();
    Ok(properties
        .map(|(name, property)| match property {
            Property::Text(text) => (name, Either::A(text)),
            Property::Number(number) => (name, Either::B(number as f64)),
        })
        .collect())
}

/// Waits until everything that has been started is done.
#[napi]
pub fn synchronize() -> js::Result<()> {
    Ok(mlx::synchronize()?)
}

/// `synchronize` without blocking the event loop.
#[napi(ts_return_type = "Promise<void>")]
pub fn synchronize_async(env: &Env) -> js::Result<Object<'_>> {
    promise::once(env, mlx::synchronize, |()| ())
}
