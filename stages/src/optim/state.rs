//! Saved state: named arrays that survive a checkpoint bit for bit.

use std::collections::BTreeMap;

use burn::tensor::{DType, Device, Tensor, TensorData};

/// Named arrays, in the order of their names.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SavedState {
    entries: BTreeMap<String, TensorData>,
}

/// Why saved state cannot be taken up again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// An entry that should be there is not.
    #[error("the saved state has no `{0}`")]
    Missing(String),
    /// An entry of another form than expected.
    #[error("`{name}` of the saved state is {found}, not {expected}")]
    Shape {
        /// The entry.
        name: String,
        /// Its shape.
        found: String,
        /// The shape that was expected.
        expected: String,
    },
    /// A tensor could not be read from its device.
    #[error("`{name}` cannot be read from its device: {why}")]
    Unreadable {
        /// The entry.
        name: String,
        /// The backend's answer.
        why: String,
    },
}

impl SavedState {
    /// Adds a tensor.
    ///
    /// # Errors
    /// When the device cannot be read.
    pub fn put<const D: usize>(&mut self, name: &str, tensor: &Tensor<D>) -> Result<(), StateError> {
        let data = tensor
            .try_to_data()
            .map_err(|error| StateError::Unreadable { name: name.to_owned(), why: error.to_string() })?;
        self.entries.insert(name.to_owned(), data);
        Ok(())
    }

    /// Adds a count.
    pub fn put_u64(&mut self, name: &str, value: u64) {
        self.put_bytes(name, value.to_le_bytes().to_vec());
    }

    /// Adds bytes.
    pub fn put_bytes(&mut self, name: &str, bytes: Vec<u8>) {
        let shape = [bytes.len()];
        self.entries.insert(name.to_owned(), TensorData::new(bytes, shape));
    }

    /// Adds f32 values that live on the host.
    pub fn put_floats(&mut self, name: &str, values: Vec<f32>) {
        let shape = [values.len()];
        self.entries.insert(name.to_owned(), TensorData::new(values, shape));
    }

    /// Adds everything of another state, with a prefix.
    pub fn put_all(&mut self, prefix: &str, other: SavedState) {
        self.entries.extend(other.entries.into_iter().map(|(name, data)| (format!("{prefix}{name}"), data)));
    }

    /// Whether there is such an entry.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// A tensor of this shape, in the type it was saved in.
    ///
    /// # Errors
    /// When it is missing or shaped otherwise.
    pub fn tensor<const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
        device: &Device,
    ) -> Result<Tensor<D>, StateError> {
        let data = self.data(name)?;
        if data.shape().as_slice() != shape.as_slice() {
            return Err(self.shape_error(name, data, &format!("{shape:?}")));
        }
        Ok(Tensor::from_data(data.clone(), (device, data.dtype())))
    }

    /// A count.
    ///
    /// # Errors
    /// When it is missing or something else.
    pub fn u64(&self, name: &str) -> Result<u64, StateError> {
        let bytes = self.bytes(name)?;
        let array = bytes.try_into().map_err(|_| StateError::Missing(name.to_owned()))?;
        Ok(u64::from_le_bytes(array))
    }

    /// Bytes.
    ///
    /// # Errors
    /// When they are missing or something else.
    pub fn bytes(&self, name: &str) -> Result<Vec<u8>, StateError> {
        let data = self.data(name)?;
        data.clone().try_into_vec().map_err(|_| self.shape_error(name, data, "bytes"))
    }

    /// f32 values that live on the host.
    ///
    /// # Errors
    /// When they are missing or something else.
    pub fn floats(&self, name: &str) -> Result<Vec<f32>, StateError> {
        let data = self.data(name)?;
        data.clone().try_into_vec().map_err(|_| self.shape_error(name, data, "f32 values"))
    }

    /// The entries whose names begin with a prefix, without it.
    #[must_use]
    pub fn scope(&self, prefix: &str) -> SavedState {
        let inside = self
            .entries
            .iter()
            .filter_map(|(name, data)| name.strip_prefix(prefix).map(|name| (name.to_owned(), data.clone())));
        SavedState { entries: inside.collect() }
    }

    /// All entries, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &TensorData)> {
        self.entries.iter().map(|(name, data)| (name.as_str(), data))
    }

    /// Adds an array as it is.
    pub fn insert(&mut self, name: String, data: TensorData) {
        self.entries.insert(name, data);
    }

    fn data(&self, name: &str) -> Result<&TensorData, StateError> {
        self.entries.get(name).ok_or_else(|| StateError::Missing(name.to_owned()))
    }

    fn shape_error(&self, name: &str, data: &TensorData, expected: &str) -> StateError {
        let found = format!("{:?} {}", data.shape().as_slice(), type_name(data.dtype()));
        StateError::Shape { name: name.to_owned(), found, expected: expected.to_owned() }
    }
}

fn type_name(dtype: DType) -> String {
    format!("{dtype:?}").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_bit_for_bit_and_a_wrong_shape_is_named() {
        let device = Device::flex();
        let mut state = SavedState::default();
        let values = vec![0.1_f32, f32::MIN_POSITIVE, -0.0, 1e30];
        let tensor = Tensor::<2>::from_data(TensorData::new(values.clone(), [2, 2]), &device);
        state.put("m", &tensor).unwrap();
        state.put_u64("t", u64::MAX - 1);
        let mut outer = SavedState::default();
        outer.put_all("layer.", state);
        let state = outer.scope("layer.");
        let back = state.tensor::<2>("m", [2, 2], &device).unwrap();
        assert_eq!(back.into_data().try_into_vec::<f32>().unwrap(), values);
        assert_eq!(state.u64("t").unwrap(), u64::MAX - 1);
        let error = state.tensor::<2>("m", [4, 1], &device).unwrap_err();
        insta::assert_snapshot!(error.to_string(), @"`m` of the saved state is [2, 2] f32, not [4, 1]");
        assert_eq!(state.u64("u").unwrap_err(), StateError::Missing("u".to_owned()));
    }
}
