//! Log-probs and entropies of chosen tokens under `softmax(logits / temperature)`, in float32 whatever the dtype of the logits.
//!
//! `head_logprobs` takes the hidden states before the output head and never holds the logits of all tokens: it goes through
//! them in chunks, keeps one number per token (the log of the softmax's denominator), and computes the logits again for the gradient.

use crate::mlx::ops::{concatenate, zeros_like};
use crate::mlx::{Array, Dtype, Error, Result, custom_vjp, depends, kernels, ops};
use crate::models::{CausalLm, Forward};
use crate::nn::{AdaptedHead, Head, Weight};

/// `log softmax(logits / temperature)[ids]` for logits `[.., V]` and integer ids `[..]`; float32 `[..]`.
pub fn selective_log_softmax(logits: &Array, ids: &Array, temperature: f32) -> Result<Array> {
    let logits = scaled(logits, temperature)?;
    check_ids(&logits, ids)?;
    let chosen = logits.take_along_axis(&valid_ids(ids, logits.dim(-1))?.expand_dims(&[-1])?, -1)?.squeeze(&[-1])?;
    chosen.subtract(&logits.logsumexp(&[-1], false)?)
}

/// The entropy of `softmax(logits / temperature)` in nats, for logits `[.., V]`; float32 `[..]`.
pub fn entropy_from_logits(logits: &Array, temperature: f32) -> Result<Array> {
    let logits = scaled(logits, temperature)?;
    let log_probs = logits.log_softmax(-1)?;
    log_probs.exp()?.multiply(&log_probs)?.sum(&[-1], false)?.negative()
}

fn scaled(logits: &Array, temperature: f32) -> Result<Array> {
    check_temperature(temperature)?;
    if logits.ndim() == 0 || !logits.dtype().is_float() {
        return Err(Error::Shape(format!("logits must be float [.., vocabulary]; they are {logits:?}")));
    }
    let logits = logits.astype(Dtype::Float32)?;
    if temperature == 1.0 { Ok(logits) } else { logits.divide_scalar(temperature) }
}

fn check_temperature(temperature: f32) -> Result<()> {
    if temperature.is_finite() && temperature > 0.0 {
        return Ok(());
    }
    Err(Error::Argument(format!("temperature is {temperature}; log-probs need a finite temperature above 0")))
}

fn check_ids(logits: &Array, ids: &Array) -> Result<()> {
    let rows = &logits.shape()[..logits.ndim() - 1];
    if ids.shape() != rows || ids.dtype().is_float() {
        return Err(Error::Shape(format!("ids must be integers of shape {rows:?} for logits {logits:?}; they are {ids:?}")));
    }
    Ok(())
}

/// MLX does not check indices: ids outside the vocabulary (at positions that a mask drops) must not read outside the array.
fn valid_ids(ids: &Array, vocabulary: i32) -> Result<Array> {
    ids.astype(Dtype::Int32)?.maximum(&Array::scalar_i32(0))?.minimum(&Array::scalar_i32(vocabulary - 1))
}

/// What `head_logprobs` does about entropies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Entropy {
    #[default]
    Skip,
    /// Computed, with no gradient: for metrics and masks.
    Value,
    /// Computed, with a gradient: for an entropy bonus. One more pass over the logits.
    Differentiable,
}

/// How `head_logprobs` works through the tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadOptions {
    pub temperature: f32,
    pub entropy: Entropy,
    /// Tokens whose logits are in memory at once; 0 chooses by the size of the vocabulary.
    pub chunk: i32,
    /// False when the head is frozen: its gradient is then zeros and costs nothing.
    pub train_head: bool,
}

impl Default for HeadOptions {
    fn default() -> Self {
        HeadOptions { temperature: 1.0, entropy: Entropy::Skip, chunk: 0, train_head: true }
    }
}

/// Float32 `[N]` each.
pub struct HeadLogprobs {
    pub logps: Array,
    /// In nats; present unless skipped.
    pub entropies: Option<Array>,
}

/// Log-probs of `ids` `[N]` under `softmax(hidden @ head^T / temperature)`, for hidden states `[N, H]` and a head `[V, H]`.
/// Differentiable in `hidden`, the head's weight and its adapter. Ids outside the vocabulary give an arbitrary value: mask them.
pub fn head_logprobs(hidden: &Array, head: Head, ids: &Array, options: &HeadOptions) -> Result<HeadLogprobs> {
    check_temperature(options.temperature)?;
    let head_weight = head.weight;
    let head_shape = head_weight.shape();
    let (&[tokens, width], &[vocabulary, head_width]) = (hidden.shape(), head_shape.as_slice()) else {
        return Err(Error::Shape(format!(
            "head_logprobs needs hidden [N, H] and head [V, H]; got {hidden:?} and {head_shape:?}"
        )));
    };
    if width != head_width || tokens == 0 || vocabulary == 0 {
        return Err(Error::Shape(format!("hidden {hidden:?} and head {head_shape:?} do not fit or are empty")));
    }
    if ids.shape() != [tokens] || ids.dtype().is_float() {
        return Err(Error::Shape(format!("ids must be integers of shape [{tokens}]; they are {ids:?}")));
    }
    if hidden.dtype() != head_weight.dtype() || !hidden.dtype().is_float() {
        let dtype = head_weight.dtype().name();
        return Err(Error::Dtype(format!("hidden {hidden:?} and a head of {dtype} must have the same float dtype")));
    }
    let chunk = if options.chunk > 0 { options.chunk } else { default_chunk(vocabulary) };
    // Codes get no gradient.
    let train_head = options.train_head && !head_weight.is_packed();
    let adapted = head.adapted(hidden)?;
    let layout = Layout { weight: head_weight.clone(), adapter: adapted.as_ref().map(|adapted| adapted.factor.is_some()) };
    let mut inputs = vec![adapted.as_ref().map_or(hidden, |adapted| &adapted.hidden).clone(), ids.clone()];
    if let Some(AdaptedHead { low, b, factor, .. }) = adapted {
        inputs.extend([low, b].into_iter().chain(factor));
    }
    inputs.extend(head_weight.parts());
    let chunked = Chunked { options: HeadOptions { chunk, train_head, ..*options }, vocabulary };
    let backward_layout = layout.clone();
    let outputs = custom_vjp(
        move |inputs| chunked.forward(&layout.read(inputs)),
        move |inputs, cotangents, outputs| chunked.backward(&backward_layout.read(inputs), inputs, cotangents, outputs),
        &inputs,
    )?;
    Ok(HeadLogprobs { logps: outputs[0].clone(), entropies: outputs.get(2).cloned() })
}

/// Log-probs of every token but the first of rows `[B, T]` after those before it, at temperature 1: float32 `[B, T - 1]`. For rows without
/// padding of at least two tokens that lie in the vocabulary.
pub fn sequence_logprobs(net: &dyn CausalLm, rows: &Array) -> Result<Array> {
    let (count, length) = (rows.dim(0), rows.dim(1));
    let inputs = rows.slice_axis(1, 0, length - 1)?;
    let next = rows.slice_axis(1, 1, length)?;
    let hidden = net.hidden(Forward::new(&inputs))?;
    let hidden = hidden.reshape(&[-1, hidden.dim(-1)])?;
    let scores = head_logprobs(&hidden, net.head(), &next.flatten()?, &HeadOptions::default())?;
    scores.logps.reshape(&[count, length - 1])
}

/// The sum of `-log p(target)` over the tokens where `mask` is not 0, at temperature 1; a float32 scalar. Shapes as in `head_logprobs`.
pub fn head_cross_entropy(
    hidden: &Array,
    head: Head,
    targets: &Array,
    mask: &Array,
    chunk: i32,
    train_head: bool,
) -> Result<Array> {
    if mask.shape() != targets.shape() {
        return Err(Error::Shape(format!("mask {mask:?} must have the shape of the targets {targets:?}")));
    }
    let options = HeadOptions { chunk, train_head, ..Default::default() };
    let logps = head_logprobs(hidden, head, targets, &options)?.logps;
    super::ratios::masked(&logps, &super::ratios::as_mask(mask)?)?.sum_all()?.negative()
}

/// About 64 MiB of float32 logits, but enough tokens for the matrix product to be worth its overhead.
fn default_chunk(vocabulary: i32) -> i32 {
    ((1 << 24) / vocabulary).clamp(256, 4096)
}

/// What the inputs of the custom function are: hidden states, ids, the adapter's parts where there is one, the weight's parts.
#[derive(Clone)]
struct Layout {
    weight: Weight,
    /// An adapter counts; in DoRA it has a factor.
    adapter: Option<bool>,
}

/// The inputs by name.
struct Parts<'a> {
    hidden: &'a Array,
    ids: &'a Array,
    adapter: Option<Adapter<'a>>,
    weight: Weight,
}

/// As in `AdaptedHead`.
struct Adapter<'a> {
    low: &'a Array,
    b: &'a Array,
    factor: Option<&'a Array>,
}

impl Layout {
    fn read<'a>(&self, inputs: &'a [Array]) -> Parts<'a> {
        let adapter = self.adapter.map(|factor| Adapter { low: &inputs[2], b: &inputs[3], factor: factor.then(|| &inputs[4]) });
        let start = 2 + self.adapter.map_or(0, |factor| 2 + usize::from(factor));
        Parts { hidden: &inputs[0], ids: &inputs[1], adapter, weight: self.weight.with_parts(&inputs[start..]) }
    }
}

#[derive(Clone, Copy)]
struct Chunked {
    options: HeadOptions,
    vocabulary: i32,
}

impl Chunked {
    /// `[start, stop)` of each chunk of the tokens.
    fn chunks(&self, tokens: i32) -> impl Iterator<Item = (i32, i32)> + use<> {
        let chunk = self.options.chunk;
        (0..tokens).step_by(chunk as usize).map(move |start| (start, (start + chunk).min(tokens)))
    }

    /// Hidden states divided by the temperature where that loses nothing; half precision divides the logits instead.
    fn scale_hidden(&self, hidden: &Array) -> Result<Array> {
        if self.options.temperature == 1.0 || hidden.dtype() != Dtype::Float32 {
            return Ok(hidden.clone());
        }
        hidden.multiply_scalar(1.0 / self.options.temperature)
    }

    /// Scaled logits of scaled rows before DoRA's factor.
    fn raw_logits(&self, rows: &Rows, parts: &Parts) -> Result<Array> {
        let mut logits = parts.weight.project(&rows.hidden)?.astype(Dtype::Float32)?;
        if let (Some(adapter), Some(low)) = (&parts.adapter, &rows.low) {
            logits = ops::addmm(&logits, low, &adapter.b.t()?, 1.0, 1.0)?;
        }
        if rows.hidden.dtype() == Dtype::Float32 || self.options.temperature == 1.0 {
            return Ok(logits);
        }
        logits.divide_scalar(self.options.temperature)
    }

    fn logits(&self, rows: &Rows, parts: &Parts) -> Result<Array> {
        let raw = self.raw_logits(rows, parts)?;
        match parts.factor() {
            Some(factor) => raw.multiply(factor),
            None => Ok(raw),
        }
    }

    /// All rows, scaled as `scale_hidden` says.
    fn scaled_rows(&self, parts: &Parts) -> Result<Rows> {
        let low = match &parts.adapter {
            None => None,
            Some(adapter) if parts.hidden.dtype() == Dtype::Float32 => Some(self.scale_hidden(adapter.low)?),
            Some(adapter) => Some(adapter.low.clone()),
        };
        Ok(Rows { hidden: self.scale_hidden(parts.hidden)?, low })
    }

    /// Log-probs, the logarithm of the denominator, and entropies where wanted; `[N]` each.
    fn forward(&self, inputs: &Parts) -> Result<Vec<Array>> {
        let all = self.scaled_rows(inputs)?;
        let ids = valid_ids(inputs.ids, self.vocabulary)?.expand_dims(&[1])?;
        let mut parts: Vec<Vec<Array>> = Vec::new();
        for (start, stop) in self.chunks(all.hidden.dim(0)) {
            let mut rows = all.part(start, stop)?;
            if let Some(before) = parts.last() {
                rows.hidden = depends(&[rows.hidden], before)?.remove(0);
            }
            let logits = self.logits(&rows, inputs)?;
            let chosen = logits.take_along_axis(&ids.slice_axis(0, start, stop)?, 1)?;
            parts.push(if self.options.entropy == Entropy::Skip {
                let denominator = kernels::logsumexp(&logits)?;
                vec![chosen.subtract(&denominator)?, denominator]
            } else {
                // One exponential serves both sums, and matrix products add faster than reductions.
                let largest = logits.max(&[1], true)?;
                let exponentials = kernels::exp(&logits.subtract(&largest)?)?;
                let sum = exponentials.matmul(&ops::ones(&[self.vocabulary, 1], Dtype::Float32)?)?;
                let weighted = exponentials.expand_dims(&[1])?.matmul(&logits.expand_dims(&[2])?)?.squeeze(&[2])?;
                let denominator = largest.add(&sum.log()?)?;
                vec![chosen.subtract(&denominator)?, denominator.clone(), denominator.subtract(&weighted.divide(&sum)?)?]
            });
        }
        let joined = |index: usize| {
            let columns: Vec<&Array> = parts.iter().map(|part| &part[index]).collect();
            concatenate(&columns, 0)?.squeeze(&[1])
        };
        (0..parts[0].len()).map(joined).collect()
    }

    /// With `p` the softmax, `D = p - onehot` and `c` the cotangent of the log-probs, the gradient of the scaled logits is `-c D`.
    /// The row factor `c` is applied to the narrow side of each product. An entropy `h` of cotangent `u` subtracts `u p (log p + h)`.
    /// With DoRA's factor `f` on raw logits, those of the raw ones are `f` times as large, and `f` gets their sum over the rows.
    fn backward(&self, parts: &Parts, inputs: &[Array], cotangents: &[Array], outputs: &[Array]) -> Result<Vec<Array>> {
        let (hidden, weight) = (parts.hidden, &parts.weight);
        let dtype = hidden.dtype();
        let column = |array: &Array| array.astype(Dtype::Float32)?.expand_dims(&[1]);
        let (cotangent, denominator) = (column(&cotangents[0])?, column(&outputs[1])?);
        let through_entropy = match self.options.entropy {
            Entropy::Differentiable => {
                let u = column(&cotangents[2])?;
                Some((u.clone(), cotangent.add(&u.multiply(&column(&outputs[2])?)?)?))
            }
            _ => None,
        };
        let step = -1.0 / self.options.temperature;
        let all = self.scaled_rows(parts)?;
        let ids = valid_ids(parts.ids, self.vocabulary)?.expand_dims(&[1])?;

        let mut hidden_parts: Vec<Array> = Vec::new();
        let mut low_parts: Vec<Array> = Vec::new();
        let [mut weight_gradient, mut b_gradient, mut factor_gradient]: [Option<Array>; 3] = [None, None, None];
        for (start, stop) in self.chunks(hidden.dim(0)) {
            let part = |array: &Array| array.slice_axis(0, start, stop);
            let mut rows = all.part(start, stop)?;
            if let Some(before) = hidden_parts.last() {
                let gathered = weight_gradient.iter().chain(&b_gradient).chain(&factor_gradient);
                let before: Vec<&Array> = std::iter::once(before).chain(low_parts.last()).chain(gathered).collect();
                rows.hidden = depends(&[rows.hidden], &before)?.remove(0);
            }
            let mut raw = None;
            let log_probs = match (weight, parts.factor()) {
                (Weight::Plain(numbers), _) if dtype == Dtype::Float32 && parts.adapter.is_none() => {
                    ops::addmm(&part(&denominator)?, &rows.hidden, &numbers.t()?, 1.0, -1.0)?
                }
                (_, Some(factor)) => {
                    let logits = raw.insert(self.raw_logits(&rows, parts)?);
                    logits.multiply(factor)?.subtract(&part(&denominator)?)?
                }
                (_, None) => self.raw_logits(&rows, parts)?.subtract(&part(&denominator)?)?,
            };
            let probs = kernels::exp(&log_probs)?;
            let cotangent = part(&cotangent)?;
            // The factor of each row that the products have not got yet.
            let (difference, factor) = match &through_entropy {
                None => (scatter(&probs, &part(&ids)?, &full_column(&cotangent, -1.0)?)?, Some(cotangent)),
                Some((u, offset)) => {
                    let rows = log_probs.multiply(&part(u)?)?.add(&part(offset)?)?.multiply(&probs)?;
                    (scatter(&rows, &part(&ids)?, &cotangent.negative()?)?, None)
                }
            };
            let scale = |array: Array| match &factor {
                Some(factor) => array.astype(Dtype::Float32)?.multiply(&factor.multiply_scalar(step)?),
                None => array.astype(Dtype::Float32)?.multiply_scalar(step),
            };
            let mut difference = difference;
            if let (Some(raw), Some(dora)) = (raw, parts.factor()) {
                // The raw logits are divided by the temperature already, so only the sign of `step` is missing.
                let lengthened = difference.multiply(&raw)?;
                let lengthened = match &factor {
                    Some(factor) => lengthened.multiply(factor)?,
                    None => lengthened,
                };
                let gradient = lengthened.sum(&[0], false)?.negative()?;
                factor_gradient = Some(match factor_gradient {
                    None => gradient,
                    Some(sum) => sum.add(&gradient)?,
                });
                difference = difference.multiply(dora)?;
            }
            if let Some(adapter) = &parts.adapter {
                low_parts.push(scale(difference.matmul(adapter.b)?)?);
                add_product(&mut b_gradient, &difference.t()?, &scale(part(adapter.low)?)?)?;
            }
            let difference = difference.astype(dtype)?;
            hidden_parts.push(scale(weight.project_back(&difference)?)?.astype(dtype)?);
            if self.options.train_head {
                add_product(&mut weight_gradient, &difference.t()?, &scale(part(hidden)?)?.astype(dtype)?)?;
            }
        }
        let mut gradients = vec![concatenate(&hidden_parts, 0)?, zeros_like(&inputs[1])?];
        if !low_parts.is_empty() {
            gradients.push(concatenate(&low_parts, 0)?);
        }
        gradients.extend(b_gradient.into_iter().chain(factor_gradient));
        match weight_gradient {
            Some(gradient) => gradients.push(gradient.astype(dtype)?),
            None => gradients.extend(inputs[gradients.len()..].iter().map(zeros_like).collect::<Result<Vec<_>>>()?),
        }
        Ok(gradients)
    }
}

/// Hidden states and what the adapter's first factor makes of them.
struct Rows {
    hidden: Array,
    low: Option<Array>,
}

impl Rows {
    fn part(&self, start: i32, stop: i32) -> Result<Rows> {
        let low = self.low.as_ref().map(|low| low.slice_axis(0, start, stop)).transpose()?;
        Ok(Rows { hidden: self.hidden.slice_axis(0, start, stop)?, low })
    }
}

impl Parts<'_> {
    fn factor(&self) -> Option<&Array> {
        self.adapter.as_ref().and_then(|adapter| adapter.factor)
    }
}

/// Adds `wide @ narrow` to a sum over chunks. Sums stay in float32: rounding each partial one to half precision would bias training.
fn add_product(sum: &mut Option<Array>, wide: &Array, narrow: &Array) -> Result<()> {
    *sum = Some(match sum.take() {
        None => wide.matmul(narrow)?.astype(Dtype::Float32)?,
        Some(sum) if wide.dtype() == Dtype::Float32 => ops::addmm(&sum, wide, narrow, 1.0, 1.0)?,
        Some(sum) => sum.add(&wide.matmul(narrow)?.astype(Dtype::Float32)?)?,
    });
    Ok(())
}

/// Adds one value `[n, 1]` to each row of `[n, V]`, at the column `ids` `[n, 1]`. In place where nobody else holds the array.
fn scatter(rows: &Array, ids: &Array, values: &Array) -> Result<Array> {
    rows.scatter_add_axis(ids, values, 1)
}

fn full_column(like: &Array, value: f64) -> Result<Array> {
    ops::full(like.shape(), value, Dtype::Float32)
}

#[cfg(test)]
#[path = "logprobs_tests.rs"]
mod tests;
