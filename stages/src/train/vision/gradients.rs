//! The gradients of one step of a classifier, by parameter name.

use std::collections::BTreeMap;

use burn::tensor::{Gradients as Tape, Tensor};

use crate::{
    model::vision::{Value, VisionModel},
    ops::{self, on_host, sum_of_squares},
};

/// Gradients by the names of parameters, flat, without autodiff.
#[derive(Debug, Clone, Default)]
pub struct VisionGradients {
    by_name: BTreeMap<String, Tensor<1>>,
}

impl VisionGradients {
    /// Takes the gradients of all trained parameters off the tape of a [tracked](VisionModel::tracked) model. A parameter
    /// that the pass did not use has none.
    #[must_use]
    pub fn collect(mut tracked: VisionModel, tape: &mut Tape) -> Self {
        let mut by_name = BTreeMap::new();
        for parameter in tracked.parameters_mut() {
            let gradient = match parameter.value {
                Value::Matrix(tensor) => tensor.grad_remove(tape).map(|gradient| gradient.reshape([-1])),
                Value::Vector(tensor) => tensor.grad_remove(tape),
            };
            if let Some(gradient) = gradient {
                by_name.insert(parameter.name, gradient);
            }
        }
        Self { by_name }
    }

    /// The gradient of a parameter, flat.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Tensor<1>> {
        self.by_name.get(name)
    }

    /// The gradient of a matrix parameter in its shape.
    #[must_use]
    pub fn matrix(&self, name: &str, shape: [usize; 2]) -> Option<Tensor<2>> {
        self.by_name.get(name).map(|gradient| gradient.clone().reshape(shape))
    }

    /// Adds a term to the gradient of a parameter, which may have none yet.
    pub fn add<const D: usize>(&mut self, name: &str, term: Tensor<D>) {
        let term: Tensor<1> = term.reshape([-1]);
        let sum = match self.by_name.remove(name) {
            Some(gradient) => gradient + term,
            None => term,
        };
        self.by_name.insert(name.to_owned(), sum);
    }

    /// Sets the gradient of a parameter.
    pub fn set<const D: usize>(&mut self, name: &str, gradient: Tensor<D>) {
        self.by_name.insert(name.to_owned(), gradient.reshape([-1]));
    }

    /// Takes the gradient of a parameter out: it will then not change.
    pub fn take(&mut self, name: &str) -> Option<Tensor<1>> {
        self.by_name.remove(name)
    }

    /// The Euclidean norm of all gradients, and the first parameter whose gradient is not finite.
    #[must_use]
    pub fn norm(&self) -> (f64, Option<String>) {
        let mut total = 0.0;
        let mut bad = None;
        for (name, gradient) in &self.by_name {
            let sum = match on_host(gradient.clone()) {
                Ok(host) => sum_of_squares(host.storage::<f32>()),
                Err(gradient) => f64::from(ops::total(gradient.square()).into_scalar::<f32>()),
            };
            if !sum.is_finite() && bad.is_none() {
                bad = Some(name.clone());
            }
            total += sum;
        }
        (total.sqrt(), bad)
    }

    /// Multiplies all gradients.
    pub fn scale(&mut self, factor: f64) {
        for gradient in self.by_name.values_mut() {
            *gradient = gradient.clone().mul_scalar(factor);
        }
    }
}
