//! Causal self-attention with rotary positions.

use burn::tensor::{Device, Tensor, TensorData, activation};

/// How `[batch * seq, d_model]` falls into sequences and heads.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    /// Sequences.
    pub batch: usize,
    /// Tokens in each.
    pub seq: usize,
    /// Heads.
    pub n_head: usize,
    /// Width of each head, an even number.
    pub head_dim: usize,
}

/// Tables of the rotary position embedding (Su et al. 2021), in the form of the LLaMA code: component `i` of a head is
/// paired with component `i + head_dim / 2`.
#[derive(Debug, Clone)]
pub struct Rope {
    cos: Tensor<2>,  // [seq_len, head_dim / 2]
    sin: Tensor<2>,  // [seq_len, head_dim / 2]
    mask: Tensor<2>, // [seq_len, seq_len]: 0 up to the diagonal, -inf above it
    seq_len: usize,
}

impl Rope {
    /// Tables for positions `0..seq_len`.
    #[must_use]
    pub fn new(seq_len: usize, head_dim: usize, theta: f64, device: &Device) -> Self {
        let half = head_dim / 2;
        let angle = |position: usize, i: usize| position as f64 * theta.powf(-2.0 * i as f64 / head_dim as f64);
        let table = |f: fn(f64) -> f64| {
            let values = (0..seq_len).flat_map(|p| (0..half).map(move |i| f(angle(p, i)) as f32));
            let data = TensorData::new(values.collect::<Vec<f32>>(), [seq_len, half]);
            Tensor::from_data(data, device)
        };
        let above = |row, column| if column > row { f32::NEG_INFINITY } else { 0.0 };
        let mask: Vec<f32> = (0..seq_len).flat_map(|row| (0..seq_len).map(move |column| above(row, column))).collect();
        let mask = Tensor::from_data(TensorData::new(mask, [seq_len, seq_len]), device);
        Self { cos: table(f64::cos), sin: table(f64::sin), mask, seq_len }
    }

    /// Turns `x` `[batch, n_head, seq, head_dim]`.
    fn turn(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, seq, head_dim] = x.dims();
        let half = head_dim / 2;
        let table = |table: &Tensor<2>| {
            let rows = if seq == self.seq_len { table.clone() } else { table.clone().narrow(0, 0, seq) };
            rows.reshape([1, 1, seq, half])
        };
        let (cos, sin) = (table(&self.cos), table(&self.sin));
        let first = x.clone().narrow(3, 0, half);
        let second = x.narrow(3, half, half);
        Tensor::cat(vec![first.clone() * cos.clone() - second.clone() * sin.clone(), second * cos + first * sin], 3)
    }
}

/// Softmax attention of every position to itself and those before it.
///
/// `q`, `k`, `v` and the result are `[batch * seq, n_head * head_dim]`; scores are divided by the root of `head_dim`.
#[must_use]
pub fn causal_attention(q: Tensor<2>, k: Tensor<2>, v: Tensor<2>, heads: Heads, rope: &Rope) -> Tensor<2> {
    let Heads { batch, seq, n_head, head_dim } = heads;
    let split = |x: Tensor<2>| x.reshape([batch, seq, n_head, head_dim]).swap_dims(1, 2);
    let q = rope.turn(split(q)).mul_scalar((head_dim as f64).sqrt().recip());
    let k = rope.turn(split(k));
    let mask = if seq == rope.seq_len { rope.mask.clone() } else { rope.mask.clone().slice([0..seq, 0..seq]) };
    let scores = q.matmul(k.swap_dims(2, 3)) + mask.reshape([1, 1, seq, seq]); // [batch, n_head, seq, seq]
    let mixed = activation::softmax(scores, 3).matmul(split(v)); // [batch, n_head, seq, head_dim]
    mixed.swap_dims(1, 2).reshape([batch * seq, n_head * head_dim])
}
