//! Which addresses can be reached from here.

use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::net::TcpStream;

use super::super::Reach;
use super::fault::Fault;

/// More addresses are refused, and so many are tried at a time.
const MAX: usize = 1024;
const AT_ONCE: usize = 64;

/// Tries them all, in the order in which they were given.
pub(super) async fn reach(addresses: Vec<String>, timeout: Duration) -> Result<Vec<Reach>, Fault> {
    if addresses.len() > MAX {
        return Err(Fault::unexpected(format!("more than {MAX} addresses")));
    }
    let tries = addresses.into_iter().map(|address| async move {
        let error = match tokio::time::timeout(timeout, TcpStream::connect(&address)).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(Fault::from(error).why),
            Err(_) => Some(format!("no answer within {timeout:?}")),
        };
        Reach { address, error }
    });
    Ok(futures_util::stream::iter(tries).buffered(AT_ONCE).collect().await)
}
