//! The JavaScript binding: it converts and delegates, it does not compute.

mod arguments;
mod array;
mod cache;
mod cancel;
mod convert;
mod device;
mod direct;
mod engine;
mod error;
mod generation;
mod grammar;
mod handle;
mod indexing;
mod info;
mod io;
mod lifetime;
mod model;
mod nn;
mod ops;
mod optim;
mod parameter;
mod promise;
mod quantize;
mod report;
mod rl;
mod sampling;
mod score;
mod tokenizer;
mod trainer;
mod transforms;

use arguments::{FlatAxis, Indices};
use array::DtypeName;
use handle::{ArrayHandle, Operand, RandomKey, integer, integers};
use parameter::NumberOrArray;
