//! Values in 8 bits in the host's memory.

use burn::tensor::TensorData;

use super::{CodeTable, codes, middles};

/// A flat tensor in 8 bits.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Host {
    codes: Vec<u8>,
    /// Largest magnitude of each block.
    scales: Vec<f32>,
    block_size: usize,
    table: CodeTable,
    signed: bool,
}

impl Host {
    /// `count` zeros.
    pub(super) fn zeros(count: usize, block_size: usize, table: CodeTable, signed: bool) -> Self {
        let zero = super::zero(table, signed);
        let blocks = count.div_ceil(block_size);
        Self { codes: vec![zero; count], scales: vec![0.0; blocks], block_size, table, signed }
    }

    /// The values, as f32.
    pub(super) fn values(&self) -> Vec<f32> {
        let codes = codes(self.table, self.signed);
        let mut values = Vec::with_capacity(self.codes.len());
        for (block, scale) in self.codes.chunks(self.block_size).zip(&self.scales) {
            values.extend(block.iter().map(|code| codes[usize::from(*code)] * scale));
        }
        values
    }

    /// Stores new values: each entry becomes the nearest code of its block.
    pub(super) fn store(&mut self, values: &[f32]) {
        let middles = middles(self.table, self.signed);
        let blocks = values.chunks(self.block_size).zip(self.codes.chunks_mut(self.block_size));
        for ((block, codes), scale) in blocks.zip(&mut self.scales) {
            *scale = block.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
            let inverse = if *scale > 0.0 { 1.0 / *scale } else { 0.0 };
            for (value, code) in block.iter().zip(codes) {
                *code = middles.partition_point(|middle| *middle < value * inverse) as u8;
            }
        }
    }

    /// Codes and scales, for a saved state.
    pub(super) fn data(&self) -> [TensorData; 2] {
        let (entries, blocks) = (self.codes.len(), self.scales.len());
        [TensorData::new(self.codes.clone(), [entries]), TensorData::new(self.scales.clone(), [blocks])]
    }

    /// Takes up codes and scales of the right number.
    pub(super) fn take(&mut self, codes: Vec<u8>, scales: Vec<f32>) {
        (self.codes, self.scales) = (codes, scales);
    }
}
