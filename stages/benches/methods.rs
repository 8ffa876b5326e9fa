//! What GaLore's kin and the other methods cost an update of one model on the CPU, against full AdamW; and bytes of state.
//!
//! `cargo bench -p sepia-stages --bench methods -- [THREADS] [ROUNDS] [METHOD..]`. Rank d_model / 4, a new basis every 200
//! updates. In each round every method trains in turn, for 1 and for 11 updates: the difference is the cost of ten updates
//! without start and end. Methods with a basis train once more with a new basis at every update, and a 200th of what that
//! costs is added. The ratios are medians of the rounds' ratios, because a machine that is shared gets faster and slower
//! over minutes.

mod support;

use camino::{Utf8Path, Utf8PathBuf};
use sepia_stages::method::{AnyMethod, METHODS};

/// Updates whose time is taken.
const UPDATES: u32 = 10;
/// Updates between two bases.
const GAP: u32 = 200;

/// What an update takes, in milliseconds.
#[derive(Clone, Copy)]
struct Cost {
    wall: f64,
    user: f64,
}

impl Cost {
    fn wall(self) -> f64 {
        self.wall
    }

    fn user(self) -> f64 {
        self.user
    }
}

struct Measured {
    name: &'static str,
    rounds: Vec<Cost>,
    renewal: Vec<f64>,
    state_bytes: f64,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let numbers = support::numbers();
    let (threads, rounds) = (numbers.first().copied().unwrap_or(2), numbers.get(1).copied().unwrap_or(5).max(1));
    let asked: Vec<String> = std::env::args().skip(1).collect();
    let named = |name: &str| asked.iter().any(|arg| arg == name);
    let all = !METHODS.iter().any(|entry| named(entry.name));
    let chosen = METHODS.iter().filter(|entry| all || named(entry.name) || entry.name == "full");
    let mut measured: Vec<Measured> = chosen
        .map(|entry| Measured { name: entry.name, rounds: Vec::new(), renewal: Vec::new(), state_bytes: f64::NAN })
        .collect();
    let temp = tempfile::tempdir()?;
    let folder = Utf8PathBuf::try_from(temp.path().to_owned())?;
    for _ in 0..rounds {
        for method in &mut measured {
            method.measure(&folder, threads)?;
        }
    }
    println!(
        "{:<10} {:>10} {:>8} {:>8} {:>8} {:>8} {:>12} {:>14}",
        "method", "tokens/s", "ms", "x full", "user ms", "x full", "new basis ms", "state bytes"
    );
    let full: Vec<Cost> =
        measured.iter().find(|method| method.name == "full").map(|m| m.rounds.clone()).unwrap_or_default();
    for method in &measured {
        let of = |part: fn(Cost) -> f64| median(method.rounds.iter().map(|cost| part(*cost)));
        let ratio = |part: fn(Cost) -> f64| median(method.rounds.iter().zip(&full).map(|(a, b)| part(*a) / part(*b)));
        println!(
            "{:<10} {:>10.0} {:>8.1} {:>8.3} {:>8.1} {:>8.3} {:>12.1} {:>14.0}",
            method.name,
            16.0 * 128.0 / of(Cost::wall) * 1e3,
            of(Cost::wall),
            ratio(Cost::wall),
            of(Cost::user),
            ratio(Cost::user),
            median(method.renewal.iter().copied()),
            method.state_bytes,
        );
    }
    Ok(())
}

impl Measured {
    /// One round.
    fn measure(&mut self, folder: &Utf8Path, threads: u64) -> Result<(), Box<dyn std::error::Error>> {
        let has_basis = matches!(self.name, "galore" | "fira");
        let mut cost = self.update(folder, threads, has_basis.then_some(GAP))?;
        if has_basis {
            let always = self.update(folder, threads, Some(1))?;
            self.renewal.push(always.wall - cost.wall);
            cost.wall += (always.wall - cost.wall) / f64::from(GAP);
            cost.user += (always.user - cost.user) / f64::from(GAP);
        }
        self.rounds.push(cost);
        Ok(())
    }

    fn update(
        &mut self,
        folder: &Utf8Path,
        threads: u64,
        gap: Option<u32>,
    ) -> Result<Cost, Box<dyn std::error::Error>> {
        let mut method = serde_json::json!({ "name": self.name });
        if self.name != "full" {
            method["rank"] = 64.into();
        }
        if let Some(gap) = gap {
            method["update_proj_gap"] = gap.into();
        }
        let run = |updates| -> Result<support::Run, Box<dyn std::error::Error>> {
            Ok(support::train(&support::params::<AnyMethod>(method.clone(), updates)?, folder, threads)?)
        };
        let (short, long) = (run(1)?, run(u64::from(1 + UPDATES))?);
        self.state_bytes = long.figure("optimizer_state_bytes").unwrap_or(f64::NAN);
        let each = |long: f64, short: f64| (long - short) / f64::from(UPDATES) * 1e3;
        Ok(Cost { wall: each(long.seconds, short.seconds), user: each(long.user_seconds, short.user_seconds) })
    }
}

/// NaN of nothing.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
