//! Muon: momentum whose update of a matrix is made orthogonal by Newton-Schulz iterations (Jordan et al., 2024).

use serde::Deserialize;

use super::rule::{Constants, Options, average, named, with_l2};
use super::{Rule, Schedule, Slot, Step};
use crate::mlx::{Array, Error, Result, ops};

/// MLX's options and defaults. Vectors and scalars take the momentum as it is; an array of more than two axes is a matrix of its
/// first axis by the others. For embeddings, the output head and vectors another optimizer does better: put them in another group.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Muon {
    pub learning_rate: Option<Schedule>,
    pub momentum: f64,
    /// An L2 penalty: added to the gradient as `weight_decay * w`.
    pub weight_decay: f64,
    pub nesterov: bool,
    /// Newton-Schulz iterations.
    pub ns_steps: u32,
}

/// More iterations change nothing: five bring the singular values near 1.
const MOST_ITERATIONS: u32 = 100;

impl Default for Muon {
    fn default() -> Self {
        Muon { learning_rate: None, momentum: 0.95, weight_decay: 0.01, nesterov: true, ns_steps: 5 }
    }
}

impl Rule for Muon {
    named!("Muon");

    fn check(&self) -> Result<()> {
        let options = Options(self);
        options.has_learning_rate()?;
        options.beta("momentum", self.momentum)?;
        options.at_least_zero("weightDecay", self.weight_decay)?;
        if !(1..=MOST_ITERATIONS).contains(&self.ns_steps) {
            let steps = self.ns_steps;
            return Err(Error::Argument(format!("Muon: nsSteps is {steps}; it must lie between 1 and {MOST_ITERATIONS}")));
        }
        Ok(())
    }

    fn slots(&self, shape: &[i32]) -> Vec<Slot> {
        vec![("v", shape.to_vec())]
    }

    fn update(&self, weight: &Array, gradient: &Array, state: &[Array], step: &Step) -> Result<Vec<Array>> {
        let gradient = with_l2(gradient, weight, step.decay(self.weight_decay))?;
        let momentum = average(&state[0], &gradient, self.momentum)?;
        let mut update = if self.nesterov { average(&momentum, &gradient, self.momentum)? } else { momentum.clone() };
        let mut rate = step.rate.clone();
        if let shape @ [rows, .., _] = weight.shape()
            && weight.size() > 0
        {
            let matrix = update.reshape(&[*rows, -1])?;
            update = orthogonal(&matrix, self.ns_steps)?.reshape(shape)?;
            // A tall matrix has smaller entries than a wide one of the same singular values.
            rate = rate * (f64::from(weight.dim(-2)) / f64::from(weight.dim(-1))).max(1.0).sqrt();
        }
        Ok(vec![weight.subtract(&update.times(rate)?)?, momentum])
    }
}

/// A matrix with nearly the singular vectors of `matrix` and singular values near 1, by an odd polynomial of degree five whose
/// coefficients are those of Muon's authors: steep at 0 rather than exact at 1.
fn orthogonal(matrix: &Array, iterations: u32) -> Result<Array> {
    let (a, b, c) = (3.4445, -4.7750, 2.0315);
    // The Gram matrix of the shorter side is the smaller one.
    let tall = matrix.dim(0) > matrix.dim(1);
    let mut x = if tall { matrix.t()? } else { matrix.clone() };
    x = x.divide(&x.square()?.sum(&[0, 1], true)?.sqrt()?.plus(1e-7)?)?;
    for _ in 0..iterations {
        let gram = x.matmul(&x.t()?)?;
        let polynomial = ops::addmm(&gram.times(b)?, &gram, &gram, c, 1.0)?;
        x = ops::addmm(&x.times(a)?, &polynomial, &x, 1.0, 1.0)?;
    }
    if tall { x.t() } else { Ok(x) }
}
