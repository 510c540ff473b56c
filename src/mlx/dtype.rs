//! Element types.

use half::{bf16, f16};
use mlx_sys as sys;

use super::{Error, Result};

macro_rules! dtypes {
    ($($variant:ident $name:literal $short:literal $raw:ident),* $(,)?) => {
        /// The element type of an array, named as in Python's MLX.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Dtype { $($variant),* }

        impl Dtype {
            pub const ALL: &[Dtype] = &[$(Dtype::$variant),*];

            pub fn name(self) -> &'static str {
                match self { $(Dtype::$variant => $name),* }
            }

            /// The name in a safetensors header, for the dtypes that the format has.
            pub fn safetensors_name(self) -> &'static str {
                match self { $(Dtype::$variant => $short),* }
            }

            pub(crate) fn raw(self) -> sys::mlx_dtype {
                match self { $(Dtype::$variant => sys::$raw),* }
            }

            pub(crate) fn from_raw(raw: sys::mlx_dtype) -> Dtype {
                match raw { $(sys::$raw => Dtype::$variant,)* other => unreachable!("MLX has no dtype {other}") }
            }
        }
    };
}

dtypes! {
    Bool "bool" "BOOL" mlx_dtype__MLX_BOOL,
    Uint8 "uint8" "U8" mlx_dtype__MLX_UINT8,
    Uint16 "uint16" "U16" mlx_dtype__MLX_UINT16,
    Uint32 "uint32" "U32" mlx_dtype__MLX_UINT32,
    Uint64 "uint64" "U64" mlx_dtype__MLX_UINT64,
    Int8 "int8" "I8" mlx_dtype__MLX_INT8,
    Int16 "int16" "I16" mlx_dtype__MLX_INT16,
    Int32 "int32" "I32" mlx_dtype__MLX_INT32,
    Int64 "int64" "I64" mlx_dtype__MLX_INT64,
    Float16 "float16" "F16" mlx_dtype__MLX_FLOAT16,
    Float32 "float32" "F32" mlx_dtype__MLX_FLOAT32,
    Float64 "float64" "F64" mlx_dtype__MLX_FLOAT64,
    Bfloat16 "bfloat16" "BF16" mlx_dtype__MLX_BFLOAT16,
    Complex64 "complex64" "C64" mlx_dtype__MLX_COMPLEX64,
}

impl Dtype {
    pub fn parse(name: &str) -> Result<Dtype> {
        Self::ALL.iter().copied().find(|dtype| dtype.name() == name).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|dtype| dtype.name()).collect();
            Error::Dtype(format!("unknown dtype '{name}'; known are {}", known.join(", ")))
        })
    }

    pub fn from_safetensors(name: &str) -> Option<Dtype> {
        Self::ALL.iter().copied().find(|dtype| dtype.safetensors_name() == name)
    }

    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Dtype::Bool | Dtype::Uint8 | Dtype::Int8 => 1,
            Dtype::Uint16 | Dtype::Int16 | Dtype::Float16 | Dtype::Bfloat16 => 2,
            Dtype::Uint32 | Dtype::Int32 | Dtype::Float32 => 4,
            Dtype::Uint64 | Dtype::Int64 | Dtype::Float64 | Dtype::Complex64 => 8,
        }
    }

    pub fn is_float(self) -> bool {
        matches!(self, Dtype::Float16 | Dtype::Float32 | Dtype::Float64 | Dtype::Bfloat16)
    }

    pub fn is_unsigned(self) -> bool {
        matches!(self, Dtype::Uint8 | Dtype::Uint16 | Dtype::Uint32 | Dtype::Uint64)
    }

    /// Signed or unsigned; bool is none.
    pub fn is_integer(self) -> bool {
        self.is_unsigned() || matches!(self, Dtype::Int8 | Dtype::Int16 | Dtype::Int32 | Dtype::Int64)
    }
}

/// A Rust type whose slices are an array's bytes.
///
/// # Safety
/// `DTYPE` must have exactly the size and layout of the type.
pub unsafe trait Element: Copy + Send + Sync + 'static {
    const DTYPE: Dtype;
}

macro_rules! elements {
    ($($rust:ty => $variant:ident),* $(,)?) => { $(
        // SAFETY: same size and representation.
        unsafe impl Element for $rust { const DTYPE: Dtype = Dtype::$variant; }
    )* };
}

elements! {
    bool => Bool, u8 => Uint8, u16 => Uint16, u32 => Uint32, u64 => Uint64,
    i8 => Int8, i16 => Int16, i32 => Int32, i64 => Int64,
    f16 => Float16, f32 => Float32, f64 => Float64, bf16 => Bfloat16,
}
