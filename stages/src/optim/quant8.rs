//! Block-wise 8-bit storage of optimiser moments.
//!
//! Each block keeps its largest magnitude in f32 and every entry as one byte, an index into a table over [-1, 1] (or
//! [0, 1] for what cannot be negative). The dynamic table spends its codes evenly over seven decades, so that small
//! second moments survive: with the linear table they round to zero and the next update explodes. The bytes stay on the
//! host; on a GPU each step therefore costs a copy, in exchange for device memory.

use burn::tensor::{DType, Device, Tensor, TensorData};
use schemars::JsonSchema;
use sepia_engine::stage::StageError;
use serde::{Deserialize, Serialize};

use crate::train::State;

/// How the 256 codes are spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CodeTable {
    /// Evenly over seven decades (dynamic tree quantisation, Dettmers 2015).
    #[default]
    Dynamic,
    /// Evenly over the range.
    Linear,
}

/// How moments are stored in 8 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EightBit {
    /// Entries that share one scale; libraries have used 2048 and 256.
    pub block_size: usize,
    /// How the codes are spread.
    pub table: CodeTable,
    /// Matrices with fewer entries keep full moments.
    pub min_size: usize,
}

impl Default for EightBit {
    fn default() -> Self {
        Self { block_size: 256, table: CodeTable::Dynamic, min_size: 4096 }
    }
}

/// The codes of a table, ascending; 256 of them, and 0 is among them.
#[must_use]
pub fn codes(table: CodeTable, signed: bool) -> Vec<f32> {
    match (table, signed) {
        (CodeTable::Linear, false) => (0..256).map(|k| k as f32 / 255.0).collect(),
        // One code is given up so that 0 and both ends are exact.
        (CodeTable::Linear, true) => (0..256).map(|k| (k as f32 - 128.0).max(-127.0) / 127.0).collect(),
        (CodeTable::Dynamic, signed) => dynamic(signed),
    }
}

/// Decade d of 7 (10^-6 .. 10^0) gets 2^d codes (signed: of each sign; unsigned: 2^(d+1)), at the middles of equal parts of
/// [0.1, 1] of it; then 0 and 1.
fn dynamic(signed: bool) -> Vec<f32> {
    let mut codes = vec![0.0_f32, 1.0];
    for decade in 0..7_i32 {
        let parts = 1_u32 << (decade + i32::from(!signed));
        let size = 10.0_f64.powi(decade - 6);
        for part in 0..parts {
            let middle = 0.1 + 0.9 * (f64::from(part) + 0.5) / f64::from(parts);
            codes.push((size * middle) as f32);
            if signed {
                codes.push((-size * middle) as f32);
            }
        }
    }
    codes.sort_by(f32::total_cmp);
    codes
}

/// A flat tensor in 8 bits.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantised {
    bytes: Vec<u8>,
    /// Largest magnitude of each block.
    scales: Vec<f32>,
    block_size: usize,
    table: CodeTable,
    signed: bool,
}

impl Quantised {
    /// `count` zeros.
    #[must_use]
    pub fn zeros(count: usize, block_size: usize, table: CodeTable, signed: bool) -> Self {
        let zero = codes(table, signed).partition_point(|code| *code < 0.0) as u8;
        let blocks = count.div_ceil(block_size.max(1));
        Self { bytes: vec![zero; count], scales: vec![0.0; blocks], block_size: block_size.max(1), table, signed }
    }

    /// The values, as f32.
    #[must_use]
    pub fn values(&self) -> Vec<f32> {
        let codes = codes(self.table, self.signed);
        let mut values = Vec::with_capacity(self.bytes.len());
        for (block, scale) in self.bytes.chunks(self.block_size).zip(&self.scales) {
            values.extend(block.iter().map(|byte| codes[usize::from(*byte)] * scale));
        }
        values
    }

    /// The values as a tensor `[count]`.
    #[must_use]
    pub fn to_tensor(&self, device: &Device, dtype: DType) -> Tensor<1> {
        Tensor::from_data(TensorData::new(self.values(), [self.bytes.len()]), (device, dtype))
    }

    /// Stores new values: each entry becomes the nearest code of its block.
    pub fn store(&mut self, values: &[f32]) {
        let codes = codes(self.table, self.signed);
        let middles: Vec<f32> = codes.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0).collect();
        let blocks = values.chunks(self.block_size).zip(self.bytes.chunks_mut(self.block_size));
        for ((block, bytes), scale) in blocks.zip(&mut self.scales) {
            *scale = block.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
            let inverse = if *scale > 0.0 { 1.0 / *scale } else { 0.0 };
            for (value, byte) in block.iter().zip(bytes) {
                *byte = middles.partition_point(|middle| *middle < value * inverse) as u8;
            }
        }
    }

    /// Makes every entry zero.
    pub fn clear(&mut self) {
        *self = Self::zeros(self.bytes.len(), self.block_size, self.table, self.signed);
    }

    /// Bytes held: one an entry and four a block.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len() + 4 * self.scales.len()
    }

    /// Adds itself to a saved state.
    pub fn save(&self, at: &str, state: &mut State) {
        let (codes, scales) = (self.bytes.clone(), self.scales.clone());
        let (entries, blocks) = (codes.len(), scales.len());
        state.put_data(&format!("{at}/codes"), TensorData::new(codes, [entries]));
        state.put_data(&format!("{at}/scales"), TensorData::new(scales, [blocks]));
    }

    /// Takes its values from a saved state.
    ///
    /// # Errors
    /// When they are missing or of another size.
    pub fn load(&mut self, at: &str, state: &mut State) -> Result<(), StageError> {
        let codes = state.take_data(&format!("{at}/codes"))?.try_into_vec().ok();
        let scales = state.take_data(&format!("{at}/scales"))?.try_into_vec().ok();
        match (codes, scales) {
            (Some(codes), Some(scales)) if (codes.len(), scales.len()) == (self.bytes.len(), self.scales.len()) => {
                (self.bytes, self.scales) = (codes, scales);
                Ok(())
            }
            _ => Err(StageError::new(format!("the checkpoint's `{at}` does not have {} codes", self.bytes.len()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_table_has_256_ascending_codes_with_zero_and_one() {
        for (table, signed) in [CodeTable::Dynamic, CodeTable::Linear].into_iter().flat_map(|t| [(t, true), (t, false)])
        {
            let codes = codes(table, signed);
            assert_eq!(codes.len(), 256, "{table:?}");
            assert!(codes.windows(2).all(|pair| pair[0] <= pair[1]));
            assert!(codes.contains(&0.0) && codes[255] == 1.0);
            assert_eq!(codes[0] < 0.0, signed);
        }
    }

    #[test]
    fn zeros_are_zero_and_stay_so() {
        let mut stored = Quantised::zeros(15, 4, CodeTable::Dynamic, true);
        assert_eq!(stored.values(), vec![0.0; 15]);
        stored.store(&[0.0; 15]);
        assert_eq!(stored.values(), vec![0.0; 15]);
        assert_eq!(stored.bytes(), 15 + 4 * 4);
    }

    proptest! {
        #[test]
        fn an_entry_is_stored_to_within_half_the_gap_of_its_block(values in prop::collection::vec(-2.0f32..2.0, 1..40)) {
            let mut stored = Quantised::zeros(values.len(), 8, CodeTable::Dynamic, true);
            stored.store(&values);
            let widest = codes(CodeTable::Dynamic, true).windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f32::max);
            for (block, back) in values.chunks(8).zip(stored.values().chunks(8)) {
                let scale = block.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
                for (value, back) in block.iter().zip(back) {
                    prop_assert!((value - back).abs() <= 0.51 * widest * scale);
                    prop_assert!(value * back >= 0.0);
                }
            }
        }

        #[test]
        fn the_dynamic_table_keeps_small_second_moments(exponent in 0i32..6) {
            let small = 10.0_f32.powi(-exponent);
            let mut stored = Quantised::zeros(2, 2, CodeTable::Dynamic, false);
            stored.store(&[1.0, small]);
            let back = stored.values()[1];
            prop_assert!(back > 0.3 * small && back < 3.0 * small, "{small} came back as {back}");
        }
    }
}
