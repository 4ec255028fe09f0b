//! The run for people: markdown on standard output.

use std::io::{self, Write};

use super::{Run, View, number};

/// Writes everything: a section per group, a table per view, and what was not run with its cause.
///
/// # Errors
/// Those of the output.
pub fn write(out: &mut impl Write, run: &Run, views: &[View]) -> io::Result<()> {
    writeln!(out, "# {}\n\n`{}`\n\n{}", run.title, run.command, run.machine)?;
    for group in run.groups() {
        writeln!(out, "\n## {}", sentence(group))?;
        for view in views {
            table(out, run, group, view)?;
        }
        let absent: Vec<_> = run.absent.iter().filter(|a| a.group == group).collect();
        if !absent.is_empty() {
            writeln!(out, "\nNot run:\n")?;
            for a in absent {
                let work = if a.work.is_empty() { String::new() } else { format!(", {}", a.work) };
                writeln!(out, "- {}{work}: {}", a.contender, a.cause)?;
            }
        }
    }
    if !run.notes.is_empty() {
        writeln!(out)?;
    }
    for note in &run.notes {
        writeln!(out, "{note}\n")?;
    }
    Ok(())
}

/// With a capital letter.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

fn table(out: &mut impl Write, run: &Run, group: &str, view: &View) -> io::Result<()> {
    let contenders = run.contenders(group, view);
    if contenders.is_empty() {
        return Ok(());
    }
    let heads: Vec<&str> = view.works.iter().map(|(_, short)| short.as_str()).collect();
    writeln!(out, "\n{}\n\n| | {} |", view.title, heads.join(" | "))?;
    writeln!(out, "|{}", " --- |".repeat(heads.len() + 1))?;
    for contender in contenders {
        let cells: Vec<String> =
            view.works.iter().map(|(work, _)| cell(run, view, group, contender, work)).collect();
        writeln!(out, "| {contender} | {} |", cells.join(" | "))?;
    }
    Ok(())
}

/// One metric: median, extremes if there are several rounds, ratio. Several metrics: their medians.
fn cell(run: &Run, view: &View, group: &str, contender: &str, work: &str) -> String {
    let [metric] = view.metrics.as_slice() else {
        let medians = view.metrics.iter().map(|metric| {
            let spread = run.spread(group, contender, work, metric);
            spread.map_or_else(|| "-".to_owned(), |s| number(s.median))
        });
        return medians.collect::<Vec<_>>().join(" / ");
    };
    let Some(spread) = run.spread(group, contender, work, metric) else { return "-".to_owned() };
    let mut text = number(spread.median);
    if spread.min < spread.max {
        text.push_str(&format!(" [{}-{}]", number(spread.min), number(spread.max)));
    }
    if let Some(ratio) = run.ratio(group, contender, work, metric) {
        text.push_str(&format!(" {ratio:.2}x"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(run: &Run, view: &View) -> String {
        let mut out = Vec::new();
        write(&mut out, run, std::slice::from_ref(view)).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn cells_have_median_spread_and_ratio() {
        let (run, mut view) = super::super::example();
        let shown = text(&run, &view);
        assert!(shown.contains("## One node\n"), "{shown}");
        assert!(shown.contains("| | 1 stream | 4 |\n| --- | --- | --- |\n"), "{shown}");
        assert!(shown.contains("| ours | 31.0 [30.0-32.0] 1.48x | - |"), "{shown}");
        assert!(shown.contains("- absent <one>: not installed"), "{shown}");
        view.metrics = vec!["throughput".into(), "CPU".into(), "none".into()];
        assert!(text(&run, &view).contains("| ours | 31.0 / 31.0 / - | - / - / - |"));
    }
}
