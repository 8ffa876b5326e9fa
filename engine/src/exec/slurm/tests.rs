//! The executor against a cluster whose answers are written down: what it believes, and when.

use super::{batch::Stand, client::Response, files::Folder, order::EndRecord, state::refusal, test_support::*};

const RUNNING: &str = "NAME|12|12|N/A|RUNNING|None\n";
const COMPLETED: &str = "NAME|12|12|N/A|COMPLETED|None\n";

fn folder(harness: &Harness) -> Folder {
    Folder::of(&harness.slurm.jobs, &harness.batch())
}

/// A job claims its task and begins.
fn begin(harness: &Harness) {
    folder(harness).claim(0, "12").unwrap();
    folder(harness).begin(0, 0, "n1").unwrap();
}

#[test]
fn that_a_result_is_missing_is_not_believed_at_once() {
    let mut cluster = Harness::submitted();
    begin(&cluster);
    cluster.squeue(COMPLETED);
    cluster.decide();
    assert_eq!(cluster.end(), None, "the first look may be at an old listing");
    cluster.squeue(COMPLETED);
    cluster.decide();
    assert_eq!(cluster.end(), None, "Slurm has said it twice, and the file system has had no time yet");
    // Now it shows.
    folder(&cluster).end(0, 0, &finished()).unwrap();
    cluster.decide();
    assert_eq!(cluster.end().as_deref(), Some("done"));
}

#[test]
fn time_alone_proves_nothing_slurm_must_say_twice_that_a_job_is_over() {
    let mut cluster = Harness::submitted();
    begin(&cluster);
    cluster.squeue("NAME|12|12|N/A|NODE_FAIL|None\n");
    cluster.decide();
    cluster.let_grace_pass();
    // It was queued again in between.
    cluster.squeue("NAME|12|12|N/A|PENDING|BeginTime\n");
    cluster.decide();
    assert!(cluster.end().is_none() && !cluster.waits_to_be_submitted());
    cluster.squeue(COMPLETED);
    cluster.decide();
    cluster.let_grace_pass();
    cluster.decide();
    assert!(cluster.end().is_none() && !cluster.waits_to_be_submitted());
    cluster.squeue(COMPLETED);
    cluster.decide();
    assert!(cluster.waits_to_be_submitted());
}

#[test]
fn a_job_that_was_killed_without_a_word_is_submitted_again_and_one_that_says_why_is_not() {
    let mut cluster = Harness::submitted();
    begin(&cluster);
    until_certain(&mut cluster, "NAME|12|12|N/A|FAILED|NonZeroExitCode\n");
    assert!(cluster.waits_to_be_submitted(), "{:?}", cluster.end());
    let mut cluster = Harness::submitted();
    begin(&cluster);
    std::fs::write(folder(&cluster).path.join("job-12.out"), "sepia: the job cannot work: no room\n").unwrap();
    until_certain(&mut cluster, "NAME|12|12|N/A|FAILED|NonZeroExitCode\n");
    assert!(cluster.end().unwrap().contains("ended without a result"));
}

#[test]
fn a_result_counts_though_slurm_says_nothing_or_something_else() {
    let mut cluster = Harness::submitted();
    begin(&cluster);
    folder(&cluster).end(0, 0, &finished()).unwrap();
    cluster.squeue("NAME|12|12|N/A|NODE_FAIL|None\n");
    cluster.decide();
    assert_eq!(cluster.end().as_deref(), Some("done"));
    let mut cluster = Harness::submitted();
    begin(&cluster);
    folder(&cluster).end(0, 0, &EndRecord { ending: failed_end(), ..finished() }).unwrap();
    cluster.decide();
    assert_eq!(cluster.end().as_deref(), Some("exited with code 7"));
}

/// Until the job is certain to be over in the given way.
fn until_certain(cluster: &mut Harness, answer: &str) {
    for _ in 0..3 {
        if cluster.waits_to_be_submitted() || cluster.end().is_some() {
            return;
        }
        cluster.squeue(answer);
        cluster.decide();
        cluster.let_grace_pass();
    }
}

#[test]
fn what_the_cluster_lost_is_submitted_again_a_few_times_outside_the_authors_retries() {
    let mut cluster = Harness::submitted();
    for loss in 1..=3 {
        begin(&cluster);
        until_certain(&mut cluster, "NAME|12|12|N/A|PREEMPTED|None\n");
        assert!(cluster.waits_to_be_submitted(), "loss {loss}");
        assert_eq!(cluster.warnings().len(), loss);
        cluster.hand_in();
        let arguments = &cluster.slurm.batches[&cluster.batch()].arguments;
        assert!(arguments.contains(&"--exclude=n1".to_owned()), "{arguments:?}");
        cluster.slurm.hear(Response::Submitted { batch: cluster.batch(), result: Ok("12".into()) }).unwrap();
    }
    begin(&cluster);
    until_certain(&mut cluster, "NAME|12|12|N/A|NODE_FAIL|None\n");
    assert!(cluster.end().unwrap().contains("again and again"));
}

#[test]
fn a_job_that_fails_before_its_first_line_says_what_nodes_must_see() {
    let mut cluster = Harness::submitted();
    for _ in 0..3 {
        until_certain(&mut cluster, "NAME|12|12|N/A|FAILED|JobLaunchFailure\n");
        assert!(cluster.waits_to_be_submitted());
        cluster.hand_in();
        cluster.slurm.hear(Response::Submitted { batch: cluster.batch(), result: Ok("12".into()) }).unwrap();
    }
    until_certain(&mut cluster, "NAME|12|12|N/A|FAILED|JobLaunchFailure\n");
    assert!(cluster.end().unwrap().contains("failed on its node before Sepia could begin"));
}

#[test]
fn a_job_that_vanishes_is_looked_up_in_the_accounts_once_and_no_answer_there_is_no_success() {
    let mut cluster = Harness::submitted();
    begin(&cluster);
    cluster.squeue(RUNNING);
    cluster.squeue("");
    cluster.decide();
    cluster.let_grace_pass();
    cluster.squeue("");
    cluster.decide();
    assert!(cluster.end().is_none() && !cluster.waits_to_be_submitted(), "the accounts have not been asked");
    // What sacct prints of an id that it does not know: nothing, and its exit code is 0.
    cluster.sacct(Some(""));
    cluster.decide();
    assert!(cluster.waits_to_be_submitted(), "unknown: neither a success nor the stage's fault");
}

#[test]
fn without_accounts_the_queue_and_the_files_are_enough() {
    let mut cluster = Harness::submitted();
    begin(&cluster);
    cluster.squeue("");
    cluster.sacct(None);
    cluster.decide();
    cluster.let_grace_pass();
    cluster.squeue("");
    cluster.decide();
    assert!(cluster.slurm.no_accounts && cluster.waits_to_be_submitted());
}

#[test]
fn accounts_tell_how_a_job_ended_that_the_queue_has_forgotten() {
    for (state, words) in [
        ("TIMEOUT", "reached its time limit"),
        ("OUT_OF_MEMORY", "ran out of memory"),
        ("CANCELLED by 1000", "was cancelled from outside"),
    ] {
        let mut cluster = Harness::submitted();
        begin(&cluster);
        cluster.squeue("");
        cluster.sacct(Some(&format!("NAME|12|{state}\n")));
        cluster.decide();
        cluster.let_grace_pass();
        cluster.squeue("");
        cluster.decide();
        assert!(cluster.end().unwrap_or_default().contains(words), "{state}: {:?}", cluster.end());
    }
}

#[test]
fn an_element_that_was_cancelled_while_it_waited_leaves_no_trace_and_its_absence_means_that() {
    let mut cluster = Harness::submitted();
    cluster.sacct(None);
    until_certain(&mut cluster, "");
    assert!(cluster.end().unwrap().contains("cancelled from outside"));
}

#[test]
fn a_submission_whose_answer_is_lost_is_looked_for_before_it_is_made_again() {
    let timed_out =
        || Err(refusal("sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"));
    let mut cluster = Harness::submitted();
    let name = cluster.batch();
    cluster.slurm.hear(Response::Submitted { batch: name.clone(), result: timed_out() }).unwrap();
    assert_eq!(cluster.stand(), Stand::Unclear);
    cluster.squeue("NAME|77|77|N/A|PENDING|Priority\n");
    assert_eq!(cluster.stand(), Stand::Submitted("77".into()));
    assert_eq!(folder(&cluster).job().as_deref(), Some("77"), "the next run knows it, too");
    cluster.slurm.hear(Response::Submitted { batch: name, result: timed_out() }).unwrap();
    cluster.squeue("");
    assert_eq!(cluster.stand(), Stand::Handed, "Slurm does not have it: it is submitted again");
}

#[test]
fn access_that_never_worked_is_an_error_and_access_that_is_lost_comes_back() {
    let no_munge = || Err(refusal("sbatch: error: Munge encode failed: Failed to access \"/run/munge.sock\""));
    let mut cluster = Harness::submitted();
    cluster.slurm.hear(Response::Submitted { batch: cluster.batch(), result: no_munge() }).unwrap();
    assert!(cluster.waits_to_be_submitted() && cluster.warnings()[0].contains("munge.sock"));
    let mut cluster = Harness::submitted();
    cluster.slurm.accepted = false;
    cluster.slurm.hear(Response::Submitted { batch: cluster.batch(), result: no_munge() }).unwrap();
    assert!(cluster.end().unwrap().contains("munge.sock"));
}
