//! A TCP connection on which questions are asked all the time: the other side sends each back, and every byte is
//! compared. It is made once; if it breaks, that is the end of it.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::common::note;
use lab::impair::Rng;
use lab::{Context, Error, Ns, Result, ensure, wait};

/// Longest question. Both fit into the buffers of a socket, so that neither side waits for the other to read.
const LONGEST: u64 = 32 * 1024;
/// A connection that says nothing for so long is broken.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection; it goes when dropped.
#[derive(Debug)]
pub struct Talk {
    what: String,
    answered: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    asker: JoinHandle<Result<Told>>,
    answerer: JoinHandle<Result<()>>,
}

/// What was said on a connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Told {
    /// Questions answered, each with the right bytes.
    pub answered: u64,
    /// Bytes that came back.
    pub bytes: u64,
    /// Longest time from a question to the last byte of its answer.
    pub slowest: Duration,
}

impl Talk {
    /// Connects from one namespace to an address of another; `pause` is the time between two questions.
    pub fn start(from: &Ns, to: &Ns, address: IpAddr, pause: Duration, seed: u64) -> Result<Self> {
        let what = format!("TCP from {} to {address}", from.name());
        let listener = to.run_in(|| TcpListener::bind((address, 0)))?.context(&what)?;
        let at = listener.local_addr()?;
        let answerer = to.spawn(move || answer(&listener));
        let (answered, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, stopped) = (answered.clone(), stop.clone());
        let name = what.clone();
        let asker = from.spawn(move || {
            // Whoever waits for more answers sees only that there are none.
            let asked = ask(at, pause, &mut Rng::new(seed), &count, &stopped);
            asked.inspect_err(|e| note(format!("{name}: {e}")))
        });
        Ok(Self { what, answered, stop, asker, answerer })
    }

    /// Waits until so many more questions have been answered.
    pub fn moves(&self, more: u64, limit: Duration) -> Result<()> {
        self.reaches(self.answered.load(Relaxed) + more, limit)
    }

    fn reaches(&self, goal: u64, limit: Duration) -> Result<()> {
        wait::until(&format!("{}: {goal} answers", self.what), limit, || {
            (self.answered.load(Relaxed) >= goal || self.asker.is_finished()).then_some(())
        })?;
        ensure!(self.answered.load(Relaxed) >= goal, "{}: it has ended", self.what);
        Ok(())
    }

    /// Hangs up. An error if the connection was broken, or something wrong came back.
    pub fn finish(self) -> Result<Told> {
        self.stop.store(true, Relaxed);
        let panicked = |_| Err(Error::failed("panicked"));
        let told = self.asker.join().unwrap_or_else(panicked).context(&self.what);
        self.answerer.join().unwrap_or_else(|_| Err(Error::failed("panicked"))).context(&self.what)?;
        told
    }
}

/// Waits until so many more questions have been answered on each connection, counted on all of them from now.
pub fn all_move(talks: &[Talk], more: u64, limit: Duration) -> Result<()> {
    let goals: Vec<u64> = talks.iter().map(|talk| talk.answered.load(Relaxed) + more).collect();
    talks.iter().zip(goals).try_for_each(|(talk, goal)| talk.reaches(goal, limit))
}

fn ask(
    to: SocketAddr,
    pause: Duration,
    rng: &mut Rng,
    answered: &AtomicU64,
    stop: &AtomicBool,
) -> Result<Told> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).context("connect")?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut told = Told::default();
    let mut back = Vec::new();
    while !stop.load(Relaxed) {
        let length = 1 + rng.below(LONGEST) as usize;
        let question = rng.bytes(length);
        back.resize(question.len(), 0);
        let asked = Instant::now();
        let done = |what: &str| format!("{what}, after {} answers", told.answered);
        stream.write_all(&question).context(done("asking"))?;
        stream.read_exact(&mut back).context(done("waiting for an answer"))?;
        ensure!(back == question, "{} bytes came back changed, after {} answers", back.len(), told.answered);
        told.slowest = told.slowest.max(asked.elapsed());
        told.answered += 1;
        told.bytes += question.len() as u64;
        answered.store(told.answered, Relaxed);
        std::thread::sleep(pause);
    }
    Ok(told)
}

/// Sends back what comes, on one connection, to its end.
fn answer(listener: &TcpListener) -> Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut buffer = vec![0; LONGEST as usize];
    loop {
        let n = stream.read(&mut buffer).context("the side that answers")?;
        if n == 0 {
            return Ok(());
        }
        stream.write_all(buffer.get(..n).unwrap_or_default()).context("the side that answers")?;
    }
}
