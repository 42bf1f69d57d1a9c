use std::time::Duration;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, ContentArrangement};
use evalign_core::Estimate;

/// Rows of text under headings; numbers are aligned to the right.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    pub(crate) headings: Vec<&'static str>,
    pub(crate) rows: Vec<Vec<String>>,
    /// Columns that hold numbers.
    pub(crate) numbers: Vec<usize>,
}

impl Table {
    pub(crate) fn new(headings: &[&'static str], numbers: &[usize]) -> Self {
        Self { headings: headings.to_vec(), rows: Vec::new(), numbers: numbers.to_vec() }
    }

    pub(crate) fn push(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    /// With lines, for people.
    pub(crate) fn text(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(&self.headings);
        // Control characters would also spoil the widths; the exit function shows them all the same.
        table.add_rows(self.rows.iter().map(|row| row.iter().map(|cell| super::sanitize(&one_line(cell)))));
        for index in &self.numbers {
            if let Some(column) = table.column_mut(*index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table.to_string()
    }
}

fn one_line(cell: &str) -> String {
    cell.replace('\n', " ")
}

/// A table in Markdown; `|` is escaped.
pub(crate) fn markdown(table: &Table) -> String {
    let line = |cells: Vec<String>| format!("| {} |", cells.join(" | "));
    let escape =
        |cell: &String| one_line(cell).replace('\\', "\\\\").replace('|', "\\|").replace('<', "&lt;");
    let mut lines = vec![line(table.headings.iter().map(ToString::to_string).collect())];
    let rule = |i| if table.numbers.contains(&i) { "---:" } else { "---" };
    lines.push(line((0..table.headings.len()).map(|i| rule(i).to_owned()).collect()));
    lines.extend(table.rows.iter().map(|row| line(row.iter().map(escape).collect())));
    lines.join("\n")
}

/// RFC 4180, with a quote before cells that a spreadsheet would run as a formula.
pub(crate) fn csv(table: &Table) -> String {
    let cell = |text: &str| {
        let negative = text.parse::<f64>().is_ok();
        let risky = text.starts_with(['=', '+', '-', '@', '\t', '\r']) && !negative;
        let text = if risky { format!("'{text}") } else { text.to_owned() };
        if text.contains([',', '"', '\n', '\r']) {
            format!("\"{}\"", text.replace('"', "\"\""))
        } else {
            text
        }
    };
    let line = |cells: Vec<String>| cells.join(",");
    let mut lines = vec![line(table.headings.iter().map(|h| cell(h)).collect())];
    lines.extend(table.rows.iter().map(|row| line(row.iter().map(|c| cell(c)).collect())));
    lines.join("\n")
}

/// Value, standard error, interval and n, as four cells.
pub(crate) fn estimate(found: &Estimate) -> [String; 4] {
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), percent_or_number);
    let interval = found.ci95.map_or_else(
        || "-".to_owned(),
        |[low, high]| format!("{} – {}", percent_or_number(low), percent_or_number(high)),
    );
    [number(found.value), number(found.stderr), interval, found.n.to_string()]
}

/// Four digits behind the point, as lm-evaluation-harness prints them.
pub(crate) fn percent_or_number(value: f64) -> String {
    if value.abs() >= 1e6 { format!("{value:.3e}") } else { format!("{value:.4}") }
}

/// `42 s`, `3 min 20 s`, `2 h 5 min`.
pub(crate) fn seconds(duration: Duration) -> String {
    let total = duration.as_secs();
    match total {
        0..60 if duration.as_secs_f64() < 10.0 => format!("{:.1} s", duration.as_secs_f64()),
        0..60 => format!("{total} s"),
        60..3600 => format!("{} min {} s", total / 60, total % 60),
        _ => format!("{} h {} min", total / 3600, total % 3600 / 60),
    }
}

/// " in f32", where it is known: only a server knows how it computes.
pub(crate) fn precision(model: &evalign_core::ModelSummary) -> String {
    if model.dtype == "unknown" { String::new() } else { format!(" in {}", model.dtype) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["name", "value"], &[1]);
        table.push(vec!["=cmd()".to_owned(), "-0.5".to_owned()]);
        table.push(vec!["a|b, \"c\"".to_owned(), "1".to_owned()]);
        table
    }

    #[test]
    fn spreadsheets_are_not_given_formulas() {
        assert_eq!(csv(&table()), "name,value\n'=cmd(),-0.5\n\"a|b, \"\"c\"\"\",1");
    }

    #[test]
    fn markdown_cells_stay_cells() {
        let text = markdown(&table());
        assert!(text.contains("| a\\|b, \"c\" | 1 |"), "{text}");
        assert!(text.contains("| --- | ---: |"));
    }

    #[test]
    fn durations() {
        for (secs, text) in [(0.3, "0.3 s"), (42.0, "42 s"), (200.0, "3 min 20 s"), (7500.0, "2 h 5 min")] {
            assert_eq!(seconds(Duration::from_secs_f64(secs)), text);
        }
    }
}
