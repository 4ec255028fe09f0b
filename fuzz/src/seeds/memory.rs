//! Seeds of `memory`, written byte by byte: what a switch process leaves, as `docs/state-file.md` describes it.

use super::Named;
use crate::targets::tables;
use std::net::{IpAddr, Ipv4Addr};
use switch::control::memory_file::MemoryFile;
use switch::datapath::DropReason;

/// Bytes in the encoding of postcard.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn number(&mut self, mut number: u64) -> &mut Self {
        while number > 0x7f {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.number(text.len() as u64).0.extend_from_slice(text.as_bytes());
        self
    }

    fn ip(&mut self, ip: IpAddr) -> &mut Self {
        match ip {
            IpAddr::V4(ip) => self.number(0).0.extend_from_slice(&ip.octets()),
            IpAddr::V6(ip) => self.number(1).0.extend_from_slice(&ip.octets()),
        }
        self
    }

    fn place(&mut self, name: &str, remote: Option<IpAddr>) -> &mut Self {
        self.text(name).number(remote.is_some().into());
        match remote {
            Some(remote) => self.ip(remote),
            None => self,
        }
    }

    fn entry(&mut self, network: u64, place: u64, mac: [u8; 6], seen_ms: u64) -> &mut Self {
        self.number(network).number(place).0.extend_from_slice(&mac);
        self.number(seen_ms)
    }

    /// Counters of `frames` frames received and forwarded, `held` that waited, of which `failed` did so in vain.
    fn counts(&mut self, frames: u64, held: u64, failed: u64) -> &mut Self {
        let received = [frames + held, frames + held, 60 * (frames + held), 0];
        let verdicts = [frames, 0, 0, 0, held];
        let sent = [frames, 60 * frames, frames, 0];
        for number in received.into_iter().chain(verdicts).chain(sent) {
            self.number(number);
        }
        self.number((failed > 0).into());
        if failed > 0 {
            self.0.push(DropReason::NeighbourFailed as u8);
            self.number(failed);
        }
        self
    }
}

fn host(n: u8) -> [u8; 6] {
    [2, 0, 0, 9, 9, n]
}

/// Entries behind every port and peer of the fixed tables, and some that are no more.
fn content(hosts: u8, held: u64, failed: u64) -> Vec<u8> {
    let remote = |n: usize| tables::REMOTES[n].parse().ok();
    let places = [
        ("port-2", None),
        ("port-3", None),
        ("port-5", None),
        ("port-0", None),
        ("peer-0", remote(0)),
        ("peer-1", remote(1)),
        ("peer-2", remote(2)),
        ("gone", None),
    ];
    let mut b = Bytes::default();
    b.number(1);
    b.number(2).text("net-0").number(1).text("net-1").number(2);
    b.number(places.len() as u64);
    for (name, remote) in places {
        b.place(name, remote);
    }
    b.number(u64::from(hosts) * 8);
    for n in 0..hosts * 8 {
        let place = u64::from(n) % 8;
        b.entry(u64::from(place == 1), place, host(n), 1_000_000 - u64::from(n) * 700);
    }
    b.number(u64::from(hosts));
    for n in 0..hosts {
        b.ip(Ipv4Addr::new(10, 1, 1, 60 + n).into());
        b.entry(0, [0, 4, 6][usize::from(n) % 3], host(n), 990_000);
    }
    b.number(DropReason::ALL.len() as u64);
    for reason in DropReason::ALL {
        b.text(reason.word());
    }
    b.counts(7, 0, 0);
    for sum in 1..=6 {
        b.number(sum);
    }
    b.number(3);
    b.place("port-0", None).counts(300, held, failed);
    b.place("peer-2", remote(2)).counts(20, 0, 0);
    b.place("gone", None).counts(5, 0, 0);
    b.0
}

/// The same in the first slot of a file.
fn file(content: &[u8]) -> Option<Vec<u8>> {
    use std::os::unix::fs::FileExt as _;
    let mut memory = MemoryFile::create().ok()?;
    memory.write(content).ok()?;
    let file = std::fs::File::from(std::os::fd::OwnedFd::from(memory));
    let mut bytes = vec![0; file.metadata().ok()?.len() as usize];
    file.read_exact_at(&mut bytes, 0).ok()?;
    Some(bytes)
}

pub fn seeds() -> Named {
    let whole = content(4, 5, 2);
    let file = file(&whole).unwrap_or_default();
    let mut flipped = file.clone();
    flipped[40] ^= 4;
    [
        ("empty", content(0, 0, 0)),
        ("crowded", content(16, 0, 0)),
        ("contradicts", content(1, 2, 3)),
        ("cut", whole[..whole.len() / 2].to_vec()),
        ("whole", whole),
        ("file", file),
        ("flipped", flipped),
    ]
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .into()
}
