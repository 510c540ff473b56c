//! Hostile input: what is wrong comes back as an error with the right code, what is extreme is survived.

use crate::mlx::fast::{self, Mask, RopeFrequencies, RopeOffset};
use crate::mlx::fft::{self, FftNorm};
use crate::mlx::linalg::{self, NormOrder, Triangle};
use crate::mlx::ops::{self, ConvOptions, Quantization, QuantizationMode};
use crate::mlx::{Array, Dtype, Error, Result, random};

fn z(shape: &[i32]) -> Array {
    ops::zeros(shape, Dtype::Float32).unwrap()
}

fn o(shape: &[i32]) -> Array {
    ops::ones(shape, Dtype::Float32).unwrap()
}

fn i(values: &[i32]) -> Array {
    Array::from_slice(values, &[values.len() as i32]).unwrap()
}

fn f(values: &[f32]) -> Array {
    Array::from_slice(values, &[values.len() as i32]).unwrap()
}

fn as_dtype(array: Array, dtype: Dtype) -> Array {
    array.astype(dtype).unwrap()
}

fn complex(shape: &[i32]) -> Array {
    as_dtype(o(shape), Dtype::Complex64)
}

fn mask(values: &[i32]) -> Array {
    as_dtype(i(values), Dtype::Bool)
}

fn filled(value: f32) -> Array {
    o(&[3, 3]).multiply_scalar(value).unwrap()
}

fn key() -> Array {
    random::key(1).unwrap()
}

fn affine() -> Quantization {
    Quantization::new(QuantizationMode::Affine, None, None).unwrap()
}

fn packed(shape: &[i32]) -> ops::Quantized {
    ops::quantize(&o(shape), affine(), None).unwrap()
}

fn product(x: &Array, shape: &[i32], transpose: bool) -> Result<Array> {
    let w = packed(shape);
    ops::quantized_matmul(x, &w.weight, &w.scales, w.biases.as_ref(), transpose, affine())
}

fn gathered(x: &Array, shape: &[i32], lhs: Option<&Array>, rhs: Option<&Array>) -> Result<Array> {
    let w = packed(shape);
    ops::gather_qmm(x, &w.weight, &w.scales, w.biases.as_ref(), lhs, rhs, true, affine(), false)
}

fn first(list: Result<Vec<Array>>) -> Result<Array> {
    list.map(|list| list.into_iter().next().unwrap_or_else(|| z(&[0])))
}

fn conv1(stride: i32, padding: i32, dilation: i32, groups: i32) -> Result<Array> {
    ops::conv(&o(&[1, 8, 4]), &o(&[4, 3, 4]), &[stride], &[padding], &[dilation], groups)
}

fn attend(q: &[i32], k: &[i32], mask: Mask) -> Result<Array> {
    fast::scaled_dot_product_attention(&o(q), &o(k), &o(k), 1., mask)
}

fn rope(dims: i32, frequencies: RopeFrequencies, offset: RopeOffset) -> Result<Array> {
    fast::rope(&o(&[2, 1, 3, 8]), dims, frequencies, 1., offset)
}

type Call = (&'static str, Box<dyn Fn() -> Result<Array>>);

macro_rules! calls {
    ($($body:expr),* $(,)?) => { vec![$((stringify!($body), Box::new(|| $body) as Box<dyn Fn() -> Result<Array>>)),*] };
}

/// Builds and reads.
fn run(call: &Call) -> Result<Array> {
    let array = call.1()?;
    array.eval()?;
    Ok(array)
}

/// After whatever happened MLX still computes.
fn still_works() {
    assert_eq!(f(&[1., 2.]).square().unwrap().to_f32().unwrap(), [1., 4.]);
}

fn refused(code: &str, calls: Vec<Call>) {
    for call in &calls {
        match run(call) {
            Err(error) => assert_eq!(error.code(), code, "{}: {error}", call.0),
            Ok(array) => panic!("{} gave {array:?}", call.0),
        }
    }
    still_works();
}

#[test]
fn wrong_shapes_are_refused() {
    refused(
        "ERR_MLX_SHAPE",
        calls![
            ops::zeros(&[-1], Dtype::Float32),
            ops::ones(&[i32::MAX, i32::MAX, i32::MAX], Dtype::Bool),
            ops::full(&[i32::MAX, i32::MAX], 1., Dtype::Float32),
            ops::full_array(&[2], &o(&[3]), Dtype::Float32),
            ops::arange(0., 1e18, 1., Dtype::Float32),
            ops::eye(i32::MAX, i32::MAX, 0, Dtype::Float32),
            ops::eye(-1, 2, 0, Dtype::Float32),
            ops::tri(-1, 2, 0, Dtype::Float32),
            o(&[2]).tril(0),
            o(&[2]).diag(i32::MAX),
            o(&[2, 2, 2]).diag(0),
            o(&[2]).diagonal(0, 0, 1),
            o(&[2, 2]).diagonal(0, 1, -1),
            first(ops::meshgrid(&[o(&[2, 2])], false, "xy")),
            o(&[2]).broadcast_to(&[i32::MAX, i32::MAX, i32::MAX]),
            o(&[2]).broadcast_to(&[3]),
            o(&[1]).broadcast_to(&[1 << 30, 1])?.add(&o(&[1]).broadcast_to(&[1, 1 << 30])?),
            o(&[2]).tile(&[i32::MAX, i32::MAX]),
            o(&[1 << 16]).tile(&[1 << 16]),
            o(&[3]).repeat(i32::MAX, 0),
            o(&[3]).repeat(1, 1),
            o(&[6]).reshape(&[-2, -3]),
            o(&[6]).reshape(&[-1, 0]),
            o(&[6]).reshape(&[-1, -1]),
            o(&[2, 3]).unflatten(0, &[-1, 0]),
            o(&[2, 3]).unflatten(0, &[]),
            o(&[2, 3]).transpose(&[0, 0]),
            o(&[2, 3]).expand_dims(&[0, 0]),
            o(&[2, 3]).squeeze(&[0]),
            o(&[2, 3]).swapaxes(0, 7),
            o(&[2, 3]).moveaxis(-9, 0),
            o(&[2, 2]).flip(&[0, -2]),
            o(&[4]).as_strided(&[2], &[4], 0),
            o(&[4]).as_strided(&[2], &[-1], 0),
            o(&[4]).as_strided(&[1], &[1], usize::MAX),
            o(&[4]).as_strided(&[i32::MAX, i32::MAX], &[0, 0], 0),
            o(&[4]).as_strided(&[2], &[i64::MIN], 0),
            o(&[4]).as_strided(&[2], &[], 0),
            first(o(&[4]).split(3, 0)),
            first(o(&[4]).split_at(&[3, 1], 0)),
            first(o(&[4]).split_at(&[-1], 0)),
            first(o(&[4]).split_at(&[5], 0)),
            first(o(&[]).unstack(0)),
            o(&[2, 2]).pad(&[1], &[1], 0.),
            o(&[2]).pad(&[i32::MAX], &[1], 0.),
            z(&[0]).pad_with(&[1], &[0], &z(&[]), "edge"),
            o(&[2]).pad_with(&[1], &[0], &z(&[2]), "constant"),
            ops::stack(&[o(&[2]), o(&[3])], 0),
            ops::concatenate(&[o(&[2]), o(&[3, 2])], 0),
            o(&[1]).broadcast_to(&[i32::MAX]).and_then(|wide| ops::concatenate(&[&wide, &wide], 0)),
            o(&[3]).view(Dtype::Float64),
            o(&[]).view(Dtype::Uint8),
            o(&[2, 2]).roll_axes(&[1], &[0, 1]),
            o(&[2, 2]).roll(1, 2),
            o(&[2]).slice(&[0, 0], &[1, 1]),
            o(&[2]).slice_axis(3, 0, 1),
            o(&[4]).slice_update_add(&o(&[3]), &[0], &[2], &[1]),
            o(&[4]).slice_dynamic(&i(&[0]), &[0], &[5]),
            o(&[4]).slice_dynamic(&i(&[0, 1]), &[0], &[2]),
            o(&[4]).slice_update_dynamic(&o(&[5]), &i(&[0]), &[0]),
            o(&[3]).max(&[1], false),
            z(&[0, 3]).max(&[0], false),
            z(&[0, 3]).min_all(),
            z(&[0, 3]).argmax(0, false),
            z(&[0, 3]).argmin_all(false),
            z(&[3, 0]).logsumexp(&[-1], false),
            z(&[0]).median(&[0], false),
            z(&[0]).median_all(),
            o(&[3]).sum(&[0, 0], false),
            o(&[3]).cumsum(1, false, true),
            o(&[3]).softmax(1),
            o(&[3]).sort(1),
            o(&[]).argsort(0),
            o(&[3]).partition(3, 0),
            o(&[3]).argpartition(-4, 0),
            o(&[3]).topk(4, 0),
            o(&[3]).topk(-1, 0),
            o(&[2, 2]).searchsorted(&o(&[1]), "left"),
            z(&[0]).take_bounded(&i(&[0]), 0),
            o(&[3]).take_bounded(&i(&[0]), 1),
            o(&[2, 3]).take_along_axis_bounded(&i(&[0]), 1),
            o(&[2, 3]).take_along_axis_bounded(&z(&[5, 1]).astype(Dtype::Int32)?, 1),
            o(&[2, 3]).put_along_axis_bounded(&z(&[2, 2]).astype(Dtype::Int32)?, &o(&[2, 3]), 1),
            o(&[2, 3]).scatter_add_axis_bounded(&z(&[2, 2]).astype(Dtype::Int32)?, &o(&[5]), 1),
            o(&[3, 2]).gather(&[i(&[0])], &[0], &[4, 1]),
            o(&[3, 2]).gather(&[i(&[0])], &[0], &[1]),
            o(&[3, 2]).gather(&[i(&[0])], &[0, 1], &[1, 1]),
            o(&[3, 2]).gather(&[i(&[0]), i(&[0, 1]), i(&[0])], &[0, 1, 0], &[1, 1]),
            o(&[3, 2]).scatter(&[i(&[0])], &o(&[1, 1, 3]), &[0]),
            o(&[3, 2]).scatter(&[i(&[0])], &o(&[2, 1, 2]), &[0]),
            o(&[3, 2]).scatter_add(&[i(&[0])], &o(&[1]), &[0]),
            o(&[3, 2]).masked_scatter(&mask(&[1, 0]), &o(&[2])),
            o(&[3]).masked_scatter(&mask(&[1, 0, 1]), &z(&[0])),
            o(&[2, 3]).matmul(&o(&[2, 3])),
            o(&[]).matmul(&o(&[2])),
            o(&[2, 3]).tensordot(&o(&[2, 3]), &[0], &[1]),
            o(&[2, 3]).tensordot_last(&o(&[2, 3]), 5),
            o(&[2]).vecdot(&o(&[3]), -1),
            o(&[1]).broadcast_to(&[1 << 20])?.kron(&o(&[1]).broadcast_to(&[1 << 20])?),
            ops::einsum("ij", &[o(&[2])]),
            ops::einsum("ii", &[o(&[2, 3])]),
            o(&[3]).hadamard_transform(None),
            z(&[0]).hadamard_transform(None),
            ops::block_masked_mm(&o(&[32, 32]), &o(&[32, 32]), 32, Some(&o(&[2, 2])), None, None),
            ops::segmented_mm(&o(&[2, 4]), &o(&[4, 3]), &i(&[0, 1, 2])),
            ops::gather_mm(&o(&[2, 1, 3]), &o(&[4, 2, 3]), None, None, false),
            ops::gather_mm(&z(&[2, 1, 3]), &z(&[0, 3, 2]), None, Some(&i(&[0])), false),
            ops::gather_mm(&o(&[3]), &o(&[4, 3, 2]), None, None, false),
            ops::quantize(&o(&[2, 63]), affine(), None).map(|w| w.weight),
            ops::quantize(&z(&[0, 64]), affine(), None).map(|w| w.weight),
            ops::quantize(&o(&[64]), affine(), None).map(|w| w.weight),
            ops::dequantize(&packed(&[2, 64]).weight, &o(&[2, 2]), Some(&o(&[2, 2])), affine(), None, None),
            ops::dequantize(&packed(&[2, 64]).weight, &o(&[2, 1]), Some(&o(&[1, 1])), affine(), None, None),
            product(&o(&[1, 65]), &[2, 64], true),
            product(&o(&[1, 64]), &[2, 64], false),
            gathered(&z(&[0, 1, 64]), &[3, 2, 64], None, None),
            conv1(1, 0, 9, 1),
            conv1(1, 0, 1, 3),
            ops::conv(&o(&[1, 8, 4]), &o(&[4, 3, 5]), &[1], &[0], &[1], 1),
            ops::conv(&o(&[1, 8]), &o(&[4, 3]), &[], &[], &[], 1),
            ops::conv(&o(&[1, 8, 4]), &o(&[4, 3, 4]), &[1, 1], &[0], &[1], 1),
            ops::conv(&z(&[0, 8, 4]), &o(&[4, 3, 4]), &[1], &[0], &[1], 1),
            conv1(1, i32::MAX, 1, 1),
            ops::conv_transpose(&o(&[1, 2, 4]), &o(&[4, 3, 4]), &[1], &[5], &[1], &[0], 1),
            ops::conv_transpose(&o(&[1, 2, 4]), &o(&[4, 3, 4]), &[i32::MAX], &[0], &[i32::MAX], &[0], 1),
            fft::fftn(&o(&[4]), None, Some(&[1]), FftNorm::Backward),
            fft::fftn(&o(&[4, 4]), None, Some(&[0, 0]), FftNorm::Backward),
            fft::fftn(&o(&[4]), Some(&[4, 4]), Some(&[0]), FftNorm::Backward),
            fft::fftn(&z(&[0]), None, None, FftNorm::Backward),
            fft::fftn(&o(&[]), None, None, FftNorm::Backward),
            fft::fftshift(&o(&[4]), Some(&[1])),
            linalg::inv(&o(&[2, 3])),
            linalg::inv(&o(&[2])),
            linalg::svdvals(&z(&[0, 3])),
            linalg::det(&o(&[2, 3])),
            linalg::solve(&o(&[2, 2]), &o(&[3])),
            linalg::solve_triangular(&o(&[2, 2]), &o(&[3, 1]), false),
            linalg::cross(&o(&[4]), &o(&[4]), -1),
            linalg::cross(&o(&[3]), &o(&[3]), 1),
            linalg::norm(&o(&[2, 2, 2]), NormOrder::P(1.), None, false),
            linalg::norm(&o(&[2]), NormOrder::Nuclear, None, false),
            linalg::norm(&o(&[2]), NormOrder::L2, Some(&[3]), false),
            linalg::norm(&z(&[0]), NormOrder::P(f64::INFINITY), None, false),
            random::normal(0., 1., &[-1], Dtype::Float32, &key()),
            random::uniform_array(&o(&[3]), &o(&[]), &[2], Dtype::Float32, &key()),
            random::categorical(&z(&[2, 0]), -1, &key()),
            random::categorical(&o(&[2]), 1, &key()),
            random::categorical_shape(&o(&[2, 3]), -1, &[5], &key()),
            random::permutation_of(&o(&[3]), 1, &key()),
            random::multivariate_normal(&o(&[2]), &o(&[3, 3]), &[], &key()),
            fast::rms_norm(&o(&[2, 3]), Some(&o(&[2])), 1e-5),
            fast::rms_norm(&z(&[2, 0]), None, 1e-5),
            fast::layer_norm(&o(&[]), None, None, 1e-5),
            fast::layer_norm(&o(&[2, 3]), None, Some(&o(&[1])), 1e-5),
            rope(7, RopeFrequencies::Base(1e4), RopeOffset::Same(0)),
            rope(10, RopeFrequencies::Base(1e4), RopeOffset::Same(0)),
            rope(0, RopeFrequencies::Base(1e4), RopeOffset::Same(0)),
            rope(8, RopeFrequencies::Table(&o(&[3])), RopeOffset::Same(0)),
            rope(8, RopeFrequencies::Base(1e4), RopeOffset::PerRow(&i(&[1, 2, 3]))),
            attend(&[1, 3, 2, 8], &[1, 2, 2, 8], Mask::None),
            attend(&[1, 2, 2, 8], &[1, 2, 2, 4], Mask::None),
            attend(&[1, 2, 2, 8], &[1, 2, 0, 8], Mask::None),
            attend(&[1, 2, 2, 8], &[1, 2, 3, 8], Mask::Array(&o(&[5, 3]))),
            attend(&[2, 2, 8], &[2, 2, 8], Mask::None),
            fast::attention_with_sinks(&o(&[1, 2, 2, 8]), &o(&[1, 2, 2, 8]), &o(&[1, 2, 2, 8]), 1., Mask::None, Some(&o(&[3]))),
            fast::cross_entropy_bounded(&o(&[2, 3]), &i(&[0])),
            fast::cross_entropy_bounded(&z(&[2, 0]), &i(&[0, 0])),
        ],
    );
}

#[test]
fn wrong_dtypes_are_refused() {
    refused(
        "ERR_MLX_DTYPE",
        calls![
            ops::arange(0., 3., 1., Dtype::Bool),
            mask(&[1]).negative(),
            o(&[1]).bitwise_and(&o(&[1])),
            o(&[1]).bitwise_invert(),
            o(&[1]).left_shift(&o(&[1])),
            complex(&[1]).floor(),
            complex(&[1]).erf(),
            complex(&[1]).nan_to_num(0., None, None),
            o(&[3]).take_bounded(&f(&[0.]), 0),
            o(&[3]).take_bounded(&mask(&[1]), 0),
            o(&[3]).gather(&[f(&[0.])], &[0], &[1]),
            o(&[3]).scatter(&[mask(&[1])], &o(&[1, 1]), &[0]),
            o(&[3]).masked_scatter(&i(&[1, 0, 1]), &o(&[3])),
            o(&[3]).slice_dynamic(&f(&[0.]), &[0], &[1]),
            i(&[1, 2]).matmul(&i(&[1, 2])),
            i(&[1, 2]).hadamard_transform(None),
            ops::gather_mm(&i(&[1, 2]).reshape(&[1, 2])?, &o(&[2, 1]), None, None, false),
            ops::gather_mm(&o(&[1, 2]), &o(&[2, 1]), Some(&f(&[0.])), None, false),
            ops::quantize(&i(&[1; 64]).reshape(&[1, 64])?, affine(), None).map(|w| w.weight),
            ops::quantize(&as_dtype(o(&[1, 64]), Dtype::Float64), affine(), None).map(|w| w.weight),
            ops::dequantize(&o(&[1, 8]), &o(&[1, 1]), Some(&o(&[1, 1])), affine(), None, None),
            product(&i(&[1; 64]), &[2, 64], true),
            i(&[1]).to_fp8(),
            i(&[1]).from_fp8(Dtype::Float32),
            as_dtype(i(&[1]), Dtype::Uint8).from_fp8(Dtype::Int32),
            ops::conv(&complex(&[1, 8, 4]), &o(&[4, 3, 4]), &[1], &[0], &[1], 1),
            fft::rfftn(&complex(&[4]), None, None, FftNorm::Backward),
            linalg::inv(&as_dtype(o(&[2, 2]), Dtype::Int32)),
            linalg::cholesky(&as_dtype(o(&[2, 2]), Dtype::Bfloat16), false),
            linalg::svdvals(&complex(&[2, 2])),
            random::normal(0., 1., &[2], Dtype::Int32, &key()),
            random::randint(0, 2, &[2], Dtype::Float32, &key()),
            random::gumbel(&[2], Dtype::Complex64, &key()),
            random::categorical(&complex(&[2]), 0, &key()),
            fast::rms_norm(&i(&[1, 2]), None, 1e-5),
            rope(8, RopeFrequencies::Base(1e4), RopeOffset::PerRow(&f(&[1., 2.]))),
            attend(&[1, 2, 2, 8], &[1, 2, 2, 8], Mask::Array(&as_dtype(o(&[2, 2]), Dtype::Int32))),
            fast::cross_entropy_bounded(&o(&[2, 3]), &f(&[0., 1.])),
        ],
    );
}

#[test]
fn wrong_arguments_are_refused() {
    refused(
        "ERR_MLX_ARGUMENT",
        calls![
            ops::arange(0., f64::NAN, 1., Dtype::Float32),
            ops::arange(0., 1., 0., Dtype::Float32),
            ops::linspace(0., 1., -1, Dtype::Float32),
            ops::linspace(0., f64::INFINITY, 3, Dtype::Float32),
            ops::hamming(-1),
            first(ops::meshgrid::<Array>(&[], false, "xy")),
            first(ops::meshgrid(&[o(&[2])], false, "yx")),
            first(ops::broadcast_arrays::<Array>(&[])),
            ops::concatenate::<Array>(&[], 0),
            ops::stack::<Array>(&[], 0),
            first(o(&[4]).split(0, 0)),
            first(o(&[4]).split(i32::MIN, 0)),
            o(&[2]).tile(&[-1]),
            o(&[2]).repeat(-1, 0),
            o(&[2]).pad(&[-1], &[0], 0.),
            o(&[2]).pad_with(&[1], &[0], &z(&[]), "wrap"),
            o(&[2]).slice_strided(&[0], &[2], &[0]),
            o(&[2]).slice_update_max(&o(&[]), &[0], &[2], &[0]),
            o(&[2]).diff(-1, 0),
            o(&[2]).clip_array(None, None),
            o(&[2]).searchsorted(&o(&[1]), "middle"),
            o(&[2]).median(&[], false),
            ops::einsum("i->i->i", &[o(&[2])]),
            ops::einsum("..", &[o(&[2])]),
            ops::einsum("i,j", &[o(&[2])]),
            ops::einsum("i->j", &[o(&[2])]),
            ops::einsum("i->ii", &[o(&[2])]),
            ops::einsum("é", &[o(&[2])]),
            ops::einsum::<Array>("", &[]),
            ops::block_masked_mm(&o(&[32, 32]), &o(&[32, 32]), 16, None, None, None),
            Quantization::new(QuantizationMode::Affine, Some(48), None).map(|_| z(&[])),
            Quantization::new(QuantizationMode::Affine, None, Some(7)).map(|_| z(&[])),
            Quantization::new(QuantizationMode::Mxfp4, Some(64), None).map(|_| z(&[])),
            QuantizationMode::parse("int4").map(|_| z(&[])),
            ops::quantize(&o(&[2, 64]), affine(), Some(&o(&[]))).map(|w| w.weight),
            ops::dequantize(&packed(&[2, 64]).weight, &o(&[2, 1]), None, affine(), None, None),
            ops::qqmm(&o(&[2, 64]), &o(&[2, 64]), None, affine(), None, None),
            conv1(0, 0, 1, 1),
            conv1(1, -1, 1, 1),
            conv1(1, 0, 0, 1),
            conv1(1, 0, 1, 0),
            conv1(i32::MIN, 0, 1, 1),
            ops::conv_general(&o(&[1, 8, 4]), &o(&[4, 3, 4]), &ConvOptions { input_dilation: vec![0], ..ConvOptions::new(1) }),
            ops::conv_transpose(&o(&[1, 2, 4]), &o(&[4, 3, 4]), &[0], &[0], &[1], &[0], 1),
            ops::conv_transpose(&o(&[1, 2, 4]), &o(&[4, 3, 4]), &[1], &[0], &[1], &[-1], 1),
            fft::fftn(&o(&[4]), Some(&[0]), None, FftNorm::Backward),
            fft::irfftn(&o(&[1]), None, None, FftNorm::Backward),
            fft::fftn(&o(&[4]), Some(&[-1]), None, FftNorm::Backward),
            fft::fftn(&o(&[4]), None, Some(&[]), FftNorm::Backward),
            fft::fftfreq(0, 1.),
            fft::rfftfreq(4, 0.),
            FftNorm::parse("other").map(|_| z(&[])),
            Triangle::parse("X").map(|_| z(&[])),
            linalg::norm(&o(&[2, 2]), NormOrder::P(3.), None, false),
            linalg::norm(&o(&[2]), NormOrder::P(f64::NAN), None, false),
            linalg::norm(&o(&[2]), NormOrder::L2, Some(&[]), false),
            // LAPACK finds these out while it computes.
            linalg::inv(&z(&[3, 3])),
            linalg::solve(&z(&[3, 3]), &o(&[3])),
            linalg::tri_inv(&z(&[3, 3]), true),
            linalg::solve_triangular(&z(&[3, 3]), &o(&[3, 1]), true),
            linalg::cholesky_inv(&z(&[3, 3]), true),
            random::split_many(&key(), 0),
            random::split_many(&i(&[1, 2]), 2),
            random::bits(&[2], 3, &key()),
            random::bits(&[2], 4, &o(&[2])),
            random::uniform(0., 1., &[2], Dtype::Float32, &random::split_many(&key(), 2)?),
            random::bernoulli(1.5, &[2], &key()),
            random::bernoulli(f32::NAN, &[2], &key()),
            random::randint(2, 2, &[2], Dtype::Int32, &key()),
            random::permutation(-1, &key()),
            random::categorical_samples(&o(&[2]), 0, -1, &key()),
        ],
    );
}

#[test]
fn extremes_are_survived() {
    let calls = calls![
        linalg::cholesky(&filled(f32::NAN), false),
        linalg::inv(&filled(f32::NAN)),
        linalg::svdvals(&filled(f32::INFINITY)),
        linalg::eig(&filled(f32::NAN)).map(|pair| pair.1),
        linalg::eigvals(&filled(f32::INFINITY)),
        linalg::eigh(&filled(f32::NAN), Triangle::Lower).map(|pair| pair.1),
        linalg::eigvalsh(&filled(f32::INFINITY), Triangle::Upper),
        linalg::pinv(&filled(f32::NAN)),
        linalg::pinv(&z(&[3, 2])),
        linalg::qr(&filled(f32::NAN)).map(|pair| pair.1),
        linalg::qr(&o(&[2, 3])).map(|pair| pair.0),
        linalg::lu(&filled(f32::INFINITY)).map(|[_, _, u]| u),
        linalg::lu(&o(&[2, 3])).map(|[p, _, _]| p),
        linalg::lu_factor(&filled(f32::NAN)).map(|pair| pair.0),
        linalg::det(&filled(f32::NAN)),
        linalg::slogdet(&z(&[3, 3])).map(|pair| pair.1),
        linalg::norm(&filled(f32::NAN), NormOrder::P(-2.), None, true),
        linalg::norm(&complex(&[3]), NormOrder::P(3.), None, false),
        complex(&[3, 3]).sort(0),
        complex(&[3, 3]).median(&[0], false),
        complex(&[3, 3]).logcumsumexp(0, false, true),
        complex(&[3, 3]).softmax(0),
        complex(&[3, 3]).round(2),
        complex(&[3]).searchsorted(&complex(&[2]), "left"),
        i(&[1, i32::MIN]).floor_divide(&i(&[0, -1])),
        i(&[1, i32::MIN]).remainder(&i(&[0, -1])),
        mask(&[1, 0]).floor_divide(&mask(&[0, 1])),
        as_dtype(i(&[5]), Dtype::Uint8).remainder(&as_dtype(i(&[0]), Dtype::Uint8)),
        as_dtype(i(&[5]), Dtype::Uint64).floor_divide(&i(&[0])),
        i(&[1, 0]).right_shift(&i(&[100, -1])),
        i(&[1, 0, 2]).power(&i(&[-1, -1, i32::MIN])),
        z(&[0, 3]).sum_all(),
        z(&[0, 3]).mean(&[0], false),
        z(&[0, 3]).var(&[0], false, 0),
        z(&[0, 3]).any_all(),
        z(&[3, 0]).softmax(-1),
        z(&[3, 0]).cumsum(-1, true, false),
        z(&[3, 0]).logcumsumexp(0, false, true),
        z(&[3, 0]).sort(1),
        z(&[3, 0]).argsort(1),
        z(&[3, 0]).topk(0, 1),
        o(&[3]).topk(0, 0),
        o(&[3]).softmax_axes(&[], true),
        o(&[]).softmax_axes(&[], true),
        o(&[3]).var(&[0], false, i32::MAX),
        z(&[2, 0]).matmul(&z(&[0, 3])),
        ops::addmm(&o(&[2, 3]), &z(&[2, 0]), &z(&[0, 3]), 1., 1.),
        ops::einsum("ij,jk->ik", &[z(&[2, 0]), z(&[0, 3])]),
        ops::einsum("", &[o(&[])]),
        ops::einsum("i->...i", &[o(&[2])]),
        ops::einsum(&["i"; 30].join(","), &[(); 30].map(|()| o(&[2]))),
        z(&[0]).kron(&o(&[3, 2])),
        o(&[]).inner(&o(&[3])),
        o(&[3, 4]).trace(i32::MIN, 0, 1, None),
        o(&[3, 4]).diagonal(i32::MAX, 0, 1),
        o(&[3, 4]).tril(i32::MIN),
        o(&[3, 4]).triu(i32::MAX),
        ops::eye(3, 4, i32::MIN, Dtype::Float32),
        ops::tri(3, 4, i32::MAX, Dtype::Float32),
        z(&[0]).diag(2),
        z(&[0, 3]).triu(1),
        first(ops::meshgrid(&[z(&[0]), o(&[])], false, "xy")),
        z(&[0, 3]).reshape(&[-1, 3]),
        z(&[0, 3]).unflatten(0, &[2, -1]),
        z(&[2, 3]).flatten_axes(-9, 9),
        o(&[]).flatten_axes(0, -1),
        o(&[2, 4]).t()?.view(Dtype::Float64),
        o(&[1]).broadcast_to(&[4])?.view(Dtype::Float64),
        z(&[2, 0]).view(Dtype::Float64),
        z(&[2, 0]).roll(i32::MIN, 1),
        o(&[3]).roll(i32::MIN, 0),
        z(&[2, 0]).flip(&[1]),
        o(&[3]).diff(i32::MAX, 0),
        o(&[5]).slice_strided(&[i32::MIN], &[i32::MAX], &[i32::MAX]),
        o(&[5]).slice_strided(&[i32::MAX], &[i32::MIN], &[i32::MIN]),
        o(&[5]).slice_strided(&[i32::MIN], &[i32::MIN], &[-1]),
        z(&[0]).slice_strided(&[0], &[-1], &[-1]),
        o(&[5]).slice_dynamic(&i(&[i32::MAX]), &[0], &[2]),
        o(&[5]).slice_dynamic(&i(&[i32::MIN]), &[0], &[2]),
        o(&[5]).slice_update_dynamic(&z(&[2]), &i(&[i32::MAX]), &[0]),
        o(&[5]).take_bounded(&i(&[i32::MIN, i32::MAX, -1]), 0),
        o(&[5]).take_bounded(&Array::from_slice(&[i64::MIN, i64::MAX], &[2])?, 0),
        o(&[5]).take_bounded(&Array::from_slice(&[u64::MAX, 1 << 40], &[2])?, 0),
        o(&[500]).take_bounded(&Array::from_slice(&[-128i8, 127], &[2])?, 0),
        o(&[5, 2]).gather(&[i(&[-1, i32::MAX, i32::MIN])], &[0], &[3, 2]),
        o(&[5, 2]).gather(&[Array::from_slice(&[i64::MIN, i64::MAX], &[2])?], &[0], &[3, 2]),
        o(&[5, 2]).gather(&[Array::from_slice(&[-128i8, 127], &[2])?], &[0], &[3, 2]),
        o(&[5]).gather::<Array>(&[], &[], &[2]),
        o(&[5]).scatter_add(&[i(&[i32::MAX, i32::MIN])], &o(&[2, 1]), &[0]),
        o(&[5]).scatter_max(&[i(&[i32::MAX, i32::MIN])], &o(&[2, 3]), &[0]),
        o(&[5]).scatter::<Array>(&[], &o(&[2]), &[]),
        o(&[2, 5]).put_along_axis_bounded(&i(&[i32::MAX, i32::MIN]).reshape(&[2, 1])?, &o(&[1]), 1),
        o(&[2, 5]).scatter_add_axis_bounded(&i(&[i32::MAX, i32::MIN]).reshape(&[2, 1])?, &o(&[1]), 1),
        o(&[2, 5]).take_along_axis_bounded(&i(&[i32::MAX, i32::MIN]).reshape(&[2, 1])?, 1),
        z(&[0]).searchsorted(&o(&[2]), "left"),
        ops::gather_mm(&o(&[2, 1, 3]), &o(&[4, 3, 2]), Some(&i(&[99, -99])), Some(&i(&[99, -1])), true),
        ops::gather_mm(&o(&[1, 3]), &o(&[4, 3, 2]), None, Some(&i(&[99, -1])), false),
        ops::gather_mm(&o(&[2, 1, 3]), &o(&[4, 3, 2]), Some(&i(&[])), Some(&i(&[])), false),
        ops::gather_mm(&z(&[2, 1, 0]), &z(&[4, 0, 2]), Some(&i(&[0])), Some(&i(&[0])), false),
        ops::block_masked_mm(&z(&[0, 64]), &o(&[64, 40]), 32, None, None, None),
        ops::block_masked_mm(&z(&[2, 0]), &z(&[0, 40]), 32, None, None, None),
        ops::segmented_mm(&o(&[2, 4]), &o(&[4, 3]), &i(&[0, 2, -5, 900, 3, 1]).reshape(&[3, 2])?),
        product(&z(&[0, 64]), &[2, 64], true),
        product(&z(&[0, 2]), &[2, 64], false),
        gathered(&o(&[2, 1, 64]), &[3, 2, 64], Some(&i(&[77, -3])), Some(&i(&[77, -3]))),
        gathered(&o(&[2, 1, 64]), &[2, 64], None, Some(&i(&[77, -3]))),
        ops::qqmm(&o(&[32, 64]), &o(&[32, 64]), None, Quantization::new(QuantizationMode::Nvfp4, None, None)?, None, None),
        f(&[f32::NAN, 1e9]).to_fp8(),
        fft::irfftn(&o(&[1]), Some(&[1]), None, FftNorm::Backward),
        fft::irfftn(&o(&[4]), Some(&[100]), None, FftNorm::Backward),
        fft::fftn(&o(&[2; 6]), None, None, FftNorm::Backward),
        fft::fftshift(&z(&[4, 0]), None),
        random::bits(&[0], 4, &key()),
        random::normal(0., 1., &[0, 3], Dtype::Float32, &key()),
        random::uniform(0., 1., &[0], Dtype::Float16, &key()),
        random::gumbel(&[0], Dtype::Float32, &key()),
        random::laplace(0., 1., &[0], Dtype::Float32, &key()),
        random::bernoulli(0.5, &[0], &key()),
        random::randint(0, 2, &[0], Dtype::Int32, &key()),
        random::randint(i32::MIN, i32::MAX, &[4], Dtype::Int32, &key()),
        random::randint_array(&f(&[0.5]), &f(&[f32::NAN]), &[4], Dtype::Int32, &key()),
        random::randint_array(&i(&[5]), &i(&[1]), &[4], Dtype::Uint8, &key()),
        random::truncated_normal(&f(&[f32::NAN]), &f(&[1.]), &[4], Dtype::Float32, &key()),
        random::truncated_normal(&z(&[]), &o(&[]), &[0], Dtype::Float32, &key()),
        random::bernoulli_array(&f(&[-1., 2., f32::NAN]), &[3], &key()),
        random::categorical(&f(&[f32::NAN, f32::NEG_INFINITY]), 0, &key()),
        random::categorical(&z(&[0, 3]), 1, &key()),
        random::categorical_samples(&o(&[2, 3]), 1, 0, &key()),
        random::permutation(0, &key()),
        random::permutation_of(&z(&[0, 3]), 0, &key()),
        random::multivariate_normal(&o(&[2]), &filled(f32::NAN).slice(&[0, 0], &[2, 2])?, &[3], &key()),
        random::multivariate_normal(&o(&[2]), &z(&[2, 2]), &[0], &key()),
        fast::rms_norm(&z(&[0, 3]), None, 1e-5),
        fast::layer_norm(&z(&[0, 3]), Some(&o(&[3])), None, 1e-5),
        fast::rope(&z(&[0, 1, 3, 8]), 8, RopeFrequencies::Base(1e4), 1., RopeOffset::Same(0)),
        rope(8, RopeFrequencies::Base(0.), RopeOffset::Same(i32::MAX)),
        attend(&[1, 2, 5, 8], &[1, 2, 2, 8], Mask::Causal),
        attend(&[1, 2, 2, 8], &[1, 2, 2, 8], Mask::Array(&mask(&[0]))),
        fast::cross_entropy_bounded(&o(&[2, 3]), &i(&[i32::MAX, i32::MIN])),
        conv1(i32::MAX, 0, 1, 1),
        // Far more than any memory: refused when evaluated.
        ops::zeros(&[1 << 20, 1 << 25], Dtype::Float32)?.add(&o(&[])),
    ];
    for call in &calls {
        if let Err(error) = run(call) {
            assert!(!matches!(error, Error::Internal(ref text) if text.contains("bug in")), "{}: {error}", call.0);
        }
    }
    still_works();
}
