//! The hub over https: the one place where a TLS handshake is really made.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;

use evalign_testkit::{Ran, Sandbox};
use rcgen::{CertificateParams, KeyPair, generate_simple_self_signed};
use rustls::pki_types::PrivateKeyDer;

/// A hub that knows no repository, and its certificate in PEM.
fn hub() -> (String, String) {
    let made = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let Ok(connection) = rustls::ServerConnection::new(config.clone()) else { return };
            let mut tls = rustls::StreamOwned::new(connection, stream);
            let mut request = [0; 4096];
            // A client that does not trust the certificate goes away here.
            if tls.read(&mut request).is_ok_and(|read| read > 0) {
                let answer = "HTTP/1.1 404 Not Found\r\nx-error-code: RepoNotFound\r\ncontent-length: 0\r\n\
                              connection: close\r\n\r\n";
                let _ = tls.write_all(answer.as_bytes());
                tls.conn.send_close_notify();
                let _ = tls.flush();
            }
        }
    });
    (address, made.cert.pem())
}

fn pull(sandbox: &Sandbox, hub: &str, trusted: Option<&str>) -> Ran {
    let mut command = sandbox.command(&["models", "pull", "some/model"]);
    command.env("HF_HUB_OFFLINE", "0").env("HF_ENDPOINT", hub);
    // Where a test of the certificates of the machine itself would begin.
    let certificates = sandbox.write("trusted.pem", trusted.unwrap_or_default());
    command.env("SSL_CERT_FILE", certificates).output().unwrap().into()
}

#[cfg(target_os = "linux")]
#[test]
fn a_trusted_hub_is_asked_and_another_is_not() {
    let sandbox = Sandbox::new();
    let (address, certificate) = hub();
    let ran = pull(&sandbox, &address, Some(&certificate));
    assert_eq!(ran.status, 2, "{ran:?}");
    assert!(ran.stderr.contains("the repository"), "the answer came through: {ran:?}");

    // Somebody else's certificate for the same name.
    let other = CertificateParams::new(["localhost".to_owned()]).unwrap();
    let other = other.self_signed(&KeyPair::generate().unwrap()).unwrap();
    let ran = pull(&sandbox, &address, Some(&other.pem()));
    assert_eq!(ran.status, 2, "{ran:?}");
    assert!(ran.stderr.contains("certificate") && ran.stderr.contains("hint:"), "{ran:?}");
}
