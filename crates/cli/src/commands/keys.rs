use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use evalign_serve::{login_link, mint_key};
use evalign_store::{AuditEntry, KeyLimits, KeyUse, Store, StoredKey};
use serde_json::json;

use crate::Verdict;
use crate::args::{KeyCreateArgs, KeyQuotaArgs, KeysCommand};
use crate::commands::context::{open_store, open_store_to_read};
use crate::output::{Failure, Output, Table};

pub(super) fn keys(command: KeysCommand, output: Output) -> Result<Verdict, Failure> {
    match command {
        KeysCommand::Create(args) => create(&args, output),
        KeysCommand::List { json } => list(json, output),
        KeysCommand::SetQuota(args) => set_quota(&args, output),
        KeysCommand::Revoke { id } => revoke(&id, output),
        KeysCommand::Login { id } => {
            let store = open_store()?;
            known(&store, &id)?;
            output.result(&login_link(&store, &id)?)?;
            Ok(Verdict::Good)
        }
    }
}

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

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
    let expires_ms = args.expires_days.map(|days| now_ms().saturating_add(days.saturating_mul(DAY_MS)));
    let mut key = mint_key(args.tenant.clone(), &args.name, args.scope, expires_ms)?;
    key.record.limits = KeyLimits {
        requests_per_day: args.requests_per_day,
        tokens_per_day: args.tokens_per_day,
        max_active_runs: args.max_active_runs,
    };
    // First the file: a key that is kept and that nobody has is of no use.
    if let Some(path) = &args.out {
        let mut file = private_file(path).map_err(Failure::from_io)?;
        writeln!(file, "{}", key.expose()).and_then(|()| file.sync_all()).map_err(Failure::from_io)?;
    }
    store.create_key(&key.record)?;
    note(&store, "keys create", &key.record.id, key.record.tenant.as_str());
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

/// Whoever uses the command line may do anything; the audit log says what was done.
fn note(store: &Store, action: &str, key: &str, tenant: &str) {
    store.audit(AuditEntry {
        tenant: Some(tenant.to_owned()),
        action: action.to_owned(),
        target: key.to_owned(),
        outcome: "done".to_owned(),
        address: "command line".to_owned(),
        ..AuditEntry::default()
    });
}

/// `7 of 10`, or `7` where there is no limit.
fn used(count: u64, most: Option<u64>) -> String {
    most.map_or_else(|| count.to_string(), |most| format!("{count} of {most}"))
}

fn list(as_json: bool, output: Output) -> Result<Verdict, Failure> {
    let store = open_store_to_read()?;
    let keys = store.keys()?;
    let today = now_ms() / DAY_MS;
    let use_of = |key: &StoredKey| store.key_use(&key.id, today);
    let uses: Vec<KeyUse> = keys.iter().map(use_of).collect::<Result<_, _>>()?;
    if as_json {
        let rows: Vec<_> = keys
            .iter()
            .zip(&uses)
            .map(|(key, used)| {
                json!({
                    "id": key.id,
                    "tenant": key.tenant,
                    "name": key.name,
                    "scope": key.scope.name(),
                    "state": state(key),
                    "created_ms": key.created_ms,
                    "expires_ms": key.expires_ms,
                    "requests_per_day": key.limits.requests_per_day,
                    "tokens_per_day": key.limits.tokens_per_day,
                    "max_active_runs": key.limits.max_active_runs,
                    "requests_today": used.requests,
                    "tokens_today": used.tokens,
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
    let columns = ["id", "tenant", "scope", "state", "requests today", "tokens today", "runs", "name"];
    let mut table = Table::new(&columns, &[]);
    for (key, KeyUse { requests, tokens }) in keys.iter().zip(uses) {
        let limits = key.limits;
        table.push(vec![
            key.id.clone(),
            key.tenant.to_string(),
            key.scope.to_string(),
            state(key).to_owned(),
            used(requests, limits.requests_per_day),
            used(tokens, limits.tokens_per_day),
            limits.max_active_runs.map_or_else(|| "any".to_owned(), |most| format!("at most {most}")),
            key.name.clone(),
        ]);
    }
    output.result(&table.text())?;
    Ok(Verdict::Good)
}

fn unknown(id: &str) -> Failure {
    Failure::new(format!("no key `{id}`"), "`evalign keys list` shows the ids")
}

fn known(store: &Store, id: &str) -> Result<(), Failure> {
    store.key(id)?.filter(|key| key.is_good(now_ms())).map(drop).ok_or_else(|| unknown(id))
}

fn set_quota(args: &KeyQuotaArgs, output: Output) -> Result<Verdict, Failure> {
    let store = open_store()?;
    let key = store.key(&args.id)?.ok_or_else(|| unknown(&args.id))?;
    let KeyLimits { requests_per_day, tokens_per_day, max_active_runs } = key.limits;
    let limits = KeyLimits {
        requests_per_day: args.requests_per_day.map_or(requests_per_day, |quota| quota.0),
        tokens_per_day: args.tokens_per_day.map_or(tokens_per_day, |quota| quota.0),
        max_active_runs: args.max_active_runs.map_or(max_active_runs, |quota| quota.0),
    };
    store.limit_key(&key.id, limits)?;
    note(&store, "keys set-quota", &key.id, key.tenant.as_str());
    output.note(&format!("what {} may use is changed; a server that runs knows it within a second", key.id));
    Ok(Verdict::Good)
}

fn revoke(id: &str, output: Output) -> Result<Verdict, Failure> {
    let store = open_store()?;
    if !store.revoke_key(id)? {
        return Err(unknown(id));
    }
    let tenant = store.key(id)?.map(|key| key.tenant).unwrap_or_default();
    note(&store, "keys revoke", id, tenant.as_str());
    output.note(&format!("{id} is revoked; a server that runs knows it within a second"));
    Ok(Verdict::Good)
}
