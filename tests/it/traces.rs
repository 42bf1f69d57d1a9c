//! Traces (feature `otel`), as a receiver of OpenTelemetry's protocol gets them. Without the feature nothing of this is
//! compiled: `cargo test --release -p evalign --features otel --test it -- traces::`.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};

use evalign_testkit::openai_server::Behaviour;
use evalign_testkit::{Sandbox, Script};
use prost::Message as _;
use serde_json::json;

use crate::openai::{Exam, KEY};
use crate::serve::Server;

/// What of opentelemetry/proto/collector/trace/v1/trace_service.proto (OTLP 1.x) is looked at, by its numbers.
mod otlp {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Export {
        #[prost(message, repeated, tag = "1")]
        pub(super) resource_spans: Vec<ResourceSpans>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct ResourceSpans {
        #[prost(message, optional, tag = "1")]
        pub(super) resource: Option<Resource>,
        #[prost(message, repeated, tag = "2")]
        pub(super) scope_spans: Vec<ScopeSpans>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Resource {
        #[prost(message, repeated, tag = "1")]
        pub(super) attributes: Vec<KeyValue>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct ScopeSpans {
        #[prost(message, repeated, tag = "2")]
        pub(super) spans: Vec<Span>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Span {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) trace_id: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        pub(super) span_id: Vec<u8>,
        #[prost(bytes = "vec", tag = "4")]
        pub(super) parent_span_id: Vec<u8>,
        #[prost(string, tag = "5")]
        pub(super) name: String,
        /// 3 is a client's.
        #[prost(int32, tag = "6")]
        pub(super) kind: i32,
        #[prost(message, repeated, tag = "9")]
        pub(super) attributes: Vec<KeyValue>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct KeyValue {
        #[prost(string, tag = "1")]
        pub(super) key: String,
        #[prost(message, optional, tag = "2")]
        pub(super) value: Option<AnyValue>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct AnyValue {
        #[prost(oneof = "Value", tags = "1, 2, 3, 4")]
        pub(super) value: Option<Value>,
    }

    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(super) enum Value {
        #[prost(string, tag = "1")]
        Text(String),
        #[prost(bool, tag = "2")]
        Bool(bool),
        #[prost(int64, tag = "3")]
        Int(i64),
        #[prost(double, tag = "4")]
        Float(f64),
    }
}

use otlp::{Export, KeyValue, Span, Value};

/// Attributes as texts.
fn attributes(of: &[KeyValue]) -> BTreeMap<&str, String> {
    let text = |value: &Value| match value {
        Value::Text(text) => text.clone(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Float(value) => value.to_string(),
    };
    let value = |one: &KeyValue| one.value.as_ref().and_then(|value| value.value.as_ref()).map(text);
    of.iter().filter_map(|one| Some((one.key.as_str(), value(one)?))).collect()
}

/// Takes spans over HTTP, as a collector does.
struct Collector {
    address: String,
    bodies: Receiver<Vec<u8>>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (sender, bodies) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let sender = sender.clone();
                std::thread::spawn(move || take(stream.unwrap(), &sender));
            }
        });
        Self { address, bodies }
    }

    /// What has come from a process that has ended: it has been answered, so it is here. All bytes, and the spans.
    fn received(&self) -> (Vec<u8>, Vec<Span>) {
        let (mut bytes, mut spans) = (Vec::new(), Vec::new());
        for body in self.bodies.try_iter() {
            for resource in Export::decode(body.as_slice()).unwrap().resource_spans {
                let about = resource.resource.unwrap().attributes;
                assert_eq!(attributes(&about)["service.name"], "evalign");
                spans.extend(resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
            }
            bytes.extend(body);
        }
        (bytes, spans)
    }
}

/// Answers the requests of one connection.
fn take(stream: TcpStream, bodies: &Sender<Vec<u8>>) {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut line, mut length, mut head) = (String::new(), 0, String::new());
        while reader.read_line(&mut line).unwrap_or(0) > 0 && line.trim() != "" {
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            head += &line;
            line.clear();
        }
        if head.is_empty() {
            return;
        }
        assert!(head.starts_with("POST /v1/traces "), "{head}");
        assert!(head.contains("application/x-protobuf"), "{head}");
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        bodies.send(body).unwrap();
        let answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
        reader.get_mut().write_all(answer).unwrap();
    }
}

fn has(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn promise_29_requests_and_what_models_write_for_them_arrive_as_spans_without_a_secret() {
    let (sandbox, collector) = (Sandbox::new(), Collector::start());
    let model = format!("small={}", sandbox.model(&Script::seeded(3)));
    let mut command = sandbox.command(&["serve", "--address", "127.0.0.1:0", "--model", &model, "--offline"]);
    let mut server = Server::spawn(command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.address), None);
    let question = "a question of canary-5e1d90";
    let body =
        json!({"model": "small", "messages": [{"role": "user", "content": question}], "max_tokens": 8});
    let (status, answer) = server.ask("POST", "/v1/chat/completions", Some(&body));
    assert_eq!(status, 200, "{answer}");
    let link = sandbox.ok(&["keys", "login", server.key.split('_').nth(1).unwrap()]).stdout;
    server.ask_raw("GET", link.trim());
    assert_eq!(server.terminate(), 0);

    let (bytes, spans) = collector.received();
    let written = spans.iter().find(|span| span.name == "chat small").expect("the answer is a span");
    let told = attributes(&written.attributes);
    assert_eq!(told["gen_ai.operation.name"], "chat");
    assert_eq!(told["gen_ai.provider.name"], "evalign");
    assert_eq!(told["gen_ai.request.model"], "small");
    assert_eq!(told["gen_ai.usage.input_tokens"], answer["usage"]["prompt_tokens"].to_string());
    assert_eq!(told["gen_ai.usage.output_tokens"], answer["usage"]["completion_tokens"].to_string());
    let asked = spans.iter().find(|span| span.span_id == written.parent_span_id).expect("a parent");
    assert_eq!((asked.name.as_str(), &asked.trace_id), ("request", &written.trace_id));
    assert!(asked.parent_span_id.is_empty());
    let told = attributes(&asked.attributes);
    assert_eq!((told["method"].as_str(), told["path"].as_str()), ("POST", "/v1/chat/completions"));
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
    let secret = server.key.rsplit_once('_').unwrap().1;
    let login = link.trim().trim_start_matches("/login/");
    assert!(text.len() > 3, "{answer}");
    for hidden in ["canary-5e1d90", text, secret, login] {
        assert!(!has(&bytes, hidden), "{hidden} is in a trace");
    }
}

#[test]
fn promise_29_requests_to_a_model_server_arrive_as_spans_without_a_secret() {
    let (exam, collector) = (Exam::of(3, Behaviour::default()).patient(), Collector::start());
    let mut command = exam.command(&[]);
    let ran = command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.address).output().unwrap();
    assert!(ran.status.success(), "{ran:?}");
    let (bytes, spans) = collector.received();
    let asked: Vec<&Span> = spans.iter().filter(|span| span.name == "chat scripted").collect();
    assert_eq!(asked.len(), 3, "{spans:?}");
    for span in asked {
        let told = attributes(&span.attributes);
        assert_eq!(span.kind, 3, "a client's");
        assert_eq!(told["gen_ai.operation.name"], "chat");
        assert_eq!(told["gen_ai.provider.name"], "openai");
        assert_eq!(told["gen_ai.request.model"], "scripted");
        for name in ["gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"] {
            assert!(told[name].parse::<u64>().unwrap() > 0, "{told:?}");
        }
    }
    for hidden in [KEY, "what is 1 + 1"] {
        assert!(!has(&bytes, hidden), "{hidden} is in a trace");
    }
}
