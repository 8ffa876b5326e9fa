//! The numeric test vectors of `vectors.json`, typed: one line fetches one vector.

use std::sync::OnceLock;

use burn::tensor::{DType, Tensor, TensorData};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::testing::test_device;

/// A matrix as the file writes it: rows of numbers, torch layout.
pub(crate) type Rows = Vec<Vec<f64>>;

/// One entry of the file.
pub(crate) struct Vector(&'static Value);

/// The entry with this id.
pub(crate) fn vector(id: &str) -> Vector {
    static FILE: OnceLock<Value> = OnceLock::new();
    let file = FILE.get_or_init(|| serde_json::from_str(include_str!("../vectors.json")).unwrap());
    let found = file["vectors"].as_array().unwrap().iter().find(|entry| entry["id"] == id);
    Vector(found.unwrap_or_else(|| panic!("vectors.json has no `{id}`")))
}

impl Vector {
    /// `inputs.<path>`, with `/` between the parts of a path.
    pub(crate) fn input<T: DeserializeOwned>(&self, path: &str) -> T {
        self.get("inputs", path)
    }

    /// `expected.<path>`.
    pub(crate) fn expected<T: DeserializeOwned>(&self, path: &str) -> T {
        self.get("expected", path)
    }

    /// The absolute tolerance.
    pub(crate) fn tol(&self) -> f64 {
        self.0["tol"].as_f64().unwrap()
    }

    fn get<T: DeserializeOwned>(&self, part: &str, path: &str) -> T {
        let value = self.0[part].pointer(&format!("/{path}"));
        let value = value.unwrap_or_else(|| panic!("{} has no {part}/{path}", self.0["id"]));
        serde_json::from_value(value.clone()).unwrap()
    }
}

/// Rows as a tensor on the CPU.
pub(crate) fn tensor(rows: &Rows, dtype: DType) -> Tensor<2> {
    let shape = [rows.len(), rows[0].len()];
    let flat: Vec<f64> = rows.iter().flatten().copied().collect();
    Tensor::from_data(TensorData::new(flat, shape), (&test_device(), dtype))
}

/// A tensor's entries in f64, row by row.
pub(crate) fn flat(tensor: &Tensor<2>) -> Vec<f64> {
    tensor.clone().try_into_vec_as::<f64>().unwrap()
}

/// Asserts that every entry agrees to within `tol`.
#[track_caller]
pub(crate) fn assert_close(found: &Tensor<2>, expected: &Rows, tol: f64) {
    assert_eq!(found.dims(), [expected.len(), expected[0].len()]);
    let worst = flat(found).iter().zip(expected.iter().flatten()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(worst <= tol, "largest deviation {worst:e} is above {tol:e}\nfound {found}\nexpected {expected:?}");
}

/// Asserts that two numbers agree to within `tol`, relative to their size when that is above 1.
#[track_caller]
pub(crate) fn assert_near(found: f64, expected: f64, tol: f64) {
    assert!((found - expected).abs() <= tol * expected.abs().max(1.0), "found {found}, expected {expected}");
}
