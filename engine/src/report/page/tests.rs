//! The page of a run whose author, stages and collaborators mean no good.

use camino::Utf8Path;
use sepia_cache::{
    Digest, Metrics, OpenMode, Outcome, PlanNode, Record, RecordInput, RunCounts, RunNode, RunRow, Store,
};
use serde_json::json;

use crate::{
    report::{
        page::{alone, content},
        run_view::{RunView, State},
    },
    test_browser::{Browser, Shown},
    test_records,
};

const HOSTILE: &str =
    "</pre><script>document.title='owned'</script><img src=x onerror=\"alert(1)\">'\"&\u{202e}\u{1b}[31m";

fn record(node: &str, from: Option<Digest>, outcome: Outcome) -> Record {
    let mut metrics = Metrics::default();
    for step in 0..50_u32 {
        metrics.push("loss", Some(step.into()), 5.0 / f64::from(step + 1));
        metrics.push(HOSTILE, Some(step.into()), if step == 7 { f64::NAN } else { f64::from(step) });
    }
    metrics.push("val_loss", None, 3.25);
    metrics.push(HOSTILE, None, f64::INFINITY);
    let input =
        |from| RecordInput { port: HOSTILE.into(), position: 0, digest: Digest::of_bytes(b"in"), from_key: Some(from) };
    Record {
        outcome,
        error: (outcome != Outcome::Done).then(|| HOSTILE.into()),
        wall_seconds: 1.5,
        cpu_seconds: 2.25,
        peak_memory_bytes: 1 << 30,
        seed: 1,
        params: json!({ HOSTILE: HOSTILE, "lr": 0.1 }).as_object().unwrap().clone(),
        inputs: from.map(input).into_iter().collect(),
        metrics,
        provenance: json!({ "host": HOSTILE }),
        ..test_records::done(HOSTILE, node)
    }
}

/// A finished run of three nodes: made, failed, and one that waited for it.
fn view(folder: &Utf8Path) -> RunView {
    let store = Store::open(&folder.join(".sepia"), OpenMode::Create).unwrap();
    let good = record(HOSTILE, None, Outcome::Done);
    let bad = record("train[lr=0.1]", Some(good.key), Outcome::Failed);
    let ids = store.commit(&[good.clone(), bad.clone()]).unwrap();
    let names = [HOSTILE, "train[lr=0.1]", "evaluate"];
    let keys = [Some(good.key), Some(bad.key), None];
    let nodes: Vec<PlanNode> =
        names.iter().zip(keys).map(|(node, key)| PlanNode { node: (*node).to_owned(), key }).collect();
    let row = RunRow {
        run: "run-1".into(),
        plan: Some(store.save_plan(&nodes).unwrap()),
        manifest: HOSTILE.into(),
        command: HOSTILE.into(),
        started_at: 1_700_000_000_000,
        finished_at: Some(1_700_000_005_000),
        outcome: Some("failed".into()),
        counts: RunCounts::default(),
        details: json!({ "manifest_digest": "d" }),
    };
    store.start_run(&row).unwrap();
    let told = |place: usize, outcome: &str| RunNode {
        run: "run-1".into(),
        node: names[place].into(),
        key: keys[place],
        record: ids.get(place).copied(),
        outcome: outcome.into(),
        because: Some(HOSTILE.into()),
        wall_seconds: None,
    };
    store.add_run_nodes(&[told(0, "done"), told(1, "failed"), told(2, "skipped")]).unwrap();
    let plan = json!({ "manifest": HOSTILE, "nodes": [
        { "node": names[0], "kind": HOSTILE, "number": 0, "needs": [] },
        { "node": names[1], "kind": "train", "number": 1, "needs": [0] },
        { "node": names[2], "kind": "evaluate", "number": 2, "needs": [1, 99] },
    ] });
    std::fs::write(store.run_dir("run-1").unwrap().join("plan.json"), plan.to_string()).unwrap();
    RunView::load(&store, store.find_run("latest").unwrap()).unwrap()
}

fn with_page(check: impl FnOnce(&RunView, &str, &Utf8Path)) {
    let folder = tempfile::tempdir().unwrap();
    let folder = Utf8Path::from_path(folder.path()).unwrap();
    let view = view(folder);
    let page = alone(&view, 1_700_000_006_000);
    check(&view, &page, folder);
}

#[test]
fn states_edges_and_the_manifest_are_those_of_the_run() {
    with_page(|view, page, _| {
        let states: Vec<State> = view.nodes.iter().map(|node| node.state).collect();
        assert_eq!(states, [State::Done, State::Failed, State::Skipped]);
        let needs: Vec<&[usize]> = view.nodes.iter().map(|node| node.needs.as_slice()).collect();
        assert_eq!(needs, [&[][..], &[0], &[1]]);
        assert!(view.nodes[1].record.is_some() && view.nodes[2].record.is_none());
        for text in
            ["<h2>Graph</h2>", "<h2>Curves</h2>", "<h2>Provenance</h2>", "<h2>Manifest</h2>", "val_loss", "3.25"]
        {
            assert!(page.contains(text), "{text}");
        }
    });
}

#[test]
fn what_others_wrote_is_text_and_nothing_is_asked_for() {
    with_page(|view, page, _| {
        for text in ["<script", "<img", "onerror=\"", "\u{202e}", "\u{1b}", "http-equiv=\"refresh"] {
            assert!(!page.contains(text), "{text}");
        }
        let addresses: Vec<&str> =
            page.match_indices("http").map(|(at, _)| &page[at..(at + 28).min(page.len())]).collect();
        let known = |text: &&str| text.starts_with("http://www.w3.org/2000/svg") || text.starts_with("http-equiv");
        assert!(addresses.iter().all(known), "{addresses:?}");
        assert!(!page.contains("url(") && !page.contains("@import") && page.contains("default-src &#39;none&#39;"));
        assert!(!content(view, 0).contains("<html"));
    });
}

#[test]
fn a_browser_shows_the_page_without_errors_and_without_requests() {
    let Some(browser) = Browser::find() else { return };
    with_page(|_, page, folder| {
        let file = folder.join("page.html");
        std::fs::write(&file, page).unwrap();
        let Shown { page: shown, said, network } = browser.show(folder, &format!("file://{file}"), &[]);
        assert!(shown.contains("<h2>Graph</h2>") && !shown.contains("<title>owned"), "{shown}");
        assert!(!said.contains("CONSOLE"), "{said}");
        // Requests of the page itself: those that the browser makes for itself name no page as their initiator.
        assert!(!network.is_empty() && !network.contains("\"initiator\":\"file://\""), "the page asked for something");
    });
}

/// Shows `page.html` in a frame that is as wide as a phone, and as wide as a desk's screen, and says how that can be read.
const READER: &str = include_str!("reader.html");

#[test]
fn in_a_browser_it_can_be_read_by_day_and_by_night_and_on_a_phone() {
    let Some(browser) = Browser::find() else { return };
    with_page(|_, page, folder| {
        std::fs::write(folder.join("page.html"), page).unwrap();
        let reader = folder.join("reader.html");
        std::fs::write(&reader, READER).unwrap();
        let mut backgrounds = Vec::new();
        for scheme in [0, 1] {
            let scheme = format!("--blink-settings=preferredColorScheme={scheme}");
            let options = ["--allow-file-access-from-files", &scheme];
            let shown = browser.show(folder, &format!("file://{reader}"), &options).page;
            let found = shown.split_once("<pre>").and_then(|(_, rest)| rest.split_once("</pre>")).unwrap_or_default().0;
            let found: serde_json::Value = serde_json::from_str(found).unwrap_or_else(|_| panic!("{shown}"));
            for frame in found.as_array().unwrap() {
                // Nothing sticks out: what is wide is scrolled in a box of its own.
                assert!(frame["wide"].as_u64() <= frame["window"].as_u64(), "{frame}");
                // As the guidelines for accessible pages ask (WCAG 2.1, 1.4.3), and not smaller than 11 pixels.
                assert!(frame["contrast"].as_f64() >= Some(4.5), "{frame}");
                assert!(frame["size"].as_f64() >= Some(11.0), "{frame}");
                assert!(frame["texts"].as_u64() > Some(40), "{frame}");
            }
            backgrounds.push(found[0]["background"].as_f64().unwrap());
        }
        assert!(backgrounds[0] < 0.1 && backgrounds[1] > 0.8, "dark, then light: {backgrounds:?}");
    });
}
