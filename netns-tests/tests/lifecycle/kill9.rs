//! `kill -9` at random moments while three writers change everything there is: after each restart
//! the state is what was acknowledged last, give or take the changes that were never answered.
//!
//! 200 kills; `LAB_KILLS` sets another number, `LAB_SEED` another sequence. Alone:
//! `cargo test --release -p netns-tests --test lifecycle -- kill9_200`

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::common::{add_network, note};
use lab::harness::setting;
use lab::impair::Rng;
use lab::{Context, Error, Lab, Node, Pod, Result, ensure, wait};
use serde_json::Value;

const WRITERS: u64 = 3;
/// Different objects of each kind and writer.
const OBJECTS: u64 = 6;
/// Ports of each writer, each with a pod of its own.
const PORTS: u64 = 2;
/// The daemon lives at most so long after it has answered for the first time.
const LIFE: Duration = Duration::from_millis(150);

/// What one writer knows.
#[derive(Clone, Debug, Default)]
struct Known {
    /// Objects that are there, as far as was acknowledged.
    objects: BTreeSet<String>,
    /// The object of a change without an answer: there or not.
    open: Option<String>,
    /// The last generation acknowledged.
    generation: u64,
    acknowledged: u64,
}

/// An object by its number, and the arguments that add and delete it.
fn object(writer: u64, rng: &mut Rng, pods: &[Pod]) -> (String, Vec<String>, Vec<String>) {
    let words = |line: String| -> Vec<String> { line.split(' ').map(str::to_owned).collect() };
    let n = rng.below(OBJECTS);
    match rng.below(5) {
        0 | 1 => {
            let name = format!("w{writer}-{n}");
            let vni = 100 + writer * OBJECTS + n;
            let add = words(format!("network add {name} --vni {vni}"));
            (format!("network {name}"), add, words(format!("network del {name}")))
        }
        2 => {
            let name = format!("w{writer}-{n}");
            let add = words(format!("peer add {name} --remote 192.168.{}.{}", 100 + writer, n + 1));
            (format!("peer {name}"), add, words(format!("peer del {name}")))
        }
        3 => {
            let prefix = format!("10.{}.{n}.0/24", 100 + writer);
            let add = words(format!("route add {prefix} --network pods --blackhole"));
            (format!("route {prefix}"), add, words(format!("route del {prefix} --network pods")))
        }
        _ => {
            let n = (writer * PORTS + n % PORTS) as usize;
            let name = format!("w{writer}-{n}");
            let netns = pods[n].ns().name();
            let add =
                words(format!("port add {name} --network pods --netns {netns} --ip 10.1.1.{}/24", n + 2));
            (format!("port {name}"), add, words(format!("port del {name}")))
        }
    }
}

/// Changes at random until the daemon is gone.
fn write(
    node: &Node,
    writer: u64,
    known: &mut Known,
    rng: &mut Rng,
    pods: &[Pod],
    dead: &AtomicBool,
    answers: &AtomicU64,
) -> Result<()> {
    for _ in 0..10_000 {
        let (name, add, del) = object(writer, rng, pods);
        let there = known.objects.contains(&name);
        let args = if there { del } else { add };
        let mut line = vec!["-o", "json"];
        line.extend(args.iter().map(String::as_str));
        let output = node.swctl_output(&line)?;
        if output.code != 0 {
            // Only a dead daemon may say no, and only so that one cannot tell whether it was done.
            ensure!(dead.load(SeqCst), "swctl {}: {}", args.join(" "), output.stderr);
            known.open = Some(name);
            return Ok(());
        }
        let reply: Value = serde_json::from_str(&output.stdout)?;
        known.generation = lab::swd::generation(&reply).ok_or("no generation")?;
        known.acknowledged += 1;
        if there {
            known.objects.remove(&name);
        } else {
            known.objects.insert(name);
        }
        answers.fetch_add(1, SeqCst);
    }
    Err(Error::failed("the daemon was never killed"))
}

/// The objects of one writer in the daemon's own words.
fn found(document: &Value, writer: u64) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let mine = [format!("w{writer}-"), format!("10.{}.", 100 + writer)];
    for (list, kind, key) in [
        ("networks", "network", "name"),
        ("peers", "peer", "name"),
        ("routes", "route", "prefix"),
        ("ports", "port", "name"),
    ] {
        let rows = document[list].as_array().into_iter().flatten();
        let names =
            rows.filter_map(|row| row[key].as_str()).filter(|n| mine.iter().any(|m| n.starts_with(m)));
        all.extend(names.map(|name| format!("{kind} {name}")));
    }
    all
}

/// One life of the daemon: it is written to, killed, restarted and compared.
fn life(node: &Node, known: &mut [Known], rngs: &mut [Rng], pods: &[Pod], moment: Duration) -> Result<()> {
    let (dead, answers) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| -> Result<()> {
        let (dead, answers) = (&dead, &answers);
        let writers: Vec<_> = known
            .iter_mut()
            .zip(rngs.iter_mut())
            .enumerate()
            .map(|(n, (known, rng))| {
                scope.spawn(move || write(node, n as u64, known, rng, pods, dead, answers))
            })
            .collect();
        let begun = wait::until("the first change", Duration::from_secs(10), || {
            (answers.load(SeqCst) > 0 || writers.iter().any(|w| w.is_finished())).then_some(())
        });
        // A random moment, not a state to wait for.
        let at = Instant::now() + moment;
        while Instant::now() < at {
            std::thread::yield_now();
        }
        dead.store(true, SeqCst);
        node.kill9()?;
        for writer in writers {
            writer.join().unwrap_or_else(|_| Err(Error::failed("a writer panicked")))?;
        }
        begun
    })?;
    node.restart()?;
    let document = node.swctl(&["export"])?;
    let status: Value = serde_json::from_str(&node.swctl_output(&["-o", "json", "status"])?.stdout)?;
    for (n, known) in known.iter_mut().enumerate() {
        let found = found(&document, n as u64);
        let difference: Vec<String> = found.symmetric_difference(&known.objects).cloned().collect();
        let allowed =
            difference.is_empty() || known.open.as_ref().is_some_and(|open| difference == [open.clone()]);
        ensure!(allowed, "writer {n}: {difference:?} differs, open was {:?}", known.open);
        ensure!(
            status["generation"].as_u64() >= Some(known.generation),
            "generation {} after {} was acknowledged",
            status["generation"],
            known.generation
        );
        known.objects = found;
        known.open = None;
    }
    // Ports are not only declared again, they are there.
    let ports = document["ports"].as_array().map_or(0, Vec::len);
    wait::until("all ports are up", Duration::from_secs(5), || {
        let status = node.swctl(&["status"]).ok()?;
        (status["ports_up"] == ports && status["degraded"] == serde_json::json!([])).then_some(())
    })
    .context(format!("{ports} ports are declared; status: {status}"))
}

pub fn kill9_200() -> Result<()> {
    let (kills, seed) = (setting("LAB_KILLS", 200), setting("LAB_SEED", 1));
    let lab = Lab::new("kill9").node("a").node("b").build()?;
    let a = lab.node("a")?;
    a.start_swd(&["--log-level", "warn"])?;
    add_network(a, "pods", 1, &[("10.1.1", "fd00:1")], &[])?;
    let mut pods = Vec::new();
    for n in 0..WRITERS * PORTS {
        pods.push(lab.pod(&format!("p{n}"))?);
    }
    let mut rng = Rng::new(seed);
    let mut rngs: Vec<Rng> = (0..WRITERS).map(|_| Rng::new(rng.next_u64())).collect();
    let mut known = vec![Known::default(); WRITERS as usize];
    let start = Instant::now();
    for kill in 0..kills {
        let moment = LIFE.mul_f64(rng.unit());
        life(a, &mut known, &mut rngs, &pods, moment)
            .context(format!("kill {} of {kills} (LAB_SEED={seed})", kill + 1))?;
    }
    let changes: u64 = known.iter().map(|k| k.acknowledged).sum();
    note(format!(
        "kill -9: {kills} of {kills} restarts found the last acknowledged state; {changes} acknowledged changes, \
         {:.0} s",
        start.elapsed().as_secs_f64()
    ));
    Ok(())
}
