//! Transforms against closed forms, alone, inside each other, failing, and on several threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::mlx::{Dtype, Error, ops, random};
use crate::runtime::{block_on_owner, spawn_once};

fn vector(values: &[f32]) -> Array {
    Array::from_slice(values, &[values.len() as i32]).unwrap()
}

fn matrix() -> Array {
    Array::from_slice(&[1f32, 2., 3., 4., 5., 6.], &[2, 3]).unwrap()
}

/// The gradient of a scalar function of one array.
fn grad(function: impl FnMut(&Array) -> Result<Array>, at: &Array) -> Result<Array> {
    let mut function = function;
    Ok(value_and_grad(|x| Ok(vec![function(&x[0])?]), std::slice::from_ref(at), &[0])?.1.swap_remove(0))
}

fn cubes(x: &Array) -> Result<Array> {
    x.square()?.multiply(x)?.sum_all()
}

/// A transform, a random draw and a compiled function still work.
fn usable() {
    assert_eq!(grad(cubes, &vector(&[1., 2.])).unwrap().to_f32().unwrap(), [3., 12.]);
    let draw = random::uniform(0., 1., &[4], Dtype::Float32, &random::key(3).unwrap()).unwrap();
    assert!(draw.to_f32().unwrap().iter().all(|value| (0. ..1.).contains(value)));
    let twice = compiled(|x| Ok(vec![x[0].add(&x[0])?.exp()?]), false).unwrap();
    assert_eq!(twice.call(&[vector(&[0.])]).unwrap()[0].to_f32().unwrap(), [1.]);
}

#[test]
fn jvp_is_the_directional_derivative() {
    let (values, products) =
        jvp(|x| Ok(vec![x[0].square()?, x[0].sum_all()?]), &[vector(&[1., 2.])], &[vector(&[10., 1.])]).unwrap();
    assert_eq!(values[0].to_f32().unwrap(), [1., 4.]);
    assert_eq!(products[0].to_f32().unwrap(), [20., 4.]);
    assert_eq!(products[1].item().unwrap(), 11.);
    let error = jvp(|x| Ok(x.to_vec()), &[vector(&[1., 2.])], &[vector(&[1.])]).unwrap_err();
    assert_eq!(error.code(), "ERR_MLX_SHAPE", "{error}");
    assert_eq!(jvp(|x| Ok(x.to_vec()), &[vector(&[1.])], &[]).unwrap_err().code(), "ERR_MLX_ARGUMENT");
}

#[test]
fn vjp_checks_its_cotangents() {
    let (_, products) = vjp(|x| Ok(vec![x[0].square()?]), &[vector(&[1., 2.])], &[vector(&[10., 1.])]).unwrap();
    assert_eq!(products[0].to_f32().unwrap(), [20., 4.]);
    let error = vjp(|x| Ok(vec![x[0].square()?]), &[vector(&[1., 2.])], &[vector(&[1.])]).unwrap_err();
    assert_eq!(error.code(), "ERR_MLX_SHAPE", "{error}");
    assert!(vjp(|x| Ok(vec![x[0].square()?]), &[vector(&[1., 2.])], &[]).is_err());
    usable();
}

#[test]
fn vmap_slices_and_stacks() {
    let x = matrix();
    let row_sums = vmap(|x| Ok(vec![x[0].sum_all()?]), std::slice::from_ref(&x), &[Some(0)], &[0]).unwrap();
    assert_eq!(row_sums[0].to_f32().unwrap(), [6., 15.]);
    let column_sums = vmap(|x| Ok(vec![x[0].sum_all()?]), std::slice::from_ref(&x), &[Some(-1)], &[0]).unwrap();
    assert_eq!(column_sums[0].to_f32().unwrap(), [5., 7., 9.]);
    // The second input goes in whole; outputs are stacked along different axes; a constant is repeated.
    let outputs = vmap(
        |x| Ok(vec![x[0].add(&x[1])?, x[0].clone(), Array::scalar(7.)]),
        &[x, vector(&[10., 20., 30.])],
        &[Some(0), None],
        &[0, -1, 0],
    )
    .unwrap();
    assert_eq!(outputs[0].to_f32().unwrap(), [11., 22., 33., 14., 25., 36.]);
    assert_eq!((outputs[1].shape(), outputs[1].to_f32().unwrap()), (&[3, 2][..], vec![1., 4., 2., 5., 3., 6.]));
    assert_eq!(outputs[2].to_f32().unwrap(), [7., 7.]);
}

#[test]
fn vmap_refuses_axes_that_do_not_fit() {
    let identity = |x: &[Array]| Ok(x.to_vec());
    let pair = [matrix(), vector(&[1., 2., 3.])];
    for (inputs, in_axes, out_axes, code) in [
        (&pair[..], vec![Some(0), Some(0)], vec![0], "ERR_MLX_SHAPE"),
        (&pair[..1], vec![Some(2)], vec![0], "ERR_MLX_SHAPE"),
        (&pair[..1], vec![Some(-3)], vec![0], "ERR_MLX_SHAPE"),
        (&pair[..1], vec![Some(i32::MIN)], vec![0], "ERR_MLX_SHAPE"),
        (&pair[..1], vec![Some(0)], vec![2], "ERR_MLX_SHAPE"),
        (&pair[..1], vec![Some(0)], vec![i32::MAX], "ERR_MLX_SHAPE"),
        (&pair[..1], vec![Some(0)], vec![0, 0], "ERR_MLX_ARGUMENT"),
        (&pair[..1], vec![Some(0)], vec![], "ERR_MLX_ARGUMENT"),
        (&pair[..1], vec![None], vec![0], "ERR_MLX_ARGUMENT"),
        (&pair[..1], vec![], vec![0], "ERR_MLX_ARGUMENT"),
        (&[], vec![], vec![0], "ERR_MLX_ARGUMENT"),
    ] {
        let error = vmap(identity, inputs, &in_axes, &out_axes).unwrap_err();
        assert_eq!(error.code(), code, "{in_axes:?} {out_axes:?}: {error}");
    }
    let scalar = vmap(identity, &[Array::scalar(1.)], &[Some(0)], &[0]).unwrap_err();
    assert_eq!(scalar.code(), "ERR_MLX_SHAPE", "{scalar}");
    usable();
}

#[test]
fn transforms_inside_transforms() {
    let x = vector(&[1., 2.]);
    // d/dx of the sum of 3x² is 6x.
    let second = grad(|x| grad(cubes, x)?.sum_all(), &x).unwrap();
    assert_eq!(second.to_f32().unwrap(), [6., 12.]);
    let third = grad(|x| grad(|x| grad(cubes, x)?.sum_all(), x)?.sum_all(), &x).unwrap();
    assert_eq!(third.to_f32().unwrap(), [6., 6.]);
    // Forward over reverse: the Hessian times a vector.
    let (_, products) = jvp(|x| Ok(vec![grad(cubes, &x[0])?]), std::slice::from_ref(&x), &[vector(&[1., 10.])]).unwrap();
    assert_eq!(products[0].to_f32().unwrap(), [6., 120.]);
    let rows = vmap(|x| Ok(vec![grad(cubes, &x[0])?]), &[matrix()], &[Some(0)], &[0]).unwrap();
    assert_eq!(rows[0].to_f32().unwrap(), [3., 12., 27., 48., 75., 108.]);
    let through = grad(
        |x| vmap(|x| Ok(vec![x[0].square()?.sum_all()?]), std::slice::from_ref(x), &[Some(0)], &[0])?[0].sum_all(),
        &matrix(),
    );
    assert_eq!(through.unwrap().to_f32().unwrap(), [2., 4., 6., 8., 10., 12.]);
    let outer = vmap(
        |x| vmap(|y| Ok(vec![y[0].multiply(&y[1])?]), x, &[None, Some(0)], &[0]),
        &[x.clone(), vector(&[3., 4., 5.])],
        &[Some(0), None],
        &[0],
    );
    assert_eq!(outer.unwrap()[0].to_f32().unwrap(), [3., 4., 5., 6., 8., 10.]);
    let recomputed = grad(|x| checkpoint(|x| Ok(vec![cubes(&x[0])?]), std::slice::from_ref(x)).map(|mut y| y.swap_remove(0)), &x);
    assert_eq!(recomputed.unwrap().to_f32().unwrap(), [3., 12.]);
    let step = compiled(
        |x| {
            value_and_grad(|x| Ok(vec![cubes(&x[0])?]), x, &[0]).map(|(mut v, g)| {
                v.extend(g);
                v
            })
        },
        false,
    );
    let outputs = step.unwrap().call(std::slice::from_ref(&x)).unwrap();
    assert_eq!((outputs[0].item().unwrap(), outputs[1].to_f32().unwrap()), (9., vec![3., 12.]));
    let inner = compiled(|x| Ok(vec![cubes(&x[0])?]), false).unwrap();
    let through = grad(|x| inner.call(std::slice::from_ref(x)).map(|mut y| y.swap_remove(0)), &x).unwrap();
    assert_eq!(through.to_f32().unwrap(), [3., 12.]);
}

fn tripled(x: &[Array]) -> Result<Vec<Array>> {
    custom_vjp(|x| Ok(vec![x[0].square()?]), |_, cotangents, _| Ok(vec![cotangents[0].multiply_scalar(3.)?]), x)
}

#[test]
fn custom_gradients_inside_other_transforms() {
    let rows = vmap(tripled, &[matrix()], &[Some(0)], &[0]).unwrap();
    assert_eq!(rows[0].to_f32().unwrap(), [1., 4., 9., 16., 25., 36.]);
    let gradient = grad(|x| tripled(std::slice::from_ref(x))?[0].sum_all(), &matrix()).unwrap();
    assert_eq!(gradient.to_f32().unwrap(), [3.; 6]);
    let through_checkpoint = grad(|x| checkpoint(tripled, std::slice::from_ref(x))?[0].sum_all(), &matrix()).unwrap();
    assert_eq!(through_checkpoint.to_f32().unwrap(), [3.; 6]);
    let step = compiled(|x| Ok(vec![grad(|x| tripled(std::slice::from_ref(x))?[0].sum_all(), &x[0])?]), false).unwrap();
    assert_eq!(step.call(&[matrix()]).unwrap()[0].to_f32().unwrap(), [3.; 6]);
    let error = grad(
        |x| {
            custom_vjp(|x| Ok(vec![x[0].sum_all()?]), |_, _, _| Ok(vec![Array::scalar(1.)]), std::slice::from_ref(x))
                .map(|mut y| y.remove(0))
        },
        &matrix(),
    );
    assert_eq!(error.unwrap_err().code(), "ERR_MLX_SHAPE");
    usable();
}

#[test]
fn errors_of_traced_functions_come_back_from_every_depth() {
    let x = [vector(&[1., 2.])];
    let mine = |_: &[Array]| -> Result<Vec<Array>> { Err(Error::Config("mine".into())) };
    let boom = |_: &[Array]| -> Result<Vec<Array>> { panic!("boom") };
    let scalar = |x: &[Array]| Ok(vec![cubes(&x[0])?]);
    let results: Vec<(&str, Result<()>)> = vec![
        ("value_and_grad", value_and_grad(mine, &x, &[0]).map(drop)),
        ("vjp", vjp(mine, &x, &x).map(drop)),
        ("jvp", jvp(mine, &x, &x).map(drop)),
        ("vmap", vmap(mine, &x, &[Some(0)], &[0]).map(drop)),
        ("checkpoint", checkpoint(mine, &x).map(drop)),
        ("custom_vjp", custom_vjp(mine, |_, _, _| Ok(vec![]), &x).map(drop)),
        ("compile", compiled(mine, false).unwrap().call(&x).map(drop)),
        ("vmap in grad", value_and_grad(|x| vmap(mine, x, &[Some(0)], &[0]), &x, &[0]).map(drop)),
        ("grad in vmap", vmap(|x| Ok(value_and_grad(mine, x, &[0])?.1), &x, &[Some(0)], &[0]).map(drop)),
        ("checkpoint in grad", value_and_grad(|x| checkpoint(mine, x), &x, &[0]).map(drop)),
        ("grad in compile", compiled(move |x| Ok(value_and_grad(mine, x, &[0])?.1), false).unwrap().call(&x).map(drop)),
        ("compile in grad", value_and_grad(|x| compiled(mine, false)?.call(x), &x, &[0]).map(drop)),
    ];
    for (what, result) in results {
        assert_eq!(result.unwrap_err().to_string(), "mine", "{what}");
        usable();
    }
    for (what, result) in [
        ("grad", value_and_grad(boom, &x, &[0]).map(drop)),
        ("vmap", vmap(boom, &x, &[Some(0)], &[0]).map(drop)),
        ("compile", compiled(boom, true).unwrap().call(&x).map(drop)),
    ] {
        assert!(result.unwrap_err().to_string().contains("boom"), "{what}");
        usable();
    }
    // The recomputation of a checkpoint runs inside the outer transform, which knows nothing of its function.
    let mut calls = 0;
    let late = move |x: &[Array]| {
        calls += 1;
        if calls > 1 { Err(Error::Config("mine".into())) } else { scalar(x) }
    };
    assert_eq!(value_and_grad(move |x| checkpoint(late, x), &x, &[0]).unwrap_err().to_string(), "mine");
    // An error that was dealt with is not reported again for a later one of MLX's.
    let error = value_and_grad(
        |x| {
            assert!(value_and_grad(mine, x, &[0]).is_err());
            x[0].matmul(&matrix().t()?.matmul(&matrix())?).map(|y| vec![y])
        },
        &x,
        &[0],
    );
    assert_eq!(error.unwrap_err().code(), "ERR_MLX_SHAPE");
    usable();
}

#[test]
fn functions_that_cannot_be_differentiated_are_refused() {
    let x = [vector(&[1., 2.])];
    let none = |_: &[Array]| Ok(vec![]);
    assert_eq!(value_and_grad(none, &x, &[0]).unwrap_err().code(), "ERR_MLX_ARGUMENT");
    assert_eq!(vjp(none, &x, &[]).unwrap_err().code(), "ERR_MLX_ARGUMENT");
    assert_eq!(vmap(none, &x, &[Some(0)], &[0]).unwrap_err().code(), "ERR_MLX_ARGUMENT");
    assert_eq!(checkpoint(none, &x).unwrap_err().code(), "ERR_MLX_ARGUMENT");
    assert_eq!(value_and_grad(|x| Ok(x.to_vec()), &x, &[0]).unwrap_err().code(), "ERR_MLX_SHAPE");
    for argnums in [&[][..], &[1], &[-1], &[0, 7]] {
        let error = value_and_grad(|x| Ok(vec![cubes(&x[0])?]), &x, argnums).unwrap_err();
        assert_eq!(error.code(), "ERR_MLX_ARGUMENT", "{argnums:?}: {error}");
    }
    assert!(value_and_grad(|x| Ok(vec![cubes(&x[0])?]), &x, &[0, 0]).is_err(), "the same argument twice");
    // No way from the input to the output: zeros, not an error.
    assert_eq!(grad(|_| Ok(Array::scalar(2.)), &x[0]).unwrap().to_f32().unwrap(), [0., 0.]);
    usable();
}

#[test]
fn values_may_be_read_while_tracing() {
    // MLX would drop the graph of what is evaluated, and the gradient with it.
    let gradient = grad(
        |x| {
            let tripled = x.multiply_scalar(3.)?;
            assert_eq!(tripled.sum_all()?.item()?, 9.);
            assert_eq!(tripled.to_f32()?, [3., 6.]);
            crate::mlx::eval(&[&tripled])?;
            tripled.square()?.sum_all()
        },
        &vector(&[1., 2.]),
    );
    assert_eq!(gradient.unwrap().to_f32().unwrap(), [18., 36.]);
    // On the owner MLX knows by itself.
    let gradient = block_on_owner(|| {
        grad(
            |x| {
                let tripled = x.multiply_scalar(3.)?;
                assert_eq!(tripled.sum_all()?.item()?, 9.);
                tripled.square()?.sum_all()
            },
            &vector(&[1., 2.]),
        )
    });
    assert_eq!(gradient.unwrap().to_f32().unwrap(), [18., 36.]);
    // There are no values in a trace of compile or vmap.
    assert!(compiled(|x| Ok(vec![Array::scalar(x[0].sum_all()?.item()?)]), false).unwrap().call(&[matrix()]).is_err());
    assert!(vmap(|x| Ok(vec![Array::scalar(x[0].sum_all()?.item()?)]), &[matrix()], &[Some(0)], &[0]).is_err());
    usable();
}

#[test]
fn transforms_beside_evaluation() {
    // The owner evaluates, and so takes apart, the graph that the gradients walk.
    let shared = (0..200).try_fold(vector(&[1., 2.]), |x, _| x.multiply_scalar(1.01)?.add_scalar(0.)).unwrap();
    for round in 0..50 {
        let lazy = (0..50).try_fold(shared.clone(), |x, _| x.multiply_scalar(0.99)).unwrap();
        let waiting = lazy.clone();
        spawn_once(move || waiting.eval().unwrap());
        let gradient = grad(|x| x.multiply(&lazy)?.sum_all(), &vector(&[round as f32, 1.])).unwrap();
        let wanted = lazy.to_f32().unwrap();
        assert_eq!(gradient.to_f32().unwrap(), wanted);
    }
}

#[test]
fn what_is_being_evaluated_is_read_when_it_is_done() {
    let slow = || (0..60).try_fold(vector(&[1., 2.]), |x, _| x.multiply_scalar(1.5)).unwrap();
    let wanted = slow().to_f32().unwrap();
    for round in 0..200 {
        let lazy = slow();
        let waiting = lazy.clone();
        spawn_once(move || waiting.eval().unwrap());
        // At different moments of the evaluation.
        (0..round * 20).for_each(|_| std::hint::spin_loop());
        assert_eq!(lazy.to_f32().unwrap(), wanted, "round {round}");
    }
}

/// Counts how many of itself there are.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Counted(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn counted_compile(count: &Arc<AtomicUsize>, factor: f32) -> Compiled {
    let counted = Counted::new(count);
    compiled(
        move |x| {
            let _counted = &counted;
            Ok(vec![x[0].multiply_scalar(factor)?.add_scalar(1.)?])
        },
        false,
    )
    .unwrap()
}

#[test]
fn compiled_functions_belong_to_a_thread() {
    let count = Arc::new(AtomicUsize::new(0));
    let x = [vector(&[1., 2.])];
    let call = |function: &Compiled| function.call(&x).map(|y| y[0].to_f32().unwrap());
    let function = counted_compile(&count, 2.);
    assert_eq!(call(&function).unwrap(), [3., 5.]);
    assert_eq!(call(&function).unwrap(), [3., 5.]);
    assert_eq!(function.call(&[vector(&[4.])]).unwrap()[0].to_f32().unwrap(), [9.], "another shape");
    std::thread::scope(|scope| {
        let error = scope.spawn(|| call(&function).unwrap_err()).join().unwrap();
        assert_eq!(error.code(), "ERR_MLX_ARGUMENT", "{error}");
    });
    drop(function);
    assert_eq!(count.load(Ordering::SeqCst), 0);

    // Dropped elsewhere, it waits until its thread comes by.
    let function = counted_compile(&count, 3.);
    assert_eq!(call(&function).unwrap(), [4., 7.]);
    std::thread::spawn(move || drop(function)).join().unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 1);
    assert_eq!(call(&counted_compile(&count, 4.)).unwrap(), [5., 9.]);
    assert_eq!(count.load(Ordering::SeqCst), 0);

    // Its thread ends before it, or before it could come by.
    let function = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                let function = counted_compile(&count, 5.);
                call(&function).unwrap();
                function
            })
            .join()
            .unwrap()
    });
    assert!(call(&function).is_err());
    drop(function);
    assert_eq!(count.load(Ordering::SeqCst), 0);
    std::thread::scope(|scope| {
        let last = scope.spawn(|| {
            let function = counted_compile(&count, 6.);
            call(&function).unwrap();
            std::thread::spawn(move || drop(function)).join().unwrap();
        });
        // Joined, not only waited for: what a thread keeps goes after its function has returned.
        last.join().unwrap();
    });
    assert_eq!(count.load(Ordering::SeqCst), 0);
    // Made here, called on the owner.
    let function = counted_compile(&count, 7.);
    assert_eq!(block_on_owner(|| function.call(&x)).unwrap()[0].to_f32().unwrap(), [8., 15.]);
}

#[test]
fn compiled_functions_come_and_go() {
    // Addresses are used again: a trace left behind would answer for another function.
    let count = Arc::new(AtomicUsize::new(0));
    let x = vector(&[1.]);
    let threads: Vec<_> = (0..3)
        .map(|thread| {
            let (count, x) = (count.clone(), x.clone());
            std::thread::spawn(move || {
                for round in 0..40 {
                    let factor = (thread * 100 + round) as f32;
                    let function = counted_compile(&count, factor);
                    // Not evaluated: g++ would run for each.
                    let y = function.call(std::slice::from_ref(&x)).unwrap().swap_remove(0);
                    if round % 20 == 0 {
                        assert_eq!(y.to_f32().unwrap(), [factor + 1.]);
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(count.load(Ordering::SeqCst), 0);
}

#[test]
fn a_failed_trace_is_made_again() {
    let mut failures = 2;
    let function = compiled(
        move |x| {
            failures -= 1;
            if failures >= 0 { Err(Error::Config("not yet".into())) } else { Ok(vec![x[0].exp()?.add_scalar(1.)?]) }
        },
        false,
    )
    .unwrap();
    let x = [vector(&[0.])];
    assert!(function.call(&x).is_err());
    assert!(function.call(&x).is_err());
    assert_eq!(function.call(&x).unwrap()[0].to_f32().unwrap(), [2.]);
}

#[test]
fn keys_given_to_a_compiled_function_are_not_frozen() {
    let noise = compiled(|x| Ok(vec![random::normal(0., 1., &[4], Dtype::Float32, &x[0])?.add_scalar(1.)?]), false).unwrap();
    let draw = |seed| noise.call(&[random::key(seed).unwrap()]).unwrap()[0].to_f32().unwrap();
    assert_ne!(draw(1), draw(2));
    assert_eq!(draw(1), draw(1));
}

#[test]
fn a_shapeless_trace_serves_all_shapes() {
    let calls = Arc::new(AtomicUsize::new(0));
    let traces = calls.clone();
    let function = compiled(
        move |x| {
            traces.fetch_add(1, Ordering::SeqCst);
            Ok(vec![x[0].exp()?.add_scalar(1.)?])
        },
        true,
    )
    .unwrap();
    for size in 1..5 {
        assert_eq!(
            function.call(&[ops::zeros(&[size], Dtype::Float32).unwrap()]).unwrap()[0].to_f32().unwrap(),
            vec![2.; size as usize]
        );
    }
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[test]
fn a_function_inside_itself_is_an_error() {
    let slot: Arc<std::sync::OnceLock<Compiled>> = Arc::default();
    let inner = slot.clone();
    let function = compiled(move |x| inner.get().map_or(Ok(x.to_vec()), |function| function.call(x)), false).unwrap();
    assert!(slot.set(function).is_ok());
    let error = slot.get().unwrap().call(&[vector(&[1.])]).unwrap_err();
    assert!(error.to_string().contains("calls itself"), "{error}");
    usable();
}

#[test]
fn graphs_let_go_of_their_functions() {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Counted::new(&count);
    let y = checkpoint(
        move |x| {
            let _counted = &counted;
            Ok(vec![x[0].exp()?])
        },
        &[vector(&[0.])],
    )
    .unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 1);
    // Evaluation takes the graph apart on the owner.
    assert_eq!(y[0].to_f32().unwrap(), [1.]);
    drop(y);
    assert_eq!(count.load(Ordering::SeqCst), 0);
}
