//! What a side-by-side run found, and how it is told: as markdown tables, as JSON with every figure of every
//! round, as bar charts.
//!
//! A run is a list of [`Figure`]s; a [`View`] says which of them belong in one table or chart. Figures of one
//! group (one topology over one underlay) are compared with each other and with the group's baseline, never with
//! those of another group.

pub mod json;
pub mod machine;
pub mod stats;
pub mod svg;
pub mod table;

use stats::Spread;

/// Everything that one run found.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// What was measured, where, and by which command.
    pub title: String,
    /// The command that makes the same run.
    pub command: String,
    /// The machine, in one line.
    pub machine: String,
    /// All figures, in the order in which they were first measured.
    pub figures: Vec<Figure>,
    /// Who others of a group are compared with: group and contender.
    pub baselines: Vec<(String, String)>,
    /// What was asked for and not measured.
    pub absent: Vec<Absent>,
    /// Sentences that belong to the figures.
    pub notes: Vec<String>,
}

/// One quantity of one contender at one work, in every round.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// What it may be compared within.
    pub group: String,
    /// Whose it is.
    pub contender: String,
    /// What was done.
    pub work: String,
    /// Which quantity.
    pub metric: String,
    /// Its unit.
    pub unit: String,
    /// One value per round in which it was measured.
    pub values: Vec<f64>,
}

/// Something that was not measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absent {
    /// The group it would have been in.
    pub group: String,
    /// Who.
    pub contender: String,
    /// At which work; all if empty.
    pub work: String,
    /// Why.
    pub cause: String,
}

/// Figures that are shown together: a table per group with one row per contender and one column per work.
#[derive(Clone, Debug)]
pub struct View {
    /// File name of its charts, between the group's and `.svg`.
    pub name: String,
    /// Headline.
    pub title: String,
    /// The columns: the works, in order, each with a shorter name.
    pub works: Vec<(String, String)>,
    /// What a cell shows. One metric is shown with spread and ratio, of several the medians.
    pub metrics: Vec<String>,
    /// The metric to be drawn, if any.
    pub chart: Option<String>,
}

impl Run {
    /// Adds a value to a figure; the first one begins it.
    pub fn add(&mut self, figure: Figure) {
        let same = |f: &&mut Figure| {
            (&f.group, &f.contender, &f.work, &f.metric)
                == (&figure.group, &figure.contender, &figure.work, &figure.metric)
        };
        match self.figures.iter_mut().find(same) {
            Some(known) => known.values.extend(figure.values),
            None => self.figures.push(figure),
        }
    }

    /// Notes what was not measured, once.
    pub fn miss(&mut self, absent: Absent) {
        if !self.absent.contains(&absent) {
            self.absent.push(absent);
        }
    }

    /// The groups, in order of appearance; also those of which nothing could be measured.
    #[must_use]
    pub fn groups(&self) -> Vec<&str> {
        let measured = self.figures.iter().map(|f| f.group.as_str());
        unique(measured.chain(self.absent.iter().map(|a| a.group.as_str())))
    }

    /// The contenders of a group with figures in a view, in order of appearance.
    #[must_use]
    pub fn contenders(&self, group: &str, view: &View) -> Vec<&str> {
        let in_view = |f: &&Figure| {
            f.group == group
                && view.metrics.contains(&f.metric)
                && view.works.iter().any(|(work, _)| *work == f.work)
        };
        unique(self.figures.iter().filter(in_view).map(|f| f.contender.as_str()))
    }

    /// A figure, if it was measured.
    #[must_use]
    pub fn figure(&self, group: &str, contender: &str, work: &str, metric: &str) -> Option<&Figure> {
        let wanted = (group, contender, work, metric);
        self.figures.iter().find(|f| (&*f.group, &*f.contender, &*f.work, &*f.metric) == wanted)
    }

    /// The spread of a figure over the rounds.
    #[must_use]
    pub fn spread(&self, group: &str, contender: &str, work: &str, metric: &str) -> Option<Spread> {
        self.figure(group, contender, work, metric).and_then(|f| Spread::of(&f.values))
    }

    /// The contender others of the group are compared with, if it was measured.
    #[must_use]
    pub fn baseline(&self, group: &str) -> Option<&str> {
        self.baselines.iter().find(|(of, _)| of == group).map(|(_, contender)| contender.as_str())
    }

    /// How many times the baseline's median a contender's is.
    #[must_use]
    pub fn ratio(&self, group: &str, contender: &str, work: &str, metric: &str) -> Option<f64> {
        let own = self.spread(group, contender, work, metric)?.median;
        let base = self.spread(group, self.baseline(group)?, work, metric)?.median;
        (base > 0.0).then_some(own / base)
    }
}

fn unique<'a>(items: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut list = Vec::new();
    for item in items {
        if !list.contains(&item) {
            list.push(item);
        }
    }
    list
}

/// A number as people read it: three digits that count, no exponent.
#[must_use]
pub fn number(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 || v == 0.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
pub(crate) fn example() -> (Run, View) {
    let mut run = Run {
        title: "Some & others".into(),
        command: "benches/side-by-side --quick".into(),
        machine: "2 x <CPU>".into(),
        baselines: vec![("one node".into(), "kernel \"bridge\"".into())],
        ..Run::default()
    };
    for round in [0.0, 1.0, 2.0] {
        for (contender, value) in [("kernel \"bridge\"", 20.0), ("ours", 30.0)] {
            for (metric, unit) in [("throughput", "Gbit/s"), ("CPU", "s/GB")] {
                run.add(Figure {
                    group: "one node".into(),
                    contender: contender.into(),
                    work: "TCP, 1 stream".into(),
                    metric: metric.into(),
                    unit: unit.into(),
                    values: vec![value + round],
                });
            }
        }
    }
    run.miss(Absent {
        group: "one node".into(),
        contender: "absent <one>".into(),
        work: String::new(),
        cause: "not installed".into(),
    });
    let view = View {
        name: "tcp".into(),
        title: "TCP".into(),
        works: vec![("TCP, 1 stream".into(), "1 stream".into()), ("TCP, 4 streams".into(), "4".into())],
        metrics: vec!["throughput".into()],
        chart: Some("throughput".into()),
    };
    (run, view)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_collect_their_rounds_and_are_compared_within_their_group() {
        let (run, view) = example();
        assert_eq!(run.figures.len(), 4);
        assert_eq!(run.figures[0].values, [20.0, 21.0, 22.0]);
        assert_eq!(run.contenders("one node", &view), ["kernel \"bridge\"", "ours"]);
        let ratio = run.ratio("one node", "ours", "TCP, 1 stream", "throughput").unwrap();
        assert!((ratio - 31.0 / 21.0).abs() < 1e-9, "{ratio}");
        assert_eq!(run.ratio("one node", "ours", "TCP, 4 streams", "throughput"), None);
        assert_eq!(run.ratio("another", "ours", "TCP, 1 stream", "throughput"), None);
    }

    #[test]
    fn what_is_missing_is_noted_once() {
        let (mut run, _) = example();
        run.miss(run.absent[0].clone());
        assert_eq!(run.absent.len(), 1);
    }

    #[test]
    fn numbers_keep_three_digits() {
        let shown = [0.0, 0.1234, 1.234, 12.34, 123.4, 12_345.0, -3.0].map(number);
        assert_eq!(shown, ["0.00", "0.123", "1.23", "12.3", "123", "12345", "-3.00"]);
    }
}
