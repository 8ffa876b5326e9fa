//! Utilized rank: how many directions of a weight the data exercises (Utilized Rank of Subspaces, 2024).
//!
//! For the rows x that a layer sees: `C_S = sum x x^T`, of which the leading `k_S` eigenvectors hold a share `e_S` of the
//! energy; `C_T = W C_S W^T` gives `k_T` likewise. `W' = P_T W P_S` then does what W does on the data, and its rank is at
//! most `min(k_S, k_T)`. A convolution sees the patches under its kernel.

use burn::tensor::{Tensor, module, ops::UnfoldOptions};
use faer::{Mat, Side};
use serde::{Deserialize, Serialize};

use crate::{
    linalg::{host::to_host, svd::LinalgError},
    model::vision::Seen,
};

/// Sums `x x^T` over what a layer sees, in f64.
#[derive(Debug, Clone)]
pub struct InputGram {
    gram: Mat<f64>,
    rows: u64,
}

/// What [`InputGram::utilized`] finds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UtilizedRank {
    /// Directions of the input that hold the asked share of its energy.
    pub input_rank: usize,
    /// Directions of the output.
    pub output_rank: usize,
    /// The smaller of the two.
    pub utilized_rank: usize,
    /// Divided by the smaller side of the weight.
    pub utilization: f64,
    /// Eigenvalues of the input's Gram matrix, descending: squared singular values of the inputs.
    pub input_energies: Vec<f64>,
    /// Of the output's.
    pub output_energies: Vec<f64>,
}

impl InputGram {
    /// Of inputs `[n]`.
    #[must_use]
    pub fn new(inputs: usize) -> Self {
        Self { gram: Mat::zeros(inputs, inputs), rows: 0 }
    }

    /// Rows taken in so far.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Takes in rows `[rows, n]`.
    ///
    /// # Errors
    /// When they cannot be read from their device.
    pub fn add(&mut self, rows: &Tensor<2>) -> Result<(), LinalgError> {
        let x = to_host(rows)?;
        self.gram += x.transpose() * &x;
        self.rows += x.nrows() as u64;
        Ok(())
    }

    /// Takes in what a layer was given: rows, or the patches `[in * kh * kw]` under a kernel.
    ///
    /// # Errors
    /// When they cannot be read from their device.
    pub fn see(&mut self, seen: &Seen<'_>) -> Result<(), LinalgError> {
        match seen {
            Seen::Rows(rows) => self.add(rows),
            Seen::Maps(maps, conv) => {
                let options = UnfoldOptions::new(conv.stride, conv.padding, [1, 1]);
                let patches = module::unfold4d((*maps).clone(), conv.kernel, options); // [batch, patch, positions]
                let [batch, patch, positions] = patches.dims();
                self.add(&patches.swap_dims(1, 2).reshape([batch * positions, patch]))
            }
        }
    }

    /// The utilized rank of a weight `[m, n]` at shares of energy of its input and output, above 0 and at most 1. At 1,
    /// directions whose eigenvalue is above `n * eps` of the largest count.
    ///
    /// # Errors
    /// When an eigenvalue decomposition fails.
    pub fn utilized(&self, weight: &Mat<f64>, input: f64, output: f64) -> Result<UtilizedRank, LinalgError> {
        let (of_input, _) = eigen(&self.gram)?;
        let (of_output, _) = eigen(&(weight * &self.gram * weight.transpose()))?;
        let (input_rank, output_rank) = (leading(&of_input, input), leading(&of_output, output));
        let utilized_rank = input_rank.min(output_rank);
        let utilization = utilized_rank as f64 / weight.nrows().min(weight.ncols()).max(1) as f64;
        Ok(UtilizedRank {
            input_rank,
            output_rank,
            utilized_rank,
            utilization,
            input_energies: of_input,
            output_energies: of_output,
        })
    }

    /// `P_T W P_S`: the weight without what the data does not exercise.
    ///
    /// # Errors
    /// When an eigenvalue decomposition fails.
    pub fn project(&self, weight: &Mat<f64>, input: f64, output: f64) -> Result<Mat<f64>, LinalgError> {
        let (of_input, q) = eigen(&self.gram)?;
        let (of_output, p) = eigen(&(weight * &self.gram * weight.transpose()))?;
        let q = q.subcols(0, leading(&of_input, input));
        let p = p.subcols(0, leading(&of_output, output));
        Ok(p * (p.transpose() * weight * q) * q.transpose())
    }
}

/// Smallest k whose leading energies reach a share of the total; at a share of 1, all that round-off did not make.
fn leading(energies: &[f64], share: f64) -> usize {
    let floor = energies.first().copied().unwrap_or(0.0) * energies.len() as f64 * f64::EPSILON;
    let real = energies.iter().take_while(|energy| **energy > floor).count();
    let total: f64 = energies[..real].iter().sum();
    let mut sum = 0.0;
    let reached = energies[..real].iter().position(|energy| {
        sum += energy;
        share < 1.0 && sum >= share * total
    });
    reached.map_or(real, |index| index + 1)
}

/// Eigenvalues, descending, and eigenvectors as columns.
fn eigen(gram: &Mat<f64>) -> Result<(Vec<f64>, Mat<f64>), LinalgError> {
    let size = gram.nrows();
    let count = gram.col_iter().flat_map(|column| column.iter()).filter(|value| !value.is_finite()).count();
    if count > 0 {
        return Err(LinalgError::NotFinite { rows: size, cols: size, count });
    }
    let found =
        gram.self_adjoint_eigen(Side::Lower).map_err(|_| LinalgError::NoConvergence { rows: size, cols: size })?;
    let values: Vec<f64> = found.S().column_vector().iter().rev().map(|value| value.max(0.0)).collect();
    let vectors = Mat::from_fn(size, size, |i, j| found.U()[(i, size - 1 - j)]);
    Ok((values, vectors))
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, TensorData};

    use super::*;
    use crate::{
        model::vision::{Form, Geometry},
        ops::{Conv, conv2d},
        random::Rng,
        testing::test_device,
        vectors::{Rows, assert_near, tensor, vector},
    };

    fn matrix(rows: &Rows) -> Mat<f64> {
        Mat::from_fn(rows.len(), rows[0].len(), |i, j| rows[i][j])
    }

    #[test]
    fn vector_utilized_rank_exact() {
        let vector = vector("utilized_rank_exact");
        let x: Rows = vector.input("X");
        let w = matrix(&vector.input("W"));
        let mut gram = InputGram::new(3);
        gram.add(&tensor(&x, DType::F64)).unwrap();
        let found = gram.utilized(&w, 1.0, 1.0).unwrap();
        assert_eq!(found.input_rank, vector.expected::<usize>("k_S"));
        assert_eq!(found.output_rank, vector.expected::<usize>("k_T"));
        assert_eq!(found.utilized_rank, vector.expected::<usize>("utilized_rank"));
        assert_near(found.utilization, vector.expected("utilization"), 1e-9);
        for (name, energies) in [("eig_XtX_desc", &found.input_energies), ("eig_WXtXWt_desc", &found.output_energies)] {
            for (found, expected) in energies.iter().zip(vector.expected::<Vec<f64>>(name)) {
                assert_near(*found, expected, vector.tol());
            }
        }
        let projected = gram.project(&w, 1.0, 1.0).unwrap();
        assert!((&projected - matrix(&vector.expected("W_prime"))).norm_max() < vector.tol());
        let outputs = matrix(&x) * projected.transpose();
        assert!((outputs - matrix(&vector.expected("outputs"))).norm_max() < vector.tol());
    }

    #[test]
    fn vector_utilized_rank_energy() {
        let vector = vector("utilized_rank_energy");
        let mut gram = InputGram::new(3);
        gram.add(&tensor(&vector.input("X"), DType::F64)).unwrap();
        let energies = gram.utilized(&Mat::identity(3, 3), 1.0, 1.0).unwrap().input_energies;
        let shares: Vec<f64> = vector.input("energy");
        let found: Vec<usize> = shares.iter().map(|share| leading(&energies, *share)).collect();
        assert_eq!(found, vector.expected::<Vec<usize>>("k_S"));
    }

    #[test]
    fn a_convolution_sees_the_patches_that_its_matrix_is_multiplied_with() {
        let device = test_device();
        let conv = Conv::same(2, 3, 3, 2);
        let values = Rng::new(1).normal(2 * 2 * 5 * 7, 1.0);
        let maps = Tensor::<4>::from_data(TensorData::new(values, [2, 2, 5, 7]), &device);
        let weight = Tensor::<2>::from_data(TensorData::new(Rng::new(2).normal(3 * 18, 1.0), [3, 18]), &device);
        let mut gram = InputGram::new(Geometry::Conv(conv).matrix(Form::Channel)[1]);
        gram.see(&Seen::Maps(&maps, conv)).unwrap();
        assert_eq!(gram.rows(), 2 * 3 * 4);
        // The energy of the outputs is the trace of W C W^T.
        let w = to_host(&weight).unwrap();
        let found: f64 = gram.utilized(&w, 1.0, 1.0).unwrap().output_energies.iter().sum();
        let expected = f64::from(conv2d(maps, weight, &conv).square().sum().into_scalar::<f32>());
        assert_near(found, expected, 1e-5);
    }
}
