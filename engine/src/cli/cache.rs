//! `sepia cache`.

use std::collections::{BTreeMap, BTreeSet};

use sepia_cache::{GcPolicy, Leftover, UsageOf};

use super::{
    args::{self, CacheCommand, Gc, Global},
    exit::{Exit, Failure},
    output, project,
};
use crate::{
    diagnostic::nearest,
    exec::slurm,
    report::figures::{bytes, count},
    wildcard,
};

pub(super) fn cache(global: &Global, args: &args::Cache) -> Result<Exit, Failure> {
    match &args.what {
        CacheCommand::Verify { repair_from } => verify(global, repair_from.as_deref()),
        CacheCommand::Size => size(global),
        CacheCommand::Gc(gc) => collect(global, gc),
    }
}

fn verify(global: &Global, repair_from: Option<&str>) -> Result<Exit, Failure> {
    let store = project::existing_store(global, None)?;
    // Before anything is hashed, which may take a while.
    let remote = repair_from.map(|name| store.open_remote(Some(name))).transpose()?;
    let found = store.verify_all(|_| ())?;
    let mut text = format!("{} sound, {}\n", count(found.sound, "object"), bytes(found.bytes));
    if !found.absent.is_empty() {
        text.push_str(&format!(
            "{} not here (removed, or never fetched)\n",
            count(found.absent.len() as u64, "object")
        ));
    }
    if !found.unreferenced.is_empty() || !found.leftovers.is_empty() {
        let rest: Vec<&Leftover> = found.unreferenced.iter().chain(&found.leftovers).collect();
        let size = rest.iter().map(|leftover| leftover.bytes).sum();
        text.push_str(&format!(
            "{} that nothing needs, {}: `sepia cache gc` removes them\n",
            count(rest.len() as u64, "file"),
            bytes(size)
        ));
    }
    for damaged in &found.damaged {
        let damage = &damaged.damage;
        text.push_str(&format!("damaged: {} {}\n", damage.path, damage.kind));
        // Several runs may have made it.
        let mut nodes: Vec<&str> = damaged.records.iter().map(|(_, node)| node.as_str()).collect();
        nodes.sort_unstable();
        nodes.dedup();
        text.push_str(&format!("  an output of {}; the next run that needs it makes it again\n", nodes.join(", ")));
    }
    if let Some(remote) = remote {
        let repaired = store.repair(&remote, &found)?;
        text.push_str(&format!("{} fetched from {}\n", count(repaired, "object"), remote.config.name));
        output::data(&text);
        let left = (found.damaged.len() + found.absent.len()) as u64 - repaired;
        return Ok(if left == 0 { Exit::Fine } else { Exit::StageFailed });
    }
    output::data(&text);
    Ok(if found.is_sound() { Exit::Fine } else { Exit::StageFailed })
}

fn size(global: &Global) -> Result<Exit, Failure> {
    let store = project::existing_store(global, None)?;
    let usage = store.size()?;
    let parts = [
        ("outputs that are files", usage.files),
        ("outputs that are folders", usage.trees),
        ("records", usage.records),
        ("runs and logs", usage.runs),
        ("attempts", usage.attempts),
        ("checkpoints", usage.checkpoints),
        ("damaged, set aside", usage.damaged),
        ("files from URLs", usage.downloads),
        ("results.db", usage.database),
        ("the rest", usage.other),
    ];
    let row = |(name, part): (&str, UsageOf)| vec![name.to_owned(), part.count.to_string(), bytes(part.bytes)];
    let mut rows: Vec<Vec<String>> = parts.into_iter().filter(|(_, part)| part.count > 0).map(row).collect();
    rows.push(vec!["in all".to_owned(), String::new(), bytes(usage.total())]);
    output::data(&output::table(&["what", "count", "size"], rows));
    Ok(Exit::Fine)
}

/// The time so many days ago, in Unix milliseconds.
fn days_ago(days: u32) -> i64 {
    jiff::Timestamp::now().as_millisecond() - i64::from(days) * 86_400_000
}

/// The runs of these tags, which may hold `*`.
fn tagged(tags: &BTreeMap<String, BTreeSet<String>>, wanted: &[String]) -> Result<BTreeSet<String>, Failure> {
    let mut runs = BTreeSet::new();
    for pattern in wanted {
        let mut found = tags.iter().filter(|(tag, _)| wildcard::fits(pattern, tag, ('*', '?'))).peekable();
        // Nothing is to go because a name was mistyped.
        if found.peek().is_none() {
            let failure =
                Failure::usage("gc::unknown-tag", format!("no run is called `{pattern}`: nothing was removed"));
            return Err(match nearest(pattern, tags.keys().map(String::as_str)) {
                Some(near) => failure.help(format!("did you mean `{near}`?")),
                None => failure.help("`sepia tag` lists the names"),
            });
        }
        runs.extend(found.flat_map(|(_, runs)| runs.iter().cloned()));
    }
    Ok(runs)
}

fn collect(global: &Global, args: &Gc) -> Result<Exit, Failure> {
    let store = project::existing_store(global, None)?;
    let tagged = tagged(&store.tags()?, &args.keep_tag)?;
    let mut policy = GcPolicy {
        keep_last_runs: args.keep_last,
        keep_since: args.keep_days.map(days_ago),
        keep_runs: args.keep_run.iter().cloned().chain(tagged).collect(),
        remove_runs: args.run.clone(),
        max_bytes: args.max_size,
        ..GcPolicy::default()
    };
    // Jobs on a cluster may go on though no run does: what they need stays.
    let jobs = slurm::sweep(&store, &mut policy)?;
    let report = store.gc(&policy, !args.yes)?;
    if args.yes {
        jobs.remove(&store)?;
    }
    let would = if args.yes { "" } else { "would be " };
    let parts = [
        ("outputs", &report.objects),
        ("leftovers", &report.leftovers),
        ("checkpoints", &report.checkpoints),
        ("damaged", &report.damaged),
        ("files from URLs", &report.downloads),
    ];
    let mut text = String::new();
    if !jobs.over.is_empty() || jobs.kept > 0 {
        let size = jobs.over.iter().map(|leftover| leftover.bytes).sum();
        text.push_str(&format!(
            "jobs that are over: {} {would}removed, {}; {} kept for what goes on\n",
            jobs.over.len(),
            bytes(size),
            jobs.kept
        ));
    }
    for (name, part) in parts {
        let size = part.iter().map(|leftover| leftover.bytes).sum();
        text.push_str(&format!("{name}: {} {would}removed, {}\n", part.len(), bytes(size)));
        if global.verbose > 0 {
            part.iter().for_each(|leftover| text.push_str(&format!("  {}\n", leftover.path)));
        }
    }
    text.push_str(&format!(
        "{} kept, {}; {} {would}freed\n",
        count(report.kept, "output"),
        bytes(report.kept_bytes),
        bytes(report.freed())
    ));
    if let Some(max) = args.max_size.filter(|max| report.kept_bytes > *max) {
        text.push_str(&format!("that is still more than {}: what is kept by the rules is not removed\n", bytes(max)));
    }
    if !args.yes {
        text.push_str("this was a dry run: add `--yes` to remove\n");
    }
    output::data(&text);
    Ok(Exit::Fine)
}
