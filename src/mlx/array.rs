//! `Array`: a reference-counted, lazy, n-dimensional array.

use std::ffi::{c_int, c_void};
use std::sync::OnceLock;

use half::{bf16, f16};
use mlx_sys as sys;

use super::error::check;
use super::{Dtype, Element, Error, Result, transforms};
use crate::runtime;

/// A lazy array. Cloning is cheap (a reference); operations build a graph; `eval` and the readers run it on the owner thread.
#[repr(transparent)]
pub struct Array(pub(super) sys::mlx_array);

// SAFETY: the handle is a `shared_ptr` with an atomic count. Any thread may hold, extend and drop graphs while the owner
// evaluates; everything that evaluates or reads goes through the owner thread.
unsafe impl Send for Array {}
unsafe impl Sync for Array {}

impl Drop for Array {
    fn drop(&mut self) {
        // SAFETY: the handle is ours and dropped once.
        unsafe { sys::mlx_array_free(self.0) };
    }
}

impl Clone for Array {
    fn clone(&self) -> Self {
        // SAFETY: a null handle is filled with another reference to the same array.
        unsafe {
            let mut copy = sys::mlx_array_new();
            sys::mlx_array_set(&mut copy, self.0);
            Array(copy)
        }
    }
}

impl std::fmt::Debug for Array {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Array({:?}, {})", self.shape(), self.dtype().name())
    }
}

/// Frees arrays that nobody has looked at for long.
#[cfg(feature = "node")]
pub(crate) fn free_all(mut arrays: Vec<Array>) {
    let count = arrays.len();
    // SAFETY: `Array` is a handle and nothing else; the list forgets them before they are freed.
    unsafe {
        arrays.set_len(0);
        sys::mlxn_free_arrays(arrays.as_ptr().cast(), count);
    }
}

/// Calls an MLX-C function that fills one array.
pub(super) fn output(call: impl FnOnce(*mut sys::mlx_array) -> c_int) -> Result<Array> {
    let mut array = Array::empty();
    check(call(&mut array.0))?;
    check_size(&array)?;
    Ok(array)
}

/// Calls an MLX-C function that fills two arrays.
pub(super) fn output_pair(call: impl FnOnce(*mut sys::mlx_array, *mut sys::mlx_array) -> c_int) -> Result<(Array, Array)> {
    let (mut first, mut second) = (Array::empty(), Array::empty());
    check(call(&mut first.0, &mut second.0))?;
    check_size(&first)?;
    check_size(&second)?;
    Ok((first, second))
}

/// Refuses an array that MLX cannot hold. Where the element count overflows it would allocate what is left of the count and write
/// past it, and its CPU build does not look whether it got the memory that it asked for.
fn check_size(array: &Array) -> Result<()> {
    let bytes = element_count(array.shape())? * array.dtype().size();
    if bytes <= largest_array() {
        return Ok(());
    }
    Err(Error::OutOfMemory(format!(
        "an array of shape {:?} and {} takes {:.1} GB; this machine has {:.1} GB",
        array.shape(),
        array.dtype().name(),
        bytes as f64 / 1e9,
        largest_array() as f64 / 1e9
    )))
}

/// Bytes of the largest array: on a GPU the allocator says itself what it cannot do.
fn largest_array() -> usize {
    static LARGEST: OnceLock<usize> = OnceLock::new();
    *LARGEST.get_or_init(|| {
        if sys::GPU {
            return usize::MAX;
        }
        // SAFETY: queries without arguments of ours.
        let (pages, size) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
        // A machine that does not say gets what a 64-bit address space could.
        usize::try_from(pages).ok().zip(usize::try_from(size).ok()).map_or(1 << 47, |(pages, size)| pages.saturating_mul(size))
    })
}

/// Calls an MLX-C function that fills a list.
pub(super) fn output_list(call: impl FnOnce(*mut sys::mlx_vector_array) -> c_int) -> Result<Vec<Array>> {
    let mut list = ArrayVec::empty();
    check(call(&mut list.0))?;
    list.to_arrays()
}

/// The handle of an array that may be left out.
pub(super) fn optional(array: Option<&Array>) -> sys::mlx_array {
    array.map_or(sys::mlx_array { ctx: std::ptr::null_mut() }, |array| array.0)
}

/// The number of elements of a shape, refusing negative sizes and counts that MLX cannot hold.
pub fn element_count(shape: &[i32]) -> Result<usize> {
    shape
        .iter()
        .try_fold(1usize, |count, &size| usize::try_from(size).ok().and_then(|size| count.checked_mul(size)))
        .filter(|&count| count <= isize::MAX as usize / 8)
        .ok_or_else(|| Error::Shape(format!("shape {shape:?} has a negative size or too many elements")))
}

impl Array {
    /// An empty handle, to be filled by a call.
    pub(super) fn empty() -> Array {
        // SAFETY: makes a new handle.
        Array(unsafe { sys::mlx_array_new() })
    }

    /// Copies `data` into a new array of `shape`.
    pub fn from_slice<T: Element>(data: &[T], shape: &[i32]) -> Result<Array> {
        let count = element_count(shape)?;
        if count != data.len() {
            return Err(Error::Shape(format!("{} values do not fill shape {shape:?} ({count} elements)", data.len())));
        }
        // SAFETY: MLX copies `count` elements of this dtype before returning.
        let handle = unsafe {
            sys::mlx_array_new_data(data.as_ptr().cast::<c_void>(), shape.as_ptr(), shape.len() as c_int, T::DTYPE.raw())
        };
        Self::from_handle(handle)
    }

    /// Copies raw little-endian bytes into a new array.
    pub fn from_bytes(bytes: &[u8], shape: &[i32], dtype: Dtype) -> Result<Array> {
        let expected = element_count(shape)?.checked_mul(dtype.size());
        if expected != Some(bytes.len()) {
            return Err(Error::Shape(format!("{} bytes do not fill shape {shape:?} of {}", bytes.len(), dtype.name())));
        }
        // SAFETY: as in `from_slice`; MLX copies the bytes, whatever their alignment.
        let handle = unsafe {
            sys::mlx_array_new_data(bytes.as_ptr().cast::<c_void>(), shape.as_ptr(), shape.len() as c_int, dtype.raw())
        };
        Self::from_handle(handle)
    }

    /// A float32 scalar.
    pub fn scalar(value: f32) -> Array {
        // SAFETY: makes a new handle.
        Array(unsafe { sys::mlx_array_new_float32(value) })
    }

    /// A 0-dimensional array of `dtype`. Made on the host: a GPU has no float64 to convert from.
    pub fn scalar_of(value: f64, dtype: Dtype) -> Result<Array> {
        fn made<T: Element>(value: T) -> Result<Array> {
            Array::from_slice(&[value], &[])
        }
        match dtype {
            Dtype::Bool => made(value != 0.),
            Dtype::Uint8 => made(value as u8),
            Dtype::Uint16 => made(value as u16),
            Dtype::Uint32 => made(value as u32),
            Dtype::Uint64 => made(value as u64),
            Dtype::Int8 => made(value as i8),
            Dtype::Int16 => made(value as i16),
            Dtype::Int32 => made(value as i32),
            Dtype::Int64 => made(value as i64),
            Dtype::Float16 => made(f16::from_f64(value)),
            Dtype::Bfloat16 => made(bf16::from_f64(value)),
            Dtype::Float32 => made(value as f32),
            Dtype::Float64 => made(value),
            // SAFETY: makes a new handle.
            Dtype::Complex64 => Ok(Array(unsafe { sys::mlx_array_new_complex(value as f32, 0.) })),
        }
    }

    /// An int32 scalar.
    pub fn scalar_i32(value: i32) -> Array {
        // SAFETY: makes a new handle.
        Array(unsafe { sys::mlx_array_new_int(value) })
    }

    fn from_handle(handle: sys::mlx_array) -> Result<Array> {
        if handle.ctx.is_null() {
            check(1)?;
        }
        Ok(Array(handle))
    }

    pub fn shape(&self) -> &[i32] {
        // SAFETY: the pointer is to the array's own shape, which lives and stays as long as `self`.
        unsafe {
            let ndim = sys::mlx_array_ndim(self.0);
            if ndim == 0 { &[] } else { std::slice::from_raw_parts(sys::mlx_array_shape(self.0), ndim) }
        }
    }

    /// The size of one axis; negative axes count from the end. Panics on an axis that is not there.
    pub fn dim(&self, axis: i32) -> i32 {
        let shape = self.shape();
        let index = if axis < 0 { axis + shape.len() as i32 } else { axis };
        shape[index as usize]
    }

    pub fn ndim(&self) -> usize {
        // SAFETY: reads a field.
        unsafe { sys::mlx_array_ndim(self.0) }
    }

    pub fn size(&self) -> usize {
        // SAFETY: reads a field.
        unsafe { sys::mlx_array_size(self.0) }
    }

    pub fn nbytes(&self) -> usize {
        // SAFETY: reads fields.
        unsafe { sys::mlx_array_nbytes(self.0) }
    }

    pub fn dtype(&self) -> Dtype {
        // SAFETY: reads a field.
        Dtype::from_raw(unsafe { sys::mlx_array_dtype(self.0) })
    }

    /// Runs the graph behind this array.
    pub fn eval(&self) -> Result<()> {
        eval(&[self])
    }

    /// All elements in row-major order. The array's dtype must be `T`'s.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        if self.dtype() != T::DTYPE {
            return Err(Error::Dtype(format!("reading {} values from an array of {}", T::DTYPE.name(), self.dtype().name())));
        }
        // SAFETY: an `Element` has exactly the layout of its dtype.
        unsafe { self.read::<T>(self.size()) }
    }

    /// All elements as raw little-endian bytes, in row-major order.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        // SAFETY: any memory can be read as bytes.
        unsafe { self.read::<u8>(self.nbytes()) }
    }

    /// Real and imaginary parts of a complex array, one after the other, in row-major order.
    pub fn to_pairs(&self) -> Result<Vec<f32>> {
        let pairs = self.astype(Dtype::Complex64)?;
        // SAFETY: a complex64 is two float32.
        unsafe { pairs.read::<f32>(2 * pairs.size()) }
    }

    /// Copies the elements as raw little-endian bytes, in row-major order, over as many bytes.
    pub fn read_into(&self, bytes: &mut [u8]) -> Result<()> {
        if bytes.len() != self.nbytes() {
            return Err(Error::Shape(format!("an array of {} bytes cannot be read into {}", self.nbytes(), bytes.len())));
        }
        let count = bytes.len();
        // SAFETY: the elements are that many bytes, and `bytes` is other memory.
        self.with_elements(|data| unsafe { std::ptr::copy_nonoverlapping(data.cast::<u8>(), bytes.as_mut_ptr(), count) })
    }

    /// The first `count` values of type `T` behind the elements in row-major order.
    ///
    /// # Safety
    /// The elements must be `count` values of `T`.
    unsafe fn read<T: Copy + Send>(&self, count: usize) -> Result<Vec<T>> {
        let mut values = Vec::with_capacity(count);
        self.with_elements(|data| {
            // SAFETY: as the caller promises; there is room for them.
            unsafe {
                std::ptr::copy_nonoverlapping(data.cast::<T>(), values.as_mut_ptr(), count);
                values.set_len(count);
            }
        })?;
        Ok(values)
    }

    /// Calls `work` with the place of the elements, computed and in row-major order; not at all where there are none.
    fn with_elements(&self, work: impl FnOnce(*const c_void) + Send) -> Result<()> {
        let call = |array: &Array| {
            if array.size() == 0 {
                return Ok(());
            }
            // SAFETY: evaluated.
            let data = unsafe { data_pointer(array.0, array.dtype()) };
            if data.is_null() {
                return Err(Error::Internal("MLX returned no data for an evaluated array".into()));
            }
            work(data);
            Ok(())
        };
        // What is computed may be read from any thread; on a GPU the driver has to be asked, which is the owner's part. While the owner
        // evaluates it may be computing just this.
        if super::device() == "cpu" && transforms::if_alone(|| self.is_ready()) == Some(true) {
            return call(self);
        }
        runtime::block_on_owner(|| {
            let contiguous = self.contiguous()?;
            contiguous.eval()?;
            call(&contiguous)
        })
    }

    /// Whether the elements are computed. Those of the inputs that a transformation differentiates or compiles are not.
    pub fn is_available(&self) -> bool {
        let mut available = false;
        // SAFETY: fills the flag.
        unsafe { sys::_mlx_array_is_available(&mut available, self.0) == 0 && available }
    }

    /// Whether the elements are computed and lie in row-major order.
    fn is_ready(&self) -> bool {
        let mut contiguous = false;
        // SAFETY: fills the flag, and is asked only of a computed array.
        self.is_available() && unsafe { sys::_mlx_array_is_row_contiguous(&mut contiguous, self.0) == 0 && contiguous }
    }

    /// The array as Python's MLX prints it.
    pub fn text(&self) -> Result<String> {
        runtime::block_on_owner(|| {
            self.eval()?;
            // SAFETY: makes, fills and frees a string of MLX-C's.
            unsafe {
                let mut text = sys::mlx_string_new();
                let status = sys::mlx_array_tostring(&mut text, self.0);
                let copy = if status == 0 {
                    std::ffi::CStr::from_ptr(sys::mlx_string_data(text)).to_string_lossy().into_owned()
                } else {
                    String::new()
                };
                sys::mlx_string_free(text);
                check(status)?;
                Ok(copy)
            }
        })
    }

    /// All elements converted to float32, in row-major order.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        self.astype(Dtype::Float32)?.to_vec()
    }

    /// All elements converted to int32, in row-major order.
    pub fn to_i32(&self) -> Result<Vec<i32>> {
        self.astype(Dtype::Int32)?.to_vec()
    }

    /// The only element, as float32.
    pub fn item(&self) -> Result<f32> {
        match self.to_f32()?.as_slice() {
            [value] => Ok(*value),
            values => Err(Error::Shape(format!("item() needs one element, this array has {}", values.len()))),
        }
    }
}

/// The typed accessors return the same address for every dtype, but on CUDA each also brings the data to the host.
unsafe fn data_pointer(handle: sys::mlx_array, dtype: Dtype) -> *const c_void {
    // SAFETY: the caller evaluated the array; the accessor matches its dtype.
    unsafe {
        match dtype {
            Dtype::Bool => sys::mlx_array_data_bool(handle).cast(),
            Dtype::Uint8 => sys::mlx_array_data_uint8(handle).cast(),
            Dtype::Uint16 => sys::mlx_array_data_uint16(handle).cast(),
            Dtype::Uint32 => sys::mlx_array_data_uint32(handle).cast(),
            Dtype::Uint64 => sys::mlx_array_data_uint64(handle).cast(),
            Dtype::Int8 => sys::mlx_array_data_int8(handle).cast(),
            Dtype::Int16 => sys::mlx_array_data_int16(handle).cast(),
            Dtype::Int32 => sys::mlx_array_data_int32(handle).cast(),
            Dtype::Int64 => sys::mlx_array_data_int64(handle).cast(),
            // Half types have no portable C accessor; the address does not depend on the element type.
            Dtype::Float16 | Dtype::Bfloat16 => sys::mlx_array_data_uint16(handle).cast(),
            Dtype::Float32 => sys::mlx_array_data_float32(handle).cast(),
            Dtype::Float64 => sys::mlx_array_data_float64(handle).cast(),
            Dtype::Complex64 => sys::mlx_array_data_complex64(handle).cast(),
        }
    }
}

/// A list of arrays in MLX-C's form.
pub(super) struct ArrayVec(pub(super) sys::mlx_vector_array);

impl Drop for ArrayVec {
    fn drop(&mut self) {
        // SAFETY: ours, dropped once.
        unsafe { sys::mlx_vector_array_free(self.0) };
    }
}

// SAFETY: as for `Array`.
unsafe impl Send for ArrayVec {}

impl ArrayVec {
    pub fn empty() -> Self {
        // SAFETY: makes a new handle.
        ArrayVec(unsafe { sys::mlx_vector_array_new() })
    }

    pub fn new<A: std::borrow::Borrow<Array>>(arrays: &[A]) -> Self {
        let handles: Vec<sys::mlx_array> = arrays.iter().map(|array| array.borrow().0).collect();
        // SAFETY: MLX copies the references.
        ArrayVec(unsafe { sys::mlx_vector_array_new_data(handles.as_ptr(), handles.len()) })
    }

    pub fn to_arrays(&self) -> Result<Vec<Array>> {
        vector_to_arrays(self.0)
    }
}

/// Copies the references out of a list that somebody else owns.
pub(super) fn vector_to_arrays(vector: sys::mlx_vector_array) -> Result<Vec<Array>> {
    // SAFETY: the index stays below the size.
    let count = unsafe { sys::mlx_vector_array_size(vector) };
    (0..count).map(|index| output(|result| unsafe { sys::mlx_vector_array_get(result, vector, index) })).collect()
}

/// Runs the graphs behind several arrays together.
pub fn eval<A: std::borrow::Borrow<Array>>(arrays: &[A]) -> Result<()> {
    let list = ArrayVec::new(arrays);
    runtime::block_on_owner(move || {
        let list = list;
        // SAFETY: a list of valid arrays, on the owner thread.
        check(transforms::alone(|| transforms::retaining(|| unsafe { sys::mlx_eval(list.0) })))
    })
}

/// Starts the graphs behind several arrays without waiting. Only on the owner thread.
pub fn async_eval<A: std::borrow::Borrow<Array>>(arrays: &[A]) -> Result<()> {
    debug_assert!(runtime::is_owner(), "async_eval belongs to the owner thread");
    let list = ArrayVec::new(arrays);
    // SAFETY: as in `eval`.
    check(transforms::alone(|| transforms::retaining(|| unsafe { sys::mlx_async_eval(list.0) })))
}
