//! AWQ's scales, moved from the inputs of layers into what makes these inputs. The block computes what it did.

use super::awq::{Candidate, best_scales};
use super::codes::{numbers, round};
use super::context;
use super::gram::Gram;
use super::layer::{Worker, plain};
use crate::mlx::{Array, Dtype, Result};
use crate::models::decoder::Block;
use crate::nn::{FeedForward, Linear, Mlp, RmsNorm, Weight, join};

/// `array · factors`, computed in float32.
fn times(array: &Array, factors: &Array) -> Result<Array> {
    let product = array.astype(Dtype::Float32)?.multiply(factors)?.astype(array.dtype())?;
    product.eval()?;
    Ok(product)
}

/// Multiplies a layer's inputs.
fn scale_inputs(weight: &mut Weight, scales: &Array) -> Result<()> {
    *weight = Weight::Plain(times(plain(weight)?, scales)?);
    Ok(())
}

/// Divides a layer's outputs, bias included.
fn divide_outputs(layer: &mut Linear, scales: &Array) -> Result<()> {
    let factors = scales.reciprocal()?;
    layer.weight = Weight::Plain(times(plain(&layer.weight)?, &factors.expand_dims(&[1])?)?);
    layer.bias = layer.bias.as_ref().map(|bias| times(bias, &factors)).transpose()?;
    Ok(())
}

impl Worker<'_> {
    /// The scales for layers that share inputs. Remembers what rounding the layers as they are would cost.
    fn scales(&mut self, layers: &[(String, &Weight)], gram: &Gram, repeats: Option<[i32; 3]>) -> Result<Option<Array>> {
        let mut candidates = Vec::new();
        for (name, weight) in layers {
            let Some(how) = self.plan.how(name) else { continue };
            let weight = plain(weight)?.astype(Dtype::Float32)?;
            let off = numbers(&round(&weight, how, self.scales)?, how)?.subtract(&weight)?;
            let (error, whole) = (gram.error(&off)?.item()?, gram.error(&weight)?.item()?);
            self.rounded.insert(name.clone(), if whole > 0. { f64::from(error / whole).max(0.) } else { 0. });
            candidates.push(Candidate { weight, how });
        }
        if candidates.is_empty() {
            return Ok(None);
        }
        best_scales(&candidates, gram, repeats, self.scales, self.watch.check)
    }

    /// From the outputs of a norm's weight into the layers that read them.
    fn scale_norm(&mut self, norm: &mut RmsNorm, layers: Vec<(String, &mut Weight)>, gram: &Gram) -> Result<()> {
        let read: Vec<(String, &Weight)> = layers.iter().map(|(name, weight)| (name.clone(), &**weight)).collect();
        let Some(scales) = self.scales(&read, gram, None)? else { return Ok(()) };
        norm.weight = times(&norm.weight, &scales.reciprocal()?)?;
        layers.into_iter().try_for_each(|(_, weight)| scale_inputs(weight, &scales))
    }

    /// From `up`, which the gate multiplies, into `down`.
    fn scale_mlp(&mut self, prefix: &str, mlp: &mut Mlp, gram: &Gram) -> Result<()> {
        let down = [(join(prefix, "down_proj"), &mlp.down_proj.weight)];
        let Some(scales) = self.scales(&down, gram, None)? else { return Ok(()) };
        divide_outputs(&mut mlp.up_proj, &scales)?;
        scale_inputs(&mut mlp.down_proj.weight, &scales)
    }

    /// Experts share the scales of their inputs; inside each nothing is scaled.
    pub fn scale_block(&mut self, prefix: &str, block: &mut Block, hidden: &[Array]) -> Result<()> {
        let Block { input_layernorm, self_attn, post_attention_layernorm, mlp } = block;
        let mut inputs = Gram::new(input_layernorm.weight.dim(0))?;
        let mut attended = Gram::new(self_attn.o_proj.weight.shape()[1])?;
        let mut inner = Gram::new(post_attention_layernorm.weight.dim(0))?;
        let dense = match mlp {
            FeedForward::Dense(mlp) => Some(&**mlp),
            FeedForward::Sparse(moe) => moe.shared_expert.as_ref(),
        };
        let mut gated = dense.map(|mlp| Gram::new(mlp.down_proj.weight.shape()[1])).transpose()?;
        for x in hidden {
            (self.watch.check)()?;
            let normed = input_layernorm.forward(x)?;
            inputs.add(&normed)?;
            let y = self_attn.attend(&normed, &context(x)?, None)?;
            attended.add(&y)?;
            let m = post_attention_layernorm.forward(&x.add(&self_attn.o_proj.forward(&y)?)?)?;
            inner.add(&m)?;
            if let (Some(gram), Some(mlp)) = (&mut gated, dense) {
                gram.add(&mlp.gated(&m)?)?;
            }
        }
        let name = |part: &str| format!("{prefix}.self_attn.{part}");
        let output = [(name("o_proj"), &self_attn.o_proj.weight)];
        let shape = self_attn.shared_values();
        if let Some(scales) = self.scales(&output, &attended, Some(shape))? {
            let own = scales.reshape(&shape)?.slice_axis(1, 0, 1)?.flatten()?;
            divide_outputs(&mut self_attn.v_proj, &own)?;
            scale_inputs(&mut self_attn.o_proj.weight, &scales)?;
        }
        let readers = vec![
            (name("q_proj"), &mut self_attn.q_proj.weight),
            (name("k_proj"), &mut self_attn.k_proj.weight),
            (name("v_proj"), &mut self_attn.v_proj.weight),
        ];
        self.scale_norm(input_layernorm, readers, &inputs)?;
        let name = |part: &str| format!("{prefix}.mlp.{part}");
        match mlp {
            FeedForward::Dense(mlp) => {
                if let Some(gram) = &gated {
                    self.scale_mlp(&format!("{prefix}.mlp"), mlp, gram)?;
                }
                let readers = vec![(name("gate_proj"), &mut mlp.gate_proj.weight), (name("up_proj"), &mut mlp.up_proj.weight)];
                self.scale_norm(post_attention_layernorm, readers, &inner)
            }
            FeedForward::Sparse(moe) => {
                if let (Some(gram), Some(expert)) = (&gated, &mut moe.shared_expert) {
                    self.scale_mlp(&name("shared_expert"), expert, gram)?;
                }
                let mut readers = vec![
                    (name("gate"), &mut moe.gate.weight),
                    (name("switch_mlp.gate_proj"), &mut moe.switch_mlp.gate_proj.weight),
                    (name("switch_mlp.up_proj"), &mut moe.switch_mlp.up_proj.weight),
                ];
                if let Some(expert) = &mut moe.shared_expert {
                    readers.push((name("shared_expert.gate_proj"), &mut expert.gate_proj.weight));
                    readers.push((name("shared_expert.up_proj"), &mut expert.up_proj.weight));
                }
                if let Some(gate) = &mut moe.shared_expert_gate {
                    readers.push((name("shared_expert_gate"), &mut gate.weight));
                }
                self.scale_norm(post_attention_layernorm, readers, &inner)
            }
        }
    }
}
