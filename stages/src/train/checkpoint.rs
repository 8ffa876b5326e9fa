//! The state of a training run as files: `state.safetensors` for tensors, `state.json` for counters.

use std::collections::BTreeMap;

use burn::tensor::{DType, Device, Tensor, TensorData};
use camino::Utf8Path;
use safetensors::{Dtype, SafeTensors};
use sepia_engine::stage::StageError;

use crate::model::write_tensors;

const TENSORS: &str = "state.safetensors";
const COUNTERS: &str = "state.json";

/// Named tensors and counters, on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    device: Device,
    tensors: BTreeMap<String, TensorData>,
    counts: BTreeMap<String, u64>,
}

impl State {
    /// Empty; tensors are taken out onto `device`.
    #[must_use]
    pub fn new(device: &Device) -> Self {
        Self { device: device.clone(), tensors: BTreeMap::new(), counts: BTreeMap::new() }
    }

    /// Adds a tensor under a name.
    pub fn put_tensor<const D: usize>(&mut self, name: &str, tensor: Tensor<D>) {
        self.put_data(name, tensor.into_data());
    }

    /// Adds values under a name.
    pub fn put_data(&mut self, name: &str, data: TensorData) {
        self.tensors.insert(name.to_owned(), data);
    }

    /// Adds a counter.
    pub fn put_count(&mut self, name: &str, count: u64) {
        self.counts.insert(name.to_owned(), count);
    }

    /// What follows `prefix` in the names of tensors that begin with it, in order.
    #[must_use]
    pub fn names(&self, prefix: &str) -> Vec<String> {
        self.tensors.keys().filter_map(|name| name.strip_prefix(prefix)).map(str::to_owned).collect()
    }

    /// What follows `prefix` in the names of counters that begin with it, in order.
    #[must_use]
    pub fn count_names(&self, prefix: &str) -> Vec<String> {
        self.counts.keys().filter_map(|name| name.strip_prefix(prefix)).map(str::to_owned).collect()
    }

    /// Where tensors are taken out to.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Whether there is a tensor of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Takes a tensor out.
    ///
    /// # Errors
    /// When there is none of this name and rank.
    pub fn take_tensor<const D: usize>(&mut self, name: &str) -> Result<Tensor<D>, StageError> {
        let data = self.take_data(name)?;
        if data.rank() != D {
            return Err(StageError::new(format!("the checkpoint's `{name}` has {} dimensions, not {D}", data.rank())));
        }
        let dtype = data.dtype();
        Ok(Tensor::from_data(data, (&self.device, dtype)))
    }

    /// Takes values out.
    ///
    /// # Errors
    /// When there are none of this name.
    pub fn take_data(&mut self, name: &str) -> Result<TensorData, StageError> {
        self.tensors.remove(name).ok_or_else(|| missing(name))
    }

    /// A counter.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn count(&self, name: &str) -> Result<u64, StageError> {
        self.counts.get(name).copied().ok_or_else(|| missing(name))
    }

    /// Writes both files.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(self, folder: &Utf8Path) -> Result<(), StageError> {
        let counts = serde_json::to_string_pretty(&self.counts).map_err(std::io::Error::other)?;
        fs_err::write(folder.join(COUNTERS), counts + "\n")?;
        write_tensors(&folder.join(TENSORS), self.tensors.into_iter().collect())
    }

    /// Reads what [`write`](Self::write) wrote.
    ///
    /// # Errors
    /// When a file is missing or damaged.
    pub fn read(folder: &Utf8Path, device: &Device) -> Result<Self, StageError> {
        let path = folder.join(COUNTERS);
        let counts = serde_json::from_str(&fs_err::read_to_string(&path)?)
            .map_err(|error| StageError::unreadable(&path, error))?;
        let path = folder.join(TENSORS);
        let bytes = fs_err::read(&path)?;
        let file = SafeTensors::deserialize(&bytes).map_err(|error| StageError::unreadable(&path, error))?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.iter() {
            let dtype = match view.dtype() {
                Dtype::F64 => DType::F64,
                Dtype::F16 => DType::F16,
                Dtype::BF16 => DType::BF16,
                Dtype::U8 => DType::U8,
                _ => DType::F32,
            };
            let data = TensorData::try_from_bytes_vec(view.data().to_vec(), view.shape().to_vec(), dtype);
            let data = data.map_err(|error| StageError::unreadable(&path, format!("`{name}`: {error}")))?;
            tensors.insert(name.to_owned(), data);
        }
        Ok(Self { device: device.clone(), tensors, counts })
    }
}

fn missing(name: &str) -> StageError {
    StageError::new(format!("the checkpoint has no `{name}`"))
        .help("it was written by another version; delete it to begin anew")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test_device;

    #[test]
    fn tensors_and_counters_survive_the_disk() {
        let temp = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(temp.path()).unwrap();
        let device = test_device();
        let mut state = State::new(&device);
        state.put_tensor("a/x", Tensor::<2>::from_floats([[1.0, f32::MIN_POSITIVE]], &device));
        state.put_data("a/y", TensorData::new(vec![0.1f64], [1]));
        state.put_count("t", u64::MAX);
        state.write(folder).unwrap();
        let mut read = State::read(folder, &device).unwrap();
        assert_eq!(read.names("a/"), ["x", "y"]);
        assert_eq!(read.count("t").unwrap(), u64::MAX);
        assert_eq!(read.take_data("a/x").unwrap(), TensorData::new(vec![1.0, f32::MIN_POSITIVE], [1, 2]));
        assert_eq!(read.take_tensor::<1>("a/y").unwrap().into_scalar::<f64>(), 0.1);
        assert_eq!(read.take_tensor::<1>("a/y").unwrap_err().to_string(), "the checkpoint has no `a/y`");
    }
}
