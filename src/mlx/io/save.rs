//! Writing a file array by array.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::atomic::{AtomicFile, cannot_write};
use super::load::Interrupted;
use super::npz::NpzWriter;
use super::{CHUNK, Format, Metadata, Progress, gguf, npy, safetensors};
use crate::mlx::{Array, Error, Result};
use crate::runtime;

/// What a writer is told besides the arrays.
#[derive(Clone, Copy, Debug, Default)]
pub struct SaveOptions {
    /// By the extension where it is not given.
    pub format: Option<Format>,
    /// Whether the entries of an `.npz` are deflated.
    pub compressed: bool,
}

/// Where the bytes of arrays go once the header is written.
enum Sink {
    Plain(BufWriter<File>, Format),
    Npz(Box<NpzWriter>),
}

/// Writes a file in steps, so that other work can run in between. Until the last step `path` is as it was.
pub struct Saver {
    path: PathBuf,
    options: SaveOptions,
    arrays: Vec<(String, Array)>,
    metadata: Vec<(String, Metadata)>,
    progress: Progress,
    /// In the order of writing.
    next: usize,
    open: Option<(AtomicFile, Sink)>,
}

impl Saver {
    /// Checks what can be checked before anything is written.
    pub fn new(
        path: &Path,
        arrays: Vec<(String, Array)>,
        metadata: Vec<(String, Metadata)>,
        options: SaveOptions,
        progress: Progress,
    ) -> Result<Self> {
        let format = options.format.map_or_else(|| Format::of(path), Ok)?;
        let mut names = HashSet::new();
        if let Some((name, _)) = arrays.iter().find(|(name, _)| !names.insert(name.as_str())) {
            return Err(Error::Argument(format!("{}: two arrays have the name '{name}'", path.display())));
        }
        match format {
            Format::Npy if arrays.len() != 1 => {
                return Err(Error::Argument(format!("{}: an .npy file holds one array, not {}", path.display(), arrays.len())));
            }
            Format::Npz => super::npz::check_names(path, &arrays)?,
            Format::Safetensors => safetensors::check(path, &arrays, &metadata)?,
            Format::Gguf => gguf::check(path, &arrays, &metadata)?,
            Format::Npy => {}
        }
        if matches!(format, Format::Npy | Format::Npz) && !metadata.is_empty() {
            return Err(Error::Argument(format!("{}: an .{} file has no place for metadata", path.display(), format.name())));
        }
        let options = SaveOptions { format: Some(format), ..options };
        Ok(Saver { path: path.to_path_buf(), options, arrays, metadata, progress, next: 0, open: None })
    }

    /// Writes the header, the next array, or finishes. Whether that was all.
    pub fn step(&mut self) -> Result<bool> {
        let Some((_, sink)) = &mut self.open else {
            self.progress.begin(self.arrays.iter().map(|(_, array)| array.nbytes() as u64).sum())?;
            self.open = Some(self.start()?);
            return Ok(false);
        };
        if let Some((name, array)) = self.arrays.get(self.next) {
            self.next += 1;
            let bytes = array.to_bytes()?;
            let written = match sink {
                Sink::Npz(writer) => writer.put(name, array, &bytes, &mut self.progress),
                Sink::Plain(file, format) => put_chunks(file, &bytes, &mut self.progress).and_then(|()| match format {
                    Format::Gguf => gguf::pad(file, bytes.len()).map_err(Interrupted::Io),
                    _ => Ok(()),
                }),
            };
            written.map_err(|error| write_error(&self.path, error))?;
            return Ok(false);
        }
        if let Some((target, sink)) = self.open.take() {
            let file = match sink {
                Sink::Plain(file, _) => file,
                Sink::Npz(writer) => writer.finish().map_err(|error| cannot_write(&self.path, error))?,
            };
            target.commit(file)?;
        }
        Ok(true)
    }

    /// Does what is left to do and waits for it.
    pub fn finish(mut self) -> Result<()> {
        runtime::block_on_owner(move || {
            while !self.step()? {}
            Ok(())
        })
    }

    fn start(&mut self) -> Result<(AtomicFile, Sink)> {
        let (target, mut file) = AtomicFile::create(&self.path)?;
        let format = self.options.format.unwrap_or(Format::Npy);
        let header = match format {
            Format::Npz => return Ok((target, Sink::Npz(Box::new(NpzWriter::new(file, self.options.compressed))))),
            Format::Npy => npy::header(&self.arrays[0].1),
            Format::Gguf => gguf::header(&self.arrays, &self.metadata)?,
            Format::Safetensors => {
                // Aligned for readers that map the file: wide elements first.
                self.arrays.sort_by_key(|(_, array)| std::cmp::Reverse(array.dtype().size()));
                safetensors::header(&self.arrays, &self.metadata)
            }
        };
        file.write_all(&header).map_err(|error| cannot_write(&self.path, error))?;
        Ok((target, Sink::Plain(file, format)))
    }
}

/// Writes a file and waits for it.
pub fn save(
    path: &Path,
    arrays: Vec<(String, Array)>,
    metadata: Vec<(String, Metadata)>,
    options: SaveOptions,
    progress: Progress,
) -> Result<()> {
    Saver::new(path, arrays, metadata, options, progress)?.finish()
}

fn write_error(path: &Path, error: Interrupted) -> Error {
    match error {
        Interrupted::Io(error) => cannot_write(path, error),
        Interrupted::Stopped(error) => error,
    }
}

/// Writes with a report every few megabytes.
pub(super) fn put_chunks(file: &mut impl Write, bytes: &[u8], progress: &mut Progress) -> std::result::Result<(), Interrupted> {
    for chunk in bytes.chunks(CHUNK) {
        file.write_all(chunk).map_err(Interrupted::Io)?;
        progress.advance(chunk.len() as u64).map_err(Interrupted::Stopped)?;
    }
    Ok(())
}
