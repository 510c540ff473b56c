//! Which caches a model gets.

use super::{BatchKvCache, BatchRotatingKvCache, Cache, KvCache, RotatingKvCache};
use crate::mlx::ops::{Quantization, QuantizationMode};
use crate::mlx::{Error, Result};

/// How many of the first tokens a bounded cache keeps unless told: mlx-lm's number.
const KEEP: i32 = 4;

/// The defaults hold every token as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CacheOptions {
    /// The most slots per row; beyond them only the latest tokens and `keep` first ones are seen.
    pub max_kv_size: Option<i32>,
    /// First tokens that stay in a bounded cache: 4 unless told; of a batch none unless told.
    pub keep: Option<i32>,
    /// Bits per number of keys and values, affine; `None` keeps them as they are.
    pub kv_bits: Option<i32>,
    /// Numbers that share a scale.
    pub kv_group_size: i32,
    /// Tokens from which on a cache is quantised: 0 from the first token on, so that nothing is ever read but codes, however a prompt
    /// is divided. From a later one on a cache is quantised once the chunk that reaches it has been read, as in mlx-lm (whose 0 is 1
    /// here).
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
        let Some(bits) = self.kv_bits else { return Ok(None) };
        let (group_sizes, widths) = ([32, 64, 128], [2, 3, 4, 5, 6, 8]);
        for (name, value, known) in [("kvBits", bits, &widths[..]), ("kvGroupSize", self.kv_group_size, &group_sizes[..])] {
            if !known.contains(&value) {
                return Err(Error::Argument(format!("{name} must be one of {known:?}, not {value}")));
            }
        }
        Quantization::new(QuantizationMode::Affine, Some(self.kv_group_size), Some(bits)).map(Some)
    }

    /// How and from how many tokens on a cache is quantised.
    fn quantized_from(&self) -> Result<Option<(Quantization, i32)>> {
        Ok(self.quantization()?.map(|how| (how, self.quantized_kv_start)))
    }

    /// Says to a cache that was made otherwise when it is to be quantised; what is quantised already must be so in the same way.
    pub fn quantize(&self, cache: &mut Cache) -> Result<()> {
        let Some((how, start)) = self.quantized_from()? else { return Ok(()) };
        match cache.encoding() {
            Some(held) if held != how => Err(Error::Argument(format!(
                "the cache is quantised to {} bits in groups of {}; kvBits {} and kvGroupSize {} ask for something else",
                held.bits(),
                held.group_size(),
                how.bits(),
                how.group_size()
            ))),
            Some(_) => Ok(()),
            None if cache.offset() >= start => {
                *cache = cache.to_quantized(how)?;
                Ok(())
            }
            None => {
                cache.quantize_later(Some((how, start)));
                Ok(())
            }
        }
    }

    /// One layer's, for rows without padding.
    pub fn cache(&self) -> Result<Cache> {
        let later = self.quantized_from()?;
        let Some(max_size) = self.max_kv_size else {
            if let Some(keep) = self.keep {
                return Err(Error::Argument(format!("keep ({keep}) belongs to a bounded cache: give maxKvSize too")));
            }
            return Ok(KvCache::new().quantized_from(later).into());
        };
        let keep = self.keep.unwrap_or(KEEP.min(max_size - 1));
        if max_size < 1 {
            return Err(Error::Argument(format!("maxKvSize must be at least 1 slot, not {max_size}")));
        }
        if keep < 0 || keep >= max_size {
            return Err(Error::Argument(format!("keep must be 0 or more and below maxKvSize, {max_size}; it is {keep}")));
        }
        Ok(RotatingKvCache::new(max_size, keep)?.quantized_from(later).into())
    }

    /// One layer's, for as many rows as numbers, each of which begins with so much padding.
    pub fn batch(&self, left_padding: &[i32]) -> Result<Cache> {
        let later = self.quantized_from()?;
        Ok(match self.max_kv_size {
            Some(max_size) => {
                BatchRotatingKvCache::keeping(max_size, self.keep.unwrap_or(0), left_padding)?.quantized_from(later).into()
            }
            None => BatchKvCache::new(left_padding)?.quantized_from(later).into(),
        })
    }
}
