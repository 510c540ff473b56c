//! The wrapper against closed forms.

use super::*;

fn vector(values: &[f32]) -> Array {
    Array::from_slice(values, &[values.len() as i32]).unwrap()
}

#[test]
fn arithmetic_and_reading() {
    let a = Array::from_slice(&[1f32, 2., 3., 4., 5., 6.], &[2, 3]).unwrap();
    let product = a.matmul(&a.t().unwrap()).unwrap();
    assert_eq!(product.to_f32().unwrap(), [14., 32., 32., 77.]);
    // A view is read in row-major order of the view.
    assert_eq!(a.t().unwrap().to_f32().unwrap(), [1., 4., 2., 5., 3., 6.]);
    assert_eq!(a.slice_axis(1, 1, 3).unwrap().to_f32().unwrap(), [2., 3., 5., 6.]);
}

#[test]
fn errors_carry_codes_and_leave_mlx_usable() {
    let error = vector(&[1., 2.]).matmul(&vector(&[1., 2., 3.])).unwrap_err();
    assert_eq!(error.code(), "ERR_MLX_SHAPE", "{error}");
    assert!(Array::from_slice(&[1f32], &[2]).is_err());
    assert!(ops::zeros(&[-1], Dtype::Float32).is_err());
    assert_eq!(vector(&[1.]).add_scalar(1.).unwrap().to_f32().unwrap(), [2.]);
}

#[test]
fn gradients_come_back_with_values() {
    let x = vector(&[1., 2., 3.]);
    let (values, gradients) = value_and_grad(|x| Ok(vec![x[0].square()?.sum_all()?]), &[x], &[0]).unwrap();
    assert_eq!(values[0].item().unwrap(), 14.);
    assert_eq!(gradients[0].to_f32().unwrap(), [2., 4., 6.]);
}

#[test]
fn a_failing_closure_is_reported_as_itself() {
    let x = vector(&[1.]);
    let result = value_and_grad(|_| Err(Error::Argument("mine".into())), std::slice::from_ref(&x), &[0]);
    assert_eq!(result.unwrap_err().to_string(), "mine");
    let result = value_and_grad(|_| panic!("boom"), std::slice::from_ref(&x), &[0]);
    assert!(result.unwrap_err().to_string().contains("boom"));
    let (_, gradients) = value_and_grad(|x| Ok(vec![x[0].sum_all()?]), &[x], &[0]).unwrap();
    assert_eq!(gradients[0].to_f32().unwrap(), [1.]);
}

#[test]
fn checkpoint_changes_no_gradient() {
    let x = vector(&[0.5, -0.25]);
    let (_, gradients) = value_and_grad(
        |x| {
            let inner = checkpoint(|y| Ok(vec![y[0].exp()?.square()?]), &x[..1])?;
            Ok(vec![inner[0].sum_all()?])
        },
        &[x],
        &[0],
    )
    .unwrap();
    for (gradient, x) in gradients[0].to_f32().unwrap().iter().zip([0.5f32, -0.25]) {
        assert!((gradient - 2. * (2. * x).exp()).abs() < 1e-5);
    }
}

#[test]
fn a_custom_gradient_replaces_the_own_one() {
    let run = |gradients: usize| {
        value_and_grad(
            |inputs| {
                let outputs = custom_vjp(
                    |x| Ok(vec![x[0].multiply(&x[1])?, x[0].square()?]),
                    move |primals, cotangents, outputs| {
                        // 10 d + output for the first input; the second stays without one.
                        let first = cotangents[0].multiply_scalar(10.)?.add(&outputs[1])?;
                        Ok(vec![first, ops::zeros_like(&primals[1])?][..gradients].to_vec())
                    },
                    inputs,
                )?;
                Ok(vec![outputs[0].sum_all()?])
            },
            &[vector(&[1., 2.]), vector(&[3., 4.])],
            &[0],
        )
    };
    let (values, gradients) = run(2).unwrap();
    assert_eq!(values[0].item().unwrap(), 11.);
    assert_eq!(gradients[0].to_f32().unwrap(), [11., 14.]);
    assert!(run(1).unwrap_err().to_string().contains("1 gradients for 2 inputs"));
}

#[test]
fn depends_changes_no_value() {
    let (x, y) = (vector(&[1., 2.]), vector(&[5.]).exp().unwrap());
    assert_eq!(depends(&[x], &[y]).unwrap()[0].to_f32().unwrap(), [1., 2.]);
}

#[test]
fn many_threads_build_and_read() {
    let threads: Vec<_> = (0..4)
        .map(|seed| {
            std::thread::spawn(move || {
                for step in 0..50 {
                    let x = vector(&[seed as f32, step as f32]);
                    assert_eq!(x.square().unwrap().sum_all().unwrap().item().unwrap(), (seed * seed + step * step) as f32);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn random_keys_are_reproducible() {
    let draw = || random::normal(0., 1., &[8], Dtype::Float32, &random::key(7).unwrap()).unwrap().to_f32().unwrap();
    assert_eq!(draw(), draw());
    let (a, b) = random::split(&random::key(7).unwrap()).unwrap();
    assert_ne!(a.to_vec::<u32>().unwrap(), b.to_vec::<u32>().unwrap());
}

#[test]
#[cfg(target_os = "linux")]
fn the_blas_is_openblas() {
    assert!(blas().contains("OpenBLAS"), "{}", blas());
}

#[test]
#[ignore = "a measurement: cargo test --release sgemm -- --ignored --nocapture"]
fn sgemm_rate() {
    let x = random::normal(0., 1., &[1024, 1024], Dtype::Float32, &random::key(1).unwrap()).unwrap();
    x.eval().unwrap();
    let mut best = f64::INFINITY;
    for _ in 0..20 {
        let start = std::time::Instant::now();
        x.matmul(&x).unwrap().eval().unwrap();
        best = best.min(start.elapsed().as_secs_f64());
    }
    println!("{} {:.0} GFLOP/s", blas(), 2. * 1024f64.powi(3) / best / 1e9);
}
