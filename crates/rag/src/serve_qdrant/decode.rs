//! From the protocol's types to the engine's. What would change a result and is not known is refused.

use std::collections::{BTreeSet, HashMap};

use qdrant_client::Payload;
use qdrant_client::qdrant as api;
use qdrant_edge as qe;
use tonic::Status;
use uuid::Uuid;

pub(super) fn unknown(what: &str) -> Status {
    Status::unimplemented(format!("the embedded store does not know {what}"))
}

fn missing(what: &str) -> Status {
    Status::invalid_argument(format!("{what} is missing"))
}

/// Refuses what is set.
pub(super) fn none<T>(field: Option<T>, what: &str) -> Result<(), Status> {
    field.map_or(Ok(()), |_| Err(unknown(what)))
}

pub(super) fn config(request: api::CreateCollection) -> Result<qe::EdgeConfig, Status> {
    none(request.sharding_method.filter(|method| *method != 0), "custom sharding")?;
    let mut config = qe::EdgeConfig {
        quantization_config: request.quantization_config.map(quantisation).transpose()?,
        ..qe::EdgeConfig::default()
    };
    match request.vectors_config.and_then(|vectors| vectors.config) {
        Some(api::vectors_config::Config::Params(params)) => {
            config.vectors.insert(qe::DEFAULT_VECTOR_NAME.to_owned(), dense_params(params)?);
        }
        Some(api::vectors_config::Config::ParamsMap(map)) => {
            for (name, params) in map.map {
                config.vectors.insert(name, dense_params(params)?);
            }
        }
        None => {}
    }
    for (name, params) in request.sparse_vectors_config.unwrap_or_default().map {
        config.sparse_vectors.insert(name, sparse_params(&params)?);
    }
    Ok(config)
}

fn dense_params(params: api::VectorParams) -> Result<qe::EdgeVectorParams, Status> {
    none(params.multivector_config, "multivectors")?;
    none(params.datatype.filter(|kind| *kind > 1), "vector datatypes other than f32")?;
    let size = usize::try_from(params.size).ok().filter(|size| *size > 0);
    let distance = match params.distance() {
        api::Distance::Cosine => qe::Distance::Cosine,
        api::Distance::Euclid => qe::Distance::Euclid,
        api::Distance::Dot => qe::Distance::Dot,
        api::Distance::Manhattan => qe::Distance::Manhattan,
        api::Distance::UnknownDistance => return Err(missing("the distance")),
    };
    let mut vectors =
        qe::EdgeVectorParamsBuilder::new(size.ok_or_else(|| missing("the size"))?, distance).build();
    vectors.quantization_config = params.quantization_config.map(quantisation).transpose()?;
    Ok(vectors)
}

/// The sparse vectors whose queries are weighed by inverse document frequency. Not the engine's business:
/// see [`crate::edge`].
pub(super) fn idf(request: &api::CreateCollection) -> BTreeSet<String> {
    let sparse = request.sparse_vectors_config.iter().flat_map(|config| &config.map);
    let weighed = sparse.filter(|(_, params)| params.modifier() == api::Modifier::Idf);
    weighed.map(|(name, _)| name.clone()).collect()
}

fn sparse_params(params: &api::SparseVectorParams) -> Result<qe::EdgeSparseVectorParams, Status> {
    let datatype = params.index.and_then(|index| index.datatype).filter(|kind| *kind > 1);
    none(datatype, "sparse datatypes other than f32")?;
    Ok(qe::EdgeSparseVectorParams::default())
}

#[expect(deprecated, reason = "its successor `memory` is not known to the engine")]
fn quantisation(config: api::QuantizationConfig) -> Result<qe::QuantizationConfig, Status> {
    match config.quantization {
        Some(api::quantization_config::Quantization::Scalar(scalar)) => {
            Ok(qe::QuantizationConfig::from(qe::ScalarQuantizationConfig {
                r#type: qe::ScalarType::Int8,
                quantile: scalar.quantile,
                always_ram: scalar.always_ram,
            }))
        }
        Some(_) => Err(unknown("quantisation other than scalar")),
        None => Err(missing("the kind of quantisation")),
    }
}

pub(super) fn id(id: Option<api::PointId>) -> Result<qe::PointId, Status> {
    match id.and_then(|id| id.point_id_options) {
        Some(api::point_id::PointIdOptions::Num(number)) => Ok(qe::PointId::NumId(number)),
        Some(api::point_id::PointIdOptions::Uuid(text)) => match Uuid::parse_str(&text) {
            Ok(uuid) => Ok(qe::PointId::Uuid(uuid)),
            Err(_) => Err(Status::invalid_argument(format!("Unable to parse UUID: {}", text.escape_debug()))),
        },
        None => Err(missing("a point's id")),
    }
}

pub(super) fn ids(list: Vec<api::PointId>) -> Result<Vec<qe::PointId>, Status> {
    list.into_iter().map(|one| id(Some(one))).collect()
}

pub(super) fn path(key: &str) -> Result<qe::JsonPath, Status> {
    qe::JsonPath::try_from(key)
        .map_err(|()| Status::invalid_argument(format!("Invalid json path: '{}'", key.escape_debug())))
}

pub(super) fn payload(fields: HashMap<String, api::Value>) -> qe::Payload {
    qe::Payload(Payload::from(fields).into())
}

pub(super) fn point(point: api::PointStruct) -> Result<qe::PointStructPersisted, Status> {
    Ok(qe::PointStructPersisted {
        id: id(point.id)?,
        vector: vectors(point.vectors)?.into(),
        payload: Some(payload(point.payload)),
    })
}

pub(super) fn point_vectors(point: api::PointVectors) -> Result<qe::PointVectorsPersisted, Status> {
    Ok(qe::PointVectorsPersisted { id: id(point.id)?, vector: vectors(point.vectors)?.into() })
}

fn vectors(vectors: Option<api::Vectors>) -> Result<qe::VectorStructInternal, Status> {
    match vectors.and_then(|vectors| vectors.vectors_options) {
        Some(api::vectors::VectorsOptions::Vector(one)) => Ok(match vector(one)? {
            qe::VectorInternal::Dense(data) => qe::VectorStructInternal::Single(data),
            other => {
                qe::VectorStructInternal::Named(HashMap::from([(qe::DEFAULT_VECTOR_NAME.to_owned(), other)]))
            }
        }),
        Some(api::vectors::VectorsOptions::Vectors(named)) => {
            let named = named.vectors.into_iter().map(|(name, one)| Ok((name, vector(one)?)));
            Ok(qe::VectorStructInternal::Named(named.collect::<Result<_, Status>>()?))
        }
        None => Ok(qe::VectorStructInternal::Named(HashMap::new())),
    }
}

/// In the present form or, from SDKs before 1.16, in the one that it replaced.
#[expect(deprecated, reason = "older SDKs write only these fields")]
fn vector(vector: api::Vector) -> Result<qe::VectorInternal, Status> {
    use api::vector::Vector;
    match vector.vector {
        Some(Vector::Dense(dense)) => Ok(qe::VectorInternal::Dense(dense.data)),
        Some(Vector::Sparse(sparse)) => sparse_vector(sparse.indices, sparse.values),
        Some(Vector::MultiDense(_)) => Err(unknown("multivectors")),
        Some(Vector::Document(_) | Vector::Image(_) | Vector::Object(_)) => {
            Err(unknown("inference: send vectors"))
        }
        None => match (vector.indices, vector.vectors_count) {
            (Some(indices), None) => sparse_vector(indices.data, vector.data),
            (None, None) => Ok(qe::VectorInternal::Dense(vector.data)),
            (_, Some(_)) => Err(unknown("multivectors")),
        },
    }
}

/// Any order of indices, as a Qdrant server takes it.
pub(super) fn sparse_vector(indices: Vec<u32>, values: Vec<f32>) -> Result<qe::VectorInternal, Status> {
    let invalid = |error: &dyn std::fmt::Display| Status::invalid_argument(error.to_string());
    let mut vector = qe::SparseVector::new(indices, values).map_err(|error| invalid(&error))?;
    vector.sort_by_indices();
    Ok(qe::VectorInternal::Sparse(vector))
}

/// Which points a write is about.
pub(super) enum Selected {
    Ids(Vec<qe::PointId>),
    Filter(qe::Filter),
}

pub(super) fn selector(selector: Option<api::PointsSelector>) -> Result<Selected, Status> {
    match selector.and_then(|selector| selector.points_selector_one_of) {
        Some(api::points_selector::PointsSelectorOneOf::Points(list)) => Ok(Selected::Ids(ids(list.ids)?)),
        Some(api::points_selector::PointsSelectorOneOf::Filter(one)) => Ok(Selected::Filter(filter(one)?)),
        None => Err(missing("which points are meant")),
    }
}

pub(super) fn optional_filter(one: Option<api::Filter>) -> Result<Option<qe::Filter>, Status> {
    one.map(filter).transpose()
}

pub(super) fn filter(one: api::Filter) -> Result<qe::Filter, Status> {
    let list = |conditions: Vec<api::Condition>| {
        let list = conditions.into_iter().map(condition).collect::<Result<Vec<_>, _>>()?;
        Ok::<_, Status>((!list.is_empty()).then_some(list))
    };
    none(one.min_should, "`min_should`")?;
    Ok(qe::Filter {
        should: list(one.should)?,
        must: list(one.must)?,
        must_not: list(one.must_not)?,
        ..qe::Filter::new()
    })
}

fn condition(condition: api::Condition) -> Result<qe::Condition, Status> {
    use api::condition::ConditionOneOf as One;
    match condition.condition_one_of {
        Some(One::Field(field)) => field_condition(field),
        Some(One::IsEmpty(empty)) => {
            Ok(qe::Condition::IsEmpty(qe::IsEmptyCondition::from(path(&empty.key)?)))
        }
        Some(One::IsNull(null)) => Ok(qe::Condition::IsNull(qe::IsNullCondition::from(path(&null.key)?))),
        Some(One::HasId(has)) => Ok(qe::Condition::HasId(ids(has.has_id)?.into_iter().collect())),
        Some(One::HasVector(has)) => {
            Ok(qe::Condition::HasVector(qe::HasVectorCondition::from(has.has_vector)))
        }
        Some(One::Filter(nested)) => Ok(qe::Condition::Filter(filter(nested)?)),
        Some(One::Nested(_)) => Err(unknown("conditions on nested objects")),
        Some(One::Slice(_)) => Err(unknown("conditions on slices")),
        None => Err(missing("a condition")),
    }
}

fn field_condition(field: api::FieldCondition) -> Result<qe::Condition, Status> {
    let key = path(&field.key)?;
    none(field.geo_bounding_box, "conditions on places")?;
    none(field.geo_radius, "conditions on places")?;
    none(field.geo_polygon, "conditions on places")?;
    none(field.values_count, "conditions on counts of values")?;
    none(field.datetime_range, "ranges of times")?;
    let condition = match (field.r#match, field.range, field.is_empty, field.is_null) {
        (Some(one), None, None, None) => qe::FieldCondition::new_match(key, r#match(one)?),
        (None, Some(range), None, None) => {
            let bound = |bound: Option<f64>| bound.map(qe::external::ordered_float::OrderedFloat);
            let range = qe::Range {
                lt: bound(range.lt),
                gt: bound(range.gt),
                gte: bound(range.gte),
                lte: bound(range.lte),
            };
            qe::FieldCondition::new_range(key, range)
        }
        _ => return Err(unknown("a condition on a field that is neither a match nor a range")),
    };
    Ok(qe::Condition::Field(condition))
}

fn r#match(one: api::Match) -> Result<qe::Match, Status> {
    use api::r#match::MatchValue as Value;
    let value = |value| qe::Match::Value(qe::MatchValue { value });
    let any = |any| qe::Match::Any(qe::MatchAny { any });
    let except = |except| qe::Match::Except(qe::MatchExcept { except });
    Ok(match one.match_value {
        Some(Value::Keyword(text)) => value(qe::ValueVariants::String(text)),
        Some(Value::Integer(number)) => value(qe::ValueVariants::Integer(number)),
        Some(Value::Boolean(flag)) => value(qe::ValueVariants::Bool(flag)),
        Some(Value::Keywords(list)) => any(qe::AnyVariants::Strings(list.strings.into_iter().collect())),
        Some(Value::Integers(list)) => any(qe::AnyVariants::Integers(list.integers.into_iter().collect())),
        Some(Value::ExceptKeywords(list)) => {
            except(qe::AnyVariants::Strings(list.strings.into_iter().collect()))
        }
        Some(Value::ExceptIntegers(list)) => {
            except(qe::AnyVariants::Integers(list.integers.into_iter().collect()))
        }
        Some(Value::Text(text)) => qe::Match::Text(qe::MatchText { text }),
        Some(Value::Phrase(phrase)) => qe::Match::Phrase(qe::MatchPhrase { phrase }),
        Some(Value::TextAny(text_any)) => qe::Match::TextAny(qe::MatchTextAny { text_any }),
        Some(Value::Prefix(_) | Value::Substring(_)) => {
            return Err(unknown("matches of a part of a keyword"));
        }
        None => return Err(missing("a match")),
    })
}

pub(super) fn with_payload(
    selector: Option<api::WithPayloadSelector>,
) -> Result<qe::WithPayloadInterface, Status> {
    use api::with_payload_selector::SelectorOptions;
    let paths = |fields: Vec<String>| fields.iter().map(|field| path(field)).collect::<Result<_, Status>>();
    Ok(match selector.and_then(|selector| selector.selector_options) {
        Some(SelectorOptions::Enable(enable)) => qe::WithPayloadInterface::Bool(enable),
        Some(SelectorOptions::Include(include)) => {
            qe::WithPayloadInterface::from(qe::PayloadSelectorInclude::new(paths(include.fields)?))
        }
        Some(SelectorOptions::Exclude(exclude)) => {
            qe::WithPayloadInterface::from(qe::PayloadSelectorExclude::new(paths(exclude.fields)?))
        }
        None => qe::WithPayloadInterface::Bool(false),
    })
}

pub(super) fn with_vectors(selector: Option<api::WithVectorsSelector>) -> qe::WithVector {
    use api::with_vectors_selector::SelectorOptions;
    match selector.and_then(|selector| selector.selector_options) {
        Some(SelectorOptions::Enable(enable)) => qe::WithVector::Bool(enable),
        Some(SelectorOptions::Include(include)) => qe::WithVector::Selector(include.names),
        None => qe::WithVector::Bool(false),
    }
}

pub(super) fn field_schema(
    kind: Option<api::FieldType>,
    params: Option<api::PayloadIndexParams>,
) -> Result<Option<qe::PayloadFieldSchema>, Status> {
    use api::payload_index_params::IndexParams;
    let kind = match kind {
        Some(api::FieldType::Keyword) => qe::PayloadSchemaType::Keyword,
        Some(api::FieldType::Integer) => qe::PayloadSchemaType::Integer,
        Some(api::FieldType::Float) => qe::PayloadSchemaType::Float,
        Some(api::FieldType::Geo) => qe::PayloadSchemaType::Geo,
        Some(api::FieldType::Text) => qe::PayloadSchemaType::Text,
        Some(api::FieldType::Bool) => qe::PayloadSchemaType::Bool,
        Some(api::FieldType::Datetime) => qe::PayloadSchemaType::Datetime,
        Some(api::FieldType::Uuid) => qe::PayloadSchemaType::Uuid,
        None => return Err(missing("the type of the field")),
    };
    match params.and_then(|params| params.index_params) {
        None => Ok(Some(qe::PayloadFieldSchema::FieldType(kind))),
        Some(IndexParams::KeywordIndexParams(keyword)) => {
            let params = qe::KeywordIndexParams { is_tenant: keyword.is_tenant, ..Default::default() };
            Ok(Some(qe::PayloadFieldSchema::FieldParams(qe::PayloadSchemaParams::Keyword(params))))
        }
        Some(IndexParams::TextIndexParams(_)) => Err(unknown("settings of a text index")),
        // Of the other types they say how an index is laid out, not what it finds.
        Some(_) => Ok(Some(qe::PayloadFieldSchema::FieldType(kind))),
    }
}
