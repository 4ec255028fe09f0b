//! The `bandwidth` capability, from the runtime's document to what a pod gets.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use lab::flow::{TcpFlow, TcpOptions};
use lab::{Error, Ns, Result, ensure};
use serde_json::json;

use crate::support::{Cluster, CniPod};

/// Bits per second, both ways.
const RATE: u64 = 20_000_000;
/// How long one window of measurement is, and how many there may be.
const SPAN: Duration = Duration::from_secs(2);
const WINDOWS: u32 = 6;
/// The allowed error.
const TOLERANCE: f64 = 0.05;
/// Payload of a datagram, and of it together with its IPv4 and UDP headers: what the limit counts.
const DATAGRAM: (usize, u64) = (1200, 1228);

/// Measures a counter of bits until one window is within the tolerance. None may be above it; one below may be
/// the doing of a machine that has other work. The burst allowance is spent in the first second.
fn reaches_its_rate(what: &str, bits: impl Fn() -> f64) -> Result<()> {
    let window = |length: Duration| {
        let (start, before) = (Instant::now(), bits());
        std::thread::sleep(length);
        (bits() - before) / start.elapsed().as_secs_f64()
    };
    window(Duration::from_secs(1));
    let mut seen = Vec::new();
    for _ in 0..WINDOWS {
        let ratio = window(SPAN) / RATE as f64;
        seen.push(format!("{:.2}", ratio * RATE as f64 / 1e6));
        ensure!(ratio <= 1.0 + TOLERANCE, "{what}: {} Mbit/s instead of 20", seen.join(", "));
        if ratio >= 1.0 - TOLERANCE {
            return Ok(());
        }
    }
    Err(Error::failed(format!("{what}: {} Mbit/s instead of 20", seen.join(", "))))
}

/// IP packets over TCP, as fast as they go.
fn tcp(from: &CniPod, to: &CniPod) -> Result<()> {
    let what = format!("TCP from {} to {}", from.name(), to.name());
    let options = TcpOptions { bytes: None, ..TcpOptions::default() };
    let flow = TcpFlow::start(from.ns(), to.ns(), to.ip(false)?, &options)?;
    // A segment has 20 bytes of IP, 20 of TCP and 12 of timestamps, all within the pods' MTU of 1450.
    let packets = |bytes: u64| bytes as f64 * 1450.0 / (1450.0 - 52.0);
    reaches_its_rate(&what, || packets(flow.received()) * 8.0)?;
    let mss = flow.finish()?.mss;
    ensure!(mss == 1450 - 52, "{what}: the MSS is {mss}");
    Ok(())
}

/// IP packets that arrive when half as much again is sent.
fn udp(from: &CniPod, to: &CniPod) -> Result<()> {
    let at = SocketAddr::new(to.ip(false)?, 9000);
    let (stop, arrived) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (stopped, counted) = (stop.clone(), arrived.clone());
    let receiver = to.ns().run_in(|| UdpSocket::bind(at))??;
    receiver.set_read_timeout(Some(Duration::from_millis(50)))?;
    let receive = std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while !stopped.load(Relaxed) {
            if receiver.recv(&mut buffer).is_ok_and(|n| n == DATAGRAM.0) {
                counted.fetch_add(1, Relaxed);
            }
        }
    });
    let send = sender(from.ns(), at, stop.clone());
    let what = format!("UDP from {} to {}", from.name(), to.name());
    let measured = reaches_its_rate(&what, || (arrived.load(Relaxed) * DATAGRAM.1 * 8) as f64);
    stop.store(true, Relaxed);
    let panicked = |_| Error::failed("a thread panicked");
    receive.join().map_err(panicked)?;
    send.join().map_err(panicked)??;
    measured
}

fn sender(from: &Ns, to: SocketAddr, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<Result<()>> {
    from.spawn(move || {
        let any: IpAddr = [0, 0, 0, 0].into();
        let socket = UdpSocket::bind((any, 0))?;
        let (start, payload) = (Instant::now(), [7; DATAGRAM.0]);
        let mut sent = 0u64;
        while !stop.load(Relaxed) {
            let due = start.elapsed().as_secs_f64() * RATE as f64 * 1.5 / (DATAGRAM.1 * 8) as f64;
            while (sent as f64) < due {
                socket.send_to(&payload, to)?;
                sent += 1;
            }
            // A pace, not a wait.
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    })
}

pub fn a_pod_with_the_bandwidth_capability_gets_its_rate_both_ways() -> Result<()> {
    let cluster = Cluster::new("bandwidth", &["a"])?;
    let limited =
        json!({ "ingressRate": RATE, "ingressBurst": 200_000, "egressRate": RATE, "egressBurst": 200_000 });
    let pod = cluster.add_with("a", "limited", &[("bandwidth", limited)])?;
    let other = cluster.add("a", "other")?;
    let node = cluster.node("a")?;
    let name = format!("{}/eth0", pod.attached.container.id);
    for (from, to) in [(&other, &pod), (&pod, &other)] {
        tcp(from, to)?;
        udp(from, to)?;
    }
    // What the operator sees of it.
    let stats = node.swctl(&["port", "stats", &name])?;
    for direction in ["ingress", "egress"] {
        let limit = &stats[0][direction];
        ensure!(limit["rate"] == RATE && limit["burst"] == 200_000, "{direction}: {stats}");
        for figure in ["delayed_frames", "pauses", "paused_ms", "dropped_packets"] {
            ensure!(limit[figure].as_u64().is_some_and(|n| n > 0), "{direction} {figure}: {stats}");
        }
    }
    let text = node.swctl_text(&["port", "stats"])?;
    ensure!(text.contains("IN/OUT BIT/S") && text.contains("20M/20M"), "{text}");
    cluster.check(&["rx-limit", "tx-limit"])
}
