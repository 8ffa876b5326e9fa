//! From ready stages to `sbatch` lines: stages that ask for the same thing become one array.

use std::{collections::BTreeMap, time::Instant};

use sepia_cache::Digest;

use super::{
    GATHER, REFUSED, Slurm,
    client::Request,
    files::{Folder, Shape},
    options::SlurmOptions,
    order::TaskOrder,
    pointer,
    state::JobLine,
    task::Task,
};
use crate::{
    graph::NodeId,
    plan::{Node, Plan},
};

/// Where a batch stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stand {
    /// `sbatch` runs, or will in a moment.
    Handed,
    /// Nobody knows whether Slurm has it.
    Unclear,
    /// Slurm's number.
    Submitted(String),
    /// An earlier run prepared it, and Slurm does not know it.
    Gone,
    /// Refused.
    Dead,
}

/// One call of `sbatch`.
pub(super) struct Batch {
    pub(super) folder: Folder,
    pub(super) shape: Shape,
    pub(super) job_name: String,
    pub(super) stand: Stand,
    /// For `sbatch`; none if an earlier run submitted it.
    pub(super) arguments: Vec<String>,
    /// What was last heard of each job of the array, and when.
    pub(super) seen: BTreeMap<usize, (JobLine, Instant)>,
    /// The last answer about it.
    pub(super) answered: Option<Instant>,
    /// The jobs that the last answer named.
    pub(super) named: Vec<usize>,
    /// The accounts were asked about it.
    pub(super) accounted: bool,
    pub(super) to_cancel: bool,
    group_of: BTreeMap<usize, usize>,
}

impl Batch {
    pub(super) fn new(folder: Folder, shape: Shape) -> Self {
        let name = folder.path.file_name().unwrap_or_default().to_owned();
        let pairs = shape.groups.iter().enumerate();
        let group_of = pairs.flat_map(|(group, tasks)| tasks.iter().map(move |task| (*task, group))).collect();
        Self {
            folder,
            shape,
            job_name: name,
            stand: Stand::Handed,
            arguments: Vec::new(),
            seen: BTreeMap::new(),
            answered: None,
            named: Vec::new(),
            accounted: false,
            to_cancel: false,
            group_of,
        }
    }

    pub(super) fn group(&self, n: usize) -> usize {
        self.group_of.get(&n).copied().unwrap_or(0)
    }

    /// What people call the job of a task.
    pub(super) fn job_of(&self, n: usize) -> String {
        let job = match &self.stand {
            Stand::Submitted(job) => job.as_str(),
            _ => return format!("job {}", self.job_name),
        };
        if self.shape.groups.len() > 1 { format!("job {job}_{}", self.group(n)) } else { format!("job {job}") }
    }

    /// Takes in an answer about it: whether anything is new.
    pub(super) fn take(&mut self, lines: &[&JobLine], now: Instant, from_accounts: bool) -> bool {
        let mut new = false;
        if !from_accounts {
            self.answered = Some(now);
            self.named = lines.iter().map(|line| line.index).collect();
        }
        for line in lines {
            // A job that was submitted twice by accident has two lines: the one that lives is the one to know of.
            let twice = lines.iter().any(|other| other.index == line.index && other.job != line.job);
            let live = super::state::life(line, own_uid()) == super::state::Life::Alive;
            if twice && !live && lines.iter().any(|other| other.index == line.index && is_alive(other)) {
                continue;
            }
            let before = self.seen.insert(line.index, ((*line).clone(), now));
            new |= before.is_none_or(|(before, _)| before.state != line.state);
        }
        new
    }

    /// Whether Slurm was asked and no longer knows some job of it.
    pub(super) fn vanished(&self) -> bool {
        self.answered.is_some() && (0..self.shape.groups.len()).any(|group| !self.named.contains(&group))
    }
}

fn is_alive(line: &JobLine) -> bool {
    super::state::life(line, own_uid()) == super::state::Life::Alive
}

pub(super) fn own_uid() -> u32 {
    rustix::process::getuid().as_raw()
}

/// What stages must have in common to be jobs of one array: the stage that they are cells of, and what they ask for.
type Kind = (String, Vec<String>, usize, usize);

impl Slurm {
    fn kind_of(&self, task: &Task) -> Kind {
        let decl = &task.attempt.decl;
        let options = decl.slurm.over(&self.options);
        let mut arguments = options.arguments(decl, task.attempt.job.threads, task.attempt.job.device);
        if !task.exclude.is_empty() {
            let nodes: Vec<&str> = task.exclude.iter().map(String::as_str).collect();
            arguments.push(format!("--exclude={}", nodes.join(",")));
        }
        (decl.origin.to_string(), arguments, options.pack(), options.at_once())
    }

    /// Submits what waits, as far as the queue may grow.
    pub(super) fn hand_in(&mut self) -> std::io::Result<()> {
        let waiting: Vec<NodeId> =
            self.tasks.iter().filter(|(_, task)| task.place.is_none()).map(|(node, _)| *node).collect();
        let gathered = waiting.iter().any(|node| self.tasks[node].queued_at.elapsed() >= GATHER);
        if !gathered || self.refused.is_some_and(|when| when.elapsed() < REFUSED) {
            return Ok(());
        }
        if self.limits.is_none() {
            return self.ask_limits();
        }
        let mut kinds: BTreeMap<Kind, Vec<NodeId>> = BTreeMap::new();
        for node in waiting {
            kinds.entry(self.kind_of(&self.tasks[&node])).or_default().push(node);
        }
        let mut room = self.options.max_jobs().saturating_sub(self.jobs_in_queue());
        for ((origin, arguments, pack, at_once), nodes) in kinds {
            let mut groups: Vec<&[NodeId]> = nodes.chunks(pack).collect();
            groups.truncate(room);
            room -= groups.len();
            for groups in groups.chunks(self.array_limit.max(1)) {
                self.submit_batch(&origin, &arguments, groups, at_once)?;
            }
        }
        Ok(())
    }

    fn jobs_in_queue(&self) -> usize {
        let places = self.tasks.values().filter_map(|task| task.place.as_ref());
        let jobs = places.filter_map(|(batch, n)| Some((batch, self.batches.get(batch)?.group(*n))));
        jobs.collect::<std::collections::BTreeSet<_>>().len()
    }

    fn submit_batch(
        &mut self,
        origin: &str,
        arguments: &[String],
        groups: &[&[NodeId]],
        at_once: usize,
    ) -> std::io::Result<()> {
        let nodes: Vec<NodeId> = groups.iter().copied().flatten().copied().collect();
        let mut numbers = 0..nodes.len();
        let shape = Shape {
            store: self.store.root().to_owned(),
            groups: groups.iter().map(|group| numbers.by_ref().take(group.len()).collect()).collect(),
            at_once,
        };
        let orders: Vec<TaskOrder> = nodes.iter().map(|node| TaskOrder::of(&self.tasks[node].attempt)).collect();
        let name = batch_name(&orders);
        let folder = Folder::of(&self.jobs, &name);
        // Slurm fails a job whose log cannot be opened before its first line: the folders are there first.
        folder.write(&shape, &orders, &script(&self.program, &folder))?;
        for (n, node) in nodes.iter().enumerate() {
            let task = self.tasks.get_mut(node);
            let Some(task) = task else { continue };
            if let Some(parent) = task.attempt.log.parent() {
                fs_err::create_dir_all(parent)?;
            }
            pointer::set_pointer(&self.jobs, &task.attempt.key.0, &name, n)?;
            task.place = Some((name.clone(), n));
        }
        let escaped = folder.path.as_str().replace('%', "%%");
        let places = Places { name: &name, folder: &escaped, script: folder.script().as_str().to_owned() };
        let all = sbatch(arguments, origin, groups.len(), &places);
        let mut batch = Batch::new(folder.clone(), shape);
        batch.arguments.clone_from(&all);
        self.batches.insert(name.clone(), batch);
        self.send(Request::Submit { batch: name, folder: folder.path, arguments: all })
    }
}

/// A name that no other batch has, whoever makes it: it is what a lost job is found by.
fn batch_name(orders: &[TaskOrder]) -> String {
    let keys: String = orders.iter().map(|order| order.key.as_str()).collect();
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let moment = format!("{host} {} {:?} {}", std::process::id(), Instant::now(), super::super::record::now_ms());
    format!("sepia-{}", Digest::derive("sepia batch v1", format!("{moment} {keys}").as_bytes()).short())
}

fn script(program: &std::path::Path, folder: &Folder) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
    // `exec`, so that Slurm's signals reach the program itself.
    format!("#!/bin/sh\nexec {} __job {}\n", quoted(&program.to_string_lossy()), quoted(folder.path.as_str()))
}

struct Places<'p> {
    name: &'p str,
    folder: &'p str,
    script: String,
}

/// The arguments of `sbatch` for so many jobs.
fn sbatch(own: &[String], origin: &str, jobs: usize, places: &Places<'_>) -> Vec<String> {
    let array = jobs > 1;
    let output = if array { "job-%A_%a.out" } else { "job-%j.out" };
    let mut all = vec![
        "--parsable".to_owned(),
        format!("--job-name={}", places.name),
        format!("--comment=sepia stage {origin}"),
        format!("--output={}/{output}", places.folder),
        "--open-mode=append".to_owned(),
        // A job that its node lost starts again, and goes on from its checkpoint.
        "--requeue".to_owned(),
        "--export=ALL".to_owned(),
    ];
    if array {
        all.push(format!("--array=0-{}", jobs - 1));
    }
    all.extend(own.iter().cloned());
    all.push(places.script.clone());
    all
}

/// What `sepia plan` shows of one call of `sbatch`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The stages that share it.
    pub nodes: Vec<String>,
    /// The command line.
    pub command: String,
}

/// The `sbatch` lines for some nodes of a plan, if all of them were ready now.
#[must_use]
pub fn lines(plan: &Plan, nodes: &[NodeId], options: &SlurmOptions) -> Vec<Line> {
    let mut kinds: BTreeMap<(String, Vec<String>, usize), Vec<&Node>> = BTreeMap::new();
    let mut order = Vec::new();
    for id in nodes {
        let node = plan.node(*id);
        let own = node.decl.slurm.over(options);
        let kind = (node.decl.origin.to_string(), own.arguments(&node.decl, node.threads(), node.device), own.pack());
        if !kinds.contains_key(&kind) {
            order.push(kind.clone());
        }
        kinds.entry(kind).or_default().push(node);
    }
    let line = |kind: (String, Vec<String>, usize)| {
        let nodes = kinds.get(&kind)?;
        let places = Places { name: "sepia-BATCH", folder: ".sepia/jobs/sepia-BATCH", script: "script.sh".to_owned() };
        let all = sbatch(&kind.1, &kind.0, nodes.len().div_ceil(kind.2), &places);
        let words: Vec<String> = all.iter().map(|word| shell_word(word)).collect();
        let nodes = nodes.iter().map(|node| node.name.clone()).collect();
        Some(Line { nodes, command: format!("sbatch {}", words.join(" ")) })
    };
    order.into_iter().filter_map(line).collect()
}

/// A word as a shell needs it.
fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,%@+".contains(c);
    if word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_jobs_are_one_array_and_logs_have_a_folder() {
        let places = Places { name: "sepia-1", folder: "/s/jobs/sepia-1", script: "/s/jobs/sepia-1/script.sh".into() };
        let many = sbatch(&["--mem=1M".to_owned()], "train", 50, &places).join(" ");
        assert!(many.contains("--array=0-49") && many.contains("job-%A_%a.out"), "{many}");
        assert!(many.contains("--parsable") && many.contains("--open-mode=append"), "{many}");
        let one = sbatch(&[], "train", 1, &places).join(" ");
        assert!(!one.contains("--array") && one.ends_with("/script.sh"), "{one}");
    }

    #[test]
    fn names_with_quotes_survive_the_shell() {
        assert_eq!(shell_word("--constraint=a|b"), "'--constraint=a|b'");
        let folder = Folder { path: "/it's".into() };
        assert!(script(std::path::Path::new("/bin/sepia"), &folder).contains("'/it'\\''s'"));
    }

    #[test]
    fn of_two_jobs_of_one_name_the_living_one_counts() {
        let shape = Shape { store: "s".into(), groups: vec![vec![0]], at_once: 1 };
        let mut batch = Batch::new(Folder { path: "/x/sepia-1".into() }, shape);
        let line = |job: &str, state: &str| JobLine {
            name: "sepia-1".into(),
            job: job.into(),
            index: 0,
            state: state.into(),
            reason: "None".into(),
        };
        let (dead, alive) = (line("1", "COMPLETED"), line("2", "RUNNING"));
        assert!(batch.take(&[&alive, &dead], Instant::now(), false));
        assert_eq!(batch.seen[&0].0.job, "2");
        assert!(!batch.vanished());
        assert!(!batch.take(&[], Instant::now(), false));
        assert!(batch.vanished());
    }
}
