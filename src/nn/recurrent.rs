//! Recurrent layers over the second last axis: `x` `[.., T, in]`, with the gates in the order of `mlx.nn`.

use super::Linear;
use crate::mlx::{Array, Error, Result, ops};

/// The input's part of the gates at each time, `T` arrays `[.., out]`.
pub fn recurrent_inputs(x: &Array, weight: &Array, bias: Option<&Array>) -> Result<Vec<Array>> {
    if x.ndim() < 2 || x.dim(-2) == 0 {
        return Err(Error::Shape(format!(
            "a recurrent layer needs an input [.., T, features] with T of at least 1, not {:?}",
            x.shape()
        )));
    }
    project(x, weight, bias)?.unstack(-2)
}

fn project(x: &Array, weight: &Array, bias: Option<&Array>) -> Result<Array> {
    Linear { weight: weight.clone().into(), bias: bias.cloned(), lora: None }.forward(x)
}

/// `a + hidden Wᵀ`
fn add_hidden(a: &Array, hidden: &Array, weight: &Array) -> Result<Array> {
    ops::addmm(a, hidden, &weight.t()?, 1.0, 1.0)
}

/// Weights of a recurrent layer: `input` `[gates · hidden, in]`, `hidden` `[gates · hidden, hidden]`, `bias` `[gates · hidden]`.
pub struct Recurrent<'a> {
    pub input: &'a Array,
    pub hidden: &'a Array,
    pub bias: Option<&'a Array>,
}

/// Gated recurrent unit (Cho et al. 2014, arXiv:1406.1078), gates in the order reset, update, new; `new_bias` `[hidden]` is the bias of
/// the new gate's hidden part. Returns the hidden states `[.., T, hidden]`.
pub fn gru(x: &Array, weights: &Recurrent, new_bias: Option<&Array>, hidden: Option<&Array>) -> Result<Array> {
    let size = weights.hidden.dim(-1);
    let mut hidden = hidden.cloned();
    let mut states = Vec::new();
    for gates in recurrent_inputs(x, weights.input, weights.bias)? {
        let (input_rz, input_new) = (gates.slice_axis(-1, 0, 2 * size)?, gates.slice_axis(-1, 2 * size, 3 * size)?);
        let (rz, hidden_new) = match &hidden {
            Some(hidden) => {
                let projected = project(hidden, weights.hidden, None)?;
                let new = projected.slice_axis(-1, 2 * size, 3 * size)?;
                let new = if let Some(bias) = new_bias { new.add(bias)? } else { new };
                (input_rz.add(&projected.slice_axis(-1, 0, 2 * size)?)?, Some(new))
            }
            None => (input_rz, new_bias.cloned()),
        };
        let rz = rz.sigmoid()?.split(2, -1)?;
        let (reset, update) = (&rz[0], &rz[1]);
        let new = match hidden_new {
            Some(hidden_new) => input_new.add(&reset.multiply(&hidden_new)?)?,
            None => input_new,
        };
        let new = new.tanh()?;
        let fresh = update.negative()?.add_scalar(1.0)?.multiply(&new)?;
        let state = match &hidden {
            Some(hidden) => fresh.add(&update.multiply(hidden)?)?,
            None => fresh,
        };
        hidden = Some(state.clone());
        states.push(state);
    }
    ops::stack(&states, -2)
}

/// Long short-term memory (Hochreiter and Schmidhuber 1997), gates in the order input, forget, cell, output. Returns the hidden states and
/// the cells, `[.., T, hidden]` each.
pub fn lstm(x: &Array, weights: &Recurrent, hidden: Option<&Array>, cell: Option<&Array>) -> Result<(Array, Array)> {
    let (mut hidden, mut cell) = (hidden.cloned(), cell.cloned());
    let (mut states, mut cells) = (Vec::new(), Vec::new());
    for gates in recurrent_inputs(x, weights.input, weights.bias)? {
        let gates = match &hidden {
            Some(hidden) => add_hidden(&gates, hidden, weights.hidden)?,
            None => gates,
        };
        let gates = gates.split(4, -1)?;
        let fresh = gates[0].sigmoid()?.multiply(&gates[2].tanh()?)?;
        let new_cell = match &cell {
            Some(cell) => gates[1].sigmoid()?.multiply(cell)?.add(&fresh)?,
            None => fresh,
        };
        let state = gates[3].sigmoid()?.multiply(&new_cell.tanh()?)?;
        cells.push(new_cell.clone());
        states.push(state.clone());
        (hidden, cell) = (Some(state), Some(new_cell));
    }
    Ok((ops::stack(&states, -2)?, ops::stack(&cells, -2)?))
}
