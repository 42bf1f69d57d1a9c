//! Pairs that were built here, as files; files of pairs that were brought, checked.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use evalign_bench::{
    Build, BuiltPair, CritiqueRequest, Decontamination, Filters, PairFiles, PairsReport, PairsRequest, Steps,
    critique_results, write_pairs,
};
use evalign_core::{RunId, RunStatus};
use evalign_data::{FileKind, Layout, Limits, Style, unpacked_bytes};
use evalign_judge::{Check, Finding, Severity, check_file, convert_file};
use evalign_store::{Store, StoredFile, StoredRun};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::app::App;
use crate::error::{ApiError, ApiResult, Code};
use crate::procedures::request_of;
use crate::routes::files::FileObject;
use crate::uploads;

/// Findings of a kind that are shown; all are counted.
const SHOWN: u64 = 20;

/// Which pairs of a run are written, and how.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PairsExportBody {
    /// Smallest difference of scores.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1)]
    min_margin: f64,
    /// Smallest probability that the judge gives the chosen side, mean over both orders.
    #[serde(default = "half")]
    #[schema(minimum = 0, maximum = 1)]
    min_probability: f64,
    /// Only pairs in which the judge prefers the chosen side in both orders.
    #[serde(default)]
    agreed: bool,
    /// Prompts whose similarity is at least this are one prompt.
    #[serde(default = "similar")]
    #[schema(minimum = 0, maximum = 1)]
    similarity: f64,
    /// At most so many pairs of one prompt.
    per_prompt: Option<usize>,
    #[serde(default)]
    balance_length: bool,
    /// Share of prompts that goes into a second file, by a hash of the prompt.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1)]
    held_out: f64,
    /// Leave out pairs that hold a question of a task on this server.
    #[serde(default = "yes")]
    decontaminate: bool,
    /// TRL's layouts: `preference`, `unpaired`, `prompt-only`, `prompt-completion`, `language-modeling`.
    #[serde(default = "preference")]
    layout: String,
    /// `conversational` (lists of messages) or `standard` (plain text).
    #[serde(default = "conversational")]
    style: String,
    /// `jsonl` or `parquet`.
    #[serde(default = "jsonl")]
    format: String,
}

/// Which file is to be looked at.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CheckBody {
    /// Id of an uploaded file.
    file: String,
}

/// Which file is to be taken over, and how its rows are written.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ImportBody {
    /// Id of an uploaded file.
    file: String,
    /// As for the export of pairs.
    #[serde(default = "preference")]
    layout: String,
    #[serde(default = "conversational")]
    style: String,
    #[serde(default = "jsonl")]
    format: String,
}

/// Files that were made of pairs.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct PairsObject {
    #[schema(pattern = "^pairs$")]
    object: &'static str,
    pub(crate) files: Vec<PairsFile>,
    /// What was left out, and why.
    #[schema(value_type = Object)]
    report: Value,
}

/// A file of pairs, as one of the tenant's.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct PairsFile {
    pub(crate) rows: u64,
    pub(crate) file: FileObject,
}

/// What is wrong with a file.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct CheckObject {
    #[schema(pattern = "^pairs.check$")]
    object: &'static str,
    pub(crate) errors: u64,
    pub(crate) warnings: u64,
    #[schema(value_type = Object)]
    report: Value,
    /// At most 20 of a kind.
    #[schema(value_type = Vec<Object>)]
    findings: Vec<Value>,
}

fn preference() -> String {
    "preference".to_owned()
}

fn conversational() -> String {
    "conversational".to_owned()
}

fn jsonl() -> String {
    "jsonl".to_owned()
}

fn half() -> f64 {
    0.5
}

fn similar() -> f64 {
    0.8
}

fn yes() -> bool {
    true
}

fn of_field(field: &str, message: impl Into<String>) -> ApiError {
    ApiError::new(Code::InvalidRequest, message).about(field)
}

/// How rows are written, as a client says it.
fn pair_files(layout: &str, style: &str, format: &str) -> ApiResult<PairFiles> {
    let kind = [FileKind::Jsonl, FileKind::Parquet].into_iter().find(|kind| kind.extension() == format);
    Ok(PairFiles {
        layout: layout.parse::<Layout>().map_err(|error| of_field("layout", error.to_string()))?,
        style: style.parse::<Style>().map_err(|error| of_field("style", error.to_string()))?,
        kind: kind.ok_or_else(|| of_field("format", "`format` is `jsonl` or `parquet`"))?,
    })
}

impl PairsExportBody {
    fn filters(&self) -> ApiResult<Filters> {
        for (field, value) in [
            ("min_margin", self.min_margin),
            ("min_probability", self.min_probability),
            ("similarity", self.similarity),
            ("held_out", self.held_out),
        ] {
            if !(0.0..=1.0).contains(&value) {
                return Err(of_field(field, format!("`{field}` is a number from 0 to 1")));
            }
        }
        Ok(Filters {
            min_margin: self.min_margin,
            min_probability: self.min_probability,
            agreed: self.agreed,
            similarity: self.similarity,
            per_prompt: self.per_prompt.unwrap_or(usize::MAX),
            balance_length: self.balance_length,
            held_out: self.held_out,
        })
    }
}

/// Pairs of a run, each with whether it is held out, and what was left out.
pub(crate) type KnownPairs = (Vec<(bool, BuiltPair)>, PairsReport);

impl App {
    /// The pairs of a run, from what is remembered of it where nothing has happened to it since.
    pub(crate) async fn remembered_pairs(
        self: &Arc<Self>,
        store: &Store,
        run: &RunId,
        filters: Filters,
    ) -> ApiResult<Arc<KnownPairs>> {
        let question = (store.tenant().clone(), format!("{run} {filters:?}"));
        let (store, run) = (store.clone(), run.clone());
        let (owned, id) = (store.clone(), run.clone());
        let stored = self.blocking(move |_| Ok(owned.run(&id)?)).await?;
        let state = (stored.updated_ms, stored.samples_done);
        self.check_answers(&stored)?;
        // Every other filter is another question: they are answered one after the other.
        let work = move |app: &Self| app.pairs_of(&store, &run, (&filters, false));
        let compute = self.blocking_alone(&self.scoring, work);
        self.known_pairs.get(question, || Some(state), compute).await
    }

    /// The pairs of a run that made some, each with whether it is held out, from what is stored.
    pub(crate) fn pairs_of(
        &self,
        store: &Store,
        run: &RunId,
        (filters, decontaminate): (&Filters, bool),
    ) -> ApiResult<KnownPairs> {
        let stored = store.run(run)?;
        let (steps, data) = (Steps::of(store, run), (&self.catalog, &self.roots));
        let index = decontaminate.then(|| Decontamination::of_tasks(None, data.0, data.1)).transpose()?;
        let (mut pairs, report) = match stored.request["procedure"].as_str() {
            Some(PairsRequest::PROCEDURE) => {
                let request: PairsRequest = request_of(&stored)?;
                let strategy = request.strategy;
                Build::pairs(&steps, &request, strategy, filters, data, index.as_ref())?
            }
            Some(CritiqueRequest::PROCEDURE) => {
                let request: CritiqueRequest = request_of(&stored)?;
                let (_, files) = critique_results(&steps, &request)?;
                let (pairs, _, report) = files.filtered(filters, index.as_ref());
                (pairs, report)
            }
            _ => return Err(ApiError::new(Code::NotFound, "the run made no pairs")),
        };
        // Who wrote and who judged them.
        for value in pairs.iter_mut().flat_map(|(_, pair)| pair.origin.values_mut()) {
            *value = self.placeless_document(value);
        }
        Ok((pairs, report))
    }

    /// Refuses a run whose pairs take too long to be made while a request waits.
    fn check_answers(&self, stored: &StoredRun) -> ApiResult<()> {
        let (answers, most) = (stored.samples_done, self.settings.max_pairs_answers);
        if answers <= most {
            return Ok(());
        }
        let message = format!(
            "the run has {answers} answers; over REST at most {most} are made into pairs (`evalign pairs export` has no limit)"
        );
        Err(ApiError::new(Code::TooLarge, message))
    }

    /// Writes the pairs of a run into files of the tenant's: those for training, and those held out where some are.
    pub(crate) fn export_pairs(
        &self,
        store: &Store,
        run: &RunId,
        body: &PairsExportBody,
    ) -> ApiResult<PairsObject> {
        let files = pair_files(&body.layout, &body.style, &body.format)?;
        let filters = body.filters()?;
        let stored = store.run(run)?;
        if stored.status != RunStatus::Completed {
            return Err(ApiError::new(Code::RunActive, "the run is not completed"));
        }
        self.check_answers(&stored)?;
        let (pairs, report) = self.pairs_of(store, run, (&filters, body.decontaminate))?;
        let mut parts = vec![("train", false)];
        if body.held_out > 0.0 {
            parts.push(("held_out", true));
        }
        uploads::check_room(self, store, 1)?;
        let dir = uploads::partial(&self.home)?;
        let mut made = Vec::new();
        for (name, is_held_out) in parts {
            let mine = pairs.iter().filter(|(held_out, _)| *held_out == is_held_out).map(|(_, pair)| pair);
            let (path, rows) = write_pairs(dir.path(), name, mine, files)?;
            let file = self.kept(store, &path)?;
            made.push(PairsFile { rows, file: file.into() });
        }
        Ok(PairsObject { object: "pairs", files: made, report: json!(report) })
    }

    /// Takes a file that was written here as one of the tenant's.
    fn kept(&self, store: &Store, path: &std::path::Path) -> ApiResult<StoredFile> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("pairs");
        uploads::keep(self, store, path, (name, "preferences"))
    }

    /// An uploaded file of pairs, where it is so small that a request may wait until all of it is read, and how far it may
    /// unpack.
    fn readable_pairs(&self, store: &Store, id: &str) -> ApiResult<(PathBuf, Limits)> {
        let file = uploads::found(store, id, "file")?;
        let most = self.settings.max_pairs_mib.saturating_mul(uploads::MIB);
        if file.bytes > most {
            let message = format!(
                "the file has {} bytes; over REST at most {most} are read (`evalign pairs` has no limit)",
                file.bytes
            );
            return Err(ApiError::new(Code::TooLarge, message).about("file"));
        }
        let limits = Limits { unpacked_bytes: most, ..Limits::default() };
        let place = uploads::named_place(&self.home, &file)?;
        unpacked_bytes(&place, &limits).map_err(|error| ApiError::from(error).about("file"))?;
        Ok((place, limits))
    }

    /// What is wrong with an uploaded file of preferences.
    pub(crate) fn check_pairs(&self, store: &Store, body: &CheckBody) -> ApiResult<CheckObject> {
        let (path, limits) = self.readable_pairs(store, &body.file)?;
        let mut counts: BTreeMap<Check, u64> = BTreeMap::new();
        let mut findings: Vec<Finding> = Vec::new();
        let checked = check_file(&path, &limits, &mut |_, finding| {
            let count = counts.entry(finding.check).or_default();
            *count += 1;
            if *count <= SHOWN {
                findings.push(finding);
            }
            ControlFlow::Continue(())
        })?;
        let (report, _) = checked.ok_or_else(|| ApiError::internal("nothing breaks off"))?;
        Ok(CheckObject {
            object: "pairs.check",
            errors: report.count(Severity::Error),
            warnings: report.count(Severity::Warning),
            report: json!(report),
            findings: findings.iter().map(|finding| json!(finding)).collect(),
        })
    }

    /// Takes over an uploaded file of preferences: rows that would teach the wrong thing are left out and told, the
    /// others become a file in the layout that was asked for.
    pub(crate) fn import_pairs(&self, store: &Store, body: &ImportBody) -> ApiResult<PairsObject> {
        let files = pair_files(&body.layout, &body.style, &body.format)?;
        let (path, limits) = self.readable_pairs(store, &body.file)?;
        uploads::check_room(self, store, 1)?;
        let dir = uploads::partial(&self.home)?;
        let target = dir.path().join(format!("pairs.{}", files.kind.extension()));
        let mut findings: Vec<Value> = Vec::new();
        let how = (files.layout, files.style, files.kind);
        let converted = convert_file(&path, &limits, &target, how, &mut |_, _, finding| {
            if (findings.len() as u64) < SHOWN {
                findings.push(json!(finding));
            }
        })?;
        let file = self.kept(store, &target)?;
        Ok(PairsObject {
            object: "pairs",
            files: vec![PairsFile { rows: converted.rows, file: file.into() }],
            report: json!({
                "rows": converted.rows,
                "left_out": converted.left_out,
                "faulty": converted.faulty,
                "findings": findings,
            }),
        })
    }
}
