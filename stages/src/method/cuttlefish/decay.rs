//! Frobenius decay: L2 on the product of two factors rather than on each, which would press their rank.

use std::collections::BTreeMap;

use burn::tensor::Tensor;

use crate::{
    model::vision::{VisionModel, Weight},
    ops::product,
};

/// What the penalty `lambda / 2 * ||U V||_F^2` adds to the gradients of `u` `[m, r]` and `v` `[r, n]`:
/// `lambda U (V V^T)` and `lambda (U^T U) V`. Both come from the factors as they are, never from one already changed.
#[must_use]
pub fn frobenius_decay(u: &Tensor<2>, v: &Tensor<2>, lambda: f64) -> (Tensor<2>, Tensor<2>) {
    let right = product(v.clone(), v.clone().transpose()); // [r, r]
    let left = product(u.clone().transpose(), u.clone()); // [r, r]
    (product(u.clone(), right).mul_scalar(lambda), product(left, v.clone()).mul_scalar(lambda))
}

/// The same for all factored layers of a model, by the names of their factors; nothing for a `lambda` of 0.
#[must_use]
pub fn frobenius_penalties(model: &VisionModel, lambda: f64) -> BTreeMap<String, Tensor<2>> {
    let mut found = BTreeMap::new();
    for layer in model.layers().into_iter().filter(|_| lambda > 0.0) {
        if let Weight::Factored(factors) = &layer.weight {
            let (u, v) = frobenius_decay(&factors.u, &factors.v, lambda);
            found.insert(format!("{}.u", layer.path), u);
            found.insert(format!("{}.v", layer.path), v);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use burn::tensor::DType;

    use super::*;
    use crate::vectors::{assert_close, tensor, vector};

    #[test]
    fn vector_frobenius_decay() {
        let vector = vector("frobenius_decay");
        let (u, v) = (tensor(&vector.input("U"), DType::F64), tensor(&vector.input("V"), DType::F64));
        let (grad_u, grad_v) = frobenius_decay(&u, &v, vector.input("lambda"));
        assert_close(&grad_u, &vector.expected("gU"), vector.tol());
        assert_close(&grad_v, &vector.expected("gV"), vector.tol());
    }
}
