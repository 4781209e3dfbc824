//! One attempt.
//!
//! An endpoint's address is looked at when it is connected to, not before: a name may point elsewhere by then.
//! Nothing is followed to another place, and no proxy is asked.

use std::error::Error as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use millrace_config::WebhooksConfig;
use millrace_fail_point::{self as fail_point, Side};
use millrace_schemas::now_micros;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::redirect::Policy;
use url::{Host, Url};

use crate::address::is_public;
use crate::attempt::Heard;
use crate::endpoint::{Endpoint, Target};
use crate::signature;

const AGENT: &str = concat!("millrace-webhooks/", env!("CARGO_PKG_VERSION"));
/// Of an answer so much is read, bytes.
const READ: usize = 8 * 1024;
/// And so much of it kept, characters.
const KEPT: usize = 500;
const CONNECT: Duration = Duration::from_secs(10);
/// A connection that nobody uses is kept for the next event.
const IDLE: Duration = Duration::from_secs(60);

/// Sends events.
#[derive(Clone)]
pub struct Caller {
    http: reqwest::Client,
    allow_private: bool,
}

impl Caller {
    /// With these settings.
    ///
    /// # Errors
    /// One sentence: there is no such client on this machine.
    pub fn new(config: &WebhooksConfig) -> Result<Self, String> {
        let timeout = Duration::from_millis(config.timeout_ms);
        let mut http = reqwest::Client::builder()
            .user_agent(AGENT)
            .redirect(Policy::none())
            .no_proxy()
            .timeout(timeout)
            .connect_timeout(CONNECT.min(timeout))
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(4);
        if !config.allow_private {
            http = http.https_only(true).dns_resolver(Arc::new(PublicOnly));
        }
        let http = http.build().map_err(|error| format!("no HTTP client can be made: {}", reason(&error)))?;
        Ok(Self { http, allow_private: config.allow_private })
    }

    /// Posts one event, signed with every key of the endpoint.
    pub async fn send(&self, endpoint: &Endpoint, id: &str, payload: &str) -> Heard {
        let target = endpoint.target();
        let address = match &*target {
            Target::At(address) => address,
            Target::Unknown => return Heard::unsent("the endpoint is not in the configuration any more"),
            Target::Deleted => return Heard { deleted: true, ..Heard::unsent("the endpoint was deleted") },
        };
        let url = &address.url;
        let keys = address.keys(now_micros() / 1_000);
        if keys.is_empty() {
            return Heard::unsent("nothing can be signed: the key of its secret is not in webhooks.secret_keys");
        }
        // An address in place of a name is not looked up by anybody.
        if let (false, Some(private)) = (self.allow_private, private_literal(url)) {
            return Heard { blocked: true, ..Heard::unsent(not_public(&private.to_string())) };
        }
        let timestamp = now_micros() / 1_000_000;
        let signed = self
            .http
            .post(url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signature::header(&keys, id, timestamp, payload))
            .body(payload.to_owned())
            .build();
        let signed = match signed {
            Ok(signed) => signed,
            Err(error) => return Heard::unsent(reason(&error)),
        };
        fail_point::reach(Side::Before, || "deliver a webhook".to_owned());
        let answer = self.http.execute(signed).await;
        fail_point::reach(Side::After, || "deliver a webhook".to_owned());
        match answer {
            Ok(answer) => heard(answer).await,
            Err(error) => {
                let error = reason(&error);
                Heard { blocked: error.contains(NOT_PUBLIC), ..Heard::unsent(error) }
            }
        }
    }
}

async fn heard(mut answer: reqwest::Response) -> Heard {
    let status = Some(answer.status().as_u16());
    let retry_after = retry_after(answer.headers(), now_micros());
    let mut body = Vec::new();
    // Whoever sends for ever, or stops in the middle, has answered all the same.
    while body.len() < READ
        && let Ok(Some(bytes)) = answer.chunk().await
    {
        body.extend_from_slice(&bytes[..bytes.len().min(READ - body.len())]);
    }
    let text = String::from_utf8_lossy(&body);
    let excerpt: String = text.chars().filter(|c| !c.is_control() || *c == '\n').take(KEPT).collect();
    Heard { status, retry_after, excerpt: (!excerpt.is_empty()).then_some(excerpt), ..Heard::default() }
}

/// Seconds or a date; `now` is in microseconds.
fn retry_after(headers: &HeaderMap, now: i64) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let until = httpdate::parse_http_date(value).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(until.saturating_sub(Duration::from_micros(u64::try_from(now).ok()?)))
}

/// The address in a URL, when it is one that events may not go to.
fn private_literal(url: &Url) -> Option<IpAddr> {
    let address = match url.host()? {
        Host::Ipv4(address) => IpAddr::V4(address),
        Host::Ipv6(address) => IpAddr::V6(address),
        Host::Domain(_) => return None,
    };
    (!is_public(address)).then_some(address)
}

const NOT_PUBLIC: &str = "is no public address";

fn not_public(what: &str) -> String {
    format!("{what} {NOT_PUBLIC}: events go there only with webhooks.allow_private")
}

/// Looks names up, and refuses one of which any address is not public.
struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let found = only_public(name.as_str(), found)?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

fn only_public(name: &str, found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, String> {
    match found.iter().find(|address| !is_public(address.ip())) {
        Some(private) => Err(not_public(&format!("{name} is {}, which", private.ip()))),
        None => Ok(found),
    }
}

/// An error and its causes in one line, without the URL, which may hold a token.
fn reason(error: &reqwest::Error) -> String {
    let mut text = if error.is_timeout() { "no answer in time".to_owned() } else { "no answer".to_owned() };
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = inner.to_string().replace('\n', " ");
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = inner.source();
    }
    text.chars().take(KEPT).collect()
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use super::*;

    #[test]
    fn addresses_in_urls_are_seen_through_every_way_of_writing_them() {
        let check = |url: &str, is_private: bool| {
            assert_eq!(private_literal(&Url::parse(url).unwrap()).is_some(), is_private, "{url}");
        };
        for url in [
            "https://127.0.0.1/",
            "https://2130706433/",
            "https://0x7f.1/",
            "https://0177.0.0.1/",
            "https://127.1/",
            "https://[::1]/",
            "https://[::ffff:169.254.169.254]/",
            "https://[fd00::1]:8443/",
            "https://169.254.169.254/latest",
            "https://0/",
            "https://[::]/",
            "https://10.1/",
        ] {
            check(url, true);
        }
        for url in ["https://1.1.1.1/", "https://[2606:4700::1111]/", "https://example.com/"] {
            check(url, false);
        }
    }

    /// What a name server that wants to get inside would answer.
    #[test]
    fn one_private_address_among_public_ones_is_one_too_many() {
        let addresses = |all: &[&str]| all.iter().map(|a| SocketAddr::new(a.parse().unwrap(), 0)).collect::<Vec<_>>();
        assert_eq!(only_public("a", addresses(&["1.1.1.1", "2606:4700::1"])).unwrap().len(), 2);
        let error = only_public("evil.example", addresses(&["1.1.1.1", "::ffff:10.0.0.7"])).unwrap_err();
        assert!(
            error.contains("evil.example") && error.contains("10.0.0.7") && error.contains("allow_private"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn names_of_this_machine_are_refused_when_they_are_looked_up() {
        let Err(error) = PublicOnly.resolve(Name::from_str("localhost").unwrap()).await else { panic!("resolved") };
        assert!(error.to_string().contains(NOT_PUBLIC), "{error}");
    }

    #[test]
    fn waits_are_read_in_both_ways() {
        // 2015-10-21 07:28:00 UTC
        let now = 1_445_412_480_000_000;
        let check = |value: &str, expected: Option<u64>| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]);
            assert_eq!(retry_after(&headers, now), expected.map(Duration::from_secs), "{value}");
        };
        check("120", Some(120));
        check("Wed, 21 Oct 2015 07:28:30 GMT", Some(30));
        check("Wed, 21 Oct 2015 07:27:30 GMT", Some(0));
        check("soon", None);
        check("-3", None);
    }
}
