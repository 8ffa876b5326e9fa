//! Slurm, on a real cluster on this machine: a controller and node daemons that `tests/services/slurm-up.sh` starts in a
//! second, on ports of their own, as root. Where Slurm cannot be had the tests say so and check nothing. States are waited
//! for, never times.
//!
//! What proves what. `slurm::` are tests here; the others are beside the code in `engine/src/exec/slurm/`.
//!
//! | a Slurm executor must | proved by |
//! |---|---|
//! | take its own records for the truth | `tests::a_result_counts_though_slurm_says_nothing_or_something_else` |
//! | never trust a listing once | `tests::that_a_result_is_missing_is_not_believed_at_once`, `tests::time_alone_proves_nothing_slurm_must_say_twice_that_a_job_is_over` |
//! | submit idempotently, by job name | `losses::a_submission_that_slurm_took_without_saying_so_is_found_and_not_made_twice`, `tests::a_submission_whose_answer_is_lost_is_looked_for_before_it_is_made_again` |
//! | ask about all jobs at once, at most once in 2 s | `sweeps::a_sweep_of_50_cells_is_one_array_and_a_second_run_asks_slurm_nothing` |
//! | ask less often than records are forgotten | `limits::what_slurm_22_printed` |
//! | use `sacct` for what vanished, and take silence for unknown | `tests::a_job_that_vanishes_is_looked_up_in_the_accounts_once_and_no_answer_there_is_no_success`, `tests::accounts_tell_how_a_job_ended_that_the_queue_has_forgotten`, `state::what_sacct_printed` |
//! | work without accounts | `tests::without_accounts_the_queue_and_the_files_are_enough`, and all of `slurm::` |
//! | pack, make arrays, split them by `MaxArraySize` | `sweeps::small_stages_share_an_allocation`, `sweeps::a_sweep_beyond_the_clusters_largest_array_becomes_several` |
//! | keep to `max_jobs` | `sweeps::no_more_jobs_are_in_the_queue_than_was_said` |
//! | fence attempts | `losses::two_living_copies_of_one_task_leave_one_result`, `files::of_many_who_claim_a_task_one_gets_it`, `files::the_first_end_that_counts_wins_and_an_interrupted_start_is_none` |
//! | do dependencies itself | `sweeps::a_failing_cell_fails_alone_and_a_chain_waits_for_its_inputs` |
//! | make folders for logs first, append to them | `batch::many_jobs_are_one_array_and_logs_have_a_folder` |
//! | save a checkpoint when it is told to end | `losses::a_requeued_stage_goes_on_from_its_last_checkpoint`, `losses::a_preempted_stage_goes_on_from_its_last_checkpoint` |
//! | know every state, and retry infrastructure outside the author's retries | `state::every_end_of_slurm_has_a_meaning_and_new_words_end_nothing`, `tests::what_the_cluster_lost_is_submitted_again_a_few_times_outside_the_authors_retries` |
//! | cancel with one call, or leave and find again | `leaving::ctrl_c_cancels_all_jobs_with_one_call_or_leaves_them_to_be_attached` |
//! | survive the submitting process, share jobs of two runs | `leaving::a_killed_submitter_is_followed_by_one_that_finds_the_jobs_and_two_runs_share_them` |
//! | pass the environment on, but not an outer job's | `client::an_outer_job_is_not_passed_on_but_the_cluster_is` |
//! | remove old batches, never those of living jobs | `leaving::gc_keeps_what_living_jobs_need_and_results_that_no_run_has_seen_yet`, `sweep::a_batch_with_a_living_job_is_never_touched_and_one_that_slurm_forgot_goes` |
//! | take settings of the user | `sweeps::the_users_configuration_chooses_slurm_and_gpus_are_shared_out_within_an_allocation` |
//!
//! | trap of Slurm's | met by |
//! |---|---|
//! | no configuration, no Slurm, no munge | `limits::where_there_is_no_slurm_or_no_cluster_that_is_said_at_once`, `tests::access_that_never_worked_is_an_error_and_access_that_is_lost_comes_back` |
//! | a job that fails before its first line (0:53, no log) | `tests::a_job_that_fails_before_its_first_line_says_what_nodes_must_see` |
//! | memory, GPUs, partition impossible; a time limit above the partition's, which is accepted | `limits::a_time_out_is_exact_and_what_slurm_refuses_says_what_to_change` |
//! | the time limit is late and its exit code says nothing | `limits::slurms_own_time_limit_is_told_as_such` |
//! | out of memory without cgroups | `limits::a_stage_that_takes_too_much_memory_is_told_from_others` |
//! | dependencies that are never satisfied, or on forgotten jobs | `state::a_job_that_would_wait_for_ever_is_found_out`; Sepia uses none |
//! | a cancelled waiting element leaves no record | `tests::an_element_that_was_cancelled_while_it_waited_leaves_no_trace_and_its_absence_means_that`, `leaving::scancel_from_outside_ends_the_stage_with_a_word_on_it` |
//! | a lost node: the job waits two minutes, two copies may live | `losses::a_lost_node_and_a_restarted_controller_cost_time_only`, `losses::two_living_copies_of_one_task_leave_one_result` |
//! | a job that starts while its node kills the first copy counts as failed | `tests::a_job_that_was_killed_without_a_word_is_submitted_again_and_one_that_says_why_is_not` |
//! | the controller is down, commands take 9 s | `losses::a_controller_that_is_down_during_submission_is_waited_for` |

mod cluster;
mod leaving;
mod limits;
mod losses;
mod sweeps;
