//! The decoder that the Qwen models share: embedding, pre-norm blocks, final norm, head.

use crate::cache::Cache;
use crate::mlx::{Array, Dtype, Error, Result, checkpoint};
use crate::models::{CausalLm, Forward, Hidden, ModelConfig};
use crate::nn::{
    Attention, AttentionShape, Context, Embedding, FeedForward, Head, Layer, Linear, Lora, Mlp, Module, MoeShape, RmsNorm,
    SparseMoe, Weight, is_packed_part, join, module_of,
};

#[derive(Clone)]
pub struct Block {
    pub(super) input_layernorm: RmsNorm,
    pub(super) self_attn: Attention,
    pub(super) post_attention_layernorm: RmsNorm,
    pub(super) mlp: FeedForward,
}

impl Block {
    fn new(config: &ModelConfig, layer: usize, attention: &AttentionShape, dtype: Dtype) -> Result<Self> {
        let norm = || RmsNorm::new(config.hidden_size, config.rms_norm_eps, dtype);
        Ok(Block {
            input_layernorm: norm()?,
            self_attn: Attention::new(attention, &config.rope, dtype)?,
            post_attention_layernorm: norm()?,
            mlp: feed_forward(config, layer, dtype)?,
        })
    }

    /// `[B, T, H]` to the same shape, and the router's logits where there is one.
    fn forward(&self, x: &Array, context: &Context, cache: Option<&mut Cache>) -> Result<(Array, Option<Array>)> {
        let x = x.add(&self.self_attn.forward(&self.input_layernorm.forward(x)?, context, cache)?)?;
        let (y, router_logits) = self.mlp.forward(&self.post_attention_layernorm.forward(&x)?)?;
        Ok((x.add(&y)?, router_logits))
    }

    /// The same results, of which a gradient keeps only the inputs. The weights go in as inputs: they need gradients too. Codes cannot have
    /// one, and stay what they are.
    fn checkpointed(&self, x: &Array, context: &Context) -> Result<(Array, Option<Array>)> {
        let mut inputs = vec![x.clone()];
        self.visit("", &mut |name, weight| {
            if !is_packed_part(&name, weight) {
                inputs.push(weight.clone());
            }
        });
        let (template, context) = (self.clone(), context.clone());
        let run = move |inputs: &[Array]| {
            let mut block = template.clone();
            let mut given = inputs[1..].iter();
            block.visit_mut("", &mut |name, weight| {
                if !is_packed_part(&name, weight)
                    && let Some(array) = given.next()
                {
                    *weight = array.clone();
                }
            });
            let (y, router_logits) = block.forward(&inputs[0], &context, None)?;
            Ok(std::iter::once(y).chain(router_logits).collect())
        };
        let mut outputs = checkpoint(run, &inputs)?.into_iter();
        let y = outputs.next().ok_or_else(|| Error::Internal("checkpoint: the output was lost".into()))?;
        Ok((y, outputs.next()))
    }
}

fn feed_forward(config: &ModelConfig, layer: usize, dtype: Dtype) -> Result<FeedForward> {
    match &config.moe {
        Some(moe) if moe.sparse_layers[layer] => {
            let shape = MoeShape {
                hidden: config.hidden_size,
                intermediate: moe.moe_intermediate_size,
                experts: moe.num_experts,
                top_k: moe.num_experts_per_tok,
                normalised: moe.norm_topk_prob,
                shared_intermediate: moe.shared_expert_intermediate_size,
            };
            Ok(FeedForward::Sparse(Box::new(SparseMoe::new(&shape, dtype)?)))
        }
        _ => Ok(FeedForward::Dense(Box::new(Mlp::new(config.hidden_size, config.intermediate_size, dtype)?))),
    }
}

module_of!(Block: input_layernorm, self_attn, post_attention_layernorm, mlp);

pub struct Decoder {
    config: ModelConfig,
    pub(super) embed_tokens: Embedding,
    pub(super) layers: Vec<Block>,
    pub(super) norm: RmsNorm,
    /// Absent where the head is the embedding.
    pub(super) lm_head: Option<Linear>,
    checkpoint_layers: bool,
}

impl Decoder {
    /// A model of the right shapes whose weights are zeros, lazily: loading fills them.
    pub fn new(config: ModelConfig, attention: AttentionShape, dtype: Dtype) -> Result<Self> {
        let layers = (0..config.num_hidden_layers as usize)
            .map(|layer| Block::new(&config, layer, &attention, dtype))
            .collect::<Result<_>>()?;
        let tied = config.tie_word_embeddings;
        Ok(Decoder {
            embed_tokens: Embedding::new(config.vocab_size, config.hidden_size, dtype)?,
            layers,
            norm: RmsNorm::new(config.hidden_size, config.rms_norm_eps, dtype)?,
            lm_head: if tied { None } else { Some(Linear::new(config.hidden_size, config.vocab_size, false, dtype)?) },
            config,
            checkpoint_layers: false,
        })
    }
}

impl CausalLm for Decoder {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn forward(&self, input: Forward) -> Result<Hidden> {
        let contexts = input.contexts(self.layers.len())?;
        let mut x = self.embed_tokens.forward(input.ids)?;
        let mut caches = input.caches.map(|caches| caches.iter_mut());
        let mut router_logits = Vec::new();
        for (layer, context) in self.layers.iter().zip(&contexts) {
            let cache = caches.as_mut().and_then(Iterator::next);
            let (y, routed) = match cache {
                None if self.checkpoint_layers => layer.checkpointed(&x, context)?,
                cache => layer.forward(&x, context, cache)?,
            };
            x = y;
            router_logits.extend(routed);
        }
        Ok(Hidden { states: self.norm.forward(&x)?, router_logits })
    }

    fn head(&self) -> Head<'_> {
        match &self.lm_head {
            Some(head) => Head::own(&head.weight, head.lora.as_ref()),
            None => Head::tied(&self.embed_tokens.weight, self.embed_tokens.lora.as_ref()),
        }
    }

    fn decoder_mut(&mut self) -> Option<&mut Decoder> {
        Some(self)
    }

    fn set_checkpoint_layers(&mut self, on: bool) {
        self.checkpoint_layers = on;
    }
}

impl Module for Decoder {
    fn visit<'a>(&'a self, prefix: &str, f: &mut dyn FnMut(String, &'a Array)) {
        self.embed_tokens.visit(&join(prefix, "model.embed_tokens"), f);
        for (index, layer) in self.layers.iter().enumerate() {
            layer.visit(&join(prefix, &format!("model.layers.{index}")), f);
        }
        self.norm.visit(&join(prefix, "model.norm"), f);
        self.lm_head.visit(&join(prefix, "lm_head"), f);
    }

    fn visit_mut(&mut self, prefix: &str, f: &mut dyn FnMut(String, &mut Array)) {
        self.embed_tokens.visit_mut(&join(prefix, "model.embed_tokens"), f);
        for (index, layer) in self.layers.iter_mut().enumerate() {
            layer.visit_mut(&join(prefix, &format!("model.layers.{index}")), f);
        }
        self.norm.visit_mut(&join(prefix, "model.norm"), f);
        self.lm_head.visit_mut(&join(prefix, "lm_head"), f);
    }

    fn layers<'a>(&'a mut self, prefix: &str, layers: &mut Vec<(String, Layer<'a>)>) {
        self.embed_tokens.layers(&join(prefix, "model.embed_tokens"), layers);
        for (index, layer) in self.layers.iter_mut().enumerate() {
            layer.layers(&join(prefix, &format!("model.layers.{index}")), layers);
        }
        self.lm_head.layers(&join(prefix, "lm_head"), layers);
    }

    fn weights<'a>(&'a self, prefix: &str, weights: &mut Vec<(String, &'a Weight)>) {
        self.embed_tokens.weights(&join(prefix, "model.embed_tokens"), weights);
        for (index, layer) in self.layers.iter().enumerate() {
            layer.weights(&join(prefix, &format!("model.layers.{index}")), weights);
        }
        self.lm_head.weights(&join(prefix, "lm_head"), weights);
    }

    fn adapters<'a>(&'a self, prefix: &str, adapters: &mut Vec<(String, &'a Lora)>) {
        self.embed_tokens.adapters(&join(prefix, "model.embed_tokens"), adapters);
        for (index, layer) in self.layers.iter().enumerate() {
            layer.adapters(&join(prefix, &format!("model.layers.{index}")), adapters);
        }
        self.lm_head.adapters(&join(prefix, "lm_head"), adapters);
    }
}
