//! `swctl`, the command line of the switch: nouns and verbs over the control API, and nothing else.
//!
//! It holds no logic of the switch. Data goes to standard output, messages to standard error, and the exit
//! code says what kind of end it was; scripts rely on all three (see `docs/swctl.md`).
#![forbid(unsafe_code)]

mod args;
mod cni;
mod cni_chain;
mod cni_conflist;
mod cni_install;
mod cni_run;
mod cni_status;
mod context;
mod document;
mod drops;
mod fdb;
mod generate;
mod ledger;
mod names;
mod neigh;
mod network;
mod peer;
mod port;
mod port_options;
mod print;
mod route;
mod stats;
mod status;
mod trace;
mod upgrade;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use ctl::error::{ApiError, Reason};
use serde::Serialize;

use args::{Cli, Noun, Output};
use context::{Context, Done, Failure, Outcome};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return usage(&e),
    };
    let json = cli.global.output == Output::Json;
    let mut context = Context::new(cli.global);
    let done = run(cli.noun, &mut context);
    // What was printed before a failure still counts.
    let flushed = context.print.flush().map_err(Failure::from);
    match done.and_then(|outcome| flushed.map(|()| outcome)) {
        Ok(Outcome::Done) | Err(Failure::Closed) => ExitCode::SUCCESS,
        Ok(Outcome::Problems) => ExitCode::from(6),
        Err(failure) => report(&failure, json),
    }
}

fn run(noun: Noun, context: &mut Context) -> Done {
    match noun {
        Noun::Status => status::status(context),
        Noun::Network { verb } => network::run(verb.unwrap_or_default(), context),
        Noun::Port { verb } => port::run(verb.unwrap_or_default(), context),
        Noun::Peer { verb } => peer::run(verb.unwrap_or_default(), context),
        Noun::Fdb { verb } => fdb::run(verb.unwrap_or_default(), context),
        Noun::Route { verb } => route::run(verb.unwrap_or_default(), context),
        Noun::Neigh { verb } => neigh::run(verb.unwrap_or_default(), context),
        Noun::Drops(args) => drops::run(&args, context),
        Noun::Trace(args) => trace::run(*args, context),
        Noun::Apply(args) => document::apply(&args, context),
        Noun::Export => document::export(context),
        Noun::Wait(args) => status::wait(&args, context),
        Noun::Upgrade(args) => upgrade::upgrade(args, context),
        Noun::Cni { verb } => cni::run(verb.unwrap_or_default(), context),
        Noun::Completion(args) => generate::completion(&args, context),
        Noun::Man(args) => generate::man(&args),
    }
}

#[derive(Serialize)]
struct ErrorView<'a> {
    error: ErrorBody<'a>,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    code: &'a str,
    reason: &'a str,
    message: &'a str,
    hint: &'a str,
}

/// The name of a gRPC code as other tools print it.
fn code_name(reason: Reason) -> &'static str {
    use tonic::Code;
    match reason.code() {
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::Unavailable => "UNAVAILABLE",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::Unimplemented => "UNIMPLEMENTED",
        _ => "INTERNAL",
    }
}

fn report(failure: &Failure, json: bool) -> ExitCode {
    let (code, reason, hint, exit) = match failure {
        Failure::Api(e) => (code_name(e.reason), e.reason.as_str(), e.hint.as_str(), exit_code(e)),
        Failure::Usage(_) => ("INVALID_ARGUMENT", "USAGE", "see swctl --help", 2),
        Failure::Io(_) | Failure::Closed => ("UNKNOWN", "IO", "", 1),
    };
    let message = failure.to_string();
    let mut err = std::io::stderr().lock();
    // Nothing is left to do when standard error is closed.
    let _ = if json {
        let error = ErrorBody { code, reason, message: &message, hint };
        serde_json::to_string(&ErrorView { error }).map(|text| writeln!(err, "{text}"))
    } else {
        let hint = if hint.is_empty() { String::new() } else { format!("\n  hint: {hint}") };
        Ok(writeln!(err, "swctl: {message}\n  reason: {reason}{hint}"))
    };
    ExitCode::from(exit)
}

fn exit_code(e: &ApiError) -> u8 {
    match e.reason {
        Reason::Unreachable => 4,
        Reason::Timeout => 5,
        reason if reason.is_not_found() => 3,
        _ => 1,
    }
}

/// What clap has to say: help and version on standard output, mistakes on standard error.
fn usage(e: &clap::Error) -> ExitCode {
    if !e.use_stderr() {
        let _ = e.print();
        return ExitCode::SUCCESS;
    }
    if asks_for_json(std::env::args()) {
        let text = e.render().to_string();
        // The first paragraph is the mistake, the rest is usage.
        let message = text.split("\n\n").next().unwrap_or(&text).trim().trim_start_matches("error: ");
        return report(&Failure::Usage(message.to_owned()), true);
    }
    let _ = e.print();
    ExitCode::from(2)
}

/// The options could not be parsed, so this only looks.
fn asks_for_json(args: impl Iterator<Item = String>) -> bool {
    let mut before = String::new();
    for arg in args {
        let value = ["-o=", "--output=", "-o"].iter().find_map(|p| arg.strip_prefix(p));
        if value == Some("json") || (matches!(before.as_str(), "-o" | "--output") && arg == "json") {
            return true;
        }
        before = arg;
    }
    std::env::var_os("SWCTL_OUTPUT").is_some_and(|v| v == "json")
}
