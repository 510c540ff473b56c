//! GGUF, the format of llama.cpp: metadata of typed values, tensors (many of them quantized in blocks), aligned data.
//!
//! Arrays come out as from Python's `mx.load`. MLX-C's reader is not used: it maps the file for writing, so that a read-only one cannot
//! be loaded, trusts every size in it, and has no list of the metadata. The tests compare with it.

mod header;
mod quants;
mod values;
mod write;

pub(super) use write::{check, header, pad};

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};

use half::f16;

use self::header::{Header, Tensor};
use super::load::{ArrayFile, Buffer, array_from, open_file};
use super::{Metadata, Progress};
use crate::mlx::ops::{Quantization, QuantizationMode, Quantized};
use crate::mlx::{Array, Dtype, Error, Result};

/// How the elements of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Plain(Dtype),
    /// Blocks that MLX computes with as they are: packed integers, and a scale and a bias per 32 of them.
    Packed(quants::Packed),
    /// Blocks that MLX does not compute with; they become float16.
    Expanded(quants::Expanded),
}

/// The number of a plain dtype in the format, for those that it has.
const PLAIN: &[(u32, Dtype)] = &[
    (0, Dtype::Float32),
    (1, Dtype::Float16),
    (24, Dtype::Int8),
    (25, Dtype::Int16),
    (26, Dtype::Int32),
    (27, Dtype::Int64),
    (28, Dtype::Float64),
    (30, Dtype::Bfloat16),
];

impl Kind {
    fn parse(number: u32) -> std::result::Result<Kind, String> {
        if let Some(&(_, dtype)) = PLAIN.iter().find(|(known, _)| *known == number) {
            return Ok(Kind::Plain(dtype));
        }
        if let Some(packed) = quants::Packed::parse(number) {
            return Ok(Kind::Packed(packed));
        }
        quants::Expanded::parse(number).map(Kind::Expanded).ok_or_else(|| {
            format!("has the type {number}, which is not supported; known are F32, F16, BF16, F64, I8 to I64, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q4_K, Q5_K and Q6_K")
        })
    }

    /// Elements and bytes of a block.
    fn block(self) -> (u64, u64) {
        match self {
            Kind::Plain(dtype) => (1, dtype.size() as u64),
            Kind::Packed(packed) => (quants::BLOCK as u64, packed.bytes() as u64),
            Kind::Expanded(expanded) => (expanded.elements() as u64, expanded.bytes() as u64),
        }
    }
}

/// A tensor as a model takes it.
pub enum GgufTensor {
    Plain(Array),
    /// Codes with float16 scales and biases, affine in groups of 32.
    Packed(Quantized, Quantization),
}

/// A file whose header has been read and checked.
pub struct GgufFile {
    path: PathBuf,
    file: File,
    buffer: Buffer,
    tensors: Vec<Tensor>,
    metadata: Vec<(String, Metadata)>,
    next: usize,
}

impl GgufFile {
    pub fn open(path: &Path) -> Result<Self> {
        let (file, size) = open_file(path)?;
        let Header { tensors, metadata } = header::read(&file, size).map_err(|reason| Error::load(path, reason))?;
        let buffer = Buffer::new(tensors.iter().map(|tensor| tensor.length).max().unwrap_or(0));
        Ok(GgufFile { path: path.to_path_buf(), file, buffer, tensors, metadata, next: 0 })
    }

    /// Names, shapes (slowest axis first) and bytes of the tensors, in the file's order.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &[i32], u64)> {
        self.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.shape.as_slice(), tensor.length))
    }

    /// A value of the metadata.
    pub fn value(&self, key: &str) -> Option<&Metadata> {
        self.metadata.iter().find_map(|(name, value)| (name == key).then_some(value))
    }

    /// The next tensor in the file's order, `None` after the last.
    pub fn read_next(&mut self) -> Result<Option<GgufTensor>> {
        let kind = self.tensors.get(self.next).map(|tensor| tensor.kind);
        let Some(arrays) = self.next(&mut Progress::default())? else { return Ok(None) };
        let mut arrays = arrays.into_iter().map(|(_, array)| array);
        let (Some(weight), rest) = (arrays.next(), [arrays.next(), arrays.next()]) else {
            return Err(Error::Internal("a GGUF tensor gave no array".into()));
        };
        Ok(Some(match (kind, rest) {
            (Some(Kind::Packed(packed)), [Some(scales), biases]) => {
                let how = Quantization::new(QuantizationMode::Affine, Some(quants::BLOCK as i32), Some(packed.bits()))?;
                GgufTensor::Packed(Quantized { weight, scales, biases }, how)
            }
            _ => GgufTensor::Plain(weight),
        }))
    }
}

impl ArrayFile for GgufFile {
    fn total(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.length).sum()
    }

    fn next(&mut self, progress: &mut Progress) -> Result<Option<Vec<(String, Array)>>> {
        let Some(tensor) = self.tensors.get(self.next) else { return Ok(None) };
        self.next += 1;
        let what = format!("tensor '{}'", tensor.name);
        self.file
            .seek(SeekFrom::Start(tensor.start))
            .map_err(|error| Error::load(&self.path, format!("cannot read {what}: {error}")))?;
        let read = self.buffer.fill(&mut self.file, tensor.length, progress);
        let bytes = read.map_err(|error| error.at(&self.path, &what))?;
        tensor.arrays(bytes).map(Some)
    }

    fn metadata(&mut self) -> Vec<(String, Metadata)> {
        std::mem::take(&mut self.metadata)
    }
}

impl Tensor {
    /// One array; of packed blocks three: the integers, their scales and their biases.
    fn arrays(&self, bytes: &mut [u8]) -> Result<Vec<(String, Array)>> {
        match self.kind {
            Kind::Plain(dtype) => Ok(vec![(self.name.clone(), array_from(bytes, &self.shape, dtype)?)]),
            Kind::Expanded(expanded) => {
                let values: Vec<f16> = expanded.values(bytes);
                Ok(vec![(self.name.clone(), Array::from_slice(&values, &self.shape)?)])
            }
            Kind::Packed(packed) => {
                let (words, scales, biases) = packed.unpack(bytes);
                let last = |size: i32| -> Vec<i32> {
                    let mut shape = self.shape.clone();
                    if let Some(axis) = shape.last_mut() {
                        *axis = size;
                    }
                    shape
                };
                let row = self.shape.last().copied().unwrap_or(0);
                let (packed_shape, groups) = (last(row * packed.bits() / 32), last(row / quants::BLOCK as i32));
                let prefix = self.name.strip_suffix(".weight").unwrap_or(&self.name);
                Ok(vec![
                    (self.name.clone(), Array::from_bytes(&words, &packed_shape, Dtype::Uint32)?),
                    (format!("{prefix}.scales"), Array::from_slice(&scales, &groups)?),
                    (format!("{prefix}.biases"), Array::from_slice(&biases, &groups)?),
                ])
            }
        }
    }
}
