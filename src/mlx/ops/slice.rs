//! Slices with strides, their updates, and padding.

use mlx_sys as sys;

use super::{arange, check, where_};
use crate::mlx::array::{element_count, output};
use crate::mlx::{Array, Dtype, Error, Result, stream};

/// A slice in the form that MLX computes without leaving the array.
struct Bounds {
    start: Vec<i32>,
    stop: Vec<i32>,
    strides: Vec<i32>,
    shape: Vec<i32>,
}

impl Bounds {
    /// Python's rules: negative bounds count from the end, what lies outside is cut off. A stop of `-size - 1` and less stands for
    /// the place before the first element.
    fn new(op: &str, array: &Array, start: &[i32], stop: &[i32], strides: &[i32]) -> Result<Bounds> {
        let ndim = array.ndim();
        if [start.len(), stop.len(), strides.len()].iter().any(|&length| length != ndim) {
            return Err(Error::Shape(format!(
                "{op} of a {ndim}-dimensional array needs {ndim} starts, stops and strides; got {}, {} and {}",
                start.len(),
                stop.len(),
                strides.len()
            )));
        }
        let mut bounds = Bounds {
            start: Vec::with_capacity(ndim),
            stop: Vec::with_capacity(ndim),
            strides: Vec::with_capacity(ndim),
            shape: Vec::with_capacity(ndim),
        };
        for (place, &size) in array.shape().iter().enumerate() {
            let stride = strides[place].clamp(-size.max(1), size.max(1));
            if stride == 0 {
                return Err(Error::Argument(format!("{op}: the stride of axis {place} is 0")));
            }
            let wrap = |bound: i32| if bound < 0 { i64::from(bound) + i64::from(size) } else { i64::from(bound) };
            let (low, high) = if stride > 0 { (0, i64::from(size)) } else { (-1, i64::from(size) - 1) };
            let (first, last) = (wrap(start[place]).clamp(low, high) as i32, wrap(stop[place]).clamp(low, high) as i32);
            let reach = if stride > 0 { last - first } else { first - last };
            let count = if reach > 0 { (reach + stride.abs() - 1) / stride.abs() } else { 0 };
            let (first, last) = match (count, last) {
                (0, _) => (0, 0),
                (_, -1) => (first, -size - 1),
                _ => (first, last),
            };
            bounds.start.push(first);
            bounds.stop.push(last);
            bounds.strides.push(if count == 0 { 1 } else { stride });
            bounds.shape.push(count);
        }
        Ok(bounds)
    }
}

macro_rules! slice_updates {
    ($($(#[$doc:meta])* $name:ident $raw:ident),* $(,)?) => {
        impl Array { $(
            $(#[$doc])*
            pub fn $name(&self, update: &Array, start: &[i32], stop: &[i32], strides: &[i32]) -> Result<Array> {
                let bounds = Bounds::new(stringify!($name), self, start, stop, strides)?;
                if !check::broadcasts_to(update.shape(), &bounds.shape) {
                    return Err(Error::Shape(format!(
                        "{}: an update of shape {:?} does not broadcast to the slice {:?}",
                        stringify!($name), update.shape(), bounds.shape
                    )));
                }
                if bounds.shape.contains(&0) {
                    return Ok(self.clone());
                }
                let ndim = self.ndim();
                // SAFETY: the lists live during the call and have the array's rank.
                output(|result| unsafe {
                    sys::$raw(
                        result, self.0, update.0, bounds.start.as_ptr(), ndim, bounds.stop.as_ptr(), ndim,
                        bounds.strides.as_ptr(), ndim, stream::current(),
                    )
                })
            }
        )* }
    };
}

slice_updates! {
    /// A copy with a slice replaced by `update`.
    slice_update_strided mlx_slice_update,
    /// A copy with `update` added to a slice.
    slice_update_add mlx_slice_update_add,
    /// A copy with the larger of a slice and `update`.
    slice_update_max mlx_slice_update_max,
    /// A copy with the smaller of a slice and `update`.
    slice_update_min mlx_slice_update_min,
    /// A copy with a slice multiplied by `update`.
    slice_update_prod mlx_slice_update_prod,
}

impl Array {
    /// `[start, stop)` on every axis.
    pub fn slice(&self, start: &[i32], stop: &[i32]) -> Result<Array> {
        self.slice_strided(start, stop, &vec![1; start.len()])
    }

    /// `start`, `start + stride` … before `stop` on every axis. Bounds follow Python's rules; to run back to the first element
    /// the stop is `-size - 1`.
    pub fn slice_strided(&self, start: &[i32], stop: &[i32], strides: &[i32]) -> Result<Array> {
        let bounds = Bounds::new("slice", self, start, stop, strides)?;
        let ndim = self.ndim();
        // SAFETY: the lists live during the call and have the array's rank.
        output(|result| unsafe {
            sys::mlx_slice(
                result,
                self.0,
                bounds.start.as_ptr(),
                ndim,
                bounds.stop.as_ptr(),
                ndim,
                bounds.strides.as_ptr(),
                ndim,
                stream::current(),
            )
        })
    }

    /// `[start, stop)` on one axis, everything on the others.
    pub fn slice_axis(&self, axis: i32, start: i32, stop: i32) -> Result<Array> {
        let place = check::axis("slice", axis, self.ndim())?;
        let mut starts = vec![0; self.ndim()];
        let mut stops = self.shape().to_vec();
        starts[place] = start;
        stops[place] = stop;
        self.slice(&starts, &stops)
    }

    /// A copy with `[start, stop)` replaced by `update`. MLX writes in place when nobody else holds the array.
    pub fn slice_update(&self, update: &Array, start: &[i32], stop: &[i32]) -> Result<Array> {
        self.slice_update_strided(update, start, stop, &vec![1; start.len()])
    }

    /// A start per axis for a dynamic slice of `lengths`, moved to where the slice fits.
    fn bounded_start(&self, op: &str, start: &Array, axes: &[i32], lengths: &[i32]) -> Result<Array> {
        let places = check::axes(op, axes, self.ndim())?;
        check::integer(op, "start", start)?;
        if start.ndim() > 1 || start.size() != axes.len() {
            let shape = start.shape();
            return Err(Error::Shape(format!(
                "{op}: a start of shape {shape:?} does not name one place for each of axes {axes:?}"
            )));
        }
        let limits: Vec<i32> = places.iter().map(|&place| self.shape()[place] - lengths[place]).collect();
        let limits = Array::from_slice(&limits, &[limits.len() as i32])?;
        let zero = Array::scalar_of(0., start.dtype())?;
        // The limits fit into int32, so do the starts then.
        let wide = start.reshape(&[axes.len() as i32])?.maximum(&zero)?;
        let fits = wide.less_equal(&limits)?;
        where_(&fits, &wide.astype(Dtype::Int32)?, &limits)
    }

    /// A slice of `lengths` whose place on `axes` is an array, int `[axes]`; it begins at 0 on the other axes. A start from which
    /// the slice would leave the array moves to the nearest one that fits.
    pub fn slice_dynamic(&self, start: &Array, axes: &[i32], lengths: &[i32]) -> Result<Array> {
        check::length("slice_dynamic", "lengths", lengths.len(), self.ndim())?;
        if let Some((length, size)) = lengths.iter().zip(self.shape()).find(|&(&length, &size)| length < 0 || length > size) {
            return Err(Error::Shape(format!("slice_dynamic: a slice of {length} does not fit an axis of size {size}")));
        }
        let start = self.bounded_start("slice_dynamic", start, axes, lengths)?;
        // SAFETY: the lists live during the call.
        output(|result| unsafe {
            sys::mlx_slice_dynamic(
                result,
                self.0,
                start.0,
                axes.as_ptr(),
                axes.len(),
                lengths.as_ptr(),
                lengths.len(),
                stream::current(),
            )
        })
    }

    /// A copy with `update`, of this array's rank, written at a place that is an array; see `slice_dynamic`.
    pub fn slice_update_dynamic(&self, update: &Array, start: &Array, axes: &[i32]) -> Result<Array> {
        let (shape, given) = (self.shape(), update.shape());
        if given.len() != shape.len() || given.iter().zip(shape).any(|(given, size)| given > size) {
            return Err(Error::Shape(format!("slice_update_dynamic: an update of shape {given:?} does not fit into {shape:?}")));
        }
        let start = self.bounded_start("slice_update_dynamic", start, axes, given)?;
        if update.size() == 0 {
            return Ok(self.clone());
        }
        // SAFETY: the axes live during the call.
        output(|result| unsafe {
            sys::mlx_slice_update_dynamic(result, self.0, update.0, start.0, axes.as_ptr(), axes.len(), stream::current())
        })
    }

    /// Pads each axis with `low` and `high` elements of `value`.
    pub fn pad(&self, low: &[i32], high: &[i32], value: f32) -> Result<Array> {
        self.pad_with(low, high, &Array::scalar_of(f64::from(value), self.dtype())?, "constant")
    }

    /// Pads each axis with `low` and `high` elements: of `value` in mode `constant`, of the border in mode `edge`, of what lies inside
    /// mirrored at the border element (`reflect`) or beyond it (`symmetric`), over and over where the axis is too short.
    pub fn pad_with(&self, low: &[i32], high: &[i32], value: &Array, mode: &str) -> Result<Array> {
        check::one_of("pad", "mode", mode, &["constant", "edge", "reflect", "symmetric"])?;
        let ndim = self.ndim();
        if low.len() != ndim || high.len() != ndim {
            return Err(Error::Shape(format!("pad of a {ndim}-dimensional array needs {ndim} widths on each side")));
        }
        if value.ndim() > 0 {
            return Err(Error::Shape(format!("pad: the value must be a scalar, got shape {:?}", value.shape())));
        }
        let mut shape = Vec::with_capacity(ndim);
        for (&size, (&low, &high)) in self.shape().iter().zip(low.iter().zip(high)) {
            check::at_least("pad", "a width", low.min(high), 0)?;
            shape.push(check::size("pad", i64::from(size) + i64::from(low) + i64::from(high))?);
        }
        if mode == "reflect" || mode == "symmetric" {
            return self.pad_mirrored(low, &shape, mode == "reflect");
        }
        if self.size() == 0 {
            if mode == "edge" && !shape.contains(&0) {
                return Err(Error::Shape(format!("pad: shape {:?} has no edge", self.shape())));
            }
            return value.astype(self.dtype())?.broadcast_to(&shape);
        }
        if ndim == 0 {
            return Ok(self.clone());
        }
        let axes: Vec<i32> = (0..ndim as i32).collect();
        let mode = if mode == "edge" { c"edge" } else { c"constant" };
        // SAFETY: the lists live during the call.
        output(|result| unsafe {
            sys::mlx_pad(
                result,
                self.0,
                axes.as_ptr(),
                ndim,
                low.as_ptr(),
                ndim,
                high.as_ptr(),
                ndim,
                value.0,
                mode.as_ptr(),
                stream::current(),
            )
        })
    }

    /// To a shape, with `low` elements in front of each axis: the axis runs forth and back, its ends standing once (`reflect`) or twice.
    fn pad_mirrored(&self, low: &[i32], shape: &[i32], reflect: bool) -> Result<Array> {
        element_count(shape)?;
        let mut result = self.clone();
        for (axis, (&size, &padded)) in self.shape().iter().zip(shape).enumerate() {
            if size == padded {
                continue;
            }
            if size == 0 {
                return Err(Error::Shape(format!("pad: axis {axis} of shape {:?} has nothing to mirror", self.shape())));
            }
            let twice = if reflect { 2 * i64::from(size - 1) } else { 2 * i64::from(size) };
            let scalar = |value: i64| Array::scalar_of(value as f64, Dtype::Int64);
            let places = arange(-f64::from(low[axis]), f64::from(padded - low[axis]), 1., Dtype::Int64)?;
            let forth = places.remainder(&scalar(twice.max(1))?)?;
            let back = scalar(if reflect { twice } else { twice - 1 })?.subtract(&forth)?;
            result = result.take(&forth.minimum(&back)?, axis as i32)?;
        }
        Ok(result)
    }
}
