//! Between our types and the engine's.

use std::collections::HashMap;

use qdrant_edge as qe;
use serde_json::Value;
use uuid::Uuid;

use crate::filter::{Scalar, at_least_one};
use crate::vector_store::{DENSE, SPARSE};
use crate::{
    CollectionSpec, Condition, FieldKind, Filter, Point, RagError, Record, Scored, SparseVector, StoreFault,
    TENANT_FIELD,
};

pub(super) fn config(spec: &CollectionSpec) -> qe::EdgeConfig {
    let sparse = qe::EdgeSparseVectorParams::default();
    let mut config = qe::EdgeConfig {
        sparse_vectors: HashMap::from([(SPARSE.to_owned(), sparse)]),
        ..qe::EdgeConfig::default()
    };
    if let Some(size) = spec.dimension {
        let quantisation = spec.scalar_quantisation.then(scalar_quantisation);
        config.vectors.insert(
            DENSE.to_owned(),
            qe::EdgeVectorParamsBuilder::new(size, qe::Distance::Cosine)
                .on_disk(spec.scalar_quantisation)
                .build(),
        );
        config.quantization_config = quantisation;
    }
    config
}

fn scalar_quantisation() -> qe::QuantizationConfig {
    let config = qe::ScalarQuantizationConfig {
        r#type: qe::ScalarType::Int8,
        quantile: Some(0.99),
        always_ram: Some(true),
    };
    qe::QuantizationConfig::from(config)
}

pub(super) fn field_schema(kind: FieldKind) -> qe::PayloadFieldSchema {
    qe::PayloadFieldSchema::FieldType(match kind {
        FieldKind::Keyword => qe::PayloadSchemaType::Keyword,
        FieldKind::Integer => qe::PayloadSchemaType::Integer,
        FieldKind::Float => qe::PayloadSchemaType::Float,
        FieldKind::Bool => qe::PayloadSchemaType::Bool,
    })
}

/// Points of one tenant are stored together.
pub(super) fn tenant_schema() -> qe::PayloadFieldSchema {
    qe::PayloadFieldSchema::FieldParams(qe::PayloadSchemaParams::Keyword(qe::KeywordIndexParams {
        is_tenant: Some(true),
        ..qe::KeywordIndexParams::default()
    }))
}

pub(super) fn path(key: &str) -> Result<qe::JsonPath, RagError> {
    qe::JsonPath::try_from(key).map_err(|()| {
        RagError::invalid(
            format!("field `{key}`"),
            "is not the path of a payload field",
            "write names separated by dots, for example `meta.author`",
        )
    })
}

pub(super) fn filter(filter: &Filter) -> Result<qe::Filter, RagError> {
    let conditions = |conditions: &[Condition]| {
        let conditions = conditions.iter().map(condition).collect::<Result<Vec<_>, _>>()?;
        Ok::<_, RagError>((!conditions.is_empty()).then_some(conditions))
    };
    Ok(qe::Filter {
        must: conditions(&filter.must)?,
        must_not: conditions(&filter.must_not)?,
        ..qe::Filter::new()
    })
}

fn condition(one: &Condition) -> Result<qe::Condition, RagError> {
    Ok(match one {
        Condition::Equals { key, value } => match Scalar::of(key, value)? {
            Scalar::Text(text) => matches(key, qe::ValueVariants::String(text))?,
            Scalar::Integer(integer) => matches(key, qe::ValueVariants::Integer(integer))?,
            Scalar::Bool(flag) => matches(key, qe::ValueVariants::Bool(flag))?,
        },
        Condition::AnyOf { key, values } => {
            let any = match Scalar::all(key, values)? {
                Ok(texts) => qe::AnyVariants::Strings(texts.into_iter().collect()),
                Err(integers) => qe::AnyVariants::Integers(integers.into_iter().collect()),
            };
            let any = qe::Match::Any(qe::MatchAny { any });
            qe::Condition::Field(qe::FieldCondition::new_match(path(key)?, any))
        }
        Condition::Range { key, bounds } => {
            let bound = |bound: Option<f64>| bound.map(qe::external::ordered_float::OrderedFloat);
            let range = qe::Range {
                lt: bound(bounds.lt),
                gt: bound(bounds.gt),
                gte: bound(bounds.gte),
                lte: bound(bounds.lte),
            };
            qe::Condition::Field(qe::FieldCondition::new_range(path(key)?, range))
        }
        Condition::Exists { key } => {
            let empty = qe::IsEmptyCondition::from(path(key)?);
            qe::Condition::Filter(qe::Filter::new_must_not(qe::Condition::IsEmpty(empty)))
        }
        Condition::Ids(ids) => has_ids(ids),
        Condition::Either(conditions) => {
            let any = at_least_one(conditions)?.iter().map(condition).collect::<Result<Vec<_>, _>>()?;
            qe::Condition::Filter(qe::Filter { should: Some(any), ..qe::Filter::new() })
        }
    })
}

fn matches(key: &str, value: qe::ValueVariants) -> Result<qe::Condition, RagError> {
    let value = qe::Match::Value(qe::MatchValue { value });
    Ok(qe::Condition::Field(qe::FieldCondition::new_match(path(key)?, value)))
}

fn has_ids(ids: &[Uuid]) -> qe::Condition {
    qe::Condition::HasId(ids.iter().copied().map(qe::PointId::Uuid).collect())
}

pub(super) fn with_ids(mut filter: qe::Filter, ids: &[Uuid]) -> qe::Filter {
    filter.must.get_or_insert_default().push(has_ids(ids));
    filter
}

pub(super) fn point(point: Point) -> Result<qe::PointStructPersisted, RagError> {
    let mut vectors = HashMap::from([(SPARSE.to_owned(), sparse(point.sparse)?)]);
    if let Some(dense) = point.dense {
        vectors.insert(DENSE.to_owned(), qe::VectorInternal::Dense(dense));
    }
    let mut payload = point.payload;
    payload.insert(TENANT_FIELD.to_owned(), Value::String(point.tenant));
    Ok(qe::PointStructPersisted {
        id: qe::PointId::Uuid(point.id),
        vector: qe::VectorStructInternal::Named(vectors).into(),
        payload: Some(qe::Payload(payload)),
    })
}

pub(super) fn sparse_update(id: Uuid, vector: SparseVector) -> Result<qe::PointVectorsPersisted, RagError> {
    let vectors = HashMap::from([(SPARSE.to_owned(), sparse(vector)?)]);
    Ok(qe::PointVectorsPersisted {
        id: qe::PointId::Uuid(id),
        vector: qe::VectorStructInternal::Named(vectors).into(),
    })
}

fn sparse(vector: SparseVector) -> Result<qe::VectorInternal, RagError> {
    weights(vector).map(qe::VectorInternal::Sparse)
}

pub(super) fn weights(vector: SparseVector) -> Result<qe::SparseVector, RagError> {
    qe::SparseVector::new(vector.indices, vector.values).map_err(|error| RagError::Store {
        place: "in this process".to_owned(),
        message: format!("term weights are not a sparse vector: {error}"),
        kind: StoreFault::Refused,
    })
}

pub(super) fn nearest(
    vector: qe::VectorInternal,
    using: &str,
    filter: qe::Filter,
    limit: usize,
    exact: bool,
) -> qe::QueryRequest {
    let nearest = qe::NamedQuery { query: vector, using: Some(using.to_owned()) };
    qe::QueryRequest {
        prefetches: Vec::new(),
        query: Some(qe::ScoringQuery::Vector(qe::QueryEnum::Nearest(nearest))),
        filter: Some(filter),
        score_threshold: None,
        limit,
        offset: 0,
        params: Some(qe::SearchParams { exact, ..qe::SearchParams::default() }),
        with_vector: qe::WithVector::Bool(false),
        with_payload: qe::WithPayloadInterface::Bool(false),
    }
}

pub(super) fn scored(hit: &qe::ScoredPoint) -> Result<Scored, RagError> {
    Ok(Scored { id: uuid(hit.id)?, score: hit.score })
}

pub(super) fn uuid(id: qe::PointId) -> Result<Uuid, RagError> {
    match id {
        qe::PointId::Uuid(uuid) => Ok(uuid),
        qe::PointId::NumId(number) => Err(foreign(&number.to_string())),
    }
}

/// Everything written through this crate has a UUID; other clients of `serve-qdrant` may have their own.
fn foreign(id: &str) -> RagError {
    RagError::Store {
        place: "in this process".to_owned(),
        message: format!("point {id} was not written by evalign"),
        kind: StoreFault::Refused,
    }
}

pub(super) fn record(record: qe::Record) -> Result<Record, RagError> {
    let mut payload = record.payload.unwrap_or_default().0;
    payload.remove(TENANT_FIELD);
    let (mut dense, mut sparse) = (None, None);
    if let Some(qe::VectorStructInternal::Named(vectors)) = record.vector {
        for (name, vector) in vectors {
            match vector {
                qe::VectorInternal::Dense(vector) if name == DENSE => dense = Some(vector),
                qe::VectorInternal::Sparse(vector) if name == SPARSE => {
                    sparse = Some(SparseVector { indices: vector.indices, values: vector.values });
                }
                _ => {}
            }
        }
    }
    Ok(Record { id: uuid(record.id)?, payload, dense, sparse })
}
