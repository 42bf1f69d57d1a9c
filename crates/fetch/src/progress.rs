/// What happens while files are fetched; the command line draws bars from it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A file's transfer begins; `done` bytes were already there from an interrupted one.
    Started { file: &'a str, done: u64, total: Option<u64> },
    /// `done` of `total` bytes have arrived. Comes at most a few times a second per file.
    Advanced { file: &'a str, done: u64, total: Option<u64> },
    /// The file is complete, checked and in its place.
    Finished { file: &'a str, bytes: u64 },
    /// Something the user should read: a fallback, a retry, a wait for another process.
    Note(&'a str),
}

/// Receives [`Event`]s. May be called from several tasks at once.
pub type Progress<'a> = &'a (dyn Fn(Event<'_>) + Send + Sync);

/// For callers who do not want to know.
pub fn silent(_: Event<'_>) {}
