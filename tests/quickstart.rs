//! The pipeline of the README, small.

use crate::support::Project;

#[test]
fn a_model_is_trained_evaluated_and_analysed_and_the_second_run_runs_nothing() {
    let project = Project::training();
    let first = project.run("tiny.toml");
    assert!(first.err.contains("4 ran, 0 cached"), "{}", first.err);
    let results = project.json(&["results", "evaluate", "--format", "json"]);
    let figures = &results[0]["results"];
    assert!(figures["perplexity"].as_f64().unwrap() > 1.0);
    assert!(figures["unigram_perplexity"].as_f64().unwrap() > 1.0);

    let second = project.run("tiny.toml");
    assert!(second.err.contains("0 ran, 4 cached"), "{}", second.err);
    // No child process: a run that starts one says so in its events.
    let run = project.json(&["runs", "--format", "json"])[0]["run"].as_str().unwrap().to_owned();
    let events = std::fs::read_to_string(project.path(".sepia/runs").join(run).join("events.jsonl")).unwrap();
    assert!(!events.contains("\"started\""), "{events}");
}

#[test]
fn what_a_run_printed_can_be_printed_again() {
    let project = Project::training();
    let live = project.run("tiny.toml").err;
    let replayed = project.sepia(&["show", "--replay"]).out;
    // Progress is shown live and not recorded: its lines alone may differ.
    let without_progress = |text: &str| {
        let lines = text.lines().filter(|line| !line.contains(" step "));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(without_progress(&live), without_progress(&replayed));
}

#[test]
fn cold_runs_are_byte_identical_whatever_the_number_of_jobs() {
    let outputs = ["1", "4"].map(|jobs| {
        let project = Project::training();
        let done = project.sepia(&["run", "tiny.toml", "-j", jobs]);
        assert_eq!(done.code, 0, "{}", done.err);
        project.outputs()
    });
    assert_eq!(outputs[0], outputs[1]);
}
