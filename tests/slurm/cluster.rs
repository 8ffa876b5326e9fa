//! A real Slurm cluster on this machine, and what the tests do with it.

use std::{
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::support::{Done, Project, repository, wait_until};

/// A controller and its node daemons, in a folder and on ports of their own.
pub(crate) struct Cluster {
    folder: PathBuf,
}

/// The cluster that all tests share but those that break one.
pub(crate) fn cluster() -> Option<&'static Cluster> {
    static CLUSTER: OnceLock<Option<Cluster>> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::start("shared", 4)).as_ref()
}

impl Cluster {
    /// A cluster that one test may break.
    pub(crate) fn own(name: &str) -> Option<Self> {
        // Only one process installs what is missing.
        cluster()?;
        Self::start(name, 2)
    }

    /// `None`, with a word on standard error that no test runner hides, where Slurm cannot be had.
    fn start(name: &str, nodes: usize) -> Option<Self> {
        let folder = PathBuf::from(format!("/tmp/sepia-slurm-{}-{name}", std::process::id()));
        let services = repository().join("tests/services");
        let up = Command::new(services.join("slurm-up.sh"))
            .args(["--nodes", &nodes.to_string(), "--cpus", "4", "--gpus", "2", "--dir"])
            .arg(&folder)
            .env("MAX_ARRAY_SIZE", ARRAY.to_string())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let err = String::from_utf8_lossy(&up.stderr);
        if up.status.code() == Some(2) {
            let _ = writeln!(std::io::stderr(), "\nthe tests of Slurm are SKIPPED: {}", err.trim());
            return None;
        }
        assert!(up.status.success(), "Slurm is installed and does not start:\n{err}");
        // It goes with this process, however that ends.
        let watch = format!(
            "(while kill -0 {} 2>/dev/null; do sleep 1; done; '{}' --dir '{}') &",
            std::process::id(),
            services.join("slurm-down.sh").display(),
            folder.display()
        );
        let mut watcher = Command::new("sh");
        // A group of its own: Ctrl-C ends the tests, and not the one that cleans up after them.
        watcher.process_group(0);
        watcher.args(["-c", &watch]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        Some(Self { folder })
    }

    fn configuration(&self) -> PathBuf {
        self.folder.join("slurm.conf")
    }

    /// What a command of Slurm's prints.
    pub(crate) fn slurm(&self, words: &[&str]) -> String {
        let output = Command::new(words[0]).args(&words[1..]).env("SLURM_CONF", self.configuration()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn pid(&self, daemon: &str) -> Pid {
        let text = std::fs::read_to_string(self.folder.join("run").join(format!("{daemon}.pid"))).unwrap();
        Pid::from_raw(text.trim().parse().unwrap()).unwrap()
    }

    /// Ends a daemon: `slurmctld`, `slurmd.n1`.
    pub(crate) fn end_daemon(&self, daemon: &str, signal: Signal) {
        let pid = self.pid(daemon);
        kill_process(pid, signal).unwrap();
        wait_until(|| test_kill_process(pid).is_err());
    }

    pub(crate) fn command(&self, project: &Project, words: &[&str]) -> Command {
        let mut command = project.command(words);
        command.env("SLURM_CONF", self.configuration()).env("XDG_CONFIG_HOME", project.path("config"));
        command
    }

    pub(crate) fn sepia(&self, project: &Project, words: &[&str]) -> Done {
        Done::from(self.command(project, words).output().unwrap())
    }

    pub(crate) fn run(&self, project: &Project, more: &[&str]) -> Done {
        self.sepia(project, &[RUN, more].concat())
    }

    /// Runs `m.toml`, and expects it to end well.
    pub(crate) fn run_well(&self, project: &Project) {
        let done = self.run(project, &[]);
        assert_eq!(done.code, 0, "{}", done.err);
    }

    pub(crate) fn start_run(&self, project: &Project, more: &[&str]) -> Child {
        started(&mut self.command(project, &[RUN, more].concat()))
    }

    /// The jobs of a project that Slurm knows of, each element of an array by itself, in any state:
    /// `id|state|folder|name|restarts|node`.
    pub(crate) fn jobs(&self, project: &Project) -> Vec<String> {
        let all = self.slurm(&["squeue", "-h", "-r", "-t", "all", "-o", "%A|%T|%Z|%j|%r|%N"]);
        let folder = project.path("").canonicalize().unwrap();
        let folder = format!("|{}|", folder.to_string_lossy().trim_end_matches('/'));
        all.lines().filter(|line| line.contains(&folder)).map(str::to_owned).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let down = repository().join("tests/services/slurm-down.sh");
        let _ = Command::new(down).arg("--dir").arg(&self.folder).output();
    }
}

/// The largest array that the clusters here take.
pub(crate) const ARRAY: usize = 51;

const RUN: &[&str] = &["run", "m.toml", "--executor", "slurm", "-v"];

pub(crate) fn started(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

pub(crate) fn interrupt(run: &Child) {
    kill_process(Pid::from_raw(i32::try_from(run.id()).unwrap()).unwrap(), Signal::INT).unwrap();
}

/// The tests of a busy cluster wait for each other: the machine is small.
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until `what` holds while a run goes on; a run that ends before has failed the test.
pub(crate) fn wait_during(run: &mut Child, mut what: impl FnMut() -> bool) {
    let mut held = false;
    wait_until(|| {
        held = what();
        held || run.try_wait().unwrap().is_some()
    });
    if !held && !what() {
        let mut err = String::new();
        std::io::Read::read_to_string(run.stderr.as_mut().unwrap(), &mut err).unwrap();
        panic!("the run ended before: {err}");
    }
}

pub(crate) fn text(output: Output) -> (i32, String) {
    let done = Done::from(output);
    (done.code, done.err)
}

/// A stage that writes `text` and, while it runs, waits for the file `gate`; it says that it began in `began`.
pub(crate) fn gated(project: &Project, name: &str, more: &str) -> String {
    let (began, gate) = (project.path(&format!("{name}.began")), project.path(&format!("{name}.gate")));
    format!(
        "[stages.{name}]\nkind = \"command\"\nargv = [\"sh\", \"-c\", \"echo $$ >> {}; echo hello from {name}; \
         while [ ! -e {} ] && [ -e {} ]; do sleep 0.05; done; echo {name} > out\"]\noutputs = {{ out = \"out\" }}\n{more}\n",
        began.display(),
        gate.display(),
        // A copy that outlives its test ends when the project's folder has gone.
        project.path("").display()
    )
}

/// How often a gated stage began.
pub(crate) fn began(project: &Project, name: &str) -> usize {
    std::fs::read_to_string(project.path(&format!("{name}.began"))).map_or(0, |text| text.lines().count())
}

pub(crate) fn open_gate(project: &Project, name: &str) {
    project.write(&format!("{name}.gate"), "");
}

/// A stage `cell` swept over 1 to `cells`, and their sum.
pub(crate) fn sweep(cells: usize) -> String {
    let values: Vec<String> = (1..=cells).map(|n| n.to_string()).collect();
    format!(
        r#"[stages.cell]
kind = "command"
argv = ["sh", "-c", "echo ${{params.n}} > out"]
outputs = {{ out = "out" }}
params = {{ n = 0 }}
matrix = {{ "params.n" = [{}] }}

[stages.sum]
kind = "command"
inputs = {{ all = "cell[*]" }}
argv = ["sh", "-c", "cat ${{inputs.all}} | sort -n > out"]
outputs = {{ out = "out" }}
"#,
        values.join(", ")
    )
}

/// Commands of Slurm's that note when they are called, before they do what they do.
pub(crate) struct Watched {
    bin: PathBuf,
    calls: PathBuf,
}

impl Watched {
    pub(crate) fn new(project: &Project) -> Self {
        let watched = Self { bin: project.path("bin"), calls: project.path("calls") };
        std::fs::create_dir(&watched.bin).unwrap();
        for name in ["sbatch", "squeue", "sacct", "scontrol", "scancel"] {
            watched.script(name, "exec \"$real\" \"$@\"");
        }
        watched
    }

    /// What a command does instead; `$real` is the real one.
    pub(crate) fn script(&self, name: &str, does: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let real = real(name);
        let text = format!(
            "#!/bin/sh\nreal={}\necho \"$(date +%s%N) {name} $*\" >> {}\n{does}\n",
            real.display(),
            self.calls.display()
        );
        let path = self.bin.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Makes a command find these first.
    pub(crate) fn before<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{path}", self.bin.display()))
    }

    /// When these commands were called, in nanoseconds.
    pub(crate) fn calls(&self, names: &[&str]) -> Vec<u128> {
        let text = std::fs::read_to_string(&self.calls).unwrap_or_default();
        let calls = text.lines().filter_map(|line| {
            let mut words = line.split(' ');
            let (time, name) = (words.next()?, words.next()?);
            names.contains(&name).then(|| time.parse().unwrap())
        });
        calls.collect()
    }

    /// The arrays that were submitted, as Slurm was told them.
    pub(crate) fn arrays(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.calls).unwrap_or_default();
        let arrays = text.lines().filter_map(|line| line.split_once(" --array=")?.1.split(' ').next());
        arrays.map(str::to_owned).collect()
    }

    /// All questions that were asked of Slurm.
    pub(crate) fn questions(&self) -> Vec<u128> {
        self.calls(&["squeue", "sacct", "scontrol"])
    }

    pub(crate) fn forget(&self) {
        let _ = std::fs::remove_file(&self.calls);
    }
}

fn real(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| Path::is_file(file)).unwrap()
}
