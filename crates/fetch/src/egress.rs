//! Where a request may go, decided anew for every redirect.

use std::net::IpAddr;

use reqwest::Url;

/// Whether `to` may be followed from `from`, given the endpoint the operator configured.
///
/// Allowed is any `https` address, `http` only where the way was already unencrypted, and the
/// endpoint itself. A public server may not send us to this machine, its local link or the cloud
/// metadata service behind it.
///
/// # Errors
/// The reason, for people.
pub(crate) fn check_redirect(endpoint: &Url, from: &Url, to: &Url) -> Result<(), String> {
    if to.scheme() != "https" && to.scheme() != "http" {
        return Err(format!("redirect to the scheme `{}` refused", to.scheme()));
    }
    if same_origin(endpoint, to) {
        return Ok(());
    }
    if from.scheme() == "https" && to.scheme() == "http" {
        return Err("redirect from https to unencrypted http refused".to_owned());
    }
    if is_this_machine(to) && !is_this_machine(endpoint) {
        return Err("redirect to an address of this machine or its local link refused".to_owned());
    }
    Ok(())
}

/// Scheme, host and port are equal, so what may be sent to one may be sent to the other.
pub(crate) fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme()
        && a.host_str() == b.host_str()
        && a.port_or_known_default() == b.port_or_known_default()
}

/// Loopback, unspecified and link-local addresses (169.254.169.254 included), written plainly or
/// mapped into IPv6.
pub(crate) fn is_this_machine(url: &Url) -> bool {
    let Some(host) = url.host_str() else { return false };
    let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
    match host.parse::<IpAddr>() {
        Ok(address) => match address.to_canonical() {
            IpAddr::V4(v4) => v4.is_loopback() || v4.is_link_local() || v4.is_unspecified(),
            IpAddr::V6(v6) => v6.is_loopback() || v6.is_unspecified() || v6.is_unicast_link_local(),
        },
        Err(_) => host.eq_ignore_ascii_case("localhost") || host.to_ascii_lowercase().ends_with(".localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(endpoint: &str, from: &str, to: &str) -> bool {
        let url = |text: &str| text.parse::<Url>().unwrap();
        check_redirect(&url(endpoint), &url(from), &url(to)).is_ok()
    }

    #[test]
    fn promise_25_redirects_are_checked() {
        let hub = "https://huggingface.co";
        assert!(allowed(hub, hub, "https://cdn.example/x"));
        assert!(!allowed(hub, hub, "http://cdn.example/x"));
        assert!(!allowed(hub, hub, "file:///etc/passwd"));
        for local in [
            "https://127.0.0.1/",
            "https://localhost:8/",
            "https://169.254.169.254/",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://0/",
            "https://2130706433/",
            "https://a.localhost./",
        ] {
            assert!(!allowed(hub, hub, local), "{local}");
        }
        let own = "http://127.0.0.1:9000";
        assert!(allowed(own, own, "http://127.0.0.1:9001/x"));
        assert!(allowed(own, own, "https://cdn.example/x"));
        assert!(allowed(own, "https://cdn.example/", "http://127.0.0.1:9000/back"));
        assert!(!allowed(own, "https://cdn.example/", "http://127.0.0.1:9001/back"));
    }
}
