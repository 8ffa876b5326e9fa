//! Block-wise 8-bit storage of optimiser moments.
//!
//! Each block keeps its largest magnitude in f32 and every entry as one byte, an index into a table over [-1, 1] (or
//! [0, 1] for what cannot be negative). The dynamic table spends its codes evenly over seven decades, so that small
//! second moments survive: with the linear table they round to zero and the next update explodes. The bytes lie where the
//! moments are computed, on a GPU in its memory.

mod host;
mod on_device;

use burn::tensor::{DType, Device, Tensor, TensorData};
use schemars::JsonSchema;
use sepia_engine::stage::StageError;
use serde::{Deserialize, Serialize};

use self::{host::Host, on_device::OnDevice};
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

/// Where the codes change: halfway between one and the next.
fn middles(table: CodeTable, signed: bool) -> Vec<f32> {
    codes(table, signed).windows(2).map(|pair| (pair[0] + pair[1]) / 2.0).collect()
}

/// The code of 0.
fn zero(table: CodeTable, signed: bool) -> u8 {
    codes(table, signed).partition_point(|code| *code < 0.0) as u8
}

/// A flat tensor in 8 bits, in the memory of the device that computes with it.
#[derive(Debug, Clone)]
pub struct Quantised {
    place: Place,
    count: usize,
    blocks: usize,
}

#[derive(Debug, Clone)]
enum Place {
    Host(Host),
    Device(Box<OnDevice>),
}

impl Quantised {
    /// `count` zeros, `signed` if values can be negative.
    #[must_use]
    pub fn zeros(count: usize, eight: &EightBit, signed: bool, device: &Device) -> Self {
        let block_size = eight.block_size.max(1);
        let place = if *device == Device::flex() {
            Place::Host(Host::zeros(count, block_size, eight.table, signed))
        } else {
            Place::Device(Box::new(OnDevice::zeros(count, block_size, eight.table, signed, device)))
        };
        Self { place, count, blocks: count.div_ceil(block_size) }
    }

    /// The values as a tensor `[count]` on its device.
    #[must_use]
    pub fn values(&self, dtype: DType) -> Tensor<1> {
        match &self.place {
            Place::Host(host) => {
                Tensor::from_data(TensorData::new(host.values(), [self.count]), (&Device::flex(), dtype))
            }
            Place::Device(there) => there.values().cast(dtype),
        }
    }

    /// Stores new values `[count]`: each entry becomes the nearest code of its block.
    ///
    /// # Errors
    /// When values on the host cannot be read.
    pub fn store(&mut self, values: Tensor<1>) -> Result<(), StageError> {
        match &mut self.place {
            Place::Host(host) => {
                let values: Vec<f32> = values
                    .try_to_vec_as()
                    .map_err(|error| StageError::new(format!("moments cannot be read: {error}")))?;
                host.store(&values);
            }
            Place::Device(there) => there.store(values.cast(DType::F32)),
        }
        Ok(())
    }

    /// Makes every entry zero.
    pub fn clear(&mut self) {
        match &mut self.place {
            Place::Host(host) => host.store(&vec![0.0; self.count]),
            Place::Device(there) => there.clear(),
        }
    }

    /// Bytes held: one an entry and four a block.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.count + 4 * self.blocks
    }

    /// Adds itself to a saved state.
    pub fn save(&self, at: &str, state: &mut State) {
        let [codes, scales] = match &self.place {
            Place::Host(host) => host.data(),
            Place::Device(there) => there.data(),
        };
        state.put_data(&format!("{at}/codes"), codes);
        state.put_data(&format!("{at}/scales"), scales);
    }

    /// Takes its values from a saved state.
    ///
    /// # Errors
    /// When they are missing or of another size.
    pub fn load(&mut self, at: &str, state: &mut State) -> Result<(), StageError> {
        let codes: Option<Vec<u8>> = state.take_data(&format!("{at}/codes"))?.try_into_vec().ok();
        let scales: Option<Vec<f32>> = state.take_data(&format!("{at}/scales"))?.try_into_vec().ok();
        match (codes, scales) {
            (Some(codes), Some(scales)) if (codes.len(), scales.len()) == (self.count, self.blocks) => {
                match &mut self.place {
                    Place::Host(host) => host.take(codes, scales),
                    Place::Device(there) => there.take(codes, scales),
                }
                Ok(())
            }
            _ => Err(StageError::new(format!("the checkpoint's `{at}` does not have {} codes", self.count))),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{random::Rng, testing::test_device};

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
        let mut stored = Host::zeros(15, 4, CodeTable::Dynamic, true);
        assert_eq!(stored.values(), vec![0.0; 15]);
        stored.store(&[0.0; 15]);
        assert_eq!(stored.values(), vec![0.0; 15]);
        let eight = EightBit { block_size: 4, ..EightBit::default() };
        assert_eq!(Quantised::zeros(15, &eight, true, &test_device()).bytes(), 15 + 4 * 4);
    }

    #[test]
    fn a_device_codes_as_the_host_does() {
        for (table, signed, count) in [
            (CodeTable::Dynamic, true, 1000),
            (CodeTable::Dynamic, false, 1024),
            (CodeTable::Linear, true, 1001),
            (CodeTable::Linear, false, 1),
        ] {
            let mut host = Host::zeros(count, 64, table, signed);
            let mut there = OnDevice::zeros(count, 64, table, signed, &test_device());
            let same = |host: &Host, there: &OnDevice| {
                let [data, found] = [host.data(), there.data()];
                assert_eq!(data[0].as_slice::<u8>().unwrap(), found[0].as_slice::<u8>().unwrap(), "{table:?}");
                assert_eq!(data[1].as_slice::<f32>().unwrap(), found[1].as_slice::<f32>().unwrap(), "{table:?}");
                assert_eq!(host.values(), there.values().try_to_vec_as::<f32>().unwrap(), "{table:?}");
            };
            same(&host, &there);
            // Of many sizes, with a block of zeros.
            let mut values = Rng::new(count as u64).normal(count, 1.0);
            values.iter_mut().enumerate().for_each(|(i, x)| *x *= [1.0, 1e-3, 1e-6][i % 3]);
            values.iter_mut().skip(64).take(64).for_each(|x| *x = 0.0);
            if !signed {
                values.iter_mut().for_each(|x| *x = x.abs());
            }
            host.store(&values);
            there.store(Tensor::from_data(TensorData::new(values, [count]), &test_device()));
            same(&host, &there);
            let saved = there.data().map(|data| data.convert::<f32>());
            let codes = saved[0].as_slice::<f32>().unwrap().iter().map(|code| *code as u8).collect();
            there.take(codes, saved[1].as_slice::<f32>().unwrap().to_vec());
            same(&host, &there);
        }
    }

    proptest! {
        #[test]
        fn an_entry_is_stored_to_within_half_the_gap_of_its_block(values in prop::collection::vec(-2.0f32..2.0, 1..40)) {
            let mut stored = Host::zeros(values.len(), 8, CodeTable::Dynamic, true);
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
            let mut stored = Host::zeros(2, 2, CodeTable::Dynamic, false);
            stored.store(&[1.0, small]);
            let back = stored.values()[1];
            prop_assert!(back > 0.3 * small && back < 3.0 * small, "{small} came back as {back}");
        }
    }
}
