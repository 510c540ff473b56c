//! Low-rank adaptation of a frozen weight: LoRA (Hu et al. 2021, arXiv:2106.09685), and DoRA (Liu et al. 2024, arXiv:2402.09353),
//! which learns the length of each output apart from its direction. Initialised and computed as PEFT does.

use std::cell::RefCell;

use super::{Module, Weight, dropout, join};
use crate::mlx::{Array, Dtype, Result, cuda, ops, random};

/// Factors whose product is added to a frozen weight. They are float32 whatever the weight's dtype: the small steps of an
/// optimizer would be lost in half precision. An embedding `[vocabulary, hidden]` has them as a linear layer of that shape would.
#[derive(Clone)]
pub struct Lora {
    /// `[rank, in]`, with the experts in front where there are several.
    pub a: Array,
    /// `[out, rank]`, likewise.
    pub b: Array,
    /// Multiplies their product.
    pub scale: f32,
    /// Off: the layer behaves as if there were no adapter.
    pub enabled: bool,
    /// What DoRA has more.
    pub dora: Option<Dora>,
    /// Of the inputs of the factors, while a training step differentiates.
    pub dropout: Option<Dropout>,
    /// On an embedding: it counts where the embedding is the head too, as in mlx-lm, and in PEFT with `ensure_weight_tying`.
    pub on_head: bool,
}

/// The lengths that DoRA learns, and what it takes to know the present ones.
#[derive(Clone)]
pub struct Dora {
    /// Float32: `[out]`, with the experts in front; of an embedding `[hidden]`, or `[vocabulary]` where its lengths are those of rows.
    pub magnitude: Array,
    /// The squared lengths of the frozen weight, of the shape of `magnitude`. Kept, so that a packed weight is unpacked only once.
    squares: Array,
    /// The lengths are those of columns, as PEFT's of embeddings are: what leaves an embedding is a column. mlx-lm's are those of rows
    /// there too.
    pub columns: bool,
    /// The present lengths, of the shape of `magnitude`, once they are known: they stay while nobody gets at the factors or the weight.
    lengths: RefCell<Option<Array>>,
}

/// Which inputs are dropped follows from the key, so that a recomputation drops the same.
#[derive(Clone)]
pub struct Dropout {
    pub probability: f32,
    pub key: Array,
}

impl Dora {
    /// Lengths that leave the weight as it is.
    pub fn new(weight: &Weight, columns: bool) -> Result<Self> {
        let squares = weight.numbers()?.astype(Dtype::Float32)?.square()?.sum(&[if columns { -2 } else { -1 }], false)?;
        // Now: a lazy sum would keep the unpacked numbers.
        squares.eval()?;
        Ok(Dora { magnitude: squares.sqrt()?, squares, columns, lengths: RefCell::default() })
    }

    fn axis(&self) -> i32 {
        if self.columns { -2 } else { -1 }
    }
}

impl Lora {
    pub fn of(a: Array, b: Array, scale: f32) -> Self {
        Lora { a, b, scale, enabled: true, dora: None, dropout: None, on_head: true }
    }

    /// For a weight of `shape` `[.., out, in]`. `a` is uniform within ±1/√in (Kaiming's bound for a slope of √5), `b` zero: at
    /// first the layer is unchanged.
    pub fn new(shape: &[i32], rank: i32, scale: f32, key: &Array) -> Result<Self> {
        let (a, b) = factor_shapes(shape, rank);
        let bound = 1.0 / (shape[shape.len() - 1] as f32).sqrt();
        let a = random::uniform(-bound, bound, &a, Dtype::Float32, key)?;
        Ok(Lora::of(a, ops::zeros(&b, Dtype::Float32)?, scale))
    }

    /// For an embedding: the factor that all tokens share is normal, that of rows per token zero.
    pub fn embedding(shape: &[i32], rank: i32, scale: f32, key: &Array) -> Result<Self> {
        let (a, b) = factor_shapes(shape, rank);
        let a = random::normal(0.0, 1.0, &a, Dtype::Float32, key)?;
        Ok(Lora::of(a, ops::zeros(&b, Dtype::Float32)?, scale))
    }

    pub fn rank(&self) -> i32 {
        self.a.dim(-2)
    }

    /// One expert's part of a stack's.
    pub fn expert(&self, expert: i32) -> Result<Self> {
        let part = |array: &Array| array.slice_axis(0, expert, expert + 1)?.squeeze(&[0]);
        let dora = |dora: &Dora| -> Result<Dora> {
            let (magnitude, squares) = (part(&dora.magnitude)?, part(&dora.squares)?);
            Ok(Dora { magnitude, squares, columns: dora.columns, lengths: RefCell::default() })
        };
        Ok(Lora { a: part(&self.a)?, b: part(&self.b)?, dora: self.dora.as_ref().map(dora).transpose()?, ..self.clone() })
    }

    /// What of `x` reaches the factors.
    fn dropped(&self, x: &Array) -> Result<Option<Array>> {
        self.dropout.as_ref().map(|drop| dropout(x, drop.probability, &drop.key)).transpose()
    }

    /// `scale · x Aᵀ`, float32: `[.., in]` to `[.., rank]`.
    fn low(&self, x: &Array) -> Result<Array> {
        x.astype(self.a.dtype())?.matmul(&self.a.t()?)?.multiply_scalar(self.scale)
    }

    /// `y + scale · x Aᵀ Bᵀ`, added in float32 and returned in the dtype of `y`: LoRA without more.
    pub fn correct(&self, x: &Array, y: &Array) -> Result<Array> {
        let correction = x.astype(self.a.dtype())?.matmul(&self.a.t()?)?.matmul(&self.b.t()?)?.multiply_scalar(self.scale)?;
        y.astype(correction.dtype())?.add(&correction)?.astype(y.dtype())
    }

    /// The layer's output from its `product` with an input, the factors' `correction` from one, and DoRA's `factor` of both.
    fn combine(
        &self,
        x: &Array,
        product: &dyn Fn(&Array) -> Result<Array>,
        correction: &dyn Fn(&Array) -> Result<Array>,
        factor: Option<Array>,
    ) -> Result<Array> {
        let y = product(x)?;
        let dropped = self.dropped(x)?;
        let correction = correction(dropped.as_ref().unwrap_or(x))?;
        let wide = y.astype(correction.dtype())?;
        let sum = match (factor, &dropped) {
            (None, _) => wide.add(&correction)?,
            (Some(factor), None) => wide.add(&correction)?.multiply(&factor)?,
            // PEFT's: the base sees all of the input, and what the factor changes of it only what is left.
            (Some(factor), Some(dropped)) => {
                let changed = product(dropped)?.astype(correction.dtype())?.multiply(&factor.add_scalar(-1.0)?)?;
                wide.add(&changed)?.add(&correction.multiply(&factor)?)?
            }
        };
        sum.astype(y.dtype())
    }

    /// A linear layer with the adapter on it: `[.., in]` to `[.., out]`.
    pub fn linear(&self, x: &Array, weight: &Weight, bias: Option<&Array>) -> Result<Array> {
        let correction = |x: &Array| self.low(x)?.matmul(&self.b.t()?);
        match (&self.dora, bias) {
            (None, Some(bias)) => self.combine(x, &|x| weight.affine(x, bias), &correction, None),
            (None, None) => self.combine(x, &|x| weight.project(x), &correction, None),
            (Some(dora), bias) => {
                let factor = self.factor(dora, weight)?;
                let y = self.combine(x, &|x| weight.project(x), &correction, Some(factor))?;
                bias.map_or(Ok(y.clone()), |bias| y.add(bias))
            }
        }
    }

    /// A linear layer per expert with the adapter on it, without a bias; see `Weight::gather`.
    pub fn switch(&self, x: &Array, weight: &Weight, indices: &Array, sorted: bool) -> Result<Array> {
        let through =
            |x: &Array, factor: &Array| ops::gather_mm_trusted(x, &factor.swapaxes(-1, -2)?, None, Some(indices), sorted);
        let correction =
            |x: &Array| through(&through(&x.astype(self.a.dtype())?, &self.a)?, &self.b)?.multiply_scalar(self.scale);
        let chosen = |dora: &Dora| self.factor(dora, weight)?.take(indices, 0)?.expand_dims(&[-2]);
        let factor = self.dora.as_ref().map(chosen).transpose()?;
        self.combine(x, &|x| weight.gather(x, indices, sorted), &correction, factor)
    }

    /// An embedding with the adapter on it: ids `[..]` to `[.., hidden]`. Nothing is dropped, as in PEFT.
    pub fn rows(&self, ids: &Array, weight: &Weight) -> Result<Array> {
        let rows = weight.rows(ids)?;
        let correction = cuda::embedding(&self.b, ids)?.matmul(&self.a)?.multiply_scalar(self.scale)?;
        let sum = rows.astype(correction.dtype())?.add(&correction)?;
        let sum = match &self.dora {
            Some(dora) if dora.columns => sum.multiply(&self.factor(dora, weight)?)?,
            Some(dora) => sum.multiply(&self.factor(dora, weight)?.take(ids, 0)?.expand_dims(&[-1])?)?,
            None => sum,
        };
        sum.astype(rows.dtype())
    }

    /// An embedding with the adapter on it as the head, `[.., hidden]` to `[.., vocabulary]`.
    pub fn tied_head(&self, x: &Array, weight: &Weight) -> Result<Array> {
        let x = self.tied_input(x, weight)?;
        let factor = self.output_factor(weight, true)?;
        self.combine(&x, &|x| weight.project(x), &|x| self.low(x)?.matmul(&self.b.t()?), factor)
    }

    /// What an embedding as the head multiplies: DoRA's factors of its columns belong to the inputs there.
    fn tied_input(&self, x: &Array, weight: &Weight) -> Result<Array> {
        match &self.dora {
            Some(dora) if dora.columns => x.astype(Dtype::Float32)?.multiply(&self.factor(dora, weight)?)?.astype(x.dtype()),
            _ => Ok(x.clone()),
        }
    }

    /// DoRA's factors of a head's outputs: its own, or those of an embedding's rows, which are the outputs there.
    fn output_factor(&self, weight: &Weight, tied: bool) -> Result<Option<Array>> {
        match &self.dora {
            Some(dora) if !(tied && dora.columns) => self.factor(dora, weight).map(Some),
            _ => Ok(None),
        }
    }

    /// How far DoRA lengthens each output: its magnitude over the present length, which has no gradient (section 4.3 of the paper).
    pub(super) fn factor(&self, dora: &Dora, weight: &Weight) -> Result<Array> {
        let known = dora.lengths.borrow().clone();
        let lengths = match known {
            Some(lengths) => lengths,
            None => {
                let lengths = self.lengths(dora, weight)?.stop_gradient()?;
                // Arrays without values are those of a transformation, or are about to be computed with the first use.
                if self.a.is_available() && self.b.is_available() {
                    *dora.lengths.borrow_mut() = Some(lengths.clone());
                }
                lengths
            }
        };
        dora.magnitude.divide(&lengths)
    }

    /// What follows from the factors and the weight is computed anew: either may have changed.
    pub(super) fn forget(&mut self) {
        if let Some(dora) = &mut self.dora {
            dora.lengths.take();
        }
    }

    /// `‖W + sBA‖` by `‖W‖² + 2s·W∘BA + s²‖BA‖²`, each summed over its axis: a product of the weight with as many rows as the
    /// rank, and no copy of the weight, packed or not.
    fn lengths(&self, dora: &Dora, weight: &Weight) -> Result<Array> {
        let (a, b) = (self.a.stop_gradient()?, self.b.stop_gradient()?);
        // Each outer[.., i, :] belongs to one length; inner mixes the ranks.
        let (outer, through, inner) = if dora.columns {
            let through = weight.project_back(&b.t()?.astype(weight.dtype())?)?;
            (a.swapaxes(-1, -2)?, through, b.swapaxes(-1, -2)?.matmul(&b)?)
        } else {
            (b, self.weight_times(&a.astype(weight.dtype())?, weight)?, a.matmul(&a.swapaxes(-1, -2)?)?)
        };
        let through = through.astype(Dtype::Float32)?.swapaxes(-1, -2)?;
        let cross = through.multiply(&outer)?.sum(&[-1], false)?.multiply_scalar(2.0 * self.scale)?;
        let own = outer.matmul(&inner)?.multiply(&outer)?.sum(&[-1], false)?.multiply_scalar(self.scale * self.scale)?;
        let squares = dora.squares.add(&cross)?.add(&own)?;
        squares.maximum(&Array::scalar(f32::MIN_POSITIVE))?.sqrt()
    }

    /// `A Wᵀ`, `[.., rank, out]`.
    fn weight_times(&self, a: &Array, weight: &Weight) -> Result<Array> {
        if a.ndim() == 2 {
            return weight.project(a);
        }
        let (experts, rank, inputs) = (a.dim(0), a.dim(1), a.dim(2));
        let indices = ops::arange(0.0, f64::from(experts), 1.0, Dtype::Uint32)?.repeat(rank, 0)?;
        weight.gather(&a.reshape(&[experts * rank, 1, inputs])?, &indices, true)?.reshape(&[experts, rank, -1])
    }

    /// `W + scale · B A`, in DoRA with the lengths that it learnt, computed in float32 and returned in the weight's dtype.
    pub fn merge(&self, weight: &Array) -> Result<Array> {
        let delta = self.b.matmul(&self.a)?.multiply_scalar(self.scale)?;
        let merged = weight.astype(delta.dtype())?.add(&delta)?;
        let merged = match &self.dora {
            Some(dora) => {
                let lengths = merged.square()?.sum(&[dora.axis()], true)?.sqrt()?;
                merged.multiply(&dora.magnitude.expand_dims(&[dora.axis()])?.divide(&lengths)?)?
            }
            None => merged,
        };
        merged.astype(weight.dtype())
    }

    /// The same for a weight that may be packed: packed again as it was, or left in numbers.
    pub fn merge_weight(&self, weight: &Weight, dequantize: bool) -> Result<Weight> {
        let merged = Weight::Plain(self.merge(&weight.numbers()?)?);
        match weight {
            Weight::Packed(packed) if !dequantize => merged.pack(packed.how),
            _ => Ok(merged),
        }
    }
}

/// The shapes of `a` and `b` for a weight `[.., out, in]`.
pub fn factor_shapes(shape: &[i32], rank: i32) -> (Vec<i32>, Vec<i32>) {
    let (experts, layer) = shape.split_at(shape.len() - 2);
    ([experts, &[rank, layer[1]]].concat(), [experts, &[layer[0], rank]].concat())
}

/// `prefix` is the layer's.
impl Module for Lora {
    fn visit<'a>(&'a self, prefix: &str, f: &mut dyn FnMut(String, &'a Array)) {
        f(join(prefix, "lora_a"), &self.a);
        f(join(prefix, "lora_b"), &self.b);
        if let Some(dora) = &self.dora {
            f(join(prefix, "lora_magnitude"), &dora.magnitude);
        }
    }

    fn visit_mut(&mut self, prefix: &str, f: &mut dyn FnMut(String, &mut Array)) {
        self.forget();
        f(join(prefix, "lora_a"), &mut self.a);
        f(join(prefix, "lora_b"), &mut self.b);
        if let Some(dora) = &mut self.dora {
            f(join(prefix, "lora_magnitude"), &mut dora.magnitude);
        }
    }
}

/// What makes logits of hidden states: a weight `[V, H]`, and the adapter on it where one counts.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    pub weight: &'a Weight,
    lora: Option<&'a Lora>,
    /// The weight is the embedding's.
    tied: bool,
}

/// The parts of a head with an adapter, for which `logits = factor ∘ (hidden Wᵀ + low Bᵀ)`.
pub struct AdaptedHead {
    /// `[N, H]`
    pub hidden: Array,
    /// `[N, rank]`, float32
    pub low: Array,
    /// `[V, rank]`, float32
    pub b: Array,
    /// `[V]`, float32, in DoRA.
    pub factor: Option<Array>,
}

impl<'a> From<&'a Weight> for Head<'a> {
    fn from(weight: &'a Weight) -> Self {
        Head { weight, lora: None, tied: false }
    }
}

impl<'a> Head<'a> {
    /// The embedding as the head.
    pub fn tied(weight: &'a Weight, lora: Option<&'a Lora>) -> Self {
        Head { weight, lora: lora.filter(|lora| lora.enabled && lora.on_head), tied: true }
    }

    /// A head of its own.
    pub fn own(weight: &'a Weight, lora: Option<&'a Lora>) -> Self {
        Head { weight, lora: lora.filter(|lora| lora.enabled), tied: false }
    }

    /// `[.., H]` to `[.., V]`.
    pub fn project(&self, hidden: &Array) -> Result<Array> {
        match self.lora {
            None => self.weight.project(hidden),
            Some(lora) if self.tied => lora.tied_head(hidden, self.weight),
            Some(lora) => lora.linear(hidden, self.weight, None),
        }
    }

    /// The parts of which the logits of hidden states `[N, H]` consist, where an adapter counts. What DoRA's dropout would drop of the
    /// base's inputs is left in: of the vocabulary's product there is one only.
    pub fn adapted(&self, hidden: &Array) -> Result<Option<AdaptedHead>> {
        let Some(lora) = self.lora else { return Ok(None) };
        let hidden = if self.tied { lora.tied_input(hidden, self.weight)? } else { hidden.clone() };
        let low = lora.low(lora.dropped(&hidden)?.as_ref().unwrap_or(&hidden))?;
        let factor = lora.output_factor(self.weight, self.tied)?;
        Ok(Some(AdaptedHead { hidden, low, b: lora.b.clone(), factor }))
    }
}

#[cfg(test)]
#[path = "lora_tests.rs"]
mod tests;
