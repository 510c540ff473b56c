//! How evenly routers use their experts, and the loss that keeps them doing so (Fedus et al. 2021, arXiv:2101.03961, equations 4 to 6).

use super::moe::likeliest;
use crate::mlx::{Array, Dtype, Error, Result, ops};

/// What the routers of a model's layers did with a batch.
pub struct RouterUse {
    /// Share of the choices that fell on each expert, float32 `[layers, experts]`; a layer's add up to 1. Without gradient.
    pub load: Array,
    /// Mean probability that the router gave each expert, float32 `[layers, experts]`; a layer's add up to 1.
    pub probability: Array,
    top_k: i32,
}

impl RouterUse {
    /// From each layer's router logits `[.., experts]`, of which the `top_k` largest were chosen. `token_weights` `[..]` say how much
    /// each token counts, 0 at padding; all count alike without them.
    pub fn new(router_logits: &[Array], top_k: i32, token_weights: Option<&Array>) -> Result<Self> {
        let first =
            router_logits.first().ok_or_else(|| Error::Argument("router logits of at least one layer are needed".into()))?;
        let shape = first.shape();
        if shape.is_empty() || first.size() == 0 || router_logits.iter().any(|logits| logits.shape() != shape) {
            let shapes: Vec<&[i32]> = router_logits.iter().map(Array::shape).collect();
            return Err(Error::Shape(format!(
                "router logits must be [.., experts], the same for every layer; they are {shapes:?}"
            )));
        }
        if let Some(logits) = router_logits.iter().find(|logits| !logits.dtype().is_float()) {
            return Err(Error::Dtype(format!("router logits must be float, not {}", logits.dtype().name())));
        }
        let experts = first.dim(-1);
        if !(1..=experts).contains(&top_k) {
            return Err(Error::Argument(format!("a token must choose from 1 to {experts} experts, not {top_k}")));
        }
        let tokens = first.size() as i32 / experts;
        let share = match token_weights {
            Some(weights) if weights.size() as i32 != tokens => {
                let (weights, shape) = (weights.shape(), &shape[..shape.len() - 1]);
                return Err(Error::Shape(format!("token weights of shape {weights:?} do not fit tokens of shape {shape:?}")));
            }
            Some(weights) => {
                let weights = weights.astype(Dtype::Float32)?.reshape(&[tokens, 1])?;
                weights.divide(&weights.sum_all()?.maximum_scalar(f32::MIN_POSITIVE)?)?
            }
            None => ops::full(&[tokens, 1], 1. / f64::from(tokens), Dtype::Float32)?,
        };
        let (mut loads, mut probabilities) = (Vec::new(), Vec::new());
        let one = Array::scalar(1. / top_k as f32);
        for logits in router_logits {
            let probability = logits.reshape(&[tokens, experts])?.astype(Dtype::Float32)?.softmax(-1)?;
            let chosen = ops::zeros(&[tokens, experts], Dtype::Float32)?;
            let chosen = chosen.put_along_axis(&likeliest(&probability, top_k)?, &one, -1)?;
            loads.push(chosen.multiply(&share)?.sum(&[0], false)?);
            probabilities.push(probability.multiply(&share)?.sum(&[0], false)?);
        }
        Ok(RouterUse { load: ops::stack(&loads, 0)?.stop_gradient()?, probability: ops::stack(&probabilities, 0)?, top_k })
    }

    /// The load-balancing loss, a float32 scalar, as transformers': over the tokens of all layers together, the sum over experts of the
    /// share of tokens that chose it times its mean probability, times the number of experts. `top_k` where all experts are used alike,
    /// more where those are used most that are also likeliest. Its gradient goes through the probabilities.
    pub fn load_balancing_loss(&self) -> Result<Array> {
        let product = self.load.mean(&[0], false)?.multiply(&self.probability.mean(&[0], false)?)?;
        product.sum_all()?.multiply_scalar((self.top_k * self.load.dim(-1)) as f32)
    }

    /// For training logs, lazy scalars: the largest and the smallest load of any layer's expert in parts of an even one; the mean over
    /// layers of the loads' coefficient of variation (0 when even) and of their entropy (1 when even, 0 when on one expert); the share of
    /// experts without a token.
    pub fn metrics(&self) -> Result<Vec<(&'static str, Array)>> {
        let experts = self.load.dim(-1);
        let relative = self.load.multiply_scalar(experts as f32)?;
        let entropy = match experts {
            1 => Array::scalar(1.),
            _ => {
                // A load of 0 adds nothing, and has a logarithm that must not meet it.
                let logs = self.load.maximum_scalar(f32::MIN_POSITIVE)?.log()?;
                self.load.multiply(&logs)?.sum(&[-1], false)?.mean_all()?.multiply_scalar(-1. / (experts as f32).ln())?
            }
        };
        let unused = self.load.equal(&Array::scalar(0.))?.astype(Dtype::Float32)?.mean_all()?;
        Ok(vec![
            ("expert_load/max", relative.max_all()?),
            ("expert_load/min", relative.min(&[0, 1], false)?),
            ("expert_load/cv", relative.std(&[-1], false, 0)?.mean_all()?),
            ("expert_load/entropy", entropy),
            ("expert_load/unused", unused),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits(rows: &[[f32; 4]]) -> Array {
        Array::from_slice(&rows.concat(), &[rows.len() as i32, 4]).unwrap()
    }

    fn value(array: &Array) -> f32 {
        array.item().unwrap()
    }

    fn metric(routed: &RouterUse, wanted: &str) -> f32 {
        value(&routed.metrics().unwrap().iter().find(|(name, _)| name.ends_with(wanted)).unwrap().1)
    }

    #[test]
    fn even_and_uneven_use() {
        let one_each: Vec<[f32; 4]> = (0..4).map(|i| std::array::from_fn(|j| if i == j { 9. } else { 0. })).collect();
        let even = RouterUse::new(&[logits(&one_each)], 1, None).unwrap();
        assert!((value(&even.load_balancing_loss().unwrap()) - 1.).abs() < 1e-6);
        for (name, want) in [("max", 1.), ("min", 1.), ("cv", 0.), ("entropy", 1.), ("unused", 0.)] {
            assert!((metric(&even, name) - want).abs() < 1e-6, "{name}");
        }
        // All choose expert 0, whose probability is e / (e + 3), and then expert 1 as the first of the equal others.
        let same = RouterUse::new(&[logits(&[[1., 0., 0., 0.]; 3])], 2, None).unwrap();
        let e = std::f32::consts::E;
        let want = 4. * (e / (e + 3.) + 1. / (e + 3.));
        assert!((value(&same.load_balancing_loss().unwrap()) - want).abs() < 1e-5);
        for (name, want) in [("max", 2.), ("min", 0.), ("cv", 1.), ("entropy", 0.5), ("unused", 0.5)] {
            assert!((metric(&same, name) - want).abs() < 1e-6, "{name}");
        }
    }

    #[test]
    fn weighted_tokens_count_as_so_many() {
        let rows = [[3., 1., 0., 0.], [0., 2., 5., 1.], [1., 0., 0., 4.]];
        let repeated = logits(&[rows[0], rows[0], rows[2]]);
        let weights = Array::from_slice(&[2f32, 0., 1.], &[3]).unwrap();
        let weighted = RouterUse::new(&[logits(&rows)], 2, Some(&weights)).unwrap();
        let plain = RouterUse::new(&[repeated], 2, None).unwrap();
        let (got, want) = (weighted.load_balancing_loss().unwrap(), plain.load_balancing_loss().unwrap());
        assert!((value(&got) - value(&want)).abs() < 1e-6);
        assert!((metric(&weighted, "cv") - metric(&plain, "cv")).abs() < 1e-6);
    }

    #[test]
    fn what_does_not_fit_is_a_typed_error() {
        let some = logits(&[[1.; 4]; 2]);
        let codes = [
            RouterUse::new(&[], 1, None),
            RouterUse::new(&[some.clone(), logits(&[[1.; 4]])], 1, None),
            RouterUse::new(std::slice::from_ref(&some), 5, None),
            RouterUse::new(std::slice::from_ref(&some), 0, None),
            RouterUse::new(std::slice::from_ref(&some), 1, Some(&Array::scalar(1.))),
            RouterUse::new(&[some.astype(Dtype::Int32).unwrap()], 1, None),
        ]
        .map(|result| result.err().unwrap().code());
        let (argument, shape) = ("ERR_MLX_ARGUMENT", "ERR_MLX_SHAPE");
        assert_eq!(codes, [argument, shape, argument, argument, shape, "ERR_MLX_DTYPE"]);
    }
}
