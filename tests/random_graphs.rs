//! Random graphs of real programs, some of which fail, some runs of which are interrupted: every node ends in exactly one
//! final state, and no program outlives its run.

use std::collections::BTreeMap;

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Project, wait_until};

/// A small deterministic generator: a test that failed once fails again.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// A manifest of `nodes` programs; each leaves its process number in `pids/` while it runs.
fn random_manifest(dice: &mut Dice, nodes: u64, pids: &std::path::Path) -> String {
    let mut text = String::new();
    for node in 0..nodes {
        text.push_str(&format!("[stages.n{node}]\nkind = \"command\"\nretries = {}\n", dice.below(2)));
        let needs: Vec<String> =
            (0..node).filter(|_| dice.below(3) == 0).map(|needed| format!("i{needed} = \"n{needed}\"")).collect();
        text.push_str(&format!("inputs = {{ {} }}\n", needs.join(", ")));
        let end = match dice.below(6) {
            0 => "exit 1",
            1 => "sleep 0.05; echo late > out",
            _ => "echo done > out",
        };
        let pids = pids.display();
        text.push_str(&format!(
            "argv = [\"sh\", \"-c\", \"touch {pids}/$$; {end}; code=$?; rm {pids}/$$; exit $code # {node}\"]\noutputs = {{ out = \"out\" }}\n"
        ));
    }
    text
}

#[test]
fn every_node_ends_in_one_final_state_and_no_program_outlives_the_run() {
    for case in 0..12u64 {
        let mut dice = Dice(case);
        let project = Project::new();
        let pids = project.path("pids");
        std::fs::create_dir(&pids).unwrap();
        let nodes = 4 + dice.below(12);
        project.write("m.toml", &random_manifest(&mut dice, nodes, &pids));
        let mut arguments = vec!["run", "m.toml", "-j", "3"];
        if dice.below(2) == 0 {
            arguments.push("--keep-going");
        }
        let child = project.start(&arguments);
        if case % 3 == 0 {
            wait_until(|| project.path(".sepia/runs").exists());
            std::thread::sleep(std::time::Duration::from_millis(dice.below(120)));
            // It may have ended by itself: that is one of the moments, too.
            let _ = kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), Signal::INT);
        }
        let output = child.wait_with_output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(matches!(output.status.code(), Some(0 | 1 | 130)), "case {case}: {:?}\n{err}", output.status);

        for entry in std::fs::read_dir(&pids).unwrap() {
            let pid = entry.unwrap().file_name().into_string().unwrap();
            let alive =
                std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("touch"));
            assert!(!alive, "case {case}: process {pid} outlived its run\n{err}");
        }
        let run = project.json(&["show", "--format", "json"]);
        let mut states: BTreeMap<String, String> = BTreeMap::new();
        for node in run["nodes"].as_array().unwrap() {
            let outcome = node["outcome"].as_str().unwrap().to_owned();
            let before = states.insert(node["node"].as_str().unwrap().to_owned(), outcome);
            assert!(before.is_none(), "case {case}: a node is listed twice");
        }
        assert_eq!(states.len() as u64, nodes, "case {case}");
        for (node, state) in &states {
            assert!(
                matches!(state.as_str(), "done" | "failed" | "skipped" | "cancelled"),
                "case {case}: {node} is {state}"
            );
        }
        let summary: u64 =
            ["done", "cached", "failed", "skipped"].iter().map(|name| run["counts"][name].as_u64().unwrap()).sum();
        assert_eq!(summary, nodes, "case {case}: {run:#}");
    }
}
