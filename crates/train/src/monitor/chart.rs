//! Line charts as SVG text, small enough to be read.

use std::fmt::Write;

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 64.0;
const BOTTOM: f64 = 28.0;
const TOP: f64 = 28.0;
/// Height of the line that names the series, and room for a name.
const KEY: f64 = 10.0;
const KEY_WIDTH: f64 = 170.0;
const RIGHT: f64 = 12.0;
/// Told apart without red and green (Okabe & Ito 2008), and by their dashes.
const COLOURS: [&str; 4] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"];
const DASHES: [&str; 4] = ["none", "6 3", "2 2", "8 2 2 2"];

/// A line: its name and its points (update, value).
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Series {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// A chart of up to four lines, drawn in the colour of the text around it; empty without a point.
pub(super) fn chart(title: &str, all: &[Series]) -> String {
    let points = || all.iter().flat_map(|series| &series.points);
    let bounds = |value: fn(&(f64, f64)) -> f64| {
        let (low, high) = points()
            .map(value)
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        if high > low { (low, high) } else { (low - 0.5, high + 0.5) }
    };
    if points().next().is_none() {
        return String::new();
    }
    let (x_bounds, y_bounds) = (bounds(|point| point.0), bounds(|point| point.1));
    let x = |value: f64| LEFT + (value - x_bounds.0) / (x_bounds.1 - x_bounds.0) * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| {
        HEIGHT - BOTTOM - (value - y_bounds.0) / (y_bounds.1 - y_bounds.0) * (HEIGHT - BOTTOM - TOP)
    };
    let mut svg = format!(
        "<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" font-size=\"11\" fill=\"currentColor\" \
         aria-label=\"{}\">",
        escape(&spoken(title, all))
    );
    svg += &scales((x_bounds, &x), (y_bounds, &y));
    for (index, series) in all.iter().enumerate() {
        let line: Vec<String> =
            series.points.iter().map(|point| format!("{:.1},{:.1}", x(point.0), y(point.1))).collect();
        let (colour, dash) = (COLOURS[index % COLOURS.len()], DASHES[index % DASHES.len()]);
        let room = ((WIDTH - LEFT - RIGHT) / all.len() as f64).min(KEY_WIDTH);
        let key = LEFT + room * index as f64;
        if let [(update, value)] = series.points[..] {
            // A line needs two points.
            let _ = write!(
                svg,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>",
                x(update),
                y(value)
            );
        }
        let _ = write!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.6\" stroke-dasharray=\"{dash}\" points=\"{}\"/>\
             <line x1=\"{key:.1}\" x2=\"{:.1}\" y1=\"{KEY}\" y2=\"{KEY}\" stroke=\"{colour}\" stroke-width=\"3\" \
             stroke-dasharray=\"{dash}\"/><text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            line.join(" "),
            key + 16.0,
            key + 20.0,
            KEY + 4.0,
            escape(&series.name)
        );
    }
    svg + "</svg>"
}

/// The marks of both axes, and lines across at the values of the second; each with its bounds and where a value lies.
fn scales(
    (x_bounds, x): ((f64, f64), &dyn Fn(f64) -> f64),
    (y_bounds, y): ((f64, f64), &dyn Fn(f64) -> f64),
) -> String {
    let mut svg = String::new();
    for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let value = y_bounds.0 + share * (y_bounds.1 - y_bounds.0);
        let at = y(value);
        // Writing into a string cannot fail.
        let _ = write!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"currentColor\" \
             stroke-opacity=\"0.15\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            at + 4.0,
            short(value)
        );
        // Updates are whole: the mark stands where its number belongs.
        let value = (x_bounds.0 + share * (x_bounds.1 - x_bounds.0)).round().clamp(x_bounds.0, x_bounds.1);
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{value:.0}</text>",
            x(value),
            HEIGHT - 10.0
        );
    }
    svg
}

/// What the chart shows, in words: of each line its first and its last value.
fn spoken(title: &str, series: &[Series]) -> String {
    let line = |series: &Series| {
        let (first, last) = (series.points.first()?, series.points.last()?);
        let (name, from, to) = (&series.name, short(first.1), short(last.1));
        Some(format!("{name} from {from} at update {:.0} to {to} at update {:.0}", first.0, last.0))
    };
    format!("{title}: {}", series.iter().filter_map(line).collect::<Vec<_>>().join(", "))
}

/// A number of about four digits.
pub(super) fn short(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 {
        "0".to_owned()
    } else if !(1e-3..1e5).contains(&size) {
        format!("{value:.2e}")
    } else {
        let digits = (3 - size.log10().floor() as i32).clamp(0, 5) as usize;
        format!("{value:.digits$}")
    }
}

pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            // Control characters have no place in HTML.
            c if c.is_control() && !matches!(c, '\n' | '\t') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}
