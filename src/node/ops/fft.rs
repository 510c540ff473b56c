//! Discrete Fourier transforms, computed in complex64.

use napi_derive::napi;

use super::{ArrayHandle, integer, integer_or, optional_integer, optional_integers};
use crate::mlx::Result;
use crate::mlx::fft::{self, FftNorm};
use crate::node::error as js;

/// Of the transforms.
#[napi(object, object_to_js = false)]
pub struct FftOptions {
    /// Where the factor `1 / n` goes: on the inverse (`backward`, default), on the transform (`forward`), its root on both (`ortho`).
    #[napi(ts_type = "'backward' | 'ortho' | 'forward'")]
    pub norm: Option<String>,
}

impl FftOptions {
    fn norm(&self) -> Result<FftNorm> {
        FftNorm::parse(self.norm.as_deref().unwrap_or("backward"))
    }
}

macro_rules! one_axis {
    ($($(#[$doc:meta])* $name:ident $of:ident),* $(,)?) => { $(
        $(#[$doc])*
        #[napi(namespace = "fft", catch_unwind)]
        pub fn $name(x: ArrayHandle, n: Option<f64>, axis: Option<f64>, options: FftOptions) -> js::Result<ArrayHandle> {
            let n = optional_integer("n", n)?.map(|n| [n]);
            let axis = integer_or("axis", axis, -1)?;
            Ok(fft::$of(&x, n.as_ref().map(|n| &n[..]), Some(&[axis]), options.norm()?)?.into())
        }
    )* };
}

macro_rules! two_axes {
    ($($(#[$doc:meta])* $name:ident $js:literal $of:ident),* $(,)?) => { $(
        $(#[$doc])*
        #[napi(namespace = "fft", js_name = $js, catch_unwind)]
        pub fn $name(x: ArrayHandle, s: Option<Vec<f64>>, axes: Option<Vec<f64>>, options: FftOptions) -> js::Result<ArrayHandle> {
            let s = optional_integers("s", s)?;
            let axes = optional_integers("axes", axes)?.unwrap_or_else(|| vec![-2, -1]);
            Ok(fft::$of(&x, s.as_deref(), Some(&axes), options.norm()?)?.into())
        }
    )* };
}

macro_rules! any_axes {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => { $(
        $(#[$doc])*
        #[napi(namespace = "fft", catch_unwind)]
        pub fn $name(x: ArrayHandle, s: Option<Vec<f64>>, axes: Option<Vec<f64>>, options: FftOptions) -> js::Result<ArrayHandle> {
            let (s, axes) = (optional_integers("s", s)?, optional_integers("axes", axes)?);
            Ok(fft::$name(&x, s.as_deref(), axes.as_deref(), options.norm()?)?.into())
        }
    )* };
}

one_axis! {
    /// The transform of an axis (-1), cut or padded with zeros to size `n`: complex64.
    fft fftn,
    /// The inverse of `fft`: complex64.
    ifft ifftn,
    /// The transform of real numbers: only the `n / 2 + 1` frequencies from 0 on.
    rfft rfftn,
    /// The inverse of `rfft`: `n` real numbers, `2 (m - 1)` for `m` frequencies unless given.
    irfft irfftn,
}

two_axes! {
    /// The transform over two axes (the last), cut or padded with zeros to sizes `s`: complex64.
    fft2 "fft2" fftn,
    /// The inverse of `fft2`: complex64.
    ifft2 "ifft2" ifftn,
    /// `fft2` of real numbers: of the last axis only the frequencies from 0 on.
    rfft2 "rfft2" rfftn,
    /// The inverse of `rfft2`: real numbers.
    irfft2 "irfft2" irfftn,
}

any_axes! {
    /// The transform over axes (all, or the last `s.length`), cut or padded with zeros to sizes `s`: complex64.
    fftn,
    /// The inverse of `fftn`: complex64.
    ifftn,
    /// `fftn` of real numbers: of the last axis only the frequencies from 0 on.
    rfftn,
    /// The inverse of `rfftn`: real numbers.
    irfftn,
}

/// Frequency 0 to the middle of the axes (all).
#[napi(namespace = "fft", catch_unwind)]
pub fn fftshift(x: ArrayHandle, axes: Option<Vec<f64>>) -> js::Result<ArrayHandle> {
    Ok(fft::fftshift(&x, optional_integers("axes", axes)?.as_deref())?.into())
}

/// The inverse of `fftshift`.
#[napi(namespace = "fft", catch_unwind)]
pub fn ifftshift(x: ArrayHandle, axes: Option<Vec<f64>>) -> js::Result<ArrayHandle> {
    Ok(fft::ifftshift(&x, optional_integers("axes", axes)?.as_deref())?.into())
}

/// The frequencies of `fft` of `n` samples that lie `d` (1) apart, `[n]`.
#[napi(namespace = "fft", catch_unwind)]
pub fn fftfreq(n: f64, d: Option<f64>) -> js::Result<ArrayHandle> {
    Ok(fft::fftfreq(integer("n", n)?, d.unwrap_or(1.))?.into())
}

/// The frequencies of `rfft` of `n` samples that lie `d` (1) apart, `[n / 2 + 1]`.
#[napi(namespace = "fft", catch_unwind)]
pub fn rfftfreq(n: f64, d: Option<f64>) -> js::Result<ArrayHandle> {
    Ok(fft::rfftfreq(integer("n", n)?, d.unwrap_or(1.))?.into())
}
