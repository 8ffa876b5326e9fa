//! Figures in words: durations, sizes, numbers.

/// A duration: `0.04 s`, `12.3 s`, `4 min 05 s`, `2 h 07 min`.
#[must_use]
pub(crate) fn duration(seconds: f64) -> String {
    if seconds < 9.995 {
        format!("{seconds:.2} s")
    } else if seconds < 59.95 {
        format!("{seconds:.1} s")
    } else if seconds < 3599.5 {
        let whole = seconds.round();
        format!("{:.0} min {:02.0} s", (whole / 60.0).floor(), whole % 60.0)
    } else {
        let minutes = (seconds / 60.0).round();
        format!("{:.0} h {:02.0} min", (minutes / 60.0).floor(), minutes % 60.0)
    }
}

/// A size: `512 B`, `1.5 MiB`.
#[must_use]
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut size = bytes as f64 / 1024.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        if size < 1023.95 {
            break;
        }
        size /= 1024.0;
        unit = next;
    }
    format!("{size:.1} {unit}")
}

/// A figure with about five significant digits, without needless zeros: `2.3148`, `58073600`, `1.2e-7`.
#[must_use]
pub(crate) fn number(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return format!("{value}");
    }
    let magnitude = value.abs();
    if !(1e-4..1e15).contains(&magnitude) {
        return format!("{value:.2e}");
    }
    if value.fract() == 0.0 || magnitude >= 1e5 {
        return group_thousands(&format!("{value:.0}"));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between -4 and 5")]
    let decimals = (4 - magnitude.log10().floor() as i32).max(0) as usize;
    let text = format!("{value:.decimals$}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A mean with its standard deviation, as exact as the deviation's first two digits: `3.641 ± 0.012`.
#[must_use]
pub(crate) fn mean_and_deviation(mean: f64, deviation: Option<f64>) -> String {
    let Some(deviation) = deviation else { return number(mean) };
    if !mean.is_finite() || !deviation.is_finite() || deviation == 0.0 || mean.abs() >= 1e15 || deviation < 1e-9 {
        return format!("{} ± {}", number(mean), number(deviation));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 10")]
    let decimals = (1 - deviation.log10().floor() as i32).max(0) as usize;
    if decimals == 0 {
        return format!("{} ± {}", group_thousands(&format!("{mean:.0}")), group_thousands(&format!("{deviation:.0}")));
    }
    format!("{mean:.decimals$} ± {deviation:.decimals$}")
}

/// `1234567` as `1,234,567`.
fn group_thousands(digits: &str) -> String {
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |rest| ("-", rest));
    let mut out = String::with_capacity(digits.len() + digits.len() / 3 + 1);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    format!("{sign}{out}")
}

/// `1 stage`, `2 stages`.
#[must_use]
pub(crate) fn count(number: u64, what: &str) -> String {
    #[expect(clippy::cast_precision_loss, reason = "counts of nodes")]
    let figure = group_thousands(&format!("{:.0}", number as f64));
    format!("{figure} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short_and_exact_enough() {
        let durations = [0.0412, 9.994, 9.996, 59.94, 59.96, 245.2, 3599.6, 7625.0].map(duration);
        assert_eq!(
            durations,
            ["0.04 s", "9.99 s", "10.0 s", "59.9 s", "1 min 00 s", "4 min 05 s", "1 h 00 min", "2 h 07 min"]
        );
        assert_eq!([0, 1023, 1536, 1_048_575, 1 << 30].map(bytes), ["0 B", "1023 B", "1.5 KiB", "1.0 MiB", "1.0 GiB"]);
        let numbers =
            [0.0, 2.314_83, 0.25, 58_073_600.0, 1.2e-7, 123_456.7, -42.0, 0.000_123_456, f64::NAN].map(number);
        assert_eq!(numbers, ["0", "2.3148", "0.25", "58,073,600", "1.20e-7", "123,457", "-42", "0.00012346", "NaN"]);
        let means = [(3.6412, Some(0.0123)), (1234.5, Some(56.0)), (2.0, Some(0.0)), (2.5, None), (0.5, Some(1.5))];
        let means = means.map(|(mean, deviation)| mean_and_deviation(mean, deviation));
        assert_eq!(means, ["3.641 ± 0.012", "1,234 ± 56", "2 ± 0", "2.5", "0.5 ± 1.5"]);
        assert_eq!([count(1, "stage"), count(5000, "stage")], ["1 stage", "5,000 stages"]);
    }
}
