//! Two runs on one store at once.

use crate::support::Project;

#[test]
fn two_runs_at_once_compute_every_key_once() {
    let project = Project::training();
    let runs: Vec<_> = (0..3).map(|_| project.start(&["run", "tiny.toml"])).collect();
    for run in runs {
        let output = run.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(project.executions(), 4);
}

#[test]
fn two_stages_with_one_key_run_once() {
    let project = Project::new();
    let stage = |name: &str| {
        format!(
            "[stages.{name}]\nkind = \"command\"\nargv = [\"sh\", \"-c\", \"echo x > out\"]\noutputs = {{ out = \"out\" }}\n"
        )
    };
    project.write("m.toml", &format!("{}{}", stage("one"), stage("twin")));
    let done = project.run("m.toml");
    assert!(done.err.contains("1 ran, 1 cached"), "{}", done.err);
}
