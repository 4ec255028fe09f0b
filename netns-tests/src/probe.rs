//! Probes with well-known tools: ping and iperf3, their output read into numbers. Conversations
//! with every byte compared are in [`crate::flow`].

use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;

use crate::error::{Context, Error, Result};
use crate::netns::Ns;
use crate::wait;

/// How to ping.
#[derive(Clone, Copy, Debug)]
pub struct PingOptions {
    /// How many requests.
    pub count: u32,
    /// Time between requests; zero sends all of them at once.
    pub interval: Duration,
    /// Payload size.
    pub size: u16,
    /// Forbid fragmentation.
    pub dont_fragment: bool,
    /// How long to wait for the last reply.
    pub wait: Duration,
    /// TTL or hop limit, if not the default.
    pub ttl: Option<u8>,
}

impl Default for PingOptions {
    fn default() -> Self {
        Self {
            count: 3,
            interval: Duration::ZERO,
            size: 56,
            dont_fragment: false,
            wait: Duration::from_secs(1),
            ttl: None,
        }
    }
}

/// What ping said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PingReport {
    /// Requests sent.
    pub sent: u32,
    /// Requests answered.
    pub received: u32,
    /// Further replies to requests already answered.
    pub duplicates: u32,
    /// ICMP errors.
    pub errors: u32,
    /// Average round trip time in milliseconds, if there was a reply.
    pub rtt_avg_ms: Option<f64>,
    /// Longest round trip time in milliseconds.
    pub rtt_max_ms: Option<f64>,
    /// All that ping printed.
    pub text: String,
}

/// How long ping waits for the last reply when requests are sent at once. Once it has seen a reply,
/// ping gives up after two round trip times or one interval, whichever is longer: with a short
/// interval a busy machine makes late replies look lost.
const PATIENCE: Duration = Duration::from_millis(500);

/// Pings an address from a namespace. No reply is no error: look at the report.
///
/// Not for a wire that corrupts frames: ping reads its own time from the payload before it looks
/// at the checksum, and may then wait for hours (an error here after the time limit).
pub fn ping_with(from: &Ns, to: IpAddr, options: &PingOptions) -> Result<PingReport> {
    let whole = options.interval * options.count + options.wait + Duration::from_secs(10);
    let at_once = options.interval.is_zero();
    let interval = if at_once { PATIENCE } else { options.interval };
    let mut cmd = from
        .cmd("ping")
        .timeout(whole)
        .arg("-n")
        .args(["-c", &options.count.to_string()])
        .args(["-i", &format!("{:.3}", interval.as_secs_f64())])
        .args(["-s", &options.size.to_string()])
        .args(["-W", &format!("{:.3}", options.wait.as_secs_f64())]);
    if at_once && options.count > 1 {
        cmd = cmd.args(["-l", &options.count.to_string()]);
    }
    if options.dont_fragment {
        cmd = cmd.args(["-M", "do"]);
    }
    if let Some(ttl) = options.ttl {
        cmd = cmd.args(["-t", &ttl.to_string()]);
    }
    let output = cmd.arg(to.to_string()).env("LC_ALL", "C").output()?;
    parse_ping(&output.stdout).ok_or_else(|| {
        Error::failed(format!("ping {to} from {}: {} {}", from.name(), output.stdout, output.stderr))
    })
}

/// Pings until one reply comes, at most 5 s (neighbours have to be found), then requires that
/// three more requests are all answered, once each.
pub fn ping(from: &Ns, to: IpAddr) -> Result<PingReport> {
    let once = PingOptions { count: 1, wait: Duration::from_millis(500), ..PingOptions::default() };
    let what = format!("{to} answers ping from {}", from.name());
    wait::until_ok(&what, Duration::from_secs(5), || {
        let report = ping_with(from, to, &once)?;
        if report.received > 0 { Ok(()) } else { Err(Error::failed(report.text.trim())) }
    })?;
    let report = ping_with(from, to, &PingOptions::default())?;
    if report.received != report.sent || report.duplicates > 0 {
        return Err(Error::failed(format!("ping {to} from {}: {}", from.name(), report.text.trim())));
    }
    Ok(report)
}

/// Requires that nothing answers: three requests, no reply.
pub fn no_ping(from: &Ns, to: IpAddr) -> Result<()> {
    let options = PingOptions { wait: Duration::from_millis(500), ..PingOptions::default() };
    let report = ping_with(from, to, &options)?;
    if report.received > 0 {
        return Err(Error::failed(format!("{to} answers ping from {}, but must not", from.name())));
    }
    Ok(())
}

fn parse_ping(text: &str) -> Option<PingReport> {
    let summary = text.lines().find(|l| l.contains(" packets transmitted"))?;
    let mut report = PingReport { text: text.to_owned(), ..PingReport::default() };
    for part in summary.split(',') {
        let part = part.trim();
        let number = || part.trim_start_matches('+').split(' ').next().and_then(|n| n.parse().ok());
        if part.ends_with("packets transmitted") {
            report.sent = number()?;
        } else if part.ends_with("received") {
            report.received = number()?;
        } else if part.ends_with("duplicates") {
            report.duplicates = number()?;
        } else if part.ends_with("errors") {
            report.errors = number()?;
        }
    }
    if let Some(rtt) = text.lines().find(|l| l.starts_with("rtt ")) {
        let numbers = rtt.split(" = ").nth(1)?.trim_end_matches(" ms").split_whitespace().next()?;
        let mut numbers = numbers.split('/').map(|n| n.parse::<f64>().ok());
        report.rtt_avg_ms = numbers.nth(1)?;
        report.rtt_max_ms = numbers.next()?;
    }
    Some(report)
}

/// How to run iperf3.
#[derive(Clone, Debug)]
pub struct IperfOptions {
    /// How long, in seconds.
    pub seconds: u32,
    /// Streams in parallel.
    pub streams: u32,
    /// Datagram size for UDP at full speed; TCP if absent.
    pub udp: Option<u16>,
    /// Congestion control asked for (TCP).
    pub congestion: &'static str,
    /// Send from the server to the client.
    pub reverse: bool,
}

impl Default for IperfOptions {
    fn default() -> Self {
        Self { seconds: 2, streams: 1, udp: None, congestion: "cubic", reverse: false }
    }
}

/// What iperf3 measured.
#[derive(Clone, Debug)]
pub struct IperfReport {
    /// Bits per second at the receiver.
    pub bits_per_second: f64,
    /// Segments sent again (TCP).
    pub retransmits: u64,
    /// Datagrams lost, in percent (UDP).
    pub lost_percent: f64,
    /// Datagrams per second at the receiver (UDP).
    pub packets_per_second: f64,
    /// The congestion control that was really used, where it differs from the one asked for
    /// because the machine does not allow that one.
    pub congestion: String,
    /// All of iperf3's report.
    pub json: Value,
}

/// Runs an iperf3 server in one namespace and a client in the other.
pub fn iperf(from: &Ns, to: &Ns, address: IpAddr, options: &IperfOptions) -> Result<IperfReport> {
    let log = std::path::Path::new(crate::enter::LAB_DIR).join(format!("iperf3-{}.log", to.name()));
    // A fresh file, or the last run's line would count as readiness.
    let _ = std::fs::remove_file(&log);
    let mut server = to
        .cmd("iperf3")
        .args(["-s", "-1", "--forceflush", "-B", &address.to_string()])
        .daemon("iperf3 server", &log)?;
    wait::until("iperf3 server listens", Duration::from_secs(5), || {
        let text = std::fs::read_to_string(&log).ok()?;
        (text.contains("Server listening") || server.check_running().is_err()).then_some(())
    })?;
    let run = |congestion: Option<&str>| {
        let mut cmd = from
            .cmd("iperf3")
            .timeout(Duration::from_secs(u64::from(options.seconds) + 20))
            .args(["-J", "-c", &address.to_string()])
            .args(["-t", &options.seconds.to_string(), "-P", &options.streams.to_string()]);
        if options.reverse {
            cmd = cmd.arg("-R");
        }
        match (options.udp, congestion) {
            (Some(size), _) => cmd = cmd.args(["-u", "-b", "0", "-l", &size.to_string()]),
            (None, Some(congestion)) => cmd = cmd.args(["-C", congestion]),
            (None, None) => {}
        }
        cmd.output()
    };
    let mut congestion = options.congestion.to_owned();
    let mut output = run(Some(options.congestion))?;
    if output.code != 0 && output.stdout.contains("TCP_CONGESTION") {
        congestion = "default of the machine".to_owned();
        output = run(None)?;
    }
    let json: Value = serde_json::from_str(&output.stdout).context("iperf3 client")?;
    if let Some(e) = json.get("error").and_then(Value::as_str) {
        return Err(Error::failed(format!("iperf3 to {address} from {}: {e}", from.name())));
    }
    let end = &json["end"];
    let received = if options.udp.is_some() { &end["sum"] } else { &end["sum_received"] };
    let number = |v: &Value| v.as_f64().unwrap_or(0.0);
    let lost_percent = number(&received["lost_percent"]);
    let all_packets = number(&received["packets"]);
    let seconds = number(&received["seconds"]).max(1e-9);
    let arrived = if options.udp.is_some() { 1.0 - lost_percent / 100.0 } else { 1.0 };
    Ok(IperfReport {
        bits_per_second: number(&received["bits_per_second"]) * arrived,
        retransmits: end["sum_sent"]["retransmits"].as_u64().unwrap_or(0),
        lost_percent,
        packets_per_second: all_packets * arrived / seconds,
        congestion,
        json,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ping_summaries_are_read() {
        let text = "PING 10.0.0.1 (10.0.0.1) 56(84) bytes of data.\n\n--- 10.0.0.1 ping statistics ---\n\
            4 packets transmitted, 3 received, +1 duplicates, +2 errors, 25% packet loss, time 1001ms\n\
            rtt min/avg/max/mdev = 0.177/0.272/0.386/0.086 ms, pipe 2\n";
        let report = parse_ping(text).unwrap();
        assert_eq!((report.sent, report.received, report.duplicates, report.errors), (4, 3, 1, 2));
        assert_eq!((report.rtt_avg_ms, report.rtt_max_ms), (Some(0.272), Some(0.386)));
        let none = parse_ping("2 packets transmitted, 0 received, 100% packet loss, time 5ms\n").unwrap();
        assert_eq!((none.received, none.rtt_avg_ms), (0, None));
        assert!(parse_ping("ping: unknown host").is_none());
    }
}
