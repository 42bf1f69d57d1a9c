//! What `rag index` was asked to read, as a list of files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use evalign_core::Digest;
use evalign_fetch::{Page, PagePolicy, fetch_page};
use globset::{GlobBuilder, GlobMatcher};
use tempfile::TempDir;
use walkdir::{DirEntry, WalkDir};

use crate::RagError;
use crate::load::{DocumentKind, LARGEST_DOCUMENT_BYTES, looks_like_text};

/// A file to be indexed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SourceFile {
    pub(crate) path: PathBuf,
    /// The file, directory or pattern it was found through, absolute.
    pub(crate) root: String,
    pub(crate) kind: DocumentKind,
    pub(crate) revision: Digest,
}

/// The root of files that were given under names of their own.
pub(crate) const UPLOADED: &str = "(uploaded)";

/// What was found, by document name.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    pub(crate) files: BTreeMap<String, SourceFile>,
    /// Absolute; documents found through one of these that are not found again are gone.
    pub(crate) roots: Vec<String>,
    /// Files that hold no text, by name.
    pub(crate) skipped: Vec<String>,
    /// What could not be read, with the reason.
    pub(crate) failed: Vec<(String, String)>,
    /// Links that were not followed, with the reason.
    pub(crate) not_followed: Vec<(String, String)>,
    /// Those of them that lead nowhere: what they led to may come back.
    pub(crate) dangling: Vec<String>,
    /// What the inputs name, free of links: none is followed to anything that does not lie below one of these.
    bounds: Vec<PathBuf>,
}

/// Most time for each step of the way to a page.
const PAGE_TIMEOUT: Duration = Duration::from_secs(60);

fn is_address(input: &str) -> bool {
    input.starts_with("http://") || input.starts_with("https://")
}

impl Sources {
    /// Fetches the pages among `inputs` into files that are there as long as the directory. One that cannot be had is reported, and its last version stays.
    ///
    /// # Errors
    /// [`RagError::Invalid`] for an address where `allowed` is false; a directory for pages that cannot be made.
    pub(crate) async fn fetch(
        &mut self,
        inputs: &[String],
        allowed: bool,
    ) -> Result<Option<TempDir>, RagError> {
        let addresses: Vec<&String> = inputs.iter().filter(|input| is_address(input)).collect();
        let Some(first) = addresses.first() else { return Ok(None) };
        if !allowed {
            return Err(RagError::invalid(
                format!("`{}`", first.escape_debug()),
                "addresses are not fetched unless that is allowed",
                "allow it with `--allow-urls`",
            ));
        }
        let directory = tempfile::tempdir().map_err(|error| RagError::file(&std::env::temp_dir(), error))?;
        let policy =
            PagePolicy { allow_private: false, max_bytes: LARGEST_DOCUMENT_BYTES, timeout: PAGE_TIMEOUT };
        for (number, address) in addresses.into_iter().enumerate() {
            let name = address.clone();
            match fetch_page(address, &policy).await {
                Ok(page) => {
                    let (kind, revision) = (kind_of(address, &page), Digest::of(&page.bytes));
                    let path = directory.path().join(format!("{number}.{}", kind.name()));
                    fs_err::write(&path, &page.bytes).map_err(|error| RagError::file(&path, error))?;
                    self.files.insert(name, SourceFile { path, root: address.clone(), kind, revision });
                }
                Err(error) => self.failed.push((name, error.to_string())),
            }
        }
        Ok(Some(directory))
    }

    /// Finds and hashes every file that `inputs` (files, directories, patterns) name.
    ///
    /// # Errors
    /// [`RagError::Invalid`] for an input that names nothing, or a pattern that is none.
    pub(crate) fn find(inputs: &[String]) -> Result<Self, RagError> {
        let inputs = || inputs.iter().filter(|input| !is_address(input));
        let bounds = inputs().filter_map(|input| named_place(input).canonicalize().ok()).collect();
        let mut sources = Self { bounds, ..Self::default() };
        for input in inputs() {
            let path = Path::new(input);
            if path.is_dir() {
                sources.walk(input, path, None);
            } else if path.is_file() {
                let root = sources.root(path);
                sources.add(path, root, true);
            } else if input.contains(WILDCARDS) {
                sources.walk_pattern(input)?;
            } else {
                return Err(RagError::invalid(
                    format!("`{}`", input.escape_debug()),
                    "there is no such file or directory",
                    "give files, directories or patterns such as `docs/**/*.md`",
                ));
            }
        }
        Ok(sources)
    }

    /// Adds files under these names.
    pub(crate) fn add_named(&mut self, files: &[(String, PathBuf)]) {
        for (name, path) in files {
            let kind = DocumentKind::of_name(name).unwrap_or(DocumentKind::Text);
            match evalign_fetch::file_digest(path) {
                Ok((revision, _)) => {
                    let source = SourceFile { path: path.clone(), root: UPLOADED.to_owned(), kind, revision };
                    self.files.insert(name.clone(), source);
                }
                Err(error) => self.failed.push((name.clone(), error.to_string())),
            }
        }
    }

    /// Nothing was found, not even something that cannot be read.
    pub(crate) fn is_empty(&self) -> bool {
        let others = [self.failed.len(), self.skipped.len(), self.not_followed.len()];
        self.files.is_empty() && others.iter().all(|count| *count == 0)
    }

    fn root(&mut self, path: &Path) -> String {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let root = name_of(&absolute);
        if !self.roots.contains(&root) {
            self.roots.push(root.clone());
        }
        root
    }

    fn walk_pattern(&mut self, pattern: &str) -> Result<(), RagError> {
        let invalid = |error: globset::Error| {
            RagError::invalid(format!("pattern `{pattern}`"), error.to_string(), "quote it for the shell")
        };
        let plain = pattern.strip_prefix("./").unwrap_or(pattern);
        let glob = GlobBuilder::new(plain).literal_separator(true).build().map_err(invalid)?;
        let seen = |sources: &Self| sources.files.len() + sources.failed.len() + sources.skipped.len();
        let before = seen(self);
        self.walk(pattern, named_place(plain), Some(&glob.compile_matcher()));
        if seen(self) == before {
            return Err(RagError::invalid(
                format!("pattern `{pattern}`"),
                "no file fits it",
                "`**` crosses directories, `*` does not; quote the pattern for the shell",
            ));
        }
        Ok(())
    }

    fn walk(&mut self, input: &str, base: &Path, pattern: Option<&GlobMatcher>) {
        let root = self.root(Path::new(input));
        let fits = |path: &Path| pattern.is_none_or(|pattern| pattern.is_match(path));
        let walk = WalkDir::new(base).follow_links(true).sort_by_file_name();
        let mut walk = walk.into_iter().filter_entry(|entry| entry.depth() == 0 || !is_hidden(entry));
        while let Some(entry) = walk.next() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    self.not_walked(&error);
                    continue;
                }
            };
            let path = entry.path().strip_prefix(".").unwrap_or(entry.path());
            let is_directory = entry.file_type().is_dir();
            if entry.depth() > 0 && entry.path_is_symlink() && !self.is_within_bounds(entry.path()) {
                if is_directory || fits(path) {
                    let reason = "a link out of what was to be read, not followed, and what was indexed through it \
                                  before is deleted: name its target to read it";
                    self.not_followed.push((name_of(path), reason.to_owned()));
                }
                if is_directory {
                    walk.skip_current_dir();
                }
            } else if entry.file_type().is_file() && fits(path) {
                self.add(path, root.clone(), false);
            }
        }
    }

    fn is_within_bounds(&self, link: &Path) -> bool {
        let target = link.canonicalize();
        target.is_ok_and(|target| self.bounds.iter().any(|bound| target.starts_with(bound)))
    }

    fn not_walked(&mut self, error: &walkdir::Error) {
        let path = error.path().unwrap_or(Path::new(""));
        let name = name_of(path.strip_prefix(".").unwrap_or(path));
        if let Some(ancestor) = error.loop_ancestor() {
            let reason = format!("a link back to {}, not followed", ancestor.display());
            self.not_followed.push((name, reason));
        } else if path.is_symlink() && !path.exists() {
            self.dangling.push(name.clone());
            self.not_followed.push((name, "a link that leads nowhere".to_owned()));
        } else {
            self.failed.push((name, error.to_string()));
        }
    }

    /// A file that was named must be readable as something; one that was found may also hold no text.
    fn add(&mut self, path: &Path, root: String, named: bool) {
        let name = name_of(path.strip_prefix(".").unwrap_or(path));
        let kind = match DocumentKind::of_name(&name) {
            Some(kind) => kind,
            None if named || begins_like_text(path) => DocumentKind::Text,
            None => return self.skipped.push(name),
        };
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        // A document is known by its name and its place as texts, and two that are none may look the same.
        if let Some(unnamed) = absolute.ancestors().filter(|place| place.to_str().is_none()).last() {
            let reason = format!("the name of {} is not valid UTF-8: rename it", name_of(unnamed));
            return self.failed.push((name, reason));
        }
        match evalign_fetch::file_digest(path) {
            Ok((revision, _)) => {
                let path = absolute;
                self.files.insert(name, SourceFile { path, root, kind, revision });
            }
            Err(error) => self.failed.push((name, error.to_string())),
        }
    }
}

/// What begins the part of a pattern that is not the same for all that fits it.
const WILDCARDS: [char; 4] = ['*', '?', '[', '{'];

/// The file or directory that an input names; of a pattern the directory that everything that fits it lies in.
fn named_place(input: &str) -> &Path {
    let plain = input.strip_prefix("./").unwrap_or(input);
    if Path::new(input).exists() || !input.contains(WILDCARDS) {
        return Path::new(input);
    }
    let wild = plain.find(WILDCARDS).unwrap_or(0);
    let base = plain[..wild].rfind('/').map_or("", |slash| &plain[..=slash]);
    Path::new(if base.is_empty() { "." } else { base })
}

/// By what the server says, else by the address.
fn kind_of(address: &str, page: &Page) -> DocumentKind {
    let path = address.split(['?', '#']).next().unwrap_or_default();
    let by_name = DocumentKind::of_name(path);
    match page.content_type.as_deref() {
        Some("application/pdf") => DocumentKind::Pdf,
        Some("text/html" | "application/xhtml+xml") => DocumentKind::Html,
        Some("text/markdown") => DocumentKind::Markdown,
        _ => by_name.unwrap_or(DocumentKind::Text),
    }
}

fn is_hidden(entry: &DirEntry) -> bool {
    entry.file_name().as_encoded_bytes().starts_with(b".")
}

fn begins_like_text(path: &Path) -> bool {
    use std::io::Read;
    let mut beginning = Vec::new();
    let read = fs_err::File::open(path).map(|file| file.take(8192).read_to_end(&mut beginning));
    // What cannot be opened is reported when it is hashed.
    !matches!(read, Ok(Ok(_))) || looks_like_text(&beginning)
}

/// With `/` between its parts. Bytes that are not text are shown as `\xNN`.
fn name_of(path: &Path) -> String {
    let mut name = String::new();
    for part in path.as_os_str().as_encoded_bytes().utf8_chunks() {
        name.push_str(part.valid());
        name.push_str(&part.invalid().escape_ascii().to_string());
    }
    name.replace(std::path::MAIN_SEPARATOR, "/")
}
