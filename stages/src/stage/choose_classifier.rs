//! `choose-classifier`: of several classifiers the smallest that is accurate enough.

use schemars::JsonSchema;
use sepia_engine::stage::{Check, NoKnobs, Port, Progress, Stage, StageContext, StageError};
use serde::{Deserialize, Serialize};

use super::{IMAGES, MODEL, factorize::report_ranks, reduce_ranks::Unit};
use crate::{
    data::ImageFolder,
    device,
    model::vision::{VisionModel, load_vision, save_vision},
    train::vision::{Scores, classify_split, fits_data},
};

/// Takes the smallest of several classifiers that is accurate enough on the validation images: Maestro's search for its
/// `lambda`, which begins large and is halved until the accuracy is right. The halvings are a sweep, `"method.lambda" = [8e-3,
/// 4e-3, 2e-3]`, whose cells train side by side and stay in the store: a sweep that was too short is made longer. The same
/// chooses among energies of `trp` or ranks of `factorize`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ChooseParams {
    /// The least accuracy, above 0 and at most 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_accuracy: Option<f64>,
    /// In its place: by how much less than the model of the input `dense` is accurate, 0.01 for a point.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy_drop: Option<f64>,
    /// What makes a model small: `parameters` or `macs`.
    pub of: Unit,
    /// Images in one forward pass.
    pub batch_size: usize,
}

impl Default for ChooseParams {
    fn default() -> Self {
        Self { min_accuracy: None, accuracy_drop: None, of: Unit::default(), batch_size: 128 }
    }
}

/// The stage kind.
#[derive(Debug)]
pub struct ChooseClassifier;

impl Stage for ChooseClassifier {
    const KIND: &'static str = "choose-classifier";
    const VERSION: u32 = 1;
    const INPUTS: &'static [Port] = &[
        Port::new("models", MODEL, "the classifiers, usually of a sweep: models = \"train[*].model\"").many(),
        Port::new("data", IMAGES, "whose validation split decides"),
        Port::new("dense", MODEL, "whose accuracy `accuracy_drop` is counted from").optional(),
    ];
    const OUTPUTS: &'static [Port] = &[Port::new("model", MODEL, "the chosen one")];
    const SEEDED: bool = false;
    const ON_DEVICE: bool = true;

    type Params = ChooseParams;
    type Knobs = NoKnobs;

    fn check(params: &Self::Params, check: &mut Check<'_>) {
        match (params.min_accuracy, params.accuracy_drop) {
            (None, None) => check.problem(
                "min_accuracy",
                "nothing says which accuracy is enough",
                "write min_accuracy = 0.9, or accuracy_drop = 0.01 with the input `dense`",
            ),
            (Some(_), Some(_)) => {
                let message = "`min_accuracy` and `accuracy_drop` both say which accuracy is enough";
                check.problem("accuracy_drop", message, "keep one of them");
            }
            (Some(least), None) if !(least > 0.0 && least <= 1.0) => {
                let message = format!("`min_accuracy` is {least}, but must be above 0 and at most 1");
                check.problem("min_accuracy", message, "");
            }
            (None, Some(drop)) if !(0.0..1.0).contains(&drop) => {
                let message = format!("`accuracy_drop` is {drop}, but must be at least 0 and below 1");
                check.problem("accuracy_drop", message, "");
            }
            _ => {}
        }
        if params.accuracy_drop.is_some() && !check.is_connected("dense") {
            let help = "connect one: inputs = { models = .., data = .., dense = \"NAME\" }";
            check.problem("accuracy_drop", "`accuracy_drop` needs a model to compare with", help);
        }
        if params.batch_size == 0 {
            check.problem("batch_size", "`batch_size` must be at least 1", "");
        }
    }

    fn run(params: &Self::Params, _: &Self::Knobs, ctx: &mut StageContext<'_>) -> Result<(), StageError> {
        device::with_threads(ctx.threads(), || choose(params, ctx))
    }
}

/// One of the classifiers.
struct Candidate {
    model: VisionModel,
    scores: Scores,
    size: f64,
}

fn choose(params: &ChooseParams, ctx: &mut StageContext<'_>) -> Result<(), StageError> {
    let device = device::open(ctx)?;
    let data = ImageFolder::open(&ctx.input("data")?)?;
    let validation = data.validation()?;
    let measure = |folder: &camino::Utf8Path| -> Result<Candidate, StageError> {
        let model = load_vision(folder, &device)?;
        fits_data(model.config(), &data.meta)?;
        let scores = classify_split(&model, (&validation, &data.meta), params.batch_size, &device);
        Ok(Candidate { size: params.of.of(&model), model, scores })
    };
    let least = match (params.accuracy_drop, ctx.input_opt("dense")) {
        (Some(drop), Some(folder)) => measure(&folder)?.scores.accuracy() - drop,
        (Some(_), None) => return Err(StageError::NotConnected { what: "input", name: "dense".to_owned() }),
        (None, _) => params.min_accuracy.unwrap_or_default(),
    };
    let folders = ctx.input_list("models").to_vec();
    let total = folders.len() as u64;
    let (mut chosen, mut best): (Option<(u64, Candidate)>, f64) = (None, 0.0);
    for (number, folder) in (1..).zip(&folders) {
        let found = measure(folder)?;
        let (accuracy, size) = (found.scores.accuracy(), found.size);
        ctx.note(&format!("model {number} of {total}: accuracy {accuracy:.4}, {size:.0} {}", params.of));
        ctx.progress(&Progress { done: number, total, unit: "model".to_owned(), figures: Vec::new() });
        ctx.stop_if_asked()?;
        best = best.max(accuracy);
        // Round-off of a difference of shares decides nothing; of equal sizes the first one stays.
        let smaller = chosen.as_ref().is_none_or(|(_, other)| size < other.size);
        if accuracy >= least - 1e-12 && smaller {
            chosen = Some((number, found));
        }
    }
    let Some((number, Candidate { model, scores, .. })) = chosen else {
        let message = format!("none of {total} models reaches an accuracy of {least:.4}: the best has {best:.4}");
        let param = if params.accuracy_drop.is_some() { "accuracy_drop" } else { "min_accuracy" };
        return Err(StageError::new(message).param(param).help("let the sweep go on to larger models: halve `lambda`"));
    };
    save_vision(&model, &ctx.output("model")?)?;
    ctx.result("chosen", number as f64)?;
    ctx.result("candidates", total as f64)?;
    ctx.result("accuracy", scores.accuracy())?;
    ctx.result("least_accuracy", least)?;
    ctx.result("parameters", model.parameters() as f64)?;
    ctx.result("macs", model.macs() as f64)?;
    report_ranks(&model, ctx)
}

#[cfg(test)]
mod tests {
    use camino::Utf8Path;
    use serde_json::json;

    use super::*;
    use crate::{
        factor,
        method::vision::AnyVisionMethod,
        model::vision::Form,
        stage::TrainClassifier,
        testing::test_device,
        testing::{Bench, Recorder, result},
    };

    fn params(more: serde_json::Value) -> ChooseParams {
        serde_json::from_value(more).unwrap()
    }

    #[test]
    fn what_says_nothing_or_too_much_is_refused() {
        let problems = |more, ports: &[&str]| {
            let inputs = ports.iter().map(|port| ((*port).to_owned(), vec![Default::default()])).collect();
            let mut check = Check::new(&inputs, Utf8Path::new("."));
            ChooseClassifier::check(&params(more), &mut check);
            let problems = check.finish().1.into_iter();
            problems.map(|problem| format!("{}: {}", problem.param, problem.message)).collect::<Vec<_>>()
        };
        let ports = ["models", "data", "dense"];
        assert_eq!(problems(json!({ "min_accuracy": 0.9 }), &ports[..2]), Vec::<String>::new());
        assert_eq!(problems(json!({ "accuracy_drop": 0.01 }), &ports), Vec::<String>::new());
        for (more, says) in [
            (json!({}), "min_accuracy: nothing says which accuracy is enough"),
            (json!({ "min_accuracy": 87.0 }), "min_accuracy: `min_accuracy` is 87, but must be above 0 and at most 1"),
            (
                json!({ "accuracy_drop": 1.0 }),
                "accuracy_drop: `accuracy_drop` is 1, but must be at least 0 and below 1",
            ),
            (
                json!({ "min_accuracy": 0.9, "accuracy_drop": 0.01 }),
                "accuracy_drop: `min_accuracy` and `accuracy_drop` both say which accuracy is enough",
            ),
            (json!({ "min_accuracy": 0.9, "batch_size": 0 }), "batch_size: `batch_size` must be at least 1"),
        ] {
            assert_eq!(problems(more, &ports), [says]);
        }
        let alone = problems(json!({ "accuracy_drop": 0.01 }), &ports[..2]);
        assert_eq!(alone, ["accuracy_drop: `accuracy_drop` needs a model to compare with"]);
    }

    #[test]
    fn the_smallest_that_is_accurate_enough_is_taken() {
        let bench = Bench::new();
        let data = bench.fashion_images(50);
        let job = bench.job("train", &[("data", &data)], &["model", "trained"]);
        let dense = job.outputs["model"].clone();
        let lenet = json!({ "model": { "name": "lenet" }, "epochs": 4, "batch_size": 50, "lr": 0.05 });
        let lenet = serde_json::from_value(lenet).unwrap();
        Bench::run::<TrainClassifier<AnyVisionMethod>>(&lenet, job, &mut Recorder::default()).unwrap();
        // One that is nearly the same and smaller, and one that always gives the first class and is smaller still.
        let device = test_device();
        let mut model = load_vision(&dense, &device).unwrap();
        let [good, dull] = ["good", "dull"].map(|name| bench.path(name));
        factor::factorize_layer(model.layer_mut("fc1").unwrap(), Form::Channel, 60, false).unwrap();
        save_vision(&model, &good).unwrap();
        let last = model.layer_mut("fc3").unwrap();
        last.set_matrix(Form::Channel, last.dense().zeros_like());
        last.bias = last.bias.take().map(|bias| bias.zeros_like());
        factor::factorize_layer(model.layer_mut("fc2").unwrap(), Form::Channel, 1, false).unwrap();
        save_vision(&model, &dull).unwrap();

        let run = |name: &str, more| {
            let mut job = bench.job(name, &[("data", &data), ("dense", &dense)], &["model"]);
            job.inputs.insert("models".to_owned(), vec![dense.clone(), good.clone(), dull.clone()]);
            let folder = job.outputs["model"].clone();
            let mut sink = Recorder::default();
            let points = Bench::run::<ChooseClassifier>(&params(more), job, &mut sink)?;
            Ok::<_, StageError>((points, load_vision(&folder, &device).unwrap(), sink.notes))
        };
        let (points, chosen, notes) = run("any", json!({ "min_accuracy": 0.1 })).unwrap();
        assert_eq!((result(&points, "chosen"), result(&points, "accuracy")), (3.0, 0.1));
        assert_eq!(chosen.named_values(), load_vision(&dull, &device).unwrap().named_values());
        assert_eq!(notes.len(), 3);
        assert!(notes[2].starts_with("model 3 of 3: accuracy 0.1000, "), "{notes:?}");
        for (name, more) in
            [("drop", json!({ "accuracy_drop": 0.1 })), ("least", json!({ "min_accuracy": 0.3, "of": "macs" }))]
        {
            let (points, chosen, _) = run(name, more).unwrap();
            assert_eq!(result(&points, "chosen"), 2.0, "{name}");
            assert_eq!(chosen.layer("fc1").unwrap().factored(), Some((Form::Channel, 60)));
            assert!(result(&points, "accuracy") >= result(&points, "least_accuracy"));
        }
        let error = run("none", json!({ "min_accuracy": 1.0 })).err().unwrap().to_string();
        assert!(error.starts_with("none of 3 models reaches an accuracy of 1.0000: the best has 0."), "{error}");
    }
}
