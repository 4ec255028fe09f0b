//! Bandwidth limits of ports, on real stacks: what iperf3 gets through is the limit, in both directions, for TCP and
//! UDP, on one node and across the tunnel, with all offloads on; and under such load the pod still answers soon.

mod common;

use std::time::{Duration, Instant};

use common::{Host, add_host, add_network, mtu, note, start};
use lab::conserve::check;
use lab::probe::{IperfOptions, PingOptions, iperf, ping, ping_with};
use lab::{Error, Lab, Node, Ns, Result, ensure, wait};

const PREFIX: (&str, &str) = ("10.1.1", "fd00:1");
/// What a limit may drop.
const ALLOWED: &[&str] = &["rx-limit", "tx-limit"];
/// Bytes of a datagram's payload.
const DATAGRAM: u64 = 1400;
/// Bits of its IPv4 packet.
const DATAGRAM_BITS: f64 = (DATAGRAM + 28) as f64 * 8.0;
/// IPv4 and TCP headers, with the timestamps that Linux adds.
const TCP_HEADERS: u64 = 52;
/// How often a measurement may be too low, because others kept the processors busy. None may be too high.
const ATTEMPTS: u32 = 3;

/// Limits as `swctl` takes them, both ways; without a burst it is derived.
fn limits(mbits: u64, burst: Option<&str>) -> Vec<String> {
    let mut args = Vec::new();
    for way in ["ingress", "egress"] {
        args.extend([format!("--{way}-rate"), format!("{mbits}M")]);
        if let Some(burst) = burst {
            args.extend([format!("--{way}-burst"), burst.to_owned()]);
        }
    }
    args
}

fn host(lab: &Lab, node: &Node, name: &str, number: u16, more: &[String]) -> Result<Host> {
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    add_host(lab, node, name, PREFIX, number, &more)
}

/// Bits per second of IP packets that one TCP stream of iperf3 brings across.
fn tcp_rate(from: &Host, to: &Host, seconds: u32) -> Result<f64> {
    let options = IperfOptions { seconds, ..IperfOptions::default() };
    let report = iperf(from.ns(), to.ns(), to.ip(false), &options)?;
    let mtu = mtu(to.ns(), "eth0")?;
    Ok(report.bits_per_second * mtu as f64 / (mtu - TCP_HEADERS) as f64)
}

/// Datagrams that the sockets of a namespace have received.
fn datagrams(ns: &Ns) -> Result<u64> {
    let text = ns.run_in(|| std::fs::read_to_string("/proc/thread-self/net/snmp"))??;
    let line = text.lines().filter(|l| l.starts_with("Udp:")).nth(1);
    line.and_then(|l| l.split_whitespace().nth(1)?.parse().ok())
        .ok_or_else(|| Error::failed(format!("no datagram count of {}", ns.name())))
}

/// Bits per second of IP packets that arrive while iperf3 sends twice as many datagrams as the limit allows. Counted
/// by the receiving kernel: iperf3's own account has to cross the flooded limit.
fn udp_rate(lab: &Lab, from: &Host, to: &Host, mbits: u64, seconds: u32) -> Result<f64> {
    let log = |who: &Host| lab.dir().join(format!("iperf3-udp-{}.log", who.pod.name()));
    let server_log = log(to);
    let _ = std::fs::remove_file(&server_log);
    let server = to.ns().cmd("iperf3").args(["-s", "-1", "--forceflush"]).daemon("iperf3", &server_log)?;
    wait::until("iperf3 server listens", Duration::from_secs(5), || {
        std::fs::read_to_string(&server_log).ok()?.contains("Server listening").then_some(())
    })?;
    let before = datagrams(to.ns())?;
    let client = from
        .ns()
        .cmd("iperf3")
        .args(["-u", "-t", "60", "-c", &to.ip(false).to_string()])
        .args(["-b", &format!("{}M", mbits * 2), "-l", &DATAGRAM.to_string()])
        .daemon("iperf3", &log(from))?;
    let per_second = mbits as f64 * 1e6 / DATAGRAM_BITS;
    let reached = |share: f64| -> Result<(u64, Instant)> {
        let goal = before + (per_second * share) as u64;
        let limit = Duration::from_secs(10) + Duration::from_secs_f64(share * 2.0);
        wait::until_ok("datagrams arrive", limit, || {
            let (count, now) = (datagrams(to.ns())?, Instant::now());
            ensure!(count >= goal, "{} of {} datagrams", count - before, goal - before);
            Ok((count, now))
        })
    };
    // The burst is over after half a second.
    let (first, start) = reached(0.5)?;
    let (last, end) = reached(0.5 + f64::from(seconds))?;
    drop((client, server));
    Ok((last - first) as f64 * DATAGRAM_BITS / (end - start).as_secs_f64())
}

/// What gets through is the limit, within five percent.
fn holds(lab: &Lab, from: &Host, to: &Host, udp: bool, mbits: u64, seconds: u32) -> Result<()> {
    let what = format!("{} {} to {}", if udp { "UDP" } else { "TCP" }, from.pod.name(), to.pod.name());
    let mut share = 0.0;
    for _ in 0..ATTEMPTS {
        let rate = if udp { udp_rate(lab, from, to, mbits, seconds) } else { tcp_rate(from, to, seconds) }?;
        share = rate / (mbits as f64 * 1e6);
        note(format!("{what} at {mbits} Mbit/s: {:.1} %", share * 100.0));
        ensure!(share <= 1.05, "{what} gets {share:.3} of {mbits} Mbit/s");
        if share >= 0.95 {
            return Ok(());
        }
    }
    Err(Error::failed(format!("{what} gets {share:.3} of {mbits} Mbit/s")))
}

/// Two nodes; on `a` the pods free and limited, on `b` the pod far.
struct World {
    lab: Lab,
    free: Host,
    limited: Host,
    far: Host,
}

fn world(name: &str, mbits: u64, burst: Option<&str>) -> Result<World> {
    let lab = Lab::new(name).node("a").node("b").build()?;
    let (a, b) = (lab.node("a")?, lab.node("b")?);
    for (node, other) in [(a, b), (b, a)] {
        start(node, false, &[])?;
        add_network(node, "pods", 1, &[PREFIX], &[])?;
        node.add_peer(other, false, &[])?;
    }
    let free = host(&lab, a, "free", 2, &[])?;
    let limited = host(&lab, a, "limited", 3, &limits(mbits, burst))?;
    let far = host(&lab, b, "far", 4, &[])?;
    for node in lab.nodes() {
        node.settle()?;
    }
    for other in [&free, &far] {
        ping(limited.ns(), other.ip(false))?;
    }
    Ok(World { lab, free, limited, far })
}

/// Both directions, both protocols, both places.
fn limit_holds(name: &str, mbits: u64, burst: Option<&str>) -> Result<()> {
    let World { lab, free, limited, far } = world(name, mbits, burst)?;
    for udp in [false, true] {
        for other in [&free, &far] {
            holds(&lab, other, &limited, udp, mbits, 4)?;
            holds(&lab, &limited, other, udp, mbits, 4)?;
        }
    }
    check(lab.nodes(), ALLOWED)
}

/// The derived burst would be a tenth of what is sent.
fn at_1_mbit() -> Result<()> {
    limit_holds("bw1", 1, Some("64k"))
}

fn at_20_mbit() -> Result<()> {
    limit_holds("bw20", 20, None)
}

fn at_200_mbit() -> Result<()> {
    limit_holds("bw200", 200, None)
}

/// While TCP keeps a limit busy, a ping through the same queue waits for about as long as the queue may be.
fn the_wait_is_bounded() -> Result<()> {
    let World { lab, free, limited, .. } = world("bwwait", 20, None)?;
    for (from, to) in [(&free, &limited), (&limited, &free)] {
        let pings = PingOptions { count: 30, interval: Duration::from_millis(100), ..PingOptions::default() };
        let report = std::thread::scope(|scope| {
            let load = scope.spawn(|| tcp_rate(from, to, 5));
            let report = ping_with(from.ns(), to.ip(false), &pings);
            load.join().map_err(|_| Error::failed("iperf3 panicked"))??;
            report
        })?;
        let average = report.rtt_avg_ms.unwrap_or(f64::INFINITY);
        note(format!("ping {} to {} under load: {average} ms", from.pod.name(), to.pod.name()));
        // 25 ms for the queue, and as much again for a busy machine. Unbounded it would be most of a second.
        ensure!(average < 50.0, "{}", report.text);
        ensure!(report.received > report.sent / 2, "{}", report.text);
    }
    check(lab.nodes(), ALLOWED)
}

/// Ports without limits do not notice the others': neither what waits nor what is dropped is theirs.
fn others_are_not_limited() -> Result<()> {
    let World { lab, free, limited, far } = world("bwfree", 1, None)?;
    let other = host(&lab, lab.node("a")?, "other", 5, &[])?;
    lab.node("a")?.settle()?;
    std::thread::scope(|scope| {
        let busy = scope.spawn(|| tcp_rate(&free, &limited, 8));
        for to in [&other, &far] {
            let pings =
                PingOptions { count: 20, interval: Duration::from_millis(50), ..PingOptions::default() };
            let report = ping_with(free.ns(), to.ip(false), &pings)?;
            ensure!(report.received == report.sent, "{}", report.text);
            let rate = tcp_rate(&free, to, 1)?;
            note(format!("beside a limit of 1 Mbit/s, TCP to {}: {:.0} Mbit/s", to.pod.name(), rate / 1e6));
            ensure!(rate > 20e6, "{} gets {rate} bits per second", to.pod.name());
        }
        busy.join().map_err(|_| Error::failed("iperf3 panicked"))?.map(drop)
    })?;
    check(lab.nodes(), ALLOWED)
}

fn main() -> std::process::ExitCode {
    lab::harness::run(&[
        ("at_1_mbit", at_1_mbit),
        ("at_20_mbit", at_20_mbit),
        ("at_200_mbit", at_200_mbit),
        ("the_wait_is_bounded", the_wait_is_bounded),
        ("others_are_not_limited", others_are_not_limited),
    ])
}
