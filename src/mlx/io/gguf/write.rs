//! Writing GGUF: version 3, plain dtypes.

use std::io::{self, Write};
use std::path::Path;

use super::super::Metadata;
use super::PLAIN;
use super::header::NUMBERS;
use crate::mlx::{Array, Dtype, Error, Result};

/// Tensors begin at multiples of this, the format's default.
const ALIGNMENT: usize = 32;

fn number(list: &[(u32, Dtype)], dtype: Dtype) -> Option<u32> {
    list.iter().find_map(|&(number, known)| (known == dtype).then_some(number))
}

fn names(list: &[(u32, Dtype)]) -> String {
    list.iter().map(|(_, dtype)| dtype.name()).collect::<Vec<_>>().join(", ")
}

/// Whether these arrays and metadata fit the format.
pub(in crate::mlx::io) fn check(path: &Path, arrays: &[(String, Array)], metadata: &[(String, Metadata)]) -> Result<()> {
    for (name, array) in arrays {
        if number(PLAIN, array.dtype()).is_none() {
            return Err(Error::Dtype(format!(
                "{}: '{name}' is {}, which GGUF does not have; it has {}",
                path.display(),
                array.dtype().name(),
                names(PLAIN)
            )));
        }
        // The limits of llama.cpp.
        if array.ndim() > 4 || name.len() > 63 {
            return Err(Error::Argument(format!(
                "{}: '{name}' has {} axes and a name of {} bytes; GGUF has room for 4 axes and 63 bytes",
                path.display(),
                array.ndim(),
                name.len()
            )));
        }
    }
    for (key, value) in metadata {
        let Metadata::Array(array) = value else { continue };
        if array.ndim() > 1 {
            return Err(Error::Shape(format!("{}: metadata '{key}' has {} axes; at most 1", path.display(), array.ndim())));
        }
        if number(NUMBERS, array.dtype()).is_none() {
            let (dtype, known) = (array.dtype().name(), names(NUMBERS));
            return Err(Error::Dtype(format!("{}: metadata '{key}' is {dtype}; GGUF has {known}", path.display())));
        }
    }
    if metadata.iter().any(|(key, _)| key == "general.alignment") {
        return Err(Error::Argument(format!("{}: 'general.alignment' is {ALIGNMENT} and cannot be given", path.display())));
    }
    Ok(())
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// The bytes before the tensors, padded to where the data begins.
pub(in crate::mlx::io) fn header(arrays: &[(String, Array)], metadata: &[(String, Metadata)]) -> Result<Vec<u8>> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend((arrays.len() as u64).to_le_bytes());
    bytes.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        text(&mut bytes, key);
        match value {
            Metadata::Text(value) => {
                bytes.extend(8u32.to_le_bytes());
                text(&mut bytes, value);
            }
            Metadata::Texts(values) => {
                bytes.extend(9u32.to_le_bytes());
                bytes.extend(8u32.to_le_bytes());
                bytes.extend((values.len() as u64).to_le_bytes());
                values.iter().for_each(|value| text(&mut bytes, value));
            }
            Metadata::Array(array) => {
                let kind = number(NUMBERS, array.dtype()).unwrap_or_default();
                if array.ndim() > 0 {
                    bytes.extend(9u32.to_le_bytes());
                }
                bytes.extend(kind.to_le_bytes());
                if array.ndim() > 0 {
                    bytes.extend((array.size() as u64).to_le_bytes());
                }
                bytes.extend(array.to_bytes()?);
            }
        }
    }
    let mut offset = 0;
    for (name, array) in arrays {
        text(&mut bytes, name);
        bytes.extend((array.ndim() as u32).to_le_bytes());
        array.shape().iter().rev().for_each(|&size| bytes.extend((size as u64).to_le_bytes()));
        bytes.extend(number(PLAIN, array.dtype()).unwrap_or_default().to_le_bytes());
        bytes.extend((offset as u64).to_le_bytes());
        offset += array.nbytes().next_multiple_of(ALIGNMENT);
    }
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
    Ok(bytes)
}

/// Fills up to where the next tensor begins.
pub(in crate::mlx::io) fn pad(file: &mut impl Write, length: usize) -> io::Result<()> {
    file.write_all(&[0; ALIGNMENT][..length.next_multiple_of(ALIGNMENT) - length])
}
