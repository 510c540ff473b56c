//! The one error type of the crate. Every variant maps to a stable code that JavaScript sees.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::PathBuf;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Shapes, axes or sizes that do not fit together.
    #[error("{0}")]
    Shape(String),
    /// A dtype that the operation does not take.
    #[error("{0}")]
    Dtype(String),
    /// An option or argument outside its range, or unknown.
    #[error("{0}")]
    Argument(String),
    /// A checkpoint or tokenizer file that cannot be read or does not hold what it should.
    #[error("{}: {message}", path.display())]
    Load { path: PathBuf, message: String },
    /// A file or folder that cannot be written.
    #[error("{}: {message}", path.display())]
    Save { path: PathBuf, message: String },
    /// A `config.json` (or tokenizer configuration) with missing or impossible values.
    #[error("{0}")]
    Config(String),
    #[error("model_type '{found}' is not supported; this version knows {known}")]
    UnsupportedModel { found: String, known: String },
    /// A chat template that refused the conversation or cannot be rendered.
    #[error("{0}")]
    Template(String),
    #[error("cancelled")]
    Cancelled,
    #[error("this {0} has been disposed")]
    Disposed(&'static str),
    #[error("out of memory: {0}")]
    OutOfMemory(String),
    #[error("{0}")]
    Internal(String),
}

impl Error {
    /// The stable code that JavaScript callers match on.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Shape(_) => "ERR_MLX_SHAPE",
            Error::Dtype(_) => "ERR_MLX_DTYPE",
            Error::Argument(_) => "ERR_MLX_ARGUMENT",
            Error::Load { .. } => "ERR_MLX_LOAD",
            Error::Save { .. } => "ERR_MLX_SAVE",
            Error::Config(_) => "ERR_MLX_CONFIG",
            Error::UnsupportedModel { .. } => "ERR_MLX_UNSUPPORTED_MODEL",
            Error::Template(_) => "ERR_MLX_TEMPLATE",
            Error::Cancelled => "ERR_MLX_CANCELLED",
            Error::Disposed(_) => "ERR_MLX_DISPOSED",
            Error::OutOfMemory(_) => "ERR_MLX_OOM",
            Error::Internal(_) => "ERR_MLX_INTERNAL",
        }
    }

    pub fn load(path: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        Error::Load { path: path.into(), message: message.into() }
    }

    pub fn save(path: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        Error::Save { path: path.into(), message: message.into() }
    }

    /// MLX reports every problem as text; its wording tells the kind.
    fn from_mlx(text: &str) -> Self {
        // MLX-C appends the place in its own sources, which helps nobody here.
        let text = text.rsplit_once(" at ").map_or(text, |(message, place)| if place.contains(".cpp:") { message } else { text });
        let lower = text.to_ascii_lowercase();
        let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
        if has(&["float64 is not supported on the gpu"]) {
            let hint = "compute with float32, or place the work on the CPU with mx.setDefaultDevice('cpu')";
            Error::Dtype(format!("{text}: {hint}"))
        } else if has(&["unable to allocate", "out of memory", "attempting to allocate", "bad_alloc", "[malloc"]) {
            Error::OutOfMemory(text.to_string())
        } else if has(&["failed with error code"]) {
            Error::Argument(format!("{text}: the matrix is singular, or has elements that are NaN or infinite"))
        } else if has(&["dtype", "type promotion", "floating point type", "integral type", "integer type"])
            || has(&[
                "must be a float type",
                "unsupported type",
                "not supported for",
                "type not supported",
                "given type",
                "bool not supported",
                "types are supported",
                "got types",
            ])
        {
            Error::Dtype(text.to_string())
        } else if has(&[
            "shape",
            "dimension",
            "axis",
            "axes",
            "broadcast",
            "size",
            "ndim",
            "indices",
            "index",
            "empty",
            "at least 1d",
        ]) {
            Error::Shape(text.to_string())
        } else {
            Error::Internal(text.to_string())
        }
    }
}

thread_local! {
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
}

unsafe extern "C" fn remember(message: *const c_char, _data: *mut c_void) {
    // SAFETY: MLX-C passes a NUL-terminated buffer that lives during the call.
    let text = unsafe { CStr::from_ptr(message) }.to_string_lossy().into_owned();
    // The first message is the cause; those that follow come from wrappers around it.
    LAST.with(|last| last.borrow_mut().get_or_insert(text).truncate(4096));
}

/// MLX-C's own handler ends the process; this one keeps the text for the caller.
pub(crate) fn install_handler() {
    // SAFETY: the handler is a plain function without data.
    unsafe { mlx_sys::mlx_set_error_handler(Some(remember), std::ptr::null_mut(), None) };
}

/// Turns the status code of an MLX-C call into a `Result`.
pub(crate) fn check(status: c_int) -> Result<()> {
    if status == 0 {
        return Ok(());
    }
    let text = LAST.with(|last| last.borrow_mut().take());
    Err(Error::from_mlx(text.as_deref().unwrap_or("MLX failed without saying why")))
}
