//! Convolutions against loops, Fourier transforms and attention against closed forms.

use super::{array, count, ints, noise, read};
use crate::mlx::fast::{self, Mask};
use crate::mlx::fft::{self, FftNorm};
use crate::mlx::ops::{self, ConvOptions};
use crate::testing::assert_close;

/// A convolution over one axis by its definition.
fn conv_loop(x: &[f32], w: &[f32], sizes: [usize; 4], options: &ConvOptions) -> Vec<f32> {
    let [size, channels, kernel, outputs] = sizes;
    let (stride, dilation, spread) = (options.stride[0], options.kernel_dilation[0], options.input_dilation[0]);
    let groups = options.groups as usize;
    let per_group = channels / groups;
    let length = (size as i32 - 1) * spread + 1;
    let steps = (length + options.padding_low[0] + options.padding_high[0] - (kernel as i32 - 1) * dilation - 1) / stride + 1;
    let mut result = Vec::new();
    for step in 0..steps {
        for output in 0..outputs {
            let group = output / (outputs / groups);
            let mut sum = 0f64;
            for tap in 0..kernel {
                let place = step * stride + tap as i32 * dilation - options.padding_low[0];
                if place < 0 || place >= length || place % spread != 0 {
                    continue;
                }
                let tap = if options.flip { kernel - 1 - tap } else { tap };
                for channel in 0..per_group {
                    let input = x[(place / spread) as usize * channels + group * per_group + channel];
                    sum += f64::from(input) * f64::from(w[(output * kernel + tap) * per_group + channel]);
                }
            }
            result.push(sum as f32);
        }
    }
    result
}

#[test]
fn convolutions_match_a_loop() {
    let (x, plain, grouped) = (noise(&[1, 9, 4], 1), noise(&[6, 3, 4], 2), noise(&[6, 3, 2], 3));
    let base = ConvOptions::new(1);
    let variants = [
        base.clone(),
        ConvOptions { stride: vec![2], padding_low: vec![1], padding_high: vec![2], ..base.clone() },
        ConvOptions { kernel_dilation: vec![3], padding_low: vec![4], ..base.clone() },
        ConvOptions { input_dilation: vec![2], flip: true, padding_high: vec![1], ..base.clone() },
        ConvOptions { groups: 2, stride: vec![3], padding_low: vec![2], ..base.clone() },
    ];
    for options in variants {
        let w = if options.groups == 2 { &grouped } else { &plain };
        let want = conv_loop(&read(&x), &read(w), [9, 4, 3, 6], &options);
        let got = ops::conv_general(&x, w, &options).unwrap();
        assert_close(&got, &array(&want, &[1, want.len() as i32 / 6, 6]), 1e-4, 1e-4, &format!("{options:?}"));
    }
    // A kernel of one element is a matrix product at every place, in any rank.
    for spatial in 1..=3usize {
        let x = noise(&[vec![2], vec![3; spatial], vec![4]].concat(), 4);
        let w = noise(&[vec![5], vec![1; spatial], vec![4]].concat(), 5);
        let (one, zero) = (vec![1; spatial], vec![0; spatial]);
        let want = x.matmul(&w.reshape(&[5, 4]).unwrap().t().unwrap()).unwrap();
        assert_close(&ops::conv(&x, &w, &one, &zero, &one, 1).unwrap(), &want, 1e-5, 1e-5, "conv 1");
        assert_close(&ops::conv_transpose(&x, &w, &one, &zero, &one, &zero, 1).unwrap(), &want, 1e-5, 1e-5, "transposed 1");
    }
}

#[test]
fn a_transposed_convolution_is_one_over_a_spread_input() {
    let (x, w) = (noise(&[1, 5, 4], 1), noise(&[6, 3, 4], 2));
    for (stride, padding, dilation, extra) in [(1, 0, 1, 0), (2, 1, 1, 1), (3, 0, 2, 2)] {
        let reach = dilation * 2;
        let options = ConvOptions {
            padding_low: vec![reach - padding],
            padding_high: vec![reach - padding + extra],
            kernel_dilation: vec![dilation],
            input_dilation: vec![stride],
            flip: true,
            ..ConvOptions::new(1)
        };
        let want = conv_loop(&read(&x), &read(&w), [5, 4, 3, 6], &options);
        let got = ops::conv_transpose(&x, &w, &[stride], &[padding], &[dilation], &[extra], 1).unwrap();
        assert_eq!(got.dim(1), 4 * stride - 2 * padding + reach + extra + 1);
        assert_close(&got, &array(&want, got.shape()), 1e-4, 1e-4, "transposed");
    }
}

#[test]
fn fourier_closed_forms() {
    let impulse = array(&[1., 0., 0., 0.], &[4]);
    let flat = fft::fftn(&impulse, None, None, FftNorm::Backward).unwrap();
    assert_eq!(read(&flat.real().unwrap()), [1.; 4]);
    assert_eq!(read(&flat.imag().unwrap()), [0.; 4]);
    let x = noise(&[3, 8], 1);
    for norm in [FftNorm::Backward, FftNorm::Ortho, FftNorm::Forward] {
        let back = fft::ifftn(&fft::fftn(&x, None, None, norm).unwrap(), None, None, norm).unwrap();
        assert_close(&back.real().unwrap(), &x, 1e-5, 0., "fft and back");
        let half = fft::rfftn(&x, None, Some(&[1]), norm).unwrap();
        assert_eq!(half.shape(), [3, 5]);
        assert_close(&fft::irfftn(&half, None, Some(&[1]), norm).unwrap(), &x, 1e-5, 0., "rfft and back");
    }
    // Parseval: the orthonormal transform keeps the sum of squares.
    let spectrum = fft::fftn(&x, None, None, FftNorm::Ortho).unwrap().abs().unwrap().square().unwrap();
    assert_close(&spectrum.sum_all().unwrap(), &x.square().unwrap().sum_all().unwrap(), 0., 1e-5, "Parseval");
    assert_eq!(fft::fftn(&x, Some(&[4, 16]), Some(&[0, 1]), FftNorm::Backward).unwrap().shape(), [4, 16]);
    assert_eq!(read(&fft::fftfreq(4, 0.5).unwrap()), [0., 0.5, -1., -0.5]);
    assert_eq!(read(&fft::rfftfreq(4, 0.5).unwrap()), [0., 0.5, 1.]);
    assert_eq!(read(&fft::fftshift(&count(&[5]), None).unwrap()), [3., 4., 0., 1., 2.]);
    let there = fft::fftshift(&x, Some(&[1])).unwrap();
    assert_eq!(read(&fft::ifftshift(&there, Some(&[1])).unwrap()), read(&x));
}

#[test]
fn attention_sinks_take_weight() {
    let (q, k, v) = (noise(&[1, 2, 3, 8], 1), noise(&[1, 2, 4, 8], 2), noise(&[1, 2, 4, 8], 3));
    let sinks = array(&[0.5, -1.], &[2]);
    let got = fast::attention_with_sinks(&q, &k, &v, 0.3, Mask::None, Some(&sinks)).unwrap();
    let scores = q.matmul(&k.swapaxes(-1, -2).unwrap()).unwrap().multiply_scalar(0.3).unwrap();
    let column = sinks.reshape(&[1, 2, 1, 1]).unwrap().broadcast_to(&[1, 2, 3, 1]).unwrap();
    let weights = ops::concatenate(&[column, scores], -1).unwrap().softmax(-1).unwrap().slice_axis(-1, 1, 5).unwrap();
    assert_close(&got, &weights.matmul(&v).unwrap(), 1e-5, 1e-5, "sinks");
    let plain = fast::scaled_dot_product_attention(&q, &k, &v, 0.3, Mask::None).unwrap();
    assert_ne!(read(&plain), read(&got));
    let logits = noise(&[3, 5], 4);
    let targets = ints(&[0, -1, 99], &[3]);
    let losses = fast::cross_entropy_bounded(&logits, &targets).unwrap();
    let chosen = logits.take_along_axis_bounded(&ints(&[0, 4, 4], &[3, 1]), 1).unwrap().squeeze(&[1]).unwrap();
    let want = logits.logsumexp(&[-1], false).unwrap().subtract(&chosen).unwrap();
    assert_close(&losses, &want, 1e-5, 1e-5, "cross entropy");
}
