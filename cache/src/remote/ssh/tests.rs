use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use super::cut::Cut;
use super::line::Transport;
use super::place::Place;
use super::protocol::{Ask, Greeting};
use super::*;
use crate::layout::Layout;
use crate::remote::config::RemoteConfig;
use crate::remote::{OpenRemote, RemoteOptions, connect};
use crate::test_support::{Fixture, record};
use crate::{Digest, StoreError, What};

/// What serves the other end of a stream.
type Host = fn(UnixStream);

fn honest(stream: UnixStream) {
    let input = stream.try_clone().unwrap();
    let _ = serve(input, stream);
}

/// A remote over a stream instead of ssh. Each connection may carry so many bytes in each direction; connections are
/// counted.
fn remote(folder: &str, host: Host, bytes: i64, dialled: &Arc<AtomicU32>) -> SshRemote {
    let mut place = Place::parse("host/x?timeout=2").unwrap();
    place.folder = folder.to_owned();
    let dialled = Arc::clone(dialled);
    let dial = move || {
        dialled.fetch_add(1, Ordering::SeqCst);
        let (ours, theirs) = UnixStream::pair()?;
        std::thread::spawn(move || host(theirs));
        let ends = ours.try_clone()?;
        let left = || Arc::new(AtomicI64::new(bytes));
        Ok(Transport {
            from: Box::new(Cut::new(ours.try_clone()?, left())),
            to: Box::new(Cut::new(ours, left())),
            hang_up: Box::new(move |_| drop(ends.shutdown(Shutdown::Both))),
            why: Box::new(|_| None),
        })
    };
    SshRemote::with("host/x", place, Box::new(dial))
}

fn whole(folder: &str) -> SshRemote {
    remote(folder, honest, i64::MAX, &Arc::default())
}

/// A store with the remote `lab`, which is `folder` reached over a connection.
fn over(f: &Fixture, folder: &str, remote: SshRemote) -> OpenRemote {
    if f.store.remotes().unwrap().is_empty() {
        f.store.add_remote("lab", folder, RemoteOptions { trust: true, ..RemoteOptions::default() }).unwrap();
    }
    let config: RemoteConfig = f.store.remotes().unwrap().remove(0);
    OpenRemote { remote: Arc::new(remote), config }
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    noise
}

#[test]
fn it_does_what_a_folder_does() {
    let f = Fixture::new();
    let folder = f.root.join("lab");
    let remote = whole(folder.as_str());
    assert!(remote.list("objects").unwrap().is_empty());
    assert_eq!(remote.size("probe/a").unwrap(), None);
    assert_eq!(remote.read("probe/a", 0, &mut Vec::new()).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert!(remote.create("probe/a", b"1").unwrap() && !remote.create("probe/a", b"2").unwrap());
    // Sizes around those of frames.
    for bytes in [0, 1, PIECE - 1, PIECE, PIECE + 1, 10 * PIECE, 10 * PIECE + 7] {
        let noise = noise(bytes);
        remote.put("probe/b", &mut noise.as_slice()).unwrap();
        assert_eq!(remote.size("probe/b").unwrap(), Some(bytes as u64));
        for from in [0, bytes / 3, bytes] {
            let mut back = Vec::new();
            remote.read("probe/b", from as u64, &mut back).unwrap();
            assert!(back == noise[from..], "{bytes} from {from}");
        }
    }
    remote.settle().unwrap();
    for i in 0..6000 {
        std::fs::write(folder.join(format!("probe/long-name-{}-{i}", "x".repeat(100))), "").unwrap();
    }
    assert_eq!(remote.list("probe").unwrap().len(), 6002);
    remote.remove("probe/b").unwrap();
    remote.remove("probe/b").unwrap();
    assert_eq!(remote.size("probe/b").unwrap(), None);
    for name in ["../x", "/etc/passwd", "probe/.x"] {
        assert!(remote.size(name).is_err() && remote.put(name, &mut &b"x"[..]).is_err());
    }
}

#[test]
fn many_at_once_share_a_connection() {
    let f = Fixture::new();
    let dialled = Arc::default();
    let remote = remote(f.root.join("lab").as_str(), honest, i64::MAX, &dialled);
    let noise = noise(5 * PIECE + 3);
    std::thread::scope(|scope| {
        for i in 0..8 {
            let (remote, noise) = (&remote, &noise[i..]);
            scope.spawn(move || {
                let name = format!("probe/{i}");
                for _ in 0..3 {
                    remote.put(&name, &mut &noise[..]).unwrap();
                    let mut back = Vec::new();
                    remote.read(&name, 0, &mut back).unwrap();
                    assert!(back == noise);
                }
            });
        }
    });
    assert_eq!(dialled.load(Ordering::SeqCst), 1);
}

#[test]
fn the_server_refuses_what_is_not_what_its_name_says() {
    let f = Fixture::new();
    let folder = f.root.join("lab");
    let remote = whole(folder.as_str());
    let good = noise(3 * PIECE);
    let name = format!("objects/{}", Layout::in_objects(&Digest::of_bytes(&good)));
    let mut evil = good.clone();
    evil[2 * PIECE] ^= 1;
    for bytes in [&evil[..], &good[..PIECE + 5], b"short", b""] {
        let error = remote.put(&name, &mut &bytes[..]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().contains("not what its name says"), "{error}");
    }
    assert!(remote.list("objects").unwrap().is_empty());
    remote.put(&name, &mut good.as_slice()).unwrap();
    let left = folder.join(name).parent().unwrap().read_dir_utf8().unwrap().count();
    assert_eq!(left, 1, "nothing is left of what was refused");
}

#[test]
fn a_push_that_is_cut_off_goes_on_where_it_was() {
    let f = Fixture::new();
    let folder = f.root.join("lab");
    let body = noise(40 * PIECE);
    let name = format!("objects/{}", Layout::in_objects(&Digest::of_bytes(&body)));
    let partial = {
        let path = folder.join(&name);
        path.with_file_name(format!(".{}.partial", path.file_name().unwrap()))
    };
    let mut rounds = 0;
    // Each connection carries about nine pieces. A server may take a moment to see that nobody is there any more, and until
    // then it refuses the next one.
    crate::test_support::wait_for(|| {
        let again = remote(folder.as_str(), honest, 9 * PIECE as i64, &Arc::default());
        let put = again.put(&name, &mut body.as_slice());
        rounds += 1;
        put.ok()
    });
    assert!(rounds >= 4, "{rounds}");
    assert!(std::fs::read(folder.join(&name)).unwrap() == body && !partial.exists());
    // What is there of something else is seen for what it is: nothing of it is used.
    std::fs::remove_file(folder.join(&name)).unwrap();
    std::fs::write(&partial, &body[1..5 * PIECE]).unwrap();
    let again = whole(folder.as_str());
    let error = again.put(&name, &mut body.as_slice()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::Interrupted);
    again.put(&name, &mut body.as_slice()).unwrap();
    assert!(std::fs::read(folder.join(&name)).unwrap() == body);
}

#[test]
fn push_and_pull_go_on_over_any_number_of_cuts() {
    let (ours, theirs) = (Fixture::new(), Fixture::new());
    let folder = ours.root.join("lab");
    let file = ours.object(&noise(3 * PIECE + 100));
    let text = "text that can be compressed ".repeat(30_000);
    let tree =
        ours.insert(&ours.tree("t", &[("a", &noise(2 * PIECE)), ("b/c", text.as_bytes()), ("d/", b""), ("e", b"")]));
    ours.store.commit(&[record("a", &[("out", file), ("tree", tree)])]).unwrap();
    let what = What::default();
    let mut cuts = 0;
    // Connections that carry more and more: cut in every part of the conversation.
    for bytes in (300..).step_by(40_000) {
        let to = over(&ours, folder.as_str(), remote(folder.as_str(), honest, bytes, &Arc::default()));
        match ours.store.push(&to, &what, &|_| ()) {
            Ok(_) => break,
            Err(StoreError::Remote { .. }) => cuts += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(cuts > 3, "{cuts}");
    cuts = 0;
    for bytes in (300..).step_by(40_000) {
        let from = over(&theirs, folder.as_str(), remote(folder.as_str(), honest, bytes, &Arc::default()));
        match theirs.store.pull(&from, &what, &|_| ()) {
            Ok(_) => break,
            Err(StoreError::Remote { .. }) => cuts += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(cuts > 3, "{cuts}");
    for object in [file, tree] {
        assert_eq!(theirs.store.verify_object(&object), Ok(()));
    }
    // The text lies there as it travelled.
    let packed = folder.join(format!("trees/{}.pack", Layout::in_objects(&tree.digest)));
    let there = std::fs::metadata(format!("{packed}.zst")).or_else(|_| std::fs::metadata(&packed)).unwrap().len();
    assert!(there < tree.bytes, "{there}");
}

fn error_of(host: Host) -> io::Error {
    let f = Fixture::new();
    remote(f.root.join("lab").as_str(), host, i64::MAX, &Arc::default()).list("records").unwrap_err()
}

#[test]
fn strange_servers_get_clear_errors() {
    let newer = error_of(|mut stream| {
        writeln!(stream, "Welcome!\nsepia-serve {{\"oldest\":7,\"newest\":9,\"version\":\"3.1\"}}").unwrap();
        let _ = stream.read(&mut [0]);
    });
    assert!(newer.to_string().contains("there (3.1) speaks protocols 7 to 9"), "{newer}");
    assert!(newer.to_string().ends_with("update the one here"), "{newer}");
    let older = error_of(|mut stream| {
        writeln!(stream, "sepia-serve {{\"oldest\":0,\"newest\":0,\"version\":\"0.0\"}}").unwrap();
        let _ = stream.read(&mut [0]);
    });
    assert!(older.to_string().ends_with("update the one there"), "{older}");
    let shell = error_of(|mut stream| writeln!(stream, "This account is \x1b[31mnot available.").unwrap());
    assert_eq!(shell.to_string(), "no Sepia answered, but: This account is  [31mnot available.");
    let silent = error_of(drop);
    assert_eq!(silent.to_string(), "no Sepia answered");
    let rubbish = error_of(|mut stream| {
        let greeting = serde_json::to_string(&Greeting { oldest: 1, newest: 1, version: String::new() }).unwrap();
        writeln!(stream, "sepia-serve {greeting}").unwrap();
        let _ = stream.write_all(&[0xff; 4000]);
        let _ = io::copy(&mut stream, &mut io::sink());
    });
    assert!(rubbish.to_string().contains("which is none"), "{rubbish}");
}

#[test]
fn a_server_that_hangs_is_left_after_the_time_out() {
    let hung = error_of(|mut stream| {
        let greeting = serde_json::to_string(&Greeting { oldest: 1, newest: 1, version: String::new() }).unwrap();
        writeln!(stream, "sepia-serve {greeting}").unwrap();
        // It takes whatever comes and never answers.
        let _ = io::copy(&mut stream, &mut io::sink());
    });
    assert_eq!(hung.kind(), io::ErrorKind::TimedOut);
    assert!(hung.to_string().starts_with("nothing came for 2 s: it hangs"), "{hung}");
}

#[test]
fn a_client_that_talks_nonsense_gets_an_answer_or_is_left() {
    let f = Fixture::new();
    let ask = |bytes: &[u8]| {
        let mut out = Vec::new();
        let ended = serve(bytes, &mut out);
        (ended, String::from_utf8_lossy(&out).into_owned())
    };
    let mut early = Vec::new();
    frame::write(&mut early, 1, &Ask::Size { name: "objects/a".into() }, &[]).unwrap();
    let (ended, said) = ask(&early);
    assert!(ended.is_ok() && said.contains("the first question has to be `hello`"), "{said}");
    let mut all = Vec::new();
    let folder = f.root.join("lab").into_string();
    frame::write(&mut all, 1, &Ask::Hello { protocol: 9, folder: folder.clone() }, &[]).unwrap();
    frame::write(&mut all, 2, &Ask::Hello { protocol: 1, folder }, &[]).unwrap();
    frame::write(&mut all, 3, &Ask::Add { upload: 5 }, b"x").unwrap();
    frame::write(&mut all, 4, &"rubbish", &[]).unwrap();
    frame::write(&mut all, 5, &Ask::List { folder: "../..".into() }, &[]).unwrap();
    for _ in 0..70 {
        frame::write(&mut all, 6, &Ask::Begin { name: "probe/x".into() }, &[]).unwrap();
    }
    let (ended, said) = ask(&all);
    assert!(ended.is_ok());
    for part in
        ["protocol 9 is not spoken", "there is no upload 5", "cannot be read", "no name on a remote", "too many"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(ask(&[0xff; 100]).0.is_err());
    // What was begun and is not named by its content is gone with the client.
    assert_eq!(std::fs::read_dir(f.root.join("lab/probe")).unwrap().count(), 0);
}

#[test]
fn addresses_that_cannot_be_are_refused_at_once() {
    for (url, why) in [
        ("ssh://host", "say which folder"),
        ("ssh://-oProxyCommand=x/data", "is no host"),
        ("ssh://host/data?sepai=x", "known are sepia, timeout"),
    ] {
        match connect(url, camino::Utf8Path::new("/none"), None) {
            Err(StoreError::Remote { why: found, .. }) => assert!(found.contains(why), "{found}"),
            _ => panic!("{url}"),
        }
    }
}
