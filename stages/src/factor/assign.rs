//! Which layer of a model gets which rank.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use sepia_engine::stage::StageError;
use serde::{Deserialize, Serialize};

use super::{RankRule, choose, is_body, is_grouped, pays, rank_by_rule};
use crate::{
    metric::rank::RankMeasures,
    model::vision::{Form, Geometry, Layer, VisionModel},
};

/// A measure of a rank analysis that can serve as a rank, rounded up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Singular values that do not count as zero.
    Rank,
    /// `||W||_F^2 / ||W||_2^2`.
    StableRank,
    /// Stable rank times `q / stable rank at initialisation` (Cuttlefish); the analysis needs the input `initial`.
    ScaledStableRank,
    /// Exponential of the entropy of the singular values.
    EffectiveRank,
    /// The same of their squares.
    EnergyEntropyRank,
    /// `(sum s^2)^2 / sum s^4`.
    ParticipationRatio,
    /// Nuclear norm over spectral norm.
    IntrinsicDimension,
}

impl Measure {
    /// Its value in a table of measures; `None` where the table lacks it.
    #[must_use]
    pub fn of(self, measures: &RankMeasures, scaled_stable_rank: Option<f64>) -> Option<f64> {
        Some(match self {
            Measure::Rank => measures.rank as f64,
            Measure::StableRank => measures.stable_rank,
            Measure::ScaledStableRank => return scaled_stable_rank,
            Measure::EffectiveRank => measures.effective_rank,
            Measure::EnergyEntropyRank => measures.energy_entropy_rank,
            Measure::ParticipationRatio => measures.participation_ratio,
            Measure::IntrinsicDimension => measures.intrinsic_dimension,
        })
    }
}

/// Ranks by layer path, in the order of the model; layers that are not named stay as they are.
pub type Ranks = Vec<(String, Form, usize)>;

/// Linear layers have one form alone, whatever is asked for convolutions.
#[must_use]
pub fn form_of(layer: &Layer, form: Form) -> Form {
    if matches!(layer.geometry, Geometry::Linear { .. }) { Form::Channel } else { form }
}

/// Which of these names patterns choose, as indices in their order; all of them without patterns.
///
/// # Errors
/// When a pattern matches nothing.
pub fn chosen_names(names: &[&str], patterns: Option<&[String]>, param: &str) -> Result<Vec<usize>, StageError> {
    let Some(patterns) = patterns else { return Ok((0..names.len()).collect()) };
    let mut taken = vec![false; names.len()];
    for pattern in patterns {
        let found = choose(pattern, names);
        let found = found.map_err(|error| StageError::new(error.to_string()).help(error.help()).param(param))?;
        found.into_iter().for_each(|index| taken[index] = true);
    }
    Ok((0..names.len()).filter(|index| taken[*index]).collect())
}

/// The layers that patterns choose, in the order of the model. Without patterns: all of the body (neither the first nor
/// the last, nor shortcuts and attention outputs), but for convolutions in groups.
///
/// # Errors
/// When a pattern matches nothing.
pub fn chosen(model: &VisionModel, patterns: Option<&[String]>, param: &str) -> Result<Vec<String>, StageError> {
    let layers = model.layers();
    let names: Vec<&str> = layers.iter().map(|layer| layer.path.as_str()).collect();
    let mut found = chosen_names(&names, patterns, param)?;
    if patterns.is_none() {
        found.retain(|index| is_body(layers[*index]) && !is_grouped(layers[*index]));
    }
    Ok(found.into_iter().map(|index| names[index].to_owned()).collect())
}

/// Ranks of a rule for these layers.
///
/// # Errors
/// When a layer cannot be factorised, or the rule gives a rank that cannot be had.
pub fn by_rule(model: &VisionModel, paths: &[String], form: Form, rule: RankRule) -> Result<Ranks, StageError> {
    let rank = |path: &String| {
        let layer = model.layer(path)?;
        let form = form_of(layer, form);
        Ok((path.clone(), form, rank_by_rule(layer, form, rule)?))
    };
    paths.iter().map(rank).collect()
}

/// Ranks of a table by name or pattern, by the index of the name. A name that stands there itself goes before a pattern
/// that matches it.
///
/// # Errors
/// When an entry matches nothing, or two patterns give one name two ranks.
pub fn by_names(names: &[&str], table: &BTreeMap<String, usize>) -> Result<BTreeMap<usize, usize>, StageError> {
    let mut found: BTreeMap<usize, (&str, usize)> = BTreeMap::new();
    for (pattern, rank) in table {
        let matches = choose(pattern, names);
        let matches = matches.map_err(|error| StageError::new(error.to_string()).help(error.help()).param("table"))?;
        for index in matches {
            let own = |key: &str| key == names[index];
            match found.get(&index) {
                Some((other, _)) if own(other) => {}
                Some((other, given)) if !own(pattern) && given != rank => {
                    let message =
                        format!("`{}` gets rank {given} from `{other}` and rank {rank} from `{pattern}`", names[index]);
                    let help = format!("give it a rank of its own: \"{}\" = {rank}", names[index]);
                    return Err(StageError::new(message).help(help).param("table"));
                }
                _ => drop(found.insert(index, (pattern, *rank))),
            }
        }
    }
    Ok(found.into_iter().map(|(index, (_, rank))| (index, rank)).collect())
}

/// The same for the layers of a model.
///
/// # Errors
/// As [`by_names`].
pub fn by_table(model: &VisionModel, table: &BTreeMap<String, usize>, form: Form) -> Result<Ranks, StageError> {
    let layers = model.layers();
    let names: Vec<&str> = layers.iter().map(|layer| layer.path.as_str()).collect();
    let found = by_names(&names, table)?.into_iter();
    Ok(found.map(|(index, rank)| (names[index].to_owned(), form_of(layers[index], form), rank)).collect())
}

/// Splits ranks into those whose factors are smaller than the weight and those that are not.
///
/// # Errors
/// When a layer is missing or has no such rank.
pub fn only_smaller(model: &VisionModel, ranks: Ranks) -> Result<(Ranks, Ranks), StageError> {
    let mut split = (Ranks::new(), Ranks::new());
    for (path, form, rank) in ranks {
        let layer = model.layer(&path)?;
        layer.check(form, rank).map_err(super::LayerError::from)?;
        let side = if pays(layer, form, rank) { &mut split.0 } else { &mut split.1 };
        side.push((path, form, rank));
    }
    Ok(split)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::lenet;

    fn table(entries: &[(&str, usize)]) -> BTreeMap<String, usize> {
        entries.iter().map(|(name, rank)| ((*name).to_owned(), *rank)).collect()
    }

    #[test]
    fn the_body_is_chosen_by_itself_and_anything_by_name() {
        let model = lenet();
        assert_eq!(chosen(&model, None, "layers").unwrap(), ["conv2", "fc1", "fc2"]);
        assert_eq!(chosen(&model, Some(&["fc?".to_owned()]), "layers").unwrap(), ["fc1", "fc2", "fc3"]);
    }

    #[test]
    fn a_layer_that_is_not_there_is_refused_with_the_nearest() {
        let error = by_table(&lenet(), &table(&[("fc9", 3)]), Form::Channel).unwrap_err();
        let StageError::Failed { message, help, param } = error else { panic!() };
        assert_eq!(message, "no layer is named `fc9`");
        assert_eq!(help.unwrap(), "the nearest of its 5 are `fc1`, `fc2`, `fc3`");
        assert_eq!(param.unwrap(), "table");
    }

    #[test]
    fn an_own_entry_goes_before_a_pattern_and_two_patterns_must_agree() {
        let found = by_table(&lenet(), &table(&[("fc*", 7), ("fc2", 9)]), Form::Spatial).unwrap();
        let found: Vec<_> = found.iter().map(|(path, form, rank)| (path.as_str(), *form, *rank)).collect();
        assert_eq!(found, [("fc1", Form::Channel, 7), ("fc2", Form::Channel, 9), ("fc3", Form::Channel, 7)]);
        let error = by_table(&lenet(), &table(&[("fc*", 7), ("f?2", 9)]), Form::Channel).unwrap_err();
        assert_eq!(error.to_string(), "`fc2` gets rank 9 from `f?2` and rank 7 from `fc*`");
    }

    #[test]
    fn ranks_that_a_layer_cannot_have_name_it() {
        let model = lenet();
        for (rank, why) in [
            (0, "rank 0 of `fc2` must be between 1 and 84, the smaller side of its 84x120 matrix"),
            (85, "rank 85 of `fc2` must be between 1 and 84, the smaller side of its 84x120 matrix"),
        ] {
            let error = only_smaller(&model, vec![("fc2".to_owned(), Form::Channel, rank)]).unwrap_err();
            assert_eq!(error.to_string(), why);
        }
        let error = by_rule(&model, &["fc2".to_owned()], Form::Channel, RankRule::Value(1e9)).unwrap_err();
        assert_eq!(error.to_string(), "`fc2`: rank 0 leaves nothing of the 84x120 matrix");
    }

    #[test]
    fn layers_whose_factors_are_larger_are_told_apart() {
        let ranks = vec![("fc1".to_owned(), Form::Channel, 20), ("fc2".to_owned(), Form::Channel, 60)];
        let (smaller, larger) = only_smaller(&lenet(), ranks).unwrap();
        assert_eq!((smaller[0].0.as_str(), larger[0].0.as_str()), ("fc1", "fc2"));
    }
}
