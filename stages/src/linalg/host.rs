//! Matrices between the device and the host.

use burn::tensor::{DType, Device, Tensor, TensorData};
use faer::Mat;

use super::svd::LinalgError;

/// A tensor `[m, n]` as a host matrix in f64; f32 and f64 values are kept exactly.
///
/// # Errors
/// When the device cannot be read.
pub fn to_host(tensor: &Tensor<2>) -> Result<Mat<f64>, LinalgError> {
    let [m, n] = tensor.dims();
    let data = tensor.try_to_vec_as::<f64>().map_err(|error| LinalgError::Unreadable(error.to_string()))?;
    Ok(Mat::from_fn(m, n, |i, j| data[i * n + j]))
}

/// The same in f32, for work where a basis is good enough.
///
/// # Errors
/// When the device cannot be read.
pub fn to_host_f32(tensor: &Tensor<2>) -> Result<Mat<f32>, LinalgError> {
    let [m, n] = tensor.dims();
    let data = tensor.try_to_vec_as::<f32>().map_err(|error| LinalgError::Unreadable(error.to_string()))?;
    Ok(Mat::from_fn(m, n, |i, j| data[i * n + j]))
}

/// A host matrix as a tensor of the given type.
#[must_use]
pub fn to_device<T: Copy + Into<f64>>(matrix: &Mat<T>, device: &Device, dtype: DType) -> Tensor<2> {
    let (m, n) = (matrix.nrows(), matrix.ncols());
    let mut flat: Vec<f64> = Vec::with_capacity(m * n);
    for i in 0..m {
        flat.extend((0..n).map(|j| -> f64 { matrix[(i, j)].into() }));
    }
    Tensor::from_data(TensorData::new(flat, [m, n]), (device, dtype))
}
