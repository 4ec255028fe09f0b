//! A second observer that shares no code with us: tshark reads a capture and says which checksums
//! it finds wrong.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;

use crate::capture::Captured;
use crate::cmd::Cmd;
use crate::error::{Context, Error, Result};

/// tshark needs a second to start, and a while for a large file.
const LIMIT: Duration = Duration::from_secs(60);

/// What tshark found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Frames read.
    pub frames: u64,
    /// Checksums it verified and found right.
    pub good: u64,
    /// Checksums found wrong: "frame N: PROTOCOL".
    pub bad: Vec<String>,
    /// Frames it calls malformed.
    pub malformed: u64,
}

/// The protocols whose checksums are asked for.
const PROTOCOLS: [&str; 5] = ["ip", "tcp", "udp", "icmp", "icmpv6"];

/// The TCP checksum as found and as computed.
const TCP_SUMS: [&str; 2] = ["tcp.checksum", "tcp.checksum_calculated"];

/// Linux writes a TCP checksum of zero as 0xffff when it computes it in software, as UDP wants it:
/// the same number to every receiver, but not to tshark.
fn is_mangled_zero(sums: &[&str], nth: usize) -> bool {
    let value = |at: usize| sums.get(at)?.split(',').nth(nth);
    value(0) == Some("0xffff") && value(1) == Some("0x0000")
}

/// Protocols over TCP and UDP that tests do speak.
const SPOKEN: [&str; 5] = ["vxlan", "geneve", "dhcp", "dns", "llc"];

/// The protocols that tshark would see in bytes of ours: those registered for a port that may be an ephemeral one, and
/// those that guess from the payload. A test whose port happens to be ENIP's or GTP's would else have its random
/// payload called malformed, or checksums found in it.
fn unspoken() -> Result<&'static [String]> {
    static NAMES: OnceLock<Vec<String>> = OnceLock::new();
    if let Some(names) = NAMES.get() {
        return Ok(names);
    }
    // Lines of tables: "udp.port\t44818\tenip" and "udp\tquic\tT".
    let ports = Cmd::new("tshark").timeout(LIMIT).args(["-G", "decodes"]).run()?;
    let guesses = Cmd::new("tshark").timeout(LIMIT).args(["-G", "heuristic-decodes"]).run()?;
    let ports = ports.lines().filter_map(|line| {
        let mut fields = line.split('\t');
        let of_ports = matches!(fields.next()?, "udp.port" | "tcp.port");
        let port: u16 = fields.next()?.parse().ok()?;
        fields.next().filter(|_| of_ports && port >= 1024)
    });
    let guesses = guesses.lines().filter_map(|line| {
        let (parent, rest) = line.split_once('\t')?;
        let name = rest.split('\t').next()?;
        matches!(parent, "udp" | "tcp").then_some(name)
    });
    let names: BTreeSet<&str> = ports.chain(guesses).filter(|name| !SPOKEN.contains(name)).collect();
    Ok(NAMES.get_or_init(|| names.into_iter().map(str::to_owned).collect()))
}

fn tshark(file: &Path) -> Result<Cmd> {
    let mut cmd = Cmd::new("tshark").timeout(LIMIT).args(["-n", "-r"]).arg(file);
    for name in unspoken()? {
        cmd = cmd.args(["--disable-protocol", name]);
    }
    for protocol in ["ip", "tcp", "udp"] {
        cmd = cmd.args(["-o", &format!("{protocol}.check_checksum:TRUE")]);
    }
    Ok(cmd)
}

/// Reads a file and counts right and wrong checksums, inner ones of tunnels included. Further
/// options (e.g. `-d udp.port==8472,vxlan`) say how to decode.
pub fn check_file(file: &Path, options: &[&str]) -> Result<Findings> {
    let mut cmd =
        tshark(file)?.args(options).args(["-T", "fields", "-E", "separator=|", "-e", "frame.number"]);
    for protocol in PROTOCOLS {
        cmd = cmd.args(["-e", &format!("{protocol}.checksum.status")]);
    }
    for field in TCP_SUMS {
        cmd = cmd.args(["-e", field]);
    }
    let text = cmd.args(["-e", "_ws.malformed"]).run()?;
    let mut findings = Findings::default();
    for line in text.lines() {
        let fields: Vec<&str> = line.split('|').collect();
        let number = fields.first().copied().unwrap_or_default();
        findings.frames += 1;
        let sums = fields.get(1 + PROTOCOLS.len()..).unwrap_or_default();
        for (at, protocol) in PROTOCOLS.into_iter().enumerate() {
            for (nth, status) in fields.get(1 + at).copied().unwrap_or_default().split(',').enumerate() {
                // 4.0 prints numbers (0 wrong, 1 right), later versions words.
                match status {
                    "0" | "Bad" if protocol == "tcp" && is_mangled_zero(sums, nth) => findings.good += 1,
                    "0" | "Bad" => findings.bad.push(format!("frame {number}: {protocol}")),
                    "1" | "Good" => findings.good += 1,
                    _ => {}
                }
            }
        }
        if fields.get(1 + PROTOCOLS.len() + TCP_SUMS.len()).is_some_and(|f| !f.is_empty()) {
            findings.malformed += 1;
        }
    }
    Ok(findings)
}

/// Writes the capture to `file` and checks it. Frames whose checksum is left to an offload are
/// left out.
pub fn check(captured: &Captured, file: &Path, options: &[&str]) -> Result<Findings> {
    let written = captured.write_pcap(file, false)?;
    let findings = check_file(file, options)?;
    if findings.frames != written {
        return Err(Error::failed(format!("tshark read {} of {written} frames", findings.frames)));
    }
    Ok(findings)
}

/// The whole decode of a file as JSON, for tests of wire formats.
pub fn decode(file: &Path, options: &[&str]) -> Result<Vec<Value>> {
    let text = tshark(file)?.args(options).args(["-T", "json"]).run()?;
    serde_json::from_str(&text).context("tshark -T json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_zero_is_excused() {
        assert!(is_mangled_zero(&["0xffff", "0x0000"], 0));
        assert!(is_mangled_zero(&["0x1234,0xffff", "0x1234,0x0000"], 1));
        assert!(!is_mangled_zero(&["0xffff", "0x0001"], 0));
        assert!(!is_mangled_zero(&["0x0000", "0x0000"], 0));
        assert!(!is_mangled_zero(&["0xffff", ""], 0));
        assert!(!is_mangled_zero(&[], 0));
    }
}
