//! Promises settled from the owner thread, or from one of their own.
//!
//! libuv's pool would hold the exit of the process until the work ends, and moves work between threads, which MLX forbids.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use napi::Env;
use napi::bindgen_prelude::{Object, ToNapiValue};

use super::error::{self as js, argument, rejection};
use crate::mlx::{Error, Result};
use crate::runtime::{self, Job, Poll, panic_error};

/// One slice of a long computation: `None` while there is more to do.
pub type Slice<T> = Option<T>;

struct Sliced<W, S> {
    work: Option<W>,
    settle: Option<S>,
}

impl<T, W, S> Job for Sliced<W, S>
where
    W: FnMut() -> Result<Slice<T>> + Send,
    S: FnOnce(Result<T>) + Send,
{
    fn step(&mut self) -> Poll {
        let Some(work) = &mut self.work else { return Poll::Done };
        let outcome = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(panic_error(panic)));
        match outcome.transpose() {
            None => Poll::Again,
            Some(result) => {
                // What the work holds (a half-written file) is gone when the promise settles.
                self.work = None;
                if let Some(settle) = self.settle.take() {
                    settle(result);
                }
                Poll::Done
            }
        }
    }
}

type Settle<T> = Box<dyn FnOnce(Result<T>) + Send>;

/// A promise, and what settles it from any thread.
fn deferred<'env, T, J>(env: &'env Env, convert: impl FnOnce(T) -> J + Send + 'static) -> js::Result<(Settle<T>, Object<'env>)>
where
    T: Send + 'static,
    J: ToNapiValue + 'static,
{
    type Resolver<J> = Box<dyn FnOnce(Env) -> napi::Result<J> + Send>;
    let (deferred, promise) = env.create_deferred::<J, Resolver<J>>().map_err(argument)?;
    let settle = move |result: Result<T>| {
        deferred.resolve(Box::new(move |env| match result {
            Ok(value) => Ok(convert(value)),
            Err(error) => Err(rejection(&env, &error)),
        }));
    };
    Ok((Box::new(settle), promise))
}

/// Runs `work` slice by slice on the owner thread; the promise takes what `convert` makes of the result on the JavaScript thread.
pub fn sliced<'env, T, J>(
    env: &'env Env,
    work: impl FnMut() -> Result<Slice<T>> + Send + 'static,
    convert: impl FnOnce(T) -> J + Send + 'static,
) -> js::Result<Object<'env>>
where
    T: Send + 'static,
    J: ToNapiValue + 'static,
{
    let (settle, promise) = deferred(env, convert)?;
    runtime::spawn(Sliced { work: Some(work), settle: Some(settle) });
    Ok(promise)
}

/// Runs `work` once on the owner thread.
pub fn once<'env, T, J>(
    env: &'env Env,
    work: impl FnOnce() -> Result<T> + Send + 'static,
    convert: impl FnOnce(T) -> J + Send + 'static,
) -> js::Result<Object<'env>>
where
    T: Send + 'static,
    J: ToNapiValue + 'static,
{
    let mut work = Some(work);
    sliced(
        env,
        move || match work.take() {
            Some(work) => work().map(Some),
            None => Err(Error::Internal("a finished job ran again".into())),
        },
        convert,
    )
}

/// Runs `work` once on a thread of its own: for what takes long and needs no MLX, so that neither JavaScript nor the owner waits.
pub fn aside<'env, T, J>(
    env: &'env Env,
    work: impl FnOnce() -> Result<T> + Send + 'static,
    convert: impl FnOnce(T) -> J + Send + 'static,
) -> js::Result<Object<'env>>
where
    T: Send + 'static,
    J: ToNapiValue + 'static,
{
    let (settle, promise) = deferred(env, convert)?;
    // What cannot start is settled here.
    let settle = Arc::new(Mutex::new(Some(settle)));
    let settle_once = |settle: &Mutex<Option<Settle<T>>>, result| {
        if let Some(settle) = settle.lock().unwrap_or_else(PoisonError::into_inner).take() {
            settle(result);
        }
    };
    let theirs = settle.clone();
    let spawned = std::thread::Builder::new().name("mlx-node aside".into()).spawn(move || {
        let outcome = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| Err(panic_error(panic)));
        settle_once(&theirs, outcome);
    });
    if let Err(error) = spawned {
        settle_once(&settle, Err(Error::Internal(format!("a thread cannot be started: {error}"))));
    }
    Ok(promise)
}
