//! Stored outputs that are gone or changed.

use crate::support::{Project, make_writable};

#[test]
fn a_deleted_object_is_made_again() {
    let project = Project::training();
    project.run("tiny.toml");
    let before = project.outputs();
    let object = project.object("evaluate.evaluation");
    make_writable(&object);
    std::fs::remove_file(object).unwrap();
    project.run("tiny.toml");
    assert_eq!(project.ran(), ["evaluate"]);
    assert_eq!(project.outputs(), before);
}

fn flip_a_byte(path: &std::path::Path) {
    make_writable(path);
    let modified = path.metadata().unwrap().modified().unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
    // As a failing disk would: nothing but the content tells.
    std::fs::File::options().write(true).open(path).unwrap().set_modified(modified).unwrap();
}

#[test]
fn a_flipped_byte_is_noticed_by_verify_and_before_it_is_used() {
    let project = Project::training();
    project.run("tiny.toml");
    let healthy = project.sepia(&["cache", "verify"]);
    assert_eq!(healthy.code, 0, "{}{}", healthy.out, healthy.err);
    let before = project.outputs();

    flip_a_byte(&project.object("corpus.data").join("train.bin"));
    let damaged = project.sepia(&["cache", "verify"]);
    assert_eq!(damaged.code, 1, "{}{}", damaged.out, damaged.err);
    assert!(damaged.out.contains("train.bin"), "{}", damaged.out);

    // A run that needs it makes it again first.
    project.edit("tiny.toml", "lr = 0.003", "lr = 0.004");
    let repaired = project.run("tiny.toml");
    assert!(repaired.err.contains("Damaged"), "{}", repaired.err);
    assert_eq!(project.ran(), ["corpus", "train", "evaluate", "ranks"]);

    project.edit("tiny.toml", "lr = 0.004", "lr = 0.003");
    project.run("tiny.toml");
    assert_eq!(project.outputs(), before);
    assert_eq!(project.sepia(&["cache", "verify"]).code, 0);
}

#[test]
fn a_lost_database_is_rebuilt_from_the_store_and_a_broken_one_is_not_overwritten() {
    let project = Project::training();
    project.run("tiny.toml");
    let database = project.path(".sepia/results.db");
    for side in ["results.db-wal", "results.db-shm"] {
        let _ = std::fs::remove_file(project.path(".sepia").join(side));
    }
    std::fs::write(&database, "not a database at all, but long enough to be read as the header of one").unwrap();
    let refused = project.sepia(&["run", "tiny.toml"]);
    assert_eq!(refused.code, 3, "{}", refused.err);
    assert!(refused.err.contains("move it away"), "{}", refused.err);

    std::fs::rename(&database, project.path("broken.db")).unwrap();
    let done = project.run("tiny.toml");
    assert!(done.err.contains("0 ran, 4 cached"), "{}", done.err);
    assert_eq!(project.executions(), 4);
}
