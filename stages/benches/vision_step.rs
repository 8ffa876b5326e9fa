//! What a training step of a classifier costs on the CPU: forward and backward pass in user time, which says more than the
//! wall on a machine that does other things too.
//!
//! `cargo bench -p sepia-stages --bench vision_step -- [BATCH] [STEPS] [NAME..]`, with names as in manifests.

use std::time::Instant;

use burn::tensor::{Device, Int, Tensor, TensorData};
use sepia_stages::{
    model::vision::{Architecture, Pass, VisionConfig, VisionModel, VisionParams},
    random::Rng,
    train::vision::{VisionGradients, smoothed_loss},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let (batch, steps) = (numbers.first().copied().unwrap_or(32), numbers.get(1).copied().unwrap_or(5).max(1));
    let named: Vec<Architecture> =
        std::env::args().skip(1).filter_map(|arg| serde_json::from_value(arg.into()).ok()).collect();
    let usual = vec![Architecture::Lenet, Architecture::Resnet20, Architecture::Resnet18, Architecture::Vit];
    for name in if named.is_empty() { usual } else { named } {
        one(name, batch, steps)?;
    }
    Ok(())
}

fn one(name: Architecture, batch: usize, steps: usize) -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::flex();
    let config = VisionConfig { model: VisionParams::of(name), channels: 3, image_size: [32; 2], classes: 10 };
    let model = VisionModel::new(config, |name| name.len() as u64, &device);
    let values = Rng::new(1).normal(batch * 3 * 32 * 32, 1.0);
    let images = Tensor::<4>::from_data(TensorData::new(values, [batch, 3, 32, 32]), &device);
    let labels: Vec<i32> = (0..batch as i32).map(|index| index % 10).collect();
    let labels = Tensor::<1, Int>::from_data(TensorData::new(labels, [batch]), &device);
    let (mut forward, mut backward, start) = (0.0, 0.0, Instant::now());
    for _ in 0..steps {
        let before = user_seconds()?;
        let tracked = model.tracked();
        let logits = tracked.forward(Tensor::from_inner(images.clone()), &mut Pass::train());
        let between = user_seconds()?;
        let loss = smoothed_loss(logits, Tensor::from_inner(labels.clone()), 0.0);
        let mut tape = loss.div_scalar(batch as f64).backward();
        drop(VisionGradients::collect(tracked, &mut tape));
        forward += between - before;
        backward += user_seconds()? - between;
    }
    let per_step = 1e3 / steps as f64;
    println!(
        "{name:?}: {:.0} ms of user time forward, {:.0} ms backward, {:.0} ms on the wall in all, {} MMACs an image",
        forward * per_step,
        backward * per_step,
        start.elapsed().as_secs_f64() * per_step,
        model.macs() / 1_000_000
    );
    Ok(())
}

/// Of this process, in hundredths of a second, as Linux counts them.
fn user_seconds() -> std::io::Result<f64> {
    let stat = fs_err::read_to_string("/proc/self/stat")?;
    let ticks = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(11)?.parse::<f64>().ok());
    ticks.map(|ticks| ticks / 100.0).ok_or_else(|| std::io::Error::other("/proc/self/stat cannot be read"))
}
