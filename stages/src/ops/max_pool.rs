//! Maximum pooling by squares that do not overlap.

use burn::tensor::{Tensor, module, ops::MaxPoolOptions};
use rayon::prelude::*;

use super::{
    fused::{Fused, Host, Input, applies, apply, host, values},
    kernel::{PIECE, simd},
};

/// The largest value of each square of `size`: maps `[batch, channels, h, w]` to `[batch, channels, h / size, w / size]`.
/// Rows and columns that fill no square are left out. Of equal values the first has the gradient; NaN goes through.
#[must_use]
pub fn max_pool(x: Tensor<4>, size: usize) -> Tensor<4> {
    if size == 2
        && applies(&x)
        && let Some(x) = Input::of(x.clone())
    {
        return apply(FusedPool, [x]);
    }
    plain(x, size)
}

fn plain(x: Tensor<4>, size: usize) -> Tensor<4> {
    let (kernel_size, stride, padding) = ([size; 2], [size; 2], [(0, 0); 2]);
    module::max_pool2d(x, MaxPoolOptions { kernel_size, stride, padding, dilation: [1; 2], ceil_mode: false })
}

/// Squares of 2, two rows at a time. Where each maximum stood is kept as a number from 0 to 3.
#[derive(Debug)]
struct FusedPool;

/// What the backward pass needs.
#[derive(Debug, Clone)]
struct Saved {
    places: Vec<u8>,
    input: [usize; 4],
}

/// Sizes of one map and of what is made of it.
#[derive(Clone, Copy)]
struct Sizes {
    maps: usize,
    h: usize,
    w: usize,
    rows: usize,
    columns: usize,
}

impl Sizes {
    fn of([batch, channels, h, w]: [usize; 4]) -> Self {
        Self { maps: batch * channels, h, w, rows: h / 2, columns: w / 2 }
    }

    /// Maps in a piece of work, by their input's size.
    fn per_piece(self) -> usize {
        (PIECE / (self.h * self.w).max(1)).max(1)
    }
}

impl Fused<1> for FusedPool {
    type Saved = Saved;

    fn forward(&self, [x]: [Host; 1]) -> (Host, Saved) {
        let input: [usize; 4] = x.layout().shape().dims();
        let sizes = Sizes::of(input);
        let (inner, outer) = ((sizes.h * sizes.w).max(1), (sizes.rows * sizes.columns).max(1));
        let mut y = vec![0.0f32; sizes.maps * sizes.rows * sizes.columns];
        let mut places = vec![0u8; y.len()];
        let pieces = y.par_chunks_mut(outer * sizes.per_piece()).zip(places.par_chunks_mut(outer * sizes.per_piece()));
        pieces.zip(values(&x).par_chunks(inner * sizes.per_piece())).for_each(|((y, places), x)| {
            simd(
                #[inline(always)]
                || {
                    let maps = y.chunks_exact_mut(outer).zip(places.chunks_exact_mut(outer));
                    for ((y, places), x) in maps.zip(x.chunks_exact(inner)) {
                        largest(sizes, x, y, places);
                    }
                },
            );
        });
        let [batch, channels, ..] = input;
        (host(y, [batch, channels, sizes.rows, sizes.columns]), Saved { places, input })
    }

    fn backward(&self, saved: Saved, grad: Host, _: [bool; 1]) -> [Option<Host>; 1] {
        let sizes = Sizes::of(saved.input);
        let (inner, outer) = ((sizes.h * sizes.w).max(1), (sizes.rows * sizes.columns).max(1));
        let mut dx = vec![0.0f32; saved.input.iter().product()];
        let pieces =
            dx.par_chunks_mut(inner * sizes.per_piece()).zip(saved.places.par_chunks(outer * sizes.per_piece()));
        pieces.zip(values(&grad).par_chunks(outer * sizes.per_piece())).for_each(|((dx, places), dy)| {
            simd(
                #[inline(always)]
                || {
                    let maps = dx.chunks_exact_mut(inner).zip(places.chunks_exact(outer));
                    for ((dx, places), dy) in maps.zip(dy.chunks_exact(outer)) {
                        spread(sizes, dy, places, dx);
                    }
                },
            );
        });
        [Some(host(dx, saved.input))]
    }
}

/// Of one map.
#[inline(always)]
fn largest(Sizes { w, columns, .. }: Sizes, x: &[f32], y: &mut [f32], places: &mut [u8]) {
    let outputs = y.chunks_exact_mut(columns.max(1)).zip(places.chunks_exact_mut(columns.max(1)));
    for ((y, places), rows) in outputs.zip(x.chunks_exact((2 * w).max(1))) {
        let (upper, lower) = rows.split_at(w);
        let squares = upper.chunks_exact(2).zip(lower.chunks_exact(2));
        for ((y, place), (upper, lower)) in y.iter_mut().zip(places).zip(squares) {
            let (mut most, mut at) = (upper[0], 0);
            for (value, index) in [(upper[1], 1), (lower[0], 2), (lower[1], 3)] {
                // As burn: a later NaN goes before whatever was found, a number never before an equal one.
                let more = value > most || value.is_nan();
                most = if more { value } else { most };
                at = if more { index } else { at };
            }
            *y = most;
            *place = at;
        }
    }
}

/// Gradients of one map's maxima to where they stood.
#[inline(always)]
fn spread(Sizes { w, columns, .. }: Sizes, dy: &[f32], places: &[u8], dx: &mut [f32]) {
    let outputs = dy.chunks_exact(columns.max(1)).zip(places.chunks_exact(columns.max(1)));
    for ((dy, places), rows) in outputs.zip(dx.chunks_exact_mut((2 * w).max(1))) {
        let (upper, lower) = rows.split_at_mut(w);
        let squares = upper.chunks_exact_mut(2).zip(lower.chunks_exact_mut(2));
        for ((dy, place), (upper, lower)) in dy.iter().zip(places).zip(squares) {
            let at = |index: u8| if *place == index { *dy } else { 0.0 };
            (upper[0], upper[1], lower[0], lower[1]) = (at(0), at(1), at(2), at(3));
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::*;
    use crate::{
        ops::fused::testing::{assert_same, random},
        testing::test_device,
    };

    #[test]
    fn both_forms_agree_where_squares_do_not_fill_the_map_too() {
        for [h, w] in [[2, 2], [6, 8], [7, 5], [3, 2], [28, 28], [200, 201]] {
            let form = |pool: fn(Tensor<4>, usize) -> Tensor<4>| {
                move |[x]: [Tensor<2>; 1]| {
                    let y = pool(x.reshape([3, 2, h, w]), 2);
                    y.reshape([3, 2 * (h / 2) * (w / 2)])
                }
            };
            assert_same([random([3, 2 * h * w], 4)], form(max_pool), form(plain));
        }
    }

    #[test]
    fn of_equal_values_the_first_has_the_gradient_and_nan_goes_through() {
        let nan = f32::NAN;
        let x = [[0.0, 0.0, 1.0, nan], [0.0, 0.0, 5.0, 2.0]].concat();
        for pool in [max_pool, plain] {
            let x = Tensor::<1>::from_data(TensorData::from(&x[..]), &test_device()).reshape([1, 1, 2, 4]);
            let x = x.autodiff().require_grad();
            let y = pool(x.clone(), 2);
            let mut tape = y.clone().sum().backward();
            let y: Vec<f32> = y.inner().try_into_vec_as().unwrap();
            assert!(y[0] == 0.0 && y[1].is_nan(), "{y:?}");
            let dx: Vec<f32> = x.grad_remove(&mut tape).unwrap().try_into_vec_as().unwrap();
            assert_eq!(dx, [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
        }
    }

    #[test]
    fn squares_of_another_size_are_left_to_burn() {
        let y = max_pool(Tensor::ones([1, 2, 9, 9], &test_device()), 3);
        assert_eq!(y.dims(), [1, 2, 3, 3]);
    }
}
