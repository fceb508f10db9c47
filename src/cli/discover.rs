//! `etcdvault discover`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;

use super::args::ConnectionArgs;
use super::exit_code::Exit;
use super::human::{printable, size};
use super::output::Output;
use super::table::{Align, Table};
use crate::config::Setup;
use crate::operation::discover::access::Credential;
use crate::operation::discover::file::{Written, store, text};
use crate::operation::discover::{Observation, SeenNode, discover};
use crate::operation::endpoints::endpoints;
use crate::operation::state::nodes;
use crate::operation::vocabulary::{Runs, Severity};
use crate::operation::{Failure, FailureKind};

/// Find out how etcd runs here and who uses it
///
/// On a node without any argument: this machine, then the whole cluster through it. With
/// addresses: those machines, over SSH. Members, API servers and other clients, the files
/// that set them up, certificates and their expiry, where files and running processes
/// differ. Changes nothing. Exit code 3 when something could not be reached: the report
/// says what.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    etcdvault discover\n  \
    etcdvault discover cp1 cp2 admin@10.0.0.13\n  \
    etcdvault discover cp1 cp2 cp3 -o etcdvault.toml --cluster prod\n  \
    etcdvault discover --json | jq '.findings[].what'")]
pub(crate) struct DiscoverArgs {
    /// Nodes as ssh takes them, or as etcdvault.toml names them [default: this machine].
    /// ETCDVAULT_SSH_CONFIG names another ssh_config than the user's
    #[arg(value_name = "ADDRESS")]
    addresses: Vec<String>,
    /// Write the etcdvault.toml that finds all of this again; - for standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace a file that differs
    #[arg(long, requires = "output")]
    force: bool,
    /// The cluster's name in the file [default: etcd-<id>] [env: ETCDVAULT_CLUSTER]
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    #[command(flatten)]
    connection: ConnectionArgs,
}

pub(crate) async fn run(
    args: DiscoverArgs,
    output: &Output,
    setup: &Setup,
) -> Result<Exit, Failure> {
    let choice = setup.choose(args.cluster.as_deref())?;
    let mut raw = args.connection.raw();
    let nameserver = choice.nameserver(&raw)?;
    if raw.discovery_srv.is_none() {
        // The domain may be one that members' settings name.
        raw.discovery_srv_nameserver = None;
    }
    let connection = choice.connection_if_any(&raw).await?;
    let named = connection.elsewhere;
    let given = if named {
        let (given, notes) = endpoints(connection).await?;
        notes.iter().for_each(|note| output.complaint(&printable(note)));
        given
    } else {
        connection.settings
    };
    let here = nodes::Here::look().await?;
    let specs = match args.addresses.as_slice() {
        [] => vec![here.spec()],
        addresses => nodes::at(&choice, addresses, &here)?,
    };
    let looking = async {
        let nodes = nodes::connected(&specs).await;
        discover(&specs, &nodes, &given, named, nameserver).await
    };
    let seen = output.waiting("looking", looking).await;
    if seen.nodes.is_empty() {
        return Err(nothing(&seen));
    }
    let exit = if seen.complete() { Exit::Ok } else { Exit::Partial };
    let Some(path) = &args.output else {
        output.result(&seen, || report(&seen, output.width()));
        return Ok(exit);
    };
    let text = text(&seen, choice.named())?;
    if path == Path::new("-") {
        output.text(&text);
    } else {
        let written = store(path, &text, args.force)?;
        output.result(&seen, || written_text(&seen, path, written));
    }
    unreached(&seen).lines().for_each(|line| output.complaint(line));
    Ok(exit)
}

/// No node answered.
fn nothing(seen: &Observation) -> Failure {
    let mut failed = Failure::new(FailureKind::Error, "no node was reached");
    for missing in &seen.unreached {
        failed =
            failed.detail(format!("{}: {}", printable(&missing.node), printable(&missing.why)));
    }
    failed.hint("etcdvault takes what ssh takes: try ssh ADDRESS true")
}

fn written_text(seen: &Observation, path: &Path, written: Written) -> String {
    let did = match written {
        Written::New => "written",
        Written::Same => "unchanged",
        Written::Replaced => "replaced",
    };
    let members = seen.cluster.as_ref().map_or(0, |cluster| cluster.members.len());
    format!(
        "{} {did}: {}, {}\n",
        printable(&path.display().to_string()),
        super::human::plural(members, "member"),
        super::human::plural(seen.nodes.len(), "node"),
    )
}

fn unreached(seen: &Observation) -> String {
    let mut text = String::new();
    for missing in &seen.unreached {
        let (node, why) = (printable(&missing.node), printable(&missing.why));
        let _ = writeln!(text, "{node}: NOT REACHED: {why}");
    }
    if seen.cluster.is_none() {
        text.push_str("the cluster was not reached\n");
        for line in seen.silence.iter().take(20) {
            let _ = writeln!(text, "  {}", printable(line));
        }
    }
    text
}

fn report(seen: &Observation, width: Option<usize>) -> String {
    let mut text = nodes_table(&seen.nodes, width);
    text.push('\n');
    if let Some(cluster) = &seen.cluster {
        let with = match &cluster.credential {
            Credential::None => String::new(),
            Credential::Given { .. } => ", with the certificates that were given".to_owned(),
            Credential::Node { node, cert, ca, .. } => {
                let file = cert.as_ref().unwrap_or(ca).display().to_string();
                format!(", with {} of {node}", printable(&file))
            }
        };
        let _ = writeln!(text, "cluster {}{with}", cluster.id);
        text.push_str(&members_table(seen, width));
    }
    text.push_str(&unreached(seen));
    if let Some(srv) = &seen.srv {
        let _ = writeln!(text, "\nSRV records of {}", printable(&srv.domain));
        let records = &srv.records;
        for answer in
            [&records.client_tls, &records.client_plain, &records.peer_tls, &records.peer_plain]
        {
            let _ = writeln!(text, "  {}", printable(&answer.summary()));
        }
    }
    text.push_str(&clients_table(&seen.nodes, width));
    text.push_str(&files(&seen.nodes));
    text.push_str(&certificates_table(&seen.nodes, width));
    text.push_str(&findings(seen));
    text
}

fn by(runs: &Runs) -> String {
    match runs {
        Runs::Unit { unit, active, enabled, .. } => {
            printable(&format!("{unit} ({active}, {enabled})"))
        }
        Runs::StaticPod { manifest, container, .. } => {
            let state = if container.is_some() { "running" } else { "not seen running" };
            printable(&format!("static pod {} ({state})", manifest.display()))
        }
        Runs::Process => "a process of its own".to_owned(),
    }
}

fn nodes_table(nodes: &[SeenNode], width: Option<usize>) -> String {
    let mut table = Table::new(&[
        ("NODE", Align::Left, 0),
        ("ADDRESSES", Align::Left, 2),
        ("SYSTEM", Align::Left, 4),
        ("KUBERNETES", Align::Left, 3),
        ("ETCD", Align::Left, 0),
        ("API SERVER", Align::Left, 1),
    ]);
    for node in nodes {
        let seen = &node.seen;
        let list = |items: Vec<String>| match items.is_empty() {
            true => "-".to_owned(),
            false => items.join("; "),
        };
        let addresses = seen.facts.addresses.iter().map(ToString::to_string);
        table.row(vec![
            printable(seen.name.as_str()),
            addresses.collect::<Vec<_>>().join(" "),
            printable(&seen.facts.os),
            seen.distribution.name().to_owned(),
            list(seen.etcd.iter().map(|etcd| by(&etcd.runs)).collect()),
            list(seen.api_servers.iter().map(|server| by(&server.runs)).collect()),
        ]);
    }
    table.render(width)
}

fn members_table(seen: &Observation, width: Option<usize>) -> String {
    let mut table = Table::new(&[
        ("MEMBER", Align::Left, 0),
        ("ID", Align::Left, 3),
        ("VERSION", Align::Left, 0),
        ("ROLE", Align::Left, 0),
        ("DB SIZE", Align::Right, 4),
        ("NODE", Align::Left, 0),
        ("CLIENTS", Align::Left, 1),
        ("PEERS", Align::Left, 2),
        ("ERROR", Align::Left, 0),
    ]);
    for member in seen.cluster.iter().flat_map(|cluster| &cluster.members) {
        let none = || "-".to_owned();
        let role = match (member.leader, member.learner) {
            (_, true) => "learner",
            (Some(true), _) => "leader",
            (Some(false), _) => "follower",
            (None, _) => "-",
        };
        table.row(vec![
            printable(&member.name),
            member.id.to_string(),
            member.version.as_deref().map_or_else(none, printable),
            role.to_owned(),
            member.db_size.map_or_else(none, size),
            member.node.as_ref().map_or_else(|| "not looked at".to_owned(), ToString::to_string),
            printable(&member.client_urls.join(",")),
            printable(&member.peer_urls.join(",")),
            member.error.as_deref().map(printable).unwrap_or_default(),
        ]);
    }
    table.render(width)
}

fn clients_table(nodes: &[SeenNode], width: Option<usize>) -> String {
    let mut table = Table::new(&[
        ("CLIENT", Align::Left, 0),
        ("NODE", Align::Left, 0),
        ("ETCD", Align::Left, 0),
        ("FILE", Align::Left, 1),
    ]);
    let mut any = false;
    let mut add = |what: &str, node: &SeenNode, urls: &[String], file: &Path| {
        any = true;
        table.row(vec![
            printable(what),
            printable(node.seen.name.as_str()),
            printable(&urls.join(",")),
            printable(&file.display().to_string()),
        ]);
    };
    for node in nodes {
        for server in &node.seen.api_servers {
            let file = server.files.first().map_or(Path::new("-"), |file| &file.path);
            add("kube-apiserver", node, &server.settings.etcd_servers(), file);
        }
        for client in &node.seen.clients {
            add(&client.what, node, &client.endpoints, &client.file);
        }
    }
    if any { format!("\n{}", table.render(width)) } else { String::new() }
}

/// The files that set members up, and where their data is.
fn files(nodes: &[SeenNode]) -> String {
    let mut text = String::new();
    for node in nodes {
        for etcd in &node.seen.etcd {
            let wal = match &etcd.wal_dir {
                Some(path) => format!(", log {}", path.display()),
                None => String::new(),
            };
            let name = printable(node.seen.name.as_str());
            let data = printable(&format!("{}{wal}", etcd.data_dir.display()));
            let _ =
                writeln!(text, "\n{name}: member {}: data {data}", printable(etcd.settings.name()));
            for file in &etcd.files {
                let path = printable(&file.path.display().to_string());
                let _ = writeln!(text, "  {}  {path}", file.dialect);
            }
        }
    }
    text
}

fn certificates_table(nodes: &[SeenNode], width: Option<usize>) -> String {
    let mut table = Table::new(&[
        ("CERTIFICATE", Align::Left, 0),
        ("NODE", Align::Left, 0),
        ("SUBJECT", Align::Left, 1),
        ("ISSUER", Align::Left, 2),
        ("UNTIL (UTC)", Align::Left, 0),
    ]);
    let mut any = false;
    for node in nodes {
        for certificate in &node.seen.certificates {
            any = true;
            table.row(vec![
                printable(&certificate.path.display().to_string()),
                printable(node.seen.name.as_str()),
                printable(&certificate.subject),
                printable(&certificate.issuer),
                certificate.not_after.format("%Y-%m-%d %H:%M").to_string(),
            ]);
        }
    }
    if any { format!("\n{}", table.render(width)) } else { String::new() }
}

fn findings(seen: &Observation) -> String {
    if seen.findings.is_empty() {
        return "\nnothing to complain of\n".to_owned();
    }
    let mut text = "\n".to_owned();
    for finding in &seen.findings {
        let severity = match finding.severity {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Problem => "PROBLEM",
        };
        let node = finding.node.as_ref().map_or_else(String::new, |node| format!("{node}: "));
        let _ = writeln!(text, "{severity}: {node}{}", printable(&finding.what));
        if let Some(hint) = &finding.hint {
            let _ = writeln!(text, "  hint: {}", printable(hint));
        }
    }
    text
}
