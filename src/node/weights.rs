//! Arrays in safetensors files.

use std::path::Path;

use napi_derive::napi;

use super::error as js;
use super::handle::ArrayHandle;
use crate::mlx::{Array, Error};
use crate::mlx::io::safetensors;

/// Arrays by name, in the order of the names.
#[napi(object, object_from_js = false)]
pub struct NamedArrays {
    pub names: Vec<String>,
    pub arrays: Vec<ArrayHandle>,
}

/// Every array of a safetensors file.
#[napi(namespace = "core", catch_unwind)]
pub fn load_safetensors(path: String) -> js::Result<NamedArrays> {
    let mut found: Vec<(String, Array)> = safetensors::load_arrays(Path::new(&path))?.into_iter().collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    let (names, arrays) = found.into_iter().map(|(name, array)| (name, array.into())).unzip();
    Ok(NamedArrays { names, arrays })
}

/// Writes arrays into a safetensors file, which is complete or as it was.
#[napi(namespace = "core", catch_unwind)]
pub fn save_safetensors(path: String, names: Vec<String>, arrays: Vec<ArrayHandle>) -> js::Result<()> {
    if names.len() != arrays.len() {
        return Err(Error::Argument(format!("{} names for {} arrays", names.len(), arrays.len())).into());
    }
    let arrays: Vec<(String, Array)> = names.into_iter().zip(arrays.iter().map(|array| Array::clone(array))).collect();
    Ok(safetensors::save_arrays(Path::new(&path), &arrays)?)
}
