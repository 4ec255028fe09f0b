//! The daemon is killed (SIGKILL) while it is being written to, again and again: after each restart the state
//! is the last acknowledged one, or that with the one change whose answer was still on its way.
//!
//! Needs no privilege: networks without ports. 40 kills by default; `SWD_KILLS` sets another number.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use ctl::client::BlockingClient;
use ctl::desired::DesiredState;
use ctl::proto;

const LIMIT: Duration = Duration::from_secs(10);

/// Kills the daemon however the test ends.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(dir: &Path) -> Daemon {
    let child = Command::new(env!("CARGO_BIN_EXE_swd"))
        .arg("--socket")
        .arg(dir.join("swd.sock"))
        .arg("--state-dir")
        .arg(dir.join("state"))
        .args(["--log-level", "warn"])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    Daemon(child)
}

/// Connects as soon as the daemon answers; a socket that was left behind does not, and that of a switch process which
/// ends with its monitor only seems to.
fn connect(dir: &Path, daemon: &mut Daemon) -> BlockingClient {
    let deadline = Instant::now() + LIMIT;
    loop {
        let answers = |mut client: BlockingClient| {
            client.call(async |s| s.export(proto::ExportRequest {}).await).map(|_| client)
        };
        match BlockingClient::connect(dir.join("swd.sock"), LIMIT).and_then(answers) {
            Ok(client) => return client,
            Err(e) => {
                assert!(daemon.0.try_wait().unwrap().is_none(), "the daemon ended");
                assert!(Instant::now() < deadline, "{e}");
                std::thread::yield_now();
            }
        }
    }
}

fn export(client: &mut BlockingClient) -> (u64, Vec<u32>) {
    let reply = client.call(async |s| s.export(proto::ExportRequest {}).await).unwrap();
    let state = DesiredState::try_from(reply.state.unwrap()).unwrap();
    let mut vnis: Vec<u32> = state.networks.iter().map(|n| n.vni.get()).collect();
    vnis.sort_unstable();
    (reply.generation, vnis)
}

fn acked(acks: &Receiver<(u32, u64)>, last: &mut (u32, u64)) {
    while let Ok(ack) = acks.try_recv() {
        *last = ack;
    }
}

#[test]
fn the_last_acknowledged_state_survives() {
    let kills: u32 = std::env::var("SWD_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(40);
    let dir = tempfile::tempdir().unwrap();
    // Number of networks and generation as acknowledged last.
    let mut last = (0u32, 0u64);
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    for kill in 0..kills {
        let mut daemon = start(dir.path());
        let mut client = connect(dir.path(), &mut daemon);
        let (generation, vnis) = export(&mut client);
        let count = vnis.len() as u32;
        assert!(vnis.iter().copied().eq(1..=count), "kill {kill}: holes in {vnis:?}");
        assert!(
            count == last.0 || count == last.0 + 1,
            "kill {kill}: {} acknowledged, {count} found",
            last.0
        );
        assert!(generation >= last.1, "kill {kill}: generation {generation} after {}", last.1);
        last = (count, generation);

        let (tx, acks) = channel();
        let writer = std::thread::spawn(move || {
            for vni in count + 1..count + 1000 {
                let network = proto::Network { name: format!("net-{vni}"), vni, ..Default::default() };
                let request = proto::AddNetworkRequest { network: Some(network), may_exist: false };
                match client.call(async |s| s.add_network(request).await) {
                    Ok(ack) => drop(tx.send((vni, ack.generation))),
                    Err(_) => return,
                }
            }
        });
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // Some acknowledgements, then some part of the next write.
        for _ in 0..random % 4 {
            last = acks.recv_timeout(LIMIT).unwrap();
        }
        let moment = Instant::now() + Duration::from_micros(random >> 20 & 0xfff);
        while Instant::now() < moment {
            std::hint::spin_loop();
        }
        daemon.0.kill().unwrap();
        daemon.0.wait().unwrap();
        writer.join().unwrap();
        acked(&acks, &mut last);
    }
    let mut daemon = start(dir.path());
    let (_, vnis) = export(&mut connect(dir.path(), &mut daemon));
    assert!(vnis.len() as u32 >= last.0 && last.0 > 0);
}
