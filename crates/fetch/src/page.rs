//! A document from the web whose address somebody else may have written.
//!
//! The address must lead to the public internet, wherever it redirects to: names are resolved here, every address
//! they resolve to is judged, and the connection goes to exactly those (so that no second answer of a name
//! server can move it). No proxy is asked, for a proxy would resolve the name again, and no credentials are sent.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, LOCATION};
use reqwest::{Client, Response, Url};

use crate::client::{choose_cryptography, error_chain};
use crate::{FetchError, redact};

const MAX_REDIRECTS: usize = 5;

/// What is fetched, and from where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PagePolicy {
    /// Also addresses of this machine and of private networks: only for addresses the operator wrote.
    pub allow_private: bool,
    pub max_bytes: u64,
    /// For each hop, from the connection to the last byte.
    pub timeout: Duration,
}

/// What an address holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Lower case, without parameters: `text/html`.
    pub content_type: Option<String>,
    pub bytes: Vec<u8>,
}

/// Where names lead, and which addresses may be connected to.
trait Network {
    /// Each call may answer otherwise: it is asked once for a hop.
    fn addresses(&self, host: &str, port: u16) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send;

    fn may_connect(&self, address: SocketAddr) -> bool;
}

/// The system's names, and what the policy allows.
struct SystemNetwork {
    allow_private: bool,
}

impl Network for SystemNetwork {
    async fn addresses(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host((host, port)).await?.collect())
    }

    fn may_connect(&self, address: SocketAddr) -> bool {
        self.allow_private || is_public(address.ip())
    }
}

/// Gets a page, following redirects.
///
/// # Errors
/// [`FetchError::Invalid`] for an address that may not be asked, [`FetchError::Network`] for everything that
/// goes wrong on the way.
pub async fn fetch_page(address: &str, policy: &PagePolicy) -> Result<Page, FetchError> {
    fetch_through(&SystemNetwork { allow_private: policy.allow_private }, address, policy).await
}

async fn fetch_through(
    network: &(impl Network + Sync),
    address: &str,
    policy: &PagePolicy,
) -> Result<Page, FetchError> {
    let mut url: Url = address
        .trim()
        .parse()
        .map_err(|_| FetchError::invalid("address", &redact::text(address, None), "it is not a URL"))?;
    for _ in 0..=MAX_REDIRECTS {
        let response = hop(network, &url, policy.timeout).await?;
        let status = response.status();
        if status.is_redirection() {
            let to = response.headers().get(LOCATION).and_then(|to| to.to_str().ok());
            let to =
                to.and_then(|to| url.join(to).ok()).ok_or_else(|| failed(&url, "a redirect to nowhere"))?;
            if url.scheme() == "https" && to.scheme() != "https" {
                return Err(failed(&url, "redirect from https to unencrypted http refused"));
            }
            url = to;
        } else if status.is_success() {
            return read(&url, response, policy).await;
        } else {
            return Err(failed(&url, &format!("HTTP {}", status.as_u16())));
        }
    }
    Err(failed(&url, "too many redirects"))
}

fn failed(url: &Url, reason: &str) -> FetchError {
    FetchError::Network { url: redact::url(url), reason: reason.to_owned() }
}

async fn hop(network: &(impl Network + Sync), url: &Url, timeout: Duration) -> Result<Response, FetchError> {
    let (host, addresses) = addresses(network, url).await?;
    choose_cryptography();
    let client = Client::builder()
        .user_agent(concat!("evalign/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .timeout(timeout)
        .resolve_to_addrs(&host, &addresses)
        .build()
        .map_err(|error| failed(url, &error_chain(&error)))?;
    client.get(url.clone()).send().await.map_err(|error| failed(url, &error_chain(&error.without_url())))
}

/// The host's name and the addresses to connect to, all of them allowed.
async fn addresses(
    network: &(impl Network + Sync),
    url: &Url,
) -> Result<(String, Vec<SocketAddr>), FetchError> {
    let refused = |reason: &str| FetchError::invalid("address", &redact::url(url), reason);
    if !matches!(url.scheme(), "http" | "https") {
        return Err(refused("only http and https are read"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refused("it holds a user name or a password"));
    }
    let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
        return Err(refused("it names no host"));
    };
    let plain = host.trim_start_matches('[').trim_end_matches(']');
    let found: Vec<SocketAddr> = match plain.parse::<IpAddr>() {
        Ok(address) => vec![SocketAddr::new(address, port)],
        Err(_) => network
            .addresses(plain, port)
            .await
            .map_err(|error| failed(url, &format!("the name cannot be resolved: {error}")))?,
    };
    if found.is_empty() {
        return Err(failed(url, "the name resolves to nothing"));
    }
    if !found.iter().all(|address| network.may_connect(*address)) {
        return Err(refused("it leads to this machine or a private network"));
    }
    Ok((host.to_owned(), found))
}

async fn read(url: &Url, mut response: Response, policy: &PagePolicy) -> Result<Page, FetchError> {
    let too_large = || failed(url, &format!("larger than {} bytes", policy.max_bytes));
    if response.content_length().is_some_and(|length| length > policy.max_bytes) {
        return Err(too_large());
    }
    let content_type = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let content_type =
        content_type.map(|kind| kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    let mut bytes = Vec::new();
    while let Some(part) =
        response.chunk().await.map_err(|error| failed(url, &error_chain(&error.without_url())))?
    {
        if (bytes.len() + part.len()) as u64 > policy.max_bytes {
            return Err(too_large());
        }
        bytes.extend_from_slice(&part);
    }
    Ok(Page { content_type, bytes })
}

/// Whether an address belongs to the public internet (the special-purpose registries of RFC 6890), also where it
/// is an IPv4 address in an IPv6 form that a gateway unwraps.
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let protocols = a == 192 && b == 0 && (c == 0 || c == 2);
    let benchmarks = a == 198 && (b == 18 || b == 19);
    let relay = (a, b, c) == (192, 88, 99);
    !(address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || shared
        || protocols
        || benchmarks
        || relay
        || a == 0
        || a >= 224)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    // Only 2000::/3 is given out; the rest is local, multicast, mapped or reserved.
    let given_out = segments[0] & 0xe000 == 0x2000;
    // Teredo, ORCHID, benchmarks, documentation and 6to4, which wrap other addresses or lead nowhere.
    let special = (segments[0] == 0x2001 && (segments[1] < 0x200 || segments[1] == 0xdb8))
        || segments[0] == 0x2002
        || (segments[0] == 0x3fff && segments[1] < 0x1000);
    given_out && !special
}

#[cfg(test)]
mod tests;
