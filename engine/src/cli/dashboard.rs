//! `sepia dashboard`: the page of a run, live, for this machine only.
//!
//! It binds to the loopback address, answers GET alone, and only requests that name it by that address: a page of another
//! site cannot read it by giving its own name the address 127.0.0.1 (DNS rebinding). Nothing is ever changed.

use std::{net::Ipv4Addr, sync::Arc};

use sepia_cache::Store;
use tiny_http::{Header, Method, Request, Response, Server};

use super::{
    args::{self, Global},
    exit::{Exit, Failure},
    output, project,
};
use crate::{
    diagnostic::Diagnostic,
    report::{page, run_view::RunView},
};

/// Keeps the page up to date: asks for its changing part every two seconds, until the run is over.
const SCRIPT: &str = "\
const main = document.querySelector('main');
async function look() {
  try {
    const answer = await fetch('/content', {cache: 'no-store'});
    if (answer.ok) {
      const open = new Set([...document.querySelectorAll('details[open] summary')].map(one => one.textContent));
      main.innerHTML = await answer.text();
      document.querySelectorAll('details').forEach(one => { one.open = open.has(one.firstElementChild.textContent); });
      document.body.classList.remove('gone');
    }
  } catch { document.body.classList.add('gone'); }
  setTimeout(look, document.hidden ? 10000 : 2000);
}
setTimeout(look, 2000);
";

/// The page may run that script and ask this server; nothing else.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                      img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

pub(super) fn dashboard(global: &Global, args: &args::Dashboard) -> Result<Exit, Failure> {
    let store = project::existing_store(global, None)?;
    // An unknown run is said now and not in the browser.
    store.find_run(&args.run)?;
    let port = args.port.unwrap_or(0);
    let server = Server::http((Ipv4Addr::LOCALHOST, port)).map_err(|error| {
        let error = Diagnostic::error("dashboard::port", format!("port {port} cannot be used: {error}"));
        Failure::of(Exit::Usage, error).help("leave --port out for a free one")
    })?;
    let Some(port) = server.server_addr().to_ip().map(|address| address.port()) else {
        return Err(Failure::usage("dashboard::port", "the server has no address"));
    };
    let server = Arc::new(server);
    let ended = Arc::clone(&server);
    ctrlc::set_handler(move || ended.unblock())
        .map_err(|error| Failure::from(std::io::Error::other(format!("signals cannot be caught: {error}"))))?;
    output::data(&format!("http://127.0.0.1:{port}/\n"));
    output::note("Ctrl-C ends it");
    for request in server.incoming_requests() {
        // A browser that went away is no error.
        let _ = answer(&store, &args.run, port, request);
    }
    Ok(Exit::Fine)
}

fn answer(store: &Store, run: &str, port: u16, request: Request) -> std::io::Result<()> {
    let own = [format!("127.0.0.1:{port}"), format!("localhost:{port}")];
    let host = request.headers().iter().find(|header| header.field.equiv("Host"));
    if !host.is_some_and(|host| own.iter().any(|own| host.value.as_str().eq_ignore_ascii_case(own))) {
        return request.respond(plain(403, "This is for the machine it runs on.\n"));
    }
    if *request.method() != Method::Get {
        return request.respond(plain(405, "Only GET.\n"));
    }
    let show = match request.url() {
        "/" => |view: &RunView, now| page::live(view, SCRIPT, now),
        "/content" => |view: &RunView, now| page::content(view, now),
        _ => return request.respond(plain(404, "There is nothing here.\n")),
    };
    let now = jiff::Timestamp::now().as_millisecond();
    match store.find_run(run).and_then(|row| RunView::load(store, row)) {
        Ok(view) => request.respond(response(200, "text/html; charset=utf-8", show(&view, now))),
        Err(error) => request.respond(plain(500, &format!("{error}\n"))),
    }
}

fn plain(status: u16, text: &str) -> Response<std::io::Cursor<Vec<u8>>> {
    response(status, "text/plain; charset=utf-8", text.to_owned())
}

fn response(status: u16, kind: &str, text: String) -> Response<std::io::Cursor<Vec<u8>>> {
    let headers = [
        ("Content-Type", kind),
        ("Content-Security-Policy", POLICY),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Cache-Control", "no-store"),
    ];
    let headers = headers.iter().filter_map(|(name, value)| Header::from_bytes(name.as_bytes(), value.as_bytes()).ok());
    headers.fold(Response::from_string(text).with_status_code(status), Response::with_header)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpStream,
    };

    use camino::Utf8Path;
    use sepia_cache::{OpenMode, RunCounts, RunEnd, RunLock, RunRow};

    use super::*;
    use crate::test_browser::Browser;

    /// The first line of an answer, and all of it.
    fn ask(port: u16, method: &str, host: &str, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer).into_owned();
        (answer.lines().next().unwrap_or_default().to_owned(), answer)
    }

    /// A run that goes on.
    fn row() -> RunRow {
        RunRow {
            run: "run-1".into(),
            plan: None,
            manifest: "m.toml".into(),
            command: "sepia run".into(),
            started_at: 1_700_000_000_000,
            finished_at: None,
            outcome: None,
            counts: RunCounts::default(),
            details: serde_json::Value::Null,
        }
    }

    /// The store of a run that goes on, and a server for it.
    fn under_way(folder: &Utf8Path) -> (Store, RunLock, Server, u16) {
        let store = Store::open(&folder.join(".sepia"), OpenMode::Create).unwrap();
        let lock = store.lock_run("run-1").unwrap();
        store.start_run(&row()).unwrap();
        let server = Server::http((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = server.server_addr().to_ip().unwrap().port();
        (store, lock, server, port)
    }

    #[test]
    fn it_answers_this_machine_and_reads_only() {
        let folder = tempfile::tempdir().unwrap();
        let (store, lock, server, port) = under_way(Utf8Path::from_path(folder.path()).unwrap());
        let own = format!("127.0.0.1:{port}");
        std::thread::scope(|scope| {
            let (server, store) = (&server, &store);
            scope.spawn(move || {
                server.incoming_requests().for_each(|request| drop(answer(store, "latest", port, request)))
            });
            let (first, page) = ask(port, "GET", &own, "/");
            assert!(first.contains("200") && page.contains("run-1") && page.contains("running"), "{page}");
            assert!(page.contains("default-src 'none'") && page.contains("connect-src 'self'"), "{page}");
            assert!(ask(port, "GET", &format!("localhost:{port}"), "/content").1.contains("m.toml"));
            for host in ["evil.example", &format!("evil.example:{port}"), "127.0.0.1", "127.0.0.1:1", ""] {
                assert!(ask(port, "GET", host, "/").0.contains("403"), "{host}");
            }
            for method in ["POST", "PUT", "DELETE", "OPTIONS", "HEAD"] {
                assert!(ask(port, method, &own, "/").0.contains("405"), "{method}");
            }
            for path in ["/../../etc/passwd", "/%2e%2e/x", "//", "/content?x"] {
                assert!(ask(port, "GET", &own, path).0.contains("404"), "{path}");
            }
            server.unblock();
        });
        drop(lock);
    }

    #[test]
    fn a_browser_follows_a_run_to_its_end() {
        let Some(browser) = Browser::find() else { return };
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        let (store, lock, server, port) = under_way(folder);
        let shown = std::thread::scope(|scope| {
            let (server, store) = (&server, &store);
            scope.spawn(move || {
                for request in server.incoming_requests() {
                    // The run ends while its page is open.
                    if request.url() == "/content" {
                        let (outcome, finished_at) = ("done".to_owned(), 1_700_000_005_000);
                        let end = RunEnd { plan: None, finished_at, outcome, counts: RunCounts::default() };
                        store.finish_run("run-1", &end).unwrap();
                    }
                    drop(answer(store, "latest", port, request));
                }
            });
            // Time passes as fast as the page can use it, and stands still while an answer is on its way.
            let shown = browser.show(folder, &format!("http://127.0.0.1:{port}/"), &["--virtual-time-budget=5000"]);
            server.unblock();
            shown
        });
        assert!(shown.page.contains("took 5.00 s") && !shown.page.contains(">running<"), "{}", shown.page);
        assert!(!shown.said.contains("CONSOLE"), "{}", shown.said);
        drop(lock);
    }
}
