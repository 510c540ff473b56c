//! Grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245).

use super::{Linear, RmsNorm, Rope, RopeConfig, module_of};
use crate::cache::{Cache, Offsets, Placement, Visible};
use crate::mlx::fast::{Mask, RopeOffset};
use crate::mlx::{Array, Dtype, Error, Result, kernels, ops};

/// What an attention layer is made of.
#[derive(Clone, Debug)]
pub struct AttentionShape {
    pub hidden: i32,
    pub heads: i32,
    pub kv_heads: i32,
    pub head_dim: i32,
    /// Biases on queries, keys and values.
    pub qkv_bias: bool,
    /// A bias on the output projection.
    pub output_bias: bool,
    /// RMSNorm over each head's queries and keys, with this epsilon.
    pub qk_norm: Option<f32>,
}

/// Which keys a query sees.
#[derive(Clone)]
pub enum ContextMask {
    /// All of them: one query without padding.
    None,
    Causal,
    /// Boolean `[B, 1, T, K]` or `[T, K]`, true = visible.
    Array(Array),
}

/// Where the tokens of one forward pass stand: computed once, shared by all layers whose caches are alike.
#[derive(Clone)]
pub struct Context {
    /// Slots before this pass.
    offset: i32,
    /// Position of each row's first slot, int32 `[B]`, when rows are padded.
    row_offsets: Option<Array>,
    mask: ContextMask,
}

impl Context {
    /// For `slots` tokens per row without a cache, of which the first `left_padding[b]` of row `b` are padding.
    ///
    /// A padding slot sees itself, so that its softmax is defined; no real token sees padding.
    pub fn new(batch: i32, slots: i32, left_padding: Option<&Array>) -> Result<Self> {
        let Some(padding) = left_padding else {
            let mask = if slots == 1 { ContextMask::None } else { ContextMask::Causal };
            return Ok(Context { offset: 0, row_offsets: None, mask });
        };
        if padding.shape() != [batch] || padding.dtype() != Dtype::Int32 {
            return Err(Error::Shape(format!("left_padding must be int32 [{batch}], one number per row; it is {padding:?}")));
        }
        let keys = ops::arange(0.0, slots as f64, 1.0, Dtype::Int32)?.reshape(&[1, 1, 1, slots])?;
        let queries = keys.reshape(&[1, 1, slots, 1])?;
        let real = keys.greater_equal(&padding.reshape(&[batch, 1, 1, 1])?)?.logical_and(&keys.less(&queries)?)?;
        let mask = real.logical_or(&keys.equal(&queries)?)?;
        Ok(Context { offset: 0, row_offsets: Some(padding.negative()?), mask: ContextMask::Array(mask) })
    }

    /// For the next tokens of a cache.
    pub fn placed(placement: &Placement) -> Result<Self> {
        let (offset, row_offsets) = match &placement.offsets {
            Offsets::Same(offset) => (*offset, None),
            Offsets::PerRow(offsets) => (0, Some(Array::from_slice(offsets, &[offsets.len() as i32])?)),
        };
        let mask = match &placement.visible {
            Visible::All => ContextMask::None,
            Visible::Causal => ContextMask::Causal,
            Visible::Masked(mask) => ContextMask::Array(mask.array()?),
        };
        Ok(Context { offset, row_offsets, mask })
    }

    fn rope_offset(&self) -> RopeOffset<'_> {
        match &self.row_offsets {
            Some(offsets) => RopeOffset::PerRow(offsets),
            None => RopeOffset::Same(self.offset),
        }
    }
}

#[derive(Clone)]
pub struct Attention {
    pub q_proj: Linear,
    pub k_proj: Linear,
    pub v_proj: Linear,
    pub o_proj: Linear,
    pub q_norm: Option<RmsNorm>,
    pub k_norm: Option<RmsNorm>,
    rope: Rope,
    heads: i32,
    kv_heads: i32,
    head_dim: i32,
}

impl Attention {
    pub fn new(shape: &AttentionShape, rope: &RopeConfig, dtype: Dtype) -> Result<Self> {
        let (queries, keys) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        let norm = || shape.qk_norm.map(|eps| RmsNorm::new(shape.head_dim, eps, dtype)).transpose();
        Ok(Attention {
            q_proj: Linear::new(shape.hidden, queries, shape.qkv_bias, dtype)?,
            k_proj: Linear::new(shape.hidden, keys, shape.qkv_bias, dtype)?,
            v_proj: Linear::new(shape.hidden, keys, shape.qkv_bias, dtype)?,
            o_proj: Linear::new(queries, shape.hidden, shape.output_bias, dtype)?,
            q_norm: norm()?,
            k_norm: norm()?,
            rope: Rope::new(rope)?,
            heads: shape.heads,
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
        })
    }

    /// `x` `[B, T, hidden]` to the same shape; new keys and values go into the cache.
    pub fn forward(&self, x: &Array, context: &Context, cache: Option<&mut Cache>) -> Result<Array> {
        self.o_proj.forward(&self.attend(x, context, cache)?)
    }

    /// How the inputs of the output projection share values: heads of values, query heads that read each, features.
    pub fn shared_values(&self) -> [i32; 3] {
        [self.kv_heads, self.heads / self.kv_heads, self.head_dim]
    }

    /// What the heads have attended to, before the output projection: `[B, T, heads · head_dim]`.
    pub fn attend(&self, x: &Array, context: &Context, cache: Option<&mut Cache>) -> Result<Array> {
        let (batch, slots) = (x.dim(0), x.dim(1));
        let heads_of = |y: Array, heads: i32, norm: &Option<RmsNorm>| {
            let y = y.reshape(&[batch, slots, heads, self.head_dim])?;
            let y = if let Some(norm) = norm { norm.forward(&y)? } else { y };
            y.transpose(&[0, 2, 1, 3])
        };
        let queries = heads_of(self.q_proj.forward(x)?, self.heads, &self.q_norm)?;
        let keys = heads_of(self.k_proj.forward(x)?, self.kv_heads, &self.k_norm)?;
        let values = heads_of(self.v_proj.forward(x)?, self.kv_heads, &None)?;
        let queries = self.rope.forward(&queries, context.rope_offset())?;
        let keys = self.rope.forward(&keys, context.rope_offset())?;
        let mask = match &context.mask {
            ContextMask::None => Mask::None,
            ContextMask::Causal => Mask::Causal,
            ContextMask::Array(mask) => Mask::Array(mask),
        };
        let scale = 1.0 / (self.head_dim as f32).sqrt();
        let attended = match cache {
            Some(cache) => cache.attend(&queries, &keys, &values, scale, mask)?,
            None => kernels::attention(&queries, &keys, &values, scale, mask)?,
        };
        attended.reshape(&[batch, slots, self.heads * self.head_dim])
    }
}

module_of!(Attention: q_proj, k_proj, v_proj, o_proj, q_norm, k_norm);
