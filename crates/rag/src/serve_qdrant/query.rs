//! Queries of the protocol as the engine's.

use qdrant_client::qdrant as api;
use qdrant_edge as qe;
use qe::external::ordered_float::OrderedFloat;
use tonic::Status;

use crate::edge::Collection;

use super::decode::{self, none, unknown};
use super::encode;

/// Hits of a query where none are asked for in number.
const DEFAULT_LIMIT: u64 = 10;

/// Qdrant's own default for reciprocal rank fusion.
const DEFAULT_RRF_K: u32 = 2;

pub(super) fn query(
    collection: &Collection,
    request: api::QueryPoints,
) -> Result<Vec<api::ScoredPoint>, Status> {
    none(request.lookup_from, "lookups in other collections")?;
    none(request.shard_key_selector, "shard keys")?;
    let mut filter = decode::optional_filter(request.filter)?;
    let idf = request.params.as_ref().and_then(|params| params.idf.clone());
    let scoring = scoring(collection, (request.query, request.using), &mut filter, idf)?;
    let prefetches = request.prefetch.into_iter().map(|one| prefetch(collection, one));
    let request = qe::QueryRequest {
        prefetches: prefetches.collect::<Result<_, _>>()?,
        query: scoring,
        filter,
        score_threshold: request.score_threshold.map(OrderedFloat),
        limit: to_usize(request.limit.unwrap_or(DEFAULT_LIMIT))?,
        offset: to_usize(request.offset.unwrap_or(0))?,
        params: request.params.as_ref().map(params).transpose()?,
        with_vector: decode::with_vectors(request.with_vectors),
        with_payload: decode::with_payload(request.with_payload)?,
    };
    let hits = collection.query(request).map_err(|error| encode::status(&error))?;
    Ok(hits.into_iter().map(encode::scored).collect())
}

/// The older call, which SDKs still offer, in the words of the newer.
pub(super) fn from_search(request: api::SearchPoints) -> api::QueryPoints {
    let variant = match request.sparse_indices {
        Some(indices) => api::vector_input::Variant::Sparse(api::SparseVector {
            values: request.vector,
            indices: indices.data,
        }),
        None => api::vector_input::Variant::Dense(api::DenseVector { data: request.vector }),
    };
    let nearest = api::query::Variant::Nearest(api::VectorInput { variant: Some(variant) });
    api::QueryPoints {
        collection_name: request.collection_name,
        query: Some(api::Query { variant: Some(nearest) }),
        using: request.vector_name,
        filter: request.filter,
        params: request.params,
        score_threshold: request.score_threshold,
        limit: Some(request.limit),
        offset: request.offset,
        with_vectors: request.with_vectors,
        with_payload: request.with_payload,
        shard_key_selector: request.shard_key_selector,
        ..api::QueryPoints::default()
    }
}

fn prefetch(collection: &Collection, request: api::PrefetchQuery) -> Result<qe::Prefetch, Status> {
    none(request.lookup_from, "lookups in other collections")?;
    let mut filter = decode::optional_filter(request.filter)?;
    let idf = request.params.as_ref().and_then(|params| params.idf.clone());
    let scoring = scoring(collection, (request.query, request.using), &mut filter, idf)?;
    let prefetches = request.prefetch.into_iter().map(|one| prefetch(collection, one));
    Ok(qe::Prefetch {
        prefetches: prefetches.collect::<Result<_, _>>()?,
        query: scoring,
        limit: to_usize(request.limit.unwrap_or(DEFAULT_LIMIT))?,
        params: request.params.as_ref().map(params).transpose()?,
        filter,
        score_threshold: request.score_threshold.map(OrderedFloat),
    })
}

/// A query by a point's own vector leaves that point out, so it may add to the filter.
fn scoring(
    collection: &Collection,
    (query, using): (Option<api::Query>, Option<String>),
    filter: &mut Option<qe::Filter>,
    idf: Option<api::IdfParams>,
) -> Result<Option<qe::ScoringQuery>, Status> {
    use api::query::Variant;
    let Some(query) = query else {
        none(idf, "`idf` without a query")?;
        return Ok(None);
    };
    let using = using.unwrap_or_else(|| qe::DEFAULT_VECTOR_NAME.to_owned());
    Ok(Some(match query.variant {
        Some(Variant::Nearest(input)) => {
            let vector = vector(collection.shard(), input, &using, filter)?;
            let vector = weighed(collection, vector, &using, idf)?;
            let nearest = qe::NamedQuery { query: vector, using: Some(using) };
            qe::ScoringQuery::Vector(qe::QueryEnum::Nearest(nearest))
        }
        Some(Variant::Fusion(fusion)) => qe::ScoringQuery::Fusion(match api::Fusion::try_from(fusion) {
            Ok(api::Fusion::Rrf) => qe::Fusion::Rrf { k: DEFAULT_RRF_K as usize, weights: None },
            Ok(api::Fusion::Dbsf) => qe::Fusion::Dbsf,
            Err(_) => return Err(unknown("this fusion")),
        }),
        Some(Variant::Rrf(rrf)) => {
            let weights: Vec<_> = rrf.weights.into_iter().map(OrderedFloat).collect();
            let weights = (!weights.is_empty()).then_some(weights);
            qe::ScoringQuery::Fusion(qe::Fusion::Rrf { k: rrf.k.unwrap_or(DEFAULT_RRF_K) as usize, weights })
        }
        Some(_) => return Err(unknown("this kind of query")),
        None => return Err(Status::invalid_argument("the query is empty")),
    }))
}

/// Weighed by the statistics of the corpus that the request names, of the whole collection where it names
/// none.
fn weighed(
    collection: &Collection,
    vector: qe::VectorInternal,
    using: &str,
    idf: Option<api::IdfParams>,
) -> Result<qe::VectorInternal, Status> {
    match vector {
        qe::VectorInternal::Sparse(query) if collection.idf().contains(using) => {
            let corpus = decode::optional_filter(idf.and_then(|idf| idf.corpus))?;
            let weighed = collection.weigh(using, query, corpus.as_ref());
            Ok(qe::VectorInternal::Sparse(weighed.map_err(|error| encode::refusal(&error))?))
        }
        other => {
            none(idf, "`idf` for a vector without the modifier `idf`")?;
            Ok(other)
        }
    }
}

fn vector(
    shard: &qe::EdgeShard,
    input: api::VectorInput,
    using: &str,
    filter: &mut Option<qe::Filter>,
) -> Result<qe::VectorInternal, Status> {
    use api::vector_input::Variant;
    match input.variant {
        Some(Variant::Dense(dense)) => Ok(qe::VectorInternal::Dense(dense.data)),
        Some(Variant::Sparse(sparse)) => decode::sparse_vector(sparse.indices, sparse.values),
        Some(Variant::Id(id)) => {
            let id = decode::id(Some(id))?;
            let not_itself = qe::Condition::HasId([id].into_iter().collect());
            filter.get_or_insert_with(qe::Filter::new).must_not.get_or_insert_default().push(not_itself);
            vector_of(shard, id, using)
        }
        Some(Variant::MultiDense(_)) => Err(unknown("multivectors")),
        Some(Variant::Document(_) | Variant::Image(_) | Variant::Object(_)) => {
            Err(unknown("inference: send vectors"))
        }
        None => Err(Status::invalid_argument("the vector is empty")),
    }
}

fn vector_of(shard: &qe::EdgeShard, id: qe::PointId, using: &str) -> Result<qe::VectorInternal, Status> {
    let records = shard.retrieve(&[id], Some(false.into()), Some(true.into()));
    let records = records.map_err(|error| encode::status(&error))?;
    let vector = match records.into_iter().next().and_then(|record| record.vector) {
        Some(qe::VectorStructInternal::Single(data)) if using == qe::DEFAULT_VECTOR_NAME => {
            Some(qe::VectorInternal::Dense(data))
        }
        Some(qe::VectorStructInternal::Named(mut named)) => named.remove(using),
        _ => None,
    };
    vector.ok_or_else(|| Status::not_found(format!("No point with id {id} and vector `{using}`")))
}

fn params(params: &api::SearchParams) -> Result<qe::SearchParams, Status> {
    let quantization = params.quantization.as_ref().map(|quantisation| qe::QuantizationSearchParams {
        ignore: quantisation.ignore.unwrap_or(false),
        rescore: quantisation.rescore,
        oversampling: quantisation.oversampling,
    });
    Ok(qe::SearchParams {
        hnsw_ef: params.hnsw_ef.map(to_usize).transpose()?,
        exact: params.exact.unwrap_or(false),
        quantization,
        indexed_only: params.indexed_only.unwrap_or(false),
        ..qe::SearchParams::default()
    })
}

pub(super) fn to_usize(number: u64) -> Result<usize, Status> {
    usize::try_from(number).map_err(|_| Status::invalid_argument(format!("{number} is too large")))
}
