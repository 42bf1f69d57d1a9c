use std::path::{Path, PathBuf};

use evalign_data::{FileKind, Layout, PreferenceWriter, Style};

use super::origin::BuiltPair;
use crate::RunError;

/// How files of rows are written.
#[derive(Clone, Copy, Debug)]
pub struct PairFiles {
    pub layout: Layout,
    pub style: Style,
    pub kind: FileKind,
}

impl Default for PairFiles {
    fn default() -> Self {
        Self { layout: Layout::Preference, style: Style::default(), kind: FileKind::default() }
    }
}

/// Writes rows into `DIRECTORY/NAME.jsonl` (or `.parquet`), in the layout asked for. Returns the file and its number of
/// rows; a row that the layout cannot hold is left out.
///
/// # Errors
/// A directory or file that cannot be written, a conversation that cannot be written as plain text.
pub fn write_pairs<'a>(
    directory: &Path,
    name: &str,
    rows: impl IntoIterator<Item = &'a BuiltPair>,
    files: PairFiles,
) -> Result<(PathBuf, u64), RunError> {
    let failed = |source| RunError::File { path: directory.to_owned(), source };
    fs_err::create_dir_all(directory).map_err(failed)?;
    let path = directory.join(format!("{name}.{}", files.kind.extension()));
    let mut writer = PreferenceWriter::create(&path, files.kind, files.layout, files.style)?;
    for row in rows {
        for example in row.example.converted(files.layout).unwrap_or_default() {
            writer.push(&example, &row.origin)?;
        }
    }
    let rows = writer.finish()?;
    Ok((path, rows))
}
