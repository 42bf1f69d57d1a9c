use evalign_bench::{ArenaOutcome, JudgeReport, JudgingReport};
use evalign_judge::{
    BiasReport, Effect, HeadToHead, JudgeCalibration, JuryAgreement, Rubric, Standing, StyleControl,
};

use crate::output::{Failure, Table};

/// Value and interval, as two cells.
fn cells(effect: Option<&Effect>) -> [String; 2] {
    effect.map_or_else(
        || ["-".to_owned(), "-".to_owned()],
        |effect| {
            let [low, high] = effect.ci95;
            [format!("{:.3}", effect.value), format!("{low:.3} – {high:.3}")]
        },
    )
}

pub(super) fn rubrics() -> Result<String, Failure> {
    let mut table = Table::new(&["rubric", "criteria", "levels", "summary"], &[1]);
    for (_, rubric) in Rubric::all(&[])? {
        let rubric = rubric?;
        table.push(vec![
            rubric.name.clone(),
            rubric.criteria.len().to_string(),
            format!("{} – {}", rubric.scale.lowest, rubric.scale.highest),
            rubric.summary.clone(),
        ]);
    }
    Ok(table.text())
}

pub(in crate::commands) fn judging(report: &JudgingReport) -> String {
    let mut table = Table::new(&["rubric", "judge", "score", "95 %", "n", "unscored"], &[2, 4, 5]);
    let mut row = |rubric: &str, judge: &str, score: Option<&Effect>, counts: Option<(u64, u64)>| {
        let [value, interval] = cells(score);
        let n = score.map_or(0, |score| score.n);
        let unscored = counts.map_or_else(String::new, |(rows, decided)| (rows - decided).to_string());
        table.push(vec![rubric.to_owned(), judge.to_owned(), value, interval, n.to_string(), unscored]);
    };
    let many = report.judges.len() > 1;
    let who = if many { "jury" } else { report.judges.first().map_or("", |judge| judge.judge.as_str()) };
    row(&report.rubric, who, report.score.as_ref(), Some((report.rows, report.decided)));
    for criterion in report.criteria.iter().filter(|_| report.criteria.len() > 1) {
        row(&format!("- {}", criterion.criterion), "", criterion.score.as_ref(), None);
    }
    for judge in report.judges.iter().filter(|_| many) {
        row("", &judge.judge, judge.score.as_ref(), Some((judge.rows, judge.decided)));
    }
    let mut parts = vec![table.text()];
    if !report.unscored.is_empty() {
        let reasons: Vec<String> = report.unscored.iter().map(|(why, n)| format!("{n} {why}")).collect();
        parts.push(format!("unscored: {}", reasons.join(", ")));
    }
    parts.extend(report.jury.as_ref().map(jury));
    for judge in &report.judges {
        parts.extend(judge.bias.as_ref().map(|report| bias(&judge.judge, report)));
        let length = judge.length_correlation.map(|r| format!("correlation with length {r:.3}"));
        let format = judge.format_correlation.map(|r| format!("with formatting marks {r:.3}"));
        let entropy = judge.entropy_nats.map(|entropy| format!("verdict entropy {entropy:.3} nats"));
        let own = own_family(judge);
        let said: Vec<String> = length.into_iter().chain(format).chain(entropy).chain(own).collect();
        if !said.is_empty() {
            parts.push(format!("{}: {}", judge.judge, said.join(", ")));
        }
    }
    parts.extend(report.calibration.as_ref().map(calibration));
    parts.join("\n")
}

/// What can be said of a judge's preference for single answers of its own family.
fn own_family(judge: &JudgeReport) -> Option<String> {
    if let Some(effect) = &judge.own_family {
        let [value, interval] = cells(Some(effect));
        return Some(format!("answers of its own family score {value} more ({interval})"));
    }
    let own = judge.own_rows.filter(|own| *own > 0)?;
    Some(format!("{own} of {} answers are of its own family: no preference can be told", judge.rows))
}

fn jury(agreement: &JuryAgreement) -> String {
    let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.3}"));
    let cohen = agreement.cohen.map_or_else(String::new, |[value, low, high]| {
        format!("Cohen's kappa {value:.3} ({low:.3} – {high:.3}), ")
    });
    format!(
        "jury of {} over {} items: {cohen}Fleiss' kappa {}, Krippendorff's alpha {}",
        agreement.judges,
        agreement.items,
        number(agreement.fleiss),
        number(agreement.krippendorff)
    )
}

pub(in crate::commands) fn bias(judge: &str, report: &BiasReport) -> String {
    let mut table = Table::new(&["bias", "value", "95 %", "without bias"], &[1]);
    for (name, effect, neutral) in [
        ("wins of what is shown first", &report.first_share, "0.5"),
        ("flips with the order", &report.flip_rate, "0"),
        ("position: P(first of two alike)", &report.position, "0.5"),
        ("length: log-odds for the longer", &report.length, "0"),
        ("own family: log-odds", &report.own_family, "0"),
        ("format: log-odds for more marks", &report.format, "0"),
        ("entropy of verdicts, nats", &report.entropy_nats, ""),
    ] {
        if effect.is_some() {
            let [value, interval] = cells(effect.as_ref());
            table.push(vec![name.to_owned(), value, interval, neutral.to_owned()]);
        }
    }
    let decided = report.pairs - report.unscored;
    let beside = match (report.of_probabilities, report.beside_people) {
        (true, true) => "; log-odds of its probabilities, beside people's verdict",
        (true, false) => "; log-odds of its probabilities",
        (false, true) => "; log-odds beside people's verdict",
        (false, false) => "",
    };
    let no_effects = report.no_effects.as_ref().map_or_else(String::new, |why| format!("; {why}"));
    format!(
        "bias of {judge} over {decided} pairs in both orders ({} without a verdict{beside}{no_effects}){}",
        report.unscored,
        if decided > 0 { format!("\n{}", table.text()) } else { String::new() }
    )
}

fn calibration(report: &JudgeCalibration) -> String {
    let mut table = Table::new(&["against people", "value", "95 %", "n"], &[1, 3]);
    for (name, effect) in [
        ("agreement", &report.agreement),
        ("agreement without ties", &report.agreement_without_ties),
        ("Cohen's kappa", &report.kappa),
        ("mean of the judge", &report.judged_mean),
        ("mean corrected by people's labels", &report.corrected_mean),
        ("share corrected (Rogan-Gladen)", &report.rogan_gladen),
    ] {
        if let Some(found) = effect {
            let [value, interval] = cells(effect.as_ref());
            table.push(vec![name.to_owned(), value, interval, found.n.to_string()]);
        }
    }
    let error = report.calibration_error.map_or_else(String::new, |e| format!("; calibration error {e:.3}"));
    format!(
        "{}\n{} labelled, {} unlabelled, {} without a verdict{error}",
        table.text(),
        report.labelled,
        report.unlabelled,
        report.unscored
    )
}

pub(super) fn arena(outcome: &ArenaOutcome) -> String {
    let headings = [
        "rank",
        "model",
        "rating",
        "95 % (sandwich)",
        "95 % (bootstrap)",
        "style-controlled",
        "95 %",
        "win rate",
        "95 %",
        "n",
    ];
    let mut table = Table::new(&headings, &[2, 5, 7, 9]);
    outcome.report.standings.iter().for_each(|standing| table.push(standing_row(standing)));
    let headings =
        ["A", "B", "wins A", "wins B", "ties", "unscored", "win rate A", "95 %", "length-controlled", "95 %"];
    let mut pairs = Table::new(&headings, &[2, 3, 4, 5, 6, 8]);
    outcome.report.pairs.iter().for_each(|pair| pairs.push(pair_row(pair)));
    let mut parts = vec![table.text(), pairs.text()];
    parts.push(format!(
        "{} prompts, {} answers missing, {} votes of people; a side wins a comparison only in both orders",
        outcome.prompts, outcome.unanswered, outcome.votes
    ));
    parts.extend(outcome.report.style.as_ref().map(style));
    parts.extend(outcome.report.no_ratings.as_ref().map(|why| format!("no ratings: {why}")));
    parts.extend(outcome.jury.as_ref().map(jury));
    parts.extend(outcome.judges.iter().map(|judge| bias(&judge.judge, &judge.bias)));
    parts.join("\n")
}

/// What the style-controlled ratings have taken out.
fn style(style: &StyleControl) -> String {
    let effect = |(feature, effect): (&String, &Effect)| {
        let [value, interval] = cells(Some(effect));
        format!("{feature} {value} ({interval})")
    };
    let effects: Vec<String> = style.effects.iter().map(effect).collect();
    format!("style, log-odds for more of it (ridge {}): {}", style.ridge, effects.join(", "))
}

fn standing_row(standing: &Standing) -> Vec<String> {
    let [best, worst] = standing.rank;
    let rank = if best == worst { best.to_string() } else { format!("{best} – {worst}") };
    let whole = |value: f64| format!("{value:.0}");
    let rating = standing.rating.map_or("-".to_owned(), |rating| whole(rating.value));
    let interval = |ci: Option<[f64; 2]>| ci.map_or("-".to_owned(), |[l, h]| format!("{l:.0} – {h:.0}"));
    let [win_rate, win_interval] = cells(standing.win_rate.as_ref());
    vec![
        rank,
        standing.name.clone(),
        rating,
        interval(standing.rating.map(|rating| rating.ci95)),
        interval(standing.rating_bootstrap95),
        standing.style_controlled.map_or("-".to_owned(), |rating| whole(rating.value)),
        interval(standing.style_controlled.map(|rating| rating.ci95)),
        win_rate,
        win_interval,
        standing.battles.to_string(),
    ]
}

fn pair_row(pair: &HeadToHead) -> Vec<String> {
    let [win_rate, interval] = cells(pair.win_rate_a.as_ref());
    let [controlled, controlled_interval] = cells(pair.length_controlled_a.as_ref());
    vec![
        pair.a.clone(),
        pair.b.clone(),
        pair.wins_a.to_string(),
        pair.wins_b.to_string(),
        pair.ties.to_string(),
        pair.unscored.to_string(),
        win_rate,
        interval,
        controlled,
        controlled_interval,
    ]
}
