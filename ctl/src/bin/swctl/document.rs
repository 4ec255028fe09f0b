//! `swctl apply` and `swctl export`: the desired state as a document.

use std::io::Read as _;
use std::path::PathBuf;

use ctl::desired::DesiredState;
use ctl::desired::document::Notation;
use ctl::{MAX_MESSAGE_BYTES, proto};
use serde::Serialize;

use crate::context::{Context, Done, Failure, Outcome};
use crate::print::Row;

#[derive(clap::Args, Debug)]
pub struct ApplyArgs {
    /// TOML or JSON; - reads standard input
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
    /// Delete what is not in the document
    #[arg(long)]
    prune: bool,
    /// Check and print what would change
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct ChangeView {
    action: &'static str,
    kind: String,
    name: String,
}

impl Row for ChangeView {
    const HEADS: &'static [&'static str] = &["ACTION", "KIND", "NAME"];

    fn cells(&self) -> Vec<String> {
        vec![self.action.to_owned(), self.kind.clone(), self.name.clone()]
    }
}

impl From<proto::Change> for ChangeView {
    fn from(c: proto::Change) -> Self {
        let action = match c.action() {
            proto::ChangeAction::Add => "add",
            proto::ChangeAction::Update => "update",
            proto::ChangeAction::Delete => "delete",
            proto::ChangeAction::Unspecified => "unknown",
        };
        Self { action, kind: c.kind, name: c.name }
    }
}

fn read(path: &std::path::Path) -> Result<String, Failure> {
    let failed = |e: std::io::Error| Failure::Io(format!("cannot read {}: {e}", path.display()));
    let mut text = String::new();
    let limit = MAX_MESSAGE_BYTES as u64;
    let read = if path.as_os_str() == "-" {
        std::io::stdin().lock().take(limit).read_to_string(&mut text)
    } else {
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(limit).read_to_string(&mut text)
    };
    if read.map_err(failed)? as u64 == limit {
        return Err(Failure::Io(format!("{} is larger than {} MiB", path.display(), limit >> 20)));
    }
    Ok(text)
}

pub fn apply(args: &ApplyArgs, context: &mut Context) -> Done {
    #[derive(Serialize)]
    struct View<'a> {
        generation: u64,
        changes: &'a [ChangeView],
    }
    let text = read(&args.file)?;
    let notation = Notation::guess(&args.file.to_string_lossy(), &text);
    let at_file = |mut e: ctl::error::ApiError| {
        e.message = format!("{}: {}", args.file.display(), e.message);
        e
    };
    let state = DesiredState::parse(&text, notation).map_err(at_file)?;
    if args.prune {
        // Without pruning it may name objects that only the daemon knows.
        state.check().map_err(at_file)?;
    }
    let request = proto::ApplyRequest { state: Some(state.into()), prune: args.prune, dry_run: args.dry_run };
    let reply = context.call(async |s| s.apply(request).await)?;
    let changes: Vec<ChangeView> = reply.changes.into_iter().map(ChangeView::from).collect();
    if context.print.json {
        context.print.object(&View { generation: reply.generation, changes: &changes })?;
    } else if !changes.is_empty() {
        context.print.list(&changes)?;
    }
    Ok(Outcome::Done)
}

pub fn export(context: &mut Context) -> Done {
    let request = proto::ExportRequest {};
    let reply = context.call(async |s| s.export(request).await)?;
    let state = DesiredState::try_from(reply.state.unwrap_or_default())?;
    let notation = if context.print.json { Notation::Json } else { Notation::Toml };
    context.print.raw(state.to_text(notation)?.as_bytes())?;
    Ok(Outcome::Done)
}
