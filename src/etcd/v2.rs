//! The one question asked of etcd's old v2 API: are there keys that a snapshot
//! does not hold? Servers up to 3.5 serve it where `--enable-v2` is set.
//!
//! Source: `server/etcdserver/api/v2http/client.go @ v3.5.30`.

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::codegen::http::{Request, StatusCode};
use tonic::codegen::{Body as _, Service};

use super::client::MemberClient;
use super::error::{EtcdError, EtcdErrorKind};

/// The answer lists the first level only; one larger than this has keys.
const ANSWER_LIMIT: usize = 1 << 20;

/// What the v2 API of a member holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum V2Keys {
    /// The API is off, or this version has none: nothing can be there.
    Disabled,
    /// The API is on and there is nothing.
    Empty,
    /// There are keys that no snapshot holds.
    Present,
}

#[derive(Deserialize)]
struct Answer {
    node: Node,
}

#[derive(Deserialize)]
struct Node {
    #[serde(default)]
    nodes: Vec<serde::de::IgnoredAny>,
}

impl MemberClient {
    /// Asks whether the v2 API is on and holds keys.
    pub async fn v2_keys(&self) -> Result<V2Keys, EtcdError> {
        const ACT: &str = "ask for v2 keys";
        let endpoint = self.endpoint().clone();
        let asking = async {
            // A TLS port answers HTTP/2, a plain port keeps HTTP/2 for gRPC and
            // answers HTTP/1.
            if endpoint.is_tls() { self.ask_http2().await } else { self.ask_http1().await }
        };
        let bound = self.command_timeout();
        let (status, body) = tokio::time::timeout(bound, asking)
            .await
            .map_err(|_| EtcdError::timeout(&endpoint, ACT, bound))?
            .map_err(|why| EtcdError::new(EtcdErrorKind::Broken, &endpoint, ACT, why))?;
        read_answer(status, &body)
            .map_err(|why| EtcdError::new(EtcdErrorKind::Refused, &endpoint, ACT, why))
    }

    async fn ask_http2(&self) -> Result<(StatusCode, Vec<u8>), String> {
        let mut channel = self.channel.clone();
        std::future::poll_fn(|cx| channel.poll_ready(cx)).await.map_err(|e| e.to_string())?;
        let request = Request::get(format!("{}/v2/keys/", self.endpoint()))
            .body(tonic::body::Body::empty())
            .map_err(|e| e.to_string())?;
        let answer = channel.call(request).await.map_err(|e| e.to_string())?;
        let status = answer.status();
        let mut body = std::pin::pin!(answer.into_body());
        let mut bytes = Vec::new();
        while bytes.len() <= ANSWER_LIMIT {
            match std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        bytes.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(error.to_string()),
                None => break,
            }
        }
        Ok((status, bytes))
    }

    async fn ask_http1(&self) -> Result<(StatusCode, Vec<u8>), String> {
        let authority = self.endpoint().authority().to_owned();
        let mut stream =
            tokio::net::TcpStream::connect(&authority).await.map_err(|e| e.to_string())?;
        // HTTP/1.0: the body ends with the connection, never in chunks.
        let request = format!("GET /v2/keys/ HTTP/1.0\r\nHost: {authority}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.map_err(|e| e.to_string())?;
        let mut bytes = Vec::new();
        stream
            .take(ANSWER_LIMIT as u64 + 1)
            .read_to_end(&mut bytes)
            .await
            .map_err(|e| e.to_string())?;
        let split = bytes.windows(4).position(|w| w == b"\r\n\r\n").ok_or("no HTTP answer")?;
        let status = bytes
            .get(9..12)
            .and_then(|code| StatusCode::from_bytes(code).ok())
            .ok_or("no HTTP status")?;
        Ok((status, bytes.split_off(split + 4)))
    }
}

fn read_answer(status: StatusCode, body: &[u8]) -> Result<V2Keys, String> {
    match status {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Ok(V2Keys::Disabled),
        // A guest may not look: keys may be there.
        other => return Err(format!("the v2 API answers {other}")),
    }
    Ok(match serde_json::from_slice::<Answer>(body) {
        Ok(answer) if answer.node.nodes.is_empty() => V2Keys::Empty,
        Ok(_) => V2Keys::Present,
        // Cut at the limit: there is more than enough in it.
        Err(_) if body.len() > ANSWER_LIMIT => V2Keys::Present,
        // 200 with something else: not the v2 API.
        Err(_) => V2Keys::Disabled,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_the_v2_api() {
        let ok = StatusCode::OK;
        let none = read_answer(StatusCode::NOT_FOUND, b"404 page not found");
        assert_eq!(none, Ok(V2Keys::Disabled));
        assert!(read_answer(StatusCode::UNAUTHORIZED, b"{}").is_err());
        assert_eq!(read_answer(ok, br#"{"action":"get","node":{"dir":true}}"#), Ok(V2Keys::Empty));
        let full = br#"{"action":"get","node":{"dir":true,"nodes":[{"key":"/a","value":"1"}]}}"#;
        assert_eq!(read_answer(ok, full), Ok(V2Keys::Present));
        assert_eq!(read_answer(ok, b"<html>"), Ok(V2Keys::Disabled));
    }
}
