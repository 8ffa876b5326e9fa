//! The gradients of one update: collected by parameter path, added up, measured, clipped and applied.

use std::collections::BTreeMap;

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{Bool, Gradients as Tape, Tensor},
};
use sepia_engine::stage::StageError;

use super::{
    checkpoint::State,
    method::{Method, Target, is_target},
    rest::Rest,
};
use crate::{
    model::Llama,
    ops::{Occurrences, held, limited, on_host, scale, sum_of_squares, to_tensor, total, total_of_squares, widened},
};

/// Gradients by parameter path, flat, without autodiff, as wide as the weights are held. Norms are computed in f32.
#[derive(Debug, Default)]
pub struct Gradients {
    /// Paths in the order of the forward pass.
    order: Vec<String>,
    by_path: BTreeMap<String, Tensor<1>>,
}

/// Keeps the path of the parameter that a traversal is at.
#[derive(Default)]
struct Path(Vec<String>);

impl Path {
    fn joined(&self) -> String {
        self.0.join(".")
    }
}

impl Gradients {
    /// Takes the gradients of all trainable parameters off the tape.
    #[must_use]
    pub fn collect(model: &Llama, tape: &mut Tape) -> Self {
        struct Collect<'a> {
            path: Path,
            tape: &'a mut Tape,
            found: Gradients,
        }

        impl ModuleVisitor for Collect<'_> {
            fn enter_module(&mut self, name: &str, _: &str) {
                self.path.0.push(name.to_owned());
            }

            fn exit_module(&mut self, _: &str, _: &str) {
                self.path.0.pop();
            }

            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                if let Some(grad) = param.base().grad_remove(self.tape) {
                    let path = self.path.joined();
                    self.found.order.push(path.clone());
                    self.found.by_path.insert(path, grad.reshape([-1]));
                }
            }
        }

        let mut collect = Collect { path: Path::default(), tape, found: Self::default() };
        model.visit(&mut collect);
        collect.found
    }

    /// The gradient of the embedding, from that of the rows that it gave for a batch, `[batch * seq, d_model]`.
    #[must_use]
    pub fn of_embedding(model: &Llama, occurrences: &Occurrences, rows: Tensor<2>) -> Self {
        let path = "model.embed_tokens.weight".to_owned();
        let grad = held(occurrences.sum(rows), model.model.embed_tokens.weight.dtype());
        Self { order: vec![path.clone()], by_path: [(path, grad.reshape([-1]))].into() }
    }

    /// The gradients of several parts of a model, in the order of the forward pass.
    #[must_use]
    pub fn joined(parts: Vec<Self>) -> Self {
        let mut all = Self::default();
        for mut part in parts {
            all.order.append(&mut part.order);
            all.by_path.append(&mut part.by_path);
        }
        all
    }

    /// Adds the gradients of another batch of the same update.
    pub fn add(&mut self, mut other: Self) {
        for (path, sum) in &mut self.by_path {
            if let Some(grad) = other.by_path.remove(path) {
                *sum = sum.clone() + grad;
            }
        }
    }

    /// The Euclidean norm of all gradients, and the parameter nearest the loss whose gradient is not finite: since
    /// gradients flow from the loss backwards, that is where the trouble began.
    #[must_use]
    pub fn norm(&self) -> (f64, Option<String>) {
        let mut sums = Vec::with_capacity(self.order.len());
        let mut elsewhere = Vec::new();
        for grad in self.order.iter().filter_map(|path| self.by_path.get(path)) {
            match on_host(widened(grad.clone())) {
                Ok(host) => sums.push(sum_of_squares(host.storage::<f32>())),
                Err(grad) => elsewhere.push(total_of_squares(grad)),
            }
        }
        if !elsewhere.is_empty() {
            // One transfer for all parameters.
            let data = Tensor::cat(elsewhere, 0).into_data().convert::<f64>();
            sums.extend_from_slice(data.as_slice::<f64>().unwrap_or_default());
        }
        let bad = self.order.iter().zip(&sums).rev().find(|(_, sum)| !sum.is_finite()).map(|(path, _)| path.clone());
        (sums.iter().sum::<f64>().sqrt(), bad)
    }

    /// The Euclidean norm of all gradients, `[1]`, which stays on the device.
    ///
    /// `None` where there are no gradients.
    #[must_use]
    pub fn norm_on_device(&self) -> Option<Tensor<1>> {
        let squares: Vec<Tensor<1>> = self.by_path.values().map(|grad| total_of_squares(grad.clone())).collect();
        (!squares.is_empty()).then(|| total(Tensor::cat(squares, 0)).sqrt())
    }

    /// Multiplies all gradients by `factor` `[1]`, where there is one, and makes them zero where `bad` `[1]` holds; neither
    /// leaves the device.
    pub fn limit_on_device(&mut self, factor: Option<&Tensor<1>>, bad: &Tensor<1, Bool>) {
        let factor =
            factor.map_or_else(|| bad.clone().bool_not().float(), |factor| factor.clone().mask_fill(bad.clone(), 0.0));
        for grad in self.by_path.values_mut() {
            grad.inplace(|grad| limited(grad, &factor));
        }
    }

    /// Multiplies all gradients.
    pub fn scale(&mut self, factor: f64) {
        let gradients = std::mem::take(&mut self.by_path);
        let scaled = gradients.into_iter().map(|(path, grad)| {
            let grad = match on_host(grad) {
                Ok(mut host) => {
                    scale(host.storage_mut::<f32>(), factor as f32);
                    to_tensor(host)
                }
                Err(grad) => grad.mul_scalar(factor),
            };
            (path, grad)
        });
        self.by_path = scaled.collect();
    }

    /// Updates every parameter that has a gradient: targeted matrices by the method, the others by `rest`.
    ///
    /// # Errors
    /// The first error of either.
    pub fn apply(
        self,
        model: Llama,
        method: &mut dyn Method,
        rest: &mut Rest,
        (update, lr, lr_rest): (u64, f64, f64),
    ) -> Result<Llama, StageError> {
        method.prepare(&self.by_path);
        let mut apply =
            Apply { path: Path::default(), grads: self.by_path, method, rest, update, lr, lr_rest, failed: None };
        let model = model.map(&mut apply);
        apply.failed.map_or(Ok(model), Err)
    }
}

struct Apply<'a> {
    path: Path,
    grads: BTreeMap<String, Tensor<1>>,
    method: &'a mut dyn Method,
    rest: &'a mut Rest,
    update: u64,
    lr: f64,
    lr_rest: f64,
    failed: Option<StageError>,
}

impl ModuleMapper for Apply<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.0.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.0.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let path = self.path.joined();
        let Some(grad) = self.grads.remove(&path) else { return param };
        param.map(|tensor| {
            let value = tensor.inner();
            let shape = value.dims();
            let (device, dtype) = (value.device(), value.dtype());
            // Neither is kept here: with one owner, the weight can be changed in place.
            let (value, grad) = (widened(value), widened(grad));
            let updated = match shape[..] {
                [rows, columns] if is_target(&path, D) => {
                    let target = Target { path: &path, update: self.update, lr: self.lr };
                    let (value, grad) = (value.reshape([rows, columns]), grad.reshape([rows, columns]));
                    self.method.update(target, value, grad).map(|matrix| matrix.reshape(shape))
                }
                _ => self.rest.step(&path, value, grad.reshape(shape), self.lr_rest),
            };
            let updated = updated.unwrap_or_else(|error| {
                // Never seen: the error ends the run.
                self.failed.get_or_insert(error);
                Tensor::zeros(shape, (&device, dtype))
            });
            Tensor::from_inner(held(updated, dtype)).require_grad()
        })
    }
}

/// Saves every parameter of a model, those that a method added included.
pub(crate) fn save_weights(model: &Llama, state: &mut State) {
    for (path, data) in crate::model::named_weights(model) {
        state.put_data(&format!("weights/{path}"), data);
    }
}

/// Puts back every parameter that [`save_weights`] saved.
pub(crate) fn load_weights(model: Llama, state: &mut State) -> Result<Llama, StageError> {
    struct Load<'a> {
        path: Path,
        state: &'a mut State,
        failed: Option<StageError>,
    }

    impl ModuleMapper for Load<'_> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.0.push(name.to_owned());
        }

        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.0.pop();
        }

        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let saved = self.state.take_tensor::<D>(&format!("weights/{}", self.path.joined()));
            param.map(|tensor| match saved {
                Ok(saved) => Tensor::from_inner(saved).set_require_grad(tensor.is_require_grad()),
                Err(error) => {
                    self.failed.get_or_insert(error);
                    tensor
                }
            })
        }
    }

    let mut load = Load { path: Path::default(), state, failed: None };
    let model = model.map(&mut load);
    load.failed.map_or(Ok(model), Err)
}
