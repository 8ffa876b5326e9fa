//! Training throughput on the CPU, to be compared with `benches/pytorch_llama.py`: tokens per second of whole updates
//! (forward, backward, clipping, AdamW) of one model, as `pretrain` makes them.
//!
//! `cargo bench -p sepia-stages --bench train_step -- [THREADS] [STEPS]`

mod support;

use camino::Utf8PathBuf;
use sepia_stages::method::FullParams;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let numbers = support::numbers();
    let (threads, steps) = (numbers.first().copied().unwrap_or(2), numbers.get(1).copied().unwrap_or(25).max(2));
    let temp = tempfile::tempdir()?;
    let folder = Utf8PathBuf::try_from(temp.path().to_owned())?;
    let params = support::params::<FullParams>(serde_json::json!({}), steps)?;
    let run = support::train(&params, &folder, threads)?;
    // The first steps fill caches and allocate.
    let mut rates = series(&run, "tokens_per_second").split_off(3.min(steps as usize - 1));
    rates.sort_by(f64::total_cmp);
    let (median, best) = (rates[rates.len() / 2], rates[rates.len() - 1]);
    let last = series(&run, "loss").last().copied().unwrap_or(f64::NAN);
    let user = run.user_seconds / steps as f64 * 1e3;
    println!(
        "threads {threads}: {median:.0} tokens/s (median), {best:.0} (best), {user:.0} ms of user time a step, \
         {:.0} MiB at most, last loss {last:.4}",
        run.figure("peak_memory_bytes").unwrap_or(f64::NAN) / f64::from(1 << 20)
    );
    println!("{:.1} s in all, state {:.0} bytes", run.seconds, run.figure("optimizer_state_bytes").unwrap_or(f64::NAN));
    Ok(())
}

/// The values of a metric, step by step.
fn series(run: &support::Run, name: &str) -> Vec<f64> {
    run.points.iter().filter(|point| point.name == name && point.step.is_some()).map(|point| point.value).collect()
}
