//! One GPU.

use serde::Serialize;

use crate::stage::Dtype;

/// A GPU that this process may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gpu {
    /// Its number in `cuda:N`.
    pub number: usize,
    /// As the driver names it: `NVIDIA H100 80GB HBM3`.
    pub name: String,
    /// What it is called whatever the order: `GPU-...`.
    pub uuid: String,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Compute capability, major and minor.
    pub compute_capability: (u32, u32),
}

impl Gpu {
    /// What it computes in at full speed: half precision since compute capability 5.3, bfloat16 since 8.0 (CUDA C++
    /// Programming Guide, arithmetic instructions).
    #[must_use]
    pub fn dtypes(&self) -> Vec<Dtype> {
        let known = [(Dtype::F32, (0, 0)), (Dtype::F16, (5, 3)), (Dtype::Bf16, (8, 0))];
        known.into_iter().filter(|(_, since)| self.compute_capability >= *since).map(|(dtype, _)| dtype).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dtypes_follow_the_compute_capability() {
        let gpu = |compute_capability| Gpu {
            number: 0,
            name: String::new(),
            uuid: String::new(),
            memory_bytes: 0,
            compute_capability,
        };
        assert_eq!(gpu((5, 2)).dtypes(), [Dtype::F32]);
        assert_eq!(gpu((7, 5)).dtypes(), [Dtype::F32, Dtype::F16]);
        assert_eq!(gpu((9, 0)).dtypes(), [Dtype::F32, Dtype::F16, Dtype::Bf16]);
    }
}
