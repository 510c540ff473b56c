//! When the garbage collector hears of the bytes that arrays hold outside its heap.
//!
//! V8 collects all garbage whenever what it was told of has grown by some tens of megabytes, less while its own heap is small, which takes
//! it 10 ms and more of both its threads. A training loop whose old weights and gradients are megabytes would spend a fifth of its time
//! there. So growth is told late, many megabytes at once. What comes after that, until arrays are freed, is told as it comes: from 64 MB
//! on this makes V8 hurry.

/// Bytes of garbage that are worth a collection.
const BUDGET: i64 = 48 << 20;

/// Less is not worth a call.
const STEP: i64 = 1 << 20;

pub struct Report {
    /// Bytes made and freed that the garbage collector has not heard of.
    pub untold: i64,
    /// Whether it has heard of growth last.
    pressed: bool,
}

impl Report {
    pub const NEW: Report = Report { untold: 0, pressed: false };

    /// What it is time to tell.
    pub fn due(&mut self) -> i64 {
        let enough = if self.untold < 0 || self.pressed { STEP } else { BUDGET };
        if self.untold.abs() < enough {
            return 0;
        }
        self.pressed = self.untold > 0;
        std::mem::take(&mut self.untold)
    }
}
