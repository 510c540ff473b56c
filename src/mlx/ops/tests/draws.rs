//! Random draws: moments and frequencies.

use super::{array, count, read};
use crate::mlx::{Array, Dtype, random};
use crate::testing::assert_close;

#[test]
fn draws_have_their_moments() {
    let key = random::key(11).unwrap();
    let shape = [40_000];
    let (zero, one) = (Array::scalar(0.), Array::scalar(1.));
    let moments = |x: Array| (x.mean_all().unwrap().item().unwrap(), x.var(&[0], false, 0).unwrap().item().unwrap());
    let float = Dtype::Float32;
    let draws = [
        ("uniform", random::uniform_array(&zero, &one, &shape, float, &key), 0.5, 1. / 12.),
        ("normal", random::normal_array(&Array::scalar(3.), &Array::scalar(2.), &shape, float, &key), 3., 4.),
        ("laplace", random::laplace(1., 2., &shape, float, &key), 1., 8.),
        ("gumbel", random::gumbel(&shape, float, &key), 0.577_215_7, std::f32::consts::PI.powi(2) / 6.),
        ("bernoulli", random::bernoulli(0.3, &shape, &key).unwrap().astype(float), 0.3, 0.21),
        ("randint", random::randint(0, 10, &shape, Dtype::Int32, &key).unwrap().astype(float), 4.5, 8.25),
        // A standard normal cut to [-1, 1]: variance 1 - 2 φ(1) / (2 Φ(1) - 1).
        ("truncated", random::truncated_normal(&Array::scalar(-1.), &one, &shape, float, &key), 0., 0.291_125),
        ("permutation", random::permutation(40_000, &key).unwrap().astype(float), 19_999.5, (40_000f32.powi(2) - 1.) / 12.),
    ];
    for (name, drawn, mean, variance) in draws {
        let (got_mean, got_variance) = moments(drawn.unwrap());
        // Five standard errors of the mean; for the variance 10 %, above five standard errors for every one of these.
        assert!((got_mean - mean).abs() <= 5. * (variance / 40_000.).sqrt(), "{name}: mean {got_mean}");
        assert!((got_variance / variance - 1.).abs() < 0.1, "{name}: variance {got_variance}");
    }
    let cut = random::truncated_normal(&Array::scalar(-1.), &one, &shape, float, &key).unwrap().abs().unwrap();
    assert!(cut.max_all().unwrap().item().unwrap() <= 1.);
}

#[test]
fn discrete_draws_have_their_frequencies() {
    let key = random::key(5).unwrap();
    let probabilities = [0.1f32, 0.2, 0.3, 0.4];
    let logits = array(&probabilities, &[1, 4]).log().unwrap();
    let draws = 20_000;
    let chi = |drawn: Vec<f32>| {
        let mut counts = [0f32; 4];
        drawn.iter().for_each(|&class| counts[class as usize] += 1.);
        counts.iter().zip(probabilities).map(|(count, p)| (count - p * draws as f32).powi(2) / (p * draws as f32)).sum::<f32>()
    };
    // Three degrees of freedom: 21.1 is passed once in 10,000.
    assert!(chi(read(&random::categorical_samples(&logits, -1, draws, &key).unwrap())) < 21.1);
    assert!(chi(read(&random::categorical_shape(&logits, -1, &[draws], &key).unwrap())) < 21.1);
    let bits = random::bits(&[4096], 4, &key).unwrap().to_vec::<u32>().unwrap();
    let ones: u32 = bits.iter().map(|word| word.count_ones()).sum();
    // 131,072 fair bits: five standard deviations are 905.
    assert!((ones as i32 - 65_536).abs() < 905, "{ones}");
    assert_eq!(random::bits(&[3], 1, &key).unwrap().dtype(), Dtype::Uint8);
    let shuffled = read(&random::permutation_of(&count(&[50, 2]), 0, &key).unwrap());
    assert_ne!(shuffled, read(&count(&[50, 2])));
    assert!(shuffled.chunks(2).all(|row| row[1] == row[0] + 1.));
    let covariance = array(&[2., 1., 1., 1.], &[2, 2]);
    let x = random::multivariate_normal(&array(&[1., -1.], &[2]), &covariance, &[draws], &key).unwrap();
    let centred = x.subtract(&array(&[1., -1.], &[2])).unwrap();
    let got = centred.t().unwrap().matmul(&centred).unwrap().divide_scalar(draws as f32).unwrap();
    // Standard errors are at most 2 √(2 / 20,000) = 0.02.
    assert_close(&got, &covariance, 0.1, 0., "covariance");
}
