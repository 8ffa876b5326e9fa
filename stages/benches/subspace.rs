//! Time and captured energy of the ways to a gradient's dominant subspace, at the sizes of small LLaMA models.
//!
//! `cargo bench -p sepia-stages --bench subspace` prints one row per size and solver: milliseconds (the fastest of five)
//! and the energy captured as a share of what the exact subspace captures. The singular values fall like k^-power,
//! power 1 or, harder, 0.5; the warm rows start from the basis of the same matrix before a tenth of noise of the same kind was added.

use std::time::Instant;

use burn::tensor::{Device, Tensor, TensorData};
use sepia_stages::{
    linalg::{
        subspace::{Dominant, Solver, SubspaceConfig, Wanted, dominant},
        svd::Vectors,
    },
    random::Rng,
};

fn falling(m: usize, n: usize, seed: u64, power: f32) -> Tensor<2> {
    let (q, device) = (m.min(n), Device::flex());
    let mut rng = Rng::new(seed);
    let left = Tensor::<2>::from_data(TensorData::new(rng.normal(m * q, 1.0), [m, q]), &device);
    let right = Tensor::<2>::from_data(TensorData::new(rng.normal(q * n, 1.0), [q, n]), &device);
    let scale: Vec<f32> = (0..q).map(|k| ((k + 1) as f32).powf(-power)).collect();
    left.mul(Tensor::from_data(TensorData::new(scale, [1, q]), &device)).matmul(right)
}

fn main() {
    println!("{:>12} {:>5} {:>5} {:<24} {:>9} {:>10}", "matrix", "power", "rank", "solver", "ms", "captured");
    for (m, n, power) in [(256, 1024, 1.0), (512, 1376, 1.0), (1024, 2736, 1.0), (512, 1376, 0.5)] {
        let r = m / 4;
        let before = falling(m, n, 1, power);
        let g = before.clone().add(falling(m, n, 2, power).mul_scalar(0.1));
        let exact = SubspaceConfig { solver: Solver::Exact, ..SubspaceConfig::default() };
        let previous = solve(&before, r, &exact, None).basis;
        let reference = solve(&g, r, &exact, None).captured;
        let row = |name: &str, config: &SubspaceConfig, previous: Option<&Tensor<2>>| {
            let times = (0..5).map(|_| {
                let start = Instant::now();
                let found = solve(&g, r, config, previous);
                (start.elapsed().as_secs_f64() * 1e3, found.captured)
            });
            let (ms, captured) = times.fold((f64::INFINITY, 0.0), |best, run| if run.0 < best.0 { run } else { best });
            let size = format!("{m}x{n}");
            println!("{size:>12} {power:>5} {r:>5} {name:<24} {ms:>9.1} {:>10.5}", captured / reference);
        };
        row("exact", &exact, None);
        for iterations in 1..4 {
            let config = SubspaceConfig { solver: Solver::Subspace, iterations, oversample: 8 };
            row(&format!("subspace, cold, {iterations}+1"), &config, None);
            row(&format!("subspace, warm, {iterations}"), &config, Some(&previous));
        }
    }
}

fn solve(g: &Tensor<2>, r: usize, config: &SubspaceConfig, previous: Option<&Tensor<2>>) -> Dominant {
    match dominant(Wanted { matrix: g, side: Vectors::Left, r, config, previous, seed: 3 }) {
        Ok(found) => found,
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    }
}
