use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};
use evalign_core::{ModelRef, Tenant};
use evalign_store::KeyScope;

/// Answer over HTTP: runs, the leaderboard, pages, and OpenAI's API for local models.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) settings: ServeSettingsArgs,
}

/// Settings of the service; each can also stand in the file, under `[serve]`, or in a variable
/// `EVALIGN_SERVE__NAME`. Flags win over variables, and those over the file.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ServeSettingsArgs {
    /// File with settings; absent: `config.toml` in EVALIGN_HOME, if there is one.
    #[arg(long, env = "EVALIGN_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Address to listen on (default 127.0.0.1:8080). One that other machines reach needs a key to exist.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) address: Option<SocketAddr>,

    /// A model to serve, `NAME=REF`: clients name it NAME. May be repeated.
    #[arg(long = "model", short = 'M', value_name = "NAME=REF", value_parser = parse_served)]
    pub(crate) models: Vec<(String, ModelRef)>,

    /// A model that makes vectors of texts, `NAME=REF`. May be repeated.
    #[arg(long = "embedder", value_name = "NAME=REF", value_parser = parse_served)]
    pub(crate) embedders: Vec<(String, ModelRef)>,

    /// Runs that are worked on at once.
    #[arg(long, value_name = "N")]
    pub(crate) workers: Option<u32>,

    /// Directory with datasets in the hub's layout.
    #[arg(long, value_name = "DIR")]
    pub(crate) data_root: Option<PathBuf>,

    /// Directory with your own task files; may be repeated.
    #[arg(long, value_name = "DIR")]
    pub(crate) include_path: Vec<PathBuf>,

    /// Ask neither hub nor package index.
    #[arg(long)]
    pub(crate) offline: bool,
}

fn parse_served(text: &str) -> Result<(String, ModelRef), String> {
    let (name, reference) =
        text.split_once('=').ok_or("write NAME=REF, for example `smollm2=local/smollm2-135m-instruct`")?;
    let reference = reference.parse().map_err(|error| format!("{error}"))?;
    Ok((name.to_owned(), reference))
}

/// Keys of the service.
#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Make a key. It is printed once and kept nowhere.
    Create(KeyCreateArgs),
    /// List keys, good ones and others.
    List {
        /// As one JSON document.
        #[arg(long)]
        json: bool,
    },
    /// Change how much a key may use. What is not named stays as it is.
    SetQuota(KeyQuotaArgs),
    /// Make a key useless, with the browsers that are logged in with it.
    Revoke {
        /// Id of the key, as `evalign keys list` shows it.
        id: String,
    },
    /// Print the path of a page on which a browser logs in with this key, once, within 15 minutes.
    Login {
        /// Id of the key.
        id: String,
    },
}

/// How much of something; none: any amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quota<T>(pub(crate) Option<T>);

fn parse_quota<T: TryFrom<u64>>(text: &str) -> Result<Quota<T>, String> {
    if text == "none" {
        return Ok(Quota(None));
    }
    let number = text.parse().ok().filter(|number| *number > 0).and_then(|number| T::try_from(number).ok());
    number.map(|number| Quota(Some(number))).ok_or_else(|| "give a number from 1, or `none`".to_owned())
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("quotas").required(true).multiple(true)
    .args(["requests_per_day", "tokens_per_day", "max_active_runs"])))]
pub(crate) struct KeyQuotaArgs {
    /// Id of the key, as `evalign keys list` shows it.
    pub(crate) id: String,

    /// Requests it may make in a day (UTC); `none`: any number.
    #[arg(long, value_name = "N", value_parser = parse_quota::<u64>)]
    pub(crate) requests_per_day: Option<Quota<u64>>,

    /// Tokens that models may read and write for it in a day (UTC); `none`: any number.
    #[arg(long, value_name = "N", value_parser = parse_quota::<u64>)]
    pub(crate) tokens_per_day: Option<Quota<u64>>,

    /// Runs it may have queued and being worked on at once; `none`: any number.
    #[arg(long, value_name = "N", value_parser = parse_quota::<u32>)]
    pub(crate) max_active_runs: Option<Quota<u32>>,
}

#[derive(Debug, Args)]
pub(crate) struct KeyCreateArgs {
    /// What the key may do: `read` look; `run` also start work and ask models; `admin` also see metrics and
    /// the audit log.
    #[arg(long, default_value = "run")]
    pub(crate) scope: KeyScope,

    /// Whose the key is: what is done with it belongs to this tenant, and no other tenant sees it. The command
    /// line is `default`.
    #[arg(long, default_value_t = Tenant::default())]
    pub(crate) tenant: Tenant,

    /// What people call it.
    #[arg(long, default_value = "")]
    pub(crate) name: String,

    /// Days after which it is not good any more.
    #[arg(long, value_name = "N")]
    pub(crate) expires_days: Option<u64>,

    /// Requests it may make in a day (UTC).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) requests_per_day: Option<u64>,

    /// Tokens that models may read and write for it in a day (UTC). What is under way when they are used up is still
    /// answered.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) tokens_per_day: Option<u64>,

    /// Runs it may have queued and being worked on at once.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_active_runs: Option<u32>,

    /// Write it into a new file that only this user can read, instead of printing it.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,

    /// Do nothing where there is a good key already.
    #[arg(long)]
    pub(crate) if_none: bool,
}
