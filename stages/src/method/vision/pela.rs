//! PELA: a trained classifier as factors, which learn to see in every block what it saw before.
//!
//! Source: Guo et al., "PELA: Learning Parameter-Efficient Models with Low-Rank Approximation" (CVPR 2024), and its public
//! code. The trained classifier, the teacher, stays as it is; the student begins as its factors. A step minimises
//!
//! ```text
//! task + kd_alpha mean_blocks MSE(student, teacher) + kd_beta MSE(logits) + w_inf mean_layers (max |U V - W| - eps)^2
//! ```
//!
//! What counts as a block is said at [`Pass::features`]. Both see the same images, augmented the same way; the teacher's
//! BatchNorm goes by its running statistics.

use burn::tensor::Tensor;
use schemars::JsonSchema;
use sepia_engine::stage::{Check, StageError};
use serde::{Deserialize, Serialize};

use super::low_rank;
use crate::{
    factor::{self, RankRule},
    model::vision::{Geometry, Layer, Pass, VisionModel},
    ops,
    train::vision::{At, Forward, VisionData, VisionMethod, VisionMethodParams, VisionSetup},
};

/// Linear layers with fewer outputs stay dense, as in the public code.
const LEAST_OUTPUTS: usize = 10;

/// Training of the factors of a trained classifier, the input `teacher`, to do what it does; `model` is left out. With the
/// input `init` the student begins as that model instead, whose layers stay as factored as they are: any output of
/// `factorize` will do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PelaParams {
    /// The rank of each layer: `{ compression = 2 }` is the paper's for DeiT, `floor(m n / (2 (m + n)))`; or as for `low-rank`.
    /// Layers whose factors would not be smaller stay dense.
    pub ranks: RankRule,
    /// Which layers: names, or patterns with `*` and `?`. When left out, the linear layers with at least 10 outputs and the
    /// convolutions but for the first and 1x1 shortcuts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<String>>,
    /// Weight of the mean squared difference from what the teacher's blocks make, averaged over blocks.
    pub kd_alpha: f64,
    /// Weight of the mean squared difference from the teacher's logits.
    pub kd_beta: f64,
    /// Weight of `(max |U V - W| - eps)^2`, averaged over factored layers. 0 in the public script.
    pub w_inf: f64,
    /// How far the largest entry of `U V - W` should be from 0.
    pub eps: f64,
}

impl Default for PelaParams {
    fn default() -> Self {
        Self { ranks: RankRule::Compression(2.0), layers: None, kd_alpha: 1.0, kd_beta: 0.0, w_inf: 0.0, eps: 1e-3 }
    }
}

struct Pela {
    params: PelaParams,
    /// The terms of the last step, without their weights.
    last: Vec<(&'static str, Tensor<1>)>,
}

impl VisionMethodParams for PelaParams {
    const STAGE: &'static str = "train-classifier";
    const SOURCE: &'static str =
        r#"Guo et al. 2024, "PELA: Learning Parameter-Efficient Models with Low-Rank Approximation", arXiv 2310.10700"#;

    fn check(&self, at: &str, check: &mut Check<'_>) {
        if let Some((message, help)) = self.ranks.problem() {
            check.problem(format!("{at}.ranks"), message, help);
        }
        let all = [("kd_alpha", self.kd_alpha), ("kd_beta", self.kd_beta), ("w_inf", self.w_inf), ("eps", self.eps)];
        for (name, value) in all {
            if !(value >= 0.0 && value.is_finite()) {
                check.problem(format!("{at}.{name}"), format!("`{name}` is {value}, but must be at least 0"), "");
            }
        }
    }

    fn needs_teacher(&self) -> bool {
        true
    }

    fn build(&self, _: &VisionSetup) -> Box<dyn VisionMethod> {
        Box::new(Pela { params: self.clone(), last: Vec::new() })
    }
}

impl PelaParams {
    /// The model that training begins with.
    fn student(&self, mut model: VisionModel, teacher: &VisionModel) -> Result<VisionModel, StageError> {
        if shapes(&model) != shapes(teacher) {
            let name = |model: &VisionModel| serde_json::to_string(&model.config().model).unwrap_or_default();
            let (of_teacher, of_student) = (name(teacher), name(&model));
            let message = format!("the input `teacher` is another network than `init`: {of_teacher}, not {of_student}");
            return Err(StageError::new(message).help("connect the network that `init` was made of"));
        }
        if !model.layers().iter().any(|layer| layer.is_factored()) {
            let layers = self.layers.clone().unwrap_or_else(|| usual_layers(&model));
            low_rank::attach(&mut model, Some(&layers), self.ranks)?;
        }
        Ok(model)
    }

    /// The terms of the loss beside that of the task, with their weights.
    fn terms(&self, forward: Forward<'_>, teacher: &VisionModel) -> Result<Vec<Term>, StageError> {
        let mut terms = Vec::new();
        if self.kd_alpha > 0.0 || self.kd_beta > 0.0 {
            let mut seen = Pass::eval().keeping_features();
            let logits = teacher.forward(forward.images.clone(), &mut seen);
            let features = feature_error(forward.features, seen.features());
            terms.extend(features.map(|error| ("feature_error", self.kd_alpha, error)));
            terms.push(("logit_error", self.kd_beta, apart(forward.logits, &logits)));
        }
        if self.w_inf > 0.0 {
            let weights = weight_error(forward.model, teacher, self.eps)?;
            terms.extend(weights.map(|error| ("weight_error", self.w_inf, error)));
        }
        Ok(terms)
    }
}

/// Name, weight and value.
type Term = (&'static str, f64, Tensor<1>);

impl VisionMethod for Pela {
    fn attach(&mut self, model: VisionModel, data: &VisionData<'_>) -> Result<VisionModel, StageError> {
        self.params.student(model, teacher(data)?)
    }

    fn pass(&mut self, _: At, _: &VisionModel) -> Pass<'static> {
        Pass::train().keeping_features()
    }

    fn extra_loss(&mut self, forward: Forward<'_>, data: &VisionData<'_>) -> Result<Option<Tensor<1>>, StageError> {
        let terms = self.params.terms(forward, teacher(data)?)?;
        self.last = terms.iter().map(|(name, _, term)| (*name, term.clone().inner())).collect();
        let weighted = terms.into_iter().filter(|(_, weight, _)| *weight > 0.0);
        Ok(weighted.map(|(_, weight, term)| term.mul_scalar(weight)).reduce(|sum, term| sum + term))
    }

    fn figures(&mut self) -> Vec<(String, f64)> {
        let last = std::mem::take(&mut self.last).into_iter();
        last.map(|(name, term)| (name.to_owned(), f64::from(term.into_scalar::<f32>()))).collect()
    }
}

fn teacher<'a>(data: &VisionData<'a>) -> Result<&'a VisionModel, StageError> {
    data.teacher.ok_or_else(|| StageError::NotConnected { what: "input", name: "teacher".to_owned() })
}

/// What two networks must share for their blocks and weights to be compared.
fn shapes(model: &VisionModel) -> Vec<(&str, Geometry)> {
    model.layers().into_iter().map(|layer| (layer.path.as_str(), layer.geometry)).collect()
}

fn usual_layers(model: &VisionModel) -> Vec<String> {
    let usual = |layer: &&Layer| match layer.geometry {
        Geometry::Linear { outputs, .. } => outputs >= LEAST_OUTPUTS,
        Geometry::Conv(_) => factor::is_body(layer) && !factor::is_grouped(layer),
    };
    model.layers().into_iter().filter(usual).map(|layer| layer.path.clone()).collect()
}

/// Mean squared difference of values on the tape from values that are not.
fn apart(student: &Tensor<2>, teacher: &Tensor<2>) -> Tensor<1> {
    ops::mean((student.clone() - Tensor::from_inner(teacher.clone())).square())
}

/// The mean over blocks of the mean squared difference; `None` for a network without a block.
fn feature_error(student: &[Tensor<2>], teacher: &[Tensor<2>]) -> Option<Tensor<1>> {
    mean(student.iter().zip(teacher).map(|(student, teacher)| apart(student, teacher)).collect())
}

/// The mean over factored layers of `(max |U V - W| - eps)^2`; `None` without such layers.
fn weight_error(student: &VisionModel, teacher: &VisionModel, eps: f64) -> Result<Option<Tensor<1>>, StageError> {
    let factored = student.layers().into_iter().filter(|layer| layer.is_factored());
    let errors = factored.map(|layer| {
        let weight = Tensor::from_inner(teacher.layer(&layer.path)?.dense());
        Ok((layer.dense() - weight).abs().max().sub_scalar(eps).square())
    });
    Ok(mean(errors.collect::<Result<_, StageError>>()?))
}

fn mean(values: Vec<Tensor<1>>) -> Option<Tensor<1>> {
    let count = values.len() as f64;
    Some(values.into_iter().reduce(|sum, value| sum + value)?.div_scalar(count))
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::*;
    use crate::{
        model::vision::{Architecture, Form, Value, VisionParams},
        testing::test_device,
        testing::{classifier, lenet},
    };

    fn matrix<const M: usize, const N: usize>(rows: [[f32; N]; M]) -> Tensor<2> {
        Tensor::from_data(TensorData::from(rows), &test_device())
    }

    fn scalar(tensor: Tensor<1>) -> f32 {
        tensor.into_scalar::<f32>()
    }

    #[test]
    fn features_count_by_block_and_not_by_size() {
        let student = [matrix([[1.0, 2.0], [3.0, 4.0]]), matrix([[1.0]])].map(Tensor::from_inner);
        let teacher = [matrix([[0.0, 2.0], [3.0, 2.0]]), matrix([[1.5]])];
        // (1 + 0 + 0 + 4) / 4 = 1.25, and 0.25.
        assert_eq!(scalar(feature_error(&student, &teacher).unwrap()), 0.75);
        assert!(feature_error(&[], &[]).is_none());
    }

    #[test]
    fn the_largest_entry_of_a_difference_is_pressed_towards_eps() {
        let mlp = VisionParams { hidden: Some(vec![2]), ..VisionParams::of(Architecture::Mlp) };
        let mut teacher = classifier(mlp, 2);
        let mut student = teacher.clone();
        let weight = matrix([[1.0, 0.25, -1.0, 2.0], [2.0, 0.0, -2.5, 4.0]]);
        teacher.layer_mut("fc1").unwrap().set_matrix(Form::Channel, weight);
        // Makes [[1, 0, -1, 2], [2, 0, -2, 4]]: off by -0.25 and by 0.5.
        let (u, v) = (matrix([[1.0], [2.0]]), matrix([[1.0, 0.0, -1.0, 2.0]]));
        student.layer_mut("fc1").unwrap().factorize(Form::Channel, u, v, None).unwrap();
        let mut tracked = student.tracked();
        let error = weight_error(&tracked, &teacher, 0.1).unwrap().unwrap();
        let mut tape = error.clone().backward();
        assert!((scalar(error) - 0.16).abs() < 1e-6);
        // 2 (0.5 - 0.1) for that entry, in row 1 and column 2; times v there, and u.
        let mut slope = |name: &str| -> Vec<f32> {
            let found = tracked.parameters_mut().into_iter().find(|parameter| parameter.name == name).unwrap();
            let Value::Matrix(factor) = found.value else { panic!() };
            factor.grad_remove(&mut tape).unwrap().to_data().iter::<f32>().collect()
        };
        for (found, expected) in [("fc1.u", vec![0.0, -0.8]), ("fc1.v", vec![0.0, 0.0, 1.6, 0.0])] {
            let found = slope(found);
            assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?} {expected:?}");
        }
    }

    /// The terms of a student on some images.
    fn terms(params: &PelaParams, student: &VisionModel, teacher: &VisionModel) -> Vec<Term> {
        let values: Vec<f32> = (0..2 * 784).map(|i| (i as f32 * 0.37).sin()).collect();
        let images = Tensor::<4>::from_data(TensorData::new(values, [2, 1, 28, 28]), &test_device());
        let (model, mut pass) = (student.tracked(), Pass::train().keeping_features());
        let logits = model.forward(Tensor::from_inner(images.clone()), &mut pass);
        let features = pass.features();
        params.terms(Forward { model: &model, images: &images, logits: &logits, features }, teacher).unwrap()
    }

    #[test]
    fn a_student_begins_as_the_factors_of_its_teacher() {
        let teacher = lenet();
        let params = PelaParams { kd_beta: 2.0, w_inf: 3.0, ..PelaParams::default() };
        let student = params.student(teacher.clone(), &teacher).unwrap();
        let ranks: Vec<_> = student.layers().iter().map(|layer| layer.factored().map(|(_, rank)| rank)).collect();
        // conv1 is the first layer; floor(16 150 / (2 166)), floor(120 400 / (2 520)) and so on.
        assert_eq!(ranks, [None, Some(7), Some(46), Some(24), Some(4)]);
        let found: Vec<_> = terms(&params, &student, &teacher).into_iter().map(|(n, w, t)| (n, w, scalar(t))).collect();
        assert_eq!(found.iter().map(|term| term.1).collect::<Vec<_>>(), [1.0, 2.0, 3.0]);
        assert!(found.iter().all(|term| term.2 > 0.0), "{found:?}");
        // What is not another network makes no error.
        for (name, _, error) in terms(&PelaParams::default(), &teacher, &teacher) {
            let error = scalar(error);
            assert!(error < 1e-9, "{name}: {error}");
        }
    }

    #[test]
    fn layers_that_are_factored_stay_so_and_others_can_be_named() {
        let teacher = lenet();
        let params = PelaParams { layers: Some(vec!["fc2".to_owned()]), ..PelaParams::default() };
        let student = params.student(teacher.clone(), &teacher).unwrap();
        assert_eq!(student.layers().iter().filter(|layer| layer.is_factored()).count(), 1);
        let again = PelaParams::default().student(student, &teacher).unwrap();
        assert_eq!(again.layers().iter().filter(|layer| layer.is_factored()).count(), 1);
    }

    #[test]
    fn a_teacher_of_another_architecture_is_refused() {
        let other = classifier(VisionParams { hidden: Some(vec![20]), ..VisionParams::of(Architecture::Mlp) }, 28);
        let error = PelaParams::default().student(lenet(), &other).unwrap_err().to_string();
        assert_eq!(
            error,
            "the input `teacher` is another network than `init`: {\"name\":\"mlp\",\"hidden\":[20]}, not {\"name\":\"lenet\"}"
        );
    }

    #[test]
    fn bad_parameters_are_named() {
        let inputs = [].into();
        let mut check = Check::new(&inputs, camino::Utf8Path::new("."));
        PelaParams { ranks: RankRule::Compression(0.5), kd_alpha: -1.0, eps: f64::NAN, ..PelaParams::default() }
            .check("method", &mut check);
        let problems: Vec<String> = check.finish().1.into_iter().map(|problem| problem.param).collect();
        assert_eq!(problems, ["method.ranks", "method.kd_alpha", "method.eps"]);
    }
}
