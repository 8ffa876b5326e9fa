use std::{
    io::{BufRead as _, BufReader},
    net::TcpListener,
    sync::{Arc, Mutex},
};

use super::*;

/// What the server does with one request.
#[derive(Clone, Copy)]
enum Answer {
    /// All that is asked for, ranges included.
    Whole,
    /// The whole file, whatever range was asked for.
    NoRanges,
    /// So many bytes of what is asked for, then the connection ends.
    Breaks(usize),
    /// So many bytes of what is asked for, then nothing, for ever.
    Hangs(usize),
    /// Nothing but a status.
    Status(u16),
}

/// A real server in this process. It gives its answers in turn, the last one for ever, and notes the ranges it was asked
/// for.
struct Server {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(content: &'static [u8], answers: &'static [Answer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/data/file.txt", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&asked);
        std::thread::spawn(move || {
            let mut open = Vec::new();
            for (at, stream) in listener.incoming().enumerate() {
                let mut stream = stream.unwrap();
                let mut range = String::new();
                for line in BufReader::new(stream.try_clone().unwrap()).lines() {
                    let line = line.unwrap();
                    if line.is_empty() {
                        break;
                    }
                    if let Some(value) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
                        range = value.to_owned();
                    }
                }
                noted.lock().unwrap().push(range.clone());
                let begin: usize = range.trim_end_matches('-').parse().unwrap_or(0);
                let answer = answers[at.min(answers.len() - 1)];
                let (begin, count) = match answer {
                    Answer::NoRanges => (0, content.len()),
                    Answer::Breaks(count) | Answer::Hangs(count) => (begin, count.min(content.len() - begin)),
                    _ => (begin.min(content.len()), content.len() - begin.min(content.len())),
                };
                let head = match answer {
                    Answer::Status(status) => format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\n"),
                    _ if begin >= content.len() => "HTTP/1.1 416 No\r\nContent-Length: 0\r\n".to_owned(),
                    _ if begin > 0 => format!(
                        "HTTP/1.1 206 Partial\r\nContent-Range: bytes {begin}-{}/{}\r\nContent-Length: {}\r\n",
                        content.len() - 1,
                        content.len(),
                        content.len() - begin
                    ),
                    _ => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n", content.len()),
                };
                let _ = stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes());
                if !matches!(answer, Answer::Status(_)) {
                    let _ = stream.write_all(&content[begin..begin + count]);
                }
                if matches!(answer, Answer::Hangs(_)) {
                    open.push(stream);
                }
            }
        });
        Self { url, asked }
    }

    fn remote(&self, content: &[u8]) -> Remote {
        Remote { url: self.url.clone(), blake3: Some(blake3::hash(content).to_hex().to_string()), sha256: None }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

struct Downloads(tempfile::TempDir);

impl Downloads {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn fetch(&self, remote: &Remote) -> Result<Utf8PathBuf, FetchError> {
        fetch(remote, Utf8Path::from_path(self.0.path()).unwrap(), &mut |_, _| {})
    }

    fn part(&self, remote: &Remote) -> Utf8PathBuf {
        let place = remote.place(Utf8Path::from_path(self.0.path()).unwrap());
        place.with_extension("txt.part")
    }
}

const TEXT: &[u8] = b"It is a truth universally acknowledged, that a file in possession of a digest must be wanted.";

#[test]
fn a_file_is_fetched_once_and_verified() {
    let (server, downloads) = (Server::start(TEXT, &[Answer::Whole]), Downloads::new());
    let remote = server.remote(TEXT);
    let path = downloads.fetch(&remote).unwrap();
    assert_eq!((fs_err::read(&path).unwrap().as_slice(), path.file_name()), (TEXT, Some("file.txt")));
    assert_eq!(downloads.fetch(&remote).unwrap(), path);
    assert_eq!(server.asked(), [""]);
    // The same bytes by their SHA-256.
    let sha256 = Some("b9d1ad2c".to_owned());
    let wrong = Remote { blake3: None, sha256, ..remote.clone() };
    let FetchError::Digest { algorithm, found, .. } = downloads.fetch(&wrong).unwrap_err() else {
        panic!("it is wrong")
    };
    assert_eq!((algorithm, found.len()), ("sha256", 64));
    downloads.fetch(&Remote { sha256: Some(found), ..wrong }).unwrap();
}

#[test]
fn a_broken_transfer_goes_on_where_it_stopped() {
    let server = Server::start(TEXT, &[Answer::Breaks(10), Answer::Breaks(20), Answer::Whole]);
    let downloads = Downloads::new();
    let path = downloads.fetch(&server.remote(TEXT)).unwrap();
    assert_eq!(fs_err::read(path).unwrap(), TEXT);
    assert_eq!(server.asked(), ["", "10-", "30-"]);
}

#[test]
fn a_server_that_falls_silent_is_asked_again_for_the_rest() {
    let downloads = Downloads::new();
    let folder = Utf8Path::from_path(downloads.0.path()).unwrap();
    let server = Server::start(TEXT, &[Answer::Hangs(10), Answer::Whole]);
    let path = fetch_within(&server.remote(TEXT), folder, 2, &mut |_, _| {}).unwrap();
    assert_eq!(fs_err::read(path).unwrap(), TEXT);
    assert!(server.asked().len() > 1);
    let silent = Server::start(TEXT, &[Answer::Hangs(0)]);
    let remote = Remote { blake3: Some("0".repeat(64)), ..silent.remote(TEXT) };
    let error = fetch_within(&remote, folder, 1, &mut |_, _| {}).unwrap_err();
    assert!(matches!(error, FetchError::Broken { got: 0, .. }), "{error}");
}

#[test]
fn what_another_run_left_is_used_or_thrown_away() {
    let downloads = Downloads::new();
    let leave = |remote: &Remote, bytes: &[u8]| {
        let part = downloads.part(remote);
        fs_err::create_dir_all(part.parent().unwrap()).unwrap();
        fs_err::write(part, bytes).unwrap();
    };
    // The rest of it.
    let server = Server::start(TEXT, &[Answer::Whole]);
    let remote = server.remote(TEXT);
    leave(&remote, &TEXT[..40]);
    downloads.fetch(&remote).unwrap();
    assert_eq!(server.asked(), ["40-"]);
    // All of it.
    fs_err::remove_file(remote.place(Utf8Path::from_path(downloads.0.path()).unwrap())).unwrap();
    leave(&remote, TEXT);
    downloads.fetch(&remote).unwrap();
    // Not the beginning of it; and a server that knows no ranges.
    for answers in [&[Answer::Whole], &[Answer::NoRanges]] {
        let server = Server::start(TEXT, answers);
        let remote = server.remote(TEXT);
        let downloads = Downloads::new();
        let part = downloads.part(&remote);
        fs_err::create_dir_all(part.parent().unwrap()).unwrap();
        fs_err::write(part, "something else").unwrap();
        assert_eq!(fs_err::read(downloads.fetch(&remote).unwrap()).unwrap(), TEXT);
        assert_eq!(server.asked()[0], "14-");
    }
}

#[test]
fn what_is_not_as_the_manifest_says_is_not_kept() {
    let (server, downloads) = (Server::start(TEXT, &[Answer::Whole]), Downloads::new());
    let remote = server.remote(b"something else");
    let error = downloads.fetch(&remote).unwrap_err();
    let found = blake3::hash(TEXT).to_hex();
    assert!(error.to_string().contains(&format!("its blake3 is {found}, not ")), "{error}");
    assert!(error.help().contains(&format!("blake3 = \"{found}\"")), "{}", error.help());
    let left: Vec<_> = fs_err::read_dir(downloads.part(&remote).parent().unwrap())
        .unwrap()
        .map(|file| file.unwrap().file_name())
        .collect();
    assert_eq!(left, [".lock"]);
}

#[test]
fn a_file_that_someone_changed_is_fetched_again() {
    let (server, downloads) = (Server::start(TEXT, &[Answer::Whole]), Downloads::new());
    let path = downloads.fetch(&server.remote(TEXT)).unwrap();
    fs_err::remove_file(&path).unwrap();
    fs_err::write(&path, "changed").unwrap();
    assert_eq!(fs_err::read(downloads.fetch(&server.remote(TEXT)).unwrap()).unwrap(), TEXT);
}

#[test]
fn errors_say_what_the_server_did_and_what_is_kept() {
    let downloads = Downloads::new();
    let gone = Server::start(TEXT, &[Answer::Status(404)]);
    let error = downloads.fetch(&gone.remote(TEXT)).unwrap_err();
    assert_eq!(error.to_string(), format!("{} cannot be fetched: the server answered 404", gone.url));
    assert_eq!(gone.asked().len(), 1);
    let busy = Server::start(TEXT, &[Answer::Status(503), Answer::Whole]);
    downloads.fetch(&busy.remote(TEXT)).unwrap();
    let breaking = Server::start(TEXT, &[Answer::Breaks(2)]);
    let error = Downloads::new().fetch(&breaking.remote(TEXT)).unwrap_err();
    assert!(error.to_string().ends_with("(8 bytes are kept)"), "{error}");
    assert!(error.help().contains("goes on where it stopped"));
    let nobody = Remote { url: "http://127.0.0.1:1/x".to_owned(), ..breaking.remote(TEXT) };
    assert!(matches!(Downloads::new().fetch(&nobody).unwrap_err(), FetchError::Broken { got: 0, .. }));
}
