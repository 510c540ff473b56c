//! Hostile input: what is wrong comes back as an error with the right code, what is extreme is survived.

mod arguments;
mod extremes;
mod shapes;

use crate::mlx::fast::{self, Mask, RopeFrequencies, RopeOffset};
use crate::mlx::ops::{self, Gather, Quantization, QuantizationMode};
use crate::mlx::{Array, Dtype, Result, random};

pub fn z(shape: &[i32]) -> Array {
    ops::zeros(shape, Dtype::Float32).unwrap()
}

pub fn o(shape: &[i32]) -> Array {
    ops::ones(shape, Dtype::Float32).unwrap()
}

pub fn i(values: &[i32]) -> Array {
    Array::from_slice(values, &[values.len() as i32]).unwrap()
}

pub fn f(values: &[f32]) -> Array {
    Array::from_slice(values, &[values.len() as i32]).unwrap()
}

pub fn as_dtype(array: Array, dtype: Dtype) -> Array {
    array.astype(dtype).unwrap()
}

pub fn complex(shape: &[i32]) -> Array {
    as_dtype(o(shape), Dtype::Complex64)
}

pub fn mask(values: &[i32]) -> Array {
    as_dtype(i(values), Dtype::Bool)
}

pub fn filled(value: f32) -> Array {
    o(&[3, 3]).multiply_scalar(value).unwrap()
}

pub fn key() -> Array {
    random::key(1).unwrap()
}

pub fn affine() -> Quantization {
    Quantization::new(QuantizationMode::Affine, None, None).unwrap()
}

pub fn packed(shape: &[i32]) -> ops::Quantized {
    ops::quantize(&o(shape), affine(), None).unwrap()
}

pub fn product(x: &Array, shape: &[i32], transpose: bool) -> Result<Array> {
    let w = packed(shape);
    ops::quantized_matmul(x, &w.weight, &w.scales, w.biases.as_ref(), transpose, affine())
}

pub fn gathered(x: &Array, shape: &[i32], lhs: Option<&Array>, rhs: Option<&Array>) -> Result<Array> {
    let w = packed(shape);
    let gather = Gather { lhs, rhs, transpose: true, sorted: false };
    ops::gather_qmm(x, &w.weight, &w.scales, w.biases.as_ref(), affine(), gather)
}

pub fn first(list: Result<Vec<Array>>) -> Result<Array> {
    list.map(|list| list.into_iter().next().unwrap_or_else(|| z(&[0])))
}

pub fn conv1(stride: i32, padding: i32, dilation: i32, groups: i32) -> Result<Array> {
    ops::conv(&o(&[1, 8, 4]), &o(&[4, 3, 4]), &[stride], &[padding], &[dilation], groups)
}

pub fn attend(q: &[i32], k: &[i32], mask: Mask) -> Result<Array> {
    fast::scaled_dot_product_attention(&o(q), &o(k), &o(k), 1., mask)
}

pub fn rope(dims: i32, frequencies: RopeFrequencies, offset: RopeOffset) -> Result<Array> {
    fast::rope(&o(&[2, 1, 3, 8]), dims, frequencies, 1., offset)
}

pub type Run = Box<dyn Fn() -> Result<Array>>;
/// The source of a call, and the call.
pub type Call = (&'static str, Run);

macro_rules! calls {
    ($($body:expr),* $(,)?) => { vec![$((stringify!($body), Box::new(|| $body) as $crate::mlx::ops::tests::hostile::Run)),*] };
}

/// Builds and reads.
pub fn run(call: &Call) -> Result<Array> {
    let array = call.1()?;
    array.eval()?;
    Ok(array)
}

/// After whatever happened MLX still computes.
pub fn still_works() {
    assert_eq!(f(&[1., 2.]).square().unwrap().to_f32().unwrap(), [1., 4.]);
}

pub fn refused(code: &str, calls: Vec<Call>) {
    for call in &calls {
        match run(call) {
            Err(error) => assert_eq!(error.code(), code, "{}: {error}", call.0),
            Ok(array) => panic!("{} gave {array:?}", call.0),
        }
    }
    still_works();
}

pub(crate) use calls;
