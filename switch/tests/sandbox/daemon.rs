//! A process that has entered the sandbox as the daemon does: what the kernel says about it.

use std::net::TcpListener;

use crate::Who;
use crate::parent::{BECOMES, Case, Said, directory, possible};

/// What `who` cannot have, with the reason that must be told.
fn impossible(who: Who, measure: &str) -> Option<&'static str> {
    match (who, measure) {
        // One id is mapped, and that is 0.
        (Who::Namespace, "user") => Some("Invalid argument"),
        // Who was mapped without privilege may not set groups.
        (Who::Namespace, "groups") => Some("setgroups"),
        (Who::User, "bounding-set") => Some("Operation not permitted"),
        (Who::User, "user") => Some("Operation not permitted"),
        (Who::User, "groups") => Some("Operation not permitted"),
        _ => None,
    }
}

/// Every measure is there, and holds, but for those that cannot.
pub fn check_level(who: Who, level: &[Said]) {
    let names: Vec<&str> = level.iter().map(|m| m.measure.as_str()).collect();
    let mut expected = vec![
        "no-new-privileges",
        "core-dumps",
        "bounding-set",
        "groups",
        "user",
        "capabilities",
        "not-dumpable",
        "landlock",
        "seccomp-control",
        "seccomp-forwarding",
        "seccomp-reaper",
    ];
    let mut sorted = names.clone();
    sorted.sort_unstable();
    expected.sort_unstable();
    assert_eq!(sorted, expected);
    for said in level {
        match impossible(who, &said.measure) {
            Some(reason) => assert!(!said.achieved && said.detail.contains(reason), "{said:?}"),
            None if said.measure == "landlock" && !said.achieved => {
                eprintln!("SKIPPED: files are not restricted on this machine: {}", said.detail);
                assert!(said.detail.contains("kernel"), "{said:?}");
            }
            None => assert!(said.achieved, "{said:?}"),
        }
    }
}

pub fn nothing_is_left(who: Who) {
    if !possible(who) {
        return;
    }
    let dir = directory(who);
    let mut case = Case::start("enter", who, dir.path());
    let level = case.level();
    check_level(who, &level);
    // The first, the worker, the reaper.
    assert_eq!(case.threads("Name").len(), 3, "{:?}", case.threads("Name"));
    for set in ["CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd"] {
        let empty = case.threads(set).iter().all(|value| value == "0000000000000000");
        assert_eq!(empty, (who, set) != (Who::User, "CapBnd"), "{set}: {:?}", case.threads(set));
    }
    for (field, value) in [("NoNewPrivs", "1"), ("Seccomp", "2")] {
        assert!(case.threads(field).iter().all(|v| v == value), "{field}: {:?}", case.threads(field));
    }
    if who == Who::Root {
        for (field, id) in [("Uid", BECOMES.0), ("Gid", BECOMES.1)] {
            let all = format!("{id}\t{id}\t{id}\t{id}");
            assert!(case.threads(field).iter().all(|v| *v == all), "{:?}", case.threads(field));
        }
        assert!(case.threads("Groups").iter().all(String::is_empty), "{:?}", case.threads("Groups"));
    }
    assert!(case.end().success());
}

pub fn files(who: Who) {
    if !possible(who) {
        return;
    }
    let dir = directory(who);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    std::fs::write(dir.path().join("read/port"), listener.local_addr().unwrap().port().to_string()).unwrap();
    let mut case = Case::start("files", who, dir.path());
    let level = case.level();
    let landlock = level.iter().find(|m| m.measure == "landlock").unwrap();
    if !landlock.achieved {
        eprintln!("SKIPPED: files are not restricted on this machine: {}", landlock.detail);
        return;
    }
    let status = case.end();
    assert!(status.success(), "{status}");
    let found = |name: &str| std::fs::read_to_string(dir.path().join(name)).ok();
    assert_eq!(found("own/renamed").as_deref(), Some("content"));
    assert_eq!(found("own/new"), None);
    assert_eq!(found("outside/file").as_deref(), Some("outside"));
    assert_eq!(found("read/file").as_deref(), Some("read"));
}
