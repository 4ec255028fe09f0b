//! `swctl status` and `swctl wait`.

use ctl::proto;
use serde::Serialize;
use std::time::Duration;

use crate::context::{Context, Done, Outcome};
use crate::ledger::Ledger;
use crate::print::{or_dash, span};

#[derive(clap::Args, Debug)]
pub struct WaitArgs {
    /// As printed by a mutation with -o json
    #[arg(long, value_name = "N")]
    generation: u64,
}

#[derive(Serialize)]
struct View {
    version: String,
    node: String,
    underlay: Option<String>,
    router_mac: String,
    pid: u32,
    uptime_ms: u64,
    generation: u64,
    applied_generation: u64,
    workers: u32,
    networks: u32,
    ports_up: u32,
    ports_down: u32,
    peers_up: u32,
    peers_down: u32,
    offload: Offload,
    sandbox: Vec<Measure>,
    monitor: Option<Monitor>,
    watch: String,
    ledger: Ledger,
    degraded: Vec<Degraded>,
}

#[derive(Serialize)]
struct Offload {
    tap: Vec<String>,
    udp_gso_segments: u32,
    udp_gro: bool,
}

#[derive(Serialize)]
struct Monitor {
    pid: u32,
    restarts: u64,
    upgrades: u64,
    last_end: String,
}

#[derive(Serialize)]
struct Measure {
    measure: String,
    achieved: bool,
    detail: String,
}

#[derive(Serialize)]
struct Degraded {
    object: String,
    message: String,
    hint: String,
}

impl From<proto::Status> for View {
    fn from(s: proto::Status) -> Self {
        let (o, l) = (s.offload.unwrap_or_default(), s.ledger.unwrap_or_default());
        let degraded = |d: proto::Degraded| Degraded { object: d.object, message: d.message, hint: d.hint };
        let measure =
            |m: proto::SandboxMeasure| Measure { measure: m.measure, achieved: m.achieved, detail: m.detail };
        Self {
            version: s.version,
            node: s.node,
            underlay: Some(s.underlay).filter(|u| !u.is_empty()),
            router_mac: s.router_mac,
            pid: s.pid,
            uptime_ms: s.uptime_ms,
            generation: s.generation,
            applied_generation: s.applied_generation,
            workers: s.workers,
            networks: s.networks,
            ports_up: s.ports_up,
            ports_down: s.ports_down,
            peers_up: s.peers_up,
            peers_down: s.peers_down,
            offload: Offload { tap: o.tap, udp_gso_segments: o.udp_gso_segments, udp_gro: o.udp_gro },
            sandbox: s.sandbox.into_iter().map(measure).collect(),
            monitor: s.monitor.map(|m| Monitor {
                pid: m.pid,
                restarts: m.restarts,
                upgrades: m.upgrades,
                last_end: m.last_end,
            }),
            watch: s.watch,
            ledger: l.into(),
            degraded: s.degraded.into_iter().map(degraded).collect(),
        }
    }
}

pub fn status(context: &mut Context) -> Done {
    let request = proto::GetStatusRequest {};
    let view = View::from(context.call(async |s| s.get_status(request).await)?);
    if context.print.json {
        context.print.object(&view)?;
    } else {
        table(&view, context)?;
    }
    Ok(if view.degraded.is_empty() { Outcome::Done } else { Outcome::Problems })
}

fn table(v: &View, context: &mut Context) -> std::io::Result<()> {
    let print = &mut context.print;
    let up = span(v.uptime_ms);
    print.line(&format!("swd {} on {}  up {up}  pid {}  workers {}", v.version, v.node, v.pid, v.workers))?;
    let gso = match v.offload.udp_gso_segments {
        0 => "off".to_owned(),
        n => n.to_string(),
    };
    let gro = if v.offload.udp_gro { "on" } else { "off" };
    let applied = if v.applied_generation == v.generation { "applied" } else { "not yet applied" };
    let rows = [
        ("generation", format!("{} ({applied})", v.generation)),
        ("underlay", or_dash(v.underlay.clone().unwrap_or_default())),
        ("router MAC", or_dash(v.router_mac.as_str())),
        ("networks", v.networks.to_string()),
        ("ports", format!("{} up / {} down", v.ports_up, v.ports_down)),
        ("peers", format!("{} up / {} down", v.peers_up, v.peers_down)),
        ("offload", format!("TAP: {}   UDP: gso {gso}, gro {gro}", or_dash(v.offload.tap.join(",")))),
        ("monitor", monitor(v.monitor.as_ref())),
        ("watch", or_dash(v.watch.as_str())),
        ("sandbox", sandbox(&v.sandbox)),
        ("frames", v.ledger.line()),
    ];
    for (key, value) in rows {
        print.line(&format!("  {key:<12}{value}"))?;
    }
    for m in v.sandbox.iter().filter(|m| !m.achieved) {
        print.line(&format!("  {:<12}no {}: {}", "", m.measure, m.detail))?;
    }
    for d in &v.degraded {
        let hint = if d.hint.is_empty() { String::new() } else { format!("   ({})", d.hint) };
        print.line(&format!("WARN  {}: {}{hint}", d.object, d.message))?;
    }
    Ok(())
}

/// Whether the process that forwards had to be started again, and why.
fn monitor(monitor: Option<&Monitor>) -> String {
    match monitor {
        None => "none: pods lose their links with this process".to_owned(),
        Some(Monitor { pid, restarts, upgrades, last_end }) => {
            let restarts = match restarts {
                0 => "no restarts".to_owned(),
                _ => format!("restarts {restarts}, last: {last_end}"),
            };
            let upgrades = if *upgrades == 0 { String::new() } else { format!(", upgrades {upgrades}") };
            format!("pid {pid}{upgrades}, {restarts}")
        }
    }
}

/// How much of it there is; what is missing has lines of its own.
fn sandbox(measures: &[Measure]) -> String {
    match (measures.iter().filter(|m| m.achieved).count(), measures.len()) {
        (_, 0) => "none, one process does everything".to_owned(),
        (achieved, all) => format!("{achieved} of {all} measures"),
    }
}

pub fn wait(args: &WaitArgs, context: &mut Context) -> Done {
    #[derive(Serialize)]
    struct View {
        generation: u64,
        applied_generation: u64,
    }
    let timeout = context.global.timeout;
    let timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
    let request = proto::WaitGenerationRequest { generation: args.generation, timeout_ms };
    let client = context.client()?;
    // The daemon's answer says more than our own giving up would.
    client.set_timeout(timeout + Duration::from_secs(2));
    let reply = client.call(async |s| s.wait_generation(request).await)?;
    if context.print.json {
        let view = View { generation: reply.generation, applied_generation: reply.applied_generation };
        context.print.object(&view)?;
    }
    Ok(Outcome::Done)
}
