//! Local rank: the mean over inputs of the rank of a layer's Jacobian with respect to the input.
//!
//! Of a chain of linear layers with ReLU between them the Jacobian is an exact product, `J_l = W_l D_{l-1} ... D_1 W_1`,
//! where D switches off the units that are not active.

use faer::Mat;

use crate::linalg::svd::{LinalgError, singular_values};

/// Which singular values of a Jacobian count.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LocalTolerance {
    /// Those above this number.
    Absolute(f64),
    /// Those above this part of the largest.
    Relative(f64),
}

/// A linear layer `[out, in]` with its bias.
#[derive(Debug, Clone)]
pub struct LinearLayer {
    /// `[out, in]`.
    pub weight: Mat<f64>,
    /// `[out]`; empty for none.
    pub bias: Vec<f64>,
}

/// The ranks of the pre-activations' Jacobians at one input `[in]`, layer by layer.
///
/// # Errors
/// When a Jacobian holds NaN or infinity.
pub fn ranks_at(layers: &[LinearLayer], x: &[f64], tolerance: LocalTolerance) -> Result<Vec<usize>, LinalgError> {
    let mut ranks = Vec::with_capacity(layers.len());
    let mut activation = x.to_vec();
    let mut jacobian = Mat::<f64>::identity(x.len(), x.len());
    for layer in layers {
        jacobian = &layer.weight * &jacobian;
        let s = singular_values(jacobian.as_ref())?;
        let limit = match tolerance {
            LocalTolerance::Absolute(limit) => limit,
            LocalTolerance::Relative(part) => part * s.first().copied().unwrap_or(0.0),
        };
        ranks.push(s.iter().filter(|value| **value > limit).count());
        let pre: Vec<f64> = (0..layer.weight.nrows())
            .map(|row| {
                let product: f64 = activation.iter().enumerate().map(|(j, value)| layer.weight[(row, j)] * value).sum();
                product + layer.bias.get(row).copied().unwrap_or(0.0)
            })
            .collect();
        for (row, value) in pre.iter().enumerate() {
            if *value <= 0.0 {
                (0..jacobian.ncols()).for_each(|column| jacobian[(row, column)] = 0.0);
            }
        }
        activation = pre.into_iter().map(|value| value.max(0.0)).collect();
    }
    Ok(ranks)
}

/// The local rank of each layer: the mean over inputs.
///
/// # Errors
/// As [`ranks_at`].
pub fn local_rank(
    layers: &[LinearLayer],
    inputs: &[Vec<f64>],
    tolerance: LocalTolerance,
) -> Result<Vec<f64>, LinalgError> {
    let mut sums = vec![0.0; layers.len()];
    for x in inputs {
        for (sum, rank) in sums.iter_mut().zip(ranks_at(layers, x, tolerance)?) {
            *sum += rank as f64;
        }
    }
    Ok(sums.into_iter().map(|sum| sum / inputs.len().max(1) as f64).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::{Rows, vector};

    #[test]
    fn vector_local_rank_relu() {
        let vector = vector("local_rank_relu");
        let layer = |name: &str| {
            let rows: Rows = vector.input(name);
            let weight = Mat::from_fn(rows.len(), rows[0].len(), |i, j| rows[i][j]);
            LinearLayer { weight, bias: Vec::new() }
        };
        let layers = [layer("W1"), layer("W2")];
        let points: Rows = vector.input("points");
        let tolerance = LocalTolerance::Absolute(vector.input("eps"));
        let expected: Vec<Vec<usize>> = vector.expected("per_point");
        for (point, expected) in points.iter().zip(expected) {
            assert_eq!(ranks_at(&layers, point, tolerance).unwrap(), expected);
        }
        assert_eq!(local_rank(&layers, &points, tolerance).unwrap(), vector.expected::<Vec<f64>>("local_rank"));
    }
}
