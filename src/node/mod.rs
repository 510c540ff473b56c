//! The JavaScript binding: it converts and delegates, it does not compute.

mod array;
mod cancel;
mod error;
mod generation;
mod info;
mod lifetime;
mod model;
mod promise;
mod rl;
mod tokenizer;
mod trainer;

use lifetime::account;
