//! Which caches a model gets.

use super::{BatchKvCache, BatchRotatingKvCache, Cache, KvCache, RotatingKvCache};
use crate::mlx::ops::{Quantization, QuantizationMode};
use crate::mlx::{Error, Result};

/// How many of the first tokens a bounded cache keeps unless told: mlx-lm's number.
const KEEP: i32 = 4;

/// The defaults hold every token as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct CacheOptions {
    /// The most slots per row; beyond them only the latest tokens and `keep` first ones are seen.
    pub max_kv_size: Option<i32>,
    /// First tokens that stay in a bounded cache: 4 unless told. A batch keeps none.
    pub keep: Option<i32>,
    /// Bits per number of keys and values, affine; `None` keeps them as they are.
    pub kv_bits: Option<i32>,
    /// Numbers that share a scale.
    pub kv_group_size: i32,
    /// Tokens from which on a cache is quantised: 0 from the first update on.
    pub quantized_kv_start: i32,
}

impl Default for CacheOptions {
    fn default() -> Self {
        CacheOptions { max_kv_size: None, keep: None, kv_bits: None, kv_group_size: 64, quantized_kv_start: 0 }
    }
}

impl CacheOptions {
    /// Checks the options for heads of `head_dim` features.
    pub fn validate(&self, head_dim: i32) -> Result<()> {
        self.cache()?;
        match self.quantization()? {
            Some(how) if head_dim % how.group_size() != 0 => Err(Error::Argument(format!(
                "kvGroupSize {} does not divide the {head_dim} features of a head; use one of 32, 64 and 128 that does",
                how.group_size()
            ))),
            _ => Ok(()),
        }
    }

    pub fn quantization(&self) -> Result<Option<Quantization>> {
        if self.quantized_kv_start < 0 {
            return Err(Error::Argument(format!("quantizedKvStart must be 0 or more, not {}", self.quantized_kv_start)));
        }
        let make = |bits| Quantization::new(QuantizationMode::Affine, Some(self.kv_group_size), Some(bits));
        self.kv_bits.map(make).transpose()
    }

    /// One layer's, for rows without padding.
    pub fn cache(&self) -> Result<Cache> {
        let quantization = self.quantization()?;
        let Some(max_size) = self.max_kv_size else {
            if let Some(keep) = self.keep {
                return Err(Error::Argument(format!("keep ({keep}) belongs to a bounded cache: give maxKvSize too")));
            }
            return Ok(match quantization {
                Some(how) => KvCache::quantized_from(how, self.quantized_kv_start).into(),
                None => KvCache::new().into(),
            });
        };
        let cache = RotatingKvCache::new(max_size, self.keep.unwrap_or(KEEP.min(max_size - 1)))?;
        Ok(match quantization {
            Some(how) => cache.quantized_from(how, self.quantized_kv_start).into(),
            None => cache.into(),
        })
    }

    /// One layer's, for as many rows as numbers, each of which begins with so much padding.
    pub fn batch(&self, left_padding: &[i32]) -> Result<Cache> {
        let quantization = self.quantization()?.map(|how| (how, self.quantized_kv_start));
        if let Some(keep) = self.keep.filter(|&keep| keep > 0) {
            return Err(Error::Argument(format!("a bounded cache of several rows keeps no first tokens; keep is {keep}")));
        }
        Ok(match self.max_kv_size {
            Some(max_size) => BatchRotatingKvCache::new(max_size, left_padding)?.quantized_from(quantization).into(),
            None => BatchKvCache::new(left_padding)?.quantized_from(quantization).into(),
        })
    }
}
