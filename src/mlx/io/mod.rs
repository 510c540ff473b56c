//! Files of arrays: safetensors, NumPy's `.npy` and `.npz`, and GGUF.
//!
//! A reader checks every number of a header against the file before it allocates, and holds one tensor besides the arrays that are
//! done. A writer fills a temporary file and renames it.

mod atomic;
mod gguf;
mod load;
mod npy;
mod npz;
pub mod safetensors;
mod save;

pub use atomic::write_atomically;
pub use gguf::{GgufFile, GgufTensor};
pub use load::{LoadOptions, Loader, load};
pub use save::{SaveOptions, Saver, save};

use std::path::Path;

use super::{Array, Error, Result};

/// The formats by the extension of their files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Npy,
    Npz,
    Safetensors,
    Gguf,
}

impl Format {
    pub const ALL: &[Format] = &[Format::Npy, Format::Npz, Format::Safetensors, Format::Gguf];

    pub fn name(self) -> &'static str {
        match self {
            Format::Npy => "npy",
            Format::Npz => "npz",
            Format::Safetensors => "safetensors",
            Format::Gguf => "gguf",
        }
    }

    pub fn parse(name: &str) -> Result<Format> {
        Self::ALL.iter().copied().find(|format| format.name() == name).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|format| format.name()).collect();
            Error::Argument(format!("unknown file format '{name}'; known are {}", known.join(", ")))
        })
    }

    /// The format that a path's extension names.
    pub fn of(path: &Path) -> Result<Format> {
        let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase()).unwrap_or_default();
        Self::ALL.iter().copied().find(|format| format.name() == extension).ok_or_else(|| {
            Error::Argument(format!(
                "{}: the extension names no format; known are .npy, .npz, .safetensors and .gguf, or give the format by its name",
                path.display()
            ))
        })
    }
}

/// Whether a path names a file of llama.cpp's format, and no folder.
pub fn is_gguf(path: &Path) -> bool {
    Format::of(path).is_ok_and(|format| format == Format::Gguf) && !path.is_dir()
}

/// A value beside the arrays of a file.
#[derive(Clone, Debug)]
pub enum Metadata {
    Text(String),
    Texts(Vec<String>),
    /// A number or a list of numbers; its dtype is the file's.
    Array(Array),
}

/// What a file holds, in the file's order.
#[derive(Debug, Default)]
pub struct Contents {
    pub arrays: Vec<(String, Array)>,
    pub metadata: Vec<(String, Metadata)>,
}

type Report = Box<dyn FnMut(u64, u64) -> Result<()> + Send>;

/// Bytes done and bytes in all. Its listener is asked every few megabytes and may end the work with an error.
#[derive(Default)]
pub struct Progress {
    loaded: u64,
    total: u64,
    report: Option<Report>,
}

impl Progress {
    pub fn new(report: impl FnMut(u64, u64) -> Result<()> + Send + 'static) -> Self {
        Progress { report: Some(Box::new(report)), ..Progress::default() }
    }

    fn begin(&mut self, total: u64) -> Result<()> {
        self.total = total;
        self.advance(0)
    }

    fn advance(&mut self, bytes: u64) -> Result<()> {
        self.loaded += bytes;
        self.report.as_mut().map_or(Ok(()), |report| report(self.loaded, self.total))
    }
}

/// How much is read or written between two reports.
const CHUNK: usize = 16 << 20;

#[cfg(test)]
mod tests;
