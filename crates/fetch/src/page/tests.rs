use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::http::{StatusCode, Uri};

use super::*;

/// A server on this machine that sends whoever asks for `/to/ADDRESS` there and answers everything else, and how often
/// it was asked.
async fn server(asked: &'static AtomicUsize) -> SocketAddr {
    let answer = move |uri: Uri| async move {
        asked.fetch_add(1, Ordering::SeqCst);
        match uri.path().strip_prefix("/to/") {
            Some(to) => (StatusCode::FOUND, [(LOCATION, to.to_owned())], ""),
            None => (StatusCode::OK, [(LOCATION, String::new())], "reached"),
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await.unwrap() });
    address
}

fn counter() -> &'static AtomicUsize {
    Box::leak(Box::default())
}

/// Names that somebody else serves: each answers what is written, one answer after the other, the last again and again.
/// One address of this machine stands for a public server; everything else is judged as ever.
struct Stub {
    public_server: SocketAddr,
    answers: HashMap<&'static str, Vec<Vec<SocketAddr>>>,
    looked_up: Mutex<Vec<String>>,
}

impl Stub {
    fn new(public_server: SocketAddr, answers: &[(&'static str, &[&[SocketAddr]])]) -> Self {
        let owned = |answers: &[&[SocketAddr]]| answers.iter().map(|answer| answer.to_vec()).collect();
        let answers = answers.iter().map(|(name, answers)| (*name, owned(answers))).collect();
        Self { public_server, answers, looked_up: Mutex::default() }
    }

    fn looked_up(&self, host: &str) -> usize {
        self.looked_up.lock().unwrap().iter().filter(|name| *name == host).count()
    }

    async fn get(&self, address: &str) -> Result<Vec<u8>, String> {
        let policy = PagePolicy { allow_private: false, max_bytes: 1000, timeout: Duration::from_secs(10) };
        fetch_through(self, address, &policy).await.map(|page| page.bytes).map_err(|error| error.to_string())
    }
}

impl Network for Stub {
    async fn addresses(&self, host: &str, _port: u16) -> io::Result<Vec<SocketAddr>> {
        let before = self.looked_up(host);
        self.looked_up.lock().unwrap().push(host.to_owned());
        let answers = self.answers.get(host).ok_or_else(|| io::Error::other("no such name"))?;
        Ok(answers[before.min(answers.len() - 1)].clone())
    }

    fn may_connect(&self, address: SocketAddr) -> bool {
        address == self.public_server || SystemNetwork { allow_private: false }.may_connect(address)
    }
}

#[tokio::test]
async fn promise_25_a_name_that_answers_otherwise_the_second_time_moves_nothing() {
    let (public_asked, inside_asked) = (counter(), counter());
    let (public, inside) = (server(public_asked).await, server(inside_asked).await);
    let rebinding: &[&[SocketAddr]] = &[&[public], &[inside]];

    // What is connected to is what was judged: the name is asked once, and no system knows it.
    let stub = Stub::new(public, &[("rebind.example", rebinding)]);
    assert_eq!(stub.get("http://rebind.example/page").await.unwrap(), b"reached");
    assert_eq!((stub.looked_up("rebind.example"), public_asked.load(Ordering::SeqCst)), (1, 1));

    // A redirect to the same name asks it again, and judges again.
    let stub = Stub::new(public, &[("rebind.example", rebinding)]);
    let refused = stub.get("http://rebind.example/to/http://rebind.example/page").await.unwrap_err();
    assert!(refused.contains("private network"), "{refused}");
    assert_eq!(stub.looked_up("rebind.example"), 2);

    // One address inside among others is enough, wherever it stands.
    for answer in [[public, inside], [inside, public]] {
        let stub = Stub::new(public, &[("both.example", &[&answer])]);
        assert!(stub.get("http://both.example/").await.unwrap_err().contains("private network"));
    }
    let stub = Stub::new(public, &[("nowhere.example", &[&[]])]);
    assert!(stub.get("http://nowhere.example/").await.unwrap_err().contains("resolves to nothing"));
    assert_eq!(inside_asked.load(Ordering::SeqCst), 0, "an address inside was connected to");
}

#[tokio::test]
async fn promise_25_redirects_to_what_is_inside_are_refused_however_it_is_written() {
    let (public_asked, inside_asked) = (counter(), counter());
    let (public, inside) = (server(public_asked).await, server(inside_asked).await);
    let port = inside.port();
    let stub = Stub::new(
        public,
        &[
            ("public.example", &[&[public]]),
            ("inside.example", &[&[inside]]),
            ("metadata.example", &[&["169.254.169.254:80".parse().unwrap()]]),
            ("mapped.example", &[&[SocketAddr::new("::ffff:127.0.0.1".parse().unwrap(), port)]]),
            ("localhost", &[&[inside]]),
        ],
    );
    let to = |address: &str| format!("http://public.example/to/{address}");
    assert_eq!(stub.get(&to(&to("http://public.example/page"))).await.unwrap(), b"reached");
    let before = public_asked.load(Ordering::SeqCst);
    let forbidden = [
        "127.0.0.1",
        "127.1",
        "0.0.0.0",
        "0",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "169.254.169.254",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:169.254.169.254]",
        "[2002:7f00:1::]",
        "[64:ff9b::7f00:1]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "localhost",
        "LOCALHOST",
        "inside.example",
        "metadata.example",
        "mapped.example",
        // Full stops and digits of other scripts are those of ASCII to whoever reads addresses.
        "127%E3%80%820%E3%80%820%E3%80%821",
        "%EF%BC%91%EF%BC%92%EF%BC%97.0.0.1",
    ];
    for host in forbidden {
        let refused = stub.get(&to(&format!("http://{host}:{port}/"))).await.unwrap_err();
        assert!(refused.contains("private network"), "{host}: {refused}");
    }
    assert_eq!(public_asked.load(Ordering::SeqCst), before + forbidden.len());
    for (other, why) in [
        ("file:///etc/passwd", "only http and https"),
        ("gopher://public.example/", "only http and https"),
        ("http://user:secret@public.example/", "a user name or a password"),
    ] {
        let refused = stub.get(&to(other)).await.unwrap_err();
        assert!(refused.contains(why) && !refused.contains("secret"), "{other}: {refused}");
    }
    let circle = (0..10).fold("http://public.example/page".to_owned(), |address, _| to(&address));
    assert!(stub.get(&circle).await.unwrap_err().contains("too many redirects"));
    assert_eq!(inside_asked.load(Ordering::SeqCst), 0, "an address inside was connected to");
}

#[test]
fn promise_25_only_the_public_internet_is_public() {
    for public in ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8"] {
        assert!(is_public(public.parse().unwrap()), "{public}");
    }
    for other in [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fc00::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "2002:7f00:1::",
        "64:ff9b::7f00:1",
        "2001::1",
        "2001:db8::1",
        "ff02::1",
        "fec0::1",
    ] {
        assert!(!is_public(other.parse().unwrap()), "{other}");
    }
}

async fn refusal(address: &str) -> String {
    let policy = PagePolicy { allow_private: false, max_bytes: 1000, timeout: Duration::from_secs(5) };
    fetch_page(address, &policy).await.unwrap_err().to_string()
}

#[tokio::test]
async fn promise_25_addresses_that_lead_inside_are_refused_however_they_are_written() {
    for inside in [
        "http://127.0.0.1/",
        "http://localhost/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://[::ffff:7f00:1]/",
        "http://169.254.169.254/latest/meta-data/",
    ] {
        assert!(refusal(inside).await.contains("private network"), "{inside}");
    }
    assert!(refusal("file:///etc/passwd").await.contains("only http"));
    assert!(refusal("http://user:secret@example.com/").await.contains("password"));
    assert!(!refusal("http://user:secret@example.com/").await.contains("secret"));
    assert!(refusal("no url").await.contains("not a URL"));
}
