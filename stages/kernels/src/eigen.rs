//! Eigenvectors of small symmetric matrices, by one-sided Jacobi rotations (Hestenes 1958; Demmel and Veselić 1992).
//!
//! Rows of a matrix are turned in pairs until all are orthogonal to each other. What the turns multiply to has the eigenvectors
//! as its rows, and of a symmetric matrix the turned rows are these times the eigenvalues. Pairs that have no row in common
//! are independent of each other: a cube takes two blocks of rows into its shared memory and turns all their pairs, the cubes
//! of a launch take all blocks, and after as many launches as there are blocks but one every pair was turned once. That is a
//! sweep. A sweep that finds nothing to turn makes the later ones end as they begin, so nobody has to be asked.

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::launch::{contiguous, empty, whole_plane_sum};

/// Rows of a block.
const BLOCK: usize = 8;
/// Rows that a cube holds.
const HELD: usize = 2 * BLOCK;
/// Units that turn a pair of rows.
const PLANE: usize = 32;
/// Sweeps at most: of matrices of hundreds of rows in f32 the tenth finds nothing.
const SWEEPS: usize = 16;
/// Two rows are orthogonal when the cosine between them is no larger; products of rows are rounded by about as much.
const ORTHOGONAL: f32 = 1e-6;
/// Bytes of shared memory that a cube has on every GPU with tensor cores for bf16.
const SHARED: usize = 96 << 10;

/// How large a matrix may be.
pub(crate) const LARGEST: usize = SHARED / (2 * HELD * size_of::<f32>());

/// Of `count` players the one at a place in a round, so that in `count - 1` rounds the place and the one opposite to it hold
/// every pair once.
#[cube]
fn player(place: usize, round: usize, #[comptime] count: usize) -> usize {
    let others = comptime!(count - 1);
    if place == 0 { 0usize.runtime() } else { 1 + (place - 1 + round) % others }
}

#[cube(launch)]
fn turned(rows: &mut [f32], turns: &mut [f32], busy: &mut [u32], sweep: usize, round: usize, #[comptime] width: usize) {
    let blocks = comptime!(width / BLOCK);
    let matrix = CUBE_POS_Y as usize;
    let flags = matrix * SWEEPS;
    let mut goes_on = true;
    if sweep > 0 {
        goes_on = busy[flags + sweep - 1] != 0;
    }
    if !goes_on {
        terminate!();
    }
    let first = player(CUBE_POS_X as usize, round, blocks) * BLOCK;
    let second = player(blocks - 1 - CUBE_POS_X as usize, round, blocks) * BLOCK;
    let mut a = Shared::<[f32]>::new_slice(comptime!(HELD * width));
    let mut v = Shared::<[f32]>::new_slice(comptime!(HELD * width));
    let mut at = UNIT_POS as usize;
    while at < comptime!(HELD * width) {
        let row = at / width;
        let from = if row < BLOCK { first + row } else { second + row - BLOCK };
        let from = (matrix * width + from) * width + at % width;
        a[at] = rows[from];
        v[at] = turns[from];
        at += CUBE_DIM as usize;
    }
    sync_cube();
    for inner in 0..comptime!(HELD - 1) {
        let place = UNIT_POS as usize / PLANE;
        let i = player(place, inner, HELD) * width;
        let j = player(HELD - 1 - place, inner, HELD) * width;
        let begin = UNIT_POS as usize % PLANE;
        let mut of_i = 0.0f32;
        let mut of_j = 0.0f32;
        let mut of_both = 0.0f32;
        let mut at = begin;
        while at < width {
            let (x, y) = (a[i + at], a[j + at]);
            of_i += x * x;
            of_j += y * y;
            of_both += x * y;
            at += PLANE;
        }
        let of_i = whole_plane_sum(of_i);
        let of_j = whole_plane_sum(of_j);
        let of_both = whole_plane_sum(of_both);
        if of_both.abs() > ORTHOGONAL * (of_i * of_j).sqrt() {
            busy[flags + sweep] = 1;
            let zeta = (of_j - of_i) / (2.0f32 * of_both);
            let mut tangent = 1.0f32 / (zeta.abs() + (1.0f32 + zeta * zeta).sqrt());
            if zeta < 0.0f32 {
                tangent = -tangent;
            }
            let cos = 1.0f32 / (1.0f32 + tangent * tangent).sqrt();
            let sin = cos * tangent;
            let mut at = begin;
            while at < width {
                let (x, y) = (a[i + at], a[j + at]);
                a[i + at] = cos * x - sin * y;
                a[j + at] = sin * x + cos * y;
                let (x, y) = (v[i + at], v[j + at]);
                v[i + at] = cos * x - sin * y;
                v[j + at] = sin * x + cos * y;
                at += PLANE;
            }
        }
        sync_cube();
    }
    let mut at = UNIT_POS as usize;
    while at < comptime!(HELD * width) {
        let row = at / width;
        let to = if row < BLOCK { first + row } else { second + row - BLOCK };
        let to = (matrix * width + to) * width + at % width;
        rows[to] = a[at];
        turns[to] = v[at];
        at += CUBE_DIM as usize;
    }
}

/// Into larger matrices, with zeros around them; and the identity, as large.
#[cube(launch)]
fn widened(
    matrices: &[f32],
    rows: &mut [f32],
    turns: &mut [f32],
    busy: &mut [u32],
    given: usize,
    width: usize,
    count: usize,
) {
    if ABSOLUTE_POS < count * width * width {
        let (row, column) = (ABSOLUTE_POS / width % width, ABSOLUTE_POS % width);
        let mut value = 0.0f32;
        if row < given && column < given {
            value = matrices[(ABSOLUTE_POS / width / width * given + row) * given + column];
        }
        rows[ABSOLUTE_POS] = value;
        turns[ABSOLUTE_POS] = f32::cast_from(row == column);
    }
    if ABSOLUTE_POS < count * SWEEPS {
        busy[ABSOLUTE_POS] = 0;
    }
}

/// Back from larger matrices; and how long each row is, which is the eigenvalue.
#[cube(launch)]
fn narrowed(rows: &[f32], turns: &[f32], values: &mut [f32], vectors: &mut [f32], given: usize, width: usize) {
    let (row, matrix) = (CUBE_POS_X as usize, CUBE_POS_Y as usize);
    let from = (matrix * width + row) * width;
    let to = (matrix * given + row) * given;
    let mut squares = 0.0f32;
    let mut at = UNIT_POS as usize;
    while at < given {
        squares += rows[from + at] * rows[from + at];
        vectors[to + at] = turns[from + at];
        at += PLANE;
    }
    let squares = whole_plane_sum(squares);
    if UNIT_POS == 0 {
        values[matrix * given + row] = squares.sqrt();
    }
}

/// Eigenvalues `[k, n]` and eigenvectors, as rows, `[k, n, n]`, in no order, of `k` positive semidefinite matrices.
pub(crate) fn vectors(matrices: CubeTensor) -> (CubeTensor, CubeTensor) {
    let [matrices] = contiguous([matrices]);
    let sides = matrices.meta.shape();
    let (count, given) = (sides[0], sides[1]);
    let width = given.next_multiple_of(HELD);
    let client = matrices.client.clone();
    let (rows, turns) =
        (empty(&matrices, [count, width, width], DType::F32), empty(&matrices, [count, width, width], DType::F32));
    let busy = empty(&matrices, [count, SWEEPS], DType::U32);
    let (values, vectors) =
        (empty(&matrices, [count, given], DType::F32), empty(&matrices, [count, given, given], DType::F32));
    let units = CubeDim::new_1d((BLOCK * PLANE) as u32);
    widened::launch(
        &client,
        CubeCount::Static((count * width * width).div_ceil(BLOCK * PLANE) as u32, 1, 1),
        units,
        matrices.into_buffer_arg(),
        rows.clone().into_buffer_arg(),
        turns.clone().into_buffer_arg(),
        busy.clone().into_buffer_arg(),
        given,
        width,
        count,
    );
    let blocks = width / BLOCK;
    for sweep in 0..SWEEPS {
        for round in 0..blocks - 1 {
            turned::launch(
                &client,
                CubeCount::Static((blocks / 2) as u32, count as u32, 1),
                units,
                rows.clone().into_buffer_arg(),
                turns.clone().into_buffer_arg(),
                busy.clone().into_buffer_arg(),
                sweep,
                round,
                width,
            );
        }
    }
    narrowed::launch(
        &client,
        CubeCount::Static(given as u32, count as u32, 1),
        CubeDim::new_1d(PLANE as u32),
        rows.into_buffer_arg(),
        turns.into_buffer_arg(),
        values.clone().into_buffer_arg(),
        vectors.clone().into_buffer_arg(),
        given,
        width,
    );
    (values, vectors)
}
