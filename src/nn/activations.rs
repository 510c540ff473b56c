//! The activation functions of `mlx.nn`: the same names, defaults and numbers.

use crate::mlx::{Array, Dtype, Error, Result, kernels, ops};

/// A scalar in the dtype of `x`, whole numbers for an integer `x`.
fn constant(x: &Array, value: f64) -> Result<Array> {
    let whole = !x.dtype().is_float() && x.dtype() != Dtype::Complex64 && value.fract() == 0.0;
    let dtype = if x.dtype().is_float() {
        x.dtype()
    } else if whole {
        Dtype::Int32
    } else {
        Dtype::Float32
    };
    Array::scalar_of(value, dtype)
}

/// `max(x, 0)`
pub fn relu(x: &Array) -> Result<Array> {
    x.maximum(&constant(x, 0.0)?)
}

/// `max(x, 0)²`
pub fn relu2(x: &Array) -> Result<Array> {
    relu(x)?.square()
}

/// `min(max(x, 0), 6)`
pub fn relu6(x: &Array) -> Result<Array> {
    relu(x)?.minimum(&constant(x, 6.0)?)
}

/// `x` where positive, else `negative_slope · x`.
pub fn leaky_relu(x: &Array, negative_slope: f32) -> Result<Array> {
    ops::where_(&x.greater(&constant(x, 0.0)?)?, x, &x.multiply_scalar(negative_slope)?)
}

/// `x` where not positive, else 0. A minimum would have no gradient at 0 itself.
fn negative_part(x: &Array) -> Result<Array> {
    let positive = x.greater_scalar(0.0)?;
    ops::where_(&positive, &Array::scalar_of(0.0, if x.dtype().is_float() { x.dtype() } else { Dtype::Float32 })?, x)
}

/// `x` where positive, else `alpha · (e^x - 1)`, whose overflow on the other side would make the gradient NaN.
pub fn elu(x: &Array, alpha: f32) -> Result<Array> {
    ops::where_(&x.greater_scalar(0.0)?, x, &negative_part(x)?.expm1()?.multiply_scalar(alpha)?)
}

/// `max(x, 0) + min(0, alpha · (e^(x / alpha) - 1))`
pub fn celu(x: &Array, alpha: f32) -> Result<Array> {
    if alpha == 0.0 {
        return Err(Error::Argument("celu needs an alpha that is not 0".into()));
    }
    let negative = negative_part(x)?.divide_scalar(alpha)?.expm1()?.multiply_scalar(alpha)?;
    x.maximum_scalar(0.0)?.add(&negative)
}

/// ELU with the constants of self-normalising networks (Klambauer et al. 2017, arXiv:1706.02515), rounded as in `mlx.nn`.
pub fn selu(x: &Array) -> Result<Array> {
    elu(x, 1.67326)?.multiply_scalar(1.0507)
}

/// `max(0, x) + alpha · min(0, x)` with a learned `alpha`, one number or one per feature.
pub fn prelu(x: &Array, alpha: &Array) -> Result<Array> {
    x.maximum_scalar(0.0)?.add(&alpha.multiply(&x.minimum_scalar(0.0)?)?)
}

/// How closely `gelu` follows the error function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GeluApprox {
    /// `x · Φ(x)`
    None,
    /// Through tanh.
    Tanh,
    /// `x · sigmoid(1.702 x)`
    Fast,
}

impl GeluApprox {
    /// The names of `mlx.nn.GELU`; `precise` is another name of `tanh`.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "none" => Ok(GeluApprox::None),
            "precise" | "tanh" => Ok(GeluApprox::Tanh),
            "fast" => Ok(GeluApprox::Fast),
            _ => Err(Error::Argument(format!("the approximation of gelu must be none, precise, tanh or fast, not '{name}'"))),
        }
    }
}

/// Gaussian error linear unit (Hendrycks and Gimpel 2016, arXiv:1606.08415).
pub fn gelu(x: &Array, approx: GeluApprox) -> Result<Array> {
    match approx {
        GeluApprox::None => {
            let bound = x.multiply_scalar(std::f32::consts::FRAC_1_SQRT_2)?.erf()?.add_scalar(1.0)?;
            x.multiply(&bound)?.multiply_scalar(0.5)
        }
        GeluApprox::Tanh => {
            let cubic = x.square()?.multiply(x)?.multiply_scalar(0.044715)?.add(x)?;
            let root = (2.0 / std::f64::consts::PI).sqrt() as f32;
            x.multiply_scalar(0.5)?.multiply(&cubic.multiply_scalar(root)?.tanh()?.add_scalar(1.0)?)
        }
        GeluApprox::Fast => x.multiply(&x.multiply_scalar(1.702)?.sigmoid()?),
    }
}

/// `log(1 + e^x)`
pub fn softplus(x: &Array) -> Result<Array> {
    x.logaddexp(&constant(x, 0.0)?)
}

/// `log(sigmoid(x))`
pub fn log_sigmoid(x: &Array) -> Result<Array> {
    softplus(&x.negative()?)?.negative()
}

/// `x / (1 + |x|)`
pub fn softsign(x: &Array) -> Result<Array> {
    x.divide(&x.abs()?.add_scalar(1.0)?)
}

/// Softmax of `-x`.
pub fn softmin(x: &Array, axis: i32) -> Result<Array> {
    x.negative()?.softmax(axis)
}

/// `x - log Σ e^x` over an axis. The maximum goes first: beside a large one the logarithm would be lost.
pub fn log_softmax(x: &Array, axis: i32) -> Result<Array> {
    let shifted = x.subtract(&x.max(&[axis], true)?.stop_gradient()?)?;
    shifted.subtract(&shifted.logsumexp(&[axis], true)?)
}

/// `x · tanh(softplus(x))` (Misra 2019, arXiv:1908.08681).
pub fn mish(x: &Array) -> Result<Array> {
    x.multiply(&softplus(x)?.tanh()?)
}

/// `x · min(max(x + 3, 0), 6) / 6`
pub fn hardswish(x: &Array) -> Result<Array> {
    x.multiply(&x.add_scalar(3.0)?.clip(Some(0.0), Some(6.0))?)?.divide_scalar(6.0)
}

/// `min(max(x, low), high)`
pub fn hard_tanh(x: &Array, low: f32, high: f32) -> Result<Array> {
    x.clip(Some(low), Some(high))
}

/// `x` where `|x| > lambda`, else 0.
pub fn hard_shrink(x: &Array, lambda: f32) -> Result<Array> {
    ops::where_(&x.abs()?.greater_scalar(lambda)?, x, &constant(x, 0.0)?)
}

/// `x` moved by `lambda` towards 0, and 0 in between.
pub fn softshrink(x: &Array, lambda: f32) -> Result<Array> {
    let moved = x.subtract(&x.sign()?.multiply_scalar(lambda)?)?;
    ops::where_(&x.abs()?.greater_scalar(lambda)?, &moved, &constant(x, 0.0)?)
}

/// 1 where `x >= threshold`, else 0, as int32.
pub fn step(x: &Array, threshold: f32) -> Result<Array> {
    let threshold = constant(x, f64::from(threshold))?;
    ops::where_(&x.greater_equal(&threshold)?, &Array::scalar_i32(1), &Array::scalar_i32(0))
}

/// The first half of an axis times the sigmoid of the second (Dauphin et al. 2016, arXiv:1612.08083).
pub fn glu(x: &Array, axis: i32) -> Result<Array> {
    let ndim = x.ndim() as i32;
    if axis < -ndim || axis >= ndim || x.dim(axis) % 2 != 0 {
        return Err(Error::Shape(format!("glu halves an axis of even size; axis {axis} of shape {:?} is not one", x.shape())));
    }
    let halves = x.split(2, axis)?;
    halves[0].multiply(&halves[1].sigmoid()?)
}

/// `silu(gate) · x` (Shazeer 2020, arXiv:2002.05202).
pub fn swiglu(gate: &Array, x: &Array) -> Result<Array> {
    kernels::swiglu(gate, x)
}
