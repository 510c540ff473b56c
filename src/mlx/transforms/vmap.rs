//! Vectorisation.

use mlx_sys as sys;

use super::closure::{Closure, run, some_output};
use crate::mlx::array::ArrayVec;
use crate::mlx::{Array, Error, Result};

/// Applies `function` to every slice of the inputs along their axis in `in_axes` (`None`: the input goes in whole) and stacks what it
/// returns along `out_axes`: one axis for all outputs, or one per output. An output that does not depend on a sliced input is repeated.
/// Negative axes count from the end.
pub fn vmap(
    mut function: impl FnMut(&[Array]) -> Result<Vec<Array>>,
    inputs: &[Array],
    in_axes: &[Option<i32>],
    out_axes: &[i32],
) -> Result<Vec<Array>> {
    let in_axes = mapped_axes(inputs, in_axes)?;
    // SAFETY: MLX calls the function during `mlx_detail_vmap_trace` only.
    let closure = unsafe { Closure::new(|inputs: &[Array]| some_output("vmap", function(inputs)?)) };
    let list = ArrayVec::new(inputs);
    let (mut traced_inputs, mut traced_outputs, mut results) = (ArrayVec::empty(), ArrayVec::empty(), ArrayVec::empty());
    // SAFETY: valid handles; the axes live during the call and fit the inputs.
    run(|| unsafe {
        sys::mlx_detail_vmap_trace(
            &mut traced_inputs.0,
            &mut traced_outputs.0,
            closure.0,
            list.0,
            in_axes.as_ptr(),
            in_axes.len(),
        )
    })?;
    let out_axes = stacked_axes(&traced_outputs.to_arrays()?, out_axes)?;
    // SAFETY: as above; the axes fit the outputs.
    run(|| unsafe {
        sys::mlx_detail_vmap_replace(
            &mut results.0,
            list.0,
            traced_inputs.0,
            traced_outputs.0,
            in_axes.as_ptr(),
            in_axes.len(),
            out_axes.as_ptr(),
            out_axes.len(),
        )
    })?;
    results.to_arrays()
}

/// MLX's form of the axes: not negative, -1 for none.
fn mapped_axes(inputs: &[Array], axes: &[Option<i32>]) -> Result<Vec<i32>> {
    if axes.len() != inputs.len() {
        return Err(Error::Argument(format!("vmap got {} inAxes for {} arguments", axes.len(), inputs.len())));
    }
    let mut size = None;
    let mut found = Vec::with_capacity(axes.len());
    for (index, (input, axis)) in inputs.iter().zip(axes).enumerate() {
        let Some(axis) = *axis else {
            found.push(-1);
            continue;
        };
        let axis = counted(axis, input.ndim()).ok_or_else(|| {
            Error::Shape(format!("vmap: axis {axis} is not one of argument {index}, which has shape {:?}", input.shape()))
        })?;
        let length = input.dim(axis);
        if *size.get_or_insert(length) != length {
            let first = size.unwrap_or_default();
            return Err(Error::Shape(format!(
                "vmap: argument {index} has {length} slices along its axis, those before it have {first}"
            )));
        }
        found.push(axis);
    }
    if size.is_none() {
        return Err(Error::Argument("vmap needs at least one argument with an axis to slice along".into()));
    }
    Ok(found)
}

fn stacked_axes(outputs: &[Array], axes: &[i32]) -> Result<Vec<i32>> {
    if axes.len() != 1 && axes.len() != outputs.len() {
        return Err(Error::Argument(format!("vmap got {} outAxes for {} outputs", axes.len(), outputs.len())));
    }
    let axis_of = |(index, output): (usize, &Array)| {
        let axis = *axes.get(index).unwrap_or(&axes[0]);
        counted(axis, output.ndim() + 1).ok_or_else(|| {
            let ndim = output.ndim() + 1;
            Error::Shape(format!("vmap: output {index} cannot be stacked along axis {axis}, it will have {ndim} axes"))
        })
    };
    outputs.iter().enumerate().map(axis_of).collect()
}

/// The axis counted from the front, if it is one of `ndim`.
fn counted(axis: i32, ndim: usize) -> Option<i32> {
    let index = if axis < 0 { axis + ndim as i32 } else { axis };
    (0..ndim as i32).contains(&index).then_some(index)
}
