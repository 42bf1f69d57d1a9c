use evalign_serve::openapi;
use http::Method;
use serde_json::Value;

use crate::common::{Service, request};

fn document() -> Value {
    serde_json::to_value(openapi()).unwrap()
}

/// Promise 22: the committed document is the one that the server gives. `EVALIGN_UPDATE=1` writes it.
#[tokio::test]
async fn promise_22_the_committed_document_is_the_servers() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
    let text = serde_json::to_string_pretty(&document()).unwrap() + "\n";
    if std::env::var_os("EVALIGN_UPDATE").is_some() {
        fs_err::write(path, &text).unwrap();
    }
    let committed = fs_err::read_to_string(path).unwrap();
    assert!(
        committed == text,
        "docs/openapi.json is another: write it with EVALIGN_UPDATE=1 and look at the change"
    );
    let service = Service::new();
    assert_eq!(service.get("/openapi.json").await.json(), document());
}

/// A key for repetitions is described in one way, for every route that queues or makes something.
#[test]
fn an_idempotency_key_has_the_same_form_everywhere() {
    let document = document();
    let mut forms = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, route) in methods.as_object().unwrap() {
            let parameters = route["parameters"].as_array().into_iter().flatten();
            let keys: Vec<_> = parameters.filter(|one| one["name"] == "Idempotency-Key").collect();
            let queues = route["responses"].get("202").is_some() && route.get("requestBody").is_some();
            assert!(!queues || keys.len() == 1, "{method} {path} takes no Idempotency-Key");
            forms.extend(keys);
        }
    }
    forms.dedup();
    assert_eq!(forms.len(), 1, "{forms:#?}");
    assert_eq!((&forms[0]["required"], &forms[0]["schema"]["maxLength"]), (&false.into(), &255.into()));
}

/// Whatever is asked of a documented route, its answer's status is documented.
#[tokio::test]
async fn promise_22_every_status_that_comes_is_documented() {
    let service = Service::new();
    let bodies = [
        None,
        Some(Value::Null),
        Some(serde_json::json!({})),
        Some(serde_json::json!({"model": "small", "x": 1})),
    ];
    for (path, methods) in document()["paths"].as_object().unwrap() {
        for (method, route) in methods.as_object().unwrap() {
            let method: Method = method.to_uppercase().parse().unwrap();
            for (id, body) in ["run_0", "file_1", "%2e%2e", "x y"].iter().zip(&bodies) {
                let path = path.replace("{id}", &id.replace(' ', "%20"));
                for key in [service.admin.as_str(), service.read.as_str(), "none"] {
                    let answer = service.send(request(method.clone(), &path, key, body.as_ref())).await;
                    let status = answer.status.as_u16();
                    assert!(status < 500, "{method} {path}: {}", answer.text());
                    let documented = route["responses"].get(status.to_string()).is_some();
                    assert!(
                        documented,
                        "{method} {path} gives {status}, which is not documented: {}",
                        answer.text()
                    );
                }
            }
        }
    }
}
