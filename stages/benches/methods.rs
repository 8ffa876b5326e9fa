//! What each training method costs a step of one model on the CPU, on the wall and in user time, against full AdamW; and
//! bytes of state.
//!
//! `cargo bench -p sepia-stages --bench methods -- [THREADS] [STEPS] [METHOD..]`. Rank d_model / 4. Each method trains twice,
//! for one update and for `1 + STEPS`: the difference is the cost of `STEPS` updates without start and end. GaLore and Fira
//! renew their bases at updates 1, 201, 401, ...: with `STEPS` of 200 exactly one renewal is within.

mod support;

use camino::Utf8PathBuf;
use sepia_stages::method::{AnyMethod, METHODS};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let numbers = support::numbers();
    let (threads, steps) = (numbers.first().copied().unwrap_or(2), numbers.get(1).copied().unwrap_or(25).max(1));
    let asked: Vec<String> = std::env::args().skip(1).collect();
    let named = |name: &str| asked.iter().any(|arg| arg == name);
    let all = !METHODS.iter().any(|entry| named(entry.name));
    let temp = tempfile::tempdir()?;
    let folder = Utf8PathBuf::try_from(temp.path().to_owned())?;
    println!(
        "{:<10} {:>10} {:>8} {:>8} {:>8} {:>8} {:>14}",
        "method", "tokens/s", "ms", "x full", "user ms", "x full", "state bytes"
    );
    let mut full = None;
    for entry in METHODS.iter().filter(|entry| all || named(entry.name) || entry.name == "full") {
        let mut method = serde_json::json!({ "name": entry.name });
        if entry.name != "full" {
            method["rank"] = 64.into();
        }
        let run = |steps| -> Result<support::Run, Box<dyn std::error::Error>> {
            Ok(support::train(&support::params::<AnyMethod>(method.clone(), steps)?, &folder, threads)?)
        };
        let (short, long) = (run(1)?, run(1 + steps)?);
        let each = |long: f64, short: f64| (long - short) / steps as f64 * 1e3;
        let (ms, user) = (each(long.seconds, short.seconds), each(long.user_seconds, short.user_seconds));
        let (full_ms, full_user) = *full.get_or_insert((ms, user));
        println!(
            "{:<10} {:>10.0} {ms:>8.1} {:>8.3} {user:>8.1} {:>8.3} {:>14.0}",
            entry.name,
            16.0 * 128.0 / ms * 1e3,
            ms / full_ms,
            user / full_user,
            long.figure("optimizer_state_bytes").unwrap_or(f64::NAN),
        );
    }
    Ok(())
}
