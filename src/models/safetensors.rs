//! The safetensors format: a JSON header with names, dtypes, shapes and byte ranges, then the bytes. Read strictly, one
//! tensor at a time; written through a temporary file.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::{Map, Value, json};

use crate::mlx::{Array, Dtype, Error, Result, element_count};

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
    pub entries: Vec<Entry>,
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
        let metadata = std::fs::metadata(path).map_err(broken)?;
        if !metadata.is_file() {
            return Err(bad("not a file".into()));
        }
        let (mut file, size) = (File::open(path).map_err(broken)?, metadata.len());
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
        let mut entries = Vec::with_capacity(header.0.len());
        for (name, value) in header.0 {
            if name == "__metadata__" {
                if !value.as_object().is_some_and(|pairs| pairs.values().all(Value::is_string)) {
                    return Err(bad("bad header: __metadata__ must map names to strings".into()));
                }
                continue;
            }
            let entry = parse_entry(&name, &value, data, size).map_err(|reason| bad(format!("tensor '{name}': {reason}")))?;
            entries.push(entry);
        }
        check_layout(&entries, data, size).map_err(bad)?;
        Ok(SafetensorsFile { path: path.to_path_buf(), file, entries })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads one tensor.
    pub fn read(&mut self, entry: &Entry) -> Result<Array> {
        let broken = |error: std::io::Error| Error::load(&self.path, format!("cannot read tensor '{}': {error}", entry.name));
        // The length was checked against the file, so it is not an allocation that a header can inflate.
        let mut bytes = vec![0; entry.length as usize];
        self.file.seek(SeekFrom::Start(entry.start)).map_err(broken)?;
        self.file.read_exact(&mut bytes).map_err(broken)?;
        Array::from_bytes(&bytes, &entry.shape, entry.dtype)
    }
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
    let bytes = element_count(&shape).map_err(|error| error.to_string())?.checked_mul(dtype.size());
    if bytes.map(|bytes| bytes as u64) != Some(end - start) {
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

/// Writes tensors in the given order, one in memory at a time.
pub fn write(path: &Path, tensors: &[&Source]) -> Result<()> {
    let mut header = Map::new();
    header.insert("__metadata__".into(), json!({"format": "pt"}));
    let mut offset = 0;
    for tensor in tensors {
        let end = offset + tensor.nbytes();
        let entry = json!({"dtype": tensor.dtype.safetensors_name(), "shape": tensor.shape, "data_offsets": [offset, end]});
        header.insert(tensor.name.clone(), entry);
        offset = end;
    }
    let mut text = Value::Object(header).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    write_atomically(path, |file| {
        let broken = |error: std::io::Error| Error::save(path, format!("cannot write: {error}"));
        file.write_all(&(text.len() as u64).to_le_bytes()).map_err(broken)?;
        file.write_all(&text).map_err(broken)?;
        for tensor in tensors {
            let array = (tensor.make)()?;
            if array.shape() != tensor.shape || array.dtype() != tensor.dtype {
                return Err(Error::Internal(format!("tensor '{}' changed while it was saved", tensor.name)));
            }
            file.write_all(&array.to_bytes()?).map_err(broken)?;
        }
        Ok(())
    })
}

/// Writes arrays by name into one file, which is complete or as it was.
pub fn save_arrays(path: &Path, arrays: &[(String, Array)]) -> Result<()> {
    let sources: Vec<Source> = arrays.iter().map(|(name, array)| Source::held(name.clone(), array)).collect();
    write(path, &sources.iter().collect::<Vec<_>>())
}

/// Every array of a safetensors file by name.
pub fn load_arrays(path: &Path) -> Result<HashMap<String, Array>> {
    let mut file = SafetensorsFile::open(path)?;
    let entries = std::mem::take(&mut file.entries);
    entries.into_iter().map(|entry| Ok((entry.name.clone(), file.read(&entry)?))).collect()
}

/// Writes a temporary file beside `path`, brings it to the disk and renames it: `path` is never half written.
pub fn write_atomically(path: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<()> {
    let broken = |error: std::io::Error| Error::save(path, format!("cannot write: {error}"));
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let temporary = path.with_file_name(format!(".{name}.{}.tmp", std::process::id()));
    let written = File::create(&temporary).map_err(broken).and_then(|file| {
        let mut file = BufWriter::with_capacity(1 << 20, file);
        fill(&mut file)?;
        let file = file.into_inner().map_err(|error| broken(error.into_error()))?;
        file.sync_all().map_err(broken)?;
        std::fs::rename(&temporary, path).map_err(broken)
    });
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}
