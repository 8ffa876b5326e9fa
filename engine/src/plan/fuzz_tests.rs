//! Whatever is given, a manifest or diagnostics come out: never a panic, and every place lies in its text.

use camino::Utf8Path;
use proptest::prelude::*;

use crate::{
    diagnostic::{Sources, render, to_json},
    manifest::{Load, Manifest},
    plan::{Plan, path_params},
    stage::{Command, Registry, StageEntry},
};

static ENTRIES: &[StageEntry] = &[Command::entry()];

/// A manifest with a bit of everything.
const VALID: &str = r#"#:schema sepia.schema.json
sepia = 1
name = "all of it"   # a comment
seed = 7
device = "auto"

[params]
n = [1, 2, 3]
text = "x${params.deep.y}"
deep = { y = "é", z = 1.5e-3 }

[defaults.command]
argv = ["sh", "-c", "echo ${params.n} > ${outputs.o}"]
outputs = { o = "o" }
params = { n = 0 }

[stages.a]
kind = "command"
matrix = { "params.n" = "${params.n}", seed = { count = 2 } }
exclude = [{ "params.n" = 2, seed = 1 }]
resources = { threads = 1, memory = "1 MiB" }
timeout = "2h"

[stages.b]
kind = "command"
inputs = { one = "a", all = "a[n=1,*]" }
data = { here = { url = "https://a.org/x", sha256 = "0000000000000000000000000000000000000000000000000000000000000000" } }
argv = ["cat", "${inputs.all}", '''${data.here}''']
params.when = 2026-11-23T10:00:00Z

[profile.smoke]
params.n = [1]
stages.a.retries = 2
"#;

/// Reads, resolves and shows; fails where a place is not in its text.
fn survives(text: &str, profile: Option<&str>) -> Result<bool, TestCaseError> {
    let registry = Registry::new(ENTRIES);
    let mut sources = Sources::default();
    let paths = |kind: &str| path_params(registry, kind);
    let load = Load { profile, paths: Some(&paths), ..Load::default() };
    let found = match Manifest::load(&mut sources, "m.toml", text, &load) {
        Err(errors) => errors,
        Ok((manifest, warnings)) => match Plan::resolve(manifest, registry, Utf8Path::new("/nowhere")) {
            Err(errors) => errors,
            Ok(plan) => {
                let machine = super::Machine { memory: 1 << 30, free_disk: Some(1 << 30) };
                let _ = super::over_limits(&plan, plan.ids(), machine);
                let _ = render(&warnings, &sources, false);
                return Ok(true);
            }
        },
    };
    prop_assert!(!found.is_empty());
    for one in &found {
        for label in &one.labels {
            let (_, text) = sources.get(label.span.source).expect("a text");
            let (start, end) = (label.span.start as usize, label.span.end as usize);
            prop_assert!(start <= end && text.get(start..end).is_some(), "{one:?}");
        }
    }
    prop_assert!(render(&found, &sources, true).contains("error"));
    let _ = to_json(&found, &sources);
    Ok(false)
}

#[test]
fn the_manifest_that_is_mutated_is_valid() {
    assert!(survives(VALID, None).unwrap());
    assert!(survives(VALID, Some("smoke")).unwrap());
}

/// One edit: cut, doubled, replaced by a piece of another place, or by what a hand might type.
fn mutated(edits: Vec<(usize, usize, usize, u8)>) -> String {
    let mut text: Vec<char> = VALID.chars().collect();
    const TYPED: [&str; 16] = [
        "[",
        "]",
        "{",
        "}",
        "=",
        "\"",
        "'''",
        "\n",
        "${params.",
        "-1",
        "1e999",
        "9223372036854775808",
        "nan",
        "\u{0}",
        "[*]",
        "extends = \"m.toml\"\n",
    ];
    for (at, length, from, what) in edits {
        let at = at % (text.len() + 1);
        let end = (at + length % 40).min(text.len());
        let piece: Vec<char> = match what % 4 {
            0 => Vec::new(),
            1 => text[at..end].iter().chain(&text[at..end]).copied().collect(),
            2 => {
                let from = from % (text.len() + 1);
                text[from..(from + length % 40).min(text.len())].to_vec()
            }
            _ => TYPED[from % TYPED.len()].chars().collect(),
        };
        text.splice(at..end, piece);
    }
    text.into_iter().collect()
}

/// What grows with the square of a text's length would take hours here.
#[test]
fn a_megabyte_survives() {
    let times = |count: usize, of: &dyn Fn(usize) -> String| (0..count).map(of).collect::<String>();
    let stage = |i: usize, more: &str| format!("[stages.s{i}]\nkind = \"command\"\nargv = [\"true\"]\n{more}\n");
    let wrong_wires = "inputs = { a = \"nobody\", b = \"s1\" }";
    let texts = [
        (times(12_000, &|i| stage(i, "resources.threads = 1")), true),
        (times(12_000, &|i| stage(i, wrong_wires)), false),
        (times(40_000, &|i| format!("unknown{i} = [1, {{ a = 2 }}]\n")), false),
        (format!("[stages.a]\nkind = \"command\"\nargv = [{}]\n", "\"x\", ".repeat(200_000)), true),
        (format!("[stages.a]\nkind = \"command\"\nargv = [\"{}\"]\n", "${params.x} $".repeat(80_000)), false),
        ("[".repeat(1_000_000), false),
        (format!("a = {}", "{ a = ".repeat(160_000)), false),
        ("\u{e9}\n".repeat(330_000), false),
    ];
    for (text, valid) in texts {
        assert!(text.len() > 600_000, "{}", text.len());
        assert_eq!(survives(&text, None).unwrap(), valid, "{}", &text[..60]);
    }
}

proptest! {
    #[test]
    fn any_text_survives(text in "\\PC{0,200}") {
        survives(&text, None)?;
    }

    #[test]
    fn any_bytes_survive(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut sources = Sources::default();
        match sources.add_bytes("m.toml", &bytes) {
            Ok(_) => drop(survives(&String::from_utf8_lossy(&bytes), None)?),
            Err(error) => drop(render(&[*error], &sources, false)),
        }
    }

    #[test]
    fn a_broken_manifest_survives(edits in prop::collection::vec(any::<(usize, usize, usize, u8)>(), 1..6)) {
        let text = mutated(edits);
        survives(&text, None)?;
        survives(&text, Some("smoke"))?;
    }
}
