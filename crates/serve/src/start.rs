//! What happens before the first request.

use std::fs::TryLockError;
use std::path::Path;
use std::time::Duration;

use evalign_core::{Digest, RunStatus, Tenant};
use evalign_store::{KeyScope, Session, Store, WebToken};

use crate::credentials::{MintedKey, mint_key, random_hex};
use crate::error::ServeError;
use crate::places::is_at_a_place;
use crate::settings::Settings;
use crate::worker::mark;

/// How long a link to log in with is good.
const LOGIN_TTL: Duration = Duration::from_secs(15 * 60);

/// A server that may begin to listen.
#[derive(Debug)]
pub struct Begun {
    /// The key that was made because there was none. It is shown now or never.
    pub first_key: Option<MintedKey>,
    /// Jobs that an earlier server left.
    pub taken_over: u64,
    /// Held while the server lives: it is the only one on its store.
    _lock: std::fs::File,
}

/// Makes sure that this is the only server on the store, takes over or removes what an earlier one left, and that there
/// is a key: the first one is made here, but never for a server that others could reach before it is known.
///
/// # Errors
/// The file of a served model is not there, another server is, nobody has a key to an address that others reach, or a failure of the store.
pub fn begin(home: &Path, store: &Store, settings: &Settings) -> Result<Begun, ServeError> {
    check_files(settings)?;
    let lock = only_server(home)?;
    crate::uploads::remove_partial(home).map_err(|source| ServeError::File { source })?;
    store.abandon_requests()?;
    let left = store.requeue_orphans()?;
    for (tenant, run) in &left.given_up {
        tracing::error!(%run, "given up: servers ended again and again while they worked on it");
        mark(&store.for_tenant(tenant), run, RunStatus::Failed);
    }
    let has_key = store.keys()?.iter().any(|key| key.is_good(crate::app::now_ms()));
    let first_key = match (has_key, settings.is_loopback()) {
        (true, _) => None,
        (false, false) => return Err(ServeError::Open { address: settings.address }),
        (false, true) => {
            let key = mint_key(Tenant::default(), "first", KeyScope::Admin, None)?;
            store.create_key(&key.record)?;
            Some(key)
        }
    };
    Ok(Begun { first_key, taken_over: left.requeued, _lock: lock })
}

/// A model whose file is not there is known before the first client asks for it.
fn check_files(settings: &Settings) -> Result<(), ServeError> {
    for (setting, served) in [("models", &settings.models), ("embedders", &settings.embedders)] {
        for (name, reference) in &served.0 {
            // Others are names of the hub's or ours.
            let weights = is_at_a_place(reference).then(|| Path::new(&reference.name));
            let mut places = weights.into_iter().chain(reference.adapter.as_deref());
            if let Some(missing) = places.find(|place| !place.exists()) {
                let detail = format!("`{name}` is served from {}, which is not there", missing.display());
                return Err(ServeError::setting(setting, detail));
            }
        }
    }
    Ok(())
}

/// The operating system frees the lock when the process ends, however it ends.
fn only_server(home: &Path) -> Result<std::fs::File, ServeError> {
    let file = |source| ServeError::File { source };
    fs_err::create_dir_all(home).map_err(file)?;
    let path = home.join("serve.lock");
    let lock =
        fs_err::OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(file)?;
    let lock = lock.into_file();
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(ServeError::Taken { home: home.to_owned() }),
        Err(TryLockError::Error(source)) => Err(file(source)),
    }
}

/// The path of a page on which a browser logs in with this key, once, within a quarter of an hour.
///
/// # Errors
/// No such key, or a failure of the store.
pub fn login_link(store: &Store, key: &str) -> Result<String, ServeError> {
    let secret = random_hex::<32>()?;
    let session = Session { key: key.to_owned(), csrf: String::new() };
    store.put_web_token(WebToken::Login, &Digest::of(&secret), &session, LOGIN_TTL)?;
    Ok(format!("/login/{secret}"))
}
