//! Which tokens a step trains on.

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::{data::Split, ops::Occurrences, random::Rng};

/// Windows of the training split, drawn anew for each step.
///
/// Each window starts at a random token, so windows overlap and a split of `n` tokens has `n - seq_len` of them: packed
/// text without padding, whose every position is trained on with contexts of every length. The draw of a step depends on
/// the seed of that step alone, so a resumed run sees what an uninterrupted one saw.
#[derive(Debug)]
pub struct Batches {
    split: Split,
    seq_len: usize,
    /// Size of the vocabulary, where batches say where each token of it occurs.
    pub(super) counted: Option<usize>,
}

/// Inputs and targets of one forward pass.
#[derive(Debug, Clone)]
pub struct Batch {
    /// `[batch, seq]`.
    pub inputs: Tensor<2, Int>,
    /// The tokens that follow each input, `[batch * seq]`.
    pub targets: Tensor<1, Int>,
    /// Where the tokens of the input occur, where the embedding's gradient is summed over that.
    pub occurrences: Option<Occurrences>,
}

impl Batch {
    /// From windows of `seq + 1` tokens each, one after the other. With the size of the vocabulary `counted` it says where
    /// each token occurs.
    #[must_use]
    pub fn of_windows(windows: &[i32], seq: usize, counted: Option<usize>, device: &Device) -> Self {
        let batch = windows.len() / (seq + 1);
        let part = |from: usize| -> Vec<i32> {
            windows.chunks_exact(seq + 1).flat_map(|window| &window[from..from + seq]).copied().collect()
        };
        let inputs = part(0);
        let plain = device.clone().without_autodiff();
        Self {
            occurrences: counted.map(|vocab_size| Occurrences::of(&inputs, vocab_size, &plain)),
            inputs: Tensor::from_data(TensorData::new(inputs, [batch, seq]), device),
            targets: Tensor::from_data(TensorData::new(part(1), [batch * seq]), device),
        }
    }
}

impl Batches {
    /// Batches of a split that holds more than `seq_len` tokens.
    #[must_use]
    pub fn new(split: Split, seq_len: usize) -> Self {
        Self { split, seq_len, counted: None }
    }

    /// The batches of one step: `grad_accum` of `batch_size` windows each.
    #[must_use]
    pub fn step(&self, seed: u64, batch_size: usize, grad_accum: usize, device: &Device) -> Vec<Batch> {
        let mut rng = Rng::new(seed);
        let starts = self.split.len().saturating_sub(self.seq_len) as u64;
        (0..grad_accum)
            .map(|_| {
                let mut windows = Vec::with_capacity(batch_size * (self.seq_len + 1));
                for _ in 0..batch_size {
                    self.split.window(rng.below(starts) as usize, self.seq_len + 1, &mut windows);
                }
                Batch::of_windows(&windows, self.seq_len, self.counted, device)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test_device;

    fn tokens<const D: usize>(tensor: &Tensor<D, Int>) -> Vec<i64> {
        tensor.to_data().convert::<i64>().as_slice::<i64>().unwrap().to_vec()
    }

    #[test]
    fn targets_follow_inputs_and_a_step_is_drawn_from_its_seed_alone() {
        let batches = Batches::new(Split::from_tokens((0..50).collect()), 4);
        let device = test_device();
        let step = batches.step(3, 2, 2, &device);
        assert_eq!(step.len(), 2);
        for batch in &step {
            assert_eq!(batch.inputs.dims(), [2, 4]);
            let followed: Vec<i64> = tokens(&batch.inputs).iter().map(|token| token + 1).collect();
            assert_eq!(tokens(&batch.targets), followed);
        }
        assert_eq!(tokens(&batches.step(3, 2, 2, &device)[1].inputs), tokens(&step[1].inputs));
        assert_ne!(tokens(&batches.step(4, 2, 2, &device)[1].inputs), tokens(&step[1].inputs));
    }

    #[test]
    fn every_window_of_the_split_can_be_drawn() {
        let batches = Batches::new(Split::from_tokens((0..7).collect()), 4);
        let mut starts: Vec<i64> =
            (0..100).map(|seed| tokens(&batches.step(seed, 1, 1, &test_device())[0].inputs)[0]).collect();
        starts.sort_unstable();
        starts.dedup();
        assert_eq!(starts, [0, 1, 2]);
    }
}
