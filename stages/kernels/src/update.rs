//! The last passes of an update over a whole weight, for methods whose update is a matrix as large as the weight.

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::{
    launch::{MOST_UNITS, Rows, address, contiguous, cube_sum, cubes, empty, sides, widest_vector},
    norm::{MOST_CUBES, sum_of},
};

/// What two updates are multiplied by, and the weight at last.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// The first update.
    pub one: f32,
    /// The second.
    pub two: f32,
    /// The weight.
    pub keep: f32,
}

#[cube(launch, address_type = "dynamic")]
fn subtracted<N: Size>(
    weight: &[Vector<f32, N>],
    one: &[Vector<f32, N>],
    two: &[Vector<f32, N>],
    divisor: &[f32],
    output: &mut [Vector<f32, N>],
    rate_one: f32,
    rate_two: f32,
    keep: f32,
    vectors: usize,
) {
    if ABSOLUTE_POS < vectors {
        let rate_two = rate_two / divisor[0];
        let update = Vector::new(rate_one) * one[ABSOLUTE_POS] + Vector::new(rate_two) * two[ABSOLUTE_POS];
        output[ABSOLUTE_POS] = (weight[ABSOLUTE_POS] - update) * Vector::new(keep);
    }
}

pub(crate) fn subtract_two(tensors: [CubeTensor; 4], rates: Rates) -> CubeTensor {
    let [weight, one, two, divisor] = contiguous(tensors);
    let output = empty(&weight, sides(&weight), DType::F32);
    let count = output.meta.num_elements();
    let vector = widest_vector(count, &[DType::F32]);
    subtracted::launch(
        &output.client,
        cubes((count / vector).div_ceil(MOST_UNITS)),
        CubeDim::new_1d(MOST_UNITS as u32),
        address(&[&output]),
        vector,
        weight.into_buffer_arg(),
        one.into_buffer_arg(),
        two.into_buffer_arg(),
        divisor.into_buffer_arg(),
        output.clone().into_buffer_arg(),
        rates.one,
        rates.two,
        rates.keep,
        count / vector,
    );
    output
}

/// What a matrix is multiplied by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Phi {
    /// A number.
    One,
    /// A number for each row.
    Rows,
    /// A number for each column.
    Columns,
}

/// Some rows a cube, in steps of all cubes.
#[cube(launch, address_type = "dynamic")]
fn residuals<N: Size>(
    gradient: &[Vector<f32, N>],
    up: &[Vector<f32, N>],
    phi: &[Vector<f32, N>],
    residual: &mut [Vector<f32, N>],
    sums: &mut [f32],
    share: f32,
    rows: usize,
    vectors: usize,
    #[comptime] kind: Phi,
    #[comptime] planes: usize,
) {
    let mut squares = Vector::<f32, N>::new(0.0f32);
    let mut row = CUBE_POS;
    while row < rows {
        let mut at = UNIT_POS as usize;
        while at < vectors {
            let factor = if comptime!(kind == Phi::Columns) {
                phi[at]
            } else if comptime!(kind == Phi::Rows) {
                Vector::new(phi[row / N::value()].extract_dynamic(row % N::value()))
            } else {
                Vector::new(phi[0].extract(0usize))
            };
            let place = row * vectors + at;
            let found = (gradient[place] - Vector::new(share) * up[place]) * factor;
            residual[place] = found;
            squares += found * found;
            at += CUBE_DIM as usize;
        }
        row += CUBE_COUNT;
    }
    let mut own = 0.0f32;
    #[unroll]
    for k in 0..N::value() {
        own += squares.extract(k);
    }
    let all = cube_sum(own, planes);
    if UNIT_POS == 0 {
        sums[CUBE_POS] = all;
    }
}

pub(crate) fn residual(gradient: CubeTensor, up: CubeTensor, phi: CubeTensor, share: f32) -> (CubeTensor, CubeTensor) {
    let kind = match sides(&phi) {
        [1, 1] => Phi::One,
        [_, 1] => Phi::Rows,
        _ => Phi::Columns,
    };
    let [gradient, up, phi] = contiguous([gradient, up, phi]);
    let [n, width] = sides(&gradient);
    let shape = Rows::new(&gradient, width, &[DType::F32]);
    // A single number, or one for each row, is not read past its end.
    let fits = kind == Phi::Columns || (kind == Phi::Rows && n.is_multiple_of(shape.vector));
    let vector = if fits { shape.vector } else { 1 };
    let vectors = width / vector;
    let count = n.min(MOST_CUBES);
    let (residual, sums) = (empty(&gradient, [n, width], DType::F32), empty(&gradient, [count], DType::F32));
    residuals::launch(
        &residual.client,
        cubes(count),
        shape.units,
        address(&[&residual]),
        vector,
        gradient.into_buffer_arg(),
        up.into_buffer_arg(),
        phi.into_buffer_arg(),
        residual.clone().into_buffer_arg(),
        sums.clone().into_buffer_arg(),
        share,
        n,
        vectors,
        kind,
        shape.planes,
    );
    (residual, sum_of(sums))
}
