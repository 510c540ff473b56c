//! The header of a GGUF file, walked with every number checked against the file.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, Read};

use super::super::Metadata;
use super::Kind;
use crate::mlx::{Array, Dtype, element_count};

type Checked<T> = std::result::Result<T, String>;

/// One tensor of a file.
pub(super) struct Tensor {
    pub name: String,
    pub kind: Kind,
    /// Of its elements, slowest axis first.
    pub shape: Vec<i32>,
    /// Where its bytes begin in the file.
    pub start: u64,
    /// How many there are.
    pub length: u64,
}

pub(super) struct Header {
    pub tensors: Vec<Tensor>,
    pub metadata: Vec<(String, Metadata)>,
}

/// The limits of llama.cpp.
const MAX_NAME: u64 = 65_535;
const MAX_AXES: u32 = 8;
const MAX_ALIGNMENT: u64 = 1 << 20;

/// A file that knows how much of it is left.
struct Walker<R> {
    reader: R,
    position: u64,
    size: u64,
}

impl<R: Read> Walker<R> {
    fn left(&self) -> u64 {
        self.size - self.position
    }

    fn bytes(&mut self, count: u64, what: &str) -> Checked<Vec<u8>> {
        if count > self.left() {
            return Err(format!("{what} should have {count} bytes, {} are left; the file is truncated or damaged", self.left()));
        }
        let mut bytes = vec![0; count as usize];
        self.reader.read_exact(&mut bytes).map_err(|error| format!("cannot read {what}: {error}"))?;
        self.position += count;
        Ok(bytes)
    }

    fn fixed<const N: usize>(&mut self, what: &str) -> Checked<[u8; N]> {
        if N as u64 > self.left() {
            return Err(format!("the file ends in {what}; it is truncated"));
        }
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes).map_err(|error| format!("cannot read {what}: {error}"))?;
        self.position += N as u64;
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> Checked<u32> {
        self.fixed(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Checked<u64> {
        self.fixed(what).map(u64::from_le_bytes)
    }

    /// A name must be text; it is how its value is found.
    fn name(&mut self, what: &str) -> Checked<String> {
        let length = self.u64(what)?;
        if length > MAX_NAME {
            return Err(format!("{what} has a name of {length} bytes; the file is damaged"));
        }
        String::from_utf8(self.bytes(length, what)?).map_err(|_| format!("{what} has a name that is not UTF-8"))
    }

    /// A value may hold the bytes of a token that is a part of a character; what is no text becomes U+FFFD.
    fn text(&mut self, what: &str) -> Checked<String> {
        let length = self.u64(what)?;
        Ok(match String::from_utf8(self.bytes(length, what)?) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        })
    }

    fn metadata(&mut self, what: &str) -> Checked<Metadata> {
        match self.u32(what)? {
            8 => Ok(Metadata::Text(self.text(what)?)),
            9 => {
                let (kind, count) = (self.u32(what)?, self.u64(what)?);
                if kind == 9 {
                    return Err(format!("{what} is a list of lists, which is not supported"));
                }
                if kind == 8 {
                    // Each text has at least its length.
                    if count > self.left() / 8 {
                        return Err(format!("{what} should hold {count} texts, more than the file has room for"));
                    }
                    return (0..count).map(|_| self.text(what)).collect::<Checked<_>>().map(Metadata::Texts);
                }
                let count =
                    i32::try_from(count).map_err(|_| format!("{what} should hold {count} numbers, more than MLX can hold"))?;
                self.numbers(kind, &[count], what)
            }
            kind => self.numbers(kind, &[], what),
        }
    }

    fn numbers(&mut self, kind: u32, shape: &[i32], what: &str) -> Checked<Metadata> {
        let dtype = number_dtype(kind).ok_or_else(|| format!("{what} has values of the unknown type {kind}"))?;
        let count = element_count(shape).map_err(|error| error.to_string())?;
        let mut bytes = self.bytes((count * dtype.size()) as u64, what)?;
        if dtype == Dtype::Bool {
            bytes.iter_mut().for_each(|byte| *byte = (*byte != 0) as u8);
        }
        Array::from_bytes(&bytes, shape, dtype).map(Metadata::Array).map_err(|error| format!("{what}: {error}"))
    }
}

/// The types of numbers in metadata, in the format's order.
pub(super) const NUMBERS: &[(u32, Dtype)] = &[
    (0, Dtype::Uint8),
    (1, Dtype::Int8),
    (2, Dtype::Uint16),
    (3, Dtype::Int16),
    (4, Dtype::Uint32),
    (5, Dtype::Int32),
    (6, Dtype::Float32),
    (7, Dtype::Bool),
    (10, Dtype::Uint64),
    (11, Dtype::Int64),
    (12, Dtype::Float64),
];

fn number_dtype(kind: u32) -> Option<Dtype> {
    NUMBERS.iter().find_map(|&(number, dtype)| (number == kind).then_some(dtype))
}

pub(super) fn read(file: &File, size: u64) -> Checked<Header> {
    let mut walker = Walker { reader: BufReader::with_capacity(1 << 16, file), position: 0, size };
    if &walker.fixed::<4>("the header")? != b"GGUF" {
        return Err("this is not a GGUF file (its first bytes are not 'GGUF')".into());
    }
    match walker.u32("the header")? {
        2 | 3 => {}
        version if version.swap_bytes() <= 3 => return Err("a big-endian GGUF file, which is not supported".into()),
        version => return Err(format!("version {version} of the GGUF format is not supported; known are 2 and 3")),
    }
    let (tensors, pairs) = (walker.u64("the header")?, walker.u64("the header")?);
    // A pair takes at least 8 + 4 + 1 bytes, a tensor 8 + 4 + 4 + 8.
    if pairs > walker.left() / 13 || tensors > walker.left() / 24 {
        return Err(format!(
            "the header counts {tensors} tensors and {pairs} pairs of metadata, more than {size} bytes can hold"
        ));
    }
    let mut metadata = Vec::new();
    let mut names = HashSet::new();
    for index in 0..pairs {
        let key = walker.name(&format!("metadata {index}"))?;
        if !names.insert(key.clone()) {
            return Err(format!("metadata '{key}' appears twice"));
        }
        let value = walker.metadata(&format!("metadata '{key}'"))?;
        metadata.push((key, value));
    }
    let alignment = alignment(&metadata)?;
    names.clear();
    let mut list = Vec::new();
    for index in 0..tensors {
        let name = walker.name(&format!("tensor {index}"))?;
        if !names.insert(name.clone()) {
            return Err(format!("tensor '{name}' appears twice"));
        }
        list.push(tensor(&mut walker, name.clone(), alignment).map_err(|reason| format!("tensor '{name}' {reason}"))?);
    }
    let data = walker.position.next_multiple_of(alignment);
    place(&mut list, data, size)?;
    Ok(Header { tensors: list, metadata })
}

fn alignment(metadata: &[(String, Metadata)]) -> Checked<u64> {
    let Some((_, value)) = metadata.iter().find(|(key, _)| key == "general.alignment") else { return Ok(32) };
    let number = match value {
        Metadata::Array(array) if array.dtype() == Dtype::Uint32 && array.size() == 1 => {
            array.to_vec::<u32>().map_err(|error| error.to_string())?[0] as u64
        }
        _ => return Err("metadata 'general.alignment' must be one uint32".into()),
    };
    if number.is_power_of_two() && number <= MAX_ALIGNMENT {
        return Ok(number);
    }
    Err(format!("metadata 'general.alignment' is {number}, not a power of two up to {MAX_ALIGNMENT}"))
}

/// A tensor's entry; `start` still counts from the beginning of the data.
fn tensor<R: Read>(walker: &mut Walker<R>, name: String, alignment: u64) -> Checked<Tensor> {
    let axes = walker.u32("its entry")?;
    if axes > MAX_AXES {
        return Err(format!("has {axes} axes; the file is damaged"));
    }
    let mut shape = Vec::with_capacity(axes as usize);
    for _ in 0..axes {
        let size = walker.u64("its entry")?;
        shape.push(i32::try_from(size).map_err(|_| format!("has an axis of {size} elements, more than MLX can hold"))?);
    }
    // Fastest first in the file.
    shape.reverse();
    let (kind, start) = (Kind::parse(walker.u32("its entry")?)?, walker.u64("its entry")?);
    let count = element_count(&shape).map_err(|error| format!("is impossible: {error}"))? as u64;
    let (elements, bytes) = kind.block();
    let row = shape.last().map_or(1, |&size| size as u64);
    if row % elements != 0 {
        return Err(format!("has rows of {row} elements, which blocks of {elements} do not fill"));
    }
    if start % alignment != 0 {
        return Err(format!("begins at byte {start}, not at a multiple of {alignment}"));
    }
    let length = (count / elements).checked_mul(bytes).ok_or("is larger than any file")?;
    Ok(Tensor { name, kind, shape, start, length })
}

/// Turns offsets into places of the file; tensors must lie in it and not share bytes.
fn place(tensors: &mut [Tensor], data: u64, size: u64) -> Checked<()> {
    for tensor in tensors.iter_mut() {
        let start = data.checked_add(tensor.start).filter(|start| *start <= size && tensor.length <= size - start);
        tensor.start = start.ok_or_else(|| {
            format!(
                "tensor '{}' has {} bytes at byte {} of the data, which end beyond the file; it is truncated or damaged",
                tensor.name, tensor.length, tensor.start
            )
        })?;
    }
    let mut order: Vec<&Tensor> = tensors.iter().filter(|tensor| tensor.length > 0).collect();
    order.sort_by_key(|tensor| tensor.start);
    match order.windows(2).find(|pair| pair[0].start + pair[0].length > pair[1].start) {
        Some(pair) => Err(format!("tensors '{}' and '{}' overlap", pair[0].name, pair[1].name)),
        None => Ok(()),
    }
}
