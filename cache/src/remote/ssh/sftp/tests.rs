//! The client against OpenSSH's own `sftp-server`, over pipes that can be cut, and against one that gives little at a time.

use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicI64;

use super::packet::{DATA, HANDLE, STATUS, VERSION};
use super::*;
use crate::remote::ssh::cut::Cut;
use crate::remote::ssh::line::Transport;
use crate::remote::{OpenRemote, RemoteOptions};
use crate::test_support::{Fixture, record};
use crate::{StoreError, What};

const SERVERS: [&str; 3] = ["/usr/lib/openssh/sftp-server", "/usr/lib/sftp-server", "/usr/libexec/openssh/sftp-server"];

/// A remote in a folder, by a server with these arguments; each connection may carry so many bytes in each direction.
fn remote(f: &Fixture, arguments: &'static [&'static str], bytes: i64) -> Option<SftpRemote> {
    let Some(server) = SERVERS.into_iter().find(|path| Utf8Path::new(path).exists()) else {
        eprintln!("sftp-server is not installed: its tests are skipped (apt-get install openssh-sftp-server)");
        return None;
    };
    let mut place = Place::parse("host/x?timeout=300").unwrap();
    place.folder = f.root.join("lab").into_string();
    let dial = move || {
        let mut child = Command::new(server).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (to, from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let child = Mutex::new(child);
        let left = || Arc::new(AtomicI64::new(bytes));
        Ok(Transport {
            from: Box::new(Cut::new(from, left())),
            to: Box::new(Cut::new(to, left())),
            hang_up: Box::new(move |_| {
                let mut child = child.lock().unwrap();
                let _ = child.kill();
                let _ = child.wait();
            }),
            why: Box::new(|_| None),
        })
    };
    Some(SftpRemote::new("ssh://host/x".into(), place, Box::new(dial), &f.store.cache_dir().join("uploads")))
}

/// A server that can only what the standard says.
const PLAIN: &[&str] = &["-P", "posix-rename,fsync,hardlink,statvfs,fstatvfs"];

fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    noise
}

fn content(bytes: &[u8]) -> String {
    format!("objects/{}", crate::layout::Layout::in_objects(&Digest::of_bytes(bytes)))
}

#[test]
fn it_does_what_a_folder_does() {
    for arguments in [&[][..], PLAIN] {
        let f = Fixture::new();
        let folder = f.root.join("lab");
        let Some(remote) = remote(&f, arguments, i64::MAX) else { return };
        let session = remote.session().unwrap();
        assert_eq!(session.extensions.fsync() && session.extensions.posix_rename(), arguments.is_empty());
        assert!(remote.list("objects").unwrap().is_empty());
        assert_eq!(remote.size("probe/a").unwrap(), None);
        assert_eq!(remote.read("probe/a", 0, &mut Vec::new()).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(remote.create("probe/deep/a", b"1").unwrap() && !remote.create("probe/deep/a", b"2").unwrap());
        for bytes in [0, 1, PIECE - 1, PIECE, PIECE + 1, AHEAD * PIECE, AHEAD * PIECE + 7, 3 * AHEAD * PIECE + 1] {
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
        for i in 0..600 {
            std::fs::write(folder.join(format!("probe/long-name-{}-{i}", "x".repeat(100))), "").unwrap();
        }
        std::os::unix::fs::symlink("/etc/hostname", folder.join("probe/link")).unwrap();
        assert_eq!(remote.list("probe").unwrap().len(), 602);
        assert_eq!(remote.size("probe/link").unwrap(), None);
        remote.remove("probe/b").unwrap();
        remote.remove("probe/b").unwrap();
        for name in ["../x", "/etc/passwd", "probe/.x"] {
            assert!(remote.size(name).is_err() && remote.put(name, &mut &b"x"[..]).is_err());
        }
        // What has its name from its content is read-only, and nothing hidden is left.
        let name = content(b"hello");
        remote.put(&name, &mut &b"hello"[..]).unwrap();
        remote.put(&name, &mut &b"hello"[..]).unwrap();
        assert!(std::fs::metadata(folder.join(&name)).unwrap().permissions().readonly());
        assert_eq!(std::fs::read_dir(folder.join(&name).parent().unwrap()).unwrap().count(), 1);
        assert_eq!(std::fs::read_dir(folder.join("probe/deep")).unwrap().count(), 1);
    }
}

#[test]
fn an_upload_that_was_torn_off_is_gone_on_with() {
    let f = Fixture::new();
    let body = noise(40 * AHEAD * PIECE / 10);
    let name = content(&body);
    let partial = || {
        let folder = f.root.join("lab").join(&name).parent().unwrap().to_owned();
        let entries = folder.read_dir_utf8().into_iter().flatten().flatten();
        entries.map(|entry| entry.into_path()).find(|path| path.as_str().ends_with(".partial"))
    };
    let there = || partial().map_or(0, |path| std::fs::metadata(path).unwrap().len());
    let (mut rounds, mut before) = (0, 0);
    loop {
        // What is there comes back to be compared: the ways carry more each time.
        let bytes = (1 + rounds) * 40 * PIECE as i64;
        let Some(remote) = remote(&f, &[], bytes) else { return };
        if remote.put(&name, &mut body.as_slice()).is_ok() {
            break;
        }
        drop(remote);
        assert!(there() >= before, "nothing is lost");
        before = there();
        rounds += 1;
        assert!(rounds < 20);
    }
    assert!(rounds > 2 && before > 0, "{rounds} {before}");
    assert!(std::fs::read(f.root.join("lab").join(&name)).unwrap() == body && partial().is_none());
    // Whatever is there, in the beginning or behind the end, becomes what it should be.
    let Some(remote) = remote(&f, &[], i64::MAX) else { return };
    let hidden = remote.hidden(&name, &f.root.join("lab").join(&name)).unwrap().0;
    for left in [&body[1..9 * PIECE], &[&body[..], b"more"].concat(), &body[..5 * PIECE + 3], &[0; 3 * AHEAD * PIECE]] {
        std::fs::write(&hidden, left).unwrap();
        remote.put(&name, &mut body.as_slice()).unwrap();
        assert!(std::fs::read(f.root.join("lab").join(&name)).unwrap() == body && !hidden.exists());
    }
    // While another process of this store is at it, an upload has a name of its own.
    let (ours, lock) = remote.hidden(&name, &hidden).unwrap();
    let (other, none) = remote.hidden(&name, &hidden).unwrap();
    assert!(lock.is_some() && none.is_none() && ours != other);
}

#[test]
fn push_and_pull_go_on_over_any_number_of_cuts() {
    let (ours, theirs) = (Fixture::new(), Fixture::new());
    let file = ours.object(&noise(9 * PIECE + 100));
    let text = "text that can be compressed ".repeat(30_000);
    let tree = ours.insert(&ours.tree("t", &[("a", &noise(2 * PIECE)), ("b/c", text.as_bytes()), ("d/", b"")]));
    ours.store.commit(&[record("a", &[("out", file), ("tree", tree)])]).unwrap();
    let folder = ours.root.join("lab");
    for f in [&ours, &theirs] {
        f.store.add_remote("lab", folder.as_str(), RemoteOptions { trust: true, ..RemoteOptions::default() }).unwrap();
    }
    let config = |f: &Fixture| {
        let mut config = f.store.remotes().unwrap().remove(0);
        config.probe.links = None;
        config
    };
    let (mut pushes, mut pulls) = (0, 0);
    for bytes in (300..).step_by(10_000) {
        let Some(remote) = remote(&ours, PLAIN, bytes) else { return };
        let to = OpenRemote { remote: Arc::new(remote), config: config(&ours) };
        match ours.store.push(&to, &What::default(), &|_| ()) {
            Ok(_) => break,
            Err(StoreError::Remote { .. }) => pushes += 1,
            Err(other) => panic!("{other}"),
        }
    }
    for bytes in (300..).step_by(10_000) {
        let Some(mut remote) = remote(&ours, &[], bytes) else { return };
        remote.state = theirs.store.cache_dir();
        let from = OpenRemote { remote: Arc::new(remote), config: config(&theirs) };
        match theirs.store.pull(&from, &What::default(), &|_| ()) {
            Ok(_) => break,
            Err(StoreError::Remote { .. }) => pulls += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(pushes > 3 && pulls > 3, "{pushes} {pulls}");
    for object in [file, tree] {
        assert_eq!(theirs.store.verify_object(&object), Ok(()));
    }
    // The folder is one that others reach in another way.
    let third = Fixture::new();
    third.store.add_remote("lab", folder.as_str(), RemoteOptions { trust: true, ..RemoteOptions::default() }).unwrap();
    third.store.pull(&third.store.open_remote(None).unwrap(), &What::default(), &|_| ()).unwrap();
    assert_eq!(third.store.verify_object(&tree), Ok(()));
}

#[test]
fn what_is_damaged_here_does_not_get_there() {
    let f = Fixture::new();
    let Some(remote) = remote(&f, &[], i64::MAX) else { return };
    let object = f.object(&noise(5 * PIECE));
    let path = f.store.object_path(&object);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, vec![0; 5 * PIECE]).unwrap();
    f.store.commit(&[record("a", &[("out", object)])]).unwrap();
    f.store.add_remote("lab", f.root.join("lab").as_str(), RemoteOptions::default()).unwrap();
    let to = OpenRemote { remote: Arc::new(remote), config: f.store.remotes().unwrap().remove(0) };
    let error = f.store.push(&to, &What::default(), &|_| ()).unwrap_err();
    assert!(error.to_string().contains("is damaged"), "{error}");
    let hex = object.digest.to_string();
    let folder = f.root.join("lab/objects").join(&hex[..2]);
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0, "not even something hidden");
}

/// A server that gives no more than 1,000 bytes at a time, of a file in which each byte is its place.
fn miser(stream: UnixStream) {
    const LENGTH: u64 = 300_000;
    let say = |packet: Packet, id: u32| packet.write(&mut &stream, id).unwrap();
    while let Ok(Some(mut came)) = packet::read(&mut &stream) {
        match came.what {
            1 => say(Packet::new(VERSION), 3),
            OPEN => say(Packet::new(HANDLE).bytes(b"h"), came.id),
            READ => {
                came.bytes().unwrap();
                let (from, wanted) = (came.long().unwrap(), came.number().unwrap());
                let end = LENGTH.min(from + u64::from(wanted.min(1000)));
                if from >= LENGTH {
                    say(Packet::new(STATUS).number(1).bytes(b"").bytes(b""), came.id);
                } else {
                    let bytes: Vec<u8> = (from..end).map(|place| (place % 251) as u8).collect();
                    say(Packet::new(DATA).bytes(&bytes), came.id);
                }
            }
            _ => say(Packet::new(STATUS).number(0).bytes(b"").bytes(b""), came.id),
        }
    }
}

fn over_stream(f: &Fixture, seconds: u32, host: fn(UnixStream)) -> SftpRemote {
    let place = Place::parse(&format!("host/x?timeout={seconds}")).unwrap();
    let dial = move || {
        let (ours, theirs) = UnixStream::pair()?;
        std::thread::spawn(move || host(theirs));
        let ends = ours.try_clone()?;
        Ok(Transport {
            from: Box::new(ours.try_clone()?),
            to: Box::new(ours),
            hang_up: Box::new(move |_| drop(ends.shutdown(std::net::Shutdown::Both))),
            why: Box::new(|_| None),
        })
    };
    SftpRemote::new("ssh://host/x".into(), place, Box::new(dial), &f.store.cache_dir())
}

#[test]
fn servers_may_give_less_than_was_asked_for() {
    let f = Fixture::new();
    let remote = over_stream(&f, 300, miser);
    for from in [0, 1, 32_768, 299_999, 300_000, 400_000] {
        let mut back = Vec::new();
        remote.read("objects/x", from, &mut back).unwrap();
        let expected: Vec<u8> = (from..300_000).map(|place| (place % 251) as u8).collect();
        assert!(back == expected, "from {from}: {} bytes", back.len());
    }
}

#[test]
fn strange_servers_get_clear_errors() {
    let f = Fixture::new();
    let shell = over_stream(&f, 300, |mut stream| {
        writeln!(stream, "This account is not available.").unwrap();
        let _ = io::copy(&mut stream, &mut io::sink());
    });
    let error = shell.size("objects/x").unwrap_err().to_string();
    assert!(error.contains("what came is not sftp (it begins with `This acco`)"), "{error}");
    let silent = over_stream(&f, 300, drop).size("objects/x").unwrap_err().to_string();
    assert!(silent.contains("no sftp server answered"), "{silent}");
    let old = over_stream(&f, 300, |mut stream| {
        Packet::new(VERSION).write(&mut stream, 2).unwrap();
        let _ = io::copy(&mut stream, &mut io::sink());
    });
    assert!(old.size("objects/x").unwrap_err().to_string().contains("too old"));
    let hung = over_stream(&f, 2, |mut stream| {
        Packet::new(VERSION).write(&mut stream, 3).unwrap();
        let _ = io::copy(&mut stream, &mut io::sink());
    });
    let error = hung.size("objects/x").unwrap_err();
    assert!(
        error.kind() == io::ErrorKind::TimedOut && error.to_string().starts_with("nothing came for 2 s"),
        "{error}"
    );
}
