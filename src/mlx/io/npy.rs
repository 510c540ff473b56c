//! NumPy's `.npy`: a magic number, a version, a header that is a Python dictionary, the elements. Versions 1 to 3, both orders of
//! axes, both byte orders. bfloat16, which NumPy does not have, is `V2` as in Python's MLX.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use super::Progress;
use super::load::{ArrayFile, Buffer, Interrupted, array_from, byte_count, open_file};
use crate::mlx::{Array, Dtype, Error, Result};

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// Headers of the dtypes that MLX has are far shorter.
const MAX_HEADER: u64 = 1 << 20;

/// What a header says.
pub(super) struct Header {
    dtype: Dtype,
    big_endian: bool,
    fortran: bool,
    shape: Vec<i32>,
    /// Bytes of the elements.
    pub length: u64,
}

impl Header {
    /// Reads the header of a file (or entry) of `size` bytes and checks that the elements fill the rest.
    pub fn read(reader: &mut impl Read, size: u64) -> std::result::Result<Self, String> {
        let mut take = |bytes: &mut [u8]| reader.read_exact(bytes).map_err(|error| format!("cannot read the header: {error}"));
        let mut start = [0; 8];
        if size < 10 {
            return Err(format!("{size} bytes are too few for an .npy file; it is empty or truncated"));
        }
        take(&mut start)?;
        if &start[..6] != MAGIC {
            return Err("this is not an .npy file (its first bytes are not \\x93NUMPY)".into());
        }
        let (before, length) = match start[6] {
            1 => {
                let mut length = [0; 2];
                take(&mut length)?;
                (10, u16::from_le_bytes(length) as u64)
            }
            2 | 3 => {
                let mut length = [0; 4];
                take(&mut length)?;
                (12, u32::from_le_bytes(length) as u64)
            }
            _ => return Err(format!("version {}.{} of the .npy format is not known; known are 1.0 to 3.0", start[6], start[7])),
        };
        if length > MAX_HEADER || before + length > size {
            return Err(format!("the header should have {length} bytes, the file has {size}; it is truncated or damaged"));
        }
        let mut text = vec![0; length as usize];
        take(&mut text)?;
        // Versions before 3 are Latin-1. What differs lies in names of fields, which are refused either way.
        let header = parse(&String::from_utf8_lossy(&text)).map_err(|reason| format!("bad header: {reason}"))?;
        let rest = size - before - length;
        match rest.checked_sub(header.length) {
            Some(0) => Ok(header),
            Some(more) => Err(format!("{more} bytes follow the array; files of several arrays are .npz")),
            None => Err(format!(
                "shape {:?} of {} takes {} bytes, the file has {rest}; it is truncated",
                header.shape,
                header.dtype.name(),
                header.length
            )),
        }
    }

    /// Reads the elements.
    pub fn array(
        &self,
        reader: &mut impl Read,
        buffer: &mut Buffer,
        progress: &mut Progress,
    ) -> std::result::Result<Result<Array>, Interrupted> {
        let bytes = buffer.fill(reader, self.length, progress)?;
        if self.big_endian {
            let part = if self.dtype == Dtype::Complex64 { 4 } else { self.dtype.size() };
            bytes.chunks_exact_mut(part).for_each(<[u8]>::reverse);
        }
        if self.fortran && self.shape.iter().filter(|&&size| size > 1).count() > 1 {
            return Ok(array_from(&mut row_major(bytes, &self.shape, self.dtype.size()), &self.shape, self.dtype));
        }
        Ok(array_from(bytes, &self.shape, self.dtype))
    }
}

/// Elements in row-major order from column-major ones. On the host, because a GPU has no float64 to copy.
fn row_major(bytes: &[u8], shape: &[i32], width: usize) -> Vec<u8> {
    let mut strides = Vec::with_capacity(shape.len());
    let mut stride = width;
    for &size in shape {
        strides.push(stride);
        stride *= size as usize;
    }
    let mut result = Vec::with_capacity(bytes.len());
    let mut index = vec![0; shape.len()];
    let mut offset = 0;
    while result.len() < bytes.len() {
        result.extend_from_slice(&bytes[offset..offset + width]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            offset += strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            offset -= index[axis] as usize * strides[axis];
            index[axis] = 0;
        }
    }
    result
}

/// The value of a key in the header.
enum Value {
    Text(String),
    Flag(bool),
    Sizes(Vec<u64>),
}

/// The Python literals that a header consists of.
struct Literals<'a>(&'a str);

impl Literals<'_> {
    fn skip(&mut self, token: char) -> bool {
        self.0 = self.0.trim_start();
        match self.0.strip_prefix(token) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, token: char) -> std::result::Result<(), String> {
        if self.skip(token) {
            return Ok(());
        }
        Err(format!("'{token}' expected at '{}'", self.0.chars().take(20).collect::<String>()))
    }

    fn text(&mut self) -> std::result::Result<String, String> {
        let quote = if self.skip('\'') { '\'' } else { self.expect('"').map(|()| '"')? };
        let (text, rest) = self.0.split_once(quote).ok_or("a text does not end")?;
        self.0 = rest;
        Ok(text.to_string())
    }

    fn sizes(&mut self) -> std::result::Result<Vec<u64>, String> {
        let mut sizes = Vec::new();
        loop {
            if self.skip(')') {
                return Ok(sizes);
            }
            self.0 = self.0.trim_start();
            let end = self.0.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.0.len());
            let digits = &self.0[..end];
            sizes.push(digits.parse().map_err(|_| format!("the shape holds '{}'", self.0.chars().take(20).collect::<String>()))?);
            self.0 = &self.0[end..];
            // Python 2 wrote long integers so.
            self.skip('L');
            if !self.skip(',') {
                self.expect(')')?;
                return Ok(sizes);
            }
        }
    }

    fn value(&mut self) -> std::result::Result<Value, String> {
        self.0 = self.0.trim_start();
        for (word, flag) in [("True", true), ("False", false)] {
            if let Some(rest) = self.0.strip_prefix(word) {
                self.0 = rest;
                return Ok(Value::Flag(flag));
            }
        }
        if self.skip('(') {
            return Ok(Value::Sizes(self.sizes()?));
        }
        if self.0.starts_with('[') {
            return Err("a structured dtype (records with fields); MLX has only plain numbers".into());
        }
        Ok(Value::Text(self.text()?))
    }
}

fn parse(text: &str) -> std::result::Result<Header, String> {
    let (mut descr, mut fortran, mut shape) = (None, None, None);
    let mut literals = Literals(text);
    literals.expect('{')?;
    while !literals.skip('}') {
        let key = literals.text()?;
        literals.expect(':')?;
        let twice = match (key.as_str(), literals.value()?) {
            ("descr", Value::Text(text)) => descr.replace(text).is_some(),
            ("fortran_order", Value::Flag(flag)) => fortran.replace(flag).is_some(),
            ("shape", Value::Sizes(sizes)) => shape.replace(sizes).is_some(),
            _ => return Err(format!("'{key}' is unknown or has a value of another kind")),
        };
        if twice {
            return Err(format!("'{key}' appears twice"));
        }
        if !literals.skip(',') {
            literals.expect('}')?;
            break;
        }
    }
    if !literals.0.trim().is_empty() {
        return Err("text after the dictionary".into());
    }
    let (Some(descr), Some(fortran), Some(sizes)) = (descr, fortran, shape) else {
        return Err("descr, fortran_order and shape must all be there".into());
    };
    let (dtype, big_endian) = parse_descr(&descr)?;
    let shape: Option<Vec<i32>> = sizes.iter().map(|&size| i32::try_from(size).ok()).collect();
    let shape = shape.ok_or_else(|| format!("shape {sizes:?} has a size beyond 2^31, more than MLX can hold"))?;
    let length = byte_count(&shape, dtype).ok_or_else(|| format!("shape {shape:?} has more elements than MLX can hold"))?;
    Ok(Header { dtype, big_endian, fortran, shape, length })
}

/// A dtype and whether its bytes are reversed.
fn parse_descr(descr: &str) -> std::result::Result<(Dtype, bool), String> {
    let (order, kind) = match descr.chars().next() {
        Some(order @ ('<' | '>' | '|' | '=')) => (order, &descr[1..]),
        _ => ('=', descr),
    };
    let dtype = match kind {
        "b1" | "?" => Dtype::Bool,
        "V2" => Dtype::Bfloat16,
        _ if kind.starts_with('O') => return Err("it holds Python objects (pickle), which are never loaded".into()),
        "c16" => return Err("dtype complex128, which MLX does not have; save it as complex64".into()),
        _ => NAMES
            .iter()
            .find_map(|&(name, dtype)| (name == kind).then_some(dtype))
            .ok_or_else(|| format!("dtype '{descr}', which MLX does not have"))?,
    };
    Ok((dtype, order == '>'))
}

const NAMES: &[(&str, Dtype)] = &[
    ("b1", Dtype::Bool),
    ("u1", Dtype::Uint8),
    ("u2", Dtype::Uint16),
    ("u4", Dtype::Uint32),
    ("u8", Dtype::Uint64),
    ("i1", Dtype::Int8),
    ("i2", Dtype::Int16),
    ("i4", Dtype::Int32),
    ("i8", Dtype::Int64),
    ("f2", Dtype::Float16),
    ("f4", Dtype::Float32),
    ("f8", Dtype::Float64),
    ("V2", Dtype::Bfloat16),
    ("c8", Dtype::Complex64),
];

/// The bytes before the elements, a multiple of 64 as the format asks for.
pub(super) fn header(array: &Array) -> Vec<u8> {
    let kind = NAMES.iter().find_map(|&(name, dtype)| (dtype == array.dtype()).then_some(name)).unwrap_or("V2");
    let order = if array.dtype().size() == 1 { '|' } else { '<' };
    let sizes: String = array.shape().iter().map(|size| format!("{size}, ")).collect();
    let sizes = if array.ndim() == 1 { sizes.trim_end() } else { sizes.trim_end().trim_end_matches(',') };
    let mut text = format!("{{'descr': '{order}{kind}', 'fortran_order': False, 'shape': ({sizes}), }}");
    // MLX arrays of so many axes that 64 KiB do not hold their shape do not exist; version 1 is enough.
    let padding = (10 + text.len() + 1).next_multiple_of(64) - 10 - text.len() - 1;
    text.extend(std::iter::repeat_n(' ', padding));
    text.push('\n');
    let mut bytes = MAGIC.to_vec();
    bytes.extend([1, 0]);
    bytes.extend((text.len() as u16).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes
}

/// A file of one array.
pub(super) struct NpyFile {
    path: PathBuf,
    header: Header,
    reader: Option<BufReader<File>>,
}

impl NpyFile {
    pub fn open(path: &Path) -> Result<Self> {
        let (file, size) = open_file(path)?;
        let mut reader = BufReader::new(file);
        let header = Header::read(&mut reader, size).map_err(|reason| Error::load(path, reason))?;
        Ok(NpyFile { path: path.to_path_buf(), header, reader: Some(reader) })
    }
}

impl ArrayFile for NpyFile {
    fn total(&self) -> u64 {
        self.header.length
    }

    fn next(&mut self, progress: &mut Progress) -> Result<Option<Vec<(String, Array)>>> {
        let Some(mut reader) = self.reader.take() else { return Ok(None) };
        let mut buffer = Buffer::new(self.header.length);
        let array =
            self.header.array(&mut reader, &mut buffer, progress).map_err(|error| error.at(&self.path, "the array"))??;
        Ok(Some(vec![(String::new(), array)]))
    }
}
