//! Spans as OpenTelemetry's: a request to the service, an answer that a model writes (named as the conventions for
//! generative AI name it). Prompts and answers are never part of them.

use evalign_fetch::choose_cryptography;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracerProvider, Tracer};
use tracing::{Level, Metadata, Subscriber};
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{FilterFn, Filtered};
use tracing_subscriber::registry::LookupSpan;

use super::ENDPOINTS;
use crate::output::Failure;

const NAME: &str = "evalign";

/// Where spans go. What is held back is sent when it goes.
#[derive(Debug)]
pub(super) struct Traces(SdkTracerProvider);

type Spans<S> = Filtered<OpenTelemetryLayer<S, Tracer>, FilterFn<fn(&Metadata<'_>) -> bool>, S>;

impl Traces {
    /// `None` where nobody is named to take them.
    pub(super) fn begin() -> Result<Option<Self>, Failure> {
        let is_set = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        if !ENDPOINTS.iter().any(is_set) {
            return Ok(None);
        }
        choose_cryptography();
        let client = reqwest::blocking::Client::builder().build().map_err(anyhow::Error::from)?;
        let exporter = SpanExporter::builder().with_http().with_http_client(client).build();
        let exporter = exporter.map_err(|error| {
            Failure::new(error, "OTEL_EXPORTER_OTLP_ENDPOINT is an address like `http://localhost:4318`")
        })?;
        let resource = Resource::builder().with_service_name(NAME).build();
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
        Ok(Some(Self(provider)))
    }

    pub(super) fn layer<S>(&self) -> Spans<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        let own: fn(&Metadata<'_>) -> bool =
            |about| about.target().starts_with(NAME) && *about.level() <= Level::INFO;
        tracing_opentelemetry::layer().with_tracer(self.0.tracer(NAME)).with_filter(FilterFn::new(own))
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        if let Err(error) = self.0.shutdown() {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}
