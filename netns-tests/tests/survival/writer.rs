//! Somebody who changes the configuration all the time, and looks after each death of a daemon whether the last
//! acknowledged state is there.
//!
//! A request that was under way when the process died has no answer; the idempotent forms are repeated until there is
//! one. Requests made while there is no process wait for the next: none is refused.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use lab::cmd::Output;
use lab::impair::Rng;
use lab::{Context, Error, Node, Pod, Result, ensure};
use serde_json::{Value, json};

/// Different routes.
const ROUTES: u64 = 4;
/// A change is acknowledged within this time, however often it has to be asked for.
const PATIENCE: Duration = Duration::from_secs(30);
/// Exit code of `swctl` when the connection is lost.
const LOST: i32 = 4;

/// How often the switch process of a node was killed: one that has begun may hit a request that is under way.
#[derive(Debug, Default)]
pub struct Kills {
    begun: AtomicU64,
    done: AtomicU64,
}

impl Kills {
    /// Does one.
    pub fn during<T>(&self, kill: impl FnOnce() -> Result<T>) -> Result<T> {
        self.begun.fetch_add(1, SeqCst);
        let killed = kill()?;
        self.done.fetch_add(1, SeqCst);
        Ok(killed)
    }

    /// So far.
    pub fn count(&self) -> u64 {
        self.begun.load(SeqCst)
    }
}

/// Writes to one node.
#[derive(Debug)]
pub struct Writer<'a> {
    node: &'a Node,
    kills: &'a Kills,
    /// Its port comes and goes.
    pod: &'a Pod,
    rng: Rng,
    file: PathBuf,
    /// The objects of others.
    rest: Value,
    /// What was acknowledged: its own objects, and the limits of ports.
    known: BTreeMap<String, u64>,
    /// Kills before the state was last compared.
    compared: u64,
    pub tally: Tally,
}

/// What a writer did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Acknowledged changes.
    pub changes: u64,
    /// Times that the state was compared after a kill.
    pub comparisons: u64,
    /// Requests that had to be made again.
    pub again: u64,
}

impl<'a> Writer<'a> {
    /// One for this node, whose switch process dies now and then.
    pub fn new(node: &'a Node, kills: &'a Kills, pod: &'a Pod, seed: u64) -> Result<Self> {
        let mut rest = node.swctl(&["export"])?;
        let known = take_mine(&mut rest, pod.name());
        ensure!(known.is_empty(), "{known:?} is there at first");
        let file = node.dir().join("limits.json");
        let (rng, tally) = (Rng::new(seed), Tally::default());
        Ok(Self { node, kills, pod, rng, file, rest, known, compared: 0, tally })
    }

    /// One change; before it, if there was a kill, a comparison.
    pub fn step(&mut self) -> Result<()> {
        self.compare()?;
        let port = format!("port {}", self.pod.name());
        if self.rng.below(3) == 0 {
            let prefix = self.route(self.rng.clone().below(ROUTES));
            let key = format!("route {prefix}");
            if self.known.contains_key(&key) {
                self.done(&["route", "del", &prefix, "--network", "pods", "--if-exists"])?;
                self.known.remove(&key);
            } else {
                let add = ["route", "add", &prefix, "--network", "pods", "--blackhole", "--may-exist"];
                self.done(&add)?;
                self.known.insert(key, 0);
            }
        } else if !self.known.contains_key(&port) {
            let netns = self.pod.ns().path().display().to_string();
            let add = ["port", "add", self.pod.name(), "--network", "pods", "--netns", &netns, "--may-exist"];
            self.done(&add)?;
            self.known.insert(port, 0);
        } else if self.rng.chance(0.6) {
            let rate = (1 + self.rng.below(1000)) * 1_000_000;
            self.limit(rate)?;
            self.known.insert(port, rate);
        } else {
            self.done(&["port", "del", self.pod.name(), "--if-exists"])?;
            self.known.remove(&port);
        }
        self.tally.changes += 1;
        Ok(())
    }

    /// Takes away what is left, so that the node is as it was.
    pub fn clean_up(&mut self) -> Result<()> {
        self.compare()?;
        for key in std::mem::take(&mut self.known).into_keys() {
            match key.split_once(' ') {
                Some(("route", prefix)) => self.done(&["route", "del", prefix, "--network", "pods"])?,
                _ => self.done(&["port", "del", self.pod.name()])?,
            };
        }
        Ok(())
    }

    /// After a kill: the configuration is the one that was acknowledged last, and all of it.
    pub fn compare(&mut self) -> Result<()> {
        let kills = self.kills.count();
        if kills == self.compared {
            return Ok(());
        }
        let mut rest: Value = serde_json::from_str(&self.done(&["-o", "json", "export"])?.stdout)?;
        let found = take_mine(&mut rest, self.pod.name());
        let after = format!("on {} after {kills} kills", self.node.name());
        ensure!(found == self.known, "{after}: {found:?}, acknowledged was {:?}", self.known);
        ensure!(rest == self.rest, "{after}: {rest}, before {}", self.rest);
        self.compared = kills;
        self.tally.comparisons += 1;
        Ok(())
    }

    fn route(&self, number: u64) -> String {
        format!("10.{}.{number}.0/24", 90 + self.node.index())
    }

    /// Limits the port, without making it anew.
    fn limit(&mut self, rate: u64) -> Result<()> {
        let netns = self.pod.ns().path();
        let port = json!({
            "name": self.pod.name(), "network": "pods", "netns": netns, "bandwidth": { "ingress_rate": rate },
        });
        std::fs::write(&self.file, json!({ "version": 1, "ports": [port] }).to_string())?;
        let file = self.file.display().to_string();
        self.done(&["apply", "-f", &file]).map(drop)
    }

    /// Asks until it is acknowledged. Only a kill is an excuse.
    fn done(&mut self, args: &[&str]) -> Result<Output> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let before = self.kills.done.load(SeqCst);
            let output = self.node.swctl_output(args)?;
            if output.code == 0 {
                return Ok(output);
            }
            let what = format!("swctl {} on {}", args.join(" "), self.node.name());
            let said = format!("exit code {}: {}", output.code, output.stderr.trim());
            ensure!(self.kills.count() > before && output.code == LOST, "{what}: {said}");
            ensure!(Instant::now() < deadline, "{what}: no answer for {PATIENCE:?}; {said}");
            self.tally.again += 1;
        }
    }
}

/// Takes the objects of the writer with this port out of a document; of each the limit, if it can have one.
fn take_mine(document: &mut Value, port: &str) -> BTreeMap<String, u64> {
    let mut mine = BTreeMap::new();
    let Some(document) = document.as_object_mut() else { return mine };
    for (list, kind, key) in [("routes", "route", "prefix"), ("ports", "port", "name")] {
        let Some(rows) = document.get_mut(list).and_then(Value::as_array_mut) else { continue };
        rows.retain(|row| {
            let name = row[key].as_str().unwrap_or_default();
            if kind == "port" && name != port {
                return true;
            }
            let rate = row["bandwidth"]["ingress_rate"].as_u64().unwrap_or(0);
            mine.insert(format!("{kind} {name}"), rate);
            false
        });
    }
    // A list that is empty is left out.
    document.retain(|_, value| *value != json!([]));
    mine
}

/// The sum of what several did.
pub fn sum(tallies: impl IntoIterator<Item = Tally>) -> Tally {
    tallies.into_iter().fold(Tally::default(), |a, b| Tally {
        changes: a.changes + b.changes,
        comparisons: a.comparisons + b.comparisons,
        again: a.again + b.again,
    })
}

/// Changes at random on all nodes in turn, until told to stop.
pub fn write(writers: &mut [Writer<'_>], pause: Duration, stop: impl Fn() -> bool) -> Result<()> {
    if writers.is_empty() {
        return Err(Error::failed("nobody writes"));
    }
    while !stop() {
        for writer in writers.iter_mut() {
            let node = writer.node.name();
            writer.step().context(format!("the writer of {node}"))?;
            std::thread::sleep(pause);
        }
    }
    Ok(())
}
