//! The loss of a language model.

use burn::tensor::DType;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

use crate::launch::{Rows, address, contiguous, cube_max, cube_sum, cubes, elem, empty, sides};

/// One row a cube. A unit's sum of exponentials is relative to the largest logit that it has seen so far.
#[cube(launch, address_type = "dynamic")]
fn losses_of_rows<F: Float, I: Int, N: Size>(
    logits: &[Vector<F, N>],
    targets: &[I],
    losses: &mut [f32],
    log_sums: &mut [f32],
    vectors: usize,
    #[comptime] planes: usize,
    #[define(F, I)] _dtypes: [ElemType; 2],
) {
    let row = CUBE_POS;
    let mut max = f32::min_value();
    let mut sum = 0.0f32;
    let mut at = UNIT_POS as usize;
    while at < vectors {
        let values = Vector::<f32, N>::cast_from(logits[row * vectors + at]);
        let mut most = max;
        #[unroll]
        for k in 0..N::value() {
            most = most.max(values.extract(k));
        }
        sum *= (max - most).exp();
        #[unroll]
        for k in 0..N::value() {
            sum += (values.extract(k) - most).exp();
        }
        max = most;
        at += CUBE_DIM as usize;
    }
    let most = cube_max(max, planes);
    let sum = cube_sum(sum * (max - most).exp(), planes);
    if UNIT_POS == 0 {
        let log_sum = most + sum.ln();
        let target = usize::cast_from(targets[row]);
        let of_target =
            f32::cast_from(logits[row * vectors + target / N::value()].extract_dynamic(target % N::value()));
        log_sums[row] = log_sum;
        losses[row] = log_sum - of_target;
    }
}

pub(crate) fn forward(logits: CubeTensor, targets: CubeTensor) -> (CubeTensor, CubeTensor) {
    let [logits, targets] = contiguous([logits, targets]);
    let [n, width] = sides(&logits);
    let (losses, log_sums) = (empty(&logits, [n, 1], DType::F32), empty(&logits, [n, 1], DType::F32));
    let rows = Rows::new(&logits, width, &[logits.dtype]);
    losses_of_rows::launch(
        &losses.client,
        cubes(n),
        rows.units,
        address(&[&logits, &targets]),
        rows.vector,
        logits.clone().into_buffer_arg(),
        targets.clone().into_buffer_arg(),
        losses.clone().into_buffer_arg(),
        log_sums.clone().into_buffer_arg(),
        rows.vectors,
        rows.planes,
        [elem(&logits), elem(&targets)],
    );
    (losses, log_sums)
}

#[cube(launch, address_type = "dynamic")]
fn gradients_of_rows<F: Float, I: Int, N: Size>(
    logits: &[Vector<F, N>],
    targets: &[I],
    log_sums: &[f32],
    grad: &[f32],
    output: &mut [Vector<F, N>],
    vectors: usize,
    #[define(F, I)] _dtypes: [ElemType; 2],
) {
    let row = CUBE_POS;
    let (log_sum, grad, target) = (log_sums[row], grad[0], usize::cast_from(targets[row]));
    let mut at = UNIT_POS as usize;
    while at < vectors {
        let values = Vector::<f32, N>::cast_from(logits[row * vectors + at]);
        let mut found = Vector::<f32, N>::empty();
        #[unroll]
        for k in 0..N::value() {
            let mut difference = (values.extract(k) - log_sum).exp();
            if at * N::value() + k == target {
                difference -= 1.0f32;
            }
            found.insert(k, difference * grad);
        }
        output[row * vectors + at] = Vector::cast_from(found);
        at += CUBE_DIM as usize;
    }
}

pub(crate) fn backward(logits: CubeTensor, targets: CubeTensor, log_sums: CubeTensor, grad: CubeTensor) -> CubeTensor {
    let [logits, targets, log_sums, grad] = contiguous([logits, targets, log_sums, grad]);
    let [n, width] = sides(&logits);
    let output = empty(&logits, [n, width], logits.dtype);
    let rows = Rows::new(&logits, width, &[logits.dtype]);
    gradients_of_rows::launch(
        &output.client,
        cubes(n),
        rows.units,
        address(&[&logits, &targets]),
        rows.vector,
        logits.clone().into_buffer_arg(),
        targets.clone().into_buffer_arg(),
        log_sums.into_buffer_arg(),
        grad.into_buffer_arg(),
        output.clone().into_buffer_arg(),
        rows.vectors,
        [elem(&logits), elem(&targets)],
    );
    output
}
