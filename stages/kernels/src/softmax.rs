//! The softmax of attention whose positions see themselves and those before them.

use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::launch::{
    MOST_UNITS, address, contiguous, cubes, elem, empty, most_planes, whole_plane_max, whole_plane_sum, widest_vector,
};

/// One row a plane: `[.., seq, seq]`, of whose row `q` the columns up to `q` are read.
#[cube(launch, address_type = "dynamic")]
fn probabilities<F: Float, N: Size>(
    scores: &[Vector<F, N>],
    output: &mut [Vector<F, N>],
    rows: usize,
    vectors: usize,
    #[define(F)] _dtype: ElemType,
) {
    let row = CUBE_POS * (CUBE_DIM / PLANE_DIM) as usize + PLANE_POS as usize;
    if row < rows {
        let begin = row * vectors;
        let last = row % (vectors * N::value());
        let seen = last / N::value() + 1;
        let mut max = f32::min_value();
        let mut sum = 0.0f32;
        let mut at = UNIT_POS_PLANE as usize;
        while at < seen {
            let values = Vector::<f32, N>::cast_from(scores[begin + at]);
            let mut most = max;
            #[unroll]
            for k in 0..N::value() {
                if at * N::value() + k <= last {
                    most = most.max(values.extract(k));
                }
            }
            sum *= (max - most).exp();
            #[unroll]
            for k in 0..N::value() {
                if at * N::value() + k <= last {
                    sum += (values.extract(k) - most).exp();
                }
            }
            max = most;
            at += PLANE_DIM as usize;
        }
        let most = whole_plane_max(max);
        let inverse = 1.0f32 / whole_plane_sum(sum * (max - most).exp());
        let mut at = UNIT_POS_PLANE as usize;
        while at < vectors {
            let mut found = Vector::<f32, N>::new(0.0f32);
            if at < seen {
                let values = Vector::<f32, N>::cast_from(scores[begin + at]);
                #[unroll]
                for k in 0..N::value() {
                    if at * N::value() + k <= last {
                        found.insert(k, (values.extract(k) - most).exp() * inverse);
                    }
                }
            }
            output[begin + at] = Vector::cast_from(found);
            at += PLANE_DIM as usize;
        }
    }
}

/// `p (dp - sum(p dp))`, the sum over each row.
#[cube(launch, address_type = "dynamic")]
fn gradients_of_scores<F: Float, N: Size>(
    p: &[Vector<F, N>],
    grad: &[Vector<F, N>],
    output: &mut [Vector<F, N>],
    rows: usize,
    vectors: usize,
    #[define(F)] _dtype: ElemType,
) {
    let row = CUBE_POS * (CUBE_DIM / PLANE_DIM) as usize + PLANE_POS as usize;
    if row < rows {
        let begin = row * vectors;
        // Beyond, the probabilities are zero.
        let seen = row % (vectors * N::value()) / N::value() + 1;
        let mut sum = 0.0f32;
        let mut at = UNIT_POS_PLANE as usize;
        while at < seen {
            let product = Vector::<f32, N>::cast_from(p[begin + at]) * Vector::cast_from(grad[begin + at]);
            #[unroll]
            for k in 0..N::value() {
                sum += product.extract(k);
            }
            at += PLANE_DIM as usize;
        }
        let sum = Vector::new(whole_plane_sum(sum));
        let mut at = UNIT_POS_PLANE as usize;
        while at < vectors {
            let mut found = Vector::<f32, N>::new(0.0f32);
            if at < seen {
                let grad = Vector::<f32, N>::cast_from(grad[begin + at]);
                found = Vector::<f32, N>::cast_from(p[begin + at]) * (grad - sum);
            }
            output[begin + at] = Vector::cast_from(found);
            at += PLANE_DIM as usize;
        }
    }
}

/// Rows, vectors in each, numbers in a vector, and how many rows a cube has.
struct Shape {
    rows: usize,
    vectors: usize,
    vector: usize,
    rows_of_cube: usize,
}

fn shape(x: &CubeTensor) -> Shape {
    let sides = x.meta.shape();
    let width = sides[sides.len() - 1];
    let vector = widest_vector(width, &[x.dtype]);
    Shape { rows: x.meta.num_elements() / width, vectors: width / vector, vector, rows_of_cube: most_planes(x) }
}

pub(crate) fn forward(scores: CubeTensor) -> CubeTensor {
    let [scores] = contiguous([scores]);
    let output = empty(&scores, four(&scores), scores.dtype);
    let Shape { rows, vectors, vector, rows_of_cube } = shape(&scores);
    probabilities::launch(
        &output.client,
        cubes(rows.div_ceil(rows_of_cube)),
        CubeDim::new_1d(MOST_UNITS as u32),
        address(&[&output]),
        vector,
        scores.into_buffer_arg(),
        output.clone().into_buffer_arg(),
        rows,
        vectors,
        elem(&output),
    );
    output
}

pub(crate) fn backward(p: CubeTensor, grad: CubeTensor) -> CubeTensor {
    let [p, grad] = contiguous([p, grad]);
    let output = empty(&p, four(&p), p.dtype);
    let Shape { rows, vectors, vector, rows_of_cube } = shape(&p);
    gradients_of_scores::launch(
        &output.client,
        cubes(rows.div_ceil(rows_of_cube)),
        CubeDim::new_1d(MOST_UNITS as u32),
        address(&[&output]),
        vector,
        p.into_buffer_arg(),
        grad.into_buffer_arg(),
        output.clone().into_buffer_arg(),
        rows,
        vectors,
        elem(&output),
    );
    output
}

fn four(x: &CubeTensor) -> [usize; 4] {
    let sides = x.meta.shape();
    [sides[0], sides[1], sides[2], sides[3]]
}
