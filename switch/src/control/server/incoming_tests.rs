use std::io::ErrorKind;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_stream::StreamExt as _;

use super::*;

const WORDS: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const PLENTY: u64 = 1 << 20;

/// A socket on which every connection is read, and each byte sent back, until it ends.
fn echoing(descriptors: u64) -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let mut incoming = Incoming::new(UnixListener::bind(&path).unwrap(), descriptors);
    tokio::spawn(async move {
        while let Some(Ok(mut guest)) = incoming.next().await {
            tokio::spawn(async move {
                let mut buffer = [0; 64];
                while let Ok(n @ 1..) = guest.read(&mut buffer).await {
                    guest.write_all(&buffer[..n]).await.unwrap();
                }
            });
        }
    });
    (dir, path)
}

/// Says something and waits until it comes back.
async fn speak(client: &mut UnixStream) -> io::Result<()> {
    client.write_all(WORDS).await?;
    let mut back = [0; WORDS.len()];
    client.read_exact(&mut back).await.map(drop)
}

/// Waits for the other side to hang up.
async fn ends(client: &mut UnixStream) {
    match client.read(&mut [0]).await {
        Ok(0) => {}
        Err(e) if e.kind() == ErrorKind::ConnectionReset => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_is_not_waited_for() {
    let (_dir, path) = echoing(PLENTY);
    let began = Instant::now();
    let mut silent = UnixStream::connect(&path).await.unwrap();
    let mut short = UnixStream::connect(&path).await.unwrap();
    let mut client = UnixStream::connect(&path).await.unwrap();
    short.write_all(&WORDS[..10]).await.unwrap();
    short.read_exact(&mut [0; 10]).await.unwrap();
    speak(&mut client).await.unwrap();
    ends(&mut silent).await;
    ends(&mut short).await;
    assert!(began.elapsed() >= FIRST_WORDS && began.elapsed() < FIRST_WORDS * 2, "{:?}", began.elapsed());
    // Who has spoken may be quiet for as long as it likes.
    tokio::time::sleep(FIRST_WORDS * 100).await;
    speak(&mut client).await.unwrap();
}

#[tokio::test]
async fn one_more_is_let_in_and_the_quietest_goes() {
    let (_dir, path) = echoing(PLENTY);
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut client = UnixStream::connect(&path).await.unwrap();
        speak(&mut client).await.unwrap();
        clients.push(client);
    }
    // The clock of the list has a step of a millisecond.
    tokio::time::sleep(Duration::from_millis(5)).await;
    speak(&mut clients[0]).await.unwrap();
    let mut more = UnixStream::connect(&path).await.unwrap();
    speak(&mut more).await.unwrap();
    ends(&mut clients[1]).await;
    speak(&mut clients[0]).await.unwrap();
    speak(&mut clients[2]).await.unwrap();
    speak(&mut more).await.unwrap();
}

#[tokio::test]
async fn a_thousand_that_say_nothing_keep_nobody_out() {
    let (_dir, path) = echoing(PLENTY);
    let mut idle = Vec::new();
    for _ in 0..1000 {
        idle.push(UnixStream::connect(&path).await.unwrap());
    }
    let mut client = UnixStream::connect(&path).await.unwrap();
    tokio::time::timeout(FIRST_WORDS / 2, speak(&mut client)).await.expect("served").unwrap();
}

#[tokio::test]
async fn clients_have_no_part_of_the_last_descriptors() {
    // As if this process might have no more than it has, and a few.
    let here = std::fs::File::open("/dev/null").unwrap().as_raw_fd() as u64;
    let (_dir, path) = echoing(here + LEFT + 24);
    let mut clients = Vec::new();
    for _ in 0..24 {
        let mut client = UnixStream::connect(&path).await.unwrap();
        speak(&mut client).await.unwrap();
        clients.push(client);
    }
    ends(&mut clients[0]).await;
    speak(clients.last_mut().unwrap()).await.unwrap();
}
