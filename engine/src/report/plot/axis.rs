//! Ranges and round numbers along an axis.

/// The stretch of numbers that an axis shows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Range {
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) log: bool,
}

impl Range {
    /// All finite values with a little room; above zero only, if the axis is logarithmic. Some range in any case.
    pub(super) fn of(values: impl Iterator<Item = f64>, log: bool) -> Self {
        // Beyond these nobody measures, and their ratio would leave what a double can hold.
        let fits = |value: &f64| value.abs() < 1e100 && (!log || *value > 1e-100);
        let (mut low, mut high) = values.filter(fits).fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
        if low > high {
            (low, high) = (1.0, 2.0);
        }
        if log {
            let room = ((high / low).ln() * 0.04).max(0.05);
            return Self { low: low * (-room).exp(), high: high * room.exp(), log };
        }
        let room = (high - low) * 0.04;
        let room = if room > 0.0 { room } else { low.abs().max(1.0) * 0.05 };
        // Nothing that starts at zero needs room below it.
        let bottom = if low >= 0.0 { (low - room).max(0.0) } else { low - room };
        Self { low: bottom, high: high + room, log }
    }

    /// From 0 to 1 along the axis.
    pub(super) fn place(&self, value: f64) -> f64 {
        if self.log {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        }
    }

    /// Round numbers in the range, about as many as asked for.
    pub(super) fn ticks(&self, about: u32) -> Vec<f64> {
        if self.log && self.high / self.low > 8.0 {
            let decades = self.high.log10() - self.low.log10();
            let steps: &[f64] = if decades < 3.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
            let every = (decades / f64::from(about)).ceil().max(1.0);
            #[expect(clippy::cast_possible_truncation, reason = "exponents of doubles")]
            let (first, last) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
            return (first..=last)
                .filter(|power| f64::from(*power).rem_euclid(every) == 0.0 || every <= 1.0)
                .flat_map(|power| steps.iter().map(move |step| step * 10_f64.powi(power)))
                .filter(|tick| (self.low..=self.high).contains(tick))
                .collect();
        }
        let rough = (self.high - self.low) / f64::from(about.max(1));
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|step| step * power).into_iter().find(|step| *step >= rough);
        let step = step.unwrap_or(rough);
        let first = (self.low / step).ceil();
        (0..=2 * about)
            .map(|number| (first + f64::from(number)) * step)
            .take_while(|tick| *tick <= self.high)
            .map(|tick| if tick.abs() < step / 1e6 { 0.0 } else { tick })
            .collect()
    }
}

/// A tick in few characters: `0.02`, `1,500`, `2M`, `1e-5`.
pub(super) fn label(value: f64) -> String {
    let magnitude = value.abs();
    for (unit, letter) in [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")] {
        let unit = if letter == "k" { 1e3 } else { unit };
        if magnitude >= unit && magnitude >= 1e4 {
            return format!("{}{letter}", crate::report::figures::number((value / unit * 1e6).round() / 1e6));
        }
    }
    if value != 0.0 && magnitude < 1e-3 {
        format!("{value:e}").chars().take(8).collect()
    } else {
        crate::report::figures::number((value * 1e9).round() / 1e9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ticks(low: f64, high: f64, log: bool) -> Vec<String> {
        Range { low, high, log }.ticks(5).into_iter().map(label).collect()
    }

    #[test]
    fn ticks_are_round_and_labels_short() {
        assert_eq!(ticks(0.0, 400.0, false), ["0", "100", "200", "300", "400"]);
        assert_eq!(ticks(3.31, 3.52, false), ["3.35", "3.4", "3.45", "3.5"]);
        assert_eq!(ticks(-1.0, 1.0, false), ["-1", "-0.5", "0", "0.5", "1"]);
        assert_eq!(ticks(9e5, 3.1e7, true), ["1M", "2M", "5M", "10M", "20M"]);
        assert_eq!(ticks(1e-6, 1.0, true), ["1e-6", "1e-4", "0.01", "1"]);
        assert_eq!(label(12_500.0), "12.5k");
    }

    proptest! {
        #[test]
        fn every_range_has_ticks_inside_it(a in -1e12..1e12f64, width in 1e-3..1e12f64, log in any::<bool>()) {
            let a = if log { a.abs() + 1e-6 } else { a };
            let range = Range::of([a, a + width].into_iter(), log);
            let ticks = range.ticks(5);
            prop_assert!(!ticks.is_empty() && ticks.len() < 24, "{range:?} {ticks:?}");
            prop_assert!(ticks.iter().all(|tick| (-1e-9..=1.0 + 1e-9).contains(&range.place(*tick))), "{range:?} {ticks:?}");
        }

        #[test]
        fn strange_values_give_some_range(values in prop::collection::vec(any::<f64>(), 0..5), log in any::<bool>()) {
            let range = Range::of(values.into_iter(), log);
            prop_assert!(range.low < range.high && range.low.is_finite() && range.high.is_finite(), "{range:?}");
        }
    }
}
