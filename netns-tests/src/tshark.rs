//! A second observer that shares no code with us: tshark reads a capture and says which checksums
//! it finds wrong.

use std::path::Path;
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

fn tshark(file: &Path) -> Cmd {
    let mut cmd = Cmd::new("tshark").timeout(LIMIT).args(["-n", "-r"]).arg(file);
    for protocol in ["ip", "tcp", "udp"] {
        cmd = cmd.args(["-o", &format!("{protocol}.check_checksum:TRUE")]);
    }
    cmd
}

/// Reads a file and counts right and wrong checksums, inner ones of tunnels included. Further
/// options (e.g. `-d udp.port==8472,vxlan`) say how to decode.
pub fn check_file(file: &Path, options: &[&str]) -> Result<Findings> {
    let mut cmd =
        tshark(file).args(options).args(["-T", "fields", "-E", "separator=|", "-e", "frame.number"]);
    for protocol in PROTOCOLS {
        cmd = cmd.args(["-e", &format!("{protocol}.checksum.status")]);
    }
    let text = cmd.args(["-e", "_ws.malformed"]).run()?;
    let mut findings = Findings::default();
    for line in text.lines() {
        let mut fields = line.split('|');
        let number = fields.next().unwrap_or_default();
        findings.frames += 1;
        for protocol in PROTOCOLS {
            for status in fields.next().unwrap_or_default().split(',') {
                // 4.0 prints numbers (0 wrong, 1 right), later versions words.
                match status {
                    "0" | "Bad" => findings.bad.push(format!("frame {number}: {protocol}")),
                    "1" | "Good" => findings.good += 1,
                    _ => {}
                }
            }
        }
        if fields.next().is_some_and(|f| !f.is_empty()) {
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
    let text = tshark(file).args(options).args(["-T", "json"]).run()?;
    serde_json::from_str(&text).context("tshark -T json")
}
