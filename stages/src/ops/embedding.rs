//! Token embedding.
//!
//! Its gradient adds up, for each token of the vocabulary, the rows of all its occurrences. burn's own backward pass does
//! that in order, row after row, which a GPU does with one thread a column: 32,768 additions after each other for a batch
//! of the 60M model, in which nothing else runs. [`Occurrences`] adds groups of rows instead, all groups at once, in a few
//! rounds. Which rows, the host knows when it makes the batch. The order of additions depends on the tokens alone.

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::precision::widened;

/// Rows of `weight` `[vocab_size, d_model]` by token: tokens `[batch, seq]` to `[batch * seq, d_model]`.
#[must_use]
pub fn embedding(weight: Tensor<2>, tokens: Tensor<2, Int>) -> Tensor<2> {
    let [batch, seq] = tokens.dims();
    weight.select(0, tokens.reshape([batch * seq]))
}

/// Rows that are added up to one in a round.
const GROUP: usize = 4;

/// Where the tokens of a batch occur, as rounds of additions.
#[derive(Debug, Clone)]
pub struct Occurrences {
    /// Of each round the rows that it adds, `[4 * results]`: of the batch in the first, of the results of the round before
    /// in the others. The number after the last row stands for nothing.
    rounds: Vec<Tensor<1, Int>>,
    /// Of each token the row that holds its sum, `[vocab_size]`, counted through the batch and then the results of all
    /// rounds; the number after the last for tokens that do not occur.
    sums: Tensor<1, Int>,
}

impl Occurrences {
    /// For the tokens of a batch, all below `vocab_size`.
    #[must_use]
    pub fn of(tokens: &[i32], vocab_size: usize, device: &Device) -> Self {
        let mut rows: Vec<Vec<usize>> = vec![Vec::new(); vocab_size];
        for (row, token) in tokens.iter().enumerate() {
            if let Some(rows) = usize::try_from(*token).ok().and_then(|token| rows.get_mut(token)) {
                rows.push(row);
            }
        }
        // Rows before those that a round adds, and how many those are.
        let (mut before, mut count) = (0, tokens.len());
        let mut rounds = Vec::new();
        while rows.iter().any(|rows| rows.len() > 1) {
            let mut added = Vec::new();
            for rows in rows.iter_mut().filter(|rows| rows.len() > 1) {
                let first = before + count + added.len() / GROUP;
                added.extend(rows.iter().map(|row| row - before));
                added.resize(added.len().next_multiple_of(GROUP), count);
                *rows = (first..before + count + added.len() / GROUP).collect();
            }
            (before, count) = (before + count, added.len() / GROUP);
            rounds.push(on_device(&added, device));
        }
        let sums: Vec<usize> = rows.iter().map(|rows| rows.first().copied().unwrap_or(before + count)).collect();
        Self { rounds, sums: on_device(&sums, device) }
    }

    /// The gradient of the whole embedding, `[vocab_size, d_model]`, from that of the batch's rows, `[tokens, d_model]`: in
    /// f32 where that is in half precision.
    #[must_use]
    pub fn sum(&self, rows: Tensor<2>) -> Tensor<2> {
        let rows = widened(rows);
        let [_, width] = rows.dims();
        let zero = Tensor::zeros([1, width], (&rows.device(), rows.dtype()));
        let mut all = vec![rows.clone()];
        let mut last = rows;
        for added in &self.rounds {
            let [count] = added.dims();
            let grouped = Tensor::cat(vec![last, zero.clone()], 0).select(0, added.clone());
            last = grouped.reshape([count / GROUP, GROUP, width]).sum_dim(1).reshape([count / GROUP, width]);
            all.push(last.clone());
        }
        all.push(zero);
        Tensor::cat(all, 0).select(0, self.sums.clone())
    }
}

fn on_device(rows: &[usize], device: &Device) -> Tensor<1, Int> {
    let rows: Vec<i32> = rows.iter().map(|row| *row as i32).collect();
    let count = rows.len();
    Tensor::from_data(TensorData::new(rows, [count]), device)
}

#[cfg(test)]
mod tests {
    use burn::tensor::DType;

    use super::*;
    use crate::{ops::fused::testing::random, random::Rng, testing::test_device};

    /// What burn's backward pass makes of the same gradient.
    fn expected(tokens: &[i32], vocab_size: usize, rows: &Tensor<2>) -> Tensor<2> {
        let weight = random([vocab_size, rows.dims()[1]], 9).autodiff().require_grad();
        let input = Tensor::from_data(TensorData::new(tokens.to_vec(), [1, tokens.len()]), &weight.device());
        let x = embedding(weight.clone(), input);
        weight.grad_remove(&mut (x * rows.clone().autodiff()).sum().backward()).unwrap()
    }

    #[test]
    fn sums_over_occurrences_are_the_gradient_of_the_embedding() {
        let mut rng = Rng::new(3);
        let mut draw = |count: usize, below: u64| (0..count).map(|_| rng.below(below) as i32).collect::<Vec<i32>>();
        let batches = [draw(500, 37), draw(300, 1), draw(40, 4000), vec![5], vec![2; 4], vec![2; 5], vec![6, 0, 6]];
        for (index, tokens) in batches.into_iter().enumerate() {
            let vocab_size = 40.max(tokens.iter().max().map_or(0, |token| *token as usize + 2));
            let rows = random([tokens.len(), 24], 5);
            let found = Occurrences::of(&tokens, vocab_size, &test_device()).sum(rows.clone());
            assert_eq!(found.dims(), [vocab_size, 24]);
            let apart = (found.clone() - expected(&tokens, vocab_size, &rows)).abs().max().into_scalar::<f32>();
            assert!(apart < 1e-5, "{index}: {apart}");
        }
    }

    /// In bf16 a sum stops at 256 times what is added: here it is made in f32.
    #[test]
    fn gradients_in_bf16_are_added_up_in_f32() {
        let occurrences = Occurrences::of(&[1; 1000], 3, &test_device());
        let found = occurrences.sum(Tensor::ones([1000, 2], (&test_device(), DType::BF16)));
        assert_eq!(found.dtype(), DType::F32);
        assert_eq!(found.try_into_vec_as::<f32>().unwrap(), [0.0, 0.0, 1000.0, 1000.0, 0.0, 0.0]);
    }
}
