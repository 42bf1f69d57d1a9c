//! The board as HTML: no scripts, nothing loaded from elsewhere, readable from 360 pixels on.

use std::fmt::Write as _;

use evalign_core::RunId;

use super::plot::{Scale, axis, interval};
use super::{BoardBlock, BoardRow};

/// How [`board_page`] and what [`board_sections`] gives look.
pub const BOARD_STYLE: &str = include_str!("page.css");

/// Where a run is shown, if anywhere. What it gives is escaped.
pub type RunLink<'a> = &'a dyn Fn(&RunId) -> Option<String>;

/// The board as a document that needs nothing else.
#[must_use]
pub fn board_page(blocks: &[BoardBlock]) -> String {
    let mut page = String::new();
    // Writing to a string cannot fail.
    let _ = write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; \
         base-uri 'none'; form-action 'none'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<meta name=\"generator\" content=\"evalign {0}\">\n\
         <title>Leaderboard</title>\n<style>\n{BOARD_STYLE}</style>\n</head>\n<body>\n<main>\n<h1>Leaderboard</h1>\n{1}\
         <footer>Made by evalign {0}.</footer>\n</main>\n</body>\n</html>",
        env!("CARGO_PKG_VERSION"),
        board_sections(blocks, &|_| None),
    );
    page
}

/// What a board says, as the content of a page that is styled by [`BOARD_STYLE`]. Names in it are escaped.
#[must_use]
pub fn board_sections(blocks: &[BoardBlock], link: RunLink<'_>) -> String {
    let mut tasks: Vec<&str> = Vec::new();
    for block in blocks {
        if !tasks.contains(&block.task.as_str()) {
            tasks.push(&block.task);
        }
    }
    let mut page = introduction(blocks);
    if tasks.len() > 1 {
        let links =
            tasks.iter().map(|task| format!("<li><a href=\"#{}\">{}</a></li>", anchor(task), escape(task)));
        // Writing to a string cannot fail.
        let _ = writeln!(
            page,
            "<nav class=\"tasks\" aria-label=\"Tasks\"><ul>{}</ul></nav>",
            links.collect::<String>()
        );
    }
    for task in tasks {
        let _ = writeln!(page, "<section>\n<h2 id=\"{}\">{}</h2>", anchor(task), escape(task));
        for block in blocks.iter().filter(|block| block.task == task) {
            page += &article(block, Scale::of(blocks, task, &block.metric).as_ref(), link);
        }
        page += "</section>\n";
    }
    page
}

fn introduction(blocks: &[BoardBlock]) -> String {
    if blocks.is_empty() {
        return "<p>There are no finished runs yet. <code>evalign quickstart</code> makes one.</p>\n"
            .to_owned();
    }
    let mark = |class: &str, inner: &str| {
        format!("<svg class=\"{class}\" width=\"36\" height=\"14\" aria-hidden=\"true\">{inner}</svg>")
    };
    let bar = "<rect class=\"ci\" x=\"2\" y=\"2\" width=\"32\" height=\"10\" rx=\"5\"/><circle class=\"dot\" cx=\"18\" cy=\"7\" r=\"5\"/>";
    let dashes = "<line class=\"bounds\" x1=\"2\" x2=\"34\" y1=\"7\" y2=\"7\"/>";
    format!(
        "<p>Every table holds runs that were measured in exactly the same way on the same documents, and no others. A rank is the range \
         of places that paired tests on the same items leave open; all ranges of a table hold together with 95 % \
         confidence. Rows answer the same items, so that a difference can be real although the bars overlap.</p>\n\
         <ul class=\"key\">\n<li>{}value and its 95 % interval; may be first</li>\n<li>{}not first</li>\n\
         <li>{}how far undecided answers could move it</li>\n</ul>\n",
        mark("leads", bar),
        mark("", bar),
        mark("", dashes),
    )
}

/// Which columns a block has besides rank, model, plot and value.
struct Columns {
    gap: bool,
    cost: bool,
    latency: bool,
    first_token: bool,
}

fn article(block: &BoardBlock, scale: Option<&Scale>, link: RunLink<'_>) -> String {
    let columns = Columns {
        gap: block.rows.iter().any(|row| row.behind_first.is_some()),
        cost: block.rows.iter().any(|row| row.cost_usd.is_some()),
        latency: block.rows.iter().any(|row| row.latency.is_some()),
        first_token: block.rows.iter().any(|row| row.latency_texts()[1].is_some()),
    };
    let caption = escape(&format!("{}, {}", block.task, metric(block)));
    let mut text = format!(
        "<article class=\"board\">\n<header class=\"block\"><h3>{}</h3>{}</header>\n\
         <table role=\"table\" aria-label=\"{caption}\">\n{}<tbody role=\"rowgroup\">\n",
        escape(&metric(block)),
        chips(block),
        head(scale, &columns, block),
    );
    for row in &block.rows {
        text += &line(block, row, (scale, &columns), link);
    }
    text + "</tbody>\n</table>\n</article>\n"
}

fn metric(block: &BoardBlock) -> String {
    match block.filter.as_str() {
        "none" => block.metric.clone(),
        filter => format!("{} ({filter})", block.metric),
    }
}

/// How the block was measured.
fn chips(block: &BoardBlock) -> String {
    let mut chips = vec![
        format!("{}-shot", block.shots),
        if block.chat_template { "chat template" } else { "plain prompt" }.to_owned(),
        format!("rule book {}", block.compat.name()),
    ];
    if !block.members.is_empty() {
        chips.insert(0, format!("{} members", block.members.len()));
    }
    let mut ranges: Vec<&[u64; 2]> = block.documents.values().collect();
    ranges.dedup();
    if let [[from, to]] = ranges[..] {
        chips.push(format!("documents {from} to {to}"));
    }
    if block.lower_is_better {
        chips.push("less is better".to_owned());
    }
    let chips: String =
        chips.iter().map(|chip| format!("<span class=\"chip\">{}</span>", escape(chip))).collect();
    format!("{chips}<span class=\"chip\">protocol <code>{}</code></span>", escape(block.protocol.short()))
}

fn head(scale: Option<&Scale>, columns: &Columns, block: &BoardBlock) -> String {
    let cell = |class: &str, inner: &str| {
        format!("<th role=\"columnheader\" scope=\"col\" class=\"{class}\">{inner}</th>")
    };
    let mut cells = cell("rank", "rank") + &cell("model", "model");
    let axis = scale.map(axis).unwrap_or_default();
    cells += &cell("plot", &format!("<span class=\"word\" hidden>95 % interval</span>{axis}"));
    cells += &cell("num value", &escape(&block.metric));
    cells += &cell("num extra", "n");
    let wanted = [
        (columns.gap, "vs. first row"),
        (columns.cost, "USD"),
        (columns.latency, "median ms"),
        (columns.first_token, "first token ms"),
    ];
    cells.extend(wanted.iter().filter(|(there, _)| *there).map(|(_, name)| cell("num extra", name)));
    format!("<thead role=\"rowgroup\"><tr role=\"row\">{cells}</tr></thead>\n")
}

fn line(
    block: &BoardBlock,
    row: &BoardRow,
    (scale, columns): (Option<&Scale>, &Columns),
    link: RunLink<'_>,
) -> String {
    let estimate = &row.result.estimate;
    let number = |value: f64| scale.map_or_else(|| value.to_string(), |scale| scale.number(value));
    let unit = scale.map_or("", Scale::unit);
    let value = estimate.value.map_or_else(|| "–".to_owned(), |value| number(value) + unit);
    let ci = estimate.ci95.map(|[low, high]| sub(&format!("{} – {}", number(low), number(high))));
    let cell = |class: &str, inner: &str| format!("<td role=\"cell\" class=\"{class}\">{inner}</td>");
    // On a phone a cell without content would only take room.
    let extra = |label: &str, inner: Option<String>| match inner {
        Some(inner) => cell("num extra", &format!("<span class=\"label\">{label} </span>{inner}")),
        None => cell("num extra none", "–"),
    };
    let mut cells = cell("rank", &escape(&row.rank_text()));
    let _ = write!(
        cells,
        "<th role=\"rowheader\" scope=\"row\" class=\"model\">{}</th>",
        model(block, row, scale, link)
    );
    cells += &cell("plot", &scale.map(|scale| interval(scale, row)).unwrap_or_default());
    cells += &cell("num value", &(value + &ci.unwrap_or_default()));
    cells += &extra("n", Some(thousands(estimate.n)));
    if columns.gap {
        cells += &extra("vs. first row", gap(row, scale));
    }
    let [whole, first] = row.latency_texts();
    for (there, label, text) in [
        (columns.cost, "USD", row.cost_text()),
        (columns.latency, "median ms", whole),
        (columns.first_token, "first token ms", first),
    ] {
        if there {
            cells += &extra(label, text);
        }
    }
    format!("<tr role=\"row\">{cells}</tr>\n")
}

/// A path on somebody's machine says little: its last part is the name, of a model and of its adapter.
fn readable_name(reference: &str) -> String {
    let last = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
    let (model, adapter) = match reference.split_once("+adapter=") {
        Some((model, adapter)) => (model, Some(adapter)),
        None => (reference, None),
    };
    let model = match model.strip_prefix("local/") {
        Some(path) if path.starts_with('/') => last(path),
        _ => model.to_owned(),
    };
    match adapter {
        Some(adapter) => format!("{model}+adapter={}", last(adapter)),
        None => model,
    }
}

/// The name people know it by, then what tells it from others of that name.
fn model(block: &BoardBlock, row: &BoardRow, scale: Option<&Scale>, link: RunLink<'_>) -> String {
    let reference = &row.model.reference;
    let name = readable_name(reference);
    let mut about = format!("{} · {} · {}", row.model.dtype, row.model.device, row.model.digest.short());
    if let Some(data) = &row.model.trained_on {
        about += &format!(" · adapter trained on {}", data.short());
    }
    let mut more = row.caveats();
    if let (Some(scale), Some([low, high])) = (scale, row.result.bounds.filter(|[low, high]| low < high)) {
        more.push(format!("could be {} – {}{}", scale.number(low), scale.number(high), scale.unit()));
    }
    for note in &more {
        about += &format!(" · {note}");
    }
    let run = row.run_id.as_str();
    let title = format!("{reference}, {run}, task {} {}", block.task, block.version);
    let (title, name) = (escape(&title), escape(&name));
    let named = match link(&row.run_id) {
        Some(address) => format!("<a href=\"{}\" title=\"{title}\">{name}</a>", escape(&address)),
        None => format!("<span title=\"{title}\">{name}</span>"),
    };
    named + &sub(&about)
}

fn gap(row: &BoardRow, scale: Option<&Scale>) -> Option<String> {
    let gap = row.behind_first?;
    let share = scale.is_some_and(|scale| scale.share);
    let number = |value: f64| {
        let text = if share { format!("{:.1}", value.abs() * 100.0) } else { format!("{:.4}", value.abs()) };
        let zero = text.bytes().all(|b| matches!(b, b'0' | b'.'));
        let sign = if zero {
            ""
        } else if value < 0.0 {
            "−"
        } else {
            "+"
        };
        format!("{sign}{text}")
    };
    let unit = if share { " pp" } else { "" };
    let ci = gap.ci95.map(|[low, high]| sub(&format!("{} – {}", number(low), number(high))));
    Some(format!("{}{unit}{}", number(gap.difference), ci.unwrap_or_default()))
}

fn sub(text: &str) -> String {
    format!("<span class=\"sub\">{}</span>", escape(text))
}

/// Digits in groups of three.
fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Letters and digits of a name, for links within the page.
fn anchor(task: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
    format!("task-{}", task.chars().map(safe).collect::<String>())
}

/// Text inside elements and quoted attributes.
fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_text() {
        assert_eq!(
            escape("<img src=x onerror='a(\"b\")'>&"),
            "&lt;img src=x onerror=&#39;a(&quot;b&quot;)&#39;&gt;&amp;"
        );
        assert_eq!(anchor("a\" onclick=\"x"), "task-a--onclick--x");
    }

    #[test]
    fn models_are_known_by_the_last_parts_of_their_places() {
        for (reference, name) in [
            ("local//home/x/small.gguf+adapter=/home/x/training/run_1", "small.gguf+adapter=run_1"),
            ("local//home/x/small.gguf", "small.gguf"),
            ("local/org/repo+adapter=tuned", "local/org/repo+adapter=tuned"),
            ("openai/gpt-x", "openai/gpt-x"),
        ] {
            assert_eq!(readable_name(reference), name);
        }
    }

    #[test]
    fn counts_are_grouped() {
        assert_eq!(
            [0, 999, 1000, 14_042, 1_000_000].map(thousands),
            ["0", "999", "1,000", "14,042", "1,000,000"]
        );
    }

    #[test]
    fn an_empty_board_is_a_page() {
        let page = board_page(&[]);
        assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>"));
        assert!(page.contains("evalign quickstart") && !page.contains("<script"));
    }
}
