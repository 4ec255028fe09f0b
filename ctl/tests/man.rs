//! The generated man pages: one for every command, and readable by the program that shows them.
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests are tests

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output};

fn swctl(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_swctl")).args(args).output().unwrap()
}

/// The commands below one, as its help lists them.
fn below(command: &[&str]) -> Vec<String> {
    let help = swctl(&[command, &["--help"]].concat());
    assert!(help.status.success());
    let text = String::from_utf8(help.stdout).unwrap();
    let list = text.lines().skip_while(|line| *line != "Commands:").skip(1);
    // A description that is wrapped is indented further than a name.
    list.take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

/// The warnings of `man` about a page; `None` when there is no such program.
fn warnings(page: &Path) -> Option<String> {
    // As Debian's lintian does it: all warnings, formatted for a terminal, nothing shown.
    let run = Command::new("man")
        .args(["--warnings", "--encoding=UTF-8", "--local-file", "--troff-device=utf8", "--ditroff"])
        .arg(page)
        .envs([("LC_ALL", "C.UTF-8"), ("MANROFFSEQ", ""), ("MANWIDTH", "80")])
        .output();
    match run {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        other => {
            let run = other.unwrap();
            let text = String::from_utf8_lossy(&run.stderr).into_owned();
            Some(if run.status.success() { text } else { format!("{}: {text}", run.status) })
        }
    }
}

#[test]
fn every_command_has_a_page_without_warnings() {
    let dir = tempfile::tempdir().unwrap();
    let run = swctl(&["man", dir.path().to_str().unwrap()]);
    assert!(run.status.success(), "{run:?}");
    let mut wanted = BTreeSet::from(["swctl.1".to_owned()]);
    let nouns = below(&[]);
    assert!(nouns.iter().any(|noun| noun == "port"), "{nouns:?}");
    for noun in &nouns {
        wanted.insert(format!("swctl-{noun}.1"));
        wanted.extend(below(&[noun]).iter().map(|verb| format!("swctl-{noun}-{verb}.1")));
    }
    assert!(wanted.contains("swctl-port-add.1"), "{wanted:?}");
    let pages: BTreeSet<String> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.split(['-', '.']).any(|word| word == "help"))
        .collect();
    assert_eq!(pages, wanted);

    // The check itself must be able to fail.
    let broken = dir.path().join("broken.1");
    std::fs::write(&broken, ".TH broken 1\n.SH NAME\n.nosuchmacro x\n").unwrap();
    match warnings(&broken) {
        None => {
            // Past the test harness, which shows the output of failed tests only.
            let _ = writeln!(std::io::stderr(), "SKIPPED warnings of man pages: there is no program `man`");
            return;
        }
        Some(text) => assert!(text.contains("nosuchmacro"), "man says nothing of a broken page: {text}"),
    }
    for page in pages {
        assert_eq!(warnings(&dir.path().join(&page)).as_deref(), Some(""), "{page}");
    }
}
