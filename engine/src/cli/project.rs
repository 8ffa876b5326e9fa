//! Finding and loading what a command is about: the manifest, the plan, the store.

use std::{cell::RefCell, sync::Arc};

use camino::{Utf8Path, Utf8PathBuf};
use sepia_cache::{Digest, OpenMode, Store, StoreError};

use super::{
    args::{Changes, Chosen, Global},
    exit::{Exit, Failure},
    output, trust,
};
use crate::{
    diagnostic::{Diagnostic, Sources, nearest},
    exec::{Basis, Lookup, Standing},
    manifest::{Load, Loader, Manifest, PathParams},
    plan::{Plan, path_params},
    stage::Registry,
};

/// A manifest, read and resolved.
pub(super) struct Project {
    pub(super) plan: Plan,
    pub(super) sources: Sources,
    pub(super) manifest_digest: Digest,
    /// The manifest and what it extends, with their digests.
    texts: Vec<(Utf8PathBuf, Digest)>,
}

impl Project {
    /// The manifest and what it extends, as they were named.
    pub(super) fn texts(&self) -> impl Iterator<Item = &Utf8Path> {
        self.texts.iter().map(|(path, _)| path.as_path())
    }
}

/// Reads and resolves a manifest. Warnings are printed; errors are returned, all at once.
pub(super) fn load(registry: Registry, path: &Utf8Path, changes: &Changes) -> Result<Project, Failure> {
    let project = load_quietly(registry, path, changes)?;
    output::warnings(&project.plan.warnings, &project.sources);
    Ok(project)
}

/// [`load`] without the warnings.
pub(super) fn load_quietly(registry: Registry, path: &Utf8Path, changes: &Changes) -> Result<Project, Failure> {
    let text = read(path)?;
    // Absolute, because programs run elsewhere.
    let folder = absolute(folder_of(path))?;
    let manifest_digest = Digest::of_bytes(text.as_bytes());
    let texts = RefCell::new(vec![(path.to_owned(), manifest_digest)]);
    let loader = |path: &str| {
        let text = load_text(path)?;
        texts.borrow_mut().push((Utf8PathBuf::from(path), Digest::of_bytes(text.as_bytes())));
        Ok(text)
    };
    let mut sources = Sources::default();
    let set = changes.sets();
    let (kinds, paths) = (kinds(registry), |kind: &str| path_params(registry, kind));
    let options = options(changes, &set, &loader, (&kinds, &paths));
    let resolved = Manifest::load(&mut sources, path.as_str(), &text, &options).and_then(|(manifest, warnings)| {
        let mut plan = Plan::resolve(manifest, registry, &folder)?;
        plan.warnings.splice(0..0, warnings);
        Ok(plan)
    });
    match resolved {
        Ok(plan) => Ok(Project { plan, sources, manifest_digest, texts: texts.into_inner() }),
        Err(found) => Err(Failure { exit: Exit::Usage, found, sources }),
    }
}

/// A manifest as one text that stands alone: what it extends and what the command line changes filled in.
pub(super) fn resolved(registry: Registry, path: &Utf8Path, changes: &Changes) -> Result<String, Failure> {
    let text = read(path)?;
    let mut sources = Sources::default();
    let set = changes.sets();
    let (kinds, paths) = (kinds(registry), |kind: &str| path_params(registry, kind));
    let options = options(changes, &set, &load_text, (&kinds, &paths));
    Manifest::resolved(&mut sources, path.as_str(), &text, &options).map_err(|found| Failure {
        exit: Exit::Usage,
        found,
        sources,
    })
}

fn kinds(registry: Registry) -> Vec<&'static str> {
    registry.iter().map(|entry| entry.kind).collect()
}

fn options<'a>(
    changes: &'a Changes,
    set: &'a [String],
    loader: Loader<'a>,
    (kinds, paths): (&'a [&'a str], PathParams<'a>),
) -> Load<'a> {
    let profile = changes.profile.as_deref();
    Load { profile, set, matrix: &changes.matrix, loader: Some(loader), kinds, paths: Some(paths) }
}

fn load_text(path: &str) -> Result<String, String> {
    fs_err::read_to_string(path).map_err(|error| error.to_string())
}

/// What tells the next run of the same words that nothing has changed; `None` where something is to run in any case, or
/// what a target needs may not run.
pub(super) fn basis(global: &Global, chosen: &Chosen, project: &Project) -> Option<Basis> {
    let asked = asked(global, chosen)?;
    Some(Basis::new(asked, project.plan.folder.clone(), project.texts.clone()))
}

/// What the last run of the same words left, if nothing has changed as far as texts go.
pub(super) fn standing(global: &Global, chosen: &Chosen) -> Result<Option<Standing>, Failure> {
    let Some(asked) = asked(global, chosen) else { return Ok(None) };
    let manifest = &chosen.source.manifest;
    let cache = absolute(&store_path(global, Some(manifest))?)?.join("cache");
    Ok(Standing::read(&cache, &asked, &absolute(folder_of(manifest))?))
}

/// Every word of the command line that can shape a plan, and some that cannot.
fn asked(global: &Global, chosen: &Chosen) -> Option<String> {
    // None of these shapes a plan. Whoever adds one that does is reminded here.
    let Global { store: _, verbose: _, quiet: _ } = global;
    (chosen.force.is_empty() && !chosen.only).then(|| format!("{chosen:?}"))
}

fn read(path: &Utf8Path) -> Result<String, Failure> {
    let bytes = fs_err::read(path).map_err(|error| unreadable(path, &error))?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Failure::usage("manifest::not-utf-8", format!("{path} is not UTF-8 text: byte {at}"))
    })
}

fn unreadable(path: &Utf8Path, error: &std::io::Error) -> Failure {
    if error.kind() != std::io::ErrorKind::NotFound {
        return Failure::usage("manifest::unreadable", error.to_string());
    }
    let failure = Failure::usage("manifest::not-found", format!("there is no manifest {path}"));
    let Ok(entries) = absolute(folder_of(path)).and_then(|folder| folder.read_dir_utf8()) else { return failure };
    let names: Vec<String> = entries
        .filter_map(|entry| Some(entry.ok()?.file_name().to_owned()))
        .filter(|name| name.ends_with(".toml"))
        .collect();
    match nearest(path.file_name().unwrap_or_default(), names.iter().map(String::as_str)) {
        Some(near) => failure.help(format!("did you mean `{}`?", folder_of(path).join(near))),
        None => failure,
    }
}

fn absolute(folder: &Utf8Path) -> std::io::Result<Utf8PathBuf> {
    camino::absolute_utf8(if folder.as_str().is_empty() { Utf8Path::new(".") } else { folder })
}

fn folder_of(path: &Utf8Path) -> &Utf8Path {
    path.parent().unwrap_or(Utf8Path::new(""))
}

/// Where the store is. `beside` is the manifest, where there is one.
pub(super) fn store_path(global: &Global, beside: Option<&Utf8Path>) -> Result<Utf8PathBuf, Failure> {
    if let Some(path) = &global.store {
        return Ok(path.clone());
    }
    if let Some(path) = std::env::var("SEPIA_STORE").ok().filter(|path| !path.is_empty()) {
        return Ok(Utf8PathBuf::from(path));
    }
    let start = beside.map_or(Utf8Path::new(""), folder_of);
    let start = absolute(start)?;
    let nearest = start.ancestors().map(|folder| folder.join(".sepia")).find(|store| store.is_dir());
    Ok(nearest.unwrap_or_else(|| start.join(".sepia")))
}

/// Opens the store for a command that runs stages.
pub(super) fn open_store(global: &Global, manifest: &Utf8Path, trust_all: bool) -> Result<Arc<Store>, Failure> {
    // Absolute, because children run elsewhere.
    let path = camino::absolute_utf8(store_path(global, Some(manifest))?)?;
    let store = Store::open(&path, OpenMode::Create)?;
    let mut trust = trust::of_store(&path)?;
    trust.everything |= trust_all;
    store.set_trust(trust);
    Ok(Arc::new(store))
}

/// Opens the store for a command that brings results from elsewhere; makes one if there is none.
pub(super) fn make_store(global: &Global) -> Result<Arc<Store>, Failure> {
    match existing_store(global, None) {
        Err(failure) if failure.found.iter().all(|found| found.code == "store::not-found") => {
            let path = camino::absolute_utf8(store_path(global, None)?)?;
            Ok(Arc::new(Store::open(&path, OpenMode::Create)?))
        }
        other => other,
    }
}

/// Starts to read the store of a manifest, if there is one already.
pub(super) fn look_ahead(
    global: &Global,
    manifest: &Utf8Path,
    trust_all: bool,
) -> Result<std::thread::JoinHandle<Result<Option<Lookup>, StoreError>>, Failure> {
    let path = absolute(&store_path(global, Some(manifest))?)?;
    let mut trust = trust::of_store(&path)?;
    trust.everything |= trust_all;
    Ok(std::thread::spawn(move || {
        if !path.join("format").is_file() {
            return Ok(None);
        }
        let store = Store::open(&path, OpenMode::Create)?;
        store.set_trust(trust);
        Lookup::open(&Arc::new(store)).map(Some)
    }))
}

/// Opens a store that must exist, for looking. Without a manifest, the store of a folder just below will do, if there is
/// but one: it stands beside the manifests, and one looks at results from the project's root.
pub(super) fn existing_store(global: &Global, beside: Option<&Utf8Path>) -> Result<Arc<Store>, Failure> {
    let mut path = store_path(global, beside)?;
    if !path.is_dir() {
        let below = if beside.is_none() && global.store.is_none() { stores_below()? } else { Vec::new() };
        let missing = Diagnostic::error("store::not-found", format!("there is no store at {path}"));
        path = match below.as_slice() {
            [one] => one.clone(),
            [] => {
                let help = "`sepia run MANIFEST` makes one; name another with `--store DIR`";
                return Err(Failure::of(Exit::Store, missing.help(help)));
            }
            several => {
                let several: Vec<String> = several.iter().map(|store| format!("--store {store}")).collect();
                return Err(Failure::of(Exit::Store, missing.help(format!("say which: {}", several.join(", ")))));
            }
        };
    }
    // A store on a medium that cannot be written can still be looked at.
    let opened = Store::open(&path, OpenMode::Existing);
    let store = opened.or_else(|error| Store::open(&path, OpenMode::ReadOnly).map_err(|_| error))?;
    store.set_trust(trust::of_store(&path)?);
    Ok(Arc::new(store))
}

/// The stores in the folders of this folder, sorted.
fn stores_below() -> std::io::Result<Vec<Utf8PathBuf>> {
    let mut found = Vec::new();
    for entry in Utf8Path::new(".").read_dir_utf8()? {
        let store = Utf8Path::new(entry?.file_name()).join(".sepia");
        if store.join("format").is_file() {
            found.push(store);
        }
    }
    found.sort();
    Ok(found)
}
