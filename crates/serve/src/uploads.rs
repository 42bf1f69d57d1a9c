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

const MIB: u64 = 1 << 20;

/// Bytes read from a file at a time.
const PIECE: usize = 64 * 1024;

/// Where the bytes of a file lie. Its id is ours: nothing a client sends becomes part of a path.
pub(crate) fn place(home: &Path, id: &str) -> PathBuf {
    home.join("files").join(id)
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
    let dir = app.home.join("files");
    fs_err::create_dir_all(&dir).map_err(|error| full(&error))?;
    let partial =
        tempfile::Builder::new().prefix(".incoming").tempfile_in(&dir).map_err(|error| full(&error))?;
    let mut file = tokio::fs::File::from_std(partial.as_file().try_clone().map_err(|error| full(&error))?);
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
    file.flush().await.map_err(|error| full(&error))?;
    file.sync_all().await.map_err(|error| full(&error))?;
    let (view, id) = (store.clone(), format!("file_{}", uuid::Uuid::now_v7().simple()));
    app.blocking(move |app| {
        let (digest, _) = evalign_fetch::file_digest(partial.path()).map_err(ApiError::internal)?;
        partial.persist(place(&app.home, &id)).map_err(ApiError::internal)?;
        let file = StoredFile { id, name, purpose, bytes, digest, created_ms: crate::app::now_ms() };
        if let Err(error) = view.add_file(&file) {
            drop(fs_err::remove_file(place(&app.home, &file.id)));
            return Err(error.into());
        }
        Ok(file)
    })
    .await
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
