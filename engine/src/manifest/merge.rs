//! Laying one table over another: what `extends`, profiles, defaults and `--set` have in common.
//!
//! Tables are merged key by key, at every depth; anything else replaces what was there, lists included. A table that
//! names another variant (its `name` or `kind` differs) replaces the old one as a whole: `method = { name = "full" }`
//! over `method = { name = "galore", rank = 64 }` leaves no `rank` behind. An axis of a `matrix` is replaced as a whole,
//! since two rules do not mix: `{ count = 1 }` over `{ from = 1, to = 9 }`.

use std::collections::HashMap;

use crate::value::{Key, Table, Value, ValueKind};

/// Lays `over` over `base`. Keys keep the place in the order that they have in `base`.
pub(super) fn merge(base: &mut Table, over: Table) {
    if over.entries.is_empty() {
        return;
    }
    let mut index: HashMap<String, usize> = HashMap::new();
    if base.entries.len() > 16 {
        index = base.entries.iter().enumerate().map(|(at, (key, _))| (key.name.clone(), at)).collect();
    }
    for (key, value) in over.entries {
        let at = if index.is_empty() {
            base.entries.iter().position(|(old, _)| old.name == key.name)
        } else {
            index.get(&key.name).copied()
        };
        match at.and_then(|at| base.entries.get_mut(at)) {
            Some(old) => merge_entry(old, key, value),
            None => base.entries.push((key, value)),
        }
    }
}

fn merge_entry(old: &mut (Key, Value), key: Key, value: Value) {
    old.0 = key;
    match (&mut old.1.kind, value.kind) {
        (ValueKind::Table(base), ValueKind::Table(over)) if old.0.name == "matrix" => {
            for (key, value) in over.entries {
                set(base, std::slice::from_ref(&key), value);
            }
            old.1.span = value.span;
        }
        (ValueKind::Table(base), ValueKind::Table(over)) if !other_variant(base, &over) => {
            merge(base, over);
            old.1.span = value.span;
        }
        (kind, over) => {
            *kind = over;
            old.1.span = value.span;
        }
    }
}

fn other_variant(base: &Table, over: &Table) -> bool {
    ["name", "kind"].into_iter().any(|key| {
        let text = |table: &Table| table.get(key).and_then(Value::as_str).map(ToOwned::to_owned);
        matches!((text(base), text(over)), (Some(base), Some(over)) if base != over)
    })
}

/// Sets the value at a path of keys, making tables on the way; what stands in the way of one is replaced.
pub(super) fn set(table: &mut Table, path: &[Key], value: Value) {
    let Some((key, rest)) = path.split_first() else { return };
    let at = table.entries.iter().position(|(old, _)| old.name == key.name).unwrap_or_else(|| {
        let empty = Value { span: value.span, kind: ValueKind::Table(Table::default()) };
        table.entries.push((key.clone(), empty));
        table.entries.len() - 1
    });
    let Some((_, slot)) = table.entries.get_mut(at) else { return };
    if rest.is_empty() {
        *slot = value;
        return;
    }
    if slot.as_table().is_none() {
        slot.kind = ValueKind::Table(Table::default());
    }
    if let ValueKind::Table(inner) = &mut slot.kind {
        set(inner, rest, value);
    }
}

/// How much there is of a table: values and bytes of text.
pub(super) fn weight(table: &Table) -> usize {
    table.entries.iter().map(|(key, value)| key.name.len() + weight_of(&value.kind)).sum()
}

/// How much there is of a value.
pub(super) fn weight_of(kind: &ValueKind) -> usize {
    match kind {
        ValueKind::String(text) => 1 + text.len(),
        ValueKind::Array(items) => 1 + items.iter().map(|item| weight_of(&item.kind)).sum::<usize>(),
        ValueKind::Table(table) => 1 + weight(table),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::parse_toml;

    fn merged(base: &str, over: &str) -> String {
        let mut base = parse_toml(0, base).unwrap();
        merge(&mut base, parse_toml(1, over).unwrap());
        show(&base)
    }

    fn show(table: &Table) -> String {
        let entries: Vec<String> = table
            .entries
            .iter()
            .map(|(key, value)| match &value.kind {
                ValueKind::Table(inner) => format!("{} = {{{}}}", key.name, show(inner)),
                ValueKind::Array(items) => format!("{} = [{}]", key.name, items.len()),
                _ => format!("{} = {}", key.name, value.describe()),
            })
            .collect();
        entries.join(", ")
    }

    #[test]
    fn tables_merge_and_everything_else_replaces() {
        insta::assert_snapshot!(merged("a = 1\nb = { x = 1, y = [1, 2] }\nc = 3", "b.y = [1]\na = 'x'\nd = 1\nc = { z = 1 }"), @r#"a = the text "x", b = {x = the whole number 1, y = [1]}, c = {z = the whole number 1}, d = the whole number 1"#);
    }

    #[test]
    fn another_variant_replaces_the_whole_table() {
        insta::assert_snapshot!(merged("m = { name = 'galore', rank = 4 }", "m = { name = 'full' }"), @r#"m = {name = the text "full"}"#);
        insta::assert_snapshot!(merged("m = { name = 'galore', rank = 4 }", "m = { name = 'galore', lr = 1 }"), @r#"m = {name = the text "galore", rank = the whole number 4, lr = the whole number 1}"#);
        insta::assert_snapshot!(merged("m = { name = 'galore', rank = 4 }", "m.rank = 8"), @r#"m = {name = the text "galore", rank = the whole number 8}"#);
    }

    #[test]
    fn an_axis_of_a_matrix_is_replaced() {
        insta::assert_snapshot!(merged("matrix = { a = { count = 3 }, b = [1] }", "matrix.a = { from = 1, to = 2 }"), @"matrix = {a = {from = the whole number 1, to = the whole number 2}, b = [1]}");
    }

    #[test]
    fn many_keys_are_found_by_an_index() {
        let text = |offset: usize| (0..100).map(|i| format!("k{i} = {}\n", i + offset)).collect::<String>();
        let mut base = parse_toml(0, &text(0)).unwrap();
        merge(&mut base, parse_toml(1, &text(5)).unwrap());
        assert_eq!(show(&base), show(&parse_toml(0, &text(5)).unwrap()));
    }

    #[test]
    fn a_path_is_set_through_what_is_not_there_yet() {
        let mut table = parse_toml(0, "a = 1\nb = { c = 1 }").unwrap();
        let path =
            |text: &str| text.split('.').map(|name| Key { name: name.into(), ..Key::default() }).collect::<Vec<_>>();
        let value = Value { span: crate::value::Span::default(), kind: ValueKind::Integer(9) };
        for target in ["b.c", "b.d.e", "a.x", "f"] {
            set(&mut table, &path(target), value.clone());
        }
        insta::assert_snapshot!(show(&table), @"a = {x = the whole number 9}, b = {c = the whole number 9, d = {e = the whole number 9}}, f = the whole number 9");
    }
}
