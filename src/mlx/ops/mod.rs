//! Operations by family. A new operation is one line in a table here (or one function), one binding, one test.
//!
//! Every function of MLX-C's `ops.h`, `fft.h`, `linalg.h`, `random.h` and `fast.h` has a counterpart here or beside this folder,
//! except
//! - variants that a general form covers: single-axis and all-axes overloads, `*_single` gathers and scatters, `expand_dims` of one
//!   axis, `fft`/`fft2` and their kin (`fftn` with one or two axes), `conv1d` to `conv3d` (`conv`), `pad_symmetric` (`pad_with`),
//!   `zeros_like_dtype`, `identity`'s and `repeat`'s flat forms, `trace` over the first two axes;
//! - `depends`, `custom_function` and other transforms, which live in `transforms.rs`;
//! - `random.seed`: there is no global random state;
//! - the Metal and CUDA kernel builders of `fast.h`, and `force_fused` of its attention;
//! - loading and saving, which is not MLX's here.

pub(crate) mod check;
mod conv;
mod create;
mod elementwise;
mod index;
mod indexing;
mod matrix;
mod qqmm;
mod quantized;
mod reduction;
mod shape;
mod slice;
mod sort;

pub use conv::{ConvOptions, conv, conv_general, conv_transpose, convolve};
pub use create::{
    arange, bartlett, blackman, eye, full, full_array, full_like, hamming, hanning, identity, linspace, linspace_endpoint,
    meshgrid, ones, ones_like, tri, zeros, zeros_like,
};
pub use elementwise::where_;
pub use indexing::{Index, UpdateMode};
pub(crate) use matrix::matrix_indices;
pub use matrix::{addmm, block_masked_mm, einsum, gather_mm, gather_mm_trusted, segmented_mm};
pub use qqmm::{gather_qqmm, qqmm};
pub use quantized::{
    Gather, Quantization, QuantizationMode, Quantized, check_packed_product, dequantize, gather_qmm, gather_qmm_trusted,
    quantize, quantized_matmul,
};
pub use shape::{broadcast_arrays, broadcast_shapes, concatenate, stack};

#[cfg(test)]
mod tests;
