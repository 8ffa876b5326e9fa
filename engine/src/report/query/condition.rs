//! What `--where` says, as a tree, and how an execution answers it.
//!
//! A comparison with something that an execution does not have is false, and `not` turns it true: `lr < 0.01` and
//! `not lr < 0.01` share all executions among them.

use std::cmp::Ordering;

use super::Cell;
use crate::wildcard;

/// A condition. `N` names a column: text with a place when it was parsed, a number of a column once it is resolved.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Condition<N> {
    Or(Vec<Condition<N>>),
    And(Vec<Condition<N>>),
    Not(Box<Condition<N>>),
    Compare { name: N, operator: Operator, value: Literal },
    In { name: N, values: Vec<Literal> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    /// SQL's: `%` is any text, `_` any character; upper and lower case are the same.
    Like,
    /// Contains the text; upper and lower case are the same.
    Contains,
}

/// A value as it was written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Literal {
    pub(crate) text: String,
    /// Its number, if it is written as one and not quoted.
    pub(crate) number: Option<f64>,
}

/// A name as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) text: String,
    pub(crate) place: std::ops::Range<usize>,
}

impl<N> Condition<N> {
    /// The same with every name replaced.
    pub(crate) fn map<M, E>(self, name: &mut dyn FnMut(N) -> Result<M, E>) -> Result<Condition<M>, E> {
        Ok(match self {
            Self::Or(of) => Condition::Or(of.into_iter().map(|one| one.map(&mut *name)).collect::<Result<_, E>>()?),
            Self::And(of) => Condition::And(of.into_iter().map(|one| one.map(&mut *name)).collect::<Result<_, E>>()?),
            Self::Not(of) => Condition::Not(Box::new(of.map(name)?)),
            Self::Compare { name: n, operator, value } => Condition::Compare { name: name(n)?, operator, value },
            Self::In { name: n, values } => Condition::In { name: name(n)?, values },
        })
    }

    /// Whether an execution fits; `cell` gives its value in a column.
    pub(crate) fn holds<'a>(&self, cell: &dyn Fn(&N) -> &'a Cell) -> bool {
        match self {
            Self::Or(of) => of.iter().any(|one| one.holds(cell)),
            Self::And(of) => of.iter().all(|one| one.holds(cell)),
            Self::Not(of) => !of.holds(cell),
            Self::Compare { name, operator, value } => compare(cell(name), *operator, value),
            Self::In { name, values } => values.iter().any(|value| compare(cell(name), Operator::Equal, value)),
        }
    }

    /// Tells `hear` every name.
    pub(crate) fn each_name(&self, hear: &mut dyn FnMut(&N)) {
        match self {
            Self::Or(of) | Self::And(of) => of.iter().for_each(|one| one.each_name(hear)),
            Self::Not(of) => of.each_name(hear),
            Self::Compare { name, .. } | Self::In { name, .. } => hear(name),
        }
    }
}

fn compare(cell: &Cell, operator: Operator, literal: &Literal) -> bool {
    let order = match (cell, literal.number) {
        (Cell::Missing, _) => return false,
        // Exact, where a float would lose digits of a seed.
        (Cell::Integer(value), Some(_)) if literal.text.parse::<i128>().is_ok() => {
            literal.text.parse().ok().map(|literal: i128| value.cmp(&literal))
        }
        (Cell::Integer(_) | Cell::Number(_), Some(number)) => {
            cell.number().and_then(|value| value.partial_cmp(&number))
        }
        (Cell::Prefix(text), _) if matches!(operator, Operator::Equal | Operator::NotEqual) => {
            Some(if text.starts_with(&literal.text.to_lowercase()) { Ordering::Equal } else { Ordering::Less })
        }
        _ => Some(cell.text().as_ref().cmp(literal.text.as_str())),
    };
    match operator {
        Operator::Equal => order == Some(Ordering::Equal),
        Operator::NotEqual => order != Some(Ordering::Equal),
        Operator::Less => order == Some(Ordering::Less),
        Operator::LessOrEqual => order.is_some_and(Ordering::is_le),
        Operator::Greater => order == Some(Ordering::Greater),
        Operator::GreaterOrEqual => order.is_some_and(Ordering::is_ge),
        Operator::Like => wildcard::fits(&literal.text.to_lowercase(), &cell.text().to_lowercase(), ('%', '_')),
        Operator::Contains => cell.text().to_lowercase().contains(&literal.text.to_lowercase()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literal(text: &str) -> Literal {
        Literal { text: text.into(), number: text.parse().ok() }
    }

    #[test]
    fn numbers_compare_as_numbers_and_texts_as_texts() {
        use Operator::{Contains, Equal, Greater, Less, Like, NotEqual};
        let is = |cell: Cell, operator, text: &str| compare(&cell, operator, &literal(text));
        assert!(is(Cell::Integer(8), Equal, "8.0") && is(Cell::Number(1e-3), Equal, "0.001"));
        assert!(is(Cell::Integer(10), Greater, "9") && !is(Cell::Text("10".into()), Greater, "9"));
        assert!(is(Cell::Integer(i128::from(u64::MAX)), Equal, "18446744073709551615"));
        assert!(!is(Cell::Integer(i128::from(u64::MAX)), Equal, "18446744073709551614"));
        assert!(!is(Cell::Missing, Equal, "1") && !is(Cell::Missing, NotEqual, "1"));
        assert!(!is(Cell::Number(f64::NAN), Less, "1") && is(Cell::Number(f64::NAN), NotEqual, "1"));
        assert!(is(Cell::Text("true".into()), Equal, "true"));
        assert!(is(Cell::Text("GaLore".into()), Like, "ga%e") && is(Cell::Text("GaLore".into()), Contains, "LOR"));
        assert!(is(Cell::Prefix("95ef3dec".into()), Equal, "95EF") && !is(Cell::Prefix("95ef".into()), Equal, "95ef3"));
        assert!(is(Cell::Integer(12), Like, "1_"));
    }
}
