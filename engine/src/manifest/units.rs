//! Sizes and durations as people write them.

use crate::value::{Value, ValueKind};

/// Seconds: a number, or text such as `2h`, `90s`, `1h 30m`, `1.5 days`. Always above zero and finite.
pub(super) fn seconds(value: &Value) -> Result<f64, String> {
    let seconds = match &value.kind {
        #[expect(clippy::cast_precision_loss, reason = "beyond 2^53 seconds a second more or less is nothing")]
        ValueKind::Integer(number) => Some(*number as f64),
        ValueKind::Float(number) => Some(*number),
        ValueKind::String(text) => text
            .parse::<jiff::Span>()
            .ok()
            .and_then(|span| span.total((jiff::Unit::Second, jiff::SpanRelativeTo::days_are_24_hours())).ok()),
        _ => None,
    };
    match seconds {
        Some(seconds) if seconds > 0.0 && seconds.is_finite() => Ok(seconds),
        Some(_) => Err(format!("expected a duration above zero, found {}", value.describe())),
        None => {
            let expected = "a duration such as \"90s\", \"1h 30m\" or \"2 days\", or seconds as a number";
            Err(format!("expected {expected}, found {}", value.describe()))
        }
    }
}

/// The units of sizes, in bytes.
const UNITS: [(&str, f64); 9] = [
    ("b", 1.0),
    ("kb", 1e3),
    ("mb", 1e6),
    ("gb", 1e9),
    ("tb", 1e12),
    ("kib", 1024.0),
    ("mib", 1_048_576.0),
    ("gib", 1_073_741_824.0),
    ("tib", 1_099_511_627_776.0),
];

/// Bytes: a whole number, or text such as `4 GiB`, `512MB`, `1.5 TiB`. Always above zero.
pub(super) fn bytes(value: &Value) -> Result<u64, String> {
    let bytes = match &value.kind {
        ValueKind::Integer(number) => u64::try_from(*number).ok(),
        ValueKind::String(text) => parse_bytes(text),
        _ => None,
    };
    bytes.filter(|bytes| *bytes > 0).ok_or_else(|| {
        format!(
            "expected a size such as \"4 GiB\" or \"512 MB\", or bytes as a whole number, found {}",
            value.describe()
        )
    })
}

/// The bytes of a size such as `4 GiB`.
pub(crate) fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().to_ascii_lowercase();
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
    let bytes = number.parse::<f64>().ok()? * factor;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to lie in the range")]
    (bytes.is_finite() && (0.0..1.8e19).contains(&bytes)).then_some(bytes.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Span;

    fn value(text: &str) -> Value {
        let table = crate::value::parse_toml(0, &format!("x = {text}")).unwrap();
        Value { span: Span::default(), kind: table.get("x").unwrap().kind.clone() }
    }

    #[test]
    fn durations_have_units_or_are_seconds() {
        for (text, expected) in [
            ("\"2h\"", 7200.0),
            ("\"1h 30m\"", 5400.0),
            ("\"1h30m\"", 5400.0),
            ("\"1.5h\"", 5400.0),
            ("\"2 days\"", 172_800.0),
            ("\"250ms\"", 0.25),
            ("\"1w\"", 604_800.0),
            ("90", 90.0),
            ("0.5", 0.5),
        ] {
            assert_eq!(seconds(&value(text)), Ok(expected), "{text}");
        }
        for text in ["\"2\"", "\"\"", "\"h\"", "\"1 month\"", "\"-2h\"", "0", "-1", "inf", "nan", "true", "\"1h x\""] {
            assert!(seconds(&value(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_have_units_or_are_bytes() {
        for (text, expected) in
            [("\"4 GiB\"", 4 << 30), ("\"512MB\"", 512_000_000), ("\"1.5 kib\"", 1536), ("\"7 B\"", 7), ("4096", 4096)]
        {
            assert_eq!(bytes(&value(text)), Ok(expected), "{text}");
        }
        for text in
            ["\"4\"", "\"\"", "\"GiB\"", "\"4 G\"", "\"4 GiB 3\"", "\"1..2 B\"", "0", "-1", "1.5", "\"99999999 TiB\""]
        {
            assert!(bytes(&value(text)).is_err(), "{text}");
        }
    }
}
