//! Discrete Fourier transforms, computed in complex64.

use napi_derive::napi;

use super::{ArrayHandle, integer, integer_or, optional_integer, optional_integers};
use crate::mlx::Result;
use crate::mlx::fft::{self, FftNorm};
use crate::mlx::stft::{self, ShortTime};
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

macro_rules! short_time_options {
    ($(#[$doc:meta])* $name:ident { $($(#[$about:meta])* $field:ident: Option<$type:ty>),* $(,)? }) => {
        $(#[$doc])*
        #[napi(object, object_to_js = false)]
        pub struct $name {
            /// Samples from one stretch to the next, `nFft / 4` unless given.
            pub hop_length: Option<f64>,
            /// Length of the window of ones that is used without a window, `nFft` unless given.
            pub win_length: Option<f64>,
            /// Factors `[at most nFft]` of each stretch, centred in it.
            pub window: Option<ArrayHandle>,
            /// Whether a stretch is centred at its place, for which the signal is padded by `nFft / 2` at both ends (true).
            pub center: Option<bool>,
            $($(#[$about])* pub $field: Option<$type>,)*
            /// As for the other transforms.
            #[napi(ts_type = "'backward' | 'ortho' | 'forward'")]
            pub norm: Option<String>,
            /// Whether only the frequencies from 0 on are there.
            pub onesided: Option<bool>,
        }

        impl $name {
            fn how(&self, n_fft: i32) -> Result<ShortTime> {
                Ok(ShortTime {
                    n_fft,
                    hop_length: optional_integer("hopLength", self.hop_length)?,
                    win_length: optional_integer("winLength", self.win_length)?,
                    window: self.window.as_deref().cloned(),
                    center: self.center.unwrap_or(true),
                    norm: FftNorm::parse(self.norm.as_deref().unwrap_or("backward"))?,
                    onesided: self.onesided,
                })
            }
        }
    };
}

short_time_options! {
    /// Of `stft`.
    StftOptions {
        /// What the signal is padded with: itself in reverse (`reflect`, default), its ends (`edge`) or zeros (`constant`).
        #[napi(ts_type = "'reflect' | 'edge' | 'constant'")]
        pad_mode: Option<String>,
    }
}

short_time_options! {
    /// Of `istft`; as for `stft`, but that `onesided` is true unless told.
    IstftOptions {
        /// The result is cut, or padded with zeros, to this many samples.
        length: Option<f64>,
    }
}

/// The short-time transform: of overlapping stretches of `nFft` (2048) samples of the last axis, complex64 `[.., frequencies, stretches]`.
#[napi(namespace = "fft", catch_unwind)]
pub fn stft(x: ArrayHandle, n_fft: Option<f64>, options: StftOptions) -> js::Result<ArrayHandle> {
    let how = options.how(integer_or("nFft", n_fft, 2048)?)?;
    Ok(stft::stft(&x, &how, options.pad_mode.as_deref().unwrap_or("reflect"))?.into())
}

/// The inverse of `stft`: `[.., frequencies, stretches]` to float32 `[.., samples]`. `nFft` is `2 (frequencies - 1)` (all frequencies where these are
/// not one-sided) unless given.
#[napi(namespace = "fft", catch_unwind)]
pub fn istft(x: ArrayHandle, n_fft: Option<f64>, options: IstftOptions) -> js::Result<ArrayHandle> {
    let frequencies = if x.ndim() < 2 { 1 } else { x.dim(-2) };
    let standard = if options.onesided.unwrap_or(true) { 2 * (frequencies - 1) } else { frequencies };
    let how = options.how(integer_or("nFft", n_fft, standard)?)?;
    Ok(stft::istft(&x, &how, optional_integer("length", options.length)?)?.into())
}
