//! RMSNorm (Zhang and Sennrich 2019).

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::launch::{Rows, address, contiguous, cube_sum, cubes, elem, empty, sides};

#[cube(launch, address_type = "dynamic")]
fn normed<F: Float, G: Float, N: Size>(
    x: &[Vector<F, N>],
    gain: &[Vector<G, N>],
    y: &mut [Vector<F, N>],
    inverses: &mut [f32],
    vectors: usize,
    eps: f32,
    #[comptime] planes: usize,
    #[define(F, G)] _dtypes: [ElemType; 2],
) {
    let begin = CUBE_POS * vectors;
    let mut squares = 0.0f32;
    let mut at = UNIT_POS as usize;
    while at < vectors {
        let values = Vector::<f32, N>::cast_from(x[begin + at]);
        #[unroll]
        for k in 0..N::value() {
            squares += values.extract(k) * values.extract(k);
        }
        at += CUBE_DIM as usize;
    }
    let width = f32::cast_from(vectors * N::value());
    let inverse = 1.0f32 / (cube_sum(squares, planes) / width + eps).sqrt();
    let mut at = UNIT_POS as usize;
    while at < vectors {
        let values = Vector::<f32, N>::cast_from(x[begin + at]);
        y[begin + at] = Vector::cast_from(values * Vector::new(inverse) * Vector::cast_from(gain[at]));
        at += CUBE_DIM as usize;
    }
    if UNIT_POS == 0 {
        inverses[CUBE_POS] = inverse;
    }
}

pub(crate) fn forward(x: CubeTensor, gain: CubeTensor, eps: f32) -> (CubeTensor, CubeTensor) {
    let [x, gain] = contiguous([x, gain]);
    let [n, width] = sides(&x);
    let (y, inverses) = (empty(&x, [n, width], x.dtype), empty(&x, [n, 1], DType::F32));
    let rows = Rows::new(&x, width, &[x.dtype, gain.dtype]);
    normed::launch(
        &y.client,
        cubes(n),
        rows.units,
        address(&[&x]),
        rows.vector,
        x.clone().into_buffer_arg(),
        gain.clone().into_buffer_arg(),
        y.clone().into_buffer_arg(),
        inverses.clone().into_buffer_arg(),
        rows.vectors,
        eps,
        rows.planes,
        [elem(&x), elem(&gain)],
    );
    (y, inverses)
}

/// Some rows a cube, one after the other. A unit is at the same columns in each, and adds up the gain's gradient there.
///
/// With `s = 1 / rms`: `dx = s (w g - x s mean(w g x s))`, `dw = sum over rows of g x s`.
#[cube(launch, address_type = "dynamic")]
fn normed_backward<F: Float, G: Float, N: Size>(
    x: &[Vector<F, N>],
    gain: &[Vector<G, N>],
    inverses: &[f32],
    grad: &[Vector<F, N>],
    for_x: &mut [Vector<F, N>],
    for_gain: &mut [Vector<f32, N>],
    rows: usize,
    rows_of_cube: usize,
    #[comptime] vectors: usize,
    #[comptime] planes: usize,
    #[define(F, G)] _dtypes: [ElemType; 2],
) {
    let mut sums = Shared::<[Vector<f32, N>]>::new_slice(vectors);
    let mut at = UNIT_POS as usize;
    while at < vectors {
        sums[at] = Vector::new(0.0f32);
        at += CUBE_DIM as usize;
    }
    let mut row = CUBE_POS * rows_of_cube;
    let end = row + rows_of_cube;
    while row < end {
        if row < rows {
            let begin = row * vectors;
            let inverse = inverses[row];
            let mut along = 0.0f32;
            let mut at = UNIT_POS as usize;
            while at < vectors {
                let x = Vector::<f32, N>::cast_from(x[begin + at]) * Vector::new(inverse);
                let product = Vector::<f32, N>::cast_from(grad[begin + at]) * x;
                sums[at] += product;
                let product = product * Vector::cast_from(gain[at]);
                #[unroll]
                for k in 0..N::value() {
                    along += product.extract(k);
                }
                at += CUBE_DIM as usize;
            }
            let along = cube_sum(along, planes) / f32::cast_from(vectors * N::value());
            let mut at = UNIT_POS as usize;
            while at < vectors {
                let x = Vector::<f32, N>::cast_from(x[begin + at]) * Vector::new(inverse);
                let grad = Vector::<f32, N>::cast_from(grad[begin + at]) * Vector::cast_from(gain[at]);
                for_x[begin + at] = Vector::cast_from((grad - x * Vector::new(along)) * Vector::new(inverse));
                at += CUBE_DIM as usize;
            }
        }
        row += 1;
    }
    let mut at = UNIT_POS as usize;
    while at < vectors {
        for_gain[CUBE_POS * vectors + at] = sums[at];
        at += CUBE_DIM as usize;
    }
}

/// Columns that a cube adds up.
const COLUMNS: usize = 32;
/// Units that share a column.
const SHARES: usize = 16;

#[cube(launch, address_type = "dynamic")]
fn sums_of_columns(x: &[f32], sums: &mut [f32], rows: usize, columns: usize) {
    let (share, column) = (UNIT_POS as usize / COLUMNS, CUBE_POS * COLUMNS + UNIT_POS as usize % COLUMNS);
    let mut shared = Shared::<[f32]>::new_slice(comptime!(COLUMNS * SHARES));
    let mut sum = 0.0f32;
    if column < columns {
        let mut row = share;
        while row < rows {
            sum += x[row * columns + column];
            row += SHARES;
        }
    }
    shared[UNIT_POS as usize] = sum;
    sync_cube();
    if share == 0 && column < columns {
        #[unroll]
        for other in 1..SHARES {
            sum += shared[UNIT_POS as usize + other * COLUMNS];
        }
        sums[column] = sum;
    }
}

/// So wide that the sums of a cube still fit its shared memory.
pub(crate) const WIDEST: usize = 8192;

pub(crate) fn backward(
    x: CubeTensor,
    gain: CubeTensor,
    inverses: CubeTensor,
    grad: CubeTensor,
) -> (CubeTensor, CubeTensor) {
    let [x, gain, inverses, grad] = contiguous([x, gain, inverses, grad]);
    let [n, width] = sides(&x);
    let rows_of_cube = n.div_ceil(1024).max(8);
    let groups = n.div_ceil(rows_of_cube);
    let for_x = empty(&x, [n, width], x.dtype);
    let for_gain = empty(&x, [groups, width], DType::F32);
    let sums = empty(&x, [1, width], DType::F32);
    let rows = Rows::new(&x, width, &[x.dtype, gain.dtype]);
    normed_backward::launch(
        &for_x.client,
        cubes(groups),
        rows.units,
        address(&[&x]),
        rows.vector,
        x.clone().into_buffer_arg(),
        gain.clone().into_buffer_arg(),
        inverses.into_buffer_arg(),
        grad.into_buffer_arg(),
        for_x.clone().into_buffer_arg(),
        for_gain.clone().into_buffer_arg(),
        n,
        rows_of_cube,
        rows.vectors,
        rows.planes,
        [elem(&x), elem(&gain)],
    );
    sums_of_columns::launch(
        &sums.client,
        cubes(width.div_ceil(COLUMNS)),
        CubeDim::new_1d((COLUMNS * SHARES) as u32),
        address(&[&for_gain]),
        for_gain.into_buffer_arg(),
        sums.clone().into_buffer_arg(),
        groups,
        width,
    );
    (for_x, sums)
}
