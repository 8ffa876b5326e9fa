//! Causal self-attention with rotary positions.

use std::sync::Arc;

use burn::tensor::{Device, Shape, Tensor, TensorData, activation};
use rayon::prelude::*;

use super::{
    fused::{Fused, Host, Input, applies, apply, host, values},
    kernel::{exp, max_of, simd, sum_of, sum_of_pairs},
    matmul::matmul,
    precision::{cast, widened},
    product::product,
    taped::{Taped, run},
};
#[cfg(feature = "cuda")]
use super::{product::by_cublas, taped::on_gpu};

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
/// paired with component `i + head_dim / 2`. They are never tracked.
#[derive(Debug, Clone)]
pub struct Rope {
    cos: Tensor<2>,  // [seq_len, head_dim / 2]
    sin: Tensor<2>,  // [seq_len, head_dim / 2]
    mask: Tensor<2>, // [seq_len, seq_len]: 0 up to the diagonal, -inf above it
    seq_len: usize,
    table: Arc<Table>,
}

/// The cosines and sines on the host, for the fused form.
#[derive(Debug)]
struct Table {
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rope {
    /// Tables for positions `0..seq_len`.
    #[must_use]
    pub fn new(seq_len: usize, head_dim: usize, theta: f64, device: &Device) -> Self {
        let device = &device.clone().inner();
        let half = head_dim / 2;
        let angle = |position: usize, i: usize| position as f64 * theta.powf(-2.0 * i as f64 / head_dim as f64);
        let table = |f: fn(f64) -> f64| -> Vec<f32> {
            (0..seq_len).flat_map(|p| (0..half).map(move |i| f(angle(p, i)) as f32)).collect()
        };
        let table = Table { cos: table(f64::cos), sin: table(f64::sin) };
        let tensor = |values: &[f32]| Tensor::from_data(TensorData::new(values.to_vec(), [seq_len, half]), device);
        let above = |row, column| if column > row { f32::NEG_INFINITY } else { 0.0 };
        let mask: Vec<f32> = (0..seq_len).flat_map(|row| (0..seq_len).map(move |column| above(row, column))).collect();
        let mask = Tensor::from_data(TensorData::new(mask, [seq_len, seq_len]), device);
        Self { cos: tensor(&table.cos), sin: tensor(&table.sin), mask, seq_len, table: Arc::new(table) }
    }

    /// The tables of the first `seq` positions.
    fn first(&self, seq: usize) -> Self {
        let mut first = self.clone();
        if seq < self.seq_len {
            let rows = |table: Tensor<2>| table.narrow(0, 0, seq);
            let Self { cos, sin, mask, .. } = first;
            let table = Arc::clone(&self.table);
            first = Self { cos: rows(cos), sin: rows(sin), mask: rows(mask).narrow(1, 0, seq), seq_len: seq, table };
        }
        first
    }

    /// Turns `x` `[batch, n_head, seq, head_dim]`, or turns it back.
    fn turn(&self, x: Tensor<4>, back: bool) -> Tensor<4> {
        let [_, _, seq, head_dim] = x.dims();
        let half = head_dim / 2;
        let (cos, sin) = (self.cos.clone().reshape([1, 1, seq, half]), self.sin.clone().reshape([1, 1, seq, half]));
        let sin = if back { sin.neg() } else { sin };
        let (first, second) = (x.clone().narrow(3, 0, half), x.narrow(3, half, half));
        let turned = first.clone() * cos.clone() - second.clone() * sin.clone();
        Tensor::cat(vec![turned, second * cos + first * sin], 3)
    }
}

/// Softmax attention of every position to itself and those before it.
///
/// `q`, `k`, `v` and the result are `[batch * seq, n_head * head_dim]`; scores are divided by the root of `head_dim`.
#[must_use]
pub fn causal_attention(q: Tensor<2>, k: Tensor<2>, v: Tensor<2>, heads: Heads, rope: &Rope) -> Tensor<2> {
    if !(applies(&q) && applies(&k) && applies(&v)) {
        return run(TapedAttention { heads, rope: rope.first(heads.seq) }, [q, k, v]);
    }
    // Not cloned: queries and keys are this operation's to turn in place.
    match (Input::of(q), Input::of(k), Input::of(v)) {
        (Some(q), Some(k), Some(v)) => apply(FusedAttention { heads, table: Arc::clone(&rope.table) }, [q, k, v]),
        _ => unreachable!("queries, keys and values are f32 on the CPU"),
    }
}

/// As in the fused form, probabilities are computed again in the backward pass, from the same numbers to the same bits: kept,
/// `n_head * seq` numbers a token, they would soon be more than all else that a block keeps.
#[derive(Debug)]
struct TapedAttention {
    heads: Heads,
    rope: Rope,
}

/// How heads are turned on their way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    No,
    On,
    Back,
}

impl TapedAttention {
    fn scale(&self) -> f64 {
        (self.heads.head_dim as f64).sqrt().recip()
    }

    /// `[batch * seq, d_model]` as `[batch, n_head, seq, head_dim]`, multiplied by `factor` where it is turned.
    fn split(&self, x: Tensor<2>, turn: Turn, factor: f64) -> Tensor<4> {
        #[cfg(feature = "cuda")]
        if on_gpu(&x) {
            return sepia_kernels::split_heads(x, self.moved(turn, factor));
        }
        let Heads { batch, seq, n_head, head_dim } = self.heads;
        self.turned(x.reshape([batch, seq, n_head, head_dim]).swap_dims(1, 2), turn, factor)
    }

    /// The other way.
    fn join(&self, x: Tensor<4>, turn: Turn, factor: f64) -> Tensor<2> {
        #[cfg(feature = "cuda")]
        if on_gpu(&x) {
            return sepia_kernels::join_heads(x, self.moved(turn, factor));
        }
        let Heads { batch, seq, n_head, head_dim } = self.heads;
        self.turned(x, turn, factor).swap_dims(1, 2).reshape([batch * seq, n_head * head_dim])
    }

    fn turned(&self, x: Tensor<4>, turn: Turn, factor: f64) -> Tensor<4> {
        if turn == Turn::No {
            return x;
        }
        let dtype = x.dtype();
        cast(self.rope.turn(widened(x), turn == Turn::Back).mul_scalar(factor), dtype)
    }

    #[cfg(feature = "cuda")]
    fn moved(&self, turn: Turn, factor: f64) -> sepia_kernels::Moved<'_> {
        let Heads { batch, seq, n_head, head_dim } = self.heads;
        let turn = match turn {
            Turn::No => sepia_kernels::Turn::No,
            Turn::On => sepia_kernels::Turn::On,
            Turn::Back => sepia_kernels::Turn::Back,
        };
        let sizes = [batch, seq, n_head, head_dim];
        sepia_kernels::Moved { sizes, cos: &self.rope.cos, sin: &self.rope.sin, turn, factor: factor as f32 }
    }

    /// `[batch, n_head, seq, seq]`.
    fn probabilities(&self, q: &Tensor<4>, k: &Tensor<4>) -> Tensor<4> {
        let scores = product(q.clone(), k.clone().swap_dims(2, 3));
        #[cfg(feature = "cuda")]
        if on_gpu(&scores) {
            return sepia_kernels::causal_softmax(scores);
        }
        let dtype = scores.dtype();
        cast(activation::softmax(widened(scores) + self.rope.mask.clone().unsqueeze(), 3), dtype)
    }

    /// The gradient of the scores, `p (dp - sum(p dp))`, for that of the probabilities.
    fn softmax_backward(p: Tensor<4>, grad: Tensor<4>) -> Tensor<4> {
        #[cfg(feature = "cuda")]
        if on_gpu(&p) {
            return sepia_kernels::causal_softmax_backward(p, grad);
        }
        let dtype = p.dtype();
        let (p, grad) = (widened(p), widened(grad));
        let sum = (p.clone() * grad.clone()).sum_dim(3);
        cast(p * (grad - sum), dtype)
    }
}

impl Taped<3> for TapedAttention {
    /// Turned and scaled queries, turned keys, and values.
    type Saved = [Tensor<4>; 3];

    fn forward(&self, [q, k, v]: [Tensor<2>; 3]) -> (Tensor<2>, Self::Saved) {
        #[cfg(feature = "cuda")]
        if by_cublas(&q) {
            return sepia_kernels::attention([q, k, v], self.moved(Turn::On, self.scale()));
        }
        let (q, k) = (self.split(q, Turn::On, self.scale()), self.split(k, Turn::On, 1.0));
        let v = self.split(v, Turn::No, 1.0);
        let p = self.probabilities(&q, &k);
        (self.join(product(p, v.clone()), Turn::No, 1.0), [q, k, v])
    }

    fn backward(&self, [q, k, v]: Self::Saved, grad: Tensor<2>, _: [bool; 3]) -> [Option<Tensor<2>>; 3] {
        #[cfg(feature = "cuda")]
        if by_cublas(&q) {
            return sepia_kernels::attention_backward([q, k, v], grad, self.moved(Turn::On, self.scale())).map(Some);
        }
        let p = self.probabilities(&q, &k);
        let grad = self.split(grad, Turn::No, 1.0);
        let for_v = product(p.clone().swap_dims(2, 3), grad.clone());
        let for_scores = Self::softmax_backward(p, product(grad, v.swap_dims(2, 3)));
        let for_k = product(for_scores.clone().swap_dims(2, 3), q);
        let for_q = product(for_scores, k);
        let for_q = self.join(for_q, Turn::Back, self.scale());
        [Some(for_q), Some(self.join(for_k, Turn::Back, 1.0)), Some(self.join(for_v, Turn::No, 1.0))]
    }
}

/// Rows of queries that are worked on together: scores are computed up to the end of the block and not above, which
/// saves nearly half of the products for long sequences.
const BLOCK: usize = 64;

/// Queries and keys are turned where they are, and kept turned. Scores are computed again in the backward pass instead of
/// being kept: `batch * n_head * seq^2` numbers a layer.
#[derive(Debug)]
struct FusedAttention {
    heads: Heads,
    table: Arc<Table>,
}

impl FusedAttention {
    /// Numbers of one sequence.
    fn piece(&self) -> usize {
        self.heads.seq * self.heads.n_head * self.heads.head_dim
    }

    /// `[batch * seq, d_model]` seen as `[batch, n_head, seq, head_dim]`.
    fn split(&self, x: &Host) -> Host {
        let Heads { batch, seq, n_head, head_dim } = self.heads;
        x.reshape(Shape::from([batch, seq, n_head, head_dim])).permute(&[0, 2, 1, 3])
    }

    /// Turns `x` `[batch * seq, d_model]` by its positions and scales it.
    fn turn(&self, x: &mut Host, factor: f32) {
        let Heads { n_head, head_dim, .. } = self.heads;
        let (half, width) = (head_dim / 2, n_head * head_dim);
        x.storage_mut::<f32>().par_chunks_mut(self.piece()).for_each(|x| {
            simd(
                #[inline(always)]
                || {
                    let tables = self.table.cos.chunks_exact(half).zip(self.table.sin.chunks_exact(half));
                    for (x, table) in x.chunks_exact_mut(width).zip(tables) {
                        for x in x.chunks_exact_mut(head_dim) {
                            turn(x, table, factor);
                        }
                    }
                },
            );
        });
    }

    /// The gradient of what [`turn`](Self::turn) took, from that of some rows of what it gave
    /// (`[batch, n_head, end - begin, head_dim]`): the turn backwards, written to those rows of `out`
    /// `[batch * seq, d_model]`.
    fn turned_back(&self, grad: &Host, (begin, end): (usize, usize), factor: f32, out: &mut [f32]) {
        let Heads { n_head, head_dim, .. } = self.heads;
        let (half, width, rows) = (head_dim / 2, n_head * head_dim, end - begin);
        let grads = values(grad).par_chunks(n_head * rows * head_dim);
        out.par_chunks_mut(self.piece()).zip(grads).for_each(|(out, grad)| {
            simd(
                #[inline(always)]
                || {
                    for (head, grad) in grad.chunks_exact(rows * head_dim).enumerate() {
                        let (cos, sin) = (&self.table.cos[begin * half..], &self.table.sin[begin * half..]);
                        let tables = cos.chunks_exact(half).zip(sin.chunks_exact(half));
                        let out = out[begin * width..end * width].chunks_exact_mut(width);
                        for ((out, grad), table) in out.zip(grad.chunks_exact(head_dim)).zip(tables) {
                            turn_back(grad, table, factor, &mut out[head * head_dim..(head + 1) * head_dim]);
                        }
                    }
                },
            );
        });
    }

    /// Writes rows `begin..end` of all heads, `[batch, n_head, end - begin, head_dim]`, to `out` `[batch * seq, d_model]`.
    fn join(&self, x: &Host, (begin, end): (usize, usize), out: &mut [f32]) {
        let Heads { n_head, head_dim, .. } = self.heads;
        let (width, rows) = (n_head * head_dim, end - begin);
        out.par_chunks_mut(self.piece()).zip(values(x).par_chunks(n_head * rows * head_dim)).for_each(|(out, x)| {
            for (head, x) in x.chunks_exact(rows * head_dim).enumerate() {
                let out = out[begin * width..end * width].chunks_exact_mut(width);
                for (out, x) in out.zip(x.chunks_exact(head_dim)) {
                    out[head * head_dim..(head + 1) * head_dim].copy_from_slice(x);
                }
            }
        });
    }

    /// Probabilities of the queries `begin..end` over the keys `0..end`: `[batch, n_head, end - begin, end]`.
    fn probabilities(&self, q: &Host, k: &Host, (begin, end): (usize, usize)) -> Host {
        let rows = end - begin;
        let keys = self.split(k).narrow(2, 0, end).transpose(2, 3);
        let mut scores = matmul(&self.split(q).narrow(2, begin, rows), &keys);
        scores.storage_mut::<f32>().par_chunks_mut(rows * end).for_each(|scores| {
            simd(
                #[inline(always)]
                || {
                    for (row, scores) in scores.chunks_exact_mut(end).enumerate() {
                        let (seen, unseen) = scores.split_at_mut(begin + row + 1);
                        let max = max_of(seen);
                        for score in seen.iter_mut() {
                            *score = exp(*score - max);
                        }
                        let inverse = 1.0 / sum_of(seen, |score| score);
                        for score in seen {
                            *score *= inverse;
                        }
                        unseen.fill(0.0);
                    }
                },
            );
        });
        scores
    }

    fn scale(&self) -> f32 {
        (self.heads.head_dim as f32).sqrt().recip()
    }

    fn blocks(&self) -> impl DoubleEndedIterator<Item = (usize, usize)> {
        let seq = self.heads.seq;
        (0..seq.div_ceil(BLOCK)).map(move |block| (block * BLOCK, ((block + 1) * BLOCK).min(seq)))
    }
}

/// Turns and scales one head of one token.
#[inline(always)]
fn turn(x: &mut [f32], (cos, sin): (&[f32], &[f32]), factor: f32) {
    let (first, second) = x.split_at_mut(cos.len());
    for (((a, b), c), s) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        (*a, *b) = ((*a * c - *b * s) * factor, (*b * c + *a * s) * factor);
    }
}

/// [`turn`] by the opposite angle.
#[inline(always)]
fn turn_back(x: &[f32], (cos, sin): (&[f32], &[f32]), factor: f32, out: &mut [f32]) {
    let half = cos.len();
    let ((first, second), (out1, out2)) = (x.split_at(half), out.split_at_mut(half));
    for ((((a, b), c), s), (out1, out2)) in
        first.iter().zip(second).zip(cos).zip(sin).zip(out1.iter_mut().zip(out2.iter_mut()))
    {
        *out1 = (a * c + b * s) * factor;
        *out2 = (b * c - a * s) * factor;
    }
}

/// Adds `[batch, n_head, rows, head_dim]` to the first rows of a sum with at least as many.
fn add_to_first_rows(sum: Option<Host>, part: Host, batch_heads: usize) -> Host {
    let Some(mut sum) = sum else { return part };
    let (long, short) = (values(&sum).len() / batch_heads, values(&part).len() / batch_heads);
    sum.storage_mut::<f32>().par_chunks_mut(long).zip(values(&part).par_chunks(short)).for_each(|(sum, part)| {
        simd(
            #[inline(always)]
            || {
                for (sum, part) in sum.iter_mut().zip(part) {
                    *sum += part;
                }
            },
        );
    });
    sum
}

impl Fused<3> for FusedAttention {
    type Saved = [Host; 3];

    fn forward(&self, [mut q, mut k, v]: [Host; 3]) -> (Host, Self::Saved) {
        let Heads { batch, seq, n_head, head_dim } = self.heads;
        self.turn(&mut q, self.scale());
        self.turn(&mut k, 1.0);
        let mut out = vec![0.0f32; batch * self.piece()];
        for (begin, end) in self.blocks() {
            let p = self.probabilities(&q, &k, (begin, end));
            let mixed = matmul(&p, &self.split(&v).narrow(2, 0, end));
            self.join(&mixed, (begin, end), &mut out);
        }
        (host(out, [batch * seq, n_head * head_dim]), [q, k, v])
    }

    /// With probabilities P of a block of queries, and G the gradient of its output: `dV += P^T G`, `dP = G V^T`,
    /// `dS = P (dP - rowsum(P dP))`, `dQ = dS K`, `dK += dS^T Q`. The last block comes first, since it reaches all keys.
    fn backward(&self, [q, k, v]: Self::Saved, grad: Host, _: [bool; 3]) -> [Option<Host>; 3] {
        let Heads { batch, seq, n_head, head_dim } = self.heads;
        let [mut for_q, mut for_k, mut for_v] = [(); 3].map(|()| vec![0.0f32; batch * self.piece()]);
        let (mut sum_k, mut sum_v) = (None, None);
        for (begin, end) in self.blocks().rev() {
            let rows = end - begin;
            let p = self.probabilities(&q, &k, (begin, end));
            let grad = self.split(&grad).narrow(2, begin, rows);
            let keys = self.split(&k).narrow(2, 0, end);
            let queries = self.split(&q).narrow(2, begin, rows);
            let values_t = self.split(&v).narrow(2, 0, end).transpose(2, 3);
            let mut change = matmul(&grad, &values_t);
            change.storage_mut::<f32>().par_chunks_mut(rows * end).zip(values(&p).par_chunks(rows * end)).for_each(
                |(change, p)| {
                    simd(
                        #[inline(always)]
                        || {
                            for (change, p) in change.chunks_exact_mut(end).zip(p.chunks_exact(end)) {
                                let mean = sum_of_pairs(p, change, |p, change| p * change);
                                for (change, p) in change.iter_mut().zip(p) {
                                    *change = p * (*change - mean);
                                }
                            }
                        },
                    );
                },
            );
            sum_v = Some(add_to_first_rows(sum_v, matmul(&p.transpose(2, 3), &grad), batch * n_head));
            let for_keys = matmul(&change.transpose(2, 3), &queries);
            sum_k = Some(add_to_first_rows(sum_k, for_keys, batch * n_head));
            self.turned_back(&matmul(&change, &keys), (begin, end), self.scale(), &mut for_q);
        }
        if let (Some(sum_k), Some(sum_v)) = (sum_k, sum_v) {
            self.turned_back(&sum_k, (0, seq), 1.0, &mut for_k);
            self.join(&sum_v, (0, seq), &mut for_v);
        }
        [for_q, for_k, for_v].map(|grad| Some(host(grad, [batch * seq, n_head * head_dim])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ops::{
            fused::testing::{assert_same, random},
            taped::testing::assert_as_autodiff,
        },
        testing::test_device,
    };

    fn plain([q, k, v]: [Tensor<2>; 3], heads: Heads, rope: &Rope) -> Tensor<2> {
        let Heads { batch, seq, n_head, head_dim } = heads;
        let (dtype, half) = (q.dtype(), head_dim / 2);
        let split = |x: Tensor<2>| x.reshape([batch, seq, n_head, head_dim]).swap_dims(1, 2);
        let table = |table: &[f32]| {
            let data = TensorData::new(table[..seq * half].to_vec(), [1, 1, seq, half]);
            Tensor::<4>::from_data(data, &test_device()).cast(widened(q.clone()).dtype())
        };
        let (cos, sin) = (table(&rope.table.cos), table(&rope.table.sin));
        let turned = |x: Tensor<2>| {
            let x = widened(split(x));
            let (first, second) = (x.clone().narrow(3, 0, half), x.narrow(3, half, half));
            let turned = first.clone() * cos.clone() - second.clone() * sin.clone();
            Tensor::cat(vec![turned, second * cos.clone() + first * sin.clone()], 3)
        };
        let q = cast(turned(q.clone()).mul_scalar((head_dim as f64).sqrt().recip()), dtype);
        let k = cast(turned(k), dtype);
        let above = Tensor::<2>::ones([seq, seq], &test_device()).triu(1).bool().reshape([1, 1, seq, seq]);
        let scores = widened(product(q, k.swap_dims(2, 3)));
        let scores = scores.mask_fill(above.expand([batch, n_head, seq, seq]), f32::NEG_INFINITY);
        let mixed = product(cast(activation::softmax(scores, 3), dtype), split(v));
        mixed.swap_dims(1, 2).reshape([batch * seq, n_head * head_dim])
    }

    #[test]
    fn both_forms_agree_within_a_block_and_beyond() {
        for (seq, seq_len) in [(5, 5), (64, 64), (150, 200)] {
            let heads = Heads { batch: 3, seq, n_head: 2, head_dim: 8 };
            let rope = Rope::new(seq_len, 8, 10_000.0, &test_device());
            let shape = [3 * seq, 16];
            assert_same(
                [random(shape, 1), random(shape, 2), random(shape, 3)],
                |[q, k, v]| causal_attention(q, k, v, heads, &rope),
                |inputs| plain(inputs, heads, &rope),
            );
            let taped = |inputs| run(TapedAttention { heads, rope: rope.first(seq) }, inputs);
            assert_as_autodiff([shape; 3], 3e-2, taped, |inputs| plain(inputs, heads, &rope));
        }
    }
}
