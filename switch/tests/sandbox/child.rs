//! The cases, in the process that was started for one.

use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use switch::datapath::Config;
use switch::sandbox::{self, Level, Measure, Plan, ThreadKind};
use switch::worker::{self, WorkerConfig, WorkerHandle};
use tunnel::underlay::{TxOptions, UdpTx};

use crate::parent::BECOMES;
use crate::{forbidden, serve};

pub fn run(case: &str) -> ExitCode {
    match case {
        "enter" => enter(),
        "files" => files(),
        "serve" => serve::serve(),
        other => forbidden::run(other),
    }
    ExitCode::SUCCESS
}

/// What the daemon asks for.
pub fn plan() -> Plan {
    Plan { user: Some(BECOMES), writable: vec![path("own")], readable: vec![path("read")] }
}

fn path(name: &str) -> PathBuf {
    Path::new(&std::env::current_dir().unwrap()).join(name)
}

pub fn worker() -> WorkerHandle {
    let here: IpAddr = "127.0.0.1".parse().unwrap();
    let tx = UdpTx::new(here, TxOptions::default());
    let datapath = Config { fdb_capacity: 1024, seed: 1 };
    let config =
        WorkerConfig { datapath, rx: Vec::new(), tx, pulse: None, alarm: None, restrict: true, held: false };
    worker::spawn(config).unwrap()
}

/// Tells the level and that the case has come to where it is looked at.
pub fn tell(level: &Level) {
    let mut out = io::stdout().lock();
    for m in &level.measures {
        writeln!(out, "{}\t{}\t{}", m.measure, m.achieved, m.detail).unwrap();
    }
    writeln!(out, "ready").unwrap();
    out.flush().unwrap();
}

fn wait() {
    io::stdin().read_line(&mut String::new()).unwrap();
}

/// Adds what is known once the worker runs, and restricts this thread.
pub fn restrict_all(level: &mut Level, worker: &WorkerHandle) {
    level.extend(worker.measures().to_vec());
    let control = sandbox::restrict(ThreadKind::Control);
    level.extend([Measure::filter(ThreadKind::Control, control)]);
}

fn enter() {
    let mut level = sandbox::enter(&plan());
    let worker = worker();
    restrict_all(&mut level, &worker);
    tell(&level);
    wait();
    // Threads can still be started.
    assert_eq!(std::thread::spawn(|| 7).join().unwrap(), 7);
    drop(worker);
}

#[track_caller]
fn denied<T>(result: io::Result<T>) {
    match result {
        Ok(_) => panic!("it was allowed"),
        Err(e) => assert!(matches!(e.raw_os_error(), Some(libc::EACCES | libc::EPERM)), "{e}"),
    }
}

fn files() {
    let port: u16 = fs::read_to_string("read/port").unwrap().parse().unwrap();
    let level = sandbox::enter(&plan());
    tell(&level);
    wait();
    // What the state needs.
    let mut file = fs::File::options().write(true).create_new(true).open(path("own/new")).unwrap();
    file.write_all(b"content").unwrap();
    file.sync_all().unwrap();
    fs::hard_link(path("own/new"), path("own/second")).unwrap();
    fs::rename(path("own/new"), path("own/renamed")).unwrap();
    fs::remove_file(path("own/second")).unwrap();
    fs::File::open(path("own")).unwrap().sync_all().unwrap();
    assert_eq!(fs::read_dir(path("own")).unwrap().count(), 2);
    assert_eq!(fs::read_to_string(path("read/file")).unwrap(), "read");
    assert_eq!(fs::read_dir(path("read")).unwrap().count(), 2);
    // And no more.
    denied(fs::write(path("read/file"), "changed"));
    denied(fs::write(path("read/more"), "more"));
    denied(fs::remove_file(path("read/file")));
    denied(fs::read_to_string(path("outside/file")));
    denied(fs::write(path("outside/file"), "changed"));
    denied(fs::File::create(path("outside/more")));
    denied(fs::read_dir(path("outside")));
    denied(fs::rename(path("own/renamed"), path("outside/renamed")));
    denied(fs::hard_link(path("outside/file"), path("own/link")).map_err(|e| match e.raw_os_error() {
        // Landlock's word for two directories that do not go together.
        Some(libc::EXDEV) => io::Error::from_raw_os_error(libc::EACCES),
        _ => e,
    }));
    for system in ["/etc/passwd", "/proc/self/status", "/dev/null", "/dev/net/tun"] {
        denied(fs::File::open(system));
    }
    denied(std::os::unix::fs::symlink("/etc/passwd", path("own/symlink")));
    denied(std::process::Command::new("/bin/true").status());
    denied(std::net::TcpStream::connect(("127.0.0.1", port)).map_err(|e| match e.raw_os_error() {
        // In a network namespace of its own the case would not reach it anyway.
        Some(libc::ENETUNREACH) => io::Error::from_raw_os_error(libc::EACCES),
        _ => e,
    }));
    let parent = rustix::process::getppid().unwrap();
    denied(rustix::process::test_kill_process(parent).map_err(Into::into));
}
