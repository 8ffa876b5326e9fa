//! What holds for every classifier.

use burn::tensor::{DType, TensorData};
use camino::Utf8PathBuf;

use super::*;
use crate::{
    linalg::factor::{Kept, spectral_factors},
    random::Rng,
    testing::test_device,
    vectors::{Rows, assert_close, tensor, vector},
};

fn config(name: Architecture, channels: usize, side: usize, classes: usize) -> VisionConfig {
    VisionConfig { model: VisionParams::of(name), channels, image_size: [side; 2], classes }
}

fn seed(name: &str) -> u64 {
    sepia_engine::stage::derive_seed(5, name, 0)
}

fn images(config: &VisionConfig, batch: usize) -> burn::tensor::Tensor<4> {
    let shape = [batch, config.channels, config.image_size[0], config.image_size[1]];
    let values = Rng::new(3).normal(shape.iter().product(), 1.0);
    burn::tensor::Tensor::from_data(TensorData::new(values, shape), &test_device())
}

/// Small models of every kind.
fn small() -> Vec<VisionModel> {
    let narrow = |name| VisionParams { width: Some(4), ..VisionParams::of(name) };
    let models = vec![
        VisionParams { hidden: Some(vec![12, 9]), ..VisionParams::of(Architecture::Mlp) },
        VisionParams::of(Architecture::Lenet),
        narrow(Architecture::Resnet18),
        narrow(Architecture::Resnet20),
        narrow(Architecture::Resnet32),
        narrow(Architecture::Resnet50),
        narrow(Architecture::Vgg16),
        narrow(Architecture::Vgg19),
        VisionParams { d_model: Some(12), n_layer: Some(2), n_head: Some(2), ..VisionParams::of(Architecture::Vit) },
    ];
    let sized = |model| VisionConfig { model, channels: 2, image_size: [16, 20], classes: 5 };
    models.into_iter().map(|model| VisionModel::new(sized(model), seed, &test_device())).collect()
}

#[test]
fn parameters_and_multiplications_are_the_published_ones() {
    let device = test_device();
    for (name, channels, side, classes, parameters, macs) in [
        (Architecture::Lenet, 1, 28, 10, 61_706, 416_520),
        (Architecture::Resnet20, 3, 32, 10, 269_722, 40_551_040),
        (Architecture::Resnet32, 3, 32, 10, 464_154, 68_862_592),
        (Architecture::Resnet18, 3, 32, 10, 11_173_962, 555_422_720),
        (Architecture::Resnet50, 3, 32, 10, 23_520_842, 1_297_829_888),
        (Architecture::Vgg16, 3, 32, 10, 14_728_266, 313_201_664),
        (Architecture::Vgg19, 3, 32, 10, 20_040_522, 398_136_320),
        (Architecture::Vit, 3, 224, 1000, 5_717_416, 1_253_683_200),
    ] {
        let model = VisionModel::zeros(config(name, channels, side, classes), &device);
        assert_eq!((model.parameters(), model.macs()), (parameters, macs), "{name:?}");
        assert_eq!((model.dense_parameters(), model.dense_macs()), (parameters, macs), "{name:?}");
    }
}

#[test]
fn a_pass_keeps_what_every_block_leaves() {
    for (model, blocks) in small().into_iter().zip([2, 4, 1 + 8, 1 + 9, 1 + 15, 1 + 16, 13, 16, 2]) {
        let name = model.config().model.name;
        let mut pass = Pass::eval().keeping_features();
        let logits = model.forward(images(model.config(), 3), &mut pass);
        assert_eq!(pass.features().len(), blocks, "{name:?}");
        let mut plain = Pass::eval();
        assert_eq!(logits.to_data(), model.forward(images(model.config(), 3), &mut plain).to_data(), "{name:?}");
        assert!(plain.features().is_empty());
    }
    // What LeNet's last linear layer sees is what the block before it leaves.
    let lenet = &small()[1];
    let mut seen = None;
    let mut watch = |path: &str, input: &Seen<'_>| {
        if let ("fc3", Seen::Rows(x)) = (path, input) {
            seen = Some((*x).clone());
        }
    };
    let mut pass = Pass::eval().keeping_features().watched(&mut watch);
    drop(lenet.forward(images(lenet.config(), 3), &mut pass));
    let last = pass.features()[3].to_data();
    assert_eq!(last, seen.unwrap().to_data());
}

#[test]
fn every_model_gives_logits_and_trains_every_value() {
    for model in small() {
        let name = model.config().model.name;
        let mut pass = Pass::train();
        let mut tracked = model.tracked();
        let x = burn::tensor::Tensor::from_inner(images(model.config(), 3));
        let logits = tracked.forward(x, &mut pass);
        assert_eq!(logits.dims(), [3, 5], "{name:?}");
        let mut tape = (logits.clone() * logits).sum().backward();
        for parameter in tracked.parameters_mut() {
            let trained = parameter.is_trained();
            let found = match parameter.value {
                Value::Matrix(tensor) => tensor.grad_remove(&mut tape).is_some(),
                Value::Vector(tensor) => tensor.grad_remove(&mut tape).is_some(),
            };
            assert_eq!(found, trained, "{name:?} {}", parameter.name);
        }
        let mut learned = model.clone();
        assert_eq!(pass.statistics.len(), learned.batch_norms_mut().len(), "{name:?}");
        learned.learn_statistics(&pass);
        for norm in learned.batch_norms_mut() {
            assert!(norm.running_mean.clone().abs().max().into_scalar::<f32>() > 0.0, "{name:?} {}", norm.path);
        }
    }
}

#[test]
fn full_rank_factors_give_the_same_logits_and_survive_the_disk() {
    let temp = tempfile::tempdir().unwrap();
    for (index, mut model) in small().into_iter().enumerate() {
        let name = model.config().model.name;
        let x = images(model.config(), 2);
        let dense = model.forward(x.clone(), &mut Pass::eval());
        let scale = dense.clone().abs().max().into_scalar::<f32>();
        for (index, layer) in model.layers_mut().into_iter().enumerate() {
            let conv = layer.geometry.kernel().is_some();
            let form = if conv && index % 2 == 0 { Form::Spatial } else { Form::Channel };
            let weight = layer.dense();
            let (left, right) =
                spectral_factors(&layer.matrix(form), layer.geometry.full_rank(form), Kept::Values).unwrap();
            layer.factorize(form, left, right, None).unwrap();
            let error = (layer.dense() - weight).abs().max().into_scalar::<f32>();
            assert!(error < 1e-5, "{name:?} {}: {error}", layer.path);
        }
        let factored = model.forward(x.clone(), &mut Pass::eval());
        let error = (factored.clone() - dense).abs().max().into_scalar::<f32>();
        assert!(error < 1e-4 * scale, "{name:?}: {error} of {scale}");
        let folder = Utf8PathBuf::from_path_buf(temp.path().join(index.to_string())).unwrap();
        save_vision(&model, &folder).unwrap();
        let read = load_vision(&folder, &test_device()).unwrap();
        assert_eq!(read.named_values(), model.named_values());
        assert_eq!(read.forward(x, &mut Pass::eval()).into_data(), factored.into_data());
    }
}

#[test]
fn factors_are_counted() {
    let mut model = VisionModel::new(config(Architecture::Lenet, 1, 28, 10), seed, &test_device());
    let layer = model.layer_mut("fc1").unwrap();
    let (left, right) = spectral_factors(&layer.matrix(Form::Channel), 7, Kept::Values).unwrap();
    layer.factorize(Form::Channel, left, right, None).unwrap();
    assert_eq!(model.parameters(), 61_706 - 120 * 400 + 7 * 520);
    assert_eq!(model.macs(), 416_520 - 120 * 400 + 7 * 520);
    assert_eq!((model.dense_parameters(), model.dense_macs()), (61_706, 416_520));
}

#[test]
fn a_prefix_is_the_product_of_the_first_components() {
    for form in [Form::Channel, Form::Spatial] {
        let mut model = VisionModel::new(config(Architecture::Lenet, 1, 28, 10), seed, &test_device());
        let x = images(model.config(), 2);
        let layer = model.layer_mut("conv2").unwrap();
        let rank = layer.geometry.full_rank(form);
        let (left, right) = spectral_factors(&layer.matrix(form), rank, Kept::Values).unwrap();
        layer.factorize(form, left.clone(), right.clone(), None).unwrap();
        let prefix = model.forward(x.clone(), &mut Pass::eval().with_rank("conv2", 5));
        let layer = model.layer_mut("conv2").unwrap();
        layer.set_matrix(form, left.narrow(1, 0, 5).matmul(right.narrow(0, 0, 5)));
        let cut = model.forward(x, &mut Pass::eval());
        assert!((prefix - cut).abs().max().into_scalar::<f32>() < 1e-5, "{form:?}");
    }
}

#[test]
fn vector_maestro_forward() {
    let vector = vector("maestro_forward");
    let (u, v): (Rows, Rows) = (vector.input("U"), vector.input("V"));
    let mut model = VisionModel::zeros(config(Architecture::Lenet, 1, 28, 10), &test_device());
    let layer = model.layer_mut("fc2").unwrap();
    // The vector has more components than a 2x3 matrix has directions: they are put in as they are.
    layer.geometry = Geometry::Linear { inputs: v.len(), outputs: u.len() };
    let (u, v, rank) = (tensor(&u, DType::F64), tensor(&v, DType::F64).transpose(), u[0].len());
    layer.weight = Weight::Factored(Factors { u, v, form: Form::Channel, rank, norm: None });
    layer.bias = None;
    let x = tensor(&vec![vector.input("x")], DType::F64);
    for (b, expected) in (1..).zip(vector.expected::<Rows>("y_b")) {
        let y = layer.rows(x.clone(), &mut Pass::eval().with_rank("fc2", b));
        assert_close(&y, &vec![expected], vector.tol());
    }
}

#[test]
fn a_decoupled_layer_is_the_sum_of_its_paths() {
    let mut model = VisionModel::new(config(Architecture::Lenet, 1, 28, 10), seed, &test_device());
    let random = |shape: [usize; 2], seed| {
        let values = Rng::new(seed).normal(shape[0] * shape[1], 0.1);
        burn::tensor::Tensor::<2>::from_data(TensorData::new(values, shape), &test_device())
    };
    let x = images(model.config(), 2);
    let layer = model.layer_mut("conv2").unwrap();
    layer.decouple(random([3 * 16, 6], 1), random([3 * 16, 25], 2)).unwrap();
    assert_eq!(layer.parameters(), 3 * 16 * (6 + 25) + 16);
    let paths = model.forward(x.clone(), &mut Pass::eval());
    model.layer_mut("conv2").unwrap().multiply_out();
    let dense = model.forward(x, &mut Pass::eval());
    assert!((paths - dense).abs().max().into_scalar::<f32>() < 1e-5);
}

#[test]
fn vector_conv_reshape() {
    let vector = vector("conv_reshape");
    let kernel: Vec<Vec<Rows>> = vector.input("kernel");
    let flat: Vec<f32> = kernel.iter().flatten().flatten().flatten().map(|value| *value as f32).collect();
    let mut model = VisionModel::zeros(config(Architecture::Lenet, 1, 28, 10), &test_device());
    let layer = model.layer_mut("conv2").unwrap();
    layer.geometry = Geometry::Conv(crate::ops::Conv::same(2, 2, 2, 1));
    layer.weight = Weight::Dense(burn::tensor::Tensor::from_data(TensorData::new(flat, [2, 8]), &test_device()));
    for (form, name) in [(Form::Channel, "channel_matrix"), (Form::Spatial, "spatial_matrix")] {
        let matrix = layer.matrix(form);
        assert_close(&matrix, &vector.expected(name), 1e-5);
        let before = layer.dense();
        layer.set_matrix(form, matrix);
        assert_eq!(layer.dense().into_data(), before.into_data());
    }
}

#[test]
fn what_cannot_be_factorised_is_said() {
    let mut model = VisionModel::zeros(config(Architecture::Lenet, 1, 28, 10), &test_device());
    let error = model.layer_mut("conv3").unwrap_err();
    let sepia_engine::stage::StageError::Failed { message, help, .. } = error else { panic!("{error}") };
    assert_eq!(message, "the model has no layer `conv3`");
    assert_eq!(help.unwrap(), "the nearest of its 5 are `conv1`, `conv2`, `fc3`");
    let layer = model.layer_mut("conv2").unwrap();
    let says = |result: Result<(), FactorError>| result.unwrap_err().to_string();
    assert_eq!(
        says(layer.check(Form::Channel, 17)),
        "rank 17 of `conv2` must be between 1 and 16, the smaller side of its 16x150 matrix"
    );
    assert!(says(layer.check(Form::Spatial, 0)).starts_with("rank 0 of `conv2`"));
    layer.geometry = Geometry::Conv(crate::ops::Conv { groups: 2, ..crate::ops::Conv::same(6, 16, 5, 1) });
    assert_eq!(says(layer.check(Form::Channel, 2)), "`conv2` is a convolution in 2 groups, which cannot be factorised");
    let linear = model.layer_mut("fc1").unwrap();
    assert_eq!(says(linear.check(Form::Spatial, 2)), "`fc1` is a linear layer and has the channel form alone");
}
