//! Values in 8 bits in a GPU's memory, coded and decoded there: nothing is read by the host.

use burn::tensor::{DType, Device, Int, IntDType, Tensor, TensorData};

use super::{CodeTable, codes, middles};

/// A flat tensor in 8 bits.
#[derive(Debug, Clone)]
pub(super) struct OnDevice {
    /// One byte an entry, `[count]`.
    codes: Tensor<1, Int>,
    /// Largest magnitude of each block, `[blocks]`.
    scales: Tensor<1>,
    block_size: usize,
    /// What the codes stand for, `[256]`, and what lies between two of them, `[255]`.
    table: Tensor<1>,
    middles: Tensor<1>,
}

impl OnDevice {
    /// `count` zeros.
    pub(super) fn zeros(count: usize, block_size: usize, table: CodeTable, signed: bool, device: &Device) -> Self {
        let floats = |values: Vec<f32>| {
            let length = values.len();
            Tensor::from_data(TensorData::new(values, [length]), (device, DType::F32))
        };
        let zero = super::zero(table, signed);
        Self {
            codes: Tensor::full([count], i32::from(zero), (device, DType::U8)),
            scales: Tensor::zeros([count.div_ceil(block_size)], (device, DType::F32)),
            block_size,
            table: floats(codes(table, signed)),
            middles: floats(middles(table, signed)),
        }
    }

    /// The values in f32, `[count]`.
    pub(super) fn values(&self) -> Tensor<1> {
        let [count] = self.codes.dims();
        let values = self.table.clone().select(0, self.codes.clone().cast(IntDType::I32));
        let values = self.blocks(values).mul(self.scales.clone().unsqueeze_dim(1));
        values.flatten::<1>(0, 1).narrow(0, 0, count)
    }

    /// Stores new values, `[count]` in f32: each entry becomes the nearest code of its block.
    pub(super) fn store(&mut self, values: Tensor<1>) {
        let [count] = values.dims();
        let blocks = self.blocks(values);
        let scales = blocks.clone().abs().max_dim(1);
        let empty = scales.clone().equal_elem(0.0);
        let inverse = scales.clone().mask_fill(empty.clone(), 1.0).recip().mask_fill(empty, 0.0);
        let values = blocks.mul(inverse).flatten::<1>(0, 1).narrow(0, 0, count);
        // How many middles lie below the value: a binary search, of all entries at once.
        let mut found = Tensor::<1, Int>::zeros([count], (&values.device(), DType::I32));
        for step in [128, 64, 32, 16, 8, 4, 2, 1] {
            let middle = self.middles.clone().select(0, found.clone().add_scalar(step - 1));
            found = found.add(middle.lower(values.clone()).int().cast(IntDType::I32).mul_scalar(step));
        }
        self.codes = found.cast(IntDType::U8);
        self.scales = scales.squeeze_dim(1);
    }

    /// Makes every entry zero.
    pub(super) fn clear(&mut self) {
        let device = self.scales.device();
        self.store(Tensor::zeros(self.codes.dims(), (&device, DType::F32)));
    }

    /// Codes and scales, for a saved state.
    pub(super) fn data(&self) -> [TensorData; 2] {
        [self.codes.to_data(), self.scales.to_data()]
    }

    /// Takes up codes and scales of the right number.
    pub(super) fn take(&mut self, codes: Vec<u8>, scales: Vec<f32>) {
        let device = self.scales.device();
        let (entries, blocks) = (codes.len(), scales.len());
        self.codes = Tensor::from_data(TensorData::new(codes, [entries]), (&device, DType::U8));
        self.scales = Tensor::from_data(TensorData::new(scales, [blocks]), (&device, DType::F32));
    }

    /// `[count]` as `[blocks, block_size]`, with zeros after the last.
    fn blocks(&self, values: Tensor<1>) -> Tensor<2> {
        let [count] = values.dims();
        let [blocks] = self.scales.dims();
        let missing = blocks * self.block_size - count;
        let whole = if missing == 0 {
            values
        } else {
            let zeros = Tensor::zeros([missing], (&values.device(), values.dtype()));
            Tensor::cat(vec![values, zeros], 0)
        };
        whole.reshape([blocks, self.block_size])
    }
}
