//! A proxy before an S3 server that makes it worse than it is.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What is wrong with the server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It accepts conditions on writes, and ignores them.
    Liar,
    /// It takes its time with every piece.
    Slow,
    /// It has no room for anything large.
    Full,
}

/// Starts a proxy before a port, and returns its own. It goes with the process.
pub(crate) fn start(fault: Fault, port: u16) -> u16 {
    start_counting(fault, port).0
}

/// The same, and counts the bytes of all answers.
pub(crate) fn start_counting(fault: Fault, port: u16) -> (u16, Arc<AtomicU64>) {
    let count = Arc::new(AtomicU64::new(0));
    let counts = Arc::clone(&count);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let client = client.unwrap();
            let counts = Arc::clone(&counts);
            std::thread::spawn(move || {
                let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
                let (back_from, back_to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                std::thread::spawn(move || copy(fault, back_from, back_to, &counts));
                let _ = requests(fault, &client, &server);
                let _ = server.shutdown(Shutdown::Both);
                let _ = client.shutdown(Shutdown::Both);
            });
        }
    });
    (own, count)
}

/// Answers, as they come.
fn copy(fault: Fault, mut from: TcpStream, mut to: TcpStream, counts: &AtomicU64) {
    let mut piece = vec![0; 64 << 10];
    while let Ok(n) = from.read(&mut piece)
        && n > 0
        && to.write_all(&piece[..n]).is_ok()
    {
        counts.fetch_add(n as u64, Ordering::SeqCst);
        if fault == Fault::Slow {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

/// Requests, one after the other.
fn requests(fault: Fault, mut client: &TcpStream, mut server: &TcpStream) -> std::io::Result<()> {
    loop {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            client.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let text = String::from_utf8_lossy(&head).into_owned();
        let header = |line: &str, name: &str| line.to_ascii_lowercase().starts_with(name);
        let length = text.lines().find(|line| header(line, "content-length:"));
        let mut left: usize = length.map_or(0, |line| line["content-length:".len()..].trim().parse().unwrap());
        let is_put = text.starts_with("PUT ");
        if fault == Fault::Full && is_put && left > 1 << 20 && !text.contains("/probe/") {
            std::io::copy(&mut client.take(left as u64), &mut std::io::sink())?;
            client.write_all(b"HTTP/1.1 507 Insufficient Storage\r\nContent-Length: 0\r\n\r\n")?;
            continue;
        }
        let lies = fault == Fault::Liar && is_put;
        let kept = text.split_inclusive("\r\n").filter(|line| !(lies && header(line, "if-none-match:")));
        server.write_all(kept.collect::<String>().as_bytes())?;
        let mut piece = vec![0; 64 << 10];
        while left > 0 {
            let most = left.min(piece.len());
            client.read_exact(&mut piece[..most])?;
            server.write_all(&piece[..most])?;
            left -= most;
            if fault == Fault::Slow {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}
