//! The unigram model: what a language model must beat to have learnt anything from context.

use super::Split;

/// Mean loss in nats per token of the unigram model of the training split on the validation split.
///
/// Probabilities are add-one smoothed training counts, `(count + 1) / (train tokens + vocab_size)`, so that a token that
/// training never saw has a finite loss. The first validation token is left out, as it is for every model that predicts
/// a token from those before it: both figures are means over the same tokens.
#[must_use]
pub fn unigram_loss(train: &Split, validation: &Split, vocab_size: usize) -> f64 {
    let mut counts = vec![1u64; vocab_size];
    for token in train.iter() {
        counts[token as usize] += 1;
    }
    let total = (train.len() + vocab_size) as f64;
    let log: Vec<f64> = counts.iter().map(|&count| (count as f64 / total).ln()).collect();
    let sum: f64 = validation.iter().skip(1).map(|token| -log[token as usize]).sum();
    sum / validation.len().saturating_sub(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_that_can_be_done_by_hand() {
        // Counts 3 and 1, smoothed 4/7, 2/7 and 1/7 over a vocabulary of three.
        let train = Split::from_tokens(vec![0, 0, 0, 1]);
        let validation = Split::from_tokens(vec![2, 0, 1, 2]);
        let expected = -((4.0f64 / 7.0).ln() + (2.0f64 / 7.0).ln() + (1.0f64 / 7.0).ln()) / 3.0;
        assert!((unigram_loss(&train, &validation, 3) - expected).abs() < 1e-12);
    }
}
