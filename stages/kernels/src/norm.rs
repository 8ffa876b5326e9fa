//! The length of gradients, and keeping them short.

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::launch::{MOST_UNITS, address, contiguous, cube_sum, cubes, elem, empty, most_planes, widest_vector};

/// Cubes that share a tensor, at most.
pub(crate) const MOST_CUBES: usize = 1024;

/// What each cube finds, which goes through the tensor in steps of all cubes' size.
#[cube(launch, address_type = "dynamic")]
fn sums_of_squares<F: Float, N: Size>(
    x: &[Vector<F, N>],
    sums: &mut [f32],
    vectors: usize,
    #[comptime] planes: usize,
    #[define(F)] _dtype: ElemType,
) {
    let mut sum = Vector::<f32, N>::new(0.0f32);
    let mut at = ABSOLUTE_POS;
    while at < vectors {
        let values = Vector::<f32, N>::cast_from(x[at]);
        sum += values * values;
        at += CUBE_COUNT * CUBE_DIM as usize;
    }
    let mut own = 0.0f32;
    #[unroll]
    for k in 0..N::value() {
        own += sum.extract(k);
    }
    let all = cube_sum(own, planes);
    if UNIT_POS == 0 {
        sums[CUBE_POS] = all;
    }
}

/// One cube adds up what is left.
#[cube(launch)]
fn sum_of_sums(x: &[f32], sum: &mut [f32], count: usize, #[comptime] planes: usize) {
    let mut own = 0.0f32;
    let mut at = UNIT_POS as usize;
    while at < count {
        own += x[at];
        at += CUBE_DIM as usize;
    }
    let all = cube_sum(own, planes);
    if UNIT_POS == 0 {
        sum[0] = all;
    }
}

pub(crate) fn squares(x: CubeTensor) -> CubeTensor {
    let [x] = contiguous([x]);
    let count = x.meta.num_elements();
    let vector = widest_vector(count, &[x.dtype]);
    let shared_by = (count / vector).div_ceil(MOST_UNITS).clamp(1, MOST_CUBES);
    let sums = empty(&x, [shared_by], DType::F32);
    sums_of_squares::launch(
        &x.client,
        cubes(shared_by),
        CubeDim::new_1d(MOST_UNITS as u32),
        address(&[&x]),
        vector,
        x.clone().into_buffer_arg(),
        sums.clone().into_buffer_arg(),
        count / vector,
        most_planes(&x),
        elem(&x),
    );
    sum_of(sums)
}

/// `[1]` of `[n]`.
pub(crate) fn sum_of(sums: CubeTensor) -> CubeTensor {
    let count = sums.meta.num_elements();
    if count == 1 {
        return sums;
    }
    let sum = empty(&sums, [1], DType::F32);
    sum_of_sums::launch(
        &sum.client,
        cubes(1),
        CubeDim::new_1d(MOST_UNITS as u32),
        sums.into_buffer_arg(),
        sum.clone().into_buffer_arg(),
        count,
        most_planes(&sum),
    );
    sum
}

#[cube(launch, address_type = "dynamic")]
fn multiplied<F: Float, N: Size>(
    x: &[Vector<F, N>],
    factor: &[f32],
    output: &mut [Vector<F, N>],
    vectors: usize,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS < vectors {
        let factor = factor[0];
        let mut found = Vector::<f32, N>::new(0.0f32);
        if factor != 0.0f32 {
            found = Vector::<f32, N>::cast_from(x[ABSOLUTE_POS]) * Vector::new(factor);
        }
        output[ABSOLUTE_POS] = Vector::cast_from(found);
    }
}

pub(crate) fn limit(x: CubeTensor, factor: CubeTensor) -> CubeTensor {
    let [x, factor] = contiguous([x, factor]);
    let count = x.meta.num_elements();
    let output = empty(&x, [count], x.dtype);
    let vector = widest_vector(count, &[x.dtype]);
    multiplied::launch(
        &output.client,
        cubes((count / vector).div_ceil(MOST_UNITS)),
        CubeDim::new_1d(MOST_UNITS as u32),
        address(&[&output]),
        vector,
        x.into_buffer_arg(),
        factor.into_buffer_arg(),
        output.clone().into_buffer_arg(),
        count / vector,
        elem(&output),
    );
    output
}
