//! Looking at results: comparing, plotting, the page of a run, and the same page live.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, Stdio},
};

use crate::support::{Project, wait_until};

/// Two trainings that differ in their learning rate, with evaluations and rank analyses.
fn two_trainings() -> Project {
    let project = Project::training();
    project.edit("tiny.toml", "lr = 0.003", "matrix = { lr = [0.003, 0.03] }");
    project.run("tiny.toml");
    project
}

/// An SVG that is well-formed XML: its texts, and how many elements there are of a name.
fn svg(project: &Project, name: &str) -> (Vec<String>, impl Fn(&str) -> usize) {
    let text = std::fs::read_to_string(project.path(name)).unwrap();
    let document = roxmltree::Document::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(document.root_element().has_tag_name(("http://www.w3.org/2000/svg", "svg")));
    let texts = document.descendants().filter(|node| node.has_tag_name("text") || node.tag_name().name() == "text");
    let texts = texts.filter_map(|node| node.text().map(ToOwned::to_owned)).collect();
    let names: Vec<String> = document.descendants().map(|node| node.tag_name().name().to_owned()).collect();
    (texts, move |name: &str| names.iter().filter(|one| *one == name).count())
}

#[test]
fn every_kind_of_plot_comes_from_one_command() {
    let project = two_trainings();
    let plot = |arguments: &[&str]| {
        let done = project.sepia(&[&["plot"], arguments].concat());
        assert_eq!(done.code, 0, "{arguments:?}\n{}", done.err);
    };
    // Curves over steps, one for each learning rate.
    plot(&["loss", "train", "--by", "lr", "-o", "loss.svg"]);
    let (texts, count) = svg(&project, "loss.svg");
    assert!(count("polyline") >= 2, "{texts:?}");
    for label in ["lr 0.003", "lr 0.03", "step", "loss (nats)"] {
        assert!(texts.iter().any(|text| text.contains(label)), "{label}: {texts:?}");
    }
    // Figures against parameters, with the front of the best.
    plot(&["val_loss", "evaluate", "--by", "lr", "-o", "front.svg"]);
    let (texts, count) = svg(&project, "front.svg");
    assert!(texts.iter().any(|text| text == "Pareto front") && count("circle") >= 2, "{texts:?}");
    // Ranks against what made them.
    plot(&["mean_stable_rank", "ranks", "--against", "lr", "-o", "ranks.svg"]);
    assert!(svg(&project, "ranks.svg").0.iter().any(|text| text.contains("mean_stable_rank")));
    // Singular values: by group, and by weight of one analysis.
    plot(&["spectra", "ranks", "--by", "lr", "-o", "spectra.svg"]);
    let (texts, _) = svg(&project, "spectra.svg");
    assert!(
        ["lr 0.003", "lr 0.03", "singular value / largest"].iter().all(|one| texts.iter().any(|text| text == one)),
        "{texts:?}"
    );
    plot(&["spectra", "--where", "lr = 0.03", "--weights", "*q_proj*", "-o", "weights.svg"]);
    let (texts, _) = svg(&project, "weights.svg");
    assert!(texts.iter().any(|text| text.contains("singular values")), "{texts:?}");
    let nothing = project.sepia(&["plot", "spectra", "--weights", "nothing", "-o", "x.svg"]);
    assert_eq!(nothing.code, 2, "{}", nothing.err);
    assert!(nothing.err.contains("no weight is called `nothing`"), "{}", nothing.err);
    // A PNG decodes, is as large as it says, and has more than one colour.
    plot(&["loss", "train", "--by", "lr", "-o", "loss.png"]);
    let bytes = std::fs::read(project.path("loss.png")).unwrap();
    let mut decoder = zune_png::PngDecoder::new(zune_core::bytestream::ZCursor::new(bytes.as_slice()));
    let pixels = decoder.decode_raw().unwrap();
    let (width, height) = decoder.dimensions().unwrap();
    assert!(width >= 800 && height >= 400);
    let channels = pixels.len() / (width * height);
    let colours: BTreeSet<&[u8]> = pixels.chunks(channels).collect();
    assert!(colours.len() > 10, "{}", colours.len());
}

#[test]
fn what_differs_between_two_results_is_named() {
    let project = two_trainings();
    let differs = project.json(&["compare", "train[lr=0.003]", "train[lr=0.03]", "--format", "json"]);
    assert_eq!(differs["parameter"]["lr"]["a"], 0.003);
    assert_eq!(differs["parameter"]["lr"]["b"], 0.03);
    assert!(differs["metric"]["val_loss"]["a"].is_f64() && differs["output"]["model"]["a"].is_string());
    assert!(differs["parameter"].as_object().unwrap().keys().eq(["lr"]), "{differs}");
    assert!(differs.get("provenance").is_none(), "{differs}");
    let text = project.sepia(&["compare", "train[lr=0.003]", "train[lr=0.03]"]).out;
    assert!(text.contains("lr") && text.contains("0.003") && text.contains("0.03") && text.contains('%'), "{text}");
    // Two runs: of what they share nothing is said.
    project.edit("tiny.toml", "max_steps = 40", "max_steps = 50");
    project.run("tiny.toml");
    let runs = project.json(&["runs", "--format", "json"]);
    let before = runs[1]["run"].as_str().unwrap();
    let between = project.json(&["compare", before, "latest", "--format", "json"]).to_string();
    assert!(between.contains("max_steps") && !between.contains("\"corpus\""), "{between}");
    let unknown = project.sepia(&["compare", "trian[lr=0.003]", "latest"]);
    assert_eq!(unknown.code, 2);
    assert!(unknown.err.contains("did you mean `train[lr=0.003]`?"), "{}", unknown.err);
}

/// Whether a page would ask anybody for anything.
fn asks_nobody(page: &str) {
    let lower = page.to_lowercase();
    for (name, _) in lower.match_indices("src=").chain(lower.match_indices("href=")).chain(lower.match_indices("url("))
    {
        let rest = &lower[name..lower.len().min(name + 40)];
        let value = rest.split(['=', '(']).nth(1).unwrap().trim_start_matches(['"', '\'']);
        assert!(value.starts_with("data:") || value.starts_with('#'), "{rest}");
    }
    for word in ["@import", "<iframe", "<object", "<embed"] {
        assert!(!lower.contains(word), "{word}");
    }
}

#[test]
fn the_report_is_one_page_that_asks_nobody() {
    let project = Project::training();
    project.edit("tiny.toml", "[stages.ranks]", "[stages.broken]\nkind = \"command\"\ninputs = { model = \"train.model\" }\nargv = [\"sh\", \"-c\", \"echo what went wrong; exit 3\"]\noutputs = { x = \"x\" }\n\n[stages.ranks]");
    assert_eq!(project.sepia(&["run", "tiny.toml", "--keep-going"]).code, 1);
    let done = project.sepia(&["report", "latest", "-o", "run.html"]);
    assert_eq!(done.code, 0, "{}", done.err);
    let page = std::fs::read_to_string(project.path("run.html")).unwrap();
    assert!(page.starts_with("<!doctype html>") && page.contains("prefers-color-scheme") && page.contains("viewport"));
    asks_nobody(&page);
    assert!(!page.contains("<script"));
    // The manifest as it was written, the stages with their states, a curve, figures, and what the failed one said.
    assert!(page.contains("kind = &quot;pretrain&quot;") || page.contains("kind = \"pretrain\""));
    for word in
        ["corpus", "train", "evaluate", "ranks", "broken", "done", "failed", "val_loss", "what went wrong", "<polyline"]
    {
        assert!(page.contains(word), "{word}");
    }
}

/// A server that ends with the test.
struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The status line, the headers and the body of an answer.
fn ask(address: &str, request: &str) -> (String, String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let (status, headers) = head.split_once("\r\n").unwrap();
    (status.to_owned(), headers.to_lowercase(), body.to_owned())
}

fn get(address: &str, path: &str, host: &str) -> (String, String, String) {
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
}

#[test]
fn the_dashboard_shows_a_run_while_it_goes_on() {
    let project = Project::new();
    let flag = project.path("go-on");
    project.write(
        "slow.toml",
        &format!(
            "[stages.first]\nkind = \"command\"\nargv = [\"sh\", \"-c\", \"echo x > out\"]\noutputs = {{ out = \"out\" }}\n\
             [stages.slow]\nkind = \"command\"\ninputs = {{ first = \"first\" }}\n\
             argv = [\"sh\", \"-c\", \"echo waiting for you; while [ ! -e '{}' ]; do sleep 0.02; done; echo y > out\"]\n\
             outputs = {{ out = \"out\" }}\n",
            flag.display()
        ),
    );
    let mut run = Served(project.command(&["run", "slow.toml"]).stderr(Stdio::null()).spawn().unwrap());
    wait_until(|| project.sepia(&["log", "slow"]).out.contains("waiting for you"));
    let mut dashboard =
        Served(project.command(&["dashboard"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let mut url = String::new();
    BufReader::new(dashboard.0.stdout.take().unwrap()).read_line(&mut url).unwrap();
    let address = url.trim().strip_prefix("http://").unwrap().trim_end_matches('/').to_owned();
    assert!(address.starts_with("127.0.0.1:"), "{url}");
    let (status, headers, page) = get(&address, "/", &address);
    assert!(status.contains("200") && headers.contains("content-security-policy: default-src 'none'"), "{headers}");
    asks_nobody(&page);
    for word in ["first", "slow", "running", "waiting for you"] {
        assert!(page.contains(word), "{word}: {page}");
    }
    // Another site's name for this address, and anything but reading, get nothing.
    assert!(!get(&address, "/", "evil.example").0.contains("200"));
    let posted =
        ask(&address, &format!("POST / HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"));
    assert!(!posted.0.contains("200"), "{}", posted.0);
    assert!(get(&address, "/../../etc/passwd", &address).0.contains("404"));
    std::fs::write(&flag, "").unwrap();
    assert!(run.0.wait().unwrap().success());
    wait_until(|| !get(&address, "/content", &address).2.contains("running"));
    assert!(get(&address, "/content", &address).2.contains("done"));
    let pid = rustix::process::Pid::from_child(&dashboard.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(dashboard.0.wait().unwrap().code(), Some(0));
}
