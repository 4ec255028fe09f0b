//! Data on standard output: borderless tables for people, JSON for programs.
//!
//! A list is a JSON array whatever its length. Table cells are single words or end the line; control
//! characters, which could come from a pod or a peer by way of the daemon, are escaped.

use std::io::{self, Write};

use serde::Serialize;

use crate::args::{Global, Output};
use crate::names;

/// One line of a table, and the same as a JSON object.
pub trait Row: Serialize {
    /// Column heads.
    const HEADS: &'static [&'static str];

    /// The heads of these rows.
    fn heads(_rows: &[Self]) -> Vec<&'static str>
    where
        Self: Sized,
    {
        Self::HEADS.to_vec()
    }

    /// As many as there are heads, or fewer.
    fn cells(&self) -> Vec<String>;
}

/// Where data goes, and how.
pub struct Printer {
    out: io::BufWriter<io::StdoutLock<'static>>,
    pub json: bool,
    heads: bool,
    /// Ids of containers are shortened in tables.
    short: bool,
}

impl Printer {
    pub fn new(global: &Global) -> Self {
        Self {
            out: io::BufWriter::new(io::stdout().lock()),
            json: global.output == Output::Json,
            heads: !global.no_headers,
            short: !global.no_trunc,
        }
    }

    pub fn list<R: Row>(&mut self, rows: &[R]) -> io::Result<()> {
        if self.json {
            return self.object(&rows);
        }
        let cells = rows.iter().map(|r| r.cells().iter().map(|c| clean(c)).collect()).collect();
        self.table(&R::heads(rows), cells)
    }

    pub fn object<T: Serialize>(&mut self, object: &T) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, object)?;
        self.out.write_all(b"\n")
    }

    pub fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "{}", clean(text))
    }

    /// Text that is already as it shall be, such as a document.
    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Left-aligned columns, two spaces apart, nothing after the last.
    pub fn table(&mut self, heads: &[&str], mut rows: Vec<Vec<String>>) -> io::Result<()> {
        if self.heads && !heads.is_empty() {
            rows.insert(0, heads.iter().map(|&h| h.to_owned()).collect());
        }
        if self.short {
            rows.iter_mut().flatten().for_each(|cell| *cell = names::shortened(cell));
        }
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        let mut widths = vec![0; columns];
        for row in &rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        for row in &rows {
            let mut line = String::new();
            for (width, cell) in widths.iter().zip(row) {
                line.push_str(cell);
                let padding = width - cell.chars().count() + 2;
                line.extend(std::iter::repeat_n(' ', padding));
            }
            writeln!(self.out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

fn clean(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if c.is_control() {
            out.extend(c.escape_default())
        } else {
            out.push(c)
        }
        out
    })
}

/// A dash where there is nothing.
pub fn or_dash(text: impl Into<String>) -> String {
    let text = text.into();
    if text.is_empty() { "-".to_owned() } else { text }
}

/// A time span in its two largest units.
pub fn span(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0 => format!("{ms}ms"),
        1..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h{:02}m", s / 3600, s / 60 % 60),
        _ => format!("{}d{:02}h", s / 86_400, s / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        let texts = [0, 999, 59_000, 61_000, 3_660_000, 90_000_000].map(span);
        assert_eq!(texts, ["0ms", "999ms", "59s", "1m01s", "1h01m", "1d01h"]);
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(clean("a\u{1b}[2Jb\nc"), "a\\u{1b}[2Jb\\nc");
    }
}
