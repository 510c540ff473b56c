//! Reverse and forward differentiation.

use mlx_sys as sys;

use super::closure::{Closure, run, some_output};
use crate::mlx::array::ArrayVec;
use crate::mlx::{Array, Error, Result};

/// Evaluates `function` at `inputs` and differentiates its first output, a scalar, with respect to the inputs in `argnums`.
/// Returns all outputs and one gradient per entry of `argnums`. Further outputs are auxiliary: no gradient flows through them.
pub fn value_and_grad(
    mut function: impl FnMut(&[Array]) -> Result<Vec<Array>>,
    inputs: &[Array],
    argnums: &[i32],
) -> Result<(Vec<Array>, Vec<Array>)> {
    if argnums.is_empty() {
        return Err(Error::Argument("value_and_grad needs at least one argument to differentiate".into()));
    }
    if let Some(bad) = argnums.iter().find(|&&index| usize::try_from(index).map_or(true, |index| index >= inputs.len())) {
        return Err(Error::Argument(format!(
            "argnums names argument {bad}; there are {} arguments, counted from 0",
            inputs.len()
        )));
    }
    let checked = |inputs: &[Array]| {
        let outputs = some_output("value_and_grad", function(inputs)?)?;
        if outputs[0].ndim() != 0 {
            let shape = outputs[0].shape();
            return Err(Error::Shape(format!(
                "the function must return a scalar to be differentiated, not an array of shape {shape:?}"
            )));
        }
        Ok(outputs)
    };
    // SAFETY: MLX calls the function during `apply` only; the transformed closure is freed before this returns.
    let closure = unsafe { Closure::new(checked) };
    let list = ArrayVec::new(inputs);
    let mut values = ArrayVec::empty();
    let mut gradients = ArrayVec::empty();
    // SAFETY: valid handles; the transformed closure is freed on every path.
    run(|| unsafe {
        let mut transformed = sys::mlx_closure_value_and_grad_new();
        let mut status = sys::mlx_value_and_grad(&mut transformed, closure.0, argnums.as_ptr(), argnums.len());
        if status == 0 {
            status = sys::mlx_closure_value_and_grad_apply(&mut values.0, &mut gradients.0, transformed, list.0);
        }
        sys::mlx_closure_value_and_grad_free(transformed);
        status
    })?;
    Ok((values.to_arrays()?, gradients.to_arrays()?))
}

/// Outputs of `function` at `primals`, and the products of `cotangents` (one per output, of its shape) with its Jacobian, one per primal.
pub fn vjp(
    mut function: impl FnMut(&[Array]) -> Result<Vec<Array>>,
    primals: &[Array],
    cotangents: &[Array],
) -> Result<(Vec<Array>, Vec<Array>)> {
    let checked = |inputs: &[Array]| {
        let outputs = some_output("vjp", function(inputs)?)?;
        agree("vjp", "cotangents", cotangents, "outputs", &outputs)?;
        Ok(outputs)
    };
    // SAFETY: MLX calls the function during `mlx_vjp` only.
    let closure = unsafe { Closure::new(checked) };
    let (primals, cotangents) = (ArrayVec::new(primals), ArrayVec::new(cotangents));
    let mut values = ArrayVec::empty();
    let mut gradients = ArrayVec::empty();
    // SAFETY: valid handles.
    run(|| unsafe { sys::mlx_vjp(&mut values.0, &mut gradients.0, closure.0, primals.0, cotangents.0) })?;
    Ok((values.to_arrays()?, gradients.to_arrays()?))
}

/// Outputs of `function` at `primals`, and the products of its Jacobian with `tangents` (one per primal, of its shape), one per output.
pub fn jvp(
    mut function: impl FnMut(&[Array]) -> Result<Vec<Array>>,
    primals: &[Array],
    tangents: &[Array],
) -> Result<(Vec<Array>, Vec<Array>)> {
    agree("jvp", "tangents", tangents, "primals", primals)?;
    // SAFETY: MLX calls the function during `mlx_jvp` only.
    let closure = unsafe { Closure::new(|inputs: &[Array]| some_output("jvp", function(inputs)?)) };
    let (primals, tangents) = (ArrayVec::new(primals), ArrayVec::new(tangents));
    let mut values = ArrayVec::empty();
    let mut products = ArrayVec::empty();
    // SAFETY: valid handles.
    run(|| unsafe { sys::mlx_jvp(&mut values.0, &mut products.0, closure.0, primals.0, tangents.0) })?;
    Ok((values.to_arrays()?, products.to_arrays()?))
}

fn agree(transform: &str, given: &str, arrays: &[Array], what: &str, like: &[Array]) -> Result<()> {
    if arrays.len() != like.len() {
        return Err(Error::Argument(format!("{transform} got {} {given} for {} {what}", arrays.len(), like.len())));
    }
    for (index, (array, like)) in arrays.iter().zip(like).enumerate() {
        if array.shape() != like.shape() {
            let (found, wanted) = (array.shape(), like.shape());
            return Err(Error::Shape(format!(
                "{transform}: {given}[{index}] has shape {found:?}, but {what}[{index}] has {wanted:?}"
            )));
        }
    }
    Ok(())
}
