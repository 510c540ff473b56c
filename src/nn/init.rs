//! Random weights that are more than draws from one distribution.

use crate::mlx::{Array, Dtype, Error, Result, linalg, ops, random};

fn matrix(name: &str, shape: &[i32]) -> Result<(i32, i32)> {
    match *shape {
        [rows, columns] if rows > 0 && columns > 0 => Ok((rows, columns)),
        _ => Err(Error::Shape(format!("{name} makes matrices, not arrays of shape {shape:?}"))),
    }
}

/// Normal numbers, of which each row loses the same share `sparsity` to zeros at random places.
pub fn sparse(shape: &[i32], sparsity: f64, mean: f32, std: f32, dtype: Dtype, key: &Array) -> Result<Array> {
    let (_, columns) = matrix("sparse", shape)?;
    if !(0.0..=1.0).contains(&sparsity) {
        return Err(Error::Argument(format!("the sparsity must be in [0, 1], not {sparsity}")));
    }
    let zeros = (sparsity * f64::from(columns)).ceil() as i32;
    let (places, values) = random::split(key)?;
    let order = random::uniform(0.0, 1.0, shape, Dtype::Float32, &places)?.argsort(1)?;
    // The rank of each place among the random numbers of its row.
    let rank = order.argsort(1)?.astype(Dtype::Int32)?;
    let values = random::normal(mean, std, shape, dtype, &values)?;
    ops::where_(&rank.less(&Array::scalar_i32(zeros))?, &Array::scalar_of(0.0, dtype)?, &values)
}

/// A part of a random orthogonal matrix times `gain` (Saxe et al. 2014, arXiv:1312.6120).
pub fn orthogonal(shape: &[i32], gain: f32, dtype: Dtype, key: &Array) -> Result<Array> {
    let (rows, columns) = matrix("orthogonal", shape)?;
    let size = rows.max(columns);
    let (q, r) = linalg::qr(&random::normal(0.0, 1.0, &[size, size], Dtype::Float32, key)?)?;
    // Signs of the diagonal make the distribution uniform.
    let q = q.multiply(&r.diagonal(0, 0, 1)?.sign()?)?;
    q.slice(&[0, 0], &[rows, columns])?.multiply_scalar(gain)?.astype(dtype)
}
