//! Local rank of any layer of any classifier: the Jacobian of its pre-activations with respect to the image, unit by unit in
//! reverse mode.
//!
//! A chain of linear layers with ReLU has an exact product in its place, see [`super::local`]. BatchNorms are evaluated by
//! their running statistics, so that images do not depend on each other: one pass over copies of an image brings as many
//! rows of its Jacobian.

use burn::tensor::{Int, Tensor, TensorData};
use faer::{Mat, Side};
use sepia_engine::stage::StageError;

use super::local::LocalTolerance;
use crate::model::vision::{Pass, Seen, VisionModel};

/// Rows of a Jacobian that come from one pass.
const ROWS: usize = 64;

/// The Jacobian `[units, pixels]` of the pre-activations of the layer at `path`, at an image `[1, channels, h, w]`. Units
/// are a layer's outputs for the image: of a convolution one for each channel and position.
///
/// # Errors
/// When there is no such layer, or a gradient cannot be read.
pub fn jacobian(model: &VisionModel, path: &str, image: &Tensor<4>) -> Result<Mat<f64>, StageError> {
    let model = model.as_constants();
    let layer = model.layer(path)?;
    let pixels: usize = image.dims().iter().product();
    let mut rows: Vec<f64> = Vec::new();
    let (mut done, mut units) = (0, usize::MAX);
    while done < units {
        let copies = ROWS.min(units - done);
        let images = Tensor::from_inner(image.clone().repeat_dim(0, copies)).require_grad();
        let mut output = None;
        let mut watch = |at: &str, seen: &Seen<'_>| {
            if at == path {
                output = Some(layer.outputs(seen, copies));
            }
        };
        drop(model.forward(images.clone(), &mut Pass::eval().watched(&mut watch)));
        let Some(output) = output else {
            return Err(StageError::new(format!("the images do not pass the layer `{path}`")));
        };
        units = output.dims()[1];
        let copies = copies.min(units - done);
        let wanted: Vec<i64> = (done..done + copies).map(|unit| unit as i64).collect();
        let wanted = Tensor::<2, Int>::from_data(TensorData::new(wanted, [copies, 1]), &output.device());
        let mut tape = output.narrow(0, 0, copies).gather(1, wanted).sum().backward();
        let found = match images.grad_remove(&mut tape) {
            Some(gradient) => gradient.narrow(0, 0, copies).try_into_vec_as::<f64>(),
            None => Ok(vec![0.0; copies * pixels]),
        };
        rows.extend(found.map_err(|error| StageError::new(format!("a Jacobian cannot be read: {error}")))?);
        done += copies;
    }
    Ok(Mat::from_fn(done, pixels, |row, column| rows[row * pixels + column]))
}

/// The number of singular values of a matrix that count. They are roots of the eigenvalues of its smaller Gram matrix, so
/// those below 1e-8 of the largest are not told from zero.
///
/// # Errors
/// When the matrix holds NaN or infinity, or the iteration does not converge.
pub fn numerical_rank(matrix: &Mat<f64>, tolerance: LocalTolerance) -> Result<usize, StageError> {
    let gram = if matrix.nrows() < matrix.ncols() { matrix * matrix.transpose() } else { matrix.transpose() * matrix };
    let [rows, columns] = [matrix.nrows(), matrix.ncols()];
    if !gram.col_iter().all(|column| column.iter().all(|value| value.is_finite())) {
        return Err(StageError::new(format!("a {rows}x{columns} Jacobian has entries that are NaN or infinite")));
    }
    let found = gram.self_adjoint_eigenvalues(Side::Lower);
    let energies =
        found.map_err(|_| StageError::new(format!("the ranks of a {rows}x{columns} Jacobian do not converge")))?;
    let largest = energies.iter().copied().fold(0.0, f64::max).sqrt();
    let limit = match tolerance {
        LocalTolerance::Absolute(limit) => limit,
        LocalTolerance::Relative(part) => part * largest,
    };
    Ok(energies.iter().filter(|energy| energy.max(0.0).sqrt() > limit).count())
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::{
        linalg::host::to_host,
        metric::local::{LinearLayer, ranks_at},
        model::vision::{Architecture, VisionParams},
        random::Rng,
        testing::test_device,
        testing::{classifier, lenet},
        vectors::{Rows, vector},
    };

    fn image(side: usize, seed: u64) -> Tensor<4> {
        let values = Rng::new(seed).normal(side * side, 1.0);
        Tensor::from_data(TensorData::new(values, [1, 1, side, side]), &test_device())
    }

    /// The outputs of a layer at an image, off the tape.
    fn outputs(model: &VisionModel, path: &str, image: Tensor<4>) -> Vec<f64> {
        let mut found = Vec::new();
        let layer = model.layer(path).unwrap();
        let mut watch = |at: &str, seen: &Seen<'_>| {
            if at == path {
                found = layer.outputs(seen, 1).try_into_vec_as::<f64>().unwrap();
            }
        };
        drop(model.forward(image, &mut Pass::eval().watched(&mut watch)));
        found
    }

    #[test]
    fn the_first_convolution_has_the_matrix_that_it_is() {
        let model = lenet();
        let found = jacobian(&model, "conv1", &image(28, 1)).unwrap();
        assert_eq!((found.nrows(), found.ncols()), (6 * 28 * 28, 28 * 28));
        // A column is what a single bright pixel makes of zeros.
        for pixel in [0, 300, 783] {
            let mut bright = vec![0.0f32; 784];
            bright[pixel] = 1.0;
            let bright = Tensor::from_data(TensorData::new(bright, [1, 1, 28, 28]), &test_device());
            let (with, without) = (
                outputs(&model, "conv1", bright),
                outputs(&model, "conv1", Tensor::zeros([1, 1, 28, 28], &test_device())),
            );
            for (unit, (with, without)) in with.iter().zip(&without).enumerate() {
                assert!((found[(unit, pixel)] - (with - without)).abs() < 1e-5, "{unit} {pixel}");
            }
        }
        assert_eq!(numerical_rank(&found, LocalTolerance::Relative(1e-6)).unwrap(), 784);
    }

    #[test]
    fn rows_are_slopes_through_pooling_norms_and_shortcuts() {
        for (architecture, path, side) in
            [(Architecture::Lenet, "fc1", 28), (Architecture::Resnet20, "layer2.0.conv2", 8)]
        {
            let model = classifier(VisionParams::of(architecture), side);
            let at = image(side, 2);
            let found = jacobian(&model, path, &at).unwrap();
            let step = 1e-3;
            let direction = image(side, 3).mul_scalar(step);
            let (plus, minus) =
                (outputs(&model, path, at.clone() + direction.clone()), outputs(&model, path, at - direction.clone()));
            assert_eq!(found.nrows(), plus.len());
            let direction: Vec<f64> = direction.try_into_vec_as().unwrap();
            let (mut wrong, mut size) = (0.0, 0.0);
            for (unit, (plus, minus)) in plus.iter().zip(&minus).enumerate() {
                let slope: f64 = direction.iter().enumerate().map(|(pixel, part)| found[(unit, pixel)] * part).sum();
                wrong += (2.0 * slope - (plus - minus)).powi(2);
                size += (plus - minus).powi(2);
            }
            // Some units cross a kink of ReLU or pooling within the step.
            assert!(wrong < 1e-2 * size, "{path}: {wrong} of {size}");
        }
    }

    #[test]
    fn an_mlp_has_the_ranks_of_the_exact_product() {
        let params = VisionParams { hidden: Some(vec![30, 20]), ..VisionParams::of(Architecture::Mlp) };
        let model = classifier(params, 5);
        let layers: Vec<LinearLayer> = model
            .layers()
            .iter()
            .map(|layer| LinearLayer { weight: to_host(&layer.dense()).unwrap(), bias: Vec::new() })
            .collect();
        for seed in 0..3 {
            let at = image(5, seed);
            let pixels: Vec<f64> = at.clone().try_into_vec_as().unwrap();
            for tolerance in [LocalTolerance::Relative(1e-3), LocalTolerance::Relative(0.3)] {
                let expected = ranks_at(&layers, &pixels, tolerance).unwrap();
                let found = ["fc1", "fc2", "fc3"]
                    .map(|path| numerical_rank(&jacobian(&model, path, &at).unwrap(), tolerance).unwrap());
                assert_eq!(found, expected[..], "{seed} {tolerance:?}");
            }
        }
    }

    /// The same map by hand, for the ranks alone.
    #[test]
    fn vector_local_rank_relu() {
        let vector = vector("local_rank_relu");
        let tolerance = LocalTolerance::Absolute(vector.input("eps"));
        let expected: Vec<Vec<usize>> = vector.expected("per_point");
        let [first, second] = ["W1", "W2"].map(|name| {
            let rows: Rows = vector.input(name);
            Mat::from_fn(rows.len(), rows[0].len(), |i, j| rows[i][j])
        });
        for (point, expected) in vector.input::<Rows>("points").iter().zip(expected) {
            let active = |row: usize| (0..point.len()).map(|j| first[(row, j)] * point[j]).sum::<f64>() > 0.0;
            let masked = Mat::from_fn(first.nrows(), first.ncols(), |i, j| if active(i) { first[(i, j)] } else { 0.0 });
            let found = [&first, &(&second * &masked)].map(|matrix| numerical_rank(matrix, tolerance).unwrap());
            assert_eq!(found, expected[..]);
        }
    }

    #[test]
    fn a_layer_that_is_not_there_is_named() {
        let error = jacobian(&lenet(), "fc9", &image(28, 1)).unwrap_err().to_string();
        assert_eq!(error, "the model has no layer `fc9`");
    }
}
