//! Between our types and those of the protocol.

use std::collections::HashMap;

use qdrant_client::Payload;
use qdrant_client::qdrant as api;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::filter::{Scalar, at_least_one};
use crate::vector_store::{DENSE, SPARSE};
use crate::{
    CollectionSpec, Condition, FieldKind, Filter, Leg, Point, RagError, Record, Scope, Scored, SparseVector,
    StoreFault, TENANT_FIELD,
};

pub(super) fn create(collection: &str, spec: &CollectionSpec) -> api::CreateCollection {
    let dense = spec.dimension.map(|size| {
        let params = api::VectorParams {
            size: size as u64,
            distance: api::Distance::Cosine.into(),
            quantization_config: spec.scalar_quantisation.then(|| {
                let scalar = api::ScalarQuantizationBuilder::default()
                    .r#type(api::QuantizationType::Int8.into())
                    .quantile(0.99)
                    .always_ram(true)
                    .build();
                api::quantization_config::Quantization::Scalar(scalar).into()
            }),
            ..Default::default()
        };
        let map = HashMap::from([(DENSE.to_owned(), params)]);
        api::VectorsConfig {
            config: Some(api::vectors_config::Config::ParamsMap(api::VectorParamsMap { map })),
        }
    });
    let sparse = api::SparseVectorParams { modifier: Some(api::Modifier::Idf.into()), ..Default::default() };
    api::CreateCollection {
        collection_name: collection.to_owned(),
        vectors_config: dense,
        sparse_vectors_config: Some(api::SparseVectorConfig {
            map: HashMap::from([(SPARSE.to_owned(), sparse)]),
        }),
        ..Default::default()
    }
}

pub(super) fn dimension(info: &api::CollectionInfo) -> Option<usize> {
    let config = info.config.as_ref()?.params.as_ref()?.vectors_config.as_ref()?.config.as_ref()?;
    match config {
        api::vectors_config::Config::ParamsMap(params) => {
            params.map.get(DENSE).and_then(|vectors| usize::try_from(vectors.size).ok())
        }
        api::vectors_config::Config::Params(_) => None,
    }
}

pub(super) fn field_index(kind: FieldKind) -> (api::FieldType, Option<api::PayloadIndexParams>) {
    let field = match kind {
        FieldKind::Keyword => api::FieldType::Keyword,
        FieldKind::Integer => api::FieldType::Integer,
        FieldKind::Float => api::FieldType::Float,
        FieldKind::Bool => api::FieldType::Bool,
    };
    (field, None)
}

/// Points of one tenant are stored together.
pub(super) fn tenant_index() -> (api::FieldType, Option<api::PayloadIndexParams>) {
    let keyword = api::KeywordIndexParams { is_tenant: Some(true), ..Default::default() };
    let params = api::PayloadIndexParams {
        index_params: Some(api::payload_index_params::IndexParams::KeywordIndexParams(keyword)),
    };
    (api::FieldType::Keyword, Some(params))
}

pub(super) fn filter(filter: &Filter) -> Result<api::Filter, RagError> {
    Ok(api::Filter {
        must: filter.must.iter().map(condition).collect::<Result<_, _>>()?,
        must_not: filter.must_not.iter().map(condition).collect::<Result<_, _>>()?,
        ..Default::default()
    })
}

fn condition(one: &Condition) -> Result<api::Condition, RagError> {
    Ok(match one {
        Condition::Equals { key, value } => match Scalar::of(key, value)? {
            Scalar::Text(text) => api::Condition::matches(key.as_str(), text),
            Scalar::Integer(integer) => api::Condition::matches(key.as_str(), integer),
            Scalar::Bool(flag) => api::Condition::matches(key.as_str(), flag),
        },
        Condition::AnyOf { key, values } => match Scalar::all(key, values)? {
            Ok(texts) => api::Condition::matches(key.as_str(), texts),
            Err(integers) => api::Condition::matches(key.as_str(), integers),
        },
        Condition::Range { key, bounds } => api::Condition::range(
            key.as_str(),
            api::Range { lt: bounds.lt, gt: bounds.gt, gte: bounds.gte, lte: bounds.lte },
        ),
        Condition::Exists { key } => api::Filter::must_not([api::Condition::is_empty(key.as_str())]).into(),
        Condition::Ids(ids) => api::Condition::has_id(ids.iter().copied().map(id)),
        Condition::Either(conditions) => {
            let any = at_least_one(conditions)?.iter().map(condition).collect::<Result<Vec<_>, _>>()?;
            api::Filter::should(any).into()
        }
    })
}

pub(super) fn selector(scope: &Scope) -> Result<api::PointsSelector, RagError> {
    let filter = filter(&scope.all())?;
    Ok(api::PointsSelector {
        points_selector_one_of: Some(api::points_selector::PointsSelectorOneOf::Filter(filter)),
    })
}

pub(super) fn id(id: Uuid) -> api::PointId {
    api::PointId::from(id.to_string())
}

pub(super) fn uuid(place: &str, id: Option<api::PointId>) -> Result<Uuid, RagError> {
    let foreign = |shown: String| RagError::Store {
        place: place.to_owned(),
        message: format!("point {shown} was not written by evalign"),
        kind: StoreFault::Refused,
    };
    match id.and_then(|id| id.point_id_options) {
        Some(api::point_id::PointIdOptions::Uuid(text)) => {
            Uuid::parse_str(&text).map_err(|_| foreign(text.escape_debug().to_string()))
        }
        Some(api::point_id::PointIdOptions::Num(number)) => Err(foreign(number.to_string())),
        None => Err(foreign("without an id".to_owned())),
    }
}

pub(super) fn payload(payload: Map<String, Value>) -> HashMap<String, api::Value> {
    Payload::from(payload).into()
}

pub(super) fn point(point: Point) -> api::PointStruct {
    let mut vectors = HashMap::from([(SPARSE.to_owned(), sparse(point.sparse))]);
    if let Some(data) = point.dense {
        let dense = api::vector::Vector::Dense(api::DenseVector { data });
        vectors.insert(DENSE.to_owned(), dense.into());
    }
    let mut fields = point.payload;
    fields.insert(TENANT_FIELD.to_owned(), Value::String(point.tenant));
    api::PointStruct { id: Some(id(point.id)), payload: payload(fields), vectors: Some(named(vectors)) }
}

fn sparse(vector: SparseVector) -> api::Vector {
    let SparseVector { indices, values } = vector;
    api::vector::Vector::Sparse(api::SparseVector { values, indices }).into()
}

fn named(vectors: HashMap<String, api::Vector>) -> api::Vectors {
    api::Vectors {
        vectors_options: Some(api::vectors::VectorsOptions::Vectors(api::NamedVectors { vectors })),
    }
}

pub(super) fn sparse_update(point: Uuid, vector: &SparseVector) -> api::PointVectors {
    let vectors = HashMap::from([(SPARSE.to_owned(), sparse(vector.clone()))]);
    api::PointVectors { id: Some(id(point)), vectors: Some(named(vectors)) }
}

pub(super) fn query(
    collection: &str,
    leg: Leg,
    filter: &api::Filter,
    corpus: &api::Filter,
) -> api::QueryPoints {
    let (vector, using, limit, params) = match leg {
        Leg::Dense { vector, limit, exact } => {
            let dense = api::vector_input::Variant::Dense(api::DenseVector { data: vector });
            (dense, DENSE, limit, api::SearchParams { exact: Some(exact), ..Default::default() })
        }
        Leg::Sparse { vector, limit } => {
            let SparseVector { indices, values } = vector;
            let sparse = api::vector_input::Variant::Sparse(api::SparseVector { values, indices });
            let idf = api::IdfParams { corpus: Some(corpus.clone()) };
            (sparse, SPARSE, limit, api::SearchParams { idf: Some(idf), ..Default::default() })
        }
    };
    let nearest = api::query::Variant::Nearest(api::VectorInput { variant: Some(vector) });
    api::QueryPoints {
        collection_name: collection.to_owned(),
        query: Some(api::Query { variant: Some(nearest) }),
        using: Some(using.to_owned()),
        filter: Some(filter.clone()),
        params: Some(params),
        limit: Some(limit as u64),
        with_payload: Some(false.into()),
        with_vectors: Some(false.into()),
        ..Default::default()
    }
}

pub(super) fn scored(place: &str, hit: api::ScoredPoint) -> Result<Scored, RagError> {
    Ok(Scored { id: uuid(place, hit.id)?, score: hit.score })
}

pub(super) fn record(place: &str, point: api::RetrievedPoint) -> Result<Record, RagError> {
    let mut payload: Map<String, Value> = Payload::from(point.payload).into();
    payload.remove(TENANT_FIELD);
    let (mut dense, mut sparse) = (None, None);
    let vectors = point.vectors.and_then(|vectors| vectors.vectors_options);
    if let Some(api::vectors_output::VectorsOptions::Vectors(named)) = vectors {
        for (name, vector) in named.vectors {
            match vector.into_vector() {
                api::vector_output::Vector::Dense(vector) if name == DENSE => dense = Some(vector.data),
                api::vector_output::Vector::Sparse(vector) if name == SPARSE => {
                    sparse = Some(SparseVector { indices: vector.indices, values: vector.values });
                }
                _ => {}
            }
        }
    }
    Ok(Record { id: uuid(place, point.id)?, payload, dense, sparse })
}

pub(super) fn keyword_count(hit: api::FacetHit) -> Option<(String, u64)> {
    match hit.value?.variant? {
        api::facet_value::Variant::StringValue(value) => Some((value, hit.count)),
        api::facet_value::Variant::IntegerValue(_) | api::facet_value::Variant::BoolValue(_) => None,
    }
}
