//! The block formats of ggml: integers of few bits with a scale, and often an offset, for each block.

use half::f16;

/// Elements of the simple blocks.
pub(super) const BLOCK: usize = 32;

/// Blocks that MLX's quantized products take as they are, in groups of 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mlx::io) enum Packed {
    Q4_0,
    Q4_1,
    Q8_0,
}

fn half_at(block: &[u8], at: usize) -> f16 {
    f16::from_le_bytes([block[at], block[at + 1]])
}

impl Packed {
    pub fn parse(number: u32) -> Option<Self> {
        match number {
            2 => Some(Packed::Q4_0),
            3 => Some(Packed::Q4_1),
            8 => Some(Packed::Q8_0),
            _ => None,
        }
    }

    pub fn bits(self) -> i32 {
        if self == Packed::Q8_0 { 8 } else { 4 }
    }

    /// Of a block.
    pub fn bytes(self) -> usize {
        match self {
            Packed::Q4_0 => 2 + 16,
            Packed::Q4_1 => 4 + 16,
            Packed::Q8_0 => 2 + 32,
        }
    }

    /// The integers as MLX packs them (little-endian words, first element lowest), scales and biases: `scale * q + bias`.
    pub fn unpack(self, bytes: &[u8]) -> (Vec<u8>, Vec<f16>, Vec<f16>) {
        let blocks = bytes.len() / self.bytes();
        let mut words = Vec::with_capacity(blocks * BLOCK * self.bits() as usize / 8);
        let (mut scales, mut biases) = (Vec::with_capacity(blocks), Vec::with_capacity(blocks));
        for block in bytes.chunks_exact(self.bytes()) {
            let scale = half_at(block, 0);
            scales.push(scale);
            // A power of two times a half is exact.
            let offset = |zero: f32| f16::from_f32(zero * scale.to_f32());
            match self {
                Packed::Q4_0 => {
                    biases.push(offset(-8.));
                    pack_nibbles(&block[2..], &mut words);
                }
                Packed::Q4_1 => {
                    biases.push(half_at(block, 2));
                    pack_nibbles(&block[4..], &mut words);
                }
                // Signed integers become unsigned ones, 128 higher.
                Packed::Q8_0 => {
                    biases.push(offset(-128.));
                    words.extend(block[2..].iter().map(|byte| byte ^ 0x80));
                }
            }
        }
        (words, scales, biases)
    }
}

/// The low halves of a block's 16 bytes are its first 16 elements; MLX wants neighbours in one byte.
fn pack_nibbles(bytes: &[u8], words: &mut Vec<u8>) {
    words.extend(bytes.chunks_exact(2).map(|pair| (pair[0] & 15) | (pair[1] << 4)));
    words.extend(bytes.chunks_exact(2).map(|pair| (pair[0] >> 4) | (pair[1] & 0xf0)));
}

/// Groups of 32 integers as MLX packs them, for which `scale * q + bias` in float32 is what the blocks stand for, bit for bit but for the sign of zero: the scales
/// of the larger blocks are products of a half and an integer of six bits, which have no place in a half.
pub(in crate::mlx::io) struct Groups {
    pub bits: i32,
    pub words: Vec<u8>,
    pub scales: Vec<f32>,
    pub biases: Vec<f32>,
}

/// Appends integers of so many bits as MLX packs them: one after the other from the lowest bit of the first byte on.
fn pack_bits(integers: &[u8; BLOCK], bits: i32, words: &mut Vec<u8>) {
    let (mut held, mut filled) = (0u32, 0);
    for &integer in integers {
        held |= u32::from(integer) << filled;
        filled += bits;
        while filled >= 8 {
            words.push(held as u8);
            held >>= 8;
            filled -= 8;
        }
    }
}

/// Blocks that are computed out, as Python's MLX does with those it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mlx::io) enum Expanded {
    Q5_0,
    Q5_1,
    Q2K,
    Q4K,
    Q5K,
    Q6K,
}

impl Expanded {
    pub fn parse(number: u32) -> Option<Self> {
        match number {
            6 => Some(Expanded::Q5_0),
            7 => Some(Expanded::Q5_1),
            10 => Some(Expanded::Q2K),
            12 => Some(Expanded::Q4K),
            13 => Some(Expanded::Q5K),
            14 => Some(Expanded::Q6K),
            _ => None,
        }
    }

    /// Of a block.
    pub fn elements(self) -> usize {
        match self {
            Expanded::Q5_0 | Expanded::Q5_1 => BLOCK,
            _ => 256,
        }
    }

    /// Of a block.
    pub fn bytes(self) -> usize {
        match self {
            Expanded::Q5_0 => 2 + 4 + 16,
            Expanded::Q5_1 => 4 + 4 + 16,
            Expanded::Q2K => 16 + 64 + 4,
            Expanded::Q4K => 4 + 12 + 128,
            Expanded::Q5K => 4 + 12 + 32 + 128,
            Expanded::Q6K => 128 + 64 + 16 + 2,
        }
    }

    /// Of an integer, where blocks consist of `Groups`; the others have a scale for 16 elements, which MLX has not.
    pub fn bits(self) -> Option<i32> {
        match self {
            Expanded::Q4K => Some(4),
            Expanded::Q5_0 | Expanded::Q5_1 | Expanded::Q5K => Some(5),
            Expanded::Q2K | Expanded::Q6K => None,
        }
    }

    pub fn groups(self, bytes: &[u8]) -> Option<Groups> {
        let bits = self.bits()?;
        let count = bytes.len() / self.bytes() * self.elements() / BLOCK;
        let words = Vec::with_capacity(count * BLOCK * bits as usize / 8);
        let mut groups = Groups { bits, words, scales: Vec::with_capacity(count), biases: Vec::with_capacity(count) };
        for block in bytes.chunks_exact(self.bytes()) {
            self.split(block, &mut |scale, bias, integers| {
                pack_bits(integers, bits, &mut groups.words);
                groups.scales.push(scale);
                groups.biases.push(bias);
            });
        }
        Some(groups)
    }

    /// The groups of a block: scale, bias and integers of each. Scales and biases are exact.
    fn split(self, block: &[u8], put: &mut impl FnMut(f32, f32, &[u8; BLOCK])) {
        let half = |at: usize| half_at(block, at).to_f32();
        match self {
            Expanded::Q5_0 => put(half(0), -16. * half(0), &simple_5(&block[2..])),
            Expanded::Q5_1 => put(half(0), half(2), &simple_5(&block[4..])),
            Expanded::Q4K => q45_k(block, None, &block[16..], put),
            Expanded::Q5K => q45_k(block, Some(&block[16..48]), &block[48..], put),
            Expanded::Q2K | Expanded::Q6K => {}
        }
    }

    /// Computed in float32, rounded once.
    pub fn values(self, bytes: &[u8]) -> Vec<f16> {
        let mut values = Vec::with_capacity(bytes.len() / self.bytes() * self.elements());
        for block in bytes.chunks_exact(self.bytes()) {
            let mut put = |value: f32| values.push(f16::from_f32(value));
            match self {
                Expanded::Q2K => q2_k(block, &mut put),
                Expanded::Q6K => q6_k(block, &mut put),
                // In this order zero has the sign that MLX gives it.
                Expanded::Q5_0 => {
                    let scale = half_at(block, 0).to_f32();
                    simple_5(&block[2..]).iter().for_each(|&q| put(scale * (f32::from(q) - 16.)));
                }
                _ => self.split(block, &mut |scale, bias, integers| {
                    integers.iter().for_each(|&q| put(scale * f32::from(q) + bias));
                }),
            }
        }
        values
    }
}

/// 32 integers: the fifth bits in a word of their own, then four bits in halves of bytes as in Q4_0.
fn simple_5(block: &[u8]) -> [u8; BLOCK] {
    let fifth = u32::from_le_bytes([block[0], block[1], block[2], block[3]]);
    std::array::from_fn(|index| {
        let byte = block[4 + index % 16];
        let low = if index < 16 { byte & 15 } else { byte >> 4 };
        low | ((fifth >> index & 1) << 4) as u8
    })
}

/// 16 parts of 16 elements of two bits; the bytes of `scales` hold a scale and an offset of four bits each.
fn q2_k(block: &[u8], put: &mut impl FnMut(f32)) {
    let (scales, qs) = (&block[..16], &block[16..80]);
    let (scale, offset) = (half_at(block, 80).to_f32(), half_at(block, 82).to_f32());
    for (part, &packed) in scales.iter().enumerate() {
        // Two halves of the block; in each, four pairs of parts share 32 bytes.
        let (half, pair, which) = (part / 8, part % 8 / 2, part % 2);
        let (d, m) = (scale * (packed & 15) as f32, offset * (packed >> 4) as f32);
        for index in 0..16 {
            let q = qs[32 * half + 16 * which + index] >> (2 * pair) & 3;
            put(d * q as f32 - m);
        }
    }
}

/// Eight parts of 32 elements of four bits (and a fifth in `high`); scales and offsets of six bits are packed in 12 bytes.
fn q45_k(block: &[u8], high: Option<&[u8]>, qs: &[u8], put: &mut impl FnMut(f32, f32, &[u8; BLOCK])) {
    let (scale, offset, packed) = (half_at(block, 0).to_f32(), half_at(block, 2).to_f32(), &block[4..16]);
    for part in 0..8 {
        let (s, m) = if part < 4 {
            (packed[part] & 63, packed[part + 4] & 63)
        } else {
            (packed[part + 4] & 15 | packed[part - 4] >> 6 << 4, packed[part + 4] >> 4 | packed[part] >> 6 << 4)
        };
        let integers = std::array::from_fn(|index| {
            let byte = qs[32 * (part / 2) + index];
            let low = if part % 2 == 0 { byte & 15 } else { byte >> 4 };
            low | high.map_or(0, |high| (high[index] >> part & 1) << 4)
        });
        put(scale * s as f32, -offset * m as f32, &integers);
    }
}

/// 16 parts of 16 elements of six bits, four below and two above, with signed scales.
fn q6_k(block: &[u8], put: &mut impl FnMut(f32)) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let scale = half_at(block, 208).to_f32();
    for half in 0..2 {
        for quarter in 0..4 {
            for index in 0..32 {
                let byte = low[64 * half + 32 * (quarter % 2) + index];
                let four = if quarter < 2 { byte & 15 } else { byte >> 4 };
                let two = high[32 * half + index] >> (2 * quarter) & 3;
                let s = scales[8 * half + 2 * quarter + index / 16] as i8;
                put(scale * s as f32 * ((four | two << 4) as f32 - 32.));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mlx::ops::{Quantization, QuantizationMode, dequantize};
    use crate::mlx::{Array, Dtype};

    #[test]
    fn groups_are_the_numbers_of_the_blocks_bit_for_bit() {
        let mut state = 1u32;
        let mut random = || {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            (state >> 24) as u8
        };
        for kind in [Expanded::Q5_0, Expanded::Q5_1, Expanded::Q4K, Expanded::Q5K] {
            let mut bytes: Vec<u8> = (0..8 * kind.bytes()).map(|_| random()).collect();
            for block in bytes.chunks_exact_mut(kind.bytes()) {
                // Finite halves with all their bits.
                for at in [0, 2].into_iter().take(if kind == Expanded::Q5_0 { 1 } else { 2 }) {
                    let half = f16::from_bits(0x1400 | (u16::from(random()) << 2) | (u16::from(random()) & 0x83ff));
                    block[at..at + 2].copy_from_slice(&half.to_le_bytes());
                }
            }
            let Groups { bits, words, scales, biases } = kind.groups(&bytes).unwrap();
            let shape = |size: usize| [8, (size / 8) as i32];
            let how = Quantization::new(QuantizationMode::Affine, Some(32), Some(bits)).unwrap();
            let numbers = dequantize(
                &Array::from_bytes(&words, &shape(words.len() / 4), Dtype::Uint32).unwrap(),
                &Array::from_slice(&scales, &shape(scales.len())).unwrap(),
                Some(&Array::from_slice(&biases, &shape(biases.len())).unwrap()),
                how,
                None,
                Some(Dtype::Float32),
            );
            let found = numbers.unwrap().astype(Dtype::Float16).unwrap().to_vec::<f16>().unwrap();
            let want = kind.values(&bytes);
            assert_eq!(found.len(), 8 * kind.elements());
            assert!(found.iter().zip(&want).all(|(found, want)| found == want), "{kind:?}");
            assert!(want.iter().any(|value| value.to_f32().abs() > 1e-3));
        }
        for kind in [Expanded::Q2K, Expanded::Q6K] {
            assert!(kind.groups(&vec![0; kind.bytes()]).is_none());
        }
    }
}
