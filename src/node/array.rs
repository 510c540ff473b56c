//! `MxArray`: MLX arrays in JavaScript. Operations are lazy and synchronous; reading values waits for the owner thread.

use napi::bindgen_prelude::{ClassInstance, Either, Float32Array, Int32Array, ObjectFinalize, Uint32Array};
use napi::{Env, bindgen_prelude::Object};
use napi_derive::napi;

use super::error as js;
use super::promise;
use crate::mlx::{self, Array, Dtype, Error, Result, ops, random};

/// A lazy n-dimensional array. Shapes are plain numbers, row-major.
#[napi(custom_finalize)]
pub struct MxArray {
    inner: Option<Array>,
    /// Bytes reported to the garbage collector, to be taken back exactly once.
    accounted: i64,
}

impl ObjectFinalize for MxArray {
    fn finalize(self, env: Env) -> napi::Result<()> {
        if self.accounted != 0 {
            env.adjust_external_memory(-self.accounted)?;
        }
        Ok(())
    }
}

impl From<Array> for MxArray {
    fn from(array: Array) -> Self {
        let accounted = super::account(array.nbytes() as i64);
        MxArray { inner: Some(array), accounted }
    }
}

type Operand<'a> = Either<ClassInstance<'a, MxArray>, f64>;

impl MxArray {
    pub(super) fn get(&self) -> Result<&Array> {
        self.inner.as_ref().ok_or(Error::Disposed("array"))
    }

    /// The other operand: an array, or a number as a scalar that does not widen this array's dtype.
    fn operand(&self, other: &Operand) -> Result<Array> {
        match other {
            Either::A(array) => Ok(array.get()?.clone()),
            Either::B(value) => {
                let own = self.get()?.dtype();
                let fits = own.is_float() || (value.fract() == 0. && own != Dtype::Bool);
                Array::scalar_of(*value, if fits { own } else { Dtype::Float32 })
            }
        }
    }
}

/// Sizes, axes and indices arrive as JavaScript numbers: whole and within 32 bits, or an error that shows them.
pub(super) fn integers(what: &str, values: &[f64]) -> Result<Vec<i32>> {
    values
        .iter()
        .map(|&value| {
            if value.fract() == 0. && (i32::MIN as f64..=i32::MAX as f64).contains(&value) {
                Ok(value as i32)
            } else {
                Err(Error::Argument(format!("{what} must hold whole 32-bit numbers, got {values:?}")))
            }
        })
        .collect()
}

fn integer(what: &str, value: f64) -> Result<i32> {
    Ok(integers(what, &[value])?[0])
}

fn axes_of(array: &Array, axes: Option<Either<f64, Vec<f64>>>) -> Result<Vec<i32>> {
    match axes {
        None => Ok((0..array.ndim() as i32).collect()),
        Some(Either::A(axis)) => integers("axis", &[axis]),
        Some(Either::B(axes)) => integers("axes", &axes),
    }
}

fn dtype_or(name: Option<String>, default: Dtype) -> Result<Dtype> {
    name.map_or(Ok(default), |name| Dtype::parse(&name))
}

macro_rules! unary {
    ($($name:ident)*) => {
        #[napi]
        impl MxArray { $(
            #[napi]
            pub fn $name(&self) -> js::Result<MxArray> {
                Ok(self.get()?.$name()?.into())
            }
        )* }
    };
}

macro_rules! binary {
    ($($name:ident)*) => {
        #[napi]
        impl MxArray { $(
            #[napi]
            pub fn $name(&self, other: Operand) -> js::Result<MxArray> {
                Ok(self.get()?.$name(&self.operand(&other)?)?.into())
            }
        )* }
    };
}

macro_rules! reductions {
    ($($name:ident)*) => {
        #[napi]
        impl MxArray { $(
            /// Over the given axes, or all of them.
            #[napi]
            pub fn $name(&self, axes: Option<Either<f64, Vec<f64>>>, keepdims: Option<bool>) -> js::Result<MxArray> {
                let array = self.get()?;
                Ok(array.$name(&axes_of(array, axes)?, keepdims.unwrap_or(false))?.into())
            }
        )* }
    };
}

unary! {
    abs negative sign square sqrt rsqrt reciprocal exp expm1 log log2 log10 log1p sin cos tan sinh cosh tanh arcsin arccos arctan
    sigmoid erf floor ceil isnan isinf isfinite logical_not silu stop_gradient
}

binary! {
    add subtract multiply divide power floor_divide remainder minimum maximum logaddexp
    equal not_equal less less_equal greater greater_equal logical_and logical_or
}

reductions! { sum mean prod max min all any logsumexp }

#[napi]
impl MxArray {
    #[napi(factory)]
    pub fn from_float32(data: Float32Array, shape: Vec<f64>) -> js::Result<MxArray> {
        Ok(Array::from_slice::<f32>(&data, &integers("shape", &shape)?)?.into())
    }

    #[napi(factory)]
    pub fn from_int32(data: Int32Array, shape: Vec<f64>) -> js::Result<MxArray> {
        Ok(Array::from_slice::<i32>(&data, &integers("shape", &shape)?)?.into())
    }

    #[napi(factory)]
    pub fn from_uint32(data: Uint32Array, shape: Vec<f64>) -> js::Result<MxArray> {
        Ok(Array::from_slice::<u32>(&data, &integers("shape", &shape)?)?.into())
    }

    /// A 0-dimensional array; dtype float32 unless named.
    #[napi(factory)]
    pub fn scalar(value: f64, dtype: Option<String>) -> js::Result<MxArray> {
        Ok(Array::scalar_of(value, dtype_or(dtype, Dtype::Float32)?)?.into())
    }

    #[napi(factory)]
    pub fn zeros(shape: Vec<f64>, dtype: Option<String>) -> js::Result<MxArray> {
        Ok(ops::zeros(&integers("shape", &shape)?, dtype_or(dtype, Dtype::Float32)?)?.into())
    }

    #[napi(factory)]
    pub fn ones(shape: Vec<f64>, dtype: Option<String>) -> js::Result<MxArray> {
        Ok(ops::ones(&integers("shape", &shape)?, dtype_or(dtype, Dtype::Float32)?)?.into())
    }

    #[napi(factory)]
    pub fn full(shape: Vec<f64>, value: f64, dtype: Option<String>) -> js::Result<MxArray> {
        Ok(ops::full(&integers("shape", &shape)?, value, dtype_or(dtype, Dtype::Float32)?)?.into())
    }

    /// `[start, stop)` in steps of `step` (1).
    #[napi(factory)]
    pub fn arange(start: f64, stop: f64, step: Option<f64>, dtype: Option<String>) -> js::Result<MxArray> {
        Ok(ops::arange(start, stop, step.unwrap_or(1.), dtype_or(dtype, Dtype::Int32)?)?.into())
    }

    /// Normal numbers from a seed: the same seed gives the same numbers.
    #[napi(factory)]
    pub fn random_normal(shape: Vec<f64>, seed: f64, dtype: Option<String>) -> js::Result<MxArray> {
        let dtype = dtype_or(dtype, Dtype::Float32)?;
        Ok(random::normal(0., 1., &integers("shape", &shape)?, dtype, &random::key(seed as u64)?)?.into())
    }

    /// Uniform numbers in `[low, high)` from a seed.
    #[napi(factory)]
    pub fn random_uniform(shape: Vec<f64>, seed: f64, low: Option<f64>, high: Option<f64>) -> js::Result<MxArray> {
        let (low, high) = (low.unwrap_or(0.) as f32, high.unwrap_or(1.) as f32);
        Ok(random::uniform(low, high, &integers("shape", &shape)?, Dtype::Float32, &random::key(seed as u64)?)?.into())
    }

    #[napi]
    pub fn concatenate(arrays: Vec<ClassInstance<MxArray>>, axis: Option<f64>) -> js::Result<MxArray> {
        let arrays = arrays.iter().map(|array| array.get()).collect::<Result<Vec<_>>>()?;
        Ok(ops::concatenate(&arrays, integer("axis", axis.unwrap_or(0.))?)?.into())
    }

    #[napi]
    pub fn stack(arrays: Vec<ClassInstance<MxArray>>, axis: Option<f64>) -> js::Result<MxArray> {
        let arrays = arrays.iter().map(|array| array.get()).collect::<Result<Vec<_>>>()?;
        Ok(ops::stack(&arrays, integer("axis", axis.unwrap_or(0.))?)?.into())
    }

    /// `a` where `condition` holds, else `b`.
    #[napi(js_name = "where")]
    pub fn where_(condition: &MxArray, a: &MxArray, b: &MxArray) -> js::Result<MxArray> {
        Ok(ops::where_(condition.get()?, a.get()?, b.get()?)?.into())
    }

    #[napi(getter)]
    pub fn shape(&self) -> js::Result<Vec<i32>> {
        Ok(self.get()?.shape().to_vec())
    }

    #[napi(getter)]
    pub fn ndim(&self) -> js::Result<u32> {
        Ok(self.get()?.ndim() as u32)
    }

    /// The number of elements.
    #[napi(getter)]
    pub fn size(&self) -> js::Result<f64> {
        Ok(self.get()?.size() as f64)
    }

    #[napi(getter)]
    pub fn nbytes(&self) -> js::Result<f64> {
        Ok(self.get()?.nbytes() as f64)
    }

    /// For example `float32`.
    #[napi(getter)]
    pub fn dtype(&self) -> js::Result<String> {
        Ok(self.get()?.dtype().name().to_string())
    }

    #[napi(getter)]
    pub fn disposed(&self) -> bool {
        self.inner.is_none()
    }

    /// Matrix product of the last two axes.
    #[napi]
    pub fn matmul(&self, other: &MxArray) -> js::Result<MxArray> {
        Ok(self.get()?.matmul(other.get()?)?.into())
    }

    #[napi]
    pub fn astype(&self, dtype: String) -> js::Result<MxArray> {
        Ok(self.get()?.astype(Dtype::parse(&dtype)?)?.into())
    }

    /// One size may be -1: it takes what the others leave.
    #[napi]
    pub fn reshape(&self, shape: Vec<f64>) -> js::Result<MxArray> {
        Ok(self.get()?.reshape(&integers("shape", &shape)?)?.into())
    }

    /// All axes reversed, or in the order given.
    #[napi]
    pub fn transpose(&self, axes: Option<Vec<f64>>) -> js::Result<MxArray> {
        let array = self.get()?;
        Ok(match axes {
            Some(axes) => array.transpose(&integers("axes", &axes)?)?,
            None => array.t()?,
        }
        .into())
    }

    #[napi]
    pub fn expand_dims(&self, axes: Either<f64, Vec<f64>>) -> js::Result<MxArray> {
        let array = self.get()?;
        Ok(array.expand_dims(&axes_of(array, Some(axes))?)?.into())
    }

    #[napi]
    pub fn squeeze(&self, axes: Either<f64, Vec<f64>>) -> js::Result<MxArray> {
        let array = self.get()?;
        Ok(array.squeeze(&axes_of(array, Some(axes))?)?.into())
    }

    #[napi]
    pub fn broadcast_to(&self, shape: Vec<f64>) -> js::Result<MxArray> {
        Ok(self.get()?.broadcast_to(&integers("shape", &shape)?)?.into())
    }

    /// `[start, stop)` on every axis.
    #[napi]
    pub fn slice(&self, start: Vec<f64>, stop: Vec<f64>) -> js::Result<MxArray> {
        Ok(self.get()?.slice(&integers("start", &start)?, &integers("stop", &stop)?)?.into())
    }

    /// Slices at `indices` along an axis. Indices outside the axis are an error.
    #[napi]
    pub fn take(&self, indices: Vec<f64>, axis: Option<f64>) -> js::Result<MxArray> {
        let array = self.get()?;
        let axis = integer("axis", axis.unwrap_or(0.))?;
        let ndim = array.ndim() as i32;
        if axis < -ndim || axis >= ndim {
            return Err(Error::Shape(format!("axis {axis} is not one of shape {:?}", array.shape())).into());
        }
        let size = array.dim(axis);
        let indices = integers("indices", &indices)?;
        if let Some(index) = indices.iter().find(|&&index| index < -size || index >= size) {
            return Err(Error::Shape(format!("index {index} is outside axis {axis} of size {size}")).into());
        }
        let indices = Array::from_slice(&indices, &[indices.len() as i32])?;
        Ok(array.take(&indices, axis)?.into())
    }

    #[napi]
    pub fn take_along_axis(&self, indices: &MxArray, axis: f64) -> js::Result<MxArray> {
        Ok(self.get()?.take_along_axis(indices.get()?, integer("axis", axis)?)?.into())
    }

    #[napi]
    pub fn softmax(&self, axis: Option<f64>) -> js::Result<MxArray> {
        Ok(self.get()?.softmax(integer("axis", axis.unwrap_or(-1.))?)?.into())
    }

    #[napi]
    pub fn log_softmax(&self, axis: Option<f64>) -> js::Result<MxArray> {
        Ok(self.get()?.log_softmax(integer("axis", axis.unwrap_or(-1.))?)?.into())
    }

    #[napi]
    pub fn argmax(&self, axis: Option<f64>, keepdims: Option<bool>) -> js::Result<MxArray> {
        Ok(self.get()?.argmax(integer("axis", axis.unwrap_or(-1.))?, keepdims.unwrap_or(false))?.into())
    }

    #[napi]
    pub fn argmin(&self, axis: Option<f64>, keepdims: Option<bool>) -> js::Result<MxArray> {
        Ok(self.get()?.argmin(integer("axis", axis.unwrap_or(-1.))?, keepdims.unwrap_or(false))?.into())
    }

    #[napi]
    pub fn sort(&self, axis: Option<f64>) -> js::Result<MxArray> {
        Ok(self.get()?.sort(integer("axis", axis.unwrap_or(-1.))?)?.into())
    }

    #[napi]
    pub fn argsort(&self, axis: Option<f64>) -> js::Result<MxArray> {
        Ok(self.get()?.argsort(integer("axis", axis.unwrap_or(-1.))?)?.into())
    }

    #[napi]
    pub fn cumsum(&self, axis: f64) -> js::Result<MxArray> {
        Ok(self.get()?.cumsum(integer("axis", axis)?, false, true)?.into())
    }

    /// Runs the graph behind this array and waits for it.
    #[napi]
    pub fn eval(&self) -> js::Result<()> {
        Ok(self.get()?.eval()?)
    }

    /// Runs the graph behind this array without blocking the event loop.
    #[napi(ts_return_type = "Promise<void>")]
    pub fn eval_async<'env>(&self, env: &'env Env) -> js::Result<Object<'env>> {
        let array = self.get()?.clone();
        promise::once(env, move || mlx::eval(&[array]), |()| ())
    }

    /// All values as float32, row-major; waits for the graph.
    #[napi]
    pub fn to_float32(&self) -> js::Result<Float32Array> {
        Ok(self.get()?.to_f32()?.into())
    }

    /// All values as int32, row-major; waits for the graph.
    #[napi]
    pub fn to_int32(&self) -> js::Result<Int32Array> {
        Ok(self.get()?.to_i32()?.into())
    }

    /// The only value.
    #[napi]
    pub fn item(&self) -> js::Result<f64> {
        Ok(self.get()?.item()? as f64)
    }

    /// Frees the array now instead of when the garbage collector comes by. Using it afterwards is `ERR_MLX_DISPOSED`.
    #[napi]
    pub fn dispose(&mut self) {
        self.inner = None;
        super::account(-self.accounted);
        self.accounted = 0;
    }
}
