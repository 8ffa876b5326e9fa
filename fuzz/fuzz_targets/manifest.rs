//! Any bytes give a plan or diagnostics whose places lie in the text, never a panic, and a text that `fmt` accepts is
//! formatted for good. The engine's property tests do the same on fewer inputs.
#![no_main]

use camino::Utf8Path;
use libfuzzer_sys::fuzz_target;
use sepia_engine::{
    diagnostic::{Sources, render, to_json},
    manifest::{Load, Manifest, format},
    plan::{Plan, path_params},
    stage::{Command, Registry, StageEntry},
};

static ENTRIES: &[StageEntry] = &[Command::entry()];

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let registry = Registry::new(ENTRIES);
    let mut sources = Sources::default();
    let paths = |kind: &str| path_params(registry, kind);
    let load = Load { paths: Some(&paths), ..Load::default() };
    let found = match Manifest::load(&mut sources, "m.toml", text, &load) {
        Err(errors) => errors,
        Ok((manifest, warnings)) => match Plan::resolve(manifest, registry, Utf8Path::new("/nowhere")) {
            Err(errors) => errors,
            Ok(_) => warnings,
        },
    };
    for label in found.iter().flat_map(|one| &one.labels) {
        let (_, text) = sources.get(label.span.source).expect("a text");
        assert!(text.get(label.span.start as usize..label.span.end as usize).is_some(), "{label:?}");
    }
    let _ = render(&found, &sources, true);
    let _ = to_json(&found, &sources);
    if let Ok(once) = format(&mut sources, "m.toml", text) {
        let twice = format(&mut sources, "m.toml", &once);
        assert!(twice.is_ok_and(|twice| twice == once), "formatting is not stable");
    }
});
