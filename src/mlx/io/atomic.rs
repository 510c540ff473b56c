//! Files that are complete or not there.

use std::fs::File;
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::mlx::{Error, Result};

/// The error of a failed write, with the cure for the common cause.
pub(super) fn cannot_write(path: &Path, error: io::Error) -> Error {
    let cure = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; the disk is full. What was saved before is not lost; free some space and try again"
        }
        io::ErrorKind::FileTooLarge => "; a file of this size is not allowed here, by `ulimit -f` or by the file system",
        io::ErrorKind::NotFound => "; its folder does not exist",
        _ => "",
    };
    Error::save(path, format!("cannot write: {error}{cure}"))
}

/// A temporary file beside `path` that takes its place when it is complete. Dropped before that, it is removed.
pub(super) struct AtomicFile {
    path: PathBuf,
    temporary: PathBuf,
    done: bool,
}

impl AtomicFile {
    pub fn create(path: &Path) -> Result<(Self, BufWriter<File>)> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        // A link stays a link: what it points to is replaced.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        if path.exists() && !path.is_file() {
            return Err(Error::save(path, "exists and is not a file"));
        }
        let name = path.file_name().ok_or_else(|| Error::save(&path, "this is not the name of a file"))?.to_string_lossy();
        // Workers share the process, so its id is not enough.
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let temporary = path.with_file_name(format!(".{name}.{}-{count}.tmp", std::process::id()));
        let file = File::create(&temporary).map_err(|error| cannot_write(&path, error))?;
        Ok((AtomicFile { path, temporary, done: false }, BufWriter::with_capacity(1 << 20, file)))
    }

    /// Brings the file to the disk and gives it its name.
    pub fn commit(mut self, file: BufWriter<File>) -> Result<()> {
        let finish = || {
            file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
            std::fs::rename(&self.temporary, &self.path)
        };
        finish().map_err(|error| cannot_write(&self.path, error))?;
        self.done = true;
        // The name is safe on the disk with its folder. Not every file system can do that, and the file is complete without it.
        #[cfg(unix)]
        if let Ok(folder) = File::open(self.path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."))) {
            let _ = folder.sync_all();
        }
        Ok(())
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if !self.done {
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

/// Writes a temporary file beside `path`, brings it to the disk and renames it: `path` is never half written.
pub fn write_atomically(path: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<()> {
    let (target, mut file) = AtomicFile::create(path)?;
    fill(&mut file)?;
    target.commit(file)
}
