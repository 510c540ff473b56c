//! Reading a file array by array.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::gguf::GgufFile;
use super::npy::NpyFile;
use super::npz::NpzFile;
use super::safetensors::SafetensorsFile;
use super::{CHUNK, Contents, Format, Metadata, Progress};
use crate::mlx::{Array, Dtype, Error, Result, element_count};
use crate::runtime;

/// What a reader is told besides the path.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadOptions {
    /// By the extension where it is not given.
    pub format: Option<Format>,
    /// Compressed files that would unpack to more bytes than this are refused.
    pub max_bytes: Option<u64>,
}

/// A file whose header has been read and checked.
pub(super) trait ArrayFile: Send {
    /// Bytes that `next` will read in all.
    fn total(&self) -> u64;

    /// The next arrays, `None` after the last.
    fn next(&mut self, progress: &mut Progress) -> Result<Option<Vec<(String, Array)>>>;

    fn metadata(&mut self) -> Vec<(String, Metadata)> {
        Vec::new()
    }
}

/// Reads a file in steps, so that other work can run in between.
pub struct Loader {
    path: PathBuf,
    options: LoadOptions,
    progress: Progress,
    file: Option<Box<dyn ArrayFile>>,
    names: HashSet<String>,
    contents: Contents,
}

impl Loader {
    pub fn new(path: &Path, options: LoadOptions, progress: Progress) -> Self {
        let (names, contents) = Default::default();
        Loader { path: path.to_path_buf(), options, progress, file: None, names, contents }
    }

    /// Opens the file, or reads its next array. Gives what it held when there is no more.
    pub fn step(&mut self) -> Result<Option<Contents>> {
        let Some(file) = &mut self.file else {
            let mut file = open(&self.path, self.options)?;
            self.progress.begin(file.total())?;
            self.contents.metadata = file.metadata();
            self.file = Some(file);
            return Ok(None);
        };
        let Some(arrays) = file.next(&mut self.progress)? else {
            return Ok(Some(std::mem::take(&mut self.contents)));
        };
        for (name, array) in arrays {
            if !self.names.insert(name.clone()) {
                return Err(Error::load(&self.path, format!("'{name}' appears twice")));
            }
            self.contents.arrays.push((name, array));
        }
        Ok(None)
    }
}

fn open(path: &Path, options: LoadOptions) -> Result<Box<dyn ArrayFile>> {
    Ok(match options.format.map_or_else(|| Format::of(path), Ok)? {
        Format::Npy => Box::new(NpyFile::open(path)?),
        Format::Npz => Box::new(NpzFile::open(path, options.max_bytes)?),
        Format::Safetensors => Box::new(SafetensorsFile::open(path)?),
        Format::Gguf => Box::new(GgufFile::open(path)?),
    })
}

/// Reads a file and waits for it.
pub fn load(path: &Path, options: LoadOptions, progress: Progress) -> Result<Contents> {
    runtime::block_on_owner(move || {
        let mut loader = Loader::new(path, options, progress);
        loop {
            if let Some(contents) = loader.step()? {
                return Ok(contents);
            }
        }
    })
}

/// Opens a regular file; a pipe or a device might never end.
pub(super) fn open_file(path: &Path) -> Result<(File, u64)> {
    let broken = |error: io::Error| Error::load(path, format!("cannot read: {error}"));
    let metadata = std::fs::metadata(path).map_err(broken)?;
    if !metadata.is_file() {
        return Err(Error::load(path, "not a file"));
    }
    Ok((File::open(path).map_err(broken)?, metadata.len()))
}

/// Why bytes could not be read: the file's fault, or the listener's wish.
pub(super) enum Interrupted {
    Io(io::Error),
    Stopped(Error),
}

impl Interrupted {
    pub fn at(self, path: &Path, what: &str) -> Error {
        match self {
            Interrupted::Io(error) if error.kind() == io::ErrorKind::OutOfMemory => {
                Error::OutOfMemory(format!("{}: no memory to read {what}", path.display()))
            }
            Interrupted::Io(error) => Error::load(path, format!("cannot read {what}: {error}")),
            Interrupted::Stopped(error) => error,
        }
    }
}

/// Where the bytes of one array after another are read to. It has room for the largest from the first on: what is freed between
/// arrays that stay is rarely used again.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    largest: u64,
}

impl Buffer {
    /// For arrays of at most `largest` bytes, a number that has been checked against the file.
    pub fn new(largest: u64) -> Self {
        Buffer { bytes: Vec::new(), largest }
    }

    /// Reads exactly `length` bytes.
    pub fn fill(
        &mut self,
        reader: &mut impl Read,
        length: u64,
        progress: &mut Progress,
    ) -> std::result::Result<&mut [u8], Interrupted> {
        let short = || Interrupted::Io(io::Error::new(io::ErrorKind::UnexpectedEof, "it ends too early"));
        let room = usize::try_from(length.max(self.largest)).map_err(|_| short())?;
        let length = length as usize;
        self.bytes.clear();
        self.bytes.try_reserve_exact(room).map_err(|_| Interrupted::Io(io::ErrorKind::OutOfMemory.into()))?;
        while self.bytes.len() < length {
            let chunk = CHUNK.min(length - self.bytes.len());
            let got = reader.by_ref().take(chunk as u64).read_to_end(&mut self.bytes).map_err(Interrupted::Io)?;
            if got < chunk {
                return Err(short());
            }
            progress.advance(chunk as u64).map_err(Interrupted::Stopped)?;
        }
        Ok(&mut self.bytes)
    }
}

/// An array of bytes from a file. A boolean of a file may be any byte; of MLX it is 0 or 1.
pub(super) fn array_from(bytes: &mut [u8], shape: &[i32], dtype: Dtype) -> Result<Array> {
    if dtype == Dtype::Bool {
        bytes.iter_mut().for_each(|byte| *byte = (*byte != 0) as u8);
    }
    Array::from_bytes(bytes, shape, dtype)
}

/// The bytes of a shape, where MLX can hold them.
pub(super) fn byte_count(shape: &[i32], dtype: Dtype) -> Option<u64> {
    element_count(shape).ok()?.checked_mul(dtype.size()).map(|bytes| bytes as u64)
}
