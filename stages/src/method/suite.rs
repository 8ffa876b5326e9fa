//! What holds for every method, tested for every entry of the registry: a new method is tested before it has a test.

use burn::{
    module::Module,
    tensor::{Device, Int, Tensor, TensorData},
};
use schemars::generate::SchemaSettings;
use sepia_engine::stage::derive_seed;

use super::*;
use crate::{
    device,
    method::{
        per_matrix::MatrixMethod as _,
        projection::{ProjType, ProjectionConfig, predicted_floats},
    },
    model::{Llama, LlamaConfig, named_weights},
    ops::{self, Products, Rope},
    testing::test_device,
    train::{Gradients, Rest, State, load_weights, save_weights},
};

const RANK: usize = 4;
const HEADS: usize = 2;

/// Every method, at a size that a test can afford and with everything that is random or periodic happening.
fn methods() -> Vec<AnyMethod> {
    let adjust = |method| match method {
        AnyMethod::LowRank(params) => AnyMethod::LowRank(LowRankParams { rank: RANK, ..params }),
        AnyMethod::Lora(params) => AnyMethod::Lora(LoraParams { rank: RANK, dropout: 0.1, ..params }),
        AnyMethod::Relora(params) => AnyMethod::Relora(ReloraParams { rank: RANK, merge_every: 2, ..params }),
        AnyMethod::Galore(params) => AnyMethod::Galore(GaloreParams { rank: RANK, update_proj_gap: 2, ..params }),
        AnyMethod::Fira(params) => AnyMethod::Fira(FiraParams { rank: RANK, update_proj_gap: 2, ..params }),
        AnyMethod::Flora(params) => AnyMethod::Flora(FloraParams { rank: RANK, kappa: 2, ..params }),
        AnyMethod::Sst(_) => AnyMethod::Sst(SstParams { rank: RANK, every: 2, warmup: 1 }),
        // Merged after each update: in between every head computes with another weight.
        AnyMethod::Lte(params) => {
            AnyMethod::Lte(LteParams { rank: RANK, heads: HEADS, alpha: 4.0, merge_every: 1, ..params })
        }
        other => other,
    };
    AnyMethod::all().into_iter().map(adjust).collect()
}

fn config() -> LlamaConfig {
    LlamaConfig { d_model: 16, d_ff: 24, n_layer: 2, n_head: 2, vocab_size: 11, seq_len: 8 }
}

fn initial(device: &Device) -> Llama {
    Llama::new(config(), |name| derive_seed(5, name, 0), device)
}

/// A method at work on a small model.
struct Bench {
    device: Device,
    method: Box<dyn Method>,
    rest: Rest,
    model: Llama,
    rope: Rope,
    done: u64,
}

impl Bench {
    fn new(params: &AnyMethod) -> Self {
        let device = test_device().autodiff();
        let hyper = AdamHyper::default();
        let mut method = params.build(&MethodSetup { hyper, state: Held::F32, products: Products::Exact, seed: 3 });
        let model = method.attach(initial(&device)).unwrap();
        let rest = Rest::new(hyper, method.rest(), burn::tensor::DType::F32);
        let rope = model.rope(8, &device);
        Self { device, method, rest, model, rope, done: 0 }
    }

    fn tokens(&self, device: &Device) -> Tensor<2, Int> {
        let tokens: Vec<i32> = (0..16).map(|i| (i * i + i / 8) % 11).collect();
        Tensor::from_data(TensorData::new(tokens, [2, 8]), device)
    }

    /// One update; returns the loss before it.
    fn update(&mut self) -> f64 {
        device::hand_over(&self.device).unwrap();
        let tokens = self.tokens(&self.device);
        let targets = tokens.clone().slice([0..2, 1..8]).reshape([14]);
        let logits = self.model.forward(tokens.slice([0..2, 0..7]), &self.rope);
        let loss = ops::cross_entropy_sum(logits, targets).div_scalar(14.0);
        let value = f64::from(loss.clone().into_scalar::<f32>());
        let gradients = Gradients::collect(&self.model, &mut loss.backward());
        let model = gradients.apply(self.model.clone(), self.method.as_mut(), &mut self.rest, (self.done, 0.01, 0.01));
        self.model = self.method.after_step(self.done, model.unwrap()).unwrap();
        self.done += 1;
        device::hand_over(&self.device).unwrap();
        value
    }

    fn run(mut self, updates: u64) -> Self {
        for _ in 0..updates {
            self.update();
        }
        self
    }

    /// Logits off the tape.
    fn logits(&self, model: &Llama) -> Vec<f32> {
        let device = test_device();
        let rope = model.rope(8, &device);
        model.valid().forward(self.tokens(&device), &rope).try_into_vec_as().unwrap()
    }

    fn finished(&self) -> Llama {
        self.method.finished(self.model.valid()).unwrap()
    }

    fn save(&self) -> State {
        let mut state = State::new(&test_device());
        save_weights(&self.model, &mut state);
        self.method.save(&mut state);
        self.rest.save(&mut state);
        state
    }

    fn load(mut self, mut state: State, done: u64) -> Self {
        self.model = load_weights(self.model, &mut state).unwrap();
        self.method.load(&mut state).unwrap();
        self.rest.load(&mut state).unwrap();
        self.done = done;
        self
    }
}

fn furthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn weights(model: &Llama) -> Vec<(String, TensorData)> {
    named_weights(model)
}

#[test]
fn the_model_computes_the_same_once_a_method_is_attached() {
    for params in methods() {
        let bench = Bench::new(&params);
        let apart = furthest(&bench.logits(&initial(&test_device())), &bench.logits(&bench.model));
        match &params {
            // Training from a product of rank r is another start, but for a rank that holds the whole weight.
            AnyMethod::LowRank(low_rank) => {
                assert!(apart > 1e-4, "{apart}");
                let whole = AnyMethod::LowRank(LowRankParams { rank: 16, ..*low_rank });
                let bench = Bench::new(&whole);
                let apart = furthest(&bench.logits(&initial(&test_device())), &bench.logits(&bench.model));
                assert!(apart < 1e-5, "{apart}");
            }
            _ => assert_eq!(apart, 0.0, "{}", params.name()),
        }
    }
}

#[test]
fn the_finished_model_is_plain_and_computes_what_the_trained_one_does() {
    for params in methods() {
        let bench = Bench::new(&params).run(5);
        let finished = bench.finished();
        let mut shapes: Vec<_> =
            weights(&finished).into_iter().map(|(name, data)| (name, data.shape().as_slice().to_vec())).collect();
        let mut expected = config().weight_shapes();
        shapes.sort();
        expected.sort();
        assert_eq!(shapes, expected, "{}", params.name());
        let apart = furthest(&bench.logits(&finished), &bench.logits(&bench.model));
        assert!(apart < 1e-5, "{}: {apart}", params.name());
    }
}

#[test]
fn only_what_is_trained_changes_and_all_of_that_does() {
    for params in methods() {
        // Without merges: those change the frozen weights, as they should.
        let params = match params {
            AnyMethod::Relora(relora) => AnyMethod::Relora(ReloraParams { merge_every: 100, ..relora }),
            other => other,
        };
        let frozen = matches!(params, AnyMethod::Lora(_) | AnyMethod::Relora(_) | AnyMethod::LowRank(_));
        let before = weights(&Bench::new(&params).model);
        let after = weights(&Bench::new(&params).run(3).model);
        for ((path, old), (_, new)) in before.iter().zip(&after) {
            let target = path.ends_with("_proj.weight");
            assert_eq!(old == new, frozen && target, "{}: {path}", params.name());
        }
    }
}

#[test]
fn a_resumed_run_ends_in_the_same_bits() {
    for params in methods() {
        let whole = Bench::new(&params).run(7);
        let half = Bench::new(&params).run(3);
        let resumed = Bench::new(&params).load(half.save(), 3).run(4);
        assert_eq!(weights(&whole.model), weights(&resumed.model), "{}", params.name());
        assert_eq!(whole.save(), resumed.save(), "{}", params.name());
    }
}

#[test]
fn two_runs_with_one_seed_are_equal() {
    for params in methods() {
        let [one, two] = [(); 2].map(|()| weights(&Bench::new(&params).run(3).model));
        assert_eq!(one, two, "{}", params.name());
    }
}

/// Floats of optimiser state that a matrix `[m, n]` should have.
fn predicted(params: &AnyMethod, [m, n]: [usize; 2]) -> usize {
    let projection = ProjectionConfig { rank: RANK, proj_type: ProjType::Std, ..ProjectionConfig::default() };
    let (moments, basis) = predicted_floats(projection, [m, n]);
    assert_eq!((moments, basis), (2 * RANK * m.max(n), RANK * m.min(n)));
    match params {
        AnyMethod::Full(_) => 2 * m * n,
        AnyMethod::LowRank(_) | AnyMethod::Lora(_) | AnyMethod::Relora(_) => 2 * RANK * (m + n),
        AnyMethod::Galore(_) => moments + basis,
        AnyMethod::Fira(_) => moments + basis + 1,
        AnyMethod::Flora(_) => RANK * m.max(n) + m + n,
        AnyMethod::Sst(_) => m.min(n) * (m + n + 3) + 2 * RANK * (m + n),
        AnyMethod::Lte(_) => 2 * HEADS * RANK * (m + n),
    }
}

#[test]
fn state_is_as_large_as_predicted() {
    let shapes = config().weight_shapes();
    let targets = shapes.iter().filter(|(path, _)| path.ends_with("_proj.weight"));
    let targets: Vec<[usize; 2]> = targets.map(|(_, shape)| [shape[0], shape[1]]).collect();
    assert_eq!(targets.len(), 14);
    for params in methods() {
        let expected: usize = targets.iter().map(|shape| 4 * predicted(&params, *shape)).sum();
        let bench = Bench::new(&params).run(1);
        assert_eq!(bench.method.state_bytes(), expected as u64, "{}", params.name());
        // What `sepia plan` says beforehand is what the method then holds and trains.
        let costs = targets.iter().map(|shape| params.cost(Matrix { shape: *shape, float: 4 }).unwrap());
        let costs: Vec<MatrixCost> = costs.collect();
        assert_eq!(costs.iter().map(|cost| cost.state_bytes).sum::<u64>(), expected as u64, "{}", params.name());
        let rest: usize = shapes
            .iter()
            .filter(|(path, _)| !path.ends_with("_proj.weight"))
            .map(|(_, shape)| shape.iter().product::<usize>())
            .sum();
        let copies = match params {
            AnyMethod::Relora(_) => targets.iter().map(|[m, n]| m * n).sum(),
            _ => 0,
        };
        let held: u64 = costs.iter().map(|cost| cost.held).sum();
        assert_eq!(held as usize + rest, bench.model.num_params() + copies, "{}", params.name());
    }
}

#[test]
fn the_state_of_every_optimizer_in_a_projection_is_as_large_as_predicted() {
    let device = test_device();
    for optimizer in ["adam", "adam8bit", "adafactor", "sgd"] {
        for proj_type in ["std", "reverse_std", "left", "right", "full"] {
            let text = serde_json::json!({ "rank": 24, "optimizer": optimizer, "proj_type": proj_type });
            let params: GaloreParams = serde_json::from_value(text).unwrap();
            let held = [Held::F32, Held::Bf16];
            for (shape, held) in
                [[96, 200], [200, 96], [64, 64], [20, 8]].into_iter().flat_map(|s| held.map(|h| (s, h)))
            {
                let config = params.config(AdamHyper::default());
                let mut matrix = galore::Galore::new(config, shape, &device, held.dtype(), 1);
                let weight = Tensor::<2>::ones(shape, &device);
                matrix.step(weight.clone(), &weight, 0.01).unwrap();
                let cost = params.cost(Matrix { shape, float: held.bytes() }).unwrap();
                assert_eq!(cost.state_bytes, matrix.bytes() as u64, "{optimizer} {proj_type} {shape:?} {held:?}");
            }
        }
    }
}

#[test]
fn training_lowers_the_loss() {
    for params in methods() {
        let mut bench = Bench::new(&params);
        let first = bench.update();
        let last = bench.run(40).update();
        assert!(last < 0.7 * first, "{}: {first} to {last}", params.name());
    }
}

/// The public class of ReLoRA starts with both factors zero, so that neither has a gradient.
#[test]
fn a_branch_is_alive_from_the_first_update_and_after_each_merge() {
    for params in methods() {
        let mut bench = Bench::new(&params);
        for _ in 0..4 {
            bench.update();
            bench.update();
            for (path, data) in weights(&bench.model) {
                if path.ends_with("lora_a") || path.ends_with("lora_b") {
                    assert!(data.iter::<f32>().any(|x| x != 0.0), "{}: {path}", params.name());
                }
            }
        }
    }
}

#[test]
fn merging_keeps_what_the_model_computes_and_prunes_the_moments() {
    let relora = ReloraParams { rank: RANK, merge_every: 3, reset_every: Some(100), ..ReloraParams::default() };
    let never = ReloraParams { merge_every: 100, ..relora };
    let [merged, unmerged] = [relora, never].map(|params| Bench::new(&AnyMethod::Relora(params)).run(4));
    let apart = furthest(&merged.logits(&merged.model), &unmerged.logits(&unmerged.model));
    assert!(apart < 1e-5, "{apart}");
    let b_is_zero = weights(&merged.model)
        .iter()
        .filter(|(path, _)| path.ends_with("lora_b"))
        .all(|(_, b)| b.iter::<f32>().all(|x| x == 0.0));
    assert!(b_is_zero);

    let mut reset = Bench::new(&AnyMethod::Relora(ReloraParams { reset_every: None, ..relora })).run(4);
    let figures = reset.method.figures().unwrap();
    let figure = |name: &str| figures.iter().find(|(found, _)| *found == name).unwrap().1;
    assert!(figure("pruned_share") > 0.98, "{figures:?}");
    // One branch was merged: its rank is that of the branch.
    assert_eq!(figure("merged_rank"), RANK as f64);
    let twice = reset.run(3).method.figures().unwrap();
    assert_eq!(twice.iter().find(|(found, _)| *found == "merged_rank").unwrap().1, 2.0 * RANK as f64);
}

#[test]
fn a_trained_scale_is_merged_with_its_branch_and_begins_again() {
    let relora =
        ReloraParams { rank: RANK, merge_every: 3, trainable_scale: true, dropout: 0.0, ..ReloraParams::default() };
    let new = || Bench::new(&AnyMethod::Relora(relora));
    let scales = |bench: &Bench| -> Vec<f32> {
        let of_scales = weights(&bench.model).into_iter().filter(|(path, _)| path.ends_with("lora_scale"));
        of_scales.flat_map(|(_, data)| data.iter::<f32>().collect::<Vec<_>>()).collect()
    };
    let bench = new().run(3);
    assert_eq!(scales(&bench).len(), 14);
    assert!(scales(&bench).iter().all(|scale| *scale != 1.0), "{:?}", scales(&bench));
    let apart = furthest(&bench.logits(&bench.finished()), &bench.logits(&bench.model));
    assert!(apart < 1e-5, "{apart}");
    let resumed = new().load(bench.save(), 3).run(4);
    assert!(scales(&bench.run(1)).iter().all(|scale| *scale == 1.0));
    assert_eq!(weights(&new().run(7).model), weights(&resumed.model));
}

#[test]
fn galore_trains_the_rest_by_its_own_optimizer_where_asked() {
    for (optimizer, bytes) in [("adafactor", true), ("adam8bit", true), ("sgd", false), ("adam", true)] {
        let text = serde_json::json!({ "name": "galore", "rank": RANK, "optimizer": optimizer, "rest": "same" });
        let params: AnyMethod = serde_json::from_value(text).unwrap();
        let mut bench = Bench::new(&params);
        let first = bench.update();
        let bench = bench.run(5);
        assert_eq!(bench.rest.bytes() > 0, bytes, "{optimizer}");
        let resumed = Bench::new(&params).load(bench.save(), 6).run(2);
        let mut whole = bench.run(2);
        assert_eq!(weights(&whole.model), weights(&resumed.model), "{optimizer}");
        assert!(whole.update() < first, "{optimizer}");
    }
    // Adam is AdamW without decay, whoever does it.
    let of = |rest| Bench::new(&AnyMethod::Galore(GaloreParams { rank: RANK, rest, ..GaloreParams::default() })).run(3);
    let [own, same] = [RestOptimizer::AdamW, RestOptimizer::Same].map(of);
    for ((path, one), (_, other)) in weights(&own.model).iter().zip(weights(&same.model)) {
        let [one, other] = [one.iter::<f32>().collect::<Vec<_>>(), other.iter::<f32>().collect::<Vec<_>>()];
        assert!(furthest(&one, &other) < 1e-5, "{path}");
    }
}

#[test]
fn galore_and_fira_report_their_subspaces_and_a_clamped_rank() {
    for params in [
        AnyMethod::Galore(GaloreParams { rank: 20, update_proj_gap: 2, ..GaloreParams::default() }),
        AnyMethod::Fira(FiraParams { rank: 20, update_proj_gap: 2, ..FiraParams::default() }),
    ] {
        let mut bench = Bench::new(&params);
        let notes = bench.method.notes();
        assert_eq!(notes.len(), 14);
        assert_eq!(notes[0], "model.layers.0.self_attn.q_proj.weight: rank 20 is above the shorter side; 16 is used");
        bench.update();
        assert_eq!(
            bench.method.figures().unwrap().iter().map(|(name, _)| *name).collect::<Vec<_>>(),
            ["captured_energy"]
        );
        bench.update();
        assert_eq!(bench.method.figures().unwrap(), []);
        bench.update();
        let names: Vec<_> = bench.method.figures().unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["captured_energy", "subspace_overlap"]);
    }
}

#[test]
fn a_branch_larger_than_its_weight_is_refused() {
    for params in [
        AnyMethod::Lora(LoraParams { rank: 17, ..LoraParams::default() }),
        AnyMethod::LowRank(LowRankParams { rank: 17, ..LowRankParams::default() }),
    ] {
        let mut method = params.build(&MethodSetup {
            hyper: AdamHyper::default(),
            state: Held::F32,
            products: Products::Exact,
            seed: 3,
        });
        let error = method.attach(initial(&test_device())).unwrap_err().to_string();
        insta::allow_duplicates! {
            insta::assert_snapshot!(error, @"rank 17 is above the shorter side of model.layers.0.self_attn.q_proj, which is 16 x 16");
        }
    }
}

#[test]
fn every_method_is_documented_and_its_defaults_pass_its_own_check() {
    let mut generator = SchemaSettings::default().with(|settings| settings.inline_subschemas = true).into_generator();
    let schema = generator.root_schema_for::<AnyMethod>().to_value();
    let variants = schema["oneOf"].as_array().unwrap();
    assert_eq!(variants.len(), METHODS.len());
    for (variant, entry) in variants.iter().zip(METHODS) {
        assert_eq!(variant["description"], entry.about);
        for (name, property) in variant["properties"].as_object().unwrap() {
            let described = property["description"].is_string() || name == "name";
            assert!(described, "{}.{name} has no description", entry.name);
        }
    }
    for info in METHOD_INFOS {
        assert!(!info.source.is_empty(), "{} names no paper: give it a SOURCE", info.name);
    }
    for (params, entry) in AnyMethod::all().iter().zip(METHODS) {
        assert_eq!(params.name(), entry.name);
        let facts = Default::default();
        let mut check = Check::new(&facts, camino::Utf8Path::new("."));
        params.check("method", &mut check);
        assert_eq!(check.finish().1, [], "{}", entry.name);
        let text = serde_json::json!({ "name": entry.name });
        assert_eq!(&serde_json::from_value::<AnyMethod>(text).unwrap(), params);
    }
}

#[test]
fn wrong_parameters_are_named_with_their_paths() {
    let check = |text: serde_json::Value| {
        let params: AnyMethod = serde_json::from_value(text).unwrap();
        let facts = Default::default();
        let mut check = Check::new(&facts, camino::Utf8Path::new("."));
        params.check("method", &mut check);
        check
            .finish()
            .1
            .into_iter()
            .map(|problem| format!("{}: {}", problem.param, problem.message))
            .collect::<Vec<_>>()
    };
    let bad = [
        serde_json::json!({ "name": "galore", "rank": 0, "update_proj_gap": 0, "scale": -1.0 }),
        serde_json::json!({ "name": "fira", "proj_type": "full", "gamma": 0.5 }),
        serde_json::json!({ "name": "relora", "dropout": 1.0, "merge_every": 0, "reset": { "magnitude": 2.0 } }),
        serde_json::json!({ "name": "flora", "kappa": 0 }),
    ];
    insta::assert_debug_snapshot!(bad.map(check), @r#"
    [
        [
            "method.rank: `rank` must be at least 1",
            "method.update_proj_gap: `update_proj_gap` must be at least 1",
            "method.scale: `scale` is -1, but must be above 0",
        ],
        [
            "method.gamma: `gamma` is 0.5, but must be at least 1",
            "method.level: with proj_type = \"full\" no side of the gradient is left to scale column by column",
        ],
        [
            "method.dropout: `dropout` is 1, but must be at least 0 and below 1",
            "method.merge_every: `merge_every` must be at least 1",
            "method.reset: a share of 2 cannot be pruned: give 0 to 1",
        ],
        [
            "method.kappa: `kappa` must be at least 1",
        ],
    ]
    "#);
    assert!(serde_json::from_value::<AnyMethod>(serde_json::json!({ "name": "galore", "rnk": 1 })).is_err());
}
