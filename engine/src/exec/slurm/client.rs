//! The thread that talks to Slurm: its commands can take ten seconds when the controller is down, and the loop of a run
//! waits for nobody.
//!
//! Questions are rare by construction: the executor asks one at a time, for all its jobs together, and never sooner than
//! [`SHORTEST`] after the one before.

use std::{
    process::{Command, Stdio},
    sync::mpsc::{Receiver, Sender, channel},
    thread::JoinHandle,
    time::Duration,
};

use camino::Utf8PathBuf;

use super::{
    files,
    limits::Limits,
    state::{self, JobLine, Refusal},
};

/// Two questions are never closer.
pub(super) const SHORTEST: Duration = Duration::from_secs(2);

/// What to do.
#[derive(Debug)]
pub(super) enum Request {
    /// Asks for the cluster's own limits: once, before the first submission.
    Limits,
    /// Submits a batch that is written to its folder.
    Submit { batch: String, folder: Utf8PathBuf, arguments: Vec<String> },
    /// Asks for all jobs of these names, wherever they are in their lives.
    Query { names: Vec<String> },
    /// Asks the accounts for jobs that the queue no longer knows.
    Account { names: Vec<String> },
    /// Cancels jobs.
    Cancel { jobs: Vec<String>, at_once: bool },
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Response {
    /// Slurm's defaults, if it did not answer.
    Limits(Limits),
    Submitted {
        batch: String,
        result: Result<String, Refusal>,
    },
    Queried {
        names: Vec<String>,
        result: Result<Vec<JobLine>, String>,
    },
    /// `None`: there are no accounts here, or they do not answer.
    Accounted {
        names: Vec<String>,
        found: Option<Vec<JobLine>>,
    },
}

/// The thread's handle.
pub(super) struct Client {
    requests: Option<Sender<Request>>,
    pub(super) responses: Receiver<Response>,
    thread: Option<JoinHandle<()>>,
}

impl Client {
    pub(super) fn start() -> std::io::Result<Self> {
        let (requests, to_do) = channel::<Request>();
        let (tell, responses) = channel();
        let thread = std::thread::Builder::new().name("slurm".to_owned()).spawn(move || {
            for request in to_do {
                if let Some(response) = perform(request) {
                    // Whoever asked may have left; what was submitted is on the disk.
                    let _ = tell.send(response);
                }
            }
        })?;
        Ok(Self { requests: Some(requests), responses, thread: Some(thread) })
    }

    pub(super) fn send(&self, request: Request) {
        if let Some(requests) = &self.requests {
            let _ = requests.send(request);
        }
    }

    /// Does what is left to do, then ends.
    pub(super) fn finish(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn perform(request: Request) -> Option<Response> {
    match request {
        Request::Limits => {
            let text = call("scontrol", &["show", "config"]).unwrap_or_default();
            Some(Response::Limits(Limits::of(&text)))
        }
        Request::Submit { batch, folder, arguments } => {
            let result = submit(&arguments).inspect(|job| {
                // If this cannot be written, the job is found by its name.
                let _ = files::write_whole(&folder.join(files::JOB), job.as_bytes());
            });
            Some(Response::Submitted { batch, result })
        }
        Request::Query { names } => {
            let result = query(&names);
            Some(Response::Queried { names, result })
        }
        Request::Account { names } => {
            let list = names.join(",");
            let arguments = ["-X", "-n", "-P", "-S", "now-30days", "--name", &list, "-o", "JobName,JobID,State"];
            let found = call("sacct", &arguments).ok().map(|text| state::parse_accounts(&text));
            Some(Response::Accounted { names, found })
        }
        Request::Cancel { jobs, at_once } => {
            cancel(&jobs, at_once);
            None
        }
    }
}

/// All jobs of these names that the queue knows.
pub(super) fn query(names: &[String]) -> Result<Vec<JobLine>, String> {
    let arguments = ["-h", "-r", "-t", "all", "-n", &names.join(","), "-o", state::FORMAT];
    call("squeue", &arguments).map(|text| state::parse(&text))
}

/// Cancels jobs with one call. One that has ended cannot be cancelled, which is as well.
pub(super) fn cancel(jobs: &[String], at_once: bool) {
    let jobs: Vec<&str> = jobs.iter().map(String::as_str).collect();
    if at_once {
        let _ = call("scancel", &[&["--signal=KILL", "--full"], jobs.as_slice()].concat());
    }
    let _ = call("scancel", &jobs);
}

/// The job's number. On a federation it comes with the cluster's name.
fn submit(arguments: &[String]) -> Result<String, Refusal> {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let text = call("sbatch", &arguments).map_err(|text| state::refusal(&text))?;
    let job = text.lines().last().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if !job.is_empty() && job.bytes().all(|byte| byte.is_ascii_digit()) {
        Ok(job.to_owned())
    } else {
        Err(Refusal::Unclear(format!("sbatch answered {text:?}")))
    }
}

/// Runs a command of Slurm's; its error text if it failed.
fn call(program: &str, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if is_of_outer_job(&name) {
            command.env_remove(name.as_ref());
        }
    }
    let output = command.output().map_err(|error| format!("`{program}` cannot be started: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// A run inside a job must not pass that job's own size on to the jobs it submits. Where the cluster is stays.
fn is_of_outer_job(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("SLURM_") else { return false };
    !["CONF", "CLUSTERS", "CLUSTER_NAME", "TIME_FORMAT", "CI_DIR"].contains(&rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outer_job_is_not_passed_on_but_the_cluster_is() {
        assert!(is_of_outer_job("SLURM_JOB_ID") && is_of_outer_job("SLURM_CPUS_PER_TASK"));
        assert!(!is_of_outer_job("SLURM_CONF") && !is_of_outer_job("PATH") && !is_of_outer_job("SBATCH_ACCOUNT"));
    }
}
