//! The values of an axis: a list, or a rule that makes one.

use super::MAX_NODES;
use super::budget::{Budget, VALUE};
use crate::diagnostic::Diagnostic;
use crate::manifest::field;
use crate::value::{Key, Table, Value, ValueKind};

/// The keys of the rules.
const KEYS: [&str; 6] = ["linspace", "logspace", "from", "to", "step", "count"];

/// Whether a table is a rule, and not axes inside axes. A misspelt rule counts: it has a key near to one.
pub(super) fn is_rule(table: &Table) -> bool {
    table.entries.iter().any(|(key, value)| {
        KEYS.contains(&key.name.as_str())
            || (!matches!(value.kind, ValueKind::Table(_)) && crate::diagnostic::nearest(&key.name, KEYS).is_some())
    })
}

/// The values of an axis; `None` after an error. `key` is the axis.
pub(super) fn values(key: &Key, value: Value, budget: &mut Budget, found: &mut Vec<Diagnostic>) -> Option<Vec<Value>> {
    let span = value.span;
    let kinds = match value.kind {
        ValueKind::Array(items) if items.is_empty() => Err(("it has no values".to_owned(), "remove it, or add values")),
        ValueKind::Array(items) => return Some(items),
        ValueKind::Table(table) => {
            if let Some((wrong, _)) = table.entries.iter().find(|(key, _)| !KEYS.contains(&key.name.as_str())) {
                let message = format!("unknown field `{}` in the axis `{}`", wrong.name, key.name);
                let error = Diagnostic::error("manifest::unknown-field", message).label(wrong.span, "");
                found.push(field::unknown(error, &wrong.name, &KEYS, "known here"));
                return None;
            }
            rule(&table)
        }
        kind => Err((
            format!("expected a list, found {}", kind.describe()),
            "write a list, [1, 2], or a rule, { linspace = [0, 1, 5] }",
        )),
    };
    match kinds {
        Ok((count, make)) => {
            budget.spend(count.saturating_mul(VALUE), key, found)?;
            Some((0..count).map(|index| Value { span, kind: make.at(index) }).collect())
        }
        Err((message, help)) => {
            let error = Diagnostic::error("manifest::matrix", format!("the axis `{}`: {message}", key.name));
            found.push(error.label(span, "").help(help));
            None
        }
    }
}

/// How many values, and which.
type Rule = Result<(usize, Make), (String, &'static str)>;

/// The values of a rule, by their index.
enum Make {
    /// From the first to the second in so many values, at equal distances.
    Linear(f64, f64, usize),
    /// The same at equal ratios.
    Log(f64, f64, usize),
    /// From the first, the second apart; the last has been checked to be a whole number.
    Whole(i64, i64),
}

impl Make {
    fn at(&self, index: usize) -> ValueKind {
        match *self {
            Self::Linear(first, .., count) | Self::Log(first, .., count) if index == 0 || count < 2 => {
                ValueKind::Float(first)
            }
            Self::Linear(_, last, count) | Self::Log(_, last, count) if index + 1 == count => ValueKind::Float(last),
            #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
            Self::Linear(first, last, count) => {
                let part = index as f64 / (count - 1) as f64;
                ValueKind::Float(round(first * (1.0 - part) + last * part))
            }
            #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
            Self::Log(first, last, count) => {
                let part = index as f64 / (count - 1) as f64;
                ValueKind::Float(round((first.ln() + (last.ln() - first.ln()) * part).exp()))
            }
            Self::Whole(from, step) => {
                ValueKind::Integer(i64::try_from(index).unwrap_or(i64::MAX).wrapping_mul(step).wrapping_add(from))
            }
        }
    }
}

fn rule(table: &Table) -> Rule {
    let names: Vec<&str> = table.entries.iter().map(|(key, _)| key.name.as_str()).collect();
    match names.as_slice() {
        ["linspace"] => space(table, "linspace"),
        ["logspace"] => space(table, "logspace"),
        _ if names.contains(&"linspace") || names.contains(&"logspace") => {
            Err(("`linspace` and `logspace` stand alone".to_owned(), "write { linspace = [0, 1, 5] }"))
        }
        _ => integers(table),
    }
}

/// `linspace` and `logspace`.
fn space(table: &Table, name: &str) -> Rule {
    let help = "write [first, last, how many], for example [0.001, 0.1, 5]";
    let wrong = || (format!("`{name}` expects a first number, a last number and how many"), help);
    let Some(Value { kind: ValueKind::Array(items), .. }) = table.get(name) else { return Err(wrong()) };
    let numbers: Vec<f64> = items.iter().filter_map(|item| number(item).filter(|number| number.is_finite())).collect();
    let (&[a, b, _], [_, _, Value { kind: ValueKind::Integer(count), .. }]) = (numbers.as_slice(), items.as_slice())
    else {
        return Err(wrong());
    };
    let count = many(*count)?;
    if count > 1 && a == b {
        return Err((format!("`{name}` goes from {a:?} to itself"), help));
    }
    let log = name == "logspace";
    if log && (a <= 0.0 || b <= 0.0) {
        let help = "it goes between the values themselves, not their exponents: [0.0001, 0.01, 3]";
        return Err(("`logspace` expects two numbers above zero".to_owned(), help));
    }
    Ok((count, if log { Make::Log(a, b, count) } else { Make::Linear(a, b, count) }))
}

/// Twelve significant digits: what is lost of the arithmetic is noise, and it would stand in every name.
fn round(value: f64) -> f64 {
    format!("{value:.11e}").parse().unwrap_or(value)
}

/// `from`, `to`, `step` and `count`.
fn integers(table: &Table) -> Rule {
    let get = |name: &str| match table.get(name).map(|value| (&value.kind, value)) {
        None => Ok(None),
        Some((ValueKind::Integer(number), _)) => Ok(Some(*number)),
        Some((_, value)) => Err((
            format!("`{name}` expects a whole number, found {}", value.describe()),
            "for other numbers use { linspace = [first, last, how many] }",
        )),
    };
    let (from, to, step, count) = (get("from")?, get("to")?, get("step")?, get("count")?);
    let step = step.unwrap_or(1);
    let from = match (from, to, count) {
        (from, None, Some(_)) => from.unwrap_or(0),
        (Some(from), Some(_), None) => from,
        _ => {
            return Err((
                "a range has `from` and `to`, or `count`".to_owned(),
                "write { from = 1, to = 10, step = 3 }",
            ));
        }
    };
    let count = match (to, count) {
        (Some(to), _) => {
            let (distance, step) = (i128::from(to) - i128::from(from), i128::from(step));
            if step == 0 || distance.signum() * step.signum() < 0 {
                let message = format!("no steps of {step} lead from {from} to {to}");
                return Err((message, "choose a step that goes from the first to the last"));
            }
            many(i64::try_from(distance / step).unwrap_or(i64::MAX).saturating_add(1))?
        }
        (None, count) => many(count.unwrap_or(0))?,
    };
    if step == 0 && count > 1 {
        return Err(("a step of 0 gives the same number again and again".to_owned(), "choose another step"));
    }
    let last = i64::try_from(count - 1).ok().and_then(|index| from.checked_add(index.checked_mul(step)?));
    match last {
        Some(_) => Ok((count, Make::Whole(from, step))),
        None => Err(("the range leaves the whole numbers".to_owned(), "end it earlier")),
    }
}

fn many(count: i64) -> Result<usize, (String, &'static str)> {
    match usize::try_from(count) {
        Ok(count) if (1..=MAX_NODES).contains(&count) => Ok(count),
        Ok(0) | Err(_) => Err((format!("it has {count} values"), "an axis has at least one value")),
        Ok(_) => Err((
            format!("it has {count} values, and a manifest may have {MAX_NODES} nodes in all"),
            "sweep fewer values",
        )),
    }
}

fn number(value: &Value) -> Option<f64> {
    match value.kind {
        #[expect(clippy::cast_precision_loss, reason = "a sweep beyond 2^53 is rounded to 12 digits anyway")]
        ValueKind::Integer(number) => Some(number as f64),
        ValueKind::Float(number) => Some(number),
        _ => None,
    }
}
