use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use evalign_model::{ModelError, TextEncoder};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::app::App;
use crate::error::{ApiError, ApiResult, Code};
use crate::extract::{JsonBody, Tenanted};
use crate::openai::unsupported;
use crate::openapi::{ErrorAnswers, Refusals};

/// Most texts in one request.
const MOST_TEXTS: usize = 256;

/// One text or several.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(untagged)]
pub(crate) enum Texts {
    One(String),
    Several(Vec<String>),
}

/// How vectors are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Encoding {
    #[default]
    Float,
    /// Little-endian f32 in base64.
    Base64,
}

/// What OpenAI's embeddings take.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"model": "minilm", "input": "a text"}))]
pub(crate) struct EmbeddingsBody {
    pub(crate) model: String,
    pub(crate) input: Texts,
    pub(crate) encoding_format: Option<Encoding>,
    /// Only what the model has.
    pub(crate) dimensions: Option<usize>,
    /// Has no effect.
    #[expect(dead_code, reason = "accepted, and without effect")]
    pub(crate) user: Option<String>,
}

/// Vectors of texts. A text that is longer than the model reads is refused, not cut.
#[utoipa::path(post, path = "/v1/embeddings", tag = "models", request_body = EmbeddingsBody,
    responses((status = 200, description = "A vector for each text", body = Object), ErrorAnswers, Refusals))]
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    Tenanted { caller, .. }: Tenanted,
    JsonBody { value: body, .. }: JsonBody<EmbeddingsBody>,
) -> ApiResult<Json<Value>> {
    let texts = match body.input {
        Texts::One(text) => vec![text],
        Texts::Several(texts) => texts,
    };
    if texts.is_empty() || texts.len() > MOST_TEXTS {
        let message = format!("`input` is 1 to {MOST_TEXTS} texts");
        return Err(ApiError::new(Code::InvalidRequest, message).about("input"));
    }
    let encoder = app.models.embedder(&body.model).await?;
    if body.dimensions.is_some_and(|dimensions| dimensions != encoder.identity().dimensions) {
        return Err(unsupported("dimensions", &format!("only {}", encoder.identity().dimensions)));
    }
    let encoding = body.encoding_format.unwrap_or_default();
    let (vectors, tokens) = tokio::task::spawn_blocking(move || embed(&encoder, &texts)).await??;
    app.count_tokens(&caller.key, tokens as u64);
    let told = |(index, vector): (usize, Vec<f32>)| json!({"object": "embedding", "index": index, "embedding": written(&vector, encoding)});
    Ok(Json(json!({
        "object": "list",
        "data": vectors.into_iter().enumerate().map(told).collect::<Vec<_>>(),
        "model": body.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    })))
}

fn embed(encoder: &TextEncoder, texts: &[String]) -> ApiResult<(Vec<Vec<f32>>, usize)> {
    let engine = |error| ApiError::from(ModelError::from(error));
    let mut ids = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        let encoded = encoder.tokenise(text).map_err(engine)?;
        if encoded.dropped_tokens > 0 {
            let most = encoder.identity().max_tokens;
            let message = format!(
                "text {index} has {} tokens too many; the model reads {most}",
                encoded.dropped_tokens
            );
            return Err(ApiError::new(Code::ContextLength, message).about(format!("input[{index}]")));
        }
        ids.push(encoded.ids);
    }
    let tokens = ids.iter().map(Vec::len).sum();
    Ok((encoder.embed(&ids).map_err(engine)?, tokens))
}

fn written(vector: &[f32], encoding: Encoding) -> Value {
    match encoding {
        Encoding::Float => json!(vector),
        Encoding::Base64 => {
            let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
            STANDARD.encode(bytes).into()
        }
    }
}
