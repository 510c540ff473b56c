//! Pooling over windows of spatial axes, channels last.

use crate::mlx::{Array, Dtype, Error, Result};

/// What a window becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    Max,
    /// Zeros of the padding count.
    Average,
}

/// `x` `[N, .., C]` with one entry per spatial axis in each list; `padding` goes to both sides.
pub fn pool(kind: Pooling, x: &Array, kernel: &[i32], stride: &[i32], padding: &[i32]) -> Result<Array> {
    let spatial = kernel.len();
    if spatial == 0 || x.ndim() != spatial + 2 || stride.len() != spatial || padding.len() != spatial {
        return Err(Error::Shape(format!(
            "pooling with a window of {kernel:?} needs an input [N, .., C] of {} axes, not {:?}",
            spatial + 2,
            x.shape()
        )));
    }
    if kernel.iter().chain(stride).any(|&size| size < 1) || padding.iter().any(|&size| size < 0) {
        return Err(Error::Argument(format!(
            "pooling needs a positive window and stride and a padding of at least 0, got {kernel:?}, {stride:?} and {padding:?}"
        )));
    }
    let x = if padding.iter().any(|&size| size > 0) {
        let around = [&[0], padding, &[0]].concat();
        let fill = match kind {
            Pooling::Max if x.dtype().is_float() => f32::NEG_INFINITY,
            Pooling::Max => return Err(Error::Dtype(format!("padded max pooling needs floats, not {}", x.dtype().name()))),
            Pooling::Average => 0.0,
        };
        x.pad(&around, &around, fill)?
    } else {
        x.clone()
    };
    let sizes = &x.shape()[1..=spatial];
    if sizes.iter().zip(kernel).any(|(size, window)| size < window) {
        return Err(Error::Shape(format!("a window of {kernel:?} does not fit the padded input {:?}", x.shape())));
    }
    let windows = if kernel == stride && sizes.iter().zip(kernel).all(|(size, window)| size % window == 0) {
        tiles(&x, kernel)?
    } else {
        sliding(&x, kernel, stride)?
    };
    let axes: Vec<i32> = (1 + spatial as i32..1 + 2 * spatial as i32).collect();
    match kind {
        Pooling::Max => windows.max(&axes, false),
        Pooling::Average if x.dtype() == Dtype::Bool => windows.astype(Dtype::Float32)?.mean(&axes, false),
        Pooling::Average => windows.mean(&axes, false),
    }
}

/// `[N, windows.., window.., C]` of windows that do not overlap and leave nothing over.
fn tiles(x: &Array, kernel: &[i32]) -> Result<Array> {
    let shape = x.shape();
    let spatial = kernel.len() as i32;
    let mut split = vec![shape[0]];
    for (&size, &window) in shape[1..].iter().zip(kernel) {
        split.extend([size / window, window]);
    }
    split.push(shape[shape.len() - 1]);
    let mut order = vec![0];
    order.extend((0..spatial).map(|axis| 1 + 2 * axis));
    order.extend((0..spatial).map(|axis| 2 + 2 * axis));
    order.push(2 * spatial + 1);
    x.reshape(&split)?.transpose(&order)
}

/// `[N, windows.., window.., C]` of any windows, as a view.
fn sliding(x: &Array, kernel: &[i32], stride: &[i32]) -> Result<Array> {
    let shape = x.shape();
    let mut strides = vec![1i64; shape.len()];
    for axis in (0..shape.len() - 1).rev() {
        strides[axis] = strides[axis + 1] * i64::from(shape[axis + 1]);
    }
    let last = shape.len() - 1;
    let counts = (1..last).map(|axis| (shape[axis] - kernel[axis - 1]) / stride[axis - 1] + 1);
    let view: Vec<i32> = [shape[0]].into_iter().chain(counts).chain(kernel.iter().copied()).chain([shape[last]]).collect();
    let steps = (1..last).map(|axis| strides[axis] * i64::from(stride[axis - 1]));
    let view_strides: Vec<i64> =
        [strides[0]].into_iter().chain(steps).chain(strides[1..last].iter().copied()).chain([strides[last]]).collect();
    x.as_strided(&view, &view_strides, 0)
}
