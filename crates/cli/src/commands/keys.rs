use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use evalign_serve::{login_link, mint_key};
use evalign_store::{Store, StoredKey};
use serde_json::json;

use crate::Verdict;
use crate::args::{KeyCreateArgs, KeysCommand};
use crate::commands::context::{open_store, open_store_to_read};
use crate::output::{Failure, Output, Table};

pub(super) fn keys(command: KeysCommand, output: Output) -> Result<Verdict, Failure> {
    match command {
        KeysCommand::Create(args) => create(&args, output),
        KeysCommand::List { json } => list(json, output),
        KeysCommand::Revoke { id } => revoke(&id, output),
        KeysCommand::Login { id } => {
            let store = open_store()?;
            known(&store, &id)?;
            output.result(&login_link(&store, &id)?)?;
            Ok(Verdict::Good)
        }
    }
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

fn create(args: &KeyCreateArgs, output: Output) -> Result<Verdict, Failure> {
    let store = open_store()?;
    if args.if_none && store.keys()?.iter().any(|key| key.is_good(now_ms())) {
        output.note("there is a key already");
        return Ok(Verdict::Good);
    }
    let day = Duration::from_secs(24 * 60 * 60).as_millis() as u64;
    let expires_ms = args.expires_days.map(|days| now_ms().saturating_add(days.saturating_mul(day)));
    let key = mint_key(args.tenant.clone(), &args.name, args.scope, expires_ms)?;
    // First the file: a key that is kept and that nobody has is of no use.
    if let Some(path) = &args.out {
        let mut file = private_file(path).map_err(Failure::from_io)?;
        writeln!(file, "{}", key.expose()).and_then(|()| file.sync_all()).map_err(Failure::from_io)?;
    }
    store.create_key(&key.record)?;
    output
        .note(&format!("key {} of tenant {}, scope {}", key.record.id, key.record.tenant, key.record.scope));
    match &args.out {
        Some(path) => output.note(&format!("written to {}", path.display())),
        None => {
            output.result(key.expose())?;
            output.note("it is shown this once and kept nowhere");
        }
    }
    Ok(Verdict::Good)
}

/// A new file that nobody else can read.
fn private_file(path: &std::path::Path) -> std::io::Result<std::fs::File> {
    let mut options = fs_err::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use fs_err::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    Ok(options.open(path)?.into_file())
}

fn state(key: &StoredKey) -> &'static str {
    if key.revoked_ms.is_some() {
        "revoked"
    } else if key.is_good(now_ms()) {
        "good"
    } else {
        "expired"
    }
}

fn list(as_json: bool, output: Output) -> Result<Verdict, Failure> {
    let keys = open_store_to_read()?.keys()?;
    if as_json {
        let rows: Vec<_> = keys
            .iter()
            .map(|key| {
                json!({
                    "id": key.id,
                    "tenant": key.tenant,
                    "name": key.name,
                    "scope": key.scope.name(),
                    "state": state(key),
                    "created_ms": key.created_ms,
                    "expires_ms": key.expires_ms,
                })
            })
            .collect();
        output.json(&rows)?;
        return Ok(Verdict::Good);
    }
    if keys.is_empty() {
        output.note("there are no keys\nhint: `evalign keys create` makes one");
        return Ok(Verdict::Good);
    }
    let mut table = Table::new(&["id", "tenant", "scope", "state", "name"], &[]);
    for key in keys {
        let (tenant, scope) = (key.tenant.to_string(), key.scope.to_string());
        table.push(vec![key.id.clone(), tenant, scope, state(&key).to_owned(), key.name.clone()]);
    }
    output.result(&table.text())?;
    Ok(Verdict::Good)
}

fn known(store: &Store, id: &str) -> Result<(), Failure> {
    let unknown = || Failure::new(format!("no key `{id}`"), "`evalign keys list` shows the ids");
    store.key(id)?.filter(|key| key.is_good(now_ms())).map(drop).ok_or_else(unknown)
}

fn revoke(id: &str, output: Output) -> Result<Verdict, Failure> {
    if !open_store()?.revoke_key(id)? {
        return Err(Failure::new(format!("no key `{id}`"), "`evalign keys list` shows the ids"));
    }
    output.note(&format!("{id} is revoked; a server that runs knows it within a second"));
    Ok(Verdict::Good)
}
