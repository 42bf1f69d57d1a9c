use std::path::{Path, PathBuf};

use crate::DataError;

/// A file that gets its name only when it is whole. Given up before that, nothing is left of it.
#[derive(Debug)]
pub(crate) struct Partial {
    path: PathBuf,
    partial: PathBuf,
    in_place: bool,
}

impl Partial {
    /// # Errors
    /// The file cannot be created.
    pub(crate) fn create(path: &Path) -> Result<(Self, fs_err::File), DataError> {
        // Beside the file, so that the rename stays on one disk.
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".partial");
        let partial = path.with_file_name(name);
        let file = fs_err::File::create(&partial).map_err(|e| DataError::file(&partial, e))?;
        Ok((Self { path: path.to_owned(), partial, in_place: false }, file))
    }

    /// The name it will have.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until the disk has everything, and gives the file its name.
    ///
    /// # Errors
    /// A failed write.
    pub(crate) fn put_in_place(mut self) -> Result<(), DataError> {
        let file = fs_err::File::open(&self.partial).map_err(|e| DataError::file(&self.partial, e))?;
        file.sync_all().map_err(|e| DataError::file(&self.partial, e))?;
        fs_err::rename(&self.partial, &self.path).map_err(|e| DataError::file(&self.path, e))?;
        self.in_place = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.in_place {
            // Whatever ended the writing is what is reported.
            let _ = fs_err::remove_file(&self.partial);
        }
    }
}
