//! The page of example queries, so that the program can show it and a test can keep it true.

/// `QUERIES.md`: the tables and views of the results database, with queries to copy.
pub const QUERIES: &str = include_str!("../../QUERIES.md");

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::test_support::{Fixture, key, record};
    use crate::{Digest, Outcome, Record, RecordInput, RunCounts, RunRow};

    /// A training with its evaluation for each method and seed, a failure and a divergence.
    fn project() -> Fixture {
        let f = Fixture::new();
        let training = |method: &str, seed: u64, model: &[u8]| Record {
            node: "train".into(),
            seed,
            params: json!({ "lr": 0.001, "method": { "name": method } }).as_object().unwrap().clone(),
            ..record(&format!("train {method} {seed}"), &[("model", f.object(model))])
        };
        let mut records = Vec::new();
        for (place, method) in ["galore", "lora"].into_iter().enumerate() {
            for seed in 0..3 {
                let mut train = training(method, seed, format!("{method} {seed}").as_bytes());
                train.metrics.push("val_loss", None, 3.0 + place as f64 + seed as f64);
                let input = RecordInput {
                    port: "model".into(),
                    position: 0,
                    digest: Digest::of_bytes(b"model"),
                    from_key: Some(train.key),
                };
                let mut evaluate =
                    Record { node: "evaluate".into(), kind: "evaluate".into(), inputs: vec![input], ..train.clone() };
                evaluate.key = key(&format!("evaluate {method} {seed}"));
                evaluate.params.clear();
                evaluate.metrics.push("perplexity", None, 20.0);
                records.extend([train, evaluate]);
            }
        }
        let failed = Record { outcome: Outcome::Failed, error: Some("out of memory".into()), ..record("failed", &[]) };
        let mut other = training("galore", 0, b"other bytes");
        other.metrics.push("val_loss", None, 3.0);
        records.extend([failed, other]);
        f.store.commit(&records).unwrap();
        let counts = RunCounts { nodes: 2, done: 2, ..RunCounts::default() };
        let run = RunRow {
            run: "run-1".into(),
            plan: None,
            manifest: "m.toml".into(),
            command: "sepia run m.toml".into(),
            started_at: 1_700_000_000_000,
            finished_at: None,
            outcome: Some("done".into()),
            counts,
            details: json!({}),
        };
        f.store.start_run(&run).unwrap();
        f
    }

    #[test]
    fn every_example_query_finds_something() {
        let f = project();
        let queries: Vec<&str> =
            QUERIES.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default()).collect();
        assert!(queries.len() >= 10);
        for query in queries {
            let rows = f.store.query(|connection| {
                let mut statement = connection.prepare(query)?;
                assert!(statement.readonly(), "{query}");
                let mut rows = statement.query([])?;
                let mut count = 0;
                while rows.next()?.is_some() {
                    count += 1;
                }
                Ok(count)
            });
            assert!(rows.as_ref().is_ok_and(|rows| *rows > 0), "{rows:?}: {query}");
        }
    }

    #[test]
    fn mean_and_variance_are_right_and_a_repeated_execution_counts_once() {
        let f = project();
        let query = QUERIES.split("```sql\n").find(|part| part.starts_with("WITH one")).unwrap();
        let found: Vec<(String, i64, f64, f64)> = f
            .store
            .query(|connection| {
                connection
                    .prepare(query.split("```").next().unwrap())?
                    .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?
                    .collect()
            })
            .unwrap();
        assert_eq!(found, [("galore".to_owned(), 3, 4.0, 1.0), ("lora".to_owned(), 3, 5.0, 1.0)]);
    }

    #[test]
    fn every_table_that_people_ask_is_on_the_page() {
        for name in [
            "runs",
            "executions",
            "params",
            "metrics",
            "metric_summaries",
            "artifacts",
            "inputs",
            "results",
            "divergences",
        ] {
            assert!(QUERIES.contains(&format!("| `{name}` |")), "{name}");
        }
    }
}
