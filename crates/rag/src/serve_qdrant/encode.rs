//! From the engine's types to the protocol's.

use std::collections::HashMap;

use qdrant_client::Payload;
use qdrant_client::qdrant as api;
use qdrant_edge as qe;
use tonic::Status;

use crate::{RagError, StoreFault};

/// Codes as a Qdrant server gives them.
pub(super) fn status(error: &qe::OperationError) -> Status {
    use qe::OperationError as Error;
    let message = error.to_string();
    match error {
        Error::WrongVectorDimension { .. }
        | Error::VectorNameNotExists { .. }
        | Error::TypeError { .. }
        | Error::TypeInferenceError { .. }
        | Error::ValidationError { .. }
        | Error::WrongSparse
        | Error::WrongMulti
        | Error::MissingRangeIndexForOrderBy { .. }
        | Error::MissingMapIndexForFacet { .. } => Status::invalid_argument(message),
        Error::PointIdError { .. } => Status::not_found(message),
        Error::OutOfMemory { .. } => Status::resource_exhausted(message),
        Error::Timeout { .. } => Status::deadline_exceeded(message),
        Error::Cancelled { .. } => Status::cancelled(message),
        _ => Status::internal(message),
    }
}

pub(super) fn refusal(error: &RagError) -> Status {
    let message = error.to_string();
    match error {
        RagError::Invalid { .. } => Status::invalid_argument(message),
        RagError::Index { .. } => Status::failed_precondition(message),
        RagError::Store { kind: StoreFault::Refused, .. } => Status::invalid_argument(message),
        // Which disk that is only its operator has to know.
        RagError::Store { kind: StoreFault::Disk, .. } => {
            tracing::error!(%error, "the store cannot write");
            Status::resource_exhausted("the disk of the server does not take what this needs")
        }
        _ => Status::internal(message),
    }
}

pub(super) fn distance(distance: qe::Distance) -> api::Distance {
    match distance {
        qe::Distance::Cosine => api::Distance::Cosine,
        qe::Distance::Euclid => api::Distance::Euclid,
        qe::Distance::Dot => api::Distance::Dot,
        qe::Distance::Manhattan => api::Distance::Manhattan,
    }
}

pub(super) fn schema_type(kind: qe::PayloadSchemaType) -> api::PayloadSchemaType {
    match kind {
        qe::PayloadSchemaType::Keyword => api::PayloadSchemaType::Keyword,
        qe::PayloadSchemaType::Integer => api::PayloadSchemaType::Integer,
        qe::PayloadSchemaType::Float => api::PayloadSchemaType::Float,
        qe::PayloadSchemaType::Geo => api::PayloadSchemaType::Geo,
        qe::PayloadSchemaType::Text => api::PayloadSchemaType::Text,
        qe::PayloadSchemaType::Bool => api::PayloadSchemaType::Bool,
        qe::PayloadSchemaType::Datetime => api::PayloadSchemaType::Datetime,
        qe::PayloadSchemaType::Uuid => api::PayloadSchemaType::Uuid,
    }
}

pub(super) fn id(id: qe::PointId) -> api::PointId {
    match id {
        qe::PointId::NumId(number) => api::PointId::from(number),
        qe::PointId::Uuid(uuid) => api::PointId::from(uuid.to_string()),
    }
}

fn payload(payload: Option<qe::Payload>) -> HashMap<String, api::Value> {
    payload.map(|payload| Payload::from(payload.0).into()).unwrap_or_default()
}

pub(super) fn scored(hit: qe::ScoredPoint) -> api::ScoredPoint {
    api::ScoredPoint {
        id: Some(id(hit.id)),
        payload: payload(hit.payload),
        score: hit.score,
        version: hit.version,
        vectors: hit.vector.map(vectors),
        ..api::ScoredPoint::default()
    }
}

pub(super) fn record(record: qe::Record) -> api::RetrievedPoint {
    api::RetrievedPoint {
        id: Some(id(record.id)),
        payload: payload(record.payload),
        vectors: record.vector.map(vectors),
        ..api::RetrievedPoint::default()
    }
}

fn vectors(vectors: qe::VectorStructInternal) -> api::VectorsOutput {
    use api::vectors_output::VectorsOptions;
    let options = match vectors {
        qe::VectorStructInternal::Single(data) => {
            VectorsOptions::Vector(vector(qe::VectorInternal::Dense(data)))
        }
        qe::VectorStructInternal::MultiDense(multi) => {
            VectorsOptions::Vector(vector(qe::VectorInternal::MultiDense(multi)))
        }
        qe::VectorStructInternal::Named(named) => {
            let vectors = named.into_iter().map(|(name, one)| (name, vector(one))).collect();
            VectorsOptions::Vectors(api::NamedVectorsOutput { vectors })
        }
    };
    api::VectorsOutput { vectors_options: Some(options) }
}

/// Both in the present form and, for SDKs before 1.16, in the one that it replaced.
#[expect(deprecated, reason = "older SDKs read only these fields")]
fn vector(vector: qe::VectorInternal) -> api::VectorOutput {
    use api::vector_output::Vector;
    match vector {
        qe::VectorInternal::Dense(data) => api::VectorOutput {
            data: data.clone(),
            vector: Some(Vector::Dense(api::DenseVector { data })),
            ..api::VectorOutput::default()
        },
        qe::VectorInternal::Sparse(sparse) => api::VectorOutput {
            data: sparse.values.clone(),
            indices: Some(api::SparseIndices { data: sparse.indices.clone() }),
            vector: Some(Vector::Sparse(api::SparseVector {
                values: sparse.values,
                indices: sparse.indices,
            })),
            ..api::VectorOutput::default()
        },
        qe::VectorInternal::MultiDense(multi) => {
            let rows = multi.flattened_vectors.chunks(multi.dim.max(1));
            let vectors: Vec<_> = rows.map(|row| api::DenseVector { data: row.to_vec() }).collect();
            api::VectorOutput {
                vectors_count: u32::try_from(vectors.len()).ok(),
                data: multi.flattened_vectors.clone(),
                vector: Some(Vector::MultiDense(api::MultiDenseVector { vectors })),
                ..api::VectorOutput::default()
            }
        }
    }
}

pub(super) fn facet(hit: qe::FacetValueHit) -> api::FacetHit {
    use api::facet_value::Variant;
    let value = match hit.value {
        qe::FacetValue::Keyword(text) => Variant::StringValue(text),
        qe::FacetValue::Int(number) => Variant::IntegerValue(number),
        qe::FacetValue::Uuid(number) => Variant::StringValue(uuid::Uuid::from_u128(number).to_string()),
        qe::FacetValue::Bool(flag) => Variant::BoolValue(flag),
    };
    api::FacetHit { value: Some(api::FacetValue { variant: Some(value) }), count: hit.count as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_not_the_callers_mistake_and_not_named() {
        let full = RagError::disk(std::path::Path::new("/home/operator"), "no space left");
        let status = refusal(&full);
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        assert!(!status.message().contains("operator"), "{status:?}");
    }
}
