//! Bar charts as SVG text: one file per group and view, horizontal bars grouped by work.
//!
//! A bar is the median, its whisker the smallest and the largest round, the label beside it the value and how
//! many times the baseline it is. Colours are neutral, and follow the reader's light or dark setting.

use std::fmt::Write as _;

use super::stats::Spread;
use super::{Run, View, number};

/// Width of the whole picture, in pixels; labels and bars share it.
const WIDTH: f64 = 860.0;
/// Where the bars begin.
const LEFT: f64 = 260.0;
/// Longest bar: leaves room for its label.
const LONGEST: f64 = 420.0;
/// A bar of more than so many times the middle one is broken, or nothing else could be seen.
const BREAK: f64 = 8.0;
/// Longest line of small text that fits, in characters.
const LINE: usize = 140;
const BAR: f64 = 18.0;
const GAP: f64 = 5.0;
const HEAD: f64 = 88.0;

const STYLE: &str = "\
svg{background:#fcfcfb;font-family:system-ui,sans-serif;font-size:12px}\
text{fill:#3c3c39}.title{font-size:16px;font-weight:600}.small{font-size:11px;fill:#76766f}\
.work{font-weight:600}.value{fill:#55554f}.bar{fill:#a9adb5}.base{fill:#cfd1d4}.ours{fill:#4f74a8}\
.whisker{stroke:#3c3c39;stroke-width:1.2}.axis{stroke:#d9d9d4}\
.break{stroke:#fcfcfb;stroke-width:3}\
@media(prefers-color-scheme:dark){svg{background:#1b1c1e}text{fill:#dcdcd8}.small{fill:#96968f}\
.value{fill:#b9b9b2}.bar{fill:#6b7079}.base{fill:#484b50}.ours{fill:#7ea2d6}\
.whisker{stroke:#dcdcd8}.axis{stroke:#3a3b3d}\
.break{stroke:#1b1c1e}}";

/// A chart of one view in one group; `None` if there is nothing to draw. Contenders whose name begins with
/// `highlight` are drawn in colour.
#[must_use]
pub fn chart(run: &Run, view: &View, group: &str, highlight: &str) -> Option<String> {
    let metric = view.chart.as_ref()?;
    let contenders = run.contenders(group, view);
    let of = |contender: &str, work: &str| run.spread(group, contender, work, metric);
    let works: Vec<&(String, String)> =
        view.works.iter().filter(|(work, _)| contenders.iter().any(|c| of(c, work).is_some())).collect();
    let unit = run.figures.iter().find(|f| f.metric == *metric && f.group == group)?.unit.as_str();
    let spreads: Vec<Spread> =
        works.iter().flat_map(|(work, _)| contenders.iter().filter_map(move |c| of(c, work))).collect();
    let medians: Vec<f64> = spreads.iter().map(|s| s.median).collect();
    let longest = spreads.iter().fold(0.0, |longest: f64, s| longest.max(s.max));
    let limit = Spread::of(&medians)?.median * BREAK;
    let largest = if limit > 0.0 { longest.min(limit) } else { longest };
    if largest <= 0.0 {
        return None;
    }
    let at = |value: f64| LEFT + value.min(largest) * (LONGEST / largest);
    let mut body = String::new();
    let mut y = HEAD;
    for (work, short) in works {
        y += 22.0;
        text(&mut body, 16.0, y, "work", short);
        y += 8.0;
        for contender in &contenders {
            let Some(spread) = of(contender, work) else { continue };
            let class = if run.baseline(group) == Some(contender) {
                "base"
            } else if contender.starts_with(highlight) {
                "ours"
            } else {
                "bar"
            };
            let (middle, width) = (y + BAR / 2.0, at(spread.median) - LEFT);
            text(&mut body, 28.0, middle + 4.0, "name", contender);
            let _ = writeln!(
                body,
                "<rect class=\"{class}\" x=\"{LEFT}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\" rx=\"2\"/>"
            );
            if spread.median > largest {
                broken(&mut body, LEFT + LONGEST * 0.93, y);
            } else if spread.min < spread.max {
                whisker(&mut body, at(spread.min), at(spread.max), middle);
            }
            let ratio = run.ratio(group, contender, work, metric);
            let ratio = ratio.map_or(String::new(), |ratio| format!("  ({ratio:.2}x)"));
            text(
                &mut body,
                at(spread.max) + 8.0,
                middle + 4.0,
                "value",
                &format!("{} {unit}{ratio}", number(spread.median)),
            );
            y += BAR + GAP;
        }
    }
    let height = y + 16.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\">\n<style>{STYLE}</style>\n"
    );
    let base = run.baseline(group).map_or(String::new(), |base| format!("; ratio to {base}"));
    text(&mut svg, 16.0, 26.0, "title", &format!("{}: {group}", view.title));
    text(&mut svg, 16.0, 44.0, "small", &format!("median, whisker: smallest and largest round{base}"));
    text(&mut svg, 16.0, 60.0, "small", &line(&run.machine));
    text(&mut svg, 16.0, 76.0, "small", &line(&run.command));
    let _ = writeln!(
        svg,
        "<line class=\"axis\" x1=\"{LEFT}\" y1=\"{HEAD}\" x2=\"{LEFT}\" y2=\"{:.1}\"/>",
        height - 12.0
    );
    svg.push_str(&body);
    svg.push_str("</svg>\n");
    Some(svg)
}

/// A file name for a chart: small letters, digits and dashes.
#[must_use]
pub fn file_name(group: &str, view: &View) -> String {
    let mut name = String::new();
    for c in format!("{group} {}", view.name).to_lowercase().chars() {
        if c.is_ascii_alphanumeric() {
            name.push(c);
        } else if !name.ends_with('-') {
            name.push('-');
        }
    }
    format!("{}.svg", name.trim_matches('-'))
}

/// As much of a text as fits a line.
fn line(text: &str) -> String {
    if text.chars().count() <= LINE {
        return text.to_owned();
    }
    text.chars().take(LINE - 3).chain("...".chars()).collect()
}

/// The mark of a bar that is longer than drawn.
fn broken(out: &mut String, x: f64, y: f64) {
    for x in [x, x + 7.0] {
        let _ = writeln!(
            out,
            "<line class=\"break\" x1=\"{x:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\"/>",
            y + BAR,
            x + 5.0
        );
    }
}

fn whisker(out: &mut String, from: f64, to: f64, y: f64) {
    let mut line = |x1: f64, y1: f64, x2: f64, y2: f64| {
        let _ = writeln!(
            out,
            "<line class=\"whisker\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
        );
    };
    line(from, y, to, y);
    line(from, y - 4.0, from, y + 4.0);
    line(to, y - 4.0, to, y + 4.0);
}

fn text(out: &mut String, x: f64, y: f64, class: &str, content: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", escape(content));
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every tag that is opened is closed in order, and no stray markup is left in texts.
    fn well_formed(svg: &str) -> usize {
        let mut open: Vec<&str> = Vec::new();
        let mut elements = 0;
        let mut rest = svg;
        while let Some((content, after)) = rest.split_once('<') {
            assert!(!content.contains('>'), "stray > in {content:?}");
            for (at, _) in content.match_indices('&') {
                let entity = &content[at..];
                assert!(
                    ["&amp;", "&lt;", "&gt;", "&quot;"].iter().any(|e| entity.starts_with(e)),
                    "{entity}"
                );
            }
            let (tag, after) = after.split_once('>').expect("a tag ends");
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name));
            } else {
                elements += 1;
                if !tag.ends_with('/') {
                    open.push(tag.split_whitespace().next().unwrap());
                }
            }
            rest = after;
        }
        assert!(open.is_empty() && rest.trim().is_empty(), "{open:?} {rest:?}");
        elements
    }

    #[test]
    fn charts_are_well_formed_and_show_what_was_measured() {
        let (run, view) = super::super::example();
        let svg = chart(&run, &view, "one node", "ours").unwrap();
        // svg, style, four headlines, the axis; one work; per bar a name, a bar, three whisker lines, a value.
        assert_eq!(well_formed(&svg), 7 + 1 + 2 * 6);
        for part in ["kernel &quot;bridge&quot;", "2 x &lt;CPU&gt;", "31.0 Gbit/s  (1.48x)", "class=\"ours\""]
        {
            assert!(svg.contains(part), "{part}: {svg}");
        }
        assert!(!svg.contains(">4<"), "a work without figures is not drawn");
    }

    #[test]
    fn an_outlier_does_not_hide_the_others() {
        let (mut run, view) = super::super::example();
        let mut outlier = run.figures[0].clone();
        (outlier.contender, outlier.values) = ("far off".into(), vec![100_000.0]);
        run.add(outlier);
        run.command = "long ".repeat(60);
        let svg = chart(&run, &view, "one node", "ours").unwrap();
        well_formed(&svg);
        assert_eq!(svg.matches("class=\"break\"").count(), 2);
        assert!(svg.contains("100000 Gbit/s") && svg.contains("...</text>"), "{svg}");
        let widths = svg.split("width=\"").skip(1).filter_map(|s| s.split('"').next()?.parse::<f64>().ok());
        assert!(widths.skip(1).all(|width| (20.0..=LONGEST).contains(&width)), "{svg}");
    }

    #[test]
    fn nothing_measured_is_nothing_drawn() {
        let (run, mut view) = super::super::example();
        assert_eq!(chart(&run, &view, "across", "ours"), None);
        view.chart = None;
        assert_eq!(chart(&run, &view, "one node", "ours"), None);
    }

    #[test]
    fn file_names_are_plain() {
        let (_, view) = super::super::example();
        assert_eq!(file_name("across nodes, underlay (veth)", &view), "across-nodes-underlay-veth-tcp.svg");
    }
}
