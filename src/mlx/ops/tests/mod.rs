//! Operations against recorded numbers of MLX, closed forms, and hostile input.

mod gradients;
mod hostile;
mod numerics;
mod semantics;
mod switch;
