//! `swctl drops`: the drop ledger.

use clap::ValueEnum;
use ctl::proto;
use serde::Serialize;

use crate::context::{Context, Done, Outcome};
use crate::fdb::dev;
use crate::ledger::Ledger;
use crate::print::{Row, or_dash};

#[derive(clap::Args, Debug)]
pub struct Args {
    /// Also the reasons that never occurred
    #[arg(long)]
    all: bool,
    /// What a line of the table stands for; JSON always has both
    #[arg(long, value_enum, default_value_t = By::Reason)]
    by: By,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum By {
    Reason,
    Source,
}

/// Both from one moment, so that the sums can be checked.
#[derive(Serialize)]
struct Report {
    ledger: Ledger,
    drops: Vec<View>,
}

#[derive(Serialize)]
struct View {
    reason: String,
    stage: String,
    count: u64,
    description: String,
    sources: Vec<Source>,
}

#[derive(Serialize)]
struct Source {
    dev: Option<String>,
    count: u64,
}

impl Row for View {
    const HEADS: &'static [&'static str] = &["REASON", "STAGE", "COUNT", "DESCRIPTION"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.reason.clone(),
            or_dash(self.stage.as_str()),
            self.count.to_string(),
            self.description.clone(),
        ]
    }
}

pub fn run(args: &Args, context: &mut Context) -> Done {
    let request = proto::ListDropsRequest { all: args.all };
    let reply = context.call(async |s| s.list_drops(request).await)?;
    let mut rows: Vec<View> = reply
        .drops
        .into_iter()
        .map(|d| View {
            reason: d.reason,
            stage: d.stage,
            count: d.count,
            description: d.description,
            sources: Vec::new(),
        })
        .collect();
    let index: std::collections::HashMap<String, usize> =
        rows.iter().enumerate().map(|(i, r)| (r.reason.clone(), i)).collect();
    for s in reply.sources {
        use proto::drop_source::Source as From;
        let dev = match &s.source {
            Some(From::Port(port)) => dev(Some(port), None),
            Some(From::Peer(peer)) => dev(None, Some(peer)),
            None => None,
        };
        if let Some(row) = index.get(&s.reason).and_then(|&i| rows.get_mut(i)) {
            row.sources.push(Source { dev, count: s.count });
        }
    }
    let ledger = Ledger::from(reply.ledger.unwrap_or_default());
    if context.print.json {
        context.print.object(&Report { ledger, drops: rows })?;
        return Ok(Outcome::Done);
    }
    if args.by == By::Reason {
        context.print.list(&rows)?;
    } else {
        let cells = |r: &View, s: &Source| {
            vec![r.reason.clone(), or_dash(s.dev.clone().unwrap_or_default()), s.count.to_string()]
        };
        let lines = rows.iter().flat_map(|r| r.sources.iter().map(move |s| cells(r, s))).collect();
        context.print.table(&["REASON", "PORT/PEER", "COUNT"], lines)?;
    }
    if !context.global.no_headers {
        context.print.line("")?;
        context.print.line(&format!("frames {}", ledger.line()))?;
    }
    Ok(Outcome::Done)
}
