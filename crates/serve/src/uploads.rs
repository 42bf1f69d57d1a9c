//! Files of clients: straight to the disk, never whole in memory, under names of our own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use evalign_store::{Store, StoredFile};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::app::App;
use crate::error::{ApiError, ApiResult, Code};
use crate::extract::next_piece;

pub(crate) const MIB: u64 = 1 << 20;

/// Bytes read from a file at a time.
const PIECE: usize = 64 * 1024;

/// Where the bytes of a file lie. Its id is ours: nothing a client sends becomes part of a path.
pub(crate) fn place(home: &Path, id: &str) -> PathBuf {
    home.join("files").join(id)
}

/// Where the file of an id can be read under the name that its client gave it: what reads files goes by their
/// extensions, and messages name them. The name is one that a path cannot be.
pub(crate) fn named_place(home: &Path, file: &StoredFile) -> ApiResult<PathBuf> {
    let dir = home.join(NAMED).join(&file.id);
    let path = dir.join(&file.name);
    if !path.exists() {
        fs_err::create_dir_all(&dir).map_err(|error| full(&error))?;
        match fs_err::hard_link(place(home, &file.id), &path) {
            // Another request was there first.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            other => other.map_err(|error| full(&error))?,
        }
    }
    Ok(path)
}

/// Files of a client in a directory of their own, under the names that it gave them: for what reads directories.
pub(crate) fn together(home: &Path, files: &[StoredFile]) -> ApiResult<tempfile::TempDir> {
    let dir = partial(home)?;
    for file in files {
        link(home, file, &dir.path().join(&file.name))?;
    }
    Ok(dir)
}

/// A file of a client at a place of ours, where there is no other.
pub(crate) fn link(home: &Path, file: &StoredFile, at: &Path) -> ApiResult<()> {
    let directory = at.parent().unwrap_or(home);
    fs_err::create_dir_all(directory).map_err(|error| full(&error))?;
    match fs_err::hard_link(place(home, &file.id), at) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let message = format!("two of the files are called `{}`", file.name);
            Err(ApiError::new(Code::InvalidRequest, message).about("files"))
        }
        linked => linked.map_err(|error| full(&error)),
    }
}

/// Directory of what [`named_place`] makes, in the home.
const NAMED: &str = "named";

/// A text of ours without the paths of [`named_place`] and of files that are being made, of which only the file's name
/// stays, and without the place of adapters, of which the job's id stays.
pub(crate) fn without_places(text: &str, home: &Path) -> String {
    let text = text.replace(&format!("{}/", home.join(crate::training::DIRECTORY).display()), "");
    [NAMED, PARTIAL].into_iter().fold(text, |text, directory| {
        let before = format!("{}/", home.join(directory).display());
        let mut parts = text.split(&before);
        let mut plain = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            plain += part.split_once('/').map_or(part, |(_, rest)| rest);
        }
        plain
    })
}

/// Removes the bytes of a file whose row is gone. What is left, if anything, is bytes that nobody can reach.
pub(crate) fn remove(home: &Path, id: &str) {
    let named = match fs_err::remove_dir_all(home.join(NAMED).join(id)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    let removed = named.and_then(|()| match fs_err::remove_file(place(home, id)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    });
    if let Err(error) = removed {
        tracing::warn!(%error, "the bytes of a removed file stay");
    }
}

/// An uploaded file of the tenant.
pub(crate) fn found(store: &Store, id: &str, field: &str) -> ApiResult<StoredFile> {
    store.file(id)?.ok_or_else(|| ApiError::not_found("file", id).about(field))
}

/// An id that no file has.
pub(crate) fn new_id() -> String {
    format!("file_{}", uuid::Uuid::now_v7().simple())
}

/// Keeps a file that was made here as one of the tenant's, within what its files may take together.
pub(crate) fn keep(
    app: &App,
    store: &Store,
    made: &Path,
    (name, purpose): (&str, &str),
) -> ApiResult<StoredFile> {
    keep_as(app, store, made, (&new_id(), name, purpose))
}

/// The same, under an id of [`new_id`].
pub(crate) fn keep_as(
    app: &App,
    store: &Store,
    made: &Path,
    (id, name, purpose): (&str, &str, &str),
) -> ApiResult<StoredFile> {
    let (digest, bytes) = evalign_fetch::file_digest(made).map_err(ApiError::internal)?;
    check_room(app, store, bytes)?;
    let (id, name, purpose) = (id.to_owned(), name.to_owned(), purpose.to_owned());
    let file = StoredFile { id, name, purpose, bytes, digest, created_ms: crate::app::now_ms() };
    #[cfg(unix)]
    fs_err::set_permissions(made, private(0o600)).map_err(|error| full(&error))?;
    let written = fs_err::File::open(made).and_then(|made| made.sync_all());
    let kept = place(&app.home, &file.id);
    let moved = written.and_then(|()| fs_err::create_dir_all(app.home.join("files")));
    moved.and_then(|()| fs_err::rename(made, &kept)).map_err(|error| full(&error))?;
    if let Err(error) = store.add_file(&file) {
        drop(fs_err::remove_file(kept));
        return Err(error.into());
    }
    Ok(file)
}

/// Other users of this machine do not read what tenants keep here.
#[cfg(unix)]
fn private(mode: u32) -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(mode)
}

/// Refuses so many bytes more where the tenant's files would have too many together.
pub(crate) fn check_room(app: &App, store: &Store, bytes: u64) -> ApiResult<()> {
    let all = app.settings.max_files_mib.saturating_mul(MIB);
    if store.file_bytes()?.saturating_add(bytes) > all {
        let message = format!("all your files together have at most {all} bytes");
        return Err(ApiError::new(Code::TooLarge, message));
    }
    Ok(())
}

/// Directory of files that are being made, in the home.
const PARTIAL: &str = "partial";

/// A place for files that are being made. What a server leaves there that is killed, the next one removes.
pub(crate) fn partial(home: &Path) -> ApiResult<tempfile::TempDir> {
    let dir = home.join(PARTIAL);
    #[cfg_attr(not(unix), expect(unused_mut, reason = "only set where there are modes"))]
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(private(0o700));
    let made = fs_err::create_dir_all(&dir).and_then(|()| builder.tempdir_in(&dir));
    made.map_err(|error| full(&error))
}

/// Removes what an earlier server was making when it was killed.
pub(crate) fn remove_partial(home: &Path) -> std::io::Result<()> {
    match fs_err::remove_dir_all(home.join(PARTIAL)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Takes a body as a file of the store's tenant. Until it is complete and on the disk it is a temporary file
/// that its end, however it comes, removes.
pub(crate) async fn receive(
    app: &Arc<App>,
    store: &Store,
    name: String,
    purpose: String,
    announced: Option<u64>,
    body: Body,
) -> ApiResult<StoredFile> {
    let most = app.settings.max_upload_mib.saturating_mul(MIB);
    let all = app.settings.max_files_mib.saturating_mul(MIB);
    let view = store.clone();
    let used = app.blocking(move |_| Ok(view.file_bytes()?)).await?;
    let room = most.min(all.saturating_sub(used));
    let too_large = || {
        let message = format!(
            "a file has at most {most} bytes, and all of yours together at most {all} ({used} are used)"
        );
        ApiError::new(Code::TooLarge, message)
    };
    if announced.is_some_and(|bytes| bytes > room) {
        return Err(too_large());
    }
    let partial = partial(&app.home)?;
    let made = partial.path().join("upload");
    let mut file = tokio::fs::File::create(&made).await.map_err(|error| full(&error))?;
    let patience = Duration::from_secs(app.settings.read_timeout_secs);
    let mut pieces = body.into_data_stream();
    let mut bytes = 0;
    while let Some(piece) = next_piece(&mut pieces, patience).await? {
        bytes += piece.len() as u64;
        if bytes > room {
            return Err(too_large());
        }
        file.write_all(&piece).await.map_err(|error| full(&error))?;
    }
    if bytes == 0 {
        let message = "the body is empty; it is to be the bytes of the file";
        return Err(ApiError::new(Code::InvalidRequest, message));
    }
    file.flush().await.map_err(|error| full(&error))?;
    let view = store.clone();
    let keep = move |app: &App| {
        // Goes when the file has moved out of it, or was refused.
        let _partial = partial;
        keep(app, &view, &made, (&name, &purpose))
    };
    app.blocking(keep).await
}

fn full(error: &std::io::Error) -> ApiError {
    tracing::error!(%error, "an upload cannot be written");
    ApiError::new(Code::Unavailable, "files cannot be written at the moment").retry_after(30)
}

/// A file as a body, piece by piece. `kept` lives as long as the body: a directory that goes with it.
pub(crate) async fn stream_file<K: Send + 'static>(path: &Path, kept: K) -> ApiResult<Body> {
    let file = tokio::fs::File::open(path).await.map_err(ApiError::internal)?;
    let pieces = futures::stream::try_unfold((file, kept), |(mut file, kept)| async move {
        let mut piece = vec![0; PIECE];
        let read = file.read(&mut piece).await?;
        piece.truncate(read);
        Ok::<_, std::io::Error>((read > 0).then(|| (Bytes::from(piece), (file, kept))))
    });
    Ok(Body::from_stream(pieces))
}
