//! Anything may happen to some pods, at any time; the others do not notice.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::common::{Mode, Setup, World, add_host, note};
use crate::device::{DROPS, limbo};
use crate::event::{Event, Victim};
use crate::process::{Held, healthy};
use crate::stream::Stream;
use lab::conserve::check;
use lab::harness::setting;
use lab::impair::Rng;
use lab::probe::ping;
use lab::{Context, Result, ensure};

const LAB: &str = "anything";

/// Datagrams per second of each stream between those that are not concerned.
const RATE: u64 = 500;
const SOON: Duration = Duration::from_secs(10);

pub fn random_events() -> Result<()> {
    let seed = setting("LAB_SEED", 1);
    run(seed).context(format!("LAB_SEED={seed}"))
}

fn run(seed: u64) -> Result<()> {
    let (events, mut rng) = (setting("LAB_EVENTS", 40), Rng::new(seed));
    let world = World::build(&Setup::new(LAB, Mode::Bridged))?;
    let (lab, near, beside, far) = (&world.lab, &world.near, &world.beside, &world.far);
    let limbo = limbo(lab)?;
    let mut victims = Vec::new();
    for n in 0..4 {
        let node = &lab.nodes()[usize::from(n % 2)];
        let host = add_host(lab, node, &format!("v{n}"), ("10.1.1", "fd00:1"), 100 + n, &[])?;
        ping(host.ns(), near.ip(false))?;
        victims.push(Victim { lab, node, host });
    }
    let streams = [
        Stream::start(near.ns(), beside.ns(), beside.ip(false), RATE)?,
        Stream::start(beside.ns(), far.ns(), far.ip(true), RATE)?,
        Stream::start(far.ns(), near.ns(), near.ip(false), RATE)?,
    ];
    streams.iter().try_for_each(|stream| stream.moves(RATE / 2, SOON))?;
    let held = lab.nodes().iter().map(Held::by).collect::<Result<Vec<_>>>()?;
    let namespaces = own_namespaces()?;
    let (begun, mut all, mut by_event) = (Instant::now(), Vec::new(), BTreeMap::<_, Vec<_>>::new());
    for number in 0..events {
        let at = rng.below(victims.len() as u64) as usize;
        let event = Event::any(&mut rng);
        let took =
            victims[at].suffer(event, limbo.ns()).context(format!("event {number}, {event:?} of v{at}"))?;
        all.extend(&took);
        by_event.entry(event).or_default().extend(took);
    }
    let lasted = begun.elapsed();
    for victim in &victims {
        ping(victim.host.ns(), near.ip(false))?;
        ping(victim.host.ns(), far.ip(true))?;
    }
    streams.iter().try_for_each(|stream| stream.moves(RATE / 2, SOON))?;
    let (mut sent, mut lost) = (0, 0);
    for stream in streams {
        let heard = stream.finish()?;
        (sent, lost) = (sent + heard.sent, lost + heard.lost());
    }
    for (event, took) in &mut by_event {
        note(format!("random_events: {event:?}: {}", figures(took)));
    }
    note(format!(
        "random_events: {events} events in {:.0} s; convergence {}",
        lasted.as_secs_f64(),
        figures(&mut all)
    ));
    note(format!("random_events: {lost} of {sent} datagrams lost between those that were not concerned"));
    ensure!(lost == 0, "{lost} of {sent} datagrams were lost");
    for (node, held) in lab.nodes().iter().zip(&held) {
        healthy(node)?;
        held.again_by(node)?;
    }
    let left = own_namespaces()?;
    ensure!(left == namespaces, "namespaces: {left:?}, were {namespaces:?}");
    check(lab.nodes(), DROPS)
}

fn figures(took: &mut [Duration]) -> String {
    took.sort();
    let at = |share: f64| took.get((took.len().saturating_sub(1) as f64 * share) as usize).copied();
    let ms = |share: f64| at(share).unwrap_or_default().as_millis();
    format!("p50 {} ms, p99 {} ms, max {} ms ({} steps)", ms(0.5), ms(0.99), ms(1.0), took.len())
}

/// Those of this test; others come and go.
fn own_namespaces() -> Result<Vec<String>> {
    let prefix = format!("{LAB}-");
    Ok(lab::netns::list()?.into_iter().filter(|name| name.starts_with(&prefix)).collect())
}
