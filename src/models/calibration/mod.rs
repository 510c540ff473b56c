//! Packing a model with the help of texts: what a layer's weights are rounded to depends on the inputs that it gets.
//!
//! Block by block: the hidden states of all texts are kept and carried through each block once its layers are packed, so that a layer is
//! fitted to the inputs that it will really get, those that come out of packed layers (GPTQ's convention). Of a layer's inputs only their
//! second moments are kept, and these only while the layer is packed.

mod awq;
pub(crate) mod codes;
mod experts;
mod gptq;
mod gram;
mod layer;
mod scale;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use super::Model;
use super::decoder::{Block, Decoder};
use super::quantization::{Plan, QuantizeOptions};
use crate::mlx::ops::QuantizationMode;
use crate::mlx::{Array, Dtype, Error, Result, memory};
use crate::nn::{Context, FeedForward};
use gram::Gram;
use layer::Worker;

/// How weights become codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Each to the nearest; needs no texts.
    Rtn,
    Gptq,
    Awq,
}

impl Method {
    pub const NAMES: [&str; 3] = ["rtn", "gptq", "awq"];

    pub fn parse(name: &str) -> Result<Self> {
        let all = [Self::Rtn, Self::Gptq, Self::Awq];
        Self::NAMES.iter().position(|known| *known == name).map(|index| all[index]).ok_or_else(|| {
            let hint =
                crate::options::nearest(name, &Self::NAMES).map_or(String::new(), |near| format!("; did you mean '{near}'?"));
            Error::Argument(format!("quantize: unknown method '{name}'{hint} There are {}", Self::NAMES.join(", ")))
        })
    }

    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// The texts, and what is done with them.
#[derive(Clone, Debug)]
pub struct CalibrateOptions {
    pub method: Method,
    /// Token ids; rows of one length that follow each other are computed together.
    pub rows: Vec<Vec<i32>>,
    /// The most rows that are computed together.
    pub batch_size: usize,
    /// What GPTQ adds to the diagonal of the Hessian, in parts of its mean.
    pub damping: f32,
    /// The dtype in which scales and biases will be saved, float32, float16 or bfloat16: they are rounded to it before codes are chosen.
    /// Without it that of the model.
    pub scales: Option<Dtype>,
}

/// What has become of one layer.
#[derive(Clone, Debug)]
pub struct CalibratedLayer {
    pub name: String,
    /// `rtn` where the method had nothing to go by, or was no better.
    pub method: &'static str,
    /// The squared error of the outputs over the calibration inputs, in parts of the squared outputs.
    pub error: f64,
    /// The same for rounding to the nearest.
    pub rtn_error: f64,
    /// Inputs.
    pub tokens: usize,
    pub note: Option<String>,
}

/// A run that goes on block by block; others may use the model between two steps.
pub struct Calibration {
    options: CalibrateOptions,
    scales: Dtype,
    plan: Plan,
    /// Of each batch `[B, T, hidden]`, before the block that is next.
    hidden: Vec<Array>,
    /// Embedding, blocks, head.
    next: usize,
    done: u64,
    layers: Vec<CalibratedLayer>,
}

/// Whom a step tells how far it is, and asks whether to go on.
pub struct Watch<'a> {
    /// Layers done and in all.
    pub progress: &'a dyn Fn(u64, u64),
    pub check: &'a dyn Fn() -> Result<()>,
}

impl Calibration {
    /// Checks everything; changes nothing.
    pub fn new(model: &Model, options: &QuantizeOptions, calibrate: CalibrateOptions) -> Result<Self> {
        let method = calibrate.method.name();
        let refuse = |message: String| Err(Error::Argument(format!("quantize: {message}")));
        if options.how.mode() != QuantizationMode::Affine {
            let mode = options.how.mode().name();
            return refuse(format!("method {method} chooses affine codes; for mode {mode} leave the method out (rtn)"));
        }
        if model.is_quantized() {
            let cure = "load an unquantised checkpoint (a GGUF file with F16, BF16 or F32 tensors), or call dequantize() before";
            return refuse(format!("method {method} needs the weights as numbers, and some are packed already: {cure}"));
        }
        let mut adapters = Vec::new();
        model.net.adapters("", &mut adapters);
        if !adapters.is_empty() {
            return refuse(format!("method {method} is for a model without an adapter; fuse it, or save and delete it, before"));
        }
        if !(calibrate.damping.is_finite() && calibrate.damping > 0.) {
            return refuse(format!("damping is {}; it must be above 0, as 0.01 is", calibrate.damping));
        }
        if let Some(dtype) = calibrate.scales {
            super::model::check_dtype(dtype)?;
        }
        let vocabulary = model.net.config().vocab_size;
        if calibrate.rows.is_empty() || calibrate.rows.iter().any(Vec::is_empty) {
            return refuse(format!("method {method} needs texts to calibrate with, of at least one token each"));
        }
        if let Some(id) = calibrate.rows.iter().flatten().find(|&&id| id < 0 || id >= vocabulary) {
            return refuse(format!("token {id} of the calibration data is outside the vocabulary of {vocabulary}"));
        }
        let plan = model.plan_quantization(options)?;
        let scales = calibrate.scales.unwrap_or(model.dtype);
        Ok(Calibration { options: calibrate, scales, plan, hidden: Vec::new(), next: 0, done: 0, layers: Vec::new() })
    }

    /// Does the embedding, the next block, or the head; true when nothing is left. Stopped by an error of `watch.check`, or failed,
    /// it leaves a model that computes, with some layers packed.
    pub fn step(&mut self, model: &mut Model, watch: &Watch) -> Result<bool> {
        let lost = || Error::Internal("quantize: the network has no blocks to go through".into());
        let decoder = model.net.decoder_mut().ok_or_else(lost)?;
        let (step, blocks) = (self.next, decoder.layers.len());
        let mut hidden = std::mem::take(&mut self.hidden);
        let mut worker = Worker {
            method: self.options.method,
            damping: self.options.damping,
            scales: self.scales,
            plan: &self.plan,
            rounded: HashMap::new(),
            layers: &mut self.layers,
            done: &mut self.done,
            watch,
        };
        if step == 0 {
            worker.round_only("model.embed_tokens", &mut decoder.embed_tokens.weight)?;
            hidden = embed(decoder, &self.options)?;
        } else if step <= blocks {
            let prefix = format!("model.layers.{}", step - 1);
            worker.block(&prefix, &mut decoder.layers[step - 1], &mut hidden)?;
        } else if let Some(head) = &mut decoder.lm_head {
            let mut gram = Gram::new(head.weight.shape()[1])?;
            for x in &hidden {
                gram.add(&decoder.norm.forward(x)?)?;
            }
            worker.linears("", [("lm_head", head)], &gram)?;
        }
        memory::clear_cache()?;
        self.hidden = hidden;
        self.next += 1;
        Ok(step > blocks)
    }

    /// What was planned, and what has become of each layer that had inputs to go by.
    pub fn into_report(self) -> (Plan, Vec<CalibratedLayer>) {
        (self.plan, self.layers)
    }
}

fn embed(decoder: &Decoder, options: &CalibrateOptions) -> Result<Vec<Array>> {
    let (mut rest, mut hidden) = (options.rows.as_slice(), Vec::new());
    while let Some(first) = rest.first() {
        let alike = rest.iter().take(options.batch_size.max(1)).take_while(|row| row.len() == first.len()).count();
        let ids = Array::from_slice(&rest[..alike].concat(), &[alike as i32, first.len() as i32])?;
        let x = decoder.embed_tokens.forward(&ids)?;
        x.eval()?;
        hidden.push(x);
        rest = &rest[alike..];
    }
    Ok(hidden)
}

fn context(x: &Array) -> Result<Context> {
    Context::new(x.dim(0), x.dim(1), None)
}

impl Worker<'_> {
    /// Packs a block's layers in the order in which inputs reach them, and carries the hidden states through it.
    fn block(&mut self, prefix: &str, block: &mut Block, hidden: &mut [Array]) -> Result<()> {
        if self.method == Method::Awq {
            self.scale_block(prefix, block, hidden)?;
        }
        let Block { input_layernorm, self_attn, post_attention_layernorm, mlp } = block;
        let mut gram = Gram::new(input_layernorm.weight.dim(0))?;
        for x in hidden.iter() {
            gram.add(&input_layernorm.forward(x)?)?;
            (self.watch.check)()?;
        }
        let attention = format!("{prefix}.self_attn");
        let inputs = [("q_proj", &mut self_attn.q_proj), ("k_proj", &mut self_attn.k_proj), ("v_proj", &mut self_attn.v_proj)];
        self.linears(&attention, inputs, &gram)?;
        let (mut gram, mut attended) = (Gram::new(self_attn.o_proj.weight.shape()[1])?, Vec::new());
        for x in hidden.iter() {
            let y = self_attn.attend(&input_layernorm.forward(x)?, &context(x)?, None)?;
            gram.add(&y)?;
            attended.push(y);
            (self.watch.check)()?;
        }
        self.linears(&attention, [("o_proj", &mut self_attn.o_proj)], &gram)?;
        let mut gram = Gram::new(post_attention_layernorm.weight.dim(0))?;
        for (x, y) in hidden.iter_mut().zip(attended) {
            *x = x.add(&self_attn.o_proj.forward(&y)?)?;
            x.eval()?;
            gram.add(&post_attention_layernorm.forward(x)?)?;
            (self.watch.check)()?;
        }
        let prefix = format!("{prefix}.mlp");
        match mlp {
            FeedForward::Dense(mlp) => {
                let inner = hidden.iter().map(|x| post_attention_layernorm.forward(x));
                self.mlp(&prefix, mlp, &gram, inner)?;
            }
            FeedForward::Sparse(moe) => {
                let inner: Vec<Array> = hidden.iter().map(|x| post_attention_layernorm.forward(x)).collect::<Result<_>>()?;
                self.experts(&prefix, moe, &gram, &inner)?;
            }
        }
        for x in hidden.iter_mut() {
            let (y, _) = mlp.forward(&post_attention_layernorm.forward(x)?)?;
            *x = x.add(&y)?;
            x.eval()?;
            (self.watch.check)()?;
        }
        Ok(())
    }
}
