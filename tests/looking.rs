//! The page of a run, live.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, Stdio},
};

use crate::support::{Project, wait_until};

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
