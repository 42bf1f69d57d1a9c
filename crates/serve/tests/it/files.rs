use axum::body::Body;
use bytes::Bytes;
use evalign_core::Digest;
use evalign_serve::{Layer, begin};
use http::{Method, Request, StatusCode};
use serde_json::json;

use crate::common::{Answer, Service, settings_with};

async fn upload(service: &Service, name: &str, body: Body, length: Option<u64>) -> Answer {
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(format!("/v1/files?name={name}&purpose=preferences"))
        .header("authorization", format!("Bearer {}", service.run));
    if let Some(length) = length {
        request = request.header("content-length", length);
    }
    service.send(request.body(body).unwrap()).await
}

fn files_on_disk(service: &Service) -> usize {
    std::fs::read_dir(service.home.path().join("files")).map_or(0, |dir| dir.count())
}

#[tokio::test]
async fn a_file_comes_back_as_it_went_and_goes_when_it_is_removed() {
    let service = Service::new();
    let bytes: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
    let stored = upload(&service, "pairs.jsonl", Body::from(bytes.clone()), None).await;
    assert_eq!(stored.status, StatusCode::CREATED, "{}", stored.text());
    let file = stored.json();
    assert_eq!((&file["bytes"], &file["filename"]), (&json!(800_000), &json!("pairs.jsonl")));
    assert_eq!(file["sha256"], Digest::of(&bytes).as_str());
    let id = file["id"].as_str().unwrap();
    let content = service.get(&format!("/v1/files/{id}/content")).await;
    assert!(content.body == bytes);
    assert_eq!(content.headers["content-disposition"], "attachment; filename=\"pairs.jsonl\"");
    assert_eq!(service.get("/v1/files").await.json()["data"][0]["id"], id);
    let removed = service.ask(Method::DELETE, &format!("/v1/files/{id}"), &service.run, None).await;
    assert_eq!(removed.status, StatusCode::NO_CONTENT);
    assert_eq!(service.get(&format!("/v1/files/{id}")).await.status, StatusCode::NOT_FOUND);
    assert_eq!(files_on_disk(&service), 0);
}

/// Promise 19, 28: what is too large is refused, announced or not, and leaves nothing behind.
#[tokio::test]
async fn promise_19_and_28_what_is_too_large_is_refused_and_leaves_nothing() {
    let layer = Layer { max_upload_mib: Some(1), max_files_mib: Some(2), ..Layer::default() };
    let service = Service::with(&json!({"seed": 1}), layer);
    let piece = Bytes::from(vec![0; 64 * 1024]);
    let endless = || {
        Body::from_stream(futures::stream::iter(std::iter::repeat_with({
            let piece = piece.clone();
            move || Ok::<_, std::io::Error>(piece.clone())
        })))
    };
    let refused = upload(&service, "big", endless(), None).await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (413, "body_too_large"));
    let announced = upload(&service, "big", Body::empty(), Some(u64::MAX / 2)).await;
    assert_eq!(announced.status.as_u16(), 413);
    assert_eq!(files_on_disk(&service), 0);
    let half = || Body::from(vec![1; 900 * 1024]);
    for _ in 0..2 {
        assert_eq!(upload(&service, "half", half(), None).await.status, StatusCode::CREATED);
    }
    assert_eq!(
        upload(&service, "half", half(), None).await.status.as_u16(),
        413,
        "all together are too many"
    );
}

/// Who forgets the body is told so.
#[tokio::test]
async fn an_upload_without_a_body_is_refused() {
    let service = Service::new();
    for length in [None, Some(0)] {
        let refused = upload(&service, "a", Body::empty(), length).await;
        assert_eq!((refused.status.as_u16(), refused.code().as_str()), (400, "invalid_request"));
        assert!(refused.text().contains("the body is empty"), "{}", refused.text());
    }
    assert_eq!(service.get("/v1/files").await.json()["data"], json!([]));
    let partial = service.home.path().join("partial");
    assert_eq!(fs_err::read_dir(partial).unwrap().count(), 0);
}

/// A client that goes away in the middle leaves nothing.
#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let service = Service::new();
    let broken =
        futures::stream::iter([Ok(Bytes::from_static(b"half of")), Err(std::io::Error::other("gone"))]);
    assert_eq!(upload(&service, "a", Body::from_stream(broken), None).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(files_on_disk(&service), 0);
    assert_eq!(service.get("/v1/files").await.json()["data"], json!([]));
}

/// What a server that was killed was making is in nobody's quota: the next one removes it.
#[tokio::test]
async fn nothing_half_made_stays() {
    let service = Service::new();
    let row = json!({"prompt": "q", "chosen": "a", "rejected": "b"}).to_string() + "\n";
    let file = service.upload("pairs.jsonl", "preferences", row).await;
    let imported = service.post("/v1/preferences/import", &json!({"file": file, "style": "standard"})).await;
    assert!(imported.status.is_success(), "{}", imported.text());
    let partial = service.home.path().join("partial");
    assert_eq!(fs_err::read_dir(&partial).unwrap().count(), 0, "what is made moves or goes");
    fs_err::create_dir(partial.join("left")).unwrap();
    fs_err::write(partial.join("left/upload"), "half").unwrap();
    let settings = settings_with(service.home.path(), &json!({"seed": 1}), Layer::default());
    begin(service.home.path(), &service.store, &settings).unwrap();
    assert!(!partial.exists());
    let content = service.get(&format!("/v1/files/{file}/content")).await;
    assert_eq!(content.status, StatusCode::OK, "what is whole stays");
    #[cfg(unix)]
    for kept in fs_err::read_dir(service.home.path().join("files")).unwrap() {
        use std::os::unix::fs::PermissionsExt;
        let mode = kept.unwrap().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "nobody else on this machine reads it: {mode:o}");
    }
}
