//! Where the next tokens of a cache stand and what they see: known on the host, so that asking costs the device nothing.

use crate::mlx::{Array, Dtype, Result, ops};

/// Positions of the first of the next tokens.
#[derive(Clone, Debug, PartialEq)]
pub enum Offsets {
    Same(i32),
    /// One per row; negative where the row begins with padding.
    PerRow(Vec<i32>),
}

/// Which keys the next tokens see.
#[derive(Clone, Debug, PartialEq)]
pub enum Visible {
    /// All of them.
    All,
    Causal,
    Masked(MaskShape),
}

/// Both, for the next tokens. Layers whose placements are equal share one mask.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    pub offsets: Offsets,
    pub visible: Visible,
}

/// Slots before all others that hold each row's first tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Sinks {
    pub keep: i32,
    /// Positions of the first of the next tokens: who stands at `p` sees those up to `p`.
    pub offsets: Vec<i32>,
}

/// A boolean mask, true = visible, of the last `queries` of `keys` slots.
#[derive(Clone, Debug, PartialEq)]
pub struct MaskShape {
    pub queries: i32,
    pub keys: i32,
    /// How many leading slots of each row are padding, negative or zero for none; empty where no row has any.
    pub padding: Vec<i32>,
    /// How many slots a query sees, itself among them, beside the first `keep`.
    pub window: Option<i32>,
    pub keep: i32,
    /// By how many slots those after the first `keep` are turned to the right in the buffer.
    pub roll: i32,
    /// Further slots before the `keys`, in which first tokens are seen: there and not among the `keys`, where they count as padding.
    pub sinks: Option<Sinks>,
}

impl MaskShape {
    pub fn new(queries: i32, keys: i32) -> Self {
        MaskShape { queries, keys, padding: Vec::new(), window: None, keep: 0, roll: 0, sinks: None }
    }

    /// `[T, K]`, or `[B, 1, T, K]` where rows are padded. A padding slot sees itself, so that its softmax is defined; no token sees
    /// padding.
    pub fn array(&self) -> Result<Array> {
        let Some(Sinks { keep, offsets }) = &self.sinks else { return self.of_keys(None) };
        let (rows, first) = (offsets.len() as i32, Array::from_slice(offsets, &[offsets.len() as i32, 1, 1, 1])?);
        let position = ops::arange(0., f64::from(self.queries), 1., Dtype::Int32)?.reshape(&[self.queries, 1])?.add(&first)?;
        let kept = position.greater_equal(&Array::scalar_i32(0))?.logical_and(&position.less(&Array::scalar_i32(*keep))?)?;
        let keys = self.of_keys(Some(&kept))?.broadcast_to(&[rows, 1, self.queries, self.keys])?;
        let sinks = ops::arange(0., f64::from(*keep), 1., Dtype::Int32)?.less_equal(&position)?;
        ops::concatenate(&[sinks, keys], -1)
    }

    /// Of the `keys`. Queries that `elsewhere` says so of, `[B, 1, T, 1]`, do not see themselves among them.
    fn of_keys(&self, elsewhere: Option<&Array>) -> Result<Array> {
        let (queries, keys) = (self.queries, self.keys);
        let key = ops::arange(0.0, f64::from(keys), 1.0, Dtype::Int32)?;
        let query = ops::arange(f64::from(keys - queries), f64::from(keys), 1.0, Dtype::Int32)?.reshape(&[queries, 1])?;
        let mut mask = key.less_equal(&query)?;
        if let Some(window) = self.window {
            let near = key.greater(&query.subtract(&Array::scalar_i32(window))?)?;
            mask = mask.logical_and(&if self.keep > 0 {
                near.logical_or(&key.less(&Array::scalar_i32(self.keep))?)?
            } else {
                near
            })?;
        }
        if !self.padding.is_empty() {
            let padding = Array::from_slice(&self.padding, &[self.padding.len() as i32, 1, 1, 1])?;
            let mut itself = key.equal(&query)?;
            if let Some(elsewhere) = elsewhere {
                itself = itself.logical_and(&elsewhere.logical_not()?)?;
            }
            mask = mask.logical_and(&key.greater_equal(&padding)?)?.logical_or(&itself)?;
        }
        if self.roll == 0 {
            return Ok(mask);
        }
        let kept = mask.slice_axis(-1, 0, self.keep)?;
        let turned = mask.slice_axis(-1, self.keep, keys)?.roll(self.roll, -1)?;
        if self.keep == 0 { Ok(turned) } else { ops::concatenate(&[kept, turned], -1) }
    }

    /// `None` and `Causal` where they say the same.
    pub fn simplest(self) -> Visible {
        let windowed = self.window.is_some_and(|window| self.keys > window + self.keep);
        let early = self.sinks.as_ref().is_some_and(|sinks| sinks.offsets.iter().any(|&offset| offset < sinks.keep));
        if windowed || early || self.padding.iter().any(|&slots| slots > 0) {
            Visible::Masked(self)
        } else if self.queries == 1 {
            Visible::All
        } else {
            Visible::Causal
        }
    }
}
