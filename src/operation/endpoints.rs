//! The endpoints that a cluster's SRV records name.

use super::failure::{Failure, FailureKind};
use crate::config::connection::Connection;
use crate::etcd::discovery::{Outcome, SrvRecords, lookup};
use crate::types::{ConnectionSettings, SrvDomain};

/// The settings with the endpoints in them; those that DNS names are asked for. The
/// lines say what a person should know of the records.
pub async fn endpoints(
    connection: Connection,
) -> Result<(ConnectionSettings, Vec<String>), Failure> {
    let Connection { mut settings, discovery, .. } = connection;
    let Some(srv) = discovery else { return Ok((settings, Vec::new())) };
    let records = lookup(&srv, settings.command_timeout).await.map_err(|error| {
        Failure::new(FailureKind::Etcd, "the members were not found").because(error).hint(HINT)
    })?;
    settings.endpoints = records.client_endpoints();
    if settings.endpoints.is_empty() {
        return Err(nobody(&srv, &records));
    }
    let notes = notes(&settings, &records)?;
    Ok((settings, notes))
}

const HINT: &str = "--endpoints names the members without DNS";

fn nobody(srv: &SrvDomain, records: &SrvRecords) -> Failure {
    let answers = [&records.client_tls, &records.client_plain];
    let mut failure = Failure::new(
        FailureKind::Etcd,
        format!("the SRV records of {} name no member", srv.domain),
    );
    for answer in answers {
        failure = failure.detail(answer.summary());
    }
    if answers.iter().any(|answer| matches!(answer.outcome, Outcome::Failed(_))) {
        let whom = match srv.nameserver {
            Some(server) => server.to_string(),
            None => "the name servers in /etc/resolv.conf".to_owned(),
        };
        return failure.hint(format!("look at {whom}, or name the members: --endpoints"));
    }
    failure.hint(format!(
        "look with: dig +short SRV {}; --discovery-srv takes the domain after ._tcp. and \
         --discovery-srv-name the suffix of the service; or name the members: --endpoints",
        records.client_tls.query
    ))
}

/// Plain records are not used where TLS was asked for and its lookup failed: whoever
/// can suppress one answer would be given what is meant for the other.
fn notes(settings: &ConnectionSettings, records: &SrvRecords) -> Result<Vec<String>, Failure> {
    let (tls, plain) = (&records.client_tls, &records.client_plain);
    let mut notes = Vec::new();
    let wants_tls = settings.ca_file.is_some()
        || settings.cert_file.is_some()
        || settings.credentials.is_some();
    if let Outcome::Failed(_) = &tls.outcome {
        if wants_tls {
            return Err(Failure::new(
                FailureKind::Etcd,
                "only plain members were found, because the lookup of those with TLS failed",
            )
            .detail(tls.summary())
            .detail(plain.summary())
            .hint("try again, or name the members: --endpoints"));
        }
        notes.push(format!("warning: {}", tls.summary()));
    }
    for why in tls.rejected.iter().chain(&plain.rejected) {
        notes.push(format!("warning: an SRV record is not used: {why}"));
    }
    Ok(notes)
}
