//! A folder that all reach.

use crate::lab::Lab;

#[test]
fn twenty_who_push_at_once_lose_nothing() {
    Lab::new("{}/lab").crowd();
}

#[test]
fn killed_at_any_moment_a_push_and_a_pull_go_on() {
    let lab = Lab::new("{}/lab");
    for role in ["push", "pull"] {
        for round in 0..8 {
            let mut worker = lab.start(role);
            std::thread::sleep(std::time::Duration::from_millis(5 << (round % 6)));
            let _ = worker.kill();
            worker.wait().unwrap();
        }
        assert_eq!(lab.run(role), Ok(()));
    }
    assert_eq!(lab.all_of("pull"), lab.all_of("push"));
}
