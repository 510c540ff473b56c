//! Key-value caches.

use napi_derive::napi;

use super::error as js;
use super::handle::{ArrayHandle, integer};
use crate::cache::KvCache;

/// Keys and values of one attention layer.
#[napi]
#[derive(Default)]
pub struct NativeKvCache {
    cache: KvCache,
}

#[napi]
impl NativeKvCache {
    #[napi(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    #[napi(getter)]
    pub fn offset(&self) -> i32 {
        self.cache.len()
    }

    #[napi(getter)]
    pub fn nbytes(&self) -> f64 {
        self.cache.nbytes() as f64
    }

    #[napi(catch_unwind)]
    pub fn update_and_fetch(&mut self, keys: ArrayHandle, values: ArrayHandle) -> js::Result<Vec<ArrayHandle>> {
        let (keys, values) = self.cache.update_and_fetch(&keys, &values)?;
        Ok(vec![keys.into(), values.into()])
    }

    #[napi(catch_unwind)]
    pub fn trim(&mut self, n: f64) -> js::Result<i32> {
        Ok(self.cache.trim(integer("n", n)?))
    }

    #[napi]
    pub fn reset(&mut self) {
        self.cache.reset();
    }

    /// Keys and values of the filled slots, or nothing.
    #[napi(catch_unwind)]
    pub fn state(&self) -> js::Result<Vec<ArrayHandle>> {
        Ok(self.cache.state()?.into_iter().map(ArrayHandle::from).collect())
    }
}
