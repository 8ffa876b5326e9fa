//! Smaller footprints from one training: the layer whose loss of rank hurts least goes first.

/// One step of the search.
#[derive(Debug, Clone, PartialEq)]
pub struct Reduction {
    /// Ranks of all layers after it.
    pub ranks: Vec<usize>,
    /// What they cost, in the unit of the budgets.
    pub cost: f64,
    /// The loss at these ranks.
    pub loss: f64,
}

/// Lowers ranks until every budget is met, and returns for each budget (in their order) the first ranks whose cost is at
/// most that; budgets that cannot be met are left out.
///
/// A step tries, for every layer, to lower its rank by `fraction` of it (at least one, never below 1) and keeps the try
/// with the lowest loss; of equal ones the first. `loss` is asked once a try.
///
/// # Errors
/// What `loss` returns.
pub fn greedy_reduction<E>(
    ranks: &[usize],
    budgets: &[f64],
    fraction: f64,
    cost: impl Fn(&[usize]) -> f64,
    mut loss: impl FnMut(&[usize]) -> Result<f64, E>,
) -> Result<Vec<(f64, Reduction)>, E> {
    let mut now = Reduction { ranks: ranks.to_vec(), cost: cost(ranks), loss: loss(ranks)? };
    let mut path = vec![now.clone()];
    let smallest = budgets.iter().copied().fold(f64::INFINITY, f64::min);
    while now.cost > smallest {
        let mut best: Option<Reduction> = None;
        for layer in 0..now.ranks.len() {
            let rank = now.ranks[layer];
            let lowered = rank.saturating_sub(((rank as f64 * fraction) as usize).max(1)).max(1);
            if lowered >= rank {
                continue;
            }
            let mut ranks = now.ranks.clone();
            ranks[layer] = lowered;
            let found = Reduction { cost: cost(&ranks), loss: loss(&ranks)?, ranks };
            if best.as_ref().is_none_or(|best| found.loss < best.loss) {
                best = Some(found);
            }
        }
        let Some(best) = best else { break };
        now = best;
        path.push(now.clone());
    }
    let meets = |budget: f64| path.iter().find(|step| step.cost <= budget).cloned();
    Ok(budgets.iter().filter_map(|budget| Some((*budget, meets(*budget)?))).collect())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// Two layers whose singular values fall off: the loss is the energy cut off, the cost the sum of ranks.
    fn search(budgets: &[f64], fraction: f64) -> Vec<(f64, Reduction)> {
        let spectra = [[9.0, 4.0, 1.0, 0.1], [8.0, 0.3, 0.2, 0.05]];
        let lost = |ranks: &[usize]| -> f64 {
            spectra.iter().zip(ranks).map(|(s, rank)| s[*rank..].iter().map(|s| s * s).sum::<f64>()).sum()
        };
        let cost = |ranks: &[usize]| ranks.iter().sum::<usize>() as f64;
        greedy_reduction::<Infallible>(&[4, 4], budgets, fraction, cost, |ranks| Ok(lost(ranks))).unwrap()
    }

    #[test]
    fn the_rank_that_matters_least_goes_first_and_one_search_serves_all_budgets() {
        let found = search(&[8.0, 6.0, 4.0, 2.0], 0.1);
        let ranks: Vec<_> = found.iter().map(|(_, step)| step.ranks.clone()).collect();
        assert_eq!(ranks, [vec![4, 4], vec![3, 3], vec![3, 1], vec![1, 1]]);
    }

    #[test]
    fn a_budget_below_rank_one_everywhere_is_not_met() {
        assert_eq!(search(&[1.0, 2.0], 0.5).iter().map(|(budget, _)| *budget).collect::<Vec<_>>(), [2.0]);
    }
}
