//! Each kernel against MLX's own operations: values and gradients, sizes that fill no vector, strided inputs, extreme values.
//!
//! They are kernels for the CPU. On a GPU each call is MLX's own operation, so there these tests would compare it with itself, and
//! look for accuracy and gradients that MLX's GPU kernels do not promise.

use super::fast::{self, Mask, RopeFrequencies, RopeOffset};
use super::{Array, Dtype, Result, jvp, kernels, ops, random, value_and_grad, vmap};
use crate::testing::on_gpu;

fn normal(seed: u64, shape: &[i32]) -> Array {
    random::normal(0., 1., shape, Dtype::Float32, &random::key(seed).unwrap()).unwrap()
}

#[track_caller]
fn close(found: &Array, wanted: &Array, tolerance: f32) {
    assert_eq!(found.shape(), wanted.shape());
    let scale = wanted.to_f32().unwrap().iter().fold(1f32, |largest, value| largest.max(value.abs()));
    for (index, (found, wanted)) in found.to_f32().unwrap().iter().zip(wanted.to_f32().unwrap()).enumerate() {
        assert!((found - wanted).abs() <= tolerance * scale, "element {index}: {found} is not {wanted}");
    }
}

/// Compares a kernel with its reference: outputs, and the gradients of a weighted sum of them in the first `differentiated` inputs.
#[track_caller]
fn agree(
    inputs: &[Array],
    differentiated: usize,
    kernel: impl Fn(&[Array]) -> Result<Array>,
    reference: impl Fn(&[Array]) -> Result<Array>,
) {
    assert_eq!(kernels::available(), super::flavour() == "cpu", "a build for the CPU has the kernels");
    let wanted = reference(inputs).unwrap();
    close(&kernel(inputs).unwrap(), &wanted, 2e-6);
    let weights = normal(99, wanted.shape());
    let argnums: Vec<i32> = (0..differentiated as i32).collect();
    let gradients = |function: &dyn Fn(&[Array]) -> Result<Array>| {
        value_and_grad(|inputs| Ok(vec![function(inputs)?.multiply(&weights)?.sum_all()?]), inputs, &argnums).unwrap().1
    };
    for (found, wanted) in gradients(&kernel).iter().zip(gradients(&reference)) {
        close(found, &wanted, 5e-6);
    }
}

/// Distance in units of the last place of the wanted value; the smallest normal's unit below it.
fn ulps(found: f32, wanted: f64) -> f64 {
    if (wanted as f32).is_infinite() || found.is_infinite() {
        return if found == wanted as f32 || wanted > f64::from(f32::MAX) * 0.9999997 { 0. } else { f64::INFINITY };
    }
    let exponent = wanted.abs().max(f64::from(f32::MIN_POSITIVE)).log2().floor();
    (f64::from(found) - wanted).abs() / (exponent - 23.).exp2()
}

#[test]
fn exp_is_within_two_ulps() {
    if on_gpu() {
        return;
    }
    // Every 1021st float, signs and exponents and all, and all around the ends of the range.
    let mut values: Vec<f32> = (0..u32::MAX).step_by(1021).map(f32::from_bits).collect();
    values.extend((0..200_000).map(|i| -104.5 + i as f32 * 1e-4));
    values.extend((0..200_000).map(|i| 87.0 + i as f32 * 1e-5));
    let found = kernels::exp(&Array::from_slice(&values, &[values.len() as i32]).unwrap()).unwrap().to_f32().unwrap();
    for (&x, &y) in values.iter().zip(&found) {
        if x.is_nan() {
            assert!(y.is_nan(), "exp({x}) is {y}");
        } else {
            let error = ulps(y, f64::from(x).exp());
            assert!(error <= 2., "exp({x}) is {y}, {error} ulp off");
        }
    }
    let ends = [f32::INFINITY, f32::NEG_INFINITY, 0., -0., 1e-45, f32::MAX, f32::MIN];
    let found = kernels::exp(&Array::from_slice(&ends, &[7]).unwrap()).unwrap().to_f32().unwrap();
    assert_eq!(found, [f32::INFINITY, 0., 1., 1., 1., f32::INFINITY, 0.]);
}

#[test]
fn exp_and_its_gradient() {
    if on_gpu() {
        return;
    }
    for size in [1, 3, 16, 17, 100_003] {
        agree(&[normal(1, &[size])], 1, |x| kernels::exp(&x[0]), |x| x[0].exp());
    }
    agree(&[normal(1, &[7, 5])], 1, |x| kernels::exp(&x[0].t()?), |x| x[0].t()?.exp());
    assert!(kernels::exp(&ops::zeros(&[0, 3], Dtype::Float32).unwrap()).unwrap().to_f32().unwrap().is_empty());
}

#[test]
fn logsumexp_and_its_gradient() {
    if on_gpu() {
        return;
    }
    for shape in [[1, 1], [3, 7], [5, 16], [2, 33], [70, 8193]] {
        let x = normal(2, &shape).multiply_scalar(10.).unwrap();
        agree(&[x], 1, |x| kernels::logsumexp(&x[0]), |x| x[0].logsumexp(&[-1], true));
    }
    agree(&[normal(3, &[6, 9])], 1, |x| kernels::logsumexp(&x[0].t()?), |x| x[0].t()?.logsumexp(&[-1], true));
    let (low, high) = (f32::NEG_INFINITY, f32::INFINITY);
    let rows = [low, low, low, low, 1., low, high, 1., low, f32::NAN, 1., 2., 1e30, 1e30, low];
    let found = kernels::logsumexp(&Array::from_slice(&rows, &[5, 3]).unwrap()).unwrap().to_f32().unwrap();
    assert_eq!([found[0], found[1], found[2], found[4]], [low, 1., high, 1e30]);
    assert!(found[3].is_nan());
}

#[test]
fn swiglu_and_its_gradient() {
    if on_gpu() {
        return;
    }
    let reference = |x: &[Array]| x[0].silu()?.multiply(&x[1]);
    for shape in [&[1][..], &[5, 7], &[2, 3, 16], &[40_001]] {
        let inputs = [normal(4, shape).multiply_scalar(5.).unwrap(), normal(5, shape)];
        agree(&inputs, 2, |x| kernels::swiglu(&x[0], &x[1]), reference);
    }
    let inputs = [normal(6, &[6, 10]), normal(7, &[10, 6])];
    agree(&inputs, 2, |x| kernels::swiglu(&x[0].t()?, &x[1]), |x| reference(&[x[0].t()?, x[1].clone()]));
    // Broadcasting is left to MLX.
    agree(&[normal(6, &[6, 10]), normal(7, &[10])], 2, |x| kernels::swiglu(&x[0], &x[1]), reference);
    let gate = Array::from_slice(&[-1e30f32, -200., 0., 200., 1e30, f32::NAN], &[6]).unwrap();
    let found = kernels::swiglu(&gate, &ops::ones(&[6], Dtype::Float32).unwrap()).unwrap().to_f32().unwrap();
    assert_eq!(found[..5], [0., 0., 0., 200., 1e30]);
    assert!(found[5].is_nan());
}

#[test]
fn rms_norm_and_its_gradient() {
    if on_gpu() {
        return;
    }
    for shape in [&[1, 1][..], &[3, 5], &[2, 3, 4, 64], &[700, 100]] {
        let weight = normal(9, &shape[shape.len() - 1..]);
        let inputs = [normal(8, shape), weight];
        agree(&inputs, 2, |x| kernels::rms_norm(&x[0], &x[1], 1e-6), |x| fast::rms_norm(&x[0], Some(&x[1]), 1e-6));
    }
    let inputs = [normal(10, &[2, 5, 3, 8]), normal(11, &[8])];
    let turned = |x: &[Array]| x[0].transpose(&[0, 2, 1, 3]);
    let reference = |x: &[Array]| fast::rms_norm(&turned(x)?, Some(&x[1]), 1e-6);
    agree(&inputs, 2, |x| kernels::rms_norm(&turned(x)?, &x[1], 1e-6), reference);
    assert!(kernels::rms_norm(&inputs[0], &normal(1, &[3]), 1e-6).is_err());
}

#[test]
fn rope_and_its_gradient() {
    if on_gpu() {
        return;
    }
    let table = Array::from_slice(&[1f32, 3., 10., 30., 100.], &[5]).unwrap();
    let offsets = Array::from_slice(&[3i32, 0, 41], &[3]).unwrap();
    for (dims, slots) in [(10, 1), (10, 6), (10, 40)] {
        for width in [10, 13] {
            let x = [normal(12, &[3, 4, slots, width])];
            let heads_last = [normal(13, &[3, slots, 4, width])];
            for per_row in [true, false] {
                let offset = || if per_row { RopeOffset::PerRow(&offsets) } else { RopeOffset::Same(7) };
                let kernel = |x: &Array| kernels::rope(x, dims, &table, 0.5, offset());
                let reference = |x: &Array| fast::rope(x, dims, RopeFrequencies::Table(&table), 0.5, offset());
                agree(&x, 1, |x| kernel(&x[0]), |x| reference(&x[0]));
                let turned = |x: &[Array]| x[0].transpose(&[0, 2, 1, 3]);
                agree(&heads_last, 1, |x| kernel(&turned(x)?), |x| reference(&turned(x)?));
                let sliced = |x: &[Array]| x[0].slice_axis(0, 0, 3)?.transpose(&[0, 1, 2, 3])?.multiply_scalar(2.);
                agree(&x, 1, |x| kernel(&sliced(x)?), |x| reference(&sliced(x)?));
            }
        }
    }
}

fn attention_agrees(inputs: &[Array; 3], mask: Mask) {
    agree(
        inputs,
        3,
        |x| kernels::attention(&x[0], &x[1], &x[2], 0.3, mask),
        |x| fast::scaled_dot_product_attention(&x[0], &x[1], &x[2], 0.3, mask)?.transpose(&[0, 2, 1, 3]),
    );
}

#[test]
fn attention_and_its_gradient() {
    if on_gpu() {
        return;
    }
    // Batch, heads, heads of keys, queries, keys, head size; the last one is longer than a block of queries.
    for [b, h, kv, t, k, d] in
        [[1, 1, 1, 1, 1, 1], [2, 4, 2, 5, 5, 8], [2, 6, 2, 3, 9, 5], [3, 4, 4, 1, 17, 16], [1, 2, 1, 300, 310, 8]]
    {
        let inputs = [normal(14, &[b, h, t, d]), normal(15, &[b, kv, k, d]), normal(16, &[b, kv, k, d])];
        attention_agrees(&inputs, Mask::None);
        attention_agrees(&inputs, Mask::Causal);
        let visible = normal(17, &[b, 1, t, k]).greater_scalar(0.).unwrap();
        let own = ops::arange(0., f64::from(k), 1., Dtype::Int32).unwrap().equal(&Array::scalar_i32(k - 1)).unwrap();
        let mask = visible.logical_or(&own).unwrap();
        attention_agrees(&inputs, Mask::Array(&mask));
    }
}

#[test]
fn attention_of_strided_heads() {
    if on_gpu() {
        return;
    }
    // Queries as projections leave them, keys and values as slices of a longer cache, one of them transposed.
    let inputs = [normal(18, &[2, 7, 4, 8]), normal(19, &[2, 2, 20, 8]), normal(20, &[2, 2, 8, 12])];
    let views = |x: &[Array]| -> Result<[Array; 3]> {
        Ok([x[0].transpose(&[0, 2, 1, 3])?, x[1].slice_axis(2, 0, 12)?, x[2].transpose(&[0, 1, 3, 2])?])
    };
    for slots in [1, 7] {
        let part = |x: &[Array]| -> Result<[Array; 3]> {
            let [q, k, v] = views(x)?;
            Ok([q.slice_axis(2, 7 - slots, 7)?, k, v])
        };
        agree(
            &inputs,
            3,
            |x| part(x).and_then(|[q, k, v]| kernels::attention(&q, &k, &v, 0.3, Mask::Causal)),
            |x| {
                let [q, k, v] = part(x)?;
                fast::scaled_dot_product_attention(&q, &k, &v, 0.3, Mask::Causal)?.transpose(&[0, 2, 1, 3])
            },
        );
    }
    let [q, k, v] = views(&inputs).unwrap();
    let nothing = ops::zeros(&[1, 1, 7, 12], Dtype::Bool).unwrap();
    let blind = kernels::attention(&q, &k, &v, 0.3, Mask::Array(&nothing)).unwrap().to_f32().unwrap();
    assert!(blind.iter().all(|&value| value == 0.), "a query that sees nothing gives zeros");
    assert!(kernels::attention(&q, &k.slice_axis(3, 0, 4).unwrap(), &v, 0.3, Mask::None).is_err());
}

#[test]
fn linear_and_its_gradient() {
    if on_gpu() {
        return;
    }
    for (shape, outputs) in [(&[3][..], 5), (&[2, 3, 7], 4), (&[40, 33], 65)] {
        let inputs = [normal(21, shape), normal(22, &[outputs, shape[shape.len() - 1]])];
        agree(&inputs, 2, |x| kernels::linear(&x[0], &x[1], None), |x| x[0].matmul(&x[1].t()?));
        let [x, w] = inputs;
        let inputs = [x, w, normal(29, &[outputs])];
        agree(&inputs, 3, |x| kernels::linear(&x[0], &x[1], Some(&x[2])), |x| x[0].matmul(&x[1].t()?)?.add(&x[2]));
    }
    let inputs = [normal(23, &[6, 9]), normal(24, &[6, 5]), normal(29, &[6])];
    agree(&inputs, 2, |x| kernels::linear(&x[0].t()?, &x[1].t()?, None), |x| x[0].t()?.matmul(&x[1]));
    for bias in [None, Some(&normal(30, &[4]))] {
        let empty = kernels::linear(&ops::zeros(&[0, 3], Dtype::Float32).unwrap(), &normal(1, &[4, 3]), bias).unwrap();
        assert_eq!((empty.shape(), empty.to_f32().unwrap()), (&[0, 4][..], vec![]));
    }
    assert!(kernels::linear(&inputs[0], &inputs[1], None).is_err());
    assert!(
        kernels::linear(&inputs[1], &inputs[1], Some(&inputs[0])).is_err(),
        "a bias of another shape that does not broadcast"
    );
}

#[test]
fn linear_of_slices_and_along_a_direction() {
    if on_gpu() {
        return;
    }
    let kernel = |x: &[Array]| Ok(vec![kernels::linear(&x[0], &x[1], x.get(2))?]);
    let composed = |x: &[Array]| {
        let product = x[0].matmul(&x[1].swapaxes(-1, -2)?)?;
        Ok(vec![if let Some(bias) = x.get(2) { product.add(bias)? } else { product }])
    };
    let (x, w, b) = (normal(31, &[4, 2, 3]), normal(32, &[5, 3]), normal(33, &[5]));
    // Of x, of the weight, of the bias, and of several: along the first axis and along another.
    let (many_w, many_b) = (normal(34, &[5, 4, 3]), normal(35, &[4, 5]));
    for (inputs, axes) in [
        (vec![x.clone(), w.clone()], vec![Some(1), None]),
        (vec![x.clone(), w.clone(), b.clone()], vec![Some(0), None, None]),
        (vec![x.clone(), many_w.clone(), b.clone()], vec![None, Some(1), None]),
        (vec![x.clone(), w.clone(), many_b.clone()], vec![None, None, Some(0)]),
        (vec![x.clone(), many_w.clone(), many_b.clone()], vec![Some(0), Some(1), Some(0)]),
    ] {
        let ours = vmap(kernel, &inputs, &axes, &[0]).unwrap();
        let theirs = vmap(composed, &inputs, &axes, &[0]).unwrap();
        close(&ours[0], &theirs[0], 2e-6);
    }
    let inputs = [x, w, b];
    let tangents = [0, 1, 2].map(|i| normal(36 + i as u64, inputs[i].shape()));
    for count in 2..4 {
        let (_, ours) = jvp(kernel, &inputs[..count], &tangents[..count]).unwrap();
        let (_, theirs) = jvp(composed, &inputs[..count], &tangents[..count]).unwrap();
        close(&ours[0], &theirs[0], 2e-6);
    }
}

#[test]
fn sum_of_squares_and_its_gradient() {
    if on_gpu() {
        return;
    }
    for shape in [&[][..], &[0], &[3], &[5, 7], &[301]] {
        agree(&[normal(25, shape)], 1, |x| kernels::sum_of_squares(&x[0]), |x| x[0].square()?.sum_all());
    }
    // Long sums stay accurate; MLX's own drifts here.
    let x = normal(25, &[300_001]);
    let wanted: f64 = x.to_f32().unwrap().iter().map(|&value| f64::from(value).powi(2)).sum();
    let found = kernels::sum_of_squares(&x).unwrap().item().unwrap();
    assert!((f64::from(found) / wanted - 1.).abs() < 1e-6, "{found} is not {wanted}");
}

#[test]
fn half_precision_is_left_to_mlx() {
    if on_gpu() {
        return;
    }
    let x = normal(26, &[4, 8]).astype(Dtype::Bfloat16).unwrap();
    assert_eq!(kernels::exp(&x).unwrap().dtype(), Dtype::Bfloat16);
    assert_eq!(kernels::swiglu(&x, &x).unwrap().dtype(), Dtype::Bfloat16);
    assert_eq!(kernels::linear(&x, &x, None).unwrap().dtype(), Dtype::Bfloat16);
}

#[test]
fn inputs_stay_as_they_were() {
    if on_gpu() {
        return;
    }
    // Kernels write into memory that nobody else holds; these inputs are held, and shared between branches of a graph.
    let (x, w) = (normal(27, &[64, 32]), normal(28, &[32]));
    let before = x.to_f32().unwrap();
    let y = x.multiply_scalar(1.5).unwrap();
    let both = kernels::exp(&y).unwrap().add(&kernels::rms_norm(&y, &w, 1e-6).unwrap()).unwrap();
    let wanted = y.exp().unwrap().add(&fast::rms_norm(&y, Some(&w), 1e-6).unwrap()).unwrap();
    close(&both, &wanted, 2e-6);
    kernels::swiglu(&x, &x).unwrap().eval().unwrap();
    assert_eq!(x.to_f32().unwrap(), before);
}

#[test]
fn products_in_parts() {
    if on_gpu() {
        return;
    }
    // Large enough for several threads, of sizes that no part divides; with one column nothing can be cut across.
    for [m, n, k] in [[201, 307, 150], [97, 1031, 120], [1031, 97, 120], [6000, 1, 800], [60, 60, 3000]] {
        let (a, b, c) = (normal(31, &[m, k]), normal(32, &[k, n]), normal(33, &[m, n]));
        let (left, right, added) = (a.to_f32().unwrap(), b.to_f32().unwrap(), c.to_f32().unwrap());
        let wanted: Vec<f32> = (0..(m * n) as usize)
            .map(|place| {
                let (row, column) = (place / n as usize, place % n as usize);
                let terms =
                    (0..k as usize).map(|i| f64::from(left[row * k as usize + i]) * f64::from(right[i * n as usize + column]));
                (terms.sum::<f64>() + f64::from(added[place])) as f32
            })
            .collect();
        let wanted = Array::from_slice(&wanted, &[m, n]).unwrap();
        let stored_transposed = |x: &Array| {
            let turned = x.t().unwrap().add_scalar(0.).unwrap().contiguous().unwrap();
            turned.eval().unwrap();
            turned.t().unwrap()
        };
        for a in [&a, &stored_transposed(&a)] {
            for b in [&b, &stored_transposed(&b)] {
                close(&a.matmul(b).unwrap().add(&c).unwrap(), &wanted, 2e-6);
                close(&ops::addmm(&c, a, b, 1., 1.).unwrap(), &wanted, 2e-6);
            }
        }
    }
}

/// What top-p keeps, by its definition in float64: the logit of the last token, from the likeliest on, over which there is less than `p`.
fn last_kept(logits: &[f32], p: f64) -> f32 {
    let mut order: Vec<f32> = logits.to_vec();
    order.sort_by(|a, b| b.total_cmp(a));
    let total: f64 = order.iter().map(|&x| f64::from(x - order[0]).exp()).sum();
    let mut above = 0.;
    let mut last = order[0];
    for group in order.chunk_by(|a, b| a == b) {
        if above >= p * total {
            break;
        }
        last = group[0];
        above += group.iter().map(|&x| f64::from(x - order[0]).exp()).sum::<f64>();
    }
    last
}

#[test]
fn top_p_ends_where_sorting_ends_it() {
    if on_gpu() {
        return;
    }
    for (seed, width) in [(1, 7), (2, 100), (3, 2048), (4, 20_000)] {
        let rows = normal(seed, &[5, width]).multiply_scalar(3.).unwrap();
        // Few values, so that many are equal; and some that are ruled out.
        let tied = rows.round(0).unwrap();
        let masked = ops::where_(&rows.less(&Array::scalar(0.)).unwrap(), &Array::scalar(f32::NEG_INFINITY), &rows).unwrap();
        for (name, logits) in [("plain", &rows), ("tied", &tied), ("masked", &masked)] {
            let values = logits.to_f32().unwrap();
            for p in [1e-6, 0.1, 0.5, 0.9, 0.999] {
                let found = kernels::top_p_threshold(logits, &Array::scalar(p)).unwrap();
                assert_eq!(found.shape(), [5, 1]);
                let sorted = kernels::sorted_top_p_threshold(logits, &Array::scalar(p)).unwrap().to_f32().unwrap();
                for (row, &found) in found.to_f32().unwrap().iter().enumerate() {
                    let own = &values[row * width as usize..(row + 1) * width as usize];
                    let where_ = format!("{name}, {width} wide, row {row}, p {p}");
                    assert_eq!(found, last_kept(own, f64::from(p)), "{where_}");
                    // Sums of float32 may end one token apart in long rows.
                    if width <= 2048 {
                        assert_eq!(found, sorted[row], "{where_}, sorted");
                    }
                }
            }
        }
    }
}

#[test]
fn top_k_is_the_kth_of_the_sorted_row() {
    if on_gpu() {
        return;
    }
    let (low, high) = (f32::NEG_INFINITY, f32::INFINITY);
    for width in [1, 2, 7, 1000, 5003] {
        let rows = normal(width as u64, &[5, width]);
        let tied = rows.round(0).unwrap();
        let masked = ops::where_(&rows.less(&Array::scalar(0.)).unwrap(), &Array::scalar(low), &rows).unwrap();
        for (name, logits) in [("plain", &rows), ("tied", &tied), ("masked", &masked)] {
            let values = logits.to_f32().unwrap();
            let ranks = [1, width.min(2), (width + 1) / 2, (width - 1).max(1), width];
            let found = kernels::top_k_threshold(logits, &Array::from_slice(&ranks, &[5, 1]).unwrap(), width).unwrap();
            assert_eq!(found.shape(), [5, 1]);
            for (row, &found) in found.to_f32().unwrap().iter().enumerate() {
                let mut own = values[row * width as usize..(row + 1) * width as usize].to_vec();
                own.sort_by(|a, b| b.total_cmp(a));
                assert_eq!(found, own[ranks[row] as usize - 1], "{name}, {width} wide, rank {}", ranks[row]);
            }
            for rank in ranks {
                let of = |function: fn(&Array, &Array, i32) -> Result<Array>| {
                    function(logits, &Array::scalar_i32(rank), rank).unwrap().to_f32().unwrap()
                };
                assert_eq!(of(kernels::top_k_threshold), of(kernels::partitioned_top_k_threshold), "{name}, rank {rank}");
            }
        }
    }
    // Signs, both zeros, the ends of the range, and NaN over all.
    let row = [-1f32, 0., -0., high, low, f32::MAX, f32::MIN, 1e-45, f32::NAN];
    let logits = Array::from_slice(&row, &[9]).unwrap();
    let all: Vec<f32> = (1..=9)
        .map(|rank| kernels::top_k_threshold(&logits, &Array::scalar_i32(rank), 9).unwrap().to_f32().unwrap()[0])
        .collect();
    assert!(all[0].is_nan());
    assert_eq!(all[1..], [high, f32::MAX, 1e-45, 0., 0., -1., f32::MIN, low]);
}

#[test]
fn top_p_of_each_row_and_of_rows_at_the_ends() {
    if on_gpu() {
        return;
    }
    let (low, high) = (f32::NEG_INFINITY, f32::INFINITY);
    let rows = [[0f32, 1., 2., 3.], [0., 1., 2., 3.], [5., 5., 5., 5.], [low, low, 1., low], [low; 4], [f32::NAN, 1., 2., 3.]];
    let logits = Array::from_slice(&rows.concat(), &[6, 4]).unwrap();
    let shares = Array::from_slice(&[0.5f32, 1., 0.1, 0.9, 0.5, 0.5], &[6, 1]).unwrap();
    let found = kernels::top_p_threshold(&logits, &shares).unwrap().to_f32().unwrap();
    assert_eq!(found, [3., low, 5., 1., low, low]);
    // Negative logits, both zeros, the largest and the smallest.
    for row in [vec![-3f32, -2., -1., -4.], vec![0., -0., -1e-45, 1e-45], vec![f32::MAX, f32::MIN, 0., 1.], vec![high, 0., 1.]] {
        let logits = Array::from_slice(&row, &[row.len() as i32]).unwrap();
        let found = kernels::top_p_threshold(&logits, &Array::scalar(0.6)).unwrap().to_f32().unwrap();
        let wanted = if row.contains(&high) { low } else { last_kept(&row, 0.6) };
        assert!(found == [wanted], "{row:?}: {found:?} is not {wanted}");
    }
}

/// The tests of kernels once more with the loops of older processors. A process of their own, since the set is chosen once.
#[cfg(target_arch = "x86_64")]
#[test]
fn other_instruction_sets() {
    const CHOICE: &str = "MLX_NODE_KERNELS";
    if on_gpu() || std::env::var_os(CHOICE).is_some() {
        return;
    }
    for set in ["avx2", "baseline"] {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["mlx::kernels_tests", "mlx::packed_tests"])
            .env(CHOICE, set)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "with {set}:\n{text}{}", String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("packed_tests::products_are_those_of_the_numbers ... ok"), "{text}");
    }
}
