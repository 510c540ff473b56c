//! One layer after the other: choosing its codes, and measuring what they cost.

use std::collections::HashMap;

use super::awq::clipped;
use super::codes::{numbers, round};
use super::gptq::Compensation;
use super::gram::Gram;
use super::{CalibratedLayer, Method, Watch};
use crate::mlx::ops::{Quantization, QuantizationMode, Quantized};
use crate::mlx::{Array, Dtype, Error, Result, eval};
use crate::models::checkpoint::eval_codes;
use crate::models::quantization::Plan;
use crate::nn::{Linear, Mlp, Packed, Weight};

/// What is needed to pack layers, and what hears of them.
pub(super) struct Worker<'a> {
    pub method: Method,
    pub damping: f32,
    pub scales: Dtype,
    pub plan: &'a Plan,
    /// What rounding costs layers that have been scaled since.
    pub rounded: HashMap<String, f64>,
    pub layers: &'a mut Vec<CalibratedLayer>,
    pub done: &'a mut u64,
    pub watch: &'a Watch<'a>,
}

/// The moments of the inputs that layers share, and what GPTQ makes of them.
pub(super) struct Inputs<'a> {
    pub gram: &'a Gram,
    compensation: Option<Compensation>,
    /// They are too few to fit anything to, and only tell what rounding costs.
    few: bool,
}

impl<'a> Inputs<'a> {
    pub fn few(gram: &'a Gram) -> Self {
        Inputs { gram, compensation: None, few: true }
    }
}

/// Codes of a matrix, and squared errors of its outputs.
pub(super) struct Solved {
    pub codes: Quantized,
    pub method: Method,
    pub errors: Errors,
    pub note: Option<String>,
}

#[derive(Clone, Copy, Default)]
pub(super) struct Errors {
    pub chosen: f64,
    pub rounded: f64,
    /// The squared outputs.
    pub whole: f64,
}

impl Errors {
    pub fn add(&mut self, other: Errors) {
        self.chosen += other.chosen;
        self.rounded += other.rounded;
        self.whole += other.whole;
    }

    fn part(self, error: f64) -> f64 {
        // Float32 sums of squares that almost cancel may be a little below 0.
        if self.whole > 0. { (error / self.whole).max(0.) } else { 0. }
    }
}

/// The numbers of a weight that has not been packed.
pub(super) fn plain(weight: &Weight) -> Result<&Array> {
    match weight {
        Weight::Plain(numbers) => Ok(numbers),
        Weight::Packed(_) => Err(Error::Internal("a layer to be calibrated is packed".into())),
    }
}

impl Worker<'_> {
    pub fn inputs<'g>(&self, gram: &'g Gram) -> Result<Inputs<'g>> {
        let compensation = match self.method {
            Method::Gptq => Compensation::new(gram, self.damping)?,
            _ => None,
        };
        Ok(Inputs { gram, compensation, few: false })
    }

    /// Codes of a matrix `[out, in]` by the method, or by rounding where that is no worse.
    pub fn solve(&self, name: &str, matrix: &Array, how: Quantization, inputs: &Inputs) -> Result<Solved> {
        let gram = inputs.gram;
        let rounded = round(matrix, how, self.scales)?;
        let (mut method, mut note) = (Method::Rtn, None);
        let mut codes = rounded.clone();
        if how.mode() != QuantizationMode::Affine {
            note = Some(format!("mode {} is rounded", how.mode().name()));
        } else if inputs.few {
            note = Some("it has too few inputs".into());
        } else if self.method == Method::Awq {
            method = Method::Awq;
            // What queries and keys are multiplied with each other for suffers from clipping.
            if !(name.ends_with("q_proj") || name.ends_with("k_proj")) {
                let cut = clipped(matrix, gram, how, self.scales, self.watch.check)?;
                codes = round(&cut.astype(matrix.dtype())?, how, self.scales)?;
            }
        } else if let Some(compensation) = &inputs.compensation {
            method = Method::Gptq;
            codes = compensation.quantize(matrix, how, self.scales, self.watch.check)?;
        } else {
            note = Some("its inputs are zero, or not finite".into());
        }
        let cost = |codes: &Quantized| gram.error(&numbers(codes, how)?.subtract(matrix)?);
        let (chosen, nearest, whole) = (cost(&codes)?, cost(&rounded)?, gram.error(matrix)?);
        eval(&[&chosen, &nearest, &whole])?;
        let value = |array: &Array| array.item().map(f64::from);
        let mut errors = Errors { chosen: value(&chosen)?, rounded: value(&nearest)?, whole: value(&whole)? };
        if method != Method::Rtn && (errors.chosen.is_nan() || errors.chosen > errors.rounded) {
            (codes, method, note) = (rounded, Method::Rtn, Some("rounding was better".into()));
            errors.chosen = errors.rounded;
        }
        eval_codes(&codes)?;
        Ok(Solved { codes, method, errors, note })
    }

    /// Packs linear layers that get the same inputs.
    pub fn linears<const N: usize>(&mut self, prefix: &str, layers: [(&str, &mut Linear); N], gram: &Gram) -> Result<()> {
        let mut inputs = None;
        for (name, layer) in layers {
            let name = crate::nn::join(prefix, name);
            let Some(how) = self.plan.how(&name) else { continue };
            let inputs = match &mut inputs {
                Some(inputs) => inputs,
                none => none.insert(self.inputs(gram)?),
            };
            (self.watch.check)()?;
            let matrix = plain(&layer.weight)?;
            let Solved { codes, method, errors, note } = self.solve(&name, matrix, how, inputs)?;
            let dtype = matrix.dtype();
            layer.weight = Weight::Packed(Packed { codes, how, dtype });
            self.tell(name, method, errors, gram.tokens, note);
        }
        Ok(())
    }

    /// Packs a gated feed-forward block, given the moments of its inputs and the inputs.
    pub fn mlp(&mut self, prefix: &str, mlp: &mut Mlp, gram: &Gram, inner: impl Iterator<Item = Result<Array>>) -> Result<()> {
        self.linears(prefix, [("gate_proj", &mut mlp.gate_proj), ("up_proj", &mut mlp.up_proj)], gram)?;
        let mut gram = Gram::new(mlp.down_proj.weight.shape()[1])?;
        for x in inner {
            gram.add(&mlp.gated(&x?)?)?;
            (self.watch.check)()?;
        }
        self.linears(prefix, [("down_proj", &mut mlp.down_proj)], &gram)
    }

    /// Packs a layer of whose inputs nothing is known.
    pub fn round_only(&mut self, name: &str, weight: &mut Weight) -> Result<()> {
        let Some(how) = self.plan.how(name) else { return Ok(()) };
        (self.watch.check)()?;
        let matrix = plain(weight)?;
        let (codes, dtype) = (round(matrix, how, self.scales)?, matrix.dtype());
        eval_codes(&codes)?;
        *weight = Weight::Packed(Packed { codes, how, dtype });
        self.count();
        Ok(())
    }

    pub fn tell(&mut self, name: String, method: Method, errors: Errors, tokens: usize, note: Option<String>) {
        let rtn_error = self.rounded.remove(&name).unwrap_or_else(|| errors.part(errors.rounded));
        let (method, error) = (method.name(), errors.part(errors.chosen));
        self.layers.push(CalibratedLayer { name, method, error, rtn_error, tokens, note });
        self.count();
    }

    fn count(&mut self) {
        *self.done += 1;
        (self.watch.progress)(*self.done, self.plan.packed.len() as u64);
    }
}
