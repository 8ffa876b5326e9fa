//! The table of a rank analysis, for `cut` and for people.

use std::fmt::Write as _;

use super::rank_analysis::WeightRanks;

/// One line a weight, tab-separated, numbers in full.
pub(super) fn tsv(weights: &[WeightRanks]) -> String {
    let mut text = header(weights).join("\t") + "\n";
    for weight in weights {
        text += &row(weight, |value| value.to_string()).join("\t");
        text.push('\n');
    }
    text
}

/// The same as a Markdown table, numbers rounded to two decimals.
pub(super) fn markdown(weights: &[WeightRanks]) -> String {
    let header = header(weights);
    let mut text = format!("| {} |\n|{}\n", header.join(" | "), "---|".repeat(header.len()));
    for weight in weights {
        let _ = writeln!(text, "| {} |", row(weight, |value| format!("{value:.2}")).join(" | "));
    }
    text
}

/// Every singular value, for plotting: the weight, its number from 1, the value, divided by the largest, and the share of
/// the energy that it and those before it hold.
pub(super) fn spectra(weights: &[WeightRanks]) -> String {
    let mut text = "weight\tindex\tsingular_value\trelative\tcumulative_energy\n".to_owned();
    for weight in weights {
        let values = &weight.singular_values;
        let largest = values.first().copied().unwrap_or(0.0).max(f64::MIN_POSITIVE);
        let total: f64 = values.iter().map(|value| (value / largest).powi(2)).sum();
        let mut energy = 0.0;
        for (index, value) in values.iter().enumerate() {
            let relative = value / largest;
            energy += relative * relative;
            let share = if total > 0.0 { energy / total } else { 0.0 };
            let _ = writeln!(text, "{}\t{}\t{value}\t{relative}\t{share}", weight.name, index + 1);
        }
    }
    text
}

fn header(weights: &[WeightRanks]) -> Vec<String> {
    let fixed = [
        "weight",
        "shape",
        "rank",
        "stable_rank",
        "effective_rank",
        "proportional_effective_rank",
        "energy_entropy_rank",
        "participation_ratio",
        "intrinsic_dimension",
        "condition_number",
        "nuclear_norm",
        "spectral_norm",
    ];
    let mut names: Vec<String> = fixed.iter().map(|name| (*name).to_owned()).collect();
    if let Some(first) = weights.first() {
        names.extend(first.scaled_stable_rank.map(|_| "scaled_stable_rank".to_owned()));
        names.extend(first.measures.energy.iter().map(|energy| format!("energy_rank_{}", energy.threshold)));
    }
    names
}

fn row(weight: &WeightRanks, number: impl Fn(f64) -> String) -> Vec<String> {
    let measures = &weight.measures;
    let mut cells = vec![
        weight.name.clone(),
        weight.shape.iter().map(ToString::to_string).collect::<Vec<_>>().join("x"),
        measures.rank.to_string(),
        number(measures.stable_rank),
        number(measures.effective_rank),
        number(measures.proportional_effective_rank),
        number(measures.energy_entropy_rank),
        number(measures.participation_ratio),
        number(measures.intrinsic_dimension),
        measures.condition_number.map_or_else(|| "inf".to_owned(), &number),
        number(measures.nuclear_norm),
        number(measures.spectral_norm),
    ];
    cells.extend(weight.scaled_stable_rank.map(&number));
    cells.extend(measures.energy.iter().map(|energy| energy.energy_rank.to_string()));
    cells
}
