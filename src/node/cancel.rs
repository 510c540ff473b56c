//! The flag behind `signal`: JavaScript flips it, long work looks at it between tokens and micro-batches.

use napi_derive::napi;

use crate::runtime;

/// Stops the work it is handed to.
#[napi]
#[derive(Default)]
pub struct Cancel {
    pub(super) flag: runtime::Cancel,
}

#[napi]
impl Cancel {
    #[napi(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    /// The work ends with `ERR_MLX_CANCELLED` before its next token or micro-batch.
    #[napi]
    pub fn cancel(&self) {
        self.flag.cancel();
    }
}

/// The flag of an optional argument; without one, a flag that nobody flips.
pub fn flag(cancel: Option<&Cancel>) -> runtime::Cancel {
    cancel.map(|cancel| cancel.flag.clone()).unwrap_or_default()
}
