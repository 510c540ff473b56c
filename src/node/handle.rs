//! Arrays as JavaScript sees them: small whole numbers that name a slot of this thread's table.
//!
//! `MxArray` is a JavaScript class around such a number. A number costs a twentieth of a wrapped object to make, which is most of
//! what a small operation costs; one that fits 31 bits is no object of its own in V8's heap either.
//!
//! A wrapper that is registered with a `FinalizationRegistry` keeps its slot until the registry has called: `empty` frees the array and
//! `release` the slot. So a slot is never used again while something may still name it.

use std::cell::RefCell;
use std::ops::Deref;

use napi::bindgen_prelude::{FromNapiValue, ToNapiValue, TypeName, ValidateNapiValue};
use napi::{ValueType, sys};

use super::lifetime::account;
use super::report::Report;
use crate::mlx::{Array, Dtype, Error, Result, free_all};

/// What an array costs beside its elements, in bytes: its graph node, shape and handle (measured: 0.5 KB for each of many `a + b` that wait
/// for evaluation, up to 1.2 KB where the operation adds nodes of its own; with 0.1 KB in JavaScript's own heap). Reported to the garbage
/// collector, so that many small arrays count too; more than they cost would make it run more often than their memory is worth.
const OVERHEAD: usize = 600;

struct Slot {
    array: Option<Array>,
    /// Bytes that count towards what the garbage collector is told, to be taken back exactly once.
    accounted: i64,
    /// Whether no handle names it.
    free: bool,
}

struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Slots with an array.
    live: usize,
    report: Report,
}

thread_local! {
    static TABLE: RefCell<Table> =
        const { RefCell::new(Table { slots: Vec::new(), free: Vec::new(), live: 0, report: Report::NEW }) };
}

impl Table {
    fn insert(&mut self, array: Array) -> i32 {
        let accounted = (array.nbytes() + OVERHEAD) as i64;
        self.report.untold += accounted;
        self.live += 1;
        let slot = Slot { array: Some(array), accounted, free: false };
        if let Some(index) = self.free.pop() {
            self.slots[index as usize] = slot;
            return index as i32 + 1;
        }
        self.slots.push(slot);
        // From 1 on, so that 0 is never a handle. Long before 31 bits run out the memory does.
        i32::try_from(self.slots.len()).expect("two billion arrays")
    }

    fn get(&self, handle: i32) -> Result<&Array> {
        let slot = usize::try_from(handle).ok().and_then(|handle| self.slots.get(handle.wrapping_sub(1)));
        slot.and_then(|slot| slot.array.as_ref())
            .ok_or_else(|| Error::Argument("this is not the handle of an array of this thread, or the array was disposed".into()))
    }

    /// The array of a slot, which is empty then, or free.
    fn take(&mut self, handle: i32, free: bool) -> Option<Array> {
        let index = usize::try_from(handle).ok()?.checked_sub(1)?;
        let slot = self.slots.get_mut(index).filter(|slot| !slot.free)?;
        if free {
            slot.free = true;
            self.free.push(index as u32);
        }
        let array = slot.array.take()?;
        self.report.untold -= slot.accounted;
        self.live -= 1;
        Some(array)
    }
}

/// A new handle.
pub(super) fn insert(array: Array) -> i32 {
    let (handle, due) = TABLE.with_borrow_mut(|table| (table.insert(array), table.report.due()));
    account(due);
    handle
}

fn take(handle: i32, free: bool) {
    let (array, due) = TABLE.with_borrow_mut(|table| (table.take(handle, free), table.report.due()));
    // Dropped outside the borrow: the end of an array may run arbitrary destructors.
    drop(array);
    account(due);
}

/// Frees an array and its slot; a handle that is not in use is left alone.
pub(super) fn release(handle: i32) {
    take(handle, true);
}

/// Frees an array. Its slot stays until `release`.
pub(super) fn empty(handle: i32) {
    take(handle, false);
}

/// `release` of many handles.
pub(super) fn release_all(handles: &[i32]) {
    let (arrays, due) = TABLE.with_borrow_mut(|table| {
        let arrays: Vec<Array> = handles.iter().filter_map(|&handle| table.take(handle, true)).collect();
        (arrays, table.report.due())
    });
    // Outside the borrow, as in `take`.
    free_all(arrays);
    account(due);
}

/// Frees all of this thread's arrays, when its JavaScript environment ends.
pub(super) fn clear() {
    let slots = TABLE.with_borrow_mut(|table| {
        (table.free, table.live, table.report) = (Vec::new(), 0, Report::NEW);
        std::mem::take(&mut table.slots)
    });
    drop(slots);
    RECENT.with_borrow_mut(|recent| recent.fill(None));
}

/// Arrays that this thread's JavaScript holds.
pub(super) fn live() -> usize {
    TABLE.with_borrow(|table| table.live)
}

/// Bytes that the garbage collector of this thread is to be told about, beside those it has been told about.
pub(super) fn untold() -> i64 {
    TABLE.with_borrow(|table| table.report.untold)
}

/// What `operation` makes of an array.
pub(super) fn with(handle: i32, operation: fn(&Array) -> Result<Array>) -> Result<i32> {
    TABLE.with_borrow(|table| operation(table.get(handle)?)).map(insert)
}

/// What `operation` makes of two operands: handles, or where one has a minus the place of a number in the scratch memory.
pub(super) fn with_pair(a: i32, b: i32, operation: fn(&Array, &Array) -> Result<Array>) -> Result<i32> {
    let made = if a > 0 && b > 0 {
        TABLE.with_borrow(|table| operation(table.get(a)?, table.get(b)?))
    } else {
        let (a, b) = Operand::pair(Operand::find(a)?, Operand::find(b)?)?;
        operation(&a, &b)
    };
    made.map(insert)
}

/// A handle as JavaScript gives it; 0, which none has, for anything else.
pub(super) unsafe fn read(env: sys::napi_env, value: sys::napi_value) -> i32 {
    let mut handle = 0;
    // SAFETY: as the caller promises, a value of this environment, in the current scope.
    let status = unsafe { sys::napi_get_value_int32(env, value, &mut handle) };
    if status == sys::Status::napi_ok { handle } else { 0 }
}

/// An array that came from JavaScript or goes there.
pub struct ArrayHandle(Array);

impl Deref for ArrayHandle {
    type Target = Array;

    fn deref(&self) -> &Array {
        &self.0
    }
}

impl std::borrow::Borrow<Array> for ArrayHandle {
    fn borrow(&self) -> &Array {
        &self.0
    }
}

impl From<Array> for ArrayHandle {
    fn from(array: Array) -> Self {
        ArrayHandle(array)
    }
}

impl TypeName for ArrayHandle {
    fn type_name() -> &'static str {
        "ArrayHandle"
    }

    fn value_type() -> ValueType {
        ValueType::Number
    }
}

impl ValidateNapiValue for ArrayHandle {}

impl FromNapiValue for ArrayHandle {
    unsafe fn from_napi_value(env: sys::napi_env, value: sys::napi_value) -> napi::Result<Self> {
        // SAFETY: as the caller promises.
        ArrayHandle::find(unsafe { read(env, value) }).map(ArrayHandle).map_err(refused)
    }
}

impl ArrayHandle {
    pub(super) fn find(handle: i32) -> Result<Array> {
        TABLE.with_borrow(|table| table.get(handle).cloned())
    }
}

pub(super) fn refused(error: Error) -> napi::Error {
    napi::Error::new(napi::Status::InvalidArg, error.to_string())
}

/// The key of a random draw: an array that the TypeScript layer supplies where the caller gives none.
pub struct RandomKey(Array);

impl Deref for RandomKey {
    type Target = Array;

    fn deref(&self) -> &Array {
        &self.0
    }
}

impl TypeName for RandomKey {
    fn type_name() -> &'static str {
        "RandomKey"
    }

    fn value_type() -> ValueType {
        ValueType::Number
    }
}

impl ValidateNapiValue for RandomKey {}

impl FromNapiValue for RandomKey {
    unsafe fn from_napi_value(env: sys::napi_env, value: sys::napi_value) -> napi::Result<Self> {
        // SAFETY: as the caller promises.
        unsafe { ArrayHandle::from_napi_value(env, value) }.map(|array| RandomKey(array.0))
    }
}

impl ToNapiValue for ArrayHandle {
    unsafe fn to_napi_value(env: sys::napi_env, value: Self) -> napi::Result<sys::napi_value> {
        // SAFETY: makes a number in the current scope.
        unsafe { i32::to_napi_value(env, insert(value.0)) }
    }
}

/// An array whose slot its reader frees: what a JavaScript function hands over for good.
pub struct TakenHandle(Array);

impl TakenHandle {
    pub fn into_array(self) -> Array {
        self.0
    }
}

impl TypeName for TakenHandle {
    fn type_name() -> &'static str {
        "ArrayHandle"
    }

    fn value_type() -> ValueType {
        ValueType::Number
    }
}

impl ValidateNapiValue for TakenHandle {}

impl FromNapiValue for TakenHandle {
    unsafe fn from_napi_value(env: sys::napi_env, value: sys::napi_value) -> napi::Result<Self> {
        // SAFETY: as the caller promises.
        let handle = unsafe { read(env, value) };
        let array = ArrayHandle::find(handle).map_err(refused)?;
        release(handle);
        Ok(TakenHandle(array))
    }
}

/// An array, or a number beside one. A number arrives as a negative handle and lies in the scratch memory: that costs nothing, where
/// an array of its own would cost as much as the operation.
pub enum Operand {
    Array(Array),
    Number(f64),
}

impl Operand {
    fn find(handle: i32) -> Result<Operand> {
        if handle < 0 {
            return Ok(Operand::Number(scratch::read(-(handle + 1) as usize)));
        }
        ArrayHandle::find(handle).map(Operand::Array)
    }

    /// As an array on its own: a number takes `dtype`.
    pub fn alone(self, dtype: Dtype) -> Result<Array> {
        match self {
            Operand::Array(array) => Ok(array),
            Operand::Number(value) => Array::scalar_of(value, dtype),
        }
    }

    /// Both sides as arrays. A number takes the dtype of the array beside it where that can hold it, else float32 (int32 for a whole
    /// number beside booleans), so that it does not widen the other side: as Python's MLX treats Python's numbers.
    pub fn pair(a: Operand, b: Operand) -> Result<(Array, Array)> {
        match (a, b) {
            (Operand::Array(a), Operand::Array(b)) => Ok((a, b)),
            (Operand::Array(a), Operand::Number(b)) => {
                let b = constant(b, a.dtype())?;
                Ok((a, b))
            }
            (Operand::Number(a), Operand::Array(b)) => Ok((constant(a, b.dtype())?, b)),
            (Operand::Number(_), Operand::Number(_)) => Err(Error::Internal("two numbers arrived where one is an array".into())),
        }
    }
}

/// The last numbers beside arrays: programs repeat their constants, and an array costs more than the operation on it.
const CONSTANTS: usize = 64;

/// The bits of a number, the dtype beside it, and the array.
type Constant = (u64, Dtype, Array);

thread_local! {
    static RECENT: RefCell<[Option<Constant>; CONSTANTS]> = const { RefCell::new([const { None }; CONSTANTS]) };
}

/// `weak_scalar`, kept for the next time.
fn constant(value: f64, like: Dtype) -> Result<Array> {
    let bits = value.to_bits();
    let place = (bits ^ (bits >> 47) ^ (like as u64).wrapping_mul(7)) as usize % CONSTANTS;
    RECENT.with_borrow_mut(|recent| {
        if let Some((found, dtype, array)) = &recent[place]
            && *found == bits
            && *dtype == like
        {
            return Ok(array.clone());
        }
        let array = weak_scalar(value, like)?;
        recent[place] = Some((bits, like, array.clone()));
        Ok(array)
    })
}

/// A number as an array beside one of dtype `like`.
pub fn weak_scalar(value: f64, like: Dtype) -> Result<Array> {
    let dtype = match (like, value.fract() == 0.) {
        (Dtype::Bool, true) => Dtype::Int32,
        (Dtype::Complex64, _) | (_, true) => like,
        (_, false) if like.is_float() => like,
        (_, false) => Dtype::Float32,
    };
    Array::scalar_of(value, dtype)
}

impl TypeName for Operand {
    fn type_name() -> &'static str {
        "Operand"
    }

    fn value_type() -> ValueType {
        ValueType::Number
    }
}

impl ValidateNapiValue for Operand {}

impl FromNapiValue for Operand {
    unsafe fn from_napi_value(env: sys::napi_env, value: sys::napi_value) -> napi::Result<Self> {
        // SAFETY: as the caller promises.
        Operand::find(unsafe { read(env, value) }).map_err(refused)
    }
}

/// Numbers on their way from JavaScript: a few doubles in memory that both sides see.
pub mod scratch {
    use std::cell::Cell;

    use napi::sys;

    const SLOTS: usize = 4;

    thread_local! {
        static MEMORY: Cell<*const f64> = const { Cell::new(std::ptr::null()) };
        static VIEW: Cell<sys::napi_ref> = const { Cell::new(std::ptr::null_mut()) };
    }

    /// NaN where there is no such slot.
    pub(super) fn read(slot: usize) -> f64 {
        let memory = MEMORY.get();
        if memory.is_null() || slot >= SLOTS {
            return f64::NAN;
        }
        // SAFETY: the view is referenced until the environment ends, so its memory stays; only this thread writes it.
        unsafe { memory.add(slot).read_volatile() }
    }

    /// This thread's memory as a JavaScript `Float64Array`, always the same one.
    pub fn view(env: sys::napi_env) -> Option<sys::napi_value> {
        let mut view = std::ptr::null_mut();
        // SAFETY: plain constructors in the current scope; the reference belongs to this environment.
        unsafe {
            if !VIEW.get().is_null() {
                let found = sys::napi_get_reference_value(env, VIEW.get(), &mut view);
                return (found == sys::Status::napi_ok && !view.is_null()).then_some(view);
            }
            let (mut memory, mut buffer, mut reference) = (std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut());
            let made = sys::napi_create_arraybuffer(env, SLOTS * size_of::<f64>(), &mut memory, &mut buffer)
                == sys::Status::napi_ok
                && sys::napi_create_typedarray(env, sys::TypedarrayType::float64_array, SLOTS, buffer, 0, &mut view)
                    == sys::Status::napi_ok
                && sys::napi_create_reference(env, view, 1, &mut reference) == sys::Status::napi_ok;
            if !made {
                return None;
            }
            MEMORY.set(memory.cast());
            VIEW.set(reference);
            Some(view)
        }
    }

    /// Forgets the memory, when the environment ends.
    pub fn forget() {
        MEMORY.set(std::ptr::null());
        VIEW.set(std::ptr::null_mut());
    }
}

/// Sizes, axes and indices arrive as JavaScript numbers: whole and within 32 bits, or an error that shows them.
pub fn integers(what: &str, values: &[f64]) -> Result<Vec<i32>> {
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

pub fn integer(what: &str, value: f64) -> Result<i32> {
    if value.fract() == 0. && (i32::MIN as f64..=i32::MAX as f64).contains(&value) {
        Ok(value as i32)
    } else {
        Err(Error::Argument(format!("{what} must be a whole 32-bit number, got {value}")))
    }
}
