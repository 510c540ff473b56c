//! Arrays as JavaScript sees them: numbers that name a slot of this thread's table.
//!
//! `MxArray` is a JavaScript class around such a number. A number costs a twentieth of a wrapped object to make, which is most of
//! what a small operation costs. The class registers itself with a `FinalizationRegistry` that releases the slot.
//! A slot's generation is part of its handle, so a stale handle is an error and never another array.

use std::cell::RefCell;
use std::ops::Deref;
use std::rc::Rc;

use napi::bindgen_prelude::{FromNapiValue, ToNapiValue, TypeName, ValidateNapiValue};
use napi::{ValueType, sys};

use super::lifetime::account;
use crate::mlx::{Array, Dtype, Error, Result};

/// What an array costs beside its elements, in bytes: its graph node, shape and handle (measured: 1.2 KB for each of many sums that
/// wait for evaluation, with 0.2 KB in JavaScript's own heap). Reported to the garbage collector, so that many small arrays count too.
const OVERHEAD: usize = 1000;

/// 2^32: handles are `generation * SPAN + slot`, exact in a double.
const SPAN: f64 = 4_294_967_296.0;
/// Generations stay below 2^21 so that a handle stays below 2^53.
const LAST_GENERATION: u32 = (1 << 21) - 1;

#[derive(Default)]
struct Slot {
    generation: u32,
    array: Option<Rc<Array>>,
    /// Bytes reported to the garbage collector, to be taken back exactly once.
    accounted: i64,
}

#[derive(Default)]
struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Slots that are not used again.
    retired: usize,
}

thread_local! {
    static TABLE: RefCell<Table> = RefCell::default();
}

impl Table {
    fn insert(&mut self, array: Rc<Array>) -> f64 {
        let accounted = account((array.nbytes() + OVERHEAD) as i64);
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() as u32 - 1
        });
        let slot = &mut self.slots[index as usize];
        // From 1 on, so that 0 is never a handle.
        slot.generation += 1;
        (slot.array, slot.accounted) = (Some(array), accounted);
        slot.generation as f64 * SPAN + index as f64
    }

    fn slot(&mut self, handle: f64) -> Option<&mut Slot> {
        let (generation, index) = ((handle / SPAN) as u32, (handle % SPAN) as usize);
        self.slots.get_mut(index).filter(|slot| slot.generation == generation && slot.array.is_some())
    }

    fn get(&mut self, handle: f64) -> Option<Rc<Array>> {
        self.slot(handle)?.array.clone()
    }

    fn take(&mut self, handle: f64) -> Option<Rc<Array>> {
        let slot = self.slot(handle)?;
        let array = slot.array.take();
        account(-slot.accounted);
        // A slot that has had all its generations rests: a finalizer that is still to run may hold a handle of any of them.
        if slot.generation < LAST_GENERATION {
            self.free.push((handle % SPAN) as u32);
        } else {
            self.retired += 1;
        }
        array
    }
}

/// An array that came from JavaScript or goes there.
pub struct ArrayHandle(Rc<Array>);

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
        ArrayHandle(Rc::new(array))
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
        let mut handle = 0.0;
        // SAFETY: a value of this environment, in the current scope.
        let status = unsafe { sys::napi_get_value_double(env, value, &mut handle) };
        // No array has the handle 0.
        ArrayHandle::find(if status == sys::Status::napi_ok { handle } else { 0. }).map(ArrayHandle)
    }
}

impl ArrayHandle {
    pub(super) fn find(handle: f64) -> napi::Result<Rc<Array>> {
        TABLE.with_borrow_mut(|table| table.get(handle)).ok_or_else(|| {
            napi::Error::new(
                napi::Status::InvalidArg,
                "this is not the handle of an array of this thread, or the array was disposed",
            )
        })
    }
}

/// The key of a random draw: an array that the TypeScript layer supplies where the caller gives none.
pub struct RandomKey(Rc<Array>);

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
        let handle = TABLE.with_borrow_mut(|table| table.insert(value.0));
        // SAFETY: makes a number in the current scope.
        unsafe { f64::to_napi_value(env, handle) }
    }
}

/// An array whose slot its reader frees: what a JavaScript function hands over for good.
pub struct TakenHandle(Rc<Array>);

impl TakenHandle {
    pub fn into_array(self) -> Array {
        Rc::try_unwrap(self.0).unwrap_or_else(|shared| Array::clone(&shared))
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
        let (array, handle) = unsafe { (ArrayHandle::from_napi_value(env, value)?, f64::from_napi_value(env, value)?) };
        release(handle);
        Ok(TakenHandle(array.0))
    }
}

/// An array, or a number beside one. A number arrives as a negative handle and lies in the scratch memory: that costs nothing, where
/// an array of its own would cost as much as the operation.
pub enum Operand {
    Array(Rc<Array>),
    Number(f64),
}

impl Operand {
    /// As an array on its own: a number takes `dtype`.
    pub fn alone(self, dtype: Dtype) -> Result<Rc<Array>> {
        match self {
            Operand::Array(array) => Ok(array),
            Operand::Number(value) => Ok(Rc::new(Array::scalar_of(value, dtype)?)),
        }
    }

    /// Both sides as arrays. A number takes the dtype of the array beside it where that can hold it, else float32 (int32 for a whole
    /// number beside booleans), so that it does not widen the other side: as Python's MLX treats Python's numbers.
    pub fn pair(a: Operand, b: Operand) -> Result<(Rc<Array>, Rc<Array>)> {
        match (a, b) {
            (Operand::Array(a), Operand::Array(b)) => Ok((a, b)),
            (Operand::Array(a), Operand::Number(b)) => Ok((a.clone(), constant(b, a.dtype())?)),
            (Operand::Number(a), Operand::Array(b)) => Ok((constant(a, b.dtype())?, b)),
            (Operand::Number(_), Operand::Number(_)) => Err(Error::Internal("two numbers arrived where one is an array".into())),
        }
    }
}

/// The last numbers beside arrays: programs repeat their constants, and an array costs more than the operation on it.
const CONSTANTS: usize = 64;

/// The bits of a number, the dtype beside it, and the array.
type Constant = (u64, Dtype, Rc<Array>);

thread_local! {
    static RECENT: RefCell<[Option<Constant>; CONSTANTS]> = const { RefCell::new([const { None }; CONSTANTS]) };
}

/// `weak_scalar`, kept for the next time.
fn constant(value: f64, like: Dtype) -> Result<Rc<Array>> {
    let bits = value.to_bits();
    let place = (bits ^ (bits >> 47) ^ (like as u64).wrapping_mul(7)) as usize % CONSTANTS;
    RECENT.with_borrow_mut(|recent| {
        if let Some((found, dtype, array)) = &recent[place]
            && *found == bits
            && *dtype == like
        {
            return Ok(array.clone());
        }
        let array = Rc::new(weak_scalar(value, like)?);
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
        unsafe {
            let mut handle = 0.0;
            if sys::napi_get_value_double(env, value, &mut handle) == sys::Status::napi_ok && handle < 0.0 {
                return Ok(Operand::Number(scratch::read(-handle as usize - 1)));
            }
            ArrayHandle::from_napi_value(env, value).map(|array| Operand::Array(array.0))
        }
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

/// Frees a slot; a handle that is not in use is left alone.
pub fn release(handle: f64) {
    // Dropped outside the borrow: the end of an array may run arbitrary destructors.
    let array = TABLE.with_borrow_mut(|table| table.take(handle));
    drop(array);
}

/// Frees all of this thread's arrays, when its JavaScript environment ends.
pub fn release_all() {
    let table = TABLE.with_borrow_mut(std::mem::take);
    drop(table);
    RECENT.with_borrow_mut(|recent| recent.fill(None));
}

/// Arrays that this thread's JavaScript holds.
pub fn live() -> usize {
    TABLE.with_borrow(|table| table.slots.len() - table.free.len() - table.retired)
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
