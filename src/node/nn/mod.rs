//! The layers as functions of their inputs and weights. `scripts/array-api.mjs` writes the TypeScript functions from these declarations;
//! the classes of `lib/nn` hold the weights.

mod activations;
mod init;
mod layers;
mod losses;
mod packed;
mod positions;
mod spatial;

use super::{ArrayHandle, DtypeName, RandomKey, integer, integers};
use crate::mlx::Array;

fn optional(array: &Option<ArrayHandle>) -> Option<&Array> {
    array.as_deref()
}
