//! Files of arrays. The owner thread reads and writes them, one array at a time.

use std::path::PathBuf;

use napi::bindgen_prelude::{FnArgs, Function, Object};
use napi::threadsafe_function::ThreadsafeFunctionCallMode;
use napi::{Env, Status};
use napi_derive::napi;

use super::ArrayHandle;
use super::cancel::{Cancel, flag};
use super::error::{self as js, argument};
use super::promise;
use crate::mlx::io::{self, Contents, Format, Loader, Metadata, Progress, Saver};
use crate::mlx::{Array, Error, Result};

/// What `load` is told besides the path.
#[napi(object, namespace = "io", object_to_js = false)]
pub struct LoadFileOptions {
    /// npy, npz, safetensors or gguf; by the extension where it is missing.
    pub format: Option<String>,
    /// Compressed files that would unpack to more bytes are refused.
    pub max_bytes: Option<f64>,
    /// Whether metadata come along.
    pub return_metadata: Option<bool>,
}

/// What `save` is told besides the arrays.
#[napi(object, namespace = "io", object_to_js = false)]
pub struct SaveFileOptions {
    /// npy, npz, safetensors or gguf.
    pub format: String,
    /// Whether the entries of an npz are deflated.
    pub compressed: Option<bool>,
    /// Texts, lists of texts, or arrays.
    pub metadata: Option<Vec<FileMetadata>>,
}

/// A value beside the arrays; one of the three is there.
#[napi(object, namespace = "io")]
pub struct FileMetadata {
    pub key: String,
    pub text: Option<String>,
    pub texts: Option<Vec<String>>,
    pub array: Option<ArrayHandle>,
}

/// What a file holds, in its order.
#[napi(object, namespace = "io", object_from_js = false)]
pub struct FileContents {
    pub names: Vec<String>,
    pub arrays: Vec<ArrayHandle>,
    pub metadata: Vec<FileMetadata>,
}

impl LoadFileOptions {
    fn parse(&self) -> Result<io::LoadOptions> {
        let format = self.format.as_deref().map(Format::parse).transpose()?;
        let max_bytes = match self.max_bytes {
            Some(bytes) if bytes >= 0. => Some(bytes as u64),
            Some(bytes) => return Err(Error::Argument(format!("maxBytes must be a number of bytes, got {bytes}"))),
            None => None,
        };
        Ok(io::LoadOptions { format, max_bytes })
    }
}

impl FileMetadata {
    fn into_value(self) -> Result<(String, Metadata)> {
        let value = match (self.text, self.texts, self.array) {
            (Some(text), None, None) => Metadata::Text(text),
            (None, Some(texts), None) => Metadata::Texts(texts),
            (None, None, Some(array)) => Metadata::Array(Array::clone(&array)),
            _ => return Err(Error::Argument(format!("metadata '{}' must be a text, a list of texts or an array", self.key))),
        };
        Ok((self.key, value))
    }

    fn new((key, value): (String, Metadata)) -> Self {
        let (mut text, mut texts, mut array) = (None, None, None);
        match value {
            Metadata::Text(value) => text = Some(value),
            Metadata::Texts(values) => texts = Some(values),
            Metadata::Array(value) => array = Some(value.into()),
        }
        FileMetadata { key, text, texts, array }
    }
}

impl FileContents {
    fn new(contents: Contents, with_metadata: bool) -> Self {
        let (names, arrays) = contents.arrays.into_iter().map(|(name, array)| (name, ArrayHandle::from(array))).unzip();
        let metadata = if with_metadata { contents.metadata } else { Vec::new() };
        FileContents { names, arrays, metadata: metadata.into_iter().map(FileMetadata::new).collect() }
    }
}

pub(super) type OnProgress<'a> = Function<'a, FnArgs<(f64, f64)>, ()>;

/// Reports to JavaScript, and ends the work when its signal says so.
pub(super) fn progress(cancel: Option<&Cancel>, on_progress: Option<OnProgress>) -> js::Result<Progress> {
    let report = on_progress
        .map(|callback| {
            callback.build_threadsafe_function().weak::<true>().callee_handled::<false>().max_queue_size::<64>().build()
        })
        .transpose()
        .map_err(argument)?;
    let cancel = flag(cancel);
    Ok(Progress::new(move |loaded, total| {
        cancel.check()?;
        if let Some(report) = &report {
            // A full queue only drops a progress report.
            let _: Status = report.call(FnArgs::from((loaded as f64, total as f64)), ThreadsafeFunctionCallMode::NonBlocking);
        }
        Ok(())
    }))
}

/// Reads a file without blocking the event loop. `onProgress` gets bytes read and bytes in all.
#[napi(namespace = "io", ts_return_type = "Promise<FileContents>")]
pub fn load<'env>(
    env: &'env Env,
    path: String,
    options: LoadFileOptions,
    cancel: Option<&Cancel>,
    #[napi(ts_arg_type = "(loaded: number, total: number) => void")] on_progress: Option<OnProgress>,
) -> js::Result<Object<'env>> {
    let with_metadata = options.return_metadata.unwrap_or(false);
    let mut loader = Loader::new(&PathBuf::from(path), options.parse()?, progress(cancel, on_progress)?);
    promise::sliced(env, move || loader.step(), move |contents| FileContents::new(contents, with_metadata))
}

/// Reads a file and waits for it.
#[napi(namespace = "io")]
pub fn load_sync(path: String, options: LoadFileOptions) -> js::Result<FileContents> {
    let contents = io::load(&PathBuf::from(path), options.parse()?, Progress::default())?;
    Ok(FileContents::new(contents, options.return_metadata.unwrap_or(false)))
}

fn saver(
    path: String,
    names: Vec<String>,
    arrays: Vec<ArrayHandle>,
    options: SaveFileOptions,
    progress: Progress,
) -> Result<Saver> {
    let save = io::SaveOptions { format: Some(Format::parse(&options.format)?), compressed: options.compressed.unwrap_or(false) };
    if names.len() != arrays.len() {
        return Err(Error::Internal(format!("{} names for {} arrays", names.len(), arrays.len())));
    }
    let arrays = names.into_iter().zip(arrays.iter().map(|array| Array::clone(array))).collect();
    let metadata = options.metadata.unwrap_or_default().into_iter().map(FileMetadata::into_value).collect::<Result<_>>()?;
    Saver::new(&PathBuf::from(path), arrays, metadata, save, progress)
}

/// Writes a file without blocking the event loop; it appears when it is complete. `onProgress` gets bytes written and bytes in all.
#[napi(namespace = "io", ts_return_type = "Promise<void>")]
pub fn save<'env>(
    env: &'env Env,
    path: String,
    names: Vec<String>,
    arrays: Vec<ArrayHandle>,
    options: SaveFileOptions,
    cancel: Option<&Cancel>,
    #[napi(ts_arg_type = "(loaded: number, total: number) => void")] on_progress: Option<OnProgress>,
) -> js::Result<Object<'env>> {
    let mut saver = saver(path, names, arrays, options, progress(cancel, on_progress)?)?;
    promise::sliced(env, move || Ok(saver.step()?.then_some(())), |()| ())
}

/// Writes a file and waits for it.
#[napi(namespace = "io")]
pub fn save_sync(path: String, names: Vec<String>, arrays: Vec<ArrayHandle>, options: SaveFileOptions) -> js::Result<()> {
    Ok(saver(path, names, arrays, options, Progress::default())?.finish()?)
}
