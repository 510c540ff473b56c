//! Operations against recorded numbers of MLX, closed forms, and hostile input.

mod draws;
mod factors;
mod gradients;
mod hostile;
mod numerics;
mod packed;
mod semantics;
mod signals;
mod switch;

use crate::mlx::{Array, Dtype, ops, random};

pub fn array(values: &[f32], shape: &[i32]) -> Array {
    Array::from_slice(values, shape).unwrap()
}

pub fn ints(values: &[i32], shape: &[i32]) -> Array {
    Array::from_slice(values, shape).unwrap()
}

pub fn read(array: &Array) -> Vec<f32> {
    array.to_f32().unwrap()
}

pub fn count(shape: &[i32]) -> Array {
    let size: i32 = shape.iter().product();
    ops::arange(0., f64::from(size), 1., Dtype::Float32).unwrap().reshape(shape).unwrap()
}

pub fn noise(shape: &[i32], seed: u64) -> Array {
    random::normal(0., 1., shape, Dtype::Float32, &random::key(seed).unwrap()).unwrap()
}
