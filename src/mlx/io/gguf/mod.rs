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

use self::header::{Header, Tensor};
use super::load::{ArrayFile, Buffer, array_from, open_file};
use super::{Metadata, Progress};
use crate::mlx::ops::{Quantization, QuantizationMode, Quantized};
use crate::mlx::{Array, Dtype, Element, Error, Result};

/// How the elements of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Plain(Dtype),
    /// Blocks that MLX computes with as they are: packed integers, and a scale and a bias per 32 of them.
    Packed(quants::Packed),
    /// Blocks that become float16, as in Python's `mx.load`, though MLX can compute with some of them.
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
    /// Codes with float16 scales and biases, or float32 ones where a half does not hold them; affine in groups of 32.
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

    /// The next tensor in the file's order, `None` after the last. Unlike the arrays of Python's `mx.load`, tensors of all kinds that MLX
    /// can compute with stay packed.
    pub fn read_next(&mut self) -> Result<Option<GgufTensor>> {
        let Some((tensor, bytes)) = self.read(&mut Progress::default())? else { return Ok(None) };
        let groups = match tensor.kind {
            Kind::Expanded(expanded) => expanded.groups(bytes),
            _ => None,
        };
        let (bits, codes) = match (tensor.kind, groups) {
            (Kind::Packed(packed), _) => (packed.bits(), tensor.packed(packed, bytes)?),
            (_, Some(groups)) => (groups.bits, tensor.quantized(groups.bits, &groups.words, &groups.scales, &groups.biases)?),
            _ => return tensor.whole(bytes).map(GgufTensor::Plain).map(Some),
        };
        let how = Quantization::new(QuantizationMode::Affine, Some(quants::BLOCK as i32), Some(bits))?;
        Ok(Some(GgufTensor::Packed(codes, how)))
    }

    /// The bytes of the next tensor.
    fn read(&mut self, progress: &mut Progress) -> Result<Option<(&Tensor, &mut [u8])>> {
        let Some(tensor) = self.tensors.get(self.next) else { return Ok(None) };
        self.next += 1;
        let what = format!("tensor '{}'", tensor.name);
        self.file
            .seek(SeekFrom::Start(tensor.start))
            .map_err(|error| Error::load(&self.path, format!("cannot read {what}: {error}")))?;
        let read = self.buffer.fill(&mut self.file, tensor.length, progress);
        let bytes = read.map_err(|error| error.at(&self.path, &what))?;
        Ok(Some((tensor, bytes)))
    }
}

impl ArrayFile for GgufFile {
    fn total(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.length).sum()
    }

    fn next(&mut self, progress: &mut Progress) -> Result<Option<Vec<(String, Array)>>> {
        let Some((tensor, bytes)) = self.read(progress)? else { return Ok(None) };
        tensor.arrays(bytes).map(Some)
    }

    fn metadata(&mut self) -> Vec<(String, Metadata)> {
        std::mem::take(&mut self.metadata)
    }
}

impl Tensor {
    /// One array; of packed blocks three: the integers, their scales and their biases.
    fn arrays(&self, bytes: &mut [u8]) -> Result<Vec<(String, Array)>> {
        let Kind::Packed(packed) = self.kind else { return Ok(vec![(self.name.clone(), self.whole(bytes)?)]) };
        let Quantized { weight, scales, biases } = self.packed(packed, bytes)?;
        let prefix = self.name.strip_suffix(".weight").unwrap_or(&self.name);
        let named =
            [(self.name.clone(), Some(weight)), (format!("{prefix}.scales"), Some(scales)), (format!("{prefix}.biases"), biases)];
        Ok(named.into_iter().filter_map(|(name, array)| Some((name, array?))).collect())
    }

    /// The numbers of a tensor that is not packed.
    fn whole(&self, bytes: &mut [u8]) -> Result<Array> {
        match self.kind {
            Kind::Plain(dtype) => array_from(bytes, &self.shape, dtype),
            Kind::Expanded(expanded) => Array::from_slice(&expanded.values(bytes), &self.shape),
            Kind::Packed(_) => Err(Error::Internal(format!("tensor '{}' is packed", self.name))),
        }
    }

    fn packed(&self, packed: quants::Packed, bytes: &[u8]) -> Result<Quantized> {
        let (words, scales, biases) = packed.unpack(bytes);
        self.quantized(packed.bits(), &words, &scales, &biases)
    }

    /// Integers packed as MLX does, with a scale and a bias for each 32.
    fn quantized<T: Element>(&self, bits: i32, words: &[u8], scales: &[T], biases: &[T]) -> Result<Quantized> {
        let last = |size: i32| -> Vec<i32> {
            let mut shape = self.shape.clone();
            if let Some(axis) = shape.last_mut() {
                *axis = size;
            }
            shape
        };
        let row = self.shape.last().copied().unwrap_or(0);
        let (codes, groups) = (last((i64::from(row) * i64::from(bits) / 32) as i32), last(row / quants::BLOCK as i32));
        Ok(Quantized {
            weight: Array::from_bytes(words, &codes, Dtype::Uint32)?,
            scales: Array::from_slice(scales, &groups)?,
            biases: Some(Array::from_slice(biases, &groups)?),
        })
    }
}
