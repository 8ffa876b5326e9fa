//! `sepia export`: everything that a run was made of, for another machine or for the archive.
//!
//! ```text
//! project/          the manifest, what it extends, and the files that its stages read, as they lie here; absolute paths in
//!                   the manifest are relative ones to these
//! resolved.toml     the manifest with everything filled in
//! environment.json  the command, and where and with what each stage ran
//! downloads/        files that were fetched from URLs
//! store/            records, and with `--outputs` their outputs
//! ```
//!
//! What is written is checked before it counts: the copy of the project is read again, and its keys must be those of the
//! run. So what has changed since the run, or lies where it cannot be carried along, is an error here and not a surprise
//! there.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::PermissionsExt as _,
};

use camino::{Utf8Path, Utf8PathBuf};
use sepia_cache::{Digest, Outcome, Outputs, Parcel, Record, RunRow, Store, What};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    args::{self, Chosen, Global},
    carry::{Carried, normal},
    exit::{Exit, Failure},
    output, past, project, trust,
};
use crate::{
    diagnostic::Diagnostic,
    exec::{KeyError, KeyMaker, NodeOutputs},
    fetch,
    key::{self, KeyInputs},
    plan::{Plan, external_files, remotes, select},
    report::figures::{bytes, count},
    stage::{Places, Registry, Written, input_files},
};

/// What an export says about itself.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct About {
    /// The manifest, below `project/`.
    pub(super) manifest: Utf8PathBuf,
    /// What follows the manifest in the command.
    pub(super) arguments: Vec<String>,
    /// The version of Sepia that made it.
    pub(super) sepia: String,
}

/// The folder of the manifest and its files in an export.
pub(super) const PROJECT: &str = "project";
/// The folder of fetched files in an export.
pub(super) const DOWNLOADS: &str = "downloads";

pub(super) fn export(registry: Registry, global: &Global, args: &args::Export) -> Result<Exit, Failure> {
    let store = project::existing_store(global, None)?;
    let row = store.find_run(&args.run)?;
    if store.run_is_alive(&row.run) {
        return Err(Failure::usage("export::alive", format!("run {} is still going on", row.run))
            .help("export it when it has ended"));
    }
    if args.to.symlink_metadata().is_ok() {
        return Err(Failure::usage("export::exists", format!("{} is there already", args.to))
            .help("name a folder or file that is not there: nothing is overwritten"));
    }
    let as_file = [".tar", ".tar.zst"].iter().any(|ending| args.to.as_str().ends_with(ending));
    let beside = if as_file { store.cache_dir() } else { parent(&args.to) };
    fs_err::create_dir_all(&beside)?;
    // Hidden, and gone if this fails. Who may read it is as the user's settings have it for other folders.
    let all = std::fs::Permissions::from_mode(0o777);
    let staging = tempfile::Builder::new().prefix(".export-").permissions(all).tempdir_in(&beside)?;
    let folder = Utf8PathBuf::try_from(staging.path().to_owned()).map_err(|error| error.into_io_error())?;
    let folder = normal(&camino::absolute_utf8(folder)?);
    let written = fill(registry, global, &store, &row, args, &folder)?;
    if as_file {
        written.parcel.pack(&folder, &args.to)?;
    } else {
        fs_err::rename(&folder, &args.to)?;
        // It is where it belongs: nothing is left to remove.
        drop(staging.keep());
    }
    output::data(&format!(
        "exported run {} to {}: {}, {}, {}\n",
        row.run,
        args.to,
        count(written.files, "file"),
        count(written.pushed.records, "record"),
        if args.outputs {
            format!("{}, {}", count(written.pushed.objects, "output"), bytes(written.pushed.bytes))
        } else {
            "no outputs".to_owned()
        }
    ));
    if written.pushed.absent > 0 {
        output::note(&format!("{} not here to be exported", count(written.pushed.absent, "output")));
    }
    Ok(Exit::Fine)
}

struct Filled {
    parcel: Parcel,
    files: u64,
    pushed: sepia_cache::Pushed,
}

fn fill(
    registry: Registry,
    global: &Global,
    store: &Store,
    row: &RunRow,
    args: &args::Export,
    folder: &Utf8Path,
) -> Result<Filled, Failure> {
    let past = past::command(row)?;
    let chosen = &past.run.chosen;
    let manifest = normal(&past.folder.join(&chosen.source.manifest));
    let changes = &chosen.source.changes;
    let here = project::load(registry, &manifest, changes)?;
    let downloads = fetch::folder(store);
    let mut carried = project_files(&here.plan)?;
    for path in here.texts().map(normal) {
        carried.texts.insert(path.clone(), fs_err::read_to_string(&path)?);
        carried.files.insert(path);
    }
    carried.find_root(changes);
    let place = |file: &Utf8Path| folder.join(PROJECT).join(carried.place(file));
    for file in &carried.files {
        match carried.texts.get(file) {
            Some(text) => write(&place(file), &carried.text(file, text))?,
            None => copy(file, &place(file))?,
        }
    }
    for remote in here.plan.nodes.iter().flat_map(|node| remotes(node.params.tree())).collect::<BTreeSet<_>>() {
        let fetched = remote.place(&downloads);
        if fetched.is_file() {
            copy(&fetched, &remote.place(&folder.join(DOWNLOADS)))?;
        }
    }
    let copied = place(&manifest);
    let chosen = &Chosen {
        source: args::Source { changes: carried.changes(&manifest, changes), ..chosen.source.clone() },
        ..chosen.clone()
    };
    let changes = &chosen.source.changes;
    let there = project::load_quietly(registry, &copied, changes)?;
    if let Some(outside) = there.texts().find(|path| !normal(path).starts_with(folder)) {
        return Err(absolute(&format!("the manifest extends the absolute path {outside}")));
    }
    if let Some((path, node, param)) = written_paths(&there.plan).find(|(path, ..)| Utf8Path::new(path).is_absolute()) {
        return Err(absolute(&format!("`{param}` of `{node}` is the absolute path {path}")));
    }
    let records = check_keys(store, row, &there.plan, chosen)?;
    fs_err::write(folder.join("resolved.toml"), project::resolved(registry, &copied, changes)?)?;
    fs_err::write(folder.join("environment.json"), format!("{:#}\n", environment(row, &records)))?;
    trust::sign(store)?;
    let outputs = if args.outputs { Outputs::All } else { Outputs::None };
    let what = What { runs: [row.run.clone()].into(), outputs, ..What::default() };
    let bar = output::Bar::new(global, "exporting");
    let pushed = store.put_into_parcel(folder, &what, &|progress| bar.set_bytes(progress.bytes, progress.of_bytes))?;
    bar.end();
    let about = About {
        manifest: carried.place(&manifest).to_owned(),
        arguments: arguments(chosen),
        sepia: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let about = serde_json::to_value(about).unwrap_or_default();
    Ok(Filled { parcel: Parcel::seal(folder, &row.run, about)?, files: carried.files.len() as u64, pushed })
}

/// The files outside the store that a plan's stages read.
fn project_files(plan: &Plan) -> Result<Carried, Failure> {
    let mut carried = Carried::default();
    let paths: BTreeSet<String> = written_paths(plan).map(|(path, ..)| path).collect();
    for path in paths {
        let is_absolute = Utf8Path::new(&path).is_absolute();
        let places = Places { folder: &plan.folder, downloads: None };
        for file in input_files::resolve(&[Written::Path(path)], places)? {
            let file = normal(&file.path);
            if is_absolute {
                carried.absolute.insert(file.clone());
            }
            carried.files.insert(file);
        }
    }
    Ok(carried)
}

/// The paths that a plan's stages name, each with the stage and the parameter.
fn written_paths(plan: &Plan) -> impl Iterator<Item = (String, &str, String)> {
    plan.nodes.iter().flat_map(|node| {
        external_files(node.params.tree()).into_iter().flat_map(move |file| {
            let param = file.param;
            file.written.into_iter().filter_map(move |one| match one {
                Written::Path(path) => Some((path, node.name.as_str(), param.clone())),
                Written::Url(_) => None,
            })
        })
    })
}

fn absolute(what: &str) -> Failure {
    Failure::usage("export::absolute", format!("{what}, which means nothing on another machine, and it is not written in the manifest so that it could be changed there"))
        .help("write it relative to the manifest: its key stays the same, so run it again and export that run")
}

/// The records of the run's results by node, once it is sure that the plan has the run's keys.
fn check_keys(store: &Store, row: &RunRow, plan: &Plan, chosen: &Chosen) -> Result<Vec<Record>, Failure> {
    let selection = super::run::selection(chosen);
    let flags =
        select(plan, &selection).map_err(|found| Failure { found, ..Failure::usage("export::selection", "") })?;
    let listing = row.plan.map(|listing| store.plan(&listing)).transpose()?.unwrap_or_default();
    let mut expected: BTreeMap<String, Digest> =
        listing.into_iter().filter_map(|node| Some((node.node, node.key?))).collect();
    let of_run: BTreeMap<String, _> =
        store.run_nodes(&row.run)?.into_iter().filter_map(|node| Some((node.node, node.record?))).collect();
    let keys = KeyMaker::new(plan, store.file_digests());
    let mut outputs: Vec<Option<NodeOutputs>> = vec![None; plan.nodes.len()];
    let mut records = Vec::new();
    for id in plan.graph.order() {
        let node = plan.node(*id);
        let open = plan.graph.dependencies(*id).into_iter().any(|needed| outputs[needed.index()].is_none());
        let Some(key) = expected.remove(&node.name).filter(|_| flags[id.index()] && !open) else { continue };
        let inputs = keys.inputs_of(*id, &outputs).map_err(|error| match error {
            KeyError::Store(error) => Failure::from(error),
            other => Failure::of(Exit::Usage, Diagnostic::error("export::unreadable", other.to_string())),
        })?;
        // The run's own record first: of results that differ, its downstream stages saw that one.
        let mut ids: Vec<_> = of_run.get(&node.name).copied().into_iter().collect();
        ids.extend(store.records_by_key(&key)?);
        let mut found = None;
        for id in ids {
            found = store.record(&id)?.filter(|record| record.outcome == Outcome::Done && record.key == key);
            if found.is_some() {
                break;
            }
        }
        if inputs.key().0 != key {
            return Err(changed(row, &node.name, found.as_ref(), &inputs));
        }
        let Some(record) = found else { continue };
        outputs[id.index()] = Some(record.outputs.iter().map(|output| (output.port.clone(), output.object)).collect());
        records.push(record);
    }
    // What is left was not reached because something before it failed, or it is not in the manifest any more.
    match expected.keys().find(|name| plan.find(name).is_none()) {
        Some(gone) => Err(Failure::usage(
            "export::changed",
            format!("the manifest has changed since run {}: it has no stage `{gone}` any more", row.run),
        )
        .help("run it again and export that run, or put the manifest back as it was")),
        None => Ok(records),
    }
}

fn changed(row: &RunRow, node: &str, before: Option<&Record>, now: &KeyInputs) -> Failure {
    let before = before.and_then(|record| serde_json::from_value::<KeyInputs>(record.key_inputs.clone()).ok());
    let fields = before.map(|before| key::diff(&before, now)).unwrap_or_default();
    let fields: Vec<&str> = fields.iter().take(3).map(|change| change.field.as_str()).collect();
    let what = if fields.is_empty() { String::new() } else { format!(" ({})", fields.join(", ")) };
    Failure::usage(
        "export::changed",
        format!("what run {} was made from is no longer here: the key of `{node}` has changed{what}", row.run),
    )
    .help("run it again and export that run, or put the files back as they were")
}

/// The command, and where and with what the stages ran; stages that ran the same way together.
fn environment(row: &RunRow, records: &[Record]) -> serde_json::Value {
    let mut ways: BTreeMap<String, (serde_json::Value, Vec<&str>)> = BTreeMap::new();
    for record in records {
        let mut provenance = record.provenance.clone();
        if let Some(provenance) = provenance.as_object_mut() {
            provenance.remove("log");
        }
        ways.entry(provenance.to_string()).or_insert_with(|| (provenance, Vec::new())).1.push(&record.node);
    }
    let ways = ways.into_values().map(|(provenance, stages)| json!({ "provenance": provenance, "stages": stages }));
    json!({
        "run": row.run, "command": row.command, "started_at": row.started_at, "finished_at": row.finished_at,
        "outcome": row.outcome, "ran": ways.collect::<Vec<_>>(),
    })
}

/// What follows the manifest in the command of a run.
fn arguments(chosen: &Chosen) -> Vec<String> {
    let mut words = chosen.targets.clone();
    let changes = &chosen.source.changes;
    let mut option = |name: &str, values: &mut dyn Iterator<Item = &String>| {
        values.for_each(|value| words.extend([name.to_owned(), value.clone()]));
    };
    option("--profile", &mut changes.profile.iter());
    option("--device", &mut changes.device.iter());
    option("--set", &mut changes.set.iter());
    option("--matrix", &mut changes.matrix.iter());
    for (flag, name) in [(chosen.downstream, "--downstream"), (chosen.only, "--only")] {
        words.extend(flag.then(|| name.to_owned()));
    }
    words
}

fn copy(from: &Utf8Path, to: &Utf8Path) -> std::io::Result<()> {
    fs_err::create_dir_all(parent(to))?;
    fs_err::copy(from, to).map(drop)
}

fn write(to: &Utf8Path, text: &str) -> std::io::Result<()> {
    fs_err::create_dir_all(parent(to))?;
    fs_err::write(to, text)
}

/// The folder that a path is in.
pub(super) fn parent(path: &Utf8Path) -> Utf8PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_str().is_empty() => parent.to_owned(),
        _ => Utf8PathBuf::from("."),
    }
}
