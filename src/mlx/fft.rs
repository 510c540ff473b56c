//! Discrete Fourier transforms. Computed in complex64.

use mlx_sys as sys;

use super::array::output;
use super::ops::check;
use super::{Array, Error, Result, element_count, stream};

/// Where the factor `1 / n` goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FftNorm {
    /// On the inverse.
    Backward,
    /// Its root on both.
    Ortho,
    /// On the transform.
    Forward,
}

impl FftNorm {
    pub fn parse(name: &str) -> Result<FftNorm> {
        check::one_of("fft", "norm", name, &["backward", "ortho", "forward"])?;
        Ok(match name {
            "backward" => Self::Backward,
            "ortho" => Self::Ortho,
            _ => Self::Forward,
        })
    }

    fn raw(self) -> sys::mlx_fft_norm {
        match self {
            Self::Backward => sys::mlx_fft_norm__MLX_FFT_NORM_BACKWARD,
            Self::Ortho => sys::mlx_fft_norm__MLX_FFT_NORM_ORTHO,
            Self::Forward => sys::mlx_fft_norm__MLX_FFT_NORM_FORWARD,
        }
    }
}

/// Sizes and axes of a transform. `half` is set where the last axis of the input holds the non-negative half of a spectrum.
fn plan(op: &str, a: &Array, n: Option<&[i32]>, axes: Option<&[i32]>, half: bool) -> Result<(Vec<i32>, Vec<i32>)> {
    check::min_ndim(op, a, 1)?;
    check::not_empty(op, a)?;
    let ndim = a.ndim() as i32;
    let axes: Vec<i32> = match (axes, n) {
        (Some(axes), _) => axes.to_vec(),
        (None, Some(n)) => (-(n.len() as i32)..0).collect(),
        (None, None) => (0..ndim).collect(),
    };
    let places = check::axes(op, &axes, a.ndim())?;
    let Some(&last) = places.last() else {
        return Err(Error::Argument(format!("{op}: at least one axis is needed")));
    };
    let sizes: Vec<i32> = match n {
        Some(n) => n.to_vec(),
        None if half => {
            let full = |&place: &usize| {
                if place == last { a.shape()[place].saturating_sub(1).saturating_mul(2) } else { a.shape()[place] }
            };
            places.iter().map(full).collect()
        }
        None => places.iter().map(|&place| a.shape()[place]).collect(),
    };
    check::length(op, "sizes", sizes.len(), axes.len())?;
    sizes.iter().try_for_each(|&size| check::at_least(op, "a size", size, 1))?;
    let mut shape = a.shape().to_vec();
    places.iter().zip(&sizes).for_each(|(&place, &size)| shape[place] = size);
    element_count(&shape)?;
    Ok((sizes, axes))
}

macro_rules! transforms {
    ($($(#[$doc:meta])* $name:ident $raw:ident $real:literal $half:literal),* $(,)?) => { $(
        $(#[$doc])*
        ///
        /// Over `axes` (all, or the last `n.len()`), cut or padded with zeros to sizes `n`.
        pub fn $name(a: &Array, n: Option<&[i32]>, axes: Option<&[i32]>, norm: FftNorm) -> Result<Array> {
            if $real && a.dtype() == super::Dtype::Complex64 {
                return Err(Error::Dtype(concat!(stringify!($name), ": the input must be real, got complex64").into()));
            }
            let (n, axes) = plan(stringify!($name), a, n, axes, $half)?;
            // SAFETY: the lists live during the call.
            output(|result| unsafe {
                sys::$raw(result, a.0, n.as_ptr(), n.len(), axes.as_ptr(), axes.len(), norm.raw(), stream::current())
            })
        }
    )* };
}

transforms! {
    /// The transform.
    fftn mlx_fft_fftn false false,
    /// The inverse transform.
    ifftn mlx_fft_ifftn false false,
    /// The transform of real numbers: of the last axis only the `n / 2 + 1` non-negative frequencies.
    rfftn mlx_fft_rfftn true false,
    /// The inverse of `rfftn`: real numbers.
    irfftn mlx_fft_irfftn false true,
}

macro_rules! shifts {
    ($($(#[$doc:meta])* $name:ident $raw:ident),* $(,)?) => { $(
        $(#[$doc])*
        pub fn $name(a: &Array, axes: Option<&[i32]>) -> Result<Array> {
            let every: Vec<i32> = (0..a.ndim() as i32).collect();
            let axes = axes.unwrap_or(&every);
            check::axes(stringify!($name), axes, a.ndim())?;
            if a.size() == 0 || axes.is_empty() {
                return Ok(a.clone());
            }
            // SAFETY: the axes live during the call.
            output(|result| unsafe { sys::$raw(result, a.0, axes.as_ptr(), axes.len(), stream::current()) })
        }
    )* };
}

shifts! {
    /// Frequency 0 to the middle of the axes (all by default).
    fftshift mlx_fft_fftshift,
    /// The inverse of `fftshift`.
    ifftshift mlx_fft_ifftshift,
}

macro_rules! frequencies {
    ($($(#[$doc:meta])* $name:ident $raw:ident),* $(,)?) => { $(
        $(#[$doc])*
        pub fn $name(n: i32, d: f64) -> Result<Array> {
            check::at_least(stringify!($name), "the number of samples", n, 1)?;
            if d == 0. || !d.is_finite() {
                return Err(Error::Argument(format!("{}: the sample spacing must be finite and not 0, got {d}", stringify!($name))));
            }
            // SAFETY: plain numbers.
            output(|result| unsafe { sys::$raw(result, n, d, stream::current()) })
        }
    )* };
}

frequencies! {
    /// The frequencies of a transform of `n` samples that lie `d` apart.
    fftfreq mlx_fft_fftfreq,
    /// The frequencies of a real transform.
    rfftfreq mlx_fft_rfftfreq,
}
