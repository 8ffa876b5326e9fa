//! Products of tensors on the CPU.

use burn::{
    backend::{Flex, ops::FloatTensorOps},
    tensor::{Shape, TensorData},
};
use sepia_matmul::{Matrices, product};

use super::fused::Host;

/// `[.., m, k]` times `[.., k, n]`, as views of any strides, to a contiguous `[.., m, n]`; to the bit what the backend's own
/// product gives, without its clearing and moving of the result.
pub(super) fn matmul(lhs: &Host, rhs: &Host) -> Host {
    let values = matrices(lhs).zip(matrices(rhs)).and_then(|(lhs, rhs)| product(&lhs, &rhs));
    let Some(values) = values else { return Flex::float_matmul(lhs.clone(), rhs.clone()) };
    let mut shape = lhs.layout().shape().as_slice().to_vec();
    if let (Some(columns), Some(n)) = (shape.last_mut(), rhs.layout().shape().as_slice().last()) {
        *columns = *n;
    }
    Host::from_data(TensorData::new(values, Shape::from(shape)))
}

fn matrices(tensor: &Host) -> Option<Matrices<'_>> {
    let layout = tensor.layout();
    let data = tensor.storage::<f32>().get(layout.start_offset()..)?;
    let strides: Option<Vec<usize>> = layout.strides().iter().map(|stride| usize::try_from(*stride).ok()).collect();
    Matrices::new(data, layout.shape().as_slice(), &strides?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::fused::{host, values};

    #[test]
    fn results_are_those_of_the_backend_to_the_bit() {
        let random = |shape: [usize; 4], seed: u64| {
            host(crate::random::Rng::new(seed).normal(shape.iter().product(), 1.0), shape)
        };
        for [b, h, m, n, k] in [[1, 1, 300, 200, 250], [3, 4, 64, 48, 32], [1, 2, 5, 7, 3]] {
            // As attention cuts its operands: heads between, rows of a larger tensor, the second turned.
            let lhs = random([b, m + 2, h, k], 1).permute(&[0, 2, 1, 3]).narrow(2, 1, m);
            let rhs = random([b, n, h, k], 2).permute(&[0, 2, 3, 1]);
            let (one, other) = (matmul(&lhs, &rhs), Flex::float_matmul(lhs, rhs));
            assert_eq!(one.layout().shape(), other.layout().shape());
            assert_eq!(values(&one), values(&other));
        }
    }
}
