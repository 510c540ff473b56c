//! The safetensors format: a JSON header with names, dtypes, shapes and byte ranges, then the bytes. Read strictly, one
//! tensor at a time; written through a temporary file.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::{Map, Value, json};

use super::atomic::cannot_write;
use super::load::{ArrayFile, Buffer, array_from, byte_count, open_file};
use super::save::SaveOptions;
use super::{Format, LoadOptions, Metadata, Progress, load, save, write_atomically};
use crate::mlx::{Array, Dtype, Error, Result};

/// Longer headers are refused, as the reference implementation does.
const MAX_HEADER: u64 = 100_000_000;

/// One tensor of a file.
#[derive(Clone, Debug)]
pub struct Entry {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<i32>,
    /// Where its bytes begin in the file.
    start: u64,
    /// How many there are.
    pub length: u64,
}

/// An open file whose header has been checked.
pub struct SafetensorsFile {
    path: PathBuf,
    file: File,
    buffer: Buffer,
    pub entries: Vec<Entry>,
    /// The texts of `__metadata__`.
    pub metadata: Vec<(String, String)>,
    /// Entries that were read through `ArrayFile`.
    next: usize,
}

/// A JSON object in file order. A repeated key is an error: the tensor it means would be anybody's guess.
struct Header(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Header, A::Error> {
                let (mut entries, mut seen) = (Vec::new(), HashSet::new());
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format!("'{name}' appears twice")));
                    }
                    entries.push((name, value));
                }
                Ok(Header(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

impl SafetensorsFile {
    pub fn open(path: &Path) -> Result<Self> {
        let bad = |message: String| Error::load(path, message);
        let broken = |error: std::io::Error| Error::load(path, format!("cannot read: {error}"));
        let (mut file, size) = open_file(path)?;
        if size < 8 {
            return Err(bad(format!("{size} bytes are too few for a safetensors file; it is truncated")));
        }
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(broken)?;
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER {
            return Err(bad(format!("a header of {length} bytes (the limit is {MAX_HEADER}); this is not a safetensors file")));
        }
        if length > size - 8 {
            return Err(bad(format!("the header should have {length} bytes, the file has {size}; it is truncated")));
        }
        let mut text = vec![0; length as usize];
        file.read_exact(&mut text).map_err(broken)?;
        let header: Header = serde_json::from_slice(&text).map_err(|error| bad(format!("bad header: {error}")))?;
        let data = 8 + length;
        let (mut entries, mut metadata) = (Vec::with_capacity(header.0.len()), Vec::new());
        for (name, value) in header.0 {
            if name == "__metadata__" {
                metadata = texts(value).ok_or_else(|| bad("bad header: __metadata__ must map names to strings".into()))?;
                continue;
            }
            let entry = parse_entry(&name, &value, data, size).map_err(|reason| bad(format!("tensor '{name}': {reason}")))?;
            entries.push(entry);
        }
        check_layout(&entries, data, size).map_err(bad)?;
        let buffer = Buffer::new(entries.iter().map(|entry| entry.length).max().unwrap_or(0));
        Ok(SafetensorsFile { path: path.to_path_buf(), file, buffer, entries, metadata, next: 0 })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives up the memory that the last tensor was read into.
    pub fn release(&mut self) {
        self.buffer = Buffer::new(self.entries.iter().map(|entry| entry.length).max().unwrap_or(0));
    }

    /// Reads one tensor.
    pub fn read(&mut self, entry: &Entry) -> Result<Array> {
        self.read_with(entry, &mut Progress::default())
    }

    fn read_with(&mut self, entry: &Entry, progress: &mut Progress) -> Result<Array> {
        let what = || format!("tensor '{}'", entry.name);
        self.file
            .seek(SeekFrom::Start(entry.start))
            .map_err(|error| Error::load(&self.path, format!("cannot read {}: {error}", what())))?;
        let read = self.buffer.fill(&mut self.file, entry.length, progress);
        let bytes = read.map_err(|error| error.at(&self.path, &what()))?;
        array_from(bytes, &entry.shape, entry.dtype)
    }
}

impl ArrayFile for SafetensorsFile {
    fn total(&self) -> u64 {
        self.entries.iter().map(|entry| entry.length).sum()
    }

    fn next(&mut self, progress: &mut Progress) -> Result<Option<Vec<(String, Array)>>> {
        let Some(entry) = self.entries.get(self.next).cloned() else { return Ok(None) };
        self.next += 1;
        let array = self.read_with(&entry, progress)?;
        Ok(Some(vec![(entry.name, array)]))
    }

    fn metadata(&mut self) -> Vec<(String, Metadata)> {
        std::mem::take(&mut self.metadata).into_iter().map(|(key, text)| (key, Metadata::Text(text))).collect()
    }
}

/// The pairs of `__metadata__`; Python's MLX writes null for none.
fn texts(value: Value) -> Option<Vec<(String, String)>> {
    let pairs = match value {
        Value::Null => return Some(Vec::new()),
        Value::Object(pairs) => pairs,
        _ => return None,
    };
    pairs.into_iter().map(|(key, value)| value.as_str().map(|text| (key, text.to_string()))).collect()
}

fn parse_entry(name: &str, value: &Value, data: u64, size: u64) -> std::result::Result<Entry, String> {
    let object = value.as_object().ok_or("must be an object with dtype, shape and data_offsets")?;
    let dtype = object.get("dtype").and_then(Value::as_str).ok_or("has no dtype")?;
    let dtype = Dtype::from_safetensors(dtype).ok_or(format!("has the dtype {dtype}, which is not supported"))?;
    let shape = object.get("shape").and_then(Value::as_array).ok_or("has no shape")?;
    let shape: Option<Vec<i32>> = shape.iter().map(|size| size.as_u64().and_then(|size| i32::try_from(size).ok())).collect();
    let shape = shape.ok_or_else(|| format!("has the impossible shape {}", object["shape"]))?;
    let offsets = object.get("data_offsets").and_then(Value::as_array).ok_or("has no data_offsets")?;
    let offsets: Option<Vec<u64>> = offsets.iter().map(Value::as_u64).collect();
    let &[start, end] = offsets.as_deref().unwrap_or_default() else {
        return Err(format!("has the data_offsets {}, not [begin, end]", object["data_offsets"]));
    };
    if start > end || end > size - data {
        return Err(format!("lies at bytes {start} to {end}, but the file has {}; it is truncated or damaged", size - data));
    }
    let bytes = byte_count(&shape, dtype).ok_or_else(|| format!("has the shape {shape:?}, more than MLX can hold"))?;
    if bytes != end - start {
        return Err(format!("has {} bytes, which is not what {shape:?} of {} takes", end - start, dtype.name()));
    }
    Ok(Entry { name: name.to_string(), dtype, shape, start: data + start, length: end - start })
}

/// The tensors must fill the file: no overlap, no gap, nothing after the last.
fn check_layout(entries: &[Entry], data: u64, size: u64) -> std::result::Result<(), String> {
    let mut order: Vec<&Entry> = entries.iter().collect();
    order.sort_by_key(|entry| (entry.start, entry.length));
    let mut end = data;
    for entry in order {
        if entry.start != end {
            let what = if entry.start < end { "overlaps the tensor before it" } else { "leaves a gap before it" };
            return Err(format!(
                "tensor '{}' {what} (it begins at byte {}, expected {})",
                entry.name,
                entry.start - data,
                end - data
            ));
        }
        end += entry.length;
    }
    if end == size {
        return Ok(());
    }
    Err(format!("the tensors end at byte {} of the data, the file has {}", end - data, size - data))
}

/// A tensor that is made when its turn to be written comes.
pub struct Source<'a> {
    pub name: String,
    pub shape: Vec<i32>,
    pub dtype: Dtype,
    pub make: Box<dyn Fn() -> Result<Array> + 'a>,
}

impl<'a> Source<'a> {
    pub fn held(name: String, array: &'a Array) -> Self {
        Source { name, shape: array.shape().to_vec(), dtype: array.dtype(), make: Box::new(|| Ok(array.clone())) }
    }

    pub fn nbytes(&self) -> u64 {
        self.shape.iter().map(|&size| size as u64).product::<u64>() * self.dtype.size() as u64
    }
}

/// The bytes before the tensors: the length of the header, and the header padded to a multiple of 8.
fn header_of<'a>(tensors: impl Iterator<Item = (&'a str, &'a [i32], Dtype)>, metadata: Option<Value>) -> Vec<u8> {
    let mut header = Map::new();
    if let Some(metadata) = metadata {
        header.insert("__metadata__".into(), metadata);
    }
    let mut offset = 0;
    for (name, shape, dtype) in tensors {
        let end = offset + shape.iter().map(|&size| size as u64).product::<u64>() * dtype.size() as u64;
        let entry = json!({"dtype": dtype.safetensors_name(), "shape": shape, "data_offsets": [offset, end]});
        header.insert(name.to_string(), entry);
        offset = end;
    }
    let mut text = Value::Object(header).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend(text);
    bytes
}

/// Whether these arrays and metadata fit the format.
pub(super) fn check(path: &Path, arrays: &[(String, Array)], metadata: &[(String, Metadata)]) -> Result<()> {
    if arrays.iter().any(|(name, _)| name == "__metadata__") {
        return Err(Error::Argument(format!("{}: '__metadata__' cannot be the name of an array in this format", path.display())));
    }
    match metadata.iter().find(|(_, value)| !matches!(value, Metadata::Text(_))) {
        Some((key, _)) => {
            Err(Error::Argument(format!("{}: the metadata of safetensors are texts; '{key}' is something else", path.display())))
        }
        None => Ok(()),
    }
}

pub(super) fn header(arrays: &[(String, Array)], metadata: &[(String, Metadata)]) -> Vec<u8> {
    let pairs: Map<String, Value> = metadata
        .iter()
        .filter_map(|(key, value)| match value {
            Metadata::Text(text) => Some((key.clone(), Value::from(text.as_str()))),
            _ => None,
        })
        .collect();
    let tensors = arrays.iter().map(|(name, array)| (name.as_str(), array.shape(), array.dtype()));
    header_of(tensors, (!pairs.is_empty()).then_some(Value::Object(pairs)))
}

fn header_of_sources(tensors: &[&Source]) -> Vec<u8> {
    let entries = tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.shape.as_slice(), tensor.dtype));
    header_of(entries, Some(json!({"format": "pt"})))
}

/// Writes tensors in the given order, one in memory at a time.
pub fn write(path: &Path, tensors: &[&Source]) -> Result<()> {
    write_with(path, tensors, &mut |_| Ok(()))
}

/// `write` that tells of the bytes of each tensor; an error of `progress` stops it, and there is no file.
pub fn write_with(path: &Path, tensors: &[&Source], progress: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
    let header = header_of_sources(tensors);
    write_atomically(path, |file| {
        file.write_all(&header).map_err(|error| cannot_write(path, error))?;
        for tensor in tensors {
            let array = (tensor.make)()?;
            if array.shape() != tensor.shape || array.dtype() != tensor.dtype {
                return Err(Error::Internal(format!("tensor '{}' changed while it was saved", tensor.name)));
            }
            file.write_all(&array.to_bytes()?).map_err(|error| cannot_write(path, error))?;
            progress(tensor.nbytes())?;
        }
        Ok(())
    })
}

/// Whether a file has been written whole with these tensors, as far as names, dtypes and shapes tell.
pub fn holds(path: &Path, tensors: &[&Source]) -> bool {
    let header = header_of_sources(tensors);
    let size = header.len() as u64 + tensors.iter().map(|tensor| tensor.nbytes()).sum::<u64>();
    let mut found = vec![0; header.len()];
    let read = open_file(path).is_ok_and(|(mut file, length)| length == size && file.read_exact(&mut found).is_ok());
    read && found == header
}

/// Writes arrays by name into one file, which is complete or as it was.
pub fn save_arrays(path: &Path, arrays: &[(String, Array)]) -> Result<()> {
    let options = SaveOptions { format: Some(Format::Safetensors), ..SaveOptions::default() };
    save(path, arrays.to_vec(), vec![("format".into(), Metadata::Text("pt".into()))], options, Progress::default())
}

/// Every array of a safetensors file by name.
pub fn load_arrays(path: &Path) -> Result<HashMap<String, Array>> {
    let options = LoadOptions { format: Some(Format::Safetensors), ..LoadOptions::default() };
    Ok(load(path, options, Progress::default())?.arrays.into_iter().collect())
}
