//! NumPy's `.npz`: a zip archive of `.npy` files, stored or deflated.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::Progress;
use super::load::{ArrayFile, Buffer, Interrupted, open_file};
use super::npy::{self, Header};
use super::save::put_chunks;
use crate::mlx::{Array, Error, Result};

/// Deflate makes at most this many bytes of one.
const MAX_RATIO: u64 = 1032;
/// Without a limit of the caller's, archives that unpack to more than a gigabyte and a hundred times their size are refused.
const FREE_BYTES: u64 = 1 << 30;
const FREE_RATIO: u64 = 100;

pub(super) struct NpzFile {
    path: PathBuf,
    archive: ZipArchive<BufReader<File>>,
    names: Vec<String>,
    buffer: Buffer,
    total: u64,
    next: usize,
}

impl NpzFile {
    pub fn open(path: &Path, max_bytes: Option<u64>) -> Result<Self> {
        let bad = |message: String| Error::load(path, message);
        let (file, size) = open_file(path)?;
        let mut archive =
            ZipArchive::new(BufReader::new(file)).map_err(|error| bad(format!("not a readable .npz (zip): {error}")))?;
        // Names that appear twice, entries that share bytes, entries that the directory hides.
        archive.validate_header_consistency().map_err(|error| bad(format!("damaged .npz: {error}")))?;
        let (mut names, mut total, mut largest) = (Vec::new(), 0u64, 0);
        for index in 0..archive.len() {
            let entry = archive.by_index_raw(index).map_err(|error| bad(format!("entry {index}: {error}")))?;
            let full =
                entry.name().map_err(|error| bad(format!("entry {index}: its name cannot be read: {error}")))?.into_owned();
            let at = |reason: String| bad(format!("entry '{full}': {reason}"));
            let name = full.strip_suffix(".npy").ok_or_else(|| at("is not an .npy file".into()))?;
            if !acceptable(name) {
                return Err(at("leads out of the archive; such a name is refused".into()));
            }
            if entry.encrypted() {
                return Err(at("is encrypted".into()));
            }
            let (length, packed) = (entry.size(), entry.compressed_size());
            let possible = match entry.compression() {
                CompressionMethod::Stored => length == packed,
                CompressionMethod::Deflated => length <= packed.saturating_mul(MAX_RATIO),
                other => return Err(at(format!("is compressed with {other}; known are stored and deflated entries"))),
            };
            if !possible || packed > size {
                return Err(at(format!("cannot hold {length} bytes in {packed}")));
            }
            total = total.saturating_add(length);
            largest = largest.max(length);
            names.push(name.to_string());
        }
        let limit = max_bytes.unwrap_or(FREE_BYTES.max(size.saturating_mul(FREE_RATIO)));
        if total > limit {
            return Err(bad(format!(
                "{size} bytes would unpack to {total}, more than the limit of {limit}; if you trust the file, give a higher maxBytes"
            )));
        }
        Ok(NpzFile { path: path.to_path_buf(), archive, names, buffer: Buffer::new(largest), total, next: 0 })
    }
}

impl ArrayFile for NpzFile {
    fn total(&self) -> u64 {
        self.total
    }

    fn next(&mut self, progress: &mut Progress) -> Result<Option<Vec<(String, Array)>>> {
        let Some(name) = self.names.get(self.next) else { return Ok(None) };
        let at = |reason: String| Error::load(&self.path, format!("entry '{name}': {reason}"));
        let mut entry = self.archive.by_index(self.next).map_err(|error| at(error.to_string()))?;
        self.next += 1;
        let size = entry.size();
        let header = Header::read(&mut entry, size).map_err(at)?;
        progress.advance(size - header.length)?;
        let array = header.array(&mut entry, &mut self.buffer, progress);
        let array = array.map_err(|error| error.at(&self.path, &format!("entry '{name}'")))?;
        // The checksum is compared at the end, and a lying directory shows there.
        match entry.read(&mut [0]) {
            Ok(0) => {}
            Ok(_) => return Err(at(format!("holds more than the {size} bytes that the directory says"))),
            Err(error) => return Err(at(error.to_string())),
        }
        let array = array.map_err(|error| at(error.to_string()))?;
        Ok(Some(vec![(name.clone(), array)]))
    }
}

/// Slashes are part of a name; what would lead out of a folder when the archive is unpacked is not.
fn acceptable(name: &str) -> bool {
    !name.contains(['\\', '\0'])
        && !name.starts_with('/')
        && name.split('/').all(|part| part != ".." && part != ".")
        && name.as_bytes().get(1) != Some(&b':')
}

/// Whether arrays of these names can be put into an archive.
pub(super) fn check_names(path: &Path, arrays: &[(String, Array)]) -> Result<()> {
    match arrays.iter().find(|(name, _)| !acceptable(name) || name.len() > 60_000) {
        Some((name, _)) => Err(Error::Argument(format!(
            "{}: '{name}' cannot be the name of an entry: it is absolute, holds '..' or is too long",
            path.display()
        ))),
        None => Ok(()),
    }
}

pub(super) struct NpzWriter {
    zip: ZipWriter<BufWriter<File>>,
    method: CompressionMethod,
}

impl NpzWriter {
    pub fn new(file: BufWriter<File>, compressed: bool) -> Self {
        let method = if compressed { CompressionMethod::Deflated } else { CompressionMethod::Stored };
        NpzWriter { zip: ZipWriter::new(file), method }
    }

    pub fn put(
        &mut self,
        name: &str,
        array: &Array,
        bytes: &[u8],
        progress: &mut Progress,
    ) -> std::result::Result<(), Interrupted> {
        let header = npy::header(array);
        // Deflate can make incompressible bytes a little longer.
        let large = header.len() + bytes.len() > 0xf000_0000;
        let options = SimpleFileOptions::default().compression_method(self.method).large_file(large);
        self.zip.start_file(format!("{name}.npy"), options).map_err(|error| Interrupted::Io(error.into()))?;
        self.zip.write_all(&header).map_err(Interrupted::Io)?;
        put_chunks(&mut self.zip, bytes, progress)
    }

    pub fn finish(self) -> io::Result<BufWriter<File>> {
        Ok(self.zip.finish()?)
    }
}
