//! Values of the metadata, with errors that name file and key.

use super::GgufFile;
use crate::mlx::io::Metadata;
use crate::mlx::{Dtype, Error, Result};

impl GgufFile {
    pub fn wrong(&self, key: &str, wanted: &str) -> Error {
        let found = if self.value(key).is_some() { "must be" } else { "is missing; it must be" };
        Error::load(&self.path, format!("metadata '{key}' {found} {wanted}"))
    }

    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.value(key) {
            None => Ok(None),
            Some(Metadata::Text(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(key, "a text")),
        }
    }

    pub fn texts(&self, key: &str) -> Result<&[String]> {
        match self.value(key) {
            Some(Metadata::Texts(texts)) => Ok(texts),
            _ => Err(self.wrong(key, "a list of texts")),
        }
    }

    pub fn integers(&self, key: &str) -> Result<Vec<i32>> {
        match self.value(key) {
            Some(Metadata::Array(array)) if array.dtype() == Dtype::Int32 && array.ndim() == 1 => array.to_vec(),
            _ => Err(self.wrong(key, "a list of int32")),
        }
    }

    pub fn integer(&self, key: &str) -> Result<Option<i64>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let wrong = || self.wrong(key, "one whole number");
        let Metadata::Array(array) = value else { return Err(wrong()) };
        if array.size() != 1 {
            return Err(wrong());
        }
        Ok(Some(match array.dtype() {
            Dtype::Uint32 => i64::from(array.to_vec::<u32>()?[0]),
            Dtype::Int32 => i64::from(array.to_vec::<i32>()?[0]),
            Dtype::Uint64 => i64::try_from(array.to_vec::<u64>()?[0]).map_err(|_| wrong())?,
            Dtype::Int64 => array.to_vec::<i64>()?[0],
            dtype if dtype.is_float() => return Err(wrong()),
            _ => i64::from(array.astype(Dtype::Int32)?.to_vec::<i32>()?[0]),
        }))
    }

    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        match self.value(key) {
            None => Ok(None),
            Some(Metadata::Array(array)) if array.size() == 1 && array.dtype() == Dtype::Float32 => {
                Ok(Some(shortest(array.to_vec::<f32>()?[0])))
            }
            Some(_) => Err(self.wrong(key, "one float32")),
        }
    }

    pub fn boolean(&self, key: &str) -> Result<Option<bool>> {
        Ok(self.integer(key)?.map(|value| value != 0))
    }
}

/// The float64 that is written as the float32 is: 1e-6, not 9.999999974752427e-7.
fn shortest(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}
