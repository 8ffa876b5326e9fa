//! Questions to a real store.

use camino::Utf8Path;
use sepia_cache::{Metrics, OpenMode, Outcome, Record, RecordInput, Store};
use serde_json::json;

use super::*;
use crate::test_records;

fn record(kind: &str, name: &str, seed: u64, params: serde_json::Value, loss: f64) -> Record {
    let mut metrics = Metrics::default();
    metrics.push("val_loss", Some(1), 9.0);
    metrics.push("val_loss", None, loss);
    Record {
        seed,
        params: params.as_object().unwrap().clone(),
        metrics,
        ..test_records::done(kind, &format!("{kind}[{name}]"))
    }
}

/// Two methods with two seeds and two learning rates, an evaluation of each, one failure, one repetition.
fn with_frame(check: impl FnOnce(&mut Frame<'_>)) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&Utf8Path::from_path(folder.path()).unwrap().join(".sepia"), OpenMode::Create).unwrap();
    let mut records = Vec::new();
    for method in ["galore", "lora"] {
        for seed in 0..2_u64 {
            for lr in [0.001, 0.1] {
                let name = format!("{method},{seed},{lr}");
                let params = json!({ "lr": lr, "method": { "name": method } });
                #[expect(clippy::cast_precision_loss, reason = "0 and 1")]
                let loss = 3.0 + seed as f64 + lr * 10.0 + if method == "lora" { 0.5 } else { 0.0 };
                let train = record("train", &name, seed, params, loss);
                let mut evaluate = record("evaluate", &name, 0, json!({ "batch_size": 8 }), loss);
                let input =
                    RecordInput { port: "model".into(), position: 0, digest: train.key, from_key: Some(train.key) };
                evaluate.inputs.push(input);
                records.extend([train, evaluate]);
            }
        }
    }
    let again = Record { started_at: 1_700_000_001_000, ..records[0].clone() };
    let failed =
        Record { outcome: Outcome::Failed, error: Some("no".into()), ..record("train", "bad", 9, json!({}), 0.0) };
    records.extend([again, failed]);
    store.commit(&records).unwrap();
    check(&mut Frame::load(&store).unwrap());
}

fn nodes(frame: &mut Frame<'_>, condition: &str) -> Vec<String> {
    let condition = frame.resolve(parse(condition).unwrap()).unwrap();
    frame.filter(&condition).into_iter().map(|row| frame.rows[row].node.to_string()).collect()
}

#[test]
fn an_evaluation_has_the_parameters_of_its_training() {
    with_frame(|frame| {
        let found = nodes(frame, "kind = evaluate and method = galore and lr < 0.01");
        assert_eq!(found, ["evaluate[galore,0,0.001]", "evaluate[galore,1,0.001]"]);
        let trained = nodes(frame, "stage = train and not method = galore and seed = 1");
        assert_eq!(trained, ["train[lora,1,0.001]", "train[lora,1,0.1]"]);
        assert_eq!(nodes(frame, "outcome = failed"), ["train[bad]"]);
        assert_eq!(nodes(frame, "val_loss.highest < 8"), [""; 0]);
        assert_eq!(nodes(frame, "method in ('galore''; DROP TABLE names; --')"), [""; 0]);
    });
}

#[test]
fn groups_count_a_repeated_execution_once_and_say_what_else_differs() {
    with_frame(|frame| {
        let rows: Vec<usize> = (0..frame.rows.len()).filter(|row| &*frame.rows[*row].kind == "train").collect();
        let rows: Vec<usize> = rows.into_iter().filter(|row| frame.rows[*row].outcome == Outcome::Done).collect();
        let by = frame.columns("method,lr").unwrap();
        let found = groups(frame, &rows, &by);
        let sizes: Vec<usize> = found.iter().map(|group| group.rows.len()).collect();
        assert_eq!((rows.len(), sizes), (9, vec![2, 2, 2, 2]));
        let loss = frame.column("val_loss", &(0..0)).unwrap();
        let of = |group: &Group| Statistics::of(group.rows.iter().filter_map(|row| frame.cell(*row, &loss).number()));
        let best = of(&found[0]).unwrap();
        assert!((best.mean - 3.51).abs() < 1e-12 && best.n == 2, "{best:?}");
        assert!(differing_params(frame, &found).unwrap().is_empty());
        let coarse = groups(frame, &rows, &by[..1]);
        assert_eq!(differing_params(frame, &coarse).unwrap().into_iter().collect::<Vec<_>>(), ["lr"]);
    });
}

#[test]
fn a_group_of_evaluations_differs_in_what_they_were_made_from() {
    with_frame(|frame| {
        let rows: Vec<usize> = (0..frame.rows.len()).filter(|row| &*frame.rows[*row].kind == "evaluate").collect();
        let by = frame.columns("method").unwrap();
        let found = groups(frame, &rows, &by);
        assert_eq!(
            found.iter().map(|group| group.values[0].text().into_owned()).collect::<Vec<_>>(),
            ["galore", "lora"]
        );
        assert_eq!(differing_params(frame, &found).unwrap().into_iter().collect::<Vec<_>>(), ["lr"]);
    });
}
