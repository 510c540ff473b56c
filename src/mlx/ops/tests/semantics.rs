//! Closed forms: what an operation means, where no peer's numbers are recorded.

use super::{array, count, ints, noise, read};
use crate::mlx::ops::{self, Quantization, QuantizationMode};
use crate::mlx::{Array, Dtype};
use crate::testing::assert_close;

#[test]
fn elementwise_closed_forms() {
    let x = array(&[0.5, 1.25, 2.], &[3]);
    let same = |got: Array, want: &[f32]| assert_close(&got, &array(want, &[want.len() as i32]), 1e-6, 1e-6, "closed form");
    same(x.arcsinh().unwrap(), &[0.5, 1.25, 2.].map(f32::asinh));
    same(x.add_scalar(1.).unwrap().arccosh().unwrap(), &[1.5, 2.25, 3.].map(f32::acosh));
    same(x.degrees().unwrap(), &[0.5, 1.25, 2.].map(f32::to_degrees));
    same(x.radians().unwrap(), &[0.5, 1.25, 2.].map(f32::to_radians));
    same(array(&[-1.5, 1.5], &[2]).trunc().unwrap(), &[-1., 1.]);
    same(x.positive().unwrap().copy().unwrap(), &[0.5, 1.25, 2.]);
    let edges = array(&[f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 0.], &[4]);
    same(edges.isposinf().unwrap(), &[1., 0., 0., 0.]);
    same(edges.isneginf().unwrap(), &[0., 1., 0., 0.]);
    same(edges.nan_to_num(7., Some(8.), Some(9.)).unwrap(), &[8., 9., 7., 0.]);
    let (a, b) = (ints(&[12, 10, -1], &[3]), ints(&[10, 3, 1], &[3]));
    same(a.bitwise_and(&b).unwrap(), &[8., 2., 1.]);
    same(a.bitwise_or(&b).unwrap(), &[14., 11., -1.]);
    same(a.bitwise_xor(&b).unwrap(), &[6., 9., -2.]);
    same(a.bitwise_invert().unwrap(), &[-13., -11., 0.]);
    same(a.left_shift(&ints(&[1], &[1])).unwrap(), &[24., 20., -2.]);
    same(a.right_shift(&ints(&[1], &[1])).unwrap(), &[6., 5., -1.]);
    let flags = |values: &[i32]| ints(values, &[4]).astype(Dtype::Bool).unwrap();
    same(flags(&[0, 0, 1, 1]).logical_xor(&flags(&[0, 1, 0, 1])).unwrap(), &[0., 1., 1., 0.]);
    same(x.clip_array(Some(&array(&[1.], &[1])), Some(&array(&[9., 9., 1.5], &[3]))).unwrap(), &[1., 1.25, 1.5]);
    let near = x.add_scalar(1e-7).unwrap();
    assert_eq!(x.allclose(&near, 1e-5, 1e-6, false).unwrap().item().unwrap(), 1.);
    assert_eq!(x.array_equal(&x, false).unwrap().item().unwrap(), 1.);
    assert_eq!(edges.array_equal(&edges, false).unwrap().item().unwrap(), 0.);
    assert_eq!(edges.array_equal(&edges, true).unwrap().item().unwrap(), 1.);
    same(edges.isclose(&edges, 0., 0., true).unwrap(), &[1., 1., 1., 1.]);
    let z = array(&[1., 2.], &[2]).astype(Dtype::Complex64).unwrap();
    same(z.conjugate().unwrap().real().unwrap(), &[1., 2.]);
    same(z.imag().unwrap(), &[0., 0.]);
}

#[test]
fn integer_division_follows_python() {
    let pairs: Vec<(i32, i32)> = (-5..=5).flat_map(|a| (-3..=3).map(move |b| (a, b))).collect();
    let (a, b): (Vec<i32>, Vec<i32>) = pairs.iter().copied().unzip();
    let (x, y) = (ints(&a, &[a.len() as i32]), ints(&b, &[b.len() as i32]));
    let (quotient, rest) = x.divmod(&y).unwrap();
    let (quotient, rest) = (quotient.to_i32().unwrap(), rest.to_i32().unwrap());
    for (index, &(a, b)) in pairs.iter().enumerate() {
        let floor = if b == 0 { 0 } else { (f64::from(a) / f64::from(b)).floor() as i32 };
        assert_eq!(quotient[index], floor, "{a} // {b}");
        assert_eq!(rest[index], if b == 0 { 0 } else { a - floor * b }, "{a} % {b}");
    }
    let least = ints(&[i32::MIN], &[1]).floor_divide(&ints(&[-1], &[1])).unwrap();
    assert_eq!(least.to_i32().unwrap(), [i32::MIN]);
    let bytes = Array::from_slice(&[200u8, 7], &[2]).unwrap();
    assert_eq!(bytes.floor_divide(&Array::from_slice(&[3u8, 0], &[2]).unwrap()).unwrap().to_vec::<u8>().unwrap(), [66, 0]);
}

#[test]
fn creation_closed_forms() {
    assert_eq!(read(&ops::eye(2, 3, 1, Dtype::Float32).unwrap()), [0., 1., 0., 0., 0., 1.]);
    assert_eq!(read(&ops::identity(2, Dtype::Int32).unwrap()), [1., 0., 0., 1.]);
    assert_eq!(read(&ops::linspace_endpoint(0., 1., 4, false, Dtype::Float32).unwrap()), [0., 0.25, 0.5, 0.75]);
    assert_eq!(read(&ops::full_array(&[2, 2], &array(&[1., 2.], &[2]), Dtype::Float32).unwrap()), [1., 2., 1., 2.]);
    let grid = ops::meshgrid(&[count(&[2]), count(&[3])], false, "ij").unwrap();
    assert_eq!(read(&grid[0]), [0., 0., 0., 1., 1., 1.]);
    assert_eq!(ops::meshgrid(&[count(&[2]), count(&[3])], false, "xy").unwrap()[0].shape(), [3, 2]);
    let wave = |index: i32, times: f32| (2. * std::f32::consts::PI * times * index as f32 / 4.).cos();
    let window = |formula: fn(f32, f32) -> f32| array(&[0, 1, 2, 3, 4].map(|n| formula(wave(n, 1.), wave(n, 2.))), &[5]);
    assert_close(&ops::hanning(5).unwrap(), &window(|a, _| 0.5 - 0.5 * a), 1e-6, 0., "hanning");
    assert_close(&ops::hamming(5).unwrap(), &window(|a, _| 0.54 - 0.46 * a), 1e-6, 0., "hamming");
    assert_close(&ops::blackman(5).unwrap(), &window(|a, b| 0.42 - 0.5 * a + 0.08 * b), 1e-6, 0., "blackman");
    assert_close(&ops::bartlett(5).unwrap(), &array(&[0., 0.5, 1., 0.5, 0.], &[5]), 1e-6, 0., "bartlett");
    let square = count(&[3, 3]);
    assert_eq!(read(&square.diag(-1).unwrap()), [3., 7.]);
    assert_eq!(read(&count(&[2]).diag(1).unwrap()), [0., 0., 0., 0., 0., 1., 0., 0., 0.]);
    assert_eq!(read(&square.diagonal(1, 0, 1).unwrap()), [1., 5.]);
    assert_eq!(square.trace(0, 0, 1, None).unwrap().item().unwrap(), 12.);
    assert_eq!(square.trace(1, 1, 0, Some(Dtype::Int32)).unwrap().dtype(), Dtype::Int32);
    // A diagonal far outside keeps or drops everything, like the one just outside.
    assert_eq!(read(&square.tril(i32::MAX).unwrap()), read(&square));
    assert_eq!(square.triu(i32::MAX).unwrap().sum_all().unwrap().item().unwrap(), 0.);
    assert_eq!(read(&square.triu(i32::MIN).unwrap()), read(&square));
}

#[test]
fn shape_closed_forms() {
    let x = count(&[2, 3]);
    assert_eq!(read(&x.flip(&[1]).unwrap()), [2., 1., 0., 5., 4., 3.]);
    assert_eq!(read(&x.roll_axes(&[1, 1], &[0, 1]).unwrap()), [5., 3., 4., 2., 0., 1.]);
    assert_eq!(read(&x.roll_all(-1).unwrap()), [1., 2., 3., 4., 5., 0.]);
    assert_eq!(x.moveaxis(0, 1).unwrap().shape(), [3, 2]);
    assert_eq!(x.unflatten(1, &[3, -1]).unwrap().shape(), [2, 3, 1]);
    assert_eq!(count(&[2, 3, 4]).flatten_axes(1, 2).unwrap().shape(), [2, 12]);
    assert_eq!(Array::scalar(1.).atleast_3d().unwrap().shape(), [1, 1, 1]);
    assert_eq!(count(&[1, 3, 1]).squeeze_all().unwrap().shape(), [3]);
    assert_eq!(read(&count(&[7]).as_strided(&[2, 3], &[1, 2], 1).unwrap()), [1., 3., 5., 2., 4., 6.]);
    assert_eq!(read(&count(&[4]).as_strided(&[4], &[-1], 3).unwrap()), [3., 2., 1., 0.]);
    let parts = count(&[5]).split_at(&[1, 1, 4], 0).unwrap();
    assert_eq!(parts.iter().map(read).collect::<Vec<_>>(), [vec![0.], vec![], vec![1., 2., 3.], vec![4.]]);
    assert_eq!(x.unstack(1).unwrap().iter().map(read).collect::<Vec<_>>(), [[0., 3.], [1., 4.], [2., 5.]]);
    let both = ops::broadcast_arrays(&[count(&[2, 1]), count(&[3])]).unwrap();
    assert_eq!(both.iter().map(|array| array.shape()).collect::<Vec<_>>(), [[2, 3], [2, 3]]);
    assert_eq!(read(&x.pad_with(&[0, 1], &[1, 0], &Array::scalar(0.), "edge").unwrap())[8..], [3., 3., 4., 5.]);
    assert_eq!(read(&array(&[1., 4., 9., 16.], &[4]).diff(2, 0).unwrap()), [2., 2.]);
    assert_eq!(x.number_of_elements(&[0, 1], false, Dtype::Int32).unwrap().item().unwrap(), 6.);
    assert_eq!(ops::ones(&[1], Dtype::Float32).unwrap().view(Dtype::Uint8).unwrap().to_vec::<u8>().unwrap(), [0, 0, 128, 63]);
}

/// Python's rules for one axis, by walking.
fn python_slice(size: i32, start: i32, stop: i32, stride: i32) -> Vec<f32> {
    let clamp = |bound: i32| {
        let bound = i64::from(if bound < 0 { bound.saturating_add(size) } else { bound });
        let (low, high) = if stride > 0 { (0, i64::from(size)) } else { (-1, i64::from(size) - 1) };
        bound.clamp(low, high)
    };
    let (mut at, end) = (clamp(start), clamp(stop));
    let mut values = Vec::new();
    while (stride > 0 && at < end) || (stride < 0 && at > end) {
        values.push(at as f32);
        at += i64::from(stride);
    }
    values
}

#[test]
fn slices_follow_python() {
    for size in [0, 1, 5] {
        let x = count(&[size]);
        for start in [-9, -6, -2, 0, 1, 4, 5, 9] {
            for stop in [-9, -6, -3, -1, 0, 2, 5, 9] {
                for stride in [-7, -2, -1, 1, 2, 7] {
                    let got = x.slice_strided(&[start], &[stop], &[stride]).unwrap();
                    let want = python_slice(size, start, stop, stride);
                    assert_eq!(read(&got), want, "[{start}:{stop}:{stride}] of {size}");
                    if want.is_empty() {
                        continue;
                    }
                    let updated = x.slice_update_strided(&Array::scalar(-1.), &[start], &[stop], &[stride]).unwrap();
                    let expected: Vec<f32> = (0..size).map(|v| if want.contains(&(v as f32)) { -1. } else { v as f32 }).collect();
                    assert_eq!(read(&updated), expected, "update [{start}:{stop}:{stride}] of {size}");
                }
            }
        }
    }
    let x = count(&[4]);
    let two = array(&[10., 0.5], &[2]);
    type Update = fn(&Array, &Array, &[i32], &[i32], &[i32]) -> crate::mlx::Result<Array>;
    let update = |run: Update| read(&run(&x, &two, &[1], &[4], &[2]).unwrap());
    assert_eq!(update(Array::slice_update_add), [0., 11., 2., 3.5]);
    assert_eq!(update(Array::slice_update_max), [0., 10., 2., 3.]);
    assert_eq!(update(Array::slice_update_min), [0., 1., 2., 0.5]);
    assert_eq!(update(Array::slice_update_prod), [0., 10., 2., 1.5]);
    // A start outside moves to where the slice fits.
    for (start, want) in [(-3, [0., 1.]), (1, [1., 2.]), (9, [2., 3.])] {
        assert_eq!(read(&x.slice_dynamic(&ints(&[start], &[1]), &[0], &[2]).unwrap()), want);
    }
    assert_eq!(read(&x.slice_update_dynamic(&two, &ints(&[7], &[1]), &[0]).unwrap()), [0., 1., 10., 0.5]);
}

#[test]
fn indices_outside_move_to_the_nearest() {
    let x = count(&[5]);
    let taken = |indices: &[i32]| read(&x.take_bounded(&ints(indices, &[indices.len() as i32]), 0).unwrap());
    assert_eq!(taken(&[-1, -5, -6, 4, 5, i32::MAX, i32::MIN]), [4., 0., 0., 4., 4., 4., 0.]);
    let wide = Array::from_slice(&[1i64 << 40, -(1 << 40), 3], &[3]).unwrap();
    assert_eq!(read(&x.take_bounded(&wide, 0).unwrap()), [4., 0., 3.]);
    let unsigned = Array::from_slice(&[u64::MAX, 2], &[2]).unwrap();
    assert_eq!(read(&x.take_bounded(&unsigned, 0).unwrap()), [4., 2.]);
    let bytes = Array::from_slice(&[255u8, 2], &[2]).unwrap();
    assert_eq!(read(&x.take_bounded(&bytes, 0).unwrap()), [4., 2.]);
    assert_eq!(read(&count(&[400]).take_bounded(&bytes, 0).unwrap()), [255., 2.]);
    // Slices of two begin at 3 at the latest.
    let starts = Array::from_slice(&[-1i8, 9, -100, 1], &[4]).unwrap();
    assert_eq!(read(&x.gather(&[starts], &[0], &[2]).unwrap()), [3., 4., 3., 4., 0., 1., 1., 2.]);
    let matrix = count(&[2, 3]);
    let places = ints(&[-1, 7], &[2, 1]);
    assert_eq!(read(&matrix.take_along_axis_bounded(&places, 1).unwrap()), [2., 5.]);
    assert_eq!(read(&matrix.put_along_axis_bounded(&places, &array(&[9.], &[1]), 1).unwrap()), [0., 1., 9., 3., 4., 9.]);
    let added = matrix.scatter_add_axis_bounded(&ints(&[0, 0, -9, 7], &[2, 2]), &array(&[1.], &[1]), 1).unwrap();
    assert_eq!(read(&added), [2., 1., 2., 4., 4., 6.]);
    assert_eq!(read(&matrix.take_flat(&ints(&[-1, 4], &[2])).unwrap()), [5., 4.]);
}

#[test]
fn scatters_combine() {
    let x = array(&[1., 2., 3.], &[3]);
    let indices = [ints(&[0, 0, 2], &[3])];
    let updates = array(&[5., 7., 0.5], &[3, 1]);
    let run = |got: crate::mlx::Result<Array>| read(&got.unwrap());
    assert_eq!(run(x.scatter_add(&indices, &updates, &[0])), [13., 2., 3.5]);
    assert_eq!(run(x.scatter_prod(&indices, &updates, &[0])), [35., 2., 1.5]);
    assert_eq!(run(x.scatter_max(&indices, &updates, &[0])), [7., 2., 3.]);
    assert_eq!(run(x.scatter_min(&indices, &updates, &[0])), [1., 2., 0.5]);
    assert_eq!(run(x.scatter(&[ints(&[1], &[1])], &array(&[9.], &[1, 1]), &[0])), [1., 9., 3.]);
    let grid = ops::zeros(&[2, 3], Dtype::Float32).unwrap();
    let points = [ints(&[0, 1], &[2]), ints(&[2, -3], &[2])];
    assert_eq!(
        run(grid.scatter_add(&points, &ops::ones(&[2, 1, 1], Dtype::Float32).unwrap(), &[0, 1])),
        [0., 0., 1., 1., 0., 0.]
    );
    let mask = ints(&[1, 0, 0, 1, 1, 0], &[2, 3]).astype(Dtype::Bool).unwrap();
    assert_eq!(run(grid.masked_scatter(&mask, &count(&[3]).add_scalar(1.).unwrap())), [1., 0., 0., 2., 3., 0.]);
    let rows = ints(&[0, 1], &[2]).astype(Dtype::Bool).unwrap();
    assert_eq!(run(grid.masked_scatter(&rows, &count(&[3]).add_scalar(1.).unwrap())), [0., 0., 0., 1., 2., 3.]);
}

#[test]
fn reductions_and_order() {
    let x = array(&[3., 1., 2., 0., 0., 5.], &[2, 3]);
    assert_eq!(read(&x.median(&[1], false).unwrap()), [2., 0.]);
    assert_eq!(x.median_all().unwrap().item().unwrap(), 1.5);
    assert_eq!(read(&x.count_nonzero(&[1], false).unwrap()), [3., 1.]);
    assert_eq!(x.argmax_all(false).unwrap().item().unwrap(), 5.);
    assert_eq!(x.argmin_all(true).unwrap().shape(), [1, 1]);
    let soft = x.softmax_axes(&[0, 1], true).unwrap();
    assert!((soft.sum_all().unwrap().item().unwrap() - 1.).abs() < 1e-6);
    let sorted = array(&[1., 2., 2., 4.], &[4]);
    let places = |side: &str| read(&sorted.searchsorted(&array(&[0., 2., 9.], &[3]), side).unwrap());
    assert_eq!(places("left"), [0., 1., 4.]);
    assert_eq!(places("right"), [0., 3., 4.]);
    assert_eq!(ops::zeros(&[0, 3], Dtype::Float32).unwrap().sum_all().unwrap().item().unwrap(), 0.);
    assert_eq!(ops::zeros(&[0, 3], Dtype::Float32).unwrap().argsort(1).unwrap().dtype(), Dtype::Uint32);
}

#[test]
fn products_closed_forms() {
    let (a, b) = (noise(&[3, 4], 1), noise(&[4, 5], 2));
    let product = a.matmul(&b).unwrap();
    assert_close(&a.tensordot_last(&b, 1).unwrap(), &product, 1e-5, 1e-5, "tensordot");
    assert_close(&ops::einsum("ij,j...->i...", &[a.clone(), b.clone()]).unwrap(), &product, 1e-5, 1e-5, "einsum");
    let dot = a.multiply(&a).unwrap().sum(&[-1], false).unwrap();
    assert_close(&a.vecdot(&a, -1).unwrap(), &dot, 1e-5, 1e-5, "vecdot");
    assert_eq!(read(&count(&[2]).kron(&array(&[1., 2.], &[2])).unwrap()), [0., 0., 1., 2.]);
    let transformed = a.hadamard_transform(Some(1.)).unwrap();
    let h = array(&[1., 1., 1., 1., 1., -1., 1., -1., 1., 1., -1., -1., 1., -1., -1., 1.], &[4, 4]);
    assert_close(&transformed, &a.matmul(&h).unwrap(), 1e-5, 1e-5, "hadamard");
    let (a, b) = (noise(&[40, 64], 3), noise(&[64, 70], 4));
    let mask = ints(&[1, 0, 1, 0, 1, 1], &[2, 3]).astype(Dtype::Bool).unwrap();
    let got = ops::block_masked_mm(&a, &b, 32, Some(&mask), None, None).unwrap();
    let wide = mask.repeat(32, 0).unwrap().repeat(32, 1).unwrap().slice(&[0, 0], &[40, 70]).unwrap();
    assert_close(&got, &a.matmul(&b).unwrap().multiply(&wide).unwrap(), 1e-4, 1e-4, "block_masked_mm");
    let segments = ints(&[0, 10, 10, 64, 5, 5, 60, 999, 9, 3], &[5, 2]);
    let got = ops::segmented_mm(&a, &b, &segments).unwrap();
    for (index, (start, stop)) in [(0, 10), (10, 64), (5, 5), (60, 64), (9, 9)].into_iter().enumerate() {
        let want = a.slice_axis(1, start, stop).unwrap().matmul(&b.slice_axis(0, start, stop).unwrap()).unwrap();
        let part = got.slice_axis(0, index as i32, index as i32 + 1).unwrap().squeeze(&[0]).unwrap();
        assert_close(&part, &want, 1e-4, 1e-4, "segmented_mm");
    }
    let how = Quantization::new(QuantizationMode::Affine, None, Some(8)).unwrap();
    let w = noise(&[3, 64, 64], 5);
    let coded = ops::quantize(&w, how, None).unwrap();
    let numbers = ops::dequantize(&coded.weight, &coded.scales, coded.biases.as_ref(), how, None, None).unwrap();
    let x = noise(&[3, 2, 64], 6);
    for transpose in [true, false] {
        let w = if transpose { numbers.swapaxes(-1, -2).unwrap() } else { numbers.clone() };
        let got = ops::quantized_matmul(&x, &coded.weight, &coded.scales, coded.biases.as_ref(), transpose, how).unwrap();
        assert_close(&got, &x.matmul(&w).unwrap(), 1e-3, 1e-3, "quantized_matmul");
    }
    assert_eq!(
        read(&array(&[1., -0.5, 448., 1e9], &[4]).to_fp8().unwrap().from_fp8(Dtype::Float32).unwrap()),
        [1., -0.5, 448., 448.]
    );
    let wide = array(&[2.], &[1]).astype(Dtype::Float64).unwrap();
    assert_eq!(wide.to_fp8().unwrap().from_fp8(Dtype::Float64).unwrap().to_vec::<f64>().unwrap(), [2.]);
}
