use std::ops::ControlFlow;
use std::path::Path;

use evalign_data::{DataError, Example, FileKind, Layout, Limits, PreferenceWriter, Style, numbered_rows};

use super::{Finding, LintReport, Linter, Severity};
use crate::JudgeError;

/// Looks for what is wrong with a file of preferences. Findings come with what its rows are called (`line`, `row`) as
/// they are found; `None` where one of them broke it off.
///
/// # Errors
/// A file that cannot be read, or holds no rows.
pub fn check_file(
    path: &Path,
    limits: &Limits,
    found: &mut dyn FnMut(&'static str, Finding) -> ControlFlow<()>,
) -> Result<Option<(LintReport, &'static str)>, JudgeError> {
    let rows = numbered_rows(path, limits)?;
    let unit = rows.unit();
    let mut linter = Linter::default();
    let mut flow = ControlFlow::Continue(());
    let mut tell = |flow: &mut ControlFlow<()>, finding| {
        if flow.is_continue() {
            *flow = found(unit, finding);
        }
    };
    for (place, row) in rows {
        linter.row(place, &row, &mut |finding| tell(&mut flow, finding));
        if flow.is_break() {
            return Ok(None);
        }
    }
    let report = linter.finish(&mut |finding| tell(&mut flow, finding));
    if report.rows == 0 {
        return Err(JudgeError::material(
            format!("{}: there are no rows", path.display()),
            "check that the file was written to its end",
        ));
    }
    Ok(flow.is_continue().then_some((report, unit)))
}

/// How the rows of a file came out that was written in another layout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Converted {
    pub rows: u64,
    /// Rows that the layout cannot hold.
    pub left_out: u64,
    /// Rows that would teach the wrong thing, left out too.
    pub faulty: u64,
    /// What the rows are called.
    pub unit: &'static str,
}

/// Writes the rows of a file into `target`, in a layout, with the columns that say where they come from. Those that
/// [`check_file`] calls wrong are told to `faulty`, with their place, and left out.
///
/// # Errors
/// A file that cannot be read or written, or of which no row can be written in the layout.
pub fn convert_file(
    path: &Path,
    limits: &Limits,
    target: &Path,
    (layout, style, kind): (Layout, Style, FileKind),
    faulty: &mut dyn FnMut(&'static str, u64, &Finding),
) -> Result<Converted, JudgeError> {
    let rows = numbered_rows(path, limits)?;
    let mut file = PreferenceWriter::create(target, kind, layout, style)?;
    let mut converted = Converted { unit: rows.unit(), ..Converted::default() };
    let unit = converted.unit;
    let mut linter = Linter::default();
    for (place, row) in rows {
        let mut fault = None;
        linter.row(place, &row, &mut |finding| {
            fault = fault.take().or(Some(finding).filter(|finding| finding.severity == Severity::Error));
        });
        let row = row?;
        if let Some(finding) = fault {
            converted.faulty += 1;
            faulty(unit, place, &finding);
            continue;
        }
        let misfit = |misfit: evalign_data::Misfit| DataError::Row {
            path: path.to_owned(),
            unit,
            row: place,
            field: Some(misfit.field),
            message: misfit.message,
            mend: Some(misfit.mend.to_owned()),
        };
        match Example::from_row(&row).map_err(misfit)?.converted(layout) {
            Some(examples) => {
                for example in examples {
                    file.push(&example, &row)?;
                }
            }
            None => converted.left_out += 1,
        }
    }
    if file.rows() == 0 {
        return Err(JudgeError::material(
            format!("no row of {} can be written in the layout {layout}", path.display()),
            "a pair can become any layout; what has one side or none cannot become a pair",
        ));
    }
    converted.rows = file.finish()?;
    Ok(converted)
}
