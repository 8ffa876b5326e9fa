//! What a stage will need, said before it runs.
//!
//! Figures are of two sorts. Parameters, optimiser state and, mostly, outputs follow from the parameters: they are exact,
//! and a run measures the same. Activations depend on what the implementation keeps for the backward pass: they are
//! estimates. What is not known stays empty; it is never guessed.

use serde::Serialize;

/// What one node needs. All sizes in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Estimate {
    /// Parameters of the model that the stage makes or reads, a count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<u64>,
    /// The weights in memory, with all that a method adds to them or keeps beside them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_bytes: Option<u64>,
    /// Their gradients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gradient_bytes: Option<u64>,
    /// What the optimiser keeps between two updates: equal to the `optimizer_state_bytes` that a run records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub optimizer_state_bytes: Option<u64>,
    /// What one forward pass keeps for the backward pass. An estimate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activation_bytes: Option<u64>,
    /// Data that is held in memory: text, tokens. At most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_bytes: Option<u64>,
    /// Size of the outputs on disk. At most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_bytes: Option<u64>,
}

impl Estimate {
    /// What is certainly held at one time: weights, gradients and optimiser state. `None` where nothing is known.
    #[must_use]
    pub fn certain_bytes(&self) -> Option<u64> {
        sum([self.weight_bytes, self.gradient_bytes, self.optimizer_state_bytes])
    }

    /// All that is held in memory. `None` where nothing is known.
    #[must_use]
    pub fn memory_bytes(&self) -> Option<u64> {
        sum([self.certain_bytes(), self.activation_bytes, self.data_bytes])
    }

    /// What is held in memory, by name.
    #[must_use]
    pub fn parts(&self) -> [(&'static str, Option<u64>); 5] {
        [
            ("weights", self.weight_bytes),
            ("gradients", self.gradient_bytes),
            ("optimiser state", self.optimizer_state_bytes),
            ("activations", self.activation_bytes),
            ("data", self.data_bytes),
        ]
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn sum<const N: usize>(parts: [Option<u64>; N]) -> Option<u64> {
    let mut known = parts.into_iter().flatten().peekable();
    known.peek()?;
    Some(known.fold(0, u64::saturating_add))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_leave_out_what_is_not_known() {
        let nothing = Estimate::default();
        assert_eq!((nothing.memory_bytes(), nothing.is_empty()), (None, true));
        let some = Estimate { weight_bytes: Some(3), activation_bytes: Some(4), output_bytes: Some(9), ..nothing };
        assert_eq!((some.certain_bytes(), some.memory_bytes()), (Some(3), Some(7)));
        let huge = Estimate { weight_bytes: Some(u64::MAX), gradient_bytes: Some(1), ..nothing };
        assert_eq!(huge.certain_bytes(), Some(u64::MAX));
    }
}
