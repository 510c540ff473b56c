//! Feed-forward blocks of experts, of which a router chooses a few for every token (Shazeer et al. 2017, arXiv:1701.06538).

use super::{Layer, Linear, Lora, Mlp, Module, SwitchGlu, Weight, module_of};
use crate::mlx::{Array, Dtype, Result};

/// What a sparse block is made of.
#[derive(Clone, Debug)]
pub struct MoeShape {
    pub hidden: i32,
    pub intermediate: i32,
    pub experts: i32,
    /// Experts per token.
    pub top_k: i32,
    /// Divide the weights of a token's experts by their sum.
    pub normalised: bool,
    /// The size of the expert that all tokens share, if there is one.
    pub shared_intermediate: Option<i32>,
}

/// Which experts each token uses, and how much of each.
pub struct Routing {
    /// uint32 `[.., k]`, the likeliest first; of equally likely ones the first.
    pub experts: Array,
    /// float32 `[.., k]`
    pub weights: Array,
}

/// Experts, their router, and perhaps a shared expert behind a gate of its own.
#[derive(Clone)]
pub struct SparseMoe {
    pub gate: Linear,
    pub switch_mlp: SwitchGlu,
    pub shared_expert: Option<Mlp>,
    pub shared_expert_gate: Option<Linear>,
    top_k: i32,
    normalised: bool,
}

impl SparseMoe {
    pub fn new(shape: &MoeShape, dtype: Dtype) -> Result<Self> {
        let shared = |size| Mlp::new(shape.hidden, size, dtype);
        let shared_gate = |_| Linear::new(shape.hidden, 1, false, dtype);
        Ok(SparseMoe {
            gate: Linear::new(shape.hidden, shape.experts, false, dtype)?,
            switch_mlp: SwitchGlu::new(shape.hidden, shape.intermediate, shape.experts, false, dtype)?,
            shared_expert: shape.shared_intermediate.map(shared).transpose()?,
            shared_expert_gate: shape.shared_intermediate.map(shared_gate).transpose()?,
            top_k: shape.top_k,
            normalised: shape.normalised,
        })
    }

    /// `[.., hidden]` to the same shape, and the router's logits `[.., experts]`, which training balances.
    pub fn forward(&self, x: &Array) -> Result<(Array, Array)> {
        let logits = self.gate.forward(x)?;
        let Routing { experts, weights } = self.route(&logits)?;
        let weights = weights.astype(x.dtype())?.expand_dims(&[-1])?;
        let y = self.switch_mlp.forward(x, &experts)?.multiply(&weights)?.sum(&[-2], false)?;
        let y = match (&self.shared_expert, &self.shared_expert_gate) {
            (Some(expert), Some(gate)) => y.add(&gate.forward(x)?.sigmoid()?.multiply(&expert.forward(x)?)?)?,
            _ => y,
        };
        Ok((y, logits))
    }

    /// Chooses by router logits `[.., experts]`. Probabilities are over all experts and in float32 until they are weights, as in
    /// transformers; mlx-lm rounds them to the model's dtype first.
    pub fn route(&self, logits: &Array) -> Result<Routing> {
        let probabilities = logits.astype(Dtype::Float32)?.softmax(-1)?;
        let experts = likeliest(&probabilities, self.top_k)?;
        let mut weights = probabilities.take_along_axis(&experts, -1)?;
        if self.normalised {
            weights = weights.divide(&weights.sum(&[-1], true)?)?;
        }
        Ok(Routing { experts, weights })
    }
}

/// The `k` likeliest of probabilities `[.., experts]`, as `Routing` has them; uint32 `[.., k]`, with no gradient.
pub fn likeliest(probabilities: &Array, k: i32) -> Result<Array> {
    // A whole sort of a few experts costs little, and is stable: equals stay in the order of the experts.
    let order = probabilities.stop_gradient()?.negative()?.argsort(-1)?;
    order.slice_axis(order.ndim() as i32 - 1, 0, k)?.astype(Dtype::Uint32)
}

module_of!(SparseMoe: gate, switch_mlp, shared_expert, shared_expert_gate);

/// The feed-forward half of a block.
#[derive(Clone)]
pub enum FeedForward {
    Dense(Box<Mlp>),
    Sparse(Box<SparseMoe>),
}

impl FeedForward {
    /// `[.., hidden]` to the same shape, and the router's logits `[.., experts]` where there is one.
    pub fn forward(&self, x: &Array) -> Result<(Array, Option<Array>)> {
        match self {
            FeedForward::Dense(mlp) => Ok((mlp.forward(x)?, None)),
            FeedForward::Sparse(moe) => moe.forward(x).map(|(y, logits)| (y, Some(logits))),
        }
    }
}

impl Module for FeedForward {
    fn visit<'a>(&'a self, prefix: &str, f: &mut dyn FnMut(String, &'a Array)) {
        match self {
            FeedForward::Dense(mlp) => mlp.visit(prefix, f),
            FeedForward::Sparse(moe) => moe.visit(prefix, f),
        }
    }

    fn visit_mut(&mut self, prefix: &str, f: &mut dyn FnMut(String, &mut Array)) {
        match self {
            FeedForward::Dense(mlp) => mlp.visit_mut(prefix, f),
            FeedForward::Sparse(moe) => moe.visit_mut(prefix, f),
        }
    }

    fn layers<'a>(&'a mut self, prefix: &str, layers: &mut Vec<(String, Layer<'a>)>) {
        match self {
            FeedForward::Dense(mlp) => mlp.layers(prefix, layers),
            FeedForward::Sparse(moe) => moe.layers(prefix, layers),
        }
    }

    fn weights<'a>(&'a self, prefix: &str, weights: &mut Vec<(String, &'a Weight)>) {
        match self {
            FeedForward::Dense(mlp) => mlp.weights(prefix, weights),
            FeedForward::Sparse(moe) => moe.weights(prefix, weights),
        }
    }

    fn adapters<'a>(&'a self, prefix: &str, adapters: &mut Vec<(String, &'a Lora)>) {
        match self {
            FeedForward::Dense(mlp) => mlp.adapters(prefix, adapters),
            FeedForward::Sparse(moe) => moe.adapters(prefix, adapters),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routed(logits: &[f32], top_k: i32, normalised: bool) -> (Vec<u32>, Vec<f32>) {
        let shape =
            MoeShape { hidden: 4, intermediate: 4, experts: logits.len() as i32, top_k, normalised, shared_intermediate: None };
        let moe = SparseMoe::new(&shape, Dtype::Float32).unwrap();
        let routing = moe.route(&Array::from_slice(logits, &[1, logits.len() as i32]).unwrap()).unwrap();
        (routing.experts.to_vec().unwrap(), routing.weights.to_vec().unwrap())
    }

    #[test]
    fn the_likeliest_experts_in_a_defined_order() {
        let (experts, weights) = routed(&[0., 3f32.ln(), 0., 3f32.ln()], 3, false);
        assert_eq!(experts, [1, 3, 0]);
        for (weight, want) in weights.iter().zip([0.375, 0.375, 0.125]) {
            assert!((weight - want).abs() < 1e-6, "{weights:?}");
        }
        let (experts, weights) = routed(&[1.; 8], 2, true);
        assert_eq!((experts, weights), (vec![0, 1], vec![0.5, 0.5]));
    }
}
