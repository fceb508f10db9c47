//! `etcdvault state`: save, list, show, diff, return.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::args::{ConnectionArgs, KeyArgs, VaultArgs, WriteArgs, label};
use super::exit_code::Exit;
use super::human::{age, count, duration, plural, printable, size, time_both, time_utc};
use super::output::Output;
use super::settings::{
    allows_unencrypted, connector, find_state, labels, open_vault, reach, state_paths,
    write_options,
};
use super::table::{Align, Table};
use crate::config::{Choice, Setup};
use crate::operation::backup::{BackupOptions, Strategy, backup};
use crate::operation::interrupt::Interrupt;
use crate::operation::proof::Policy;
use crate::operation::state::diff::{Change, DiffReport, Drift, NodeDiff, Side, diff};
use crate::operation::state::find::{self, DataHeld, StateList};
use crate::operation::state::index::{File, Kind, NodeIndex};
use crate::operation::state::roots::Places;
use crate::operation::state::save::{SaveOptions, SaveReport, observe_cluster, save};
use crate::operation::state::show::{self, ShownState};
use crate::operation::state::stopped::is_led;
use crate::operation::state::{nodes, parse_node};
use crate::operation::vocabulary::{Reach, WriteOptions};
use crate::operation::{Failure, FailureKind};

/// Save what nodes need beside the data, see what changed, go back to it
///
/// The state of a node is its configuration of etcd and the API server in every form,
/// units, certificates and keys, manifests, and how all of it ran.
#[derive(Debug, Subcommand)]
pub(crate) enum StateCommand {
    Save(StateSaveArgs),
    List(StateListArgs),
    Show(StateShowArgs),
    Diff(StateDiffArgs),
    Return(Box<super::returning::StateReturnArgs>),
}

/// What a command needs that stores states of nodes: where, how, and of which cluster.
#[derive(Debug, Args)]
pub(crate) struct StateArgs {
    /// Store private keys readable for everybody with access to the vault
    #[arg(long)]
    allow_unencrypted: bool,
    #[command(flatten)]
    pub(crate) vault: VaultArgs,
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
    #[command(flatten)]
    pub(crate) keys: KeyArgs,
    #[command(flatten)]
    write: WriteArgs,
}

impl StateArgs {
    /// What is looked at and stored of nodes, `paths` beside what is found.
    pub(crate) fn options(&self, choice: &Choice<'_>, paths: &[PathBuf]) -> SaveOptions {
        SaveOptions {
            extra: state_paths(choice, paths),
            places: Places::default(),
            allow_unencrypted: allows_unencrypted(choice, self.allow_unencrypted),
            data: false,
            write: write_options(&self.write, &self.vault, choice),
        }
    }
}

/// Archive the state of nodes in the vault
///
/// Of each node an archive that any tar unpacks, and an index. Private keys are in it:
/// a vault without encryption is refused unless --allow-unencrypted insists. A node that
/// cannot be saved holds up no other (exit code 3).
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    etcdvault state save --vault /srv/etcd-vault --cluster prod\n  \
    etcdvault state save --with-data --vault s3://backups/prod --label reason=upgrade")]
pub(crate) struct StateSaveArgs {
    /// A node [default: the configured ones of the cluster, else this machine]
    #[arg(long = "node", value_name = "NAME")]
    nodes: Vec<String>,
    /// Store the data too: of a running cluster one snapshot, from which every data
    /// directory can be built; where all members are stopped, copies of their directories
    #[arg(long)]
    with_data: bool,
    /// Store this file or directory of the nodes too
    #[arg(long = "path", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The cluster's name in the vault [default: the name used before for this cluster
    /// id, else etcd-<id>] [env: ETCDVAULT_CLUSTER]
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// Attach a label
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    #[command(flatten)]
    with: StateArgs,
}

/// List the backups that hold states, the newest last
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  etcdvault state list --vault /srv/etcd-vault")]
pub(crate) struct StateListArgs {
    /// Only this cluster [env: ETCDVAULT_CLUSTER]
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    #[command(flatten)]
    vault: VaultArgs,
}

/// Show what is in a state, or one file of it
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    etcdvault state show latest --vault /srv/etcd-vault --identity-file identity.txt\n  \
    etcdvault state show latest --node k1 --files\n  \
    etcdvault state show latest --node k1 --file /etc/kubernetes/manifests/etcd.yaml")]
pub(crate) struct StateShowArgs {
    /// An id or its start, latest, or a time (the newest before it)
    #[arg(value_name = "STATE")]
    state: String,
    /// Only this node
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// List every file
    #[arg(long, conflicts_with = "file")]
    files: bool,
    /// Print this file, secrets hidden
    #[arg(long, value_name = "PATH", requires = "node")]
    file: Option<String>,
    /// Print the file as it is, private keys and passwords included
    #[arg(long, requires = "file")]
    show_secrets: bool,
    /// Only this cluster [env: ETCDVAULT_CLUSTER]
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    #[command(flatten)]
    vault: VaultArgs,
    #[command(flatten)]
    keys: KeyArgs,
}

/// Show how two states differ, or a state and now
///
/// What runs where is named first: members, addresses, versions, embedded or external.
/// Then each file, texts line by line. Private keys, passwords, tokens and the values of
/// Secrets are hidden: eight digits tell whether they differ.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    etcdvault state diff latest --vault /srv/etcd-vault --identity-file identity.txt\n  \
    etcdvault state diff 01JD2Y6Q 01JD4ABC --node k1 --exit-code")]
pub(crate) struct StateDiffArgs {
    /// The state to compare: an id or its start, latest, or a time
    #[arg(value_name = "STATE")]
    from: String,
    /// The state to compare with [default: the nodes as they are now]
    #[arg(value_name = "STATE")]
    to: Option<String>,
    /// Only this node
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// A file or directory beside what is found now, as `state save --path` took it
    #[arg(long = "path", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// End with exit code 3 when they differ
    #[arg(long)]
    exit_code: bool,
    /// Only this cluster [env: ETCDVAULT_CLUSTER]
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    #[command(flatten)]
    vault: VaultArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(flatten)]
    keys: KeyArgs,
}

pub(crate) async fn save_command(
    args: StateSaveArgs,
    output: &Output,
    setup: &Setup,
    mut interrupt: Interrupt,
) -> Result<Exit, Failure> {
    let choice = setup.choose(args.cluster.as_deref())?;
    let connection = choice.connection(&args.with.connection.raw()).await?;
    let cluster = choice.backup_name(&connection);
    let settings = interrupt.or("no state was stored", reach(connection, output)).await??;
    let nodes = interrupt.or("no state was stored", nodes::each(&choice, &args.nodes)).await??;
    let connecting = connector(&settings, &nodes, output);
    let connector = interrupt.or("no state was stored", connecting).await??;
    let opening = open_vault(&args.with.vault, Some(&args.with.keys), &choice, output);
    let repository = interrupt.or("no state was stored", opening).await??;
    let options = SaveOptions { data: args.with_data, ..args.with.options(&choice, &args.paths) };
    let events = output.events();
    if args.with_data {
        let looking = output.waiting("looking", is_led(&connector, &settings));
        if interrupt.or("no state was stored", looking).await? {
            // A running cluster: the data is one snapshot, stored and proven as any.
            let backup_options = BackupOptions {
                cluster,
                strategy: Strategy::default(),
                reach: Reach::AllMembers,
                proof: Policy::All,
                labels: labels(&args.labels),
                write: options.write.clone(),
                nodes: Some((nodes, SaveOptions { data: false, ..options })),
            };
            let report = backup(
                &repository,
                &connector,
                &settings,
                &backup_options,
                &events,
                &mut interrupt,
            )
            .await?;
            return Ok(super::backup::tell(&report, output));
        }
    }
    let report = save(
        &repository,
        &nodes,
        &connector,
        &settings,
        cluster,
        labels(&args.labels),
        &options,
        &events,
        &mut interrupt,
    )
    .await?;
    output.result(&report, || saved(&report));
    Ok(if report.content.missing.is_empty() { Exit::Ok } else { Exit::Partial })
}

fn saved(report: &SaveReport) -> String {
    let mut text = format!(
        "{}  {}  {}  {} → {}  {}\n",
        report.id,
        report.cluster,
        plural(report.content.nodes.len(), "node"),
        size(report.size),
        size(report.stored_size),
        duration(std::time::Duration::from_secs_f64(report.seconds)),
    );
    for node in &report.content.nodes {
        let _ =
            write!(text, "  {}  {} files, {}", node.node, count(node.entries), size(node.bytes));
        if let Some(bytes) = node.data_bytes {
            let _ = write!(text, ", data {}", size(bytes));
        }
        if node.changed > 0 {
            let _ = write!(text, ", {} CHANGED while read", count(node.changed));
        }
        text.push('\n');
    }
    for missing in &report.content.missing {
        let _ = writeln!(
            text,
            "  {}  NOT SAVED: {}",
            printable(&missing.node),
            printable(&missing.why)
        );
    }
    text
}

pub(crate) async fn list(
    args: StateListArgs,
    output: &Output,
    setup: &Setup,
) -> Result<Exit, Failure> {
    let choice = setup.choose(args.cluster.as_deref())?;
    let cluster = choice.named().cloned();
    let repository = open_vault(&args.vault, None, &choice, output).await?;
    let report = output.waiting("reading manifests", find::list(&repository, cluster)).await?;
    output.result(&report, || table(&report, output.width()));
    for entry in &report.corrupt {
        let (key, reason) = (printable(&entry.key), printable(&entry.reason));
        output.complaint(&format!("corrupt: {key}: {reason}"));
    }
    Ok(if report.corrupt.is_empty() { Exit::Ok } else { Exit::Corrupt })
}

fn table(report: &StateList, width: Option<usize>) -> String {
    if report.states.is_empty() {
        return "no states\n".to_owned();
    }
    let mut table = Table::new(&[
        ("STATE", Align::Left, 0),
        ("CLUSTER", Align::Left, 3),
        ("TAKEN (UTC)", Align::Left, 0),
        ("AGE", Align::Right, 2),
        ("FILES", Align::Right, 4),
        ("STORED", Align::Right, 5),
        ("DATA", Align::Left, 1),
        ("NODES", Align::Left, 0),
    ]);
    let now = chrono::Utc::now();
    for state in &report.states {
        let mut nodes = state.nodes.join(",");
        if !state.missing.is_empty() {
            let _ = write!(nodes, " (without {})", printable(&state.missing.join(",")));
        }
        if let Some(plan) = state.plan {
            let _ = write!(nodes, " (before plan {plan})");
        }
        table.row(vec![
            state.short_id.clone(),
            state.cluster.clone(),
            time_utc(state.taken),
            age(state.taken, now),
            count(state.entries),
            size(state.stored_size),
            data(state.data).to_owned(),
            nodes,
        ]);
    }
    table.render(width)
}

fn data(held: DataHeld) -> &'static str {
    match held {
        DataHeld::None => "no",
        DataHeld::Snapshot => "snapshot",
        DataHeld::Directories => "directories",
    }
}

pub(crate) async fn show(
    args: StateShowArgs,
    output: &Output,
    setup: &Setup,
) -> Result<Exit, Failure> {
    let choice = setup.choose(args.cluster.as_deref())?;
    let node = args.node.as_deref().map(parse_node).transpose()?;
    let repository = open_vault(&args.vault, Some(&args.keys), &choice, output).await?;
    let backup = find_state(&repository, &choice, &args.state).await?;
    if let (Some(path), Some(node)) = (&args.file, &node) {
        let shown = show::file(&repository, &backup, node, path, args.show_secrets).await?;
        if output.is_json() {
            let text = String::from_utf8(shown.content).map_err(|_| {
                Failure::new(FailureKind::Usage, format!("{path} is no text: it fits no JSON"))
                    .hint("leave --json away")
            })?;
            let value = serde_json::json!({
                "node": node, "file": shown.file, "hidden": shown.hidden, "text": text,
            });
            output.result(&value, String::new);
        } else {
            output.bytes(&shown.content);
            if shown.hidden {
                output.note("secrets are hidden; --show-secrets prints them");
            }
        }
        return Ok(Exit::Ok);
    }
    let report = show::show(&repository, &backup, node.as_ref()).await?;
    output.result(&report, || details(&report, args.files));
    Ok(Exit::Ok)
}

fn details(report: &ShownState, files: bool) -> String {
    let mut text = format!(
        "state {}  {}  {}  data: {}\n",
        report.id,
        report.cluster,
        time_both(report.taken),
        data(report.data)
    );
    if let Some(seen) = &report.seen {
        let _ = writeln!(text, "cluster {}", seen.cluster_id);
        for member in &seen.members {
            let _ = writeln!(
                text,
                "  {}  {}  etcd {}  peers {}  clients {}{}",
                member.id,
                printable(&member.name),
                member.version.as_deref().map_or_else(|| "did not answer".to_owned(), printable),
                printable(&member.peer_urls.join(",")),
                printable(&member.client_urls.join(",")),
                if member.is_learner { "  learner" } else { "" },
            );
        }
    }
    for node in &report.nodes {
        node_details(&mut text, node, files);
    }
    for missing in &report.missing {
        let _ = writeln!(
            text,
            "\n{}  NOT SAVED: {}",
            printable(&missing.node),
            printable(&missing.why)
        );
    }
    text
}

fn node_details(text: &mut String, index: &NodeIndex, files: bool) {
    let about = &index.description;
    let _ = writeln!(
        text,
        "\n{}  {}  {}  {}",
        printable(&index.node),
        printable(&about.os),
        printable(&about.arch),
        printable(&about.addresses.join(" "))
    );
    for (name, program) in [("etcd", &about.etcd), ("kube-apiserver", &about.apiserver)] {
        let Some(program) = program else { continue };
        let state = if program.running { "running" } else { "stopped" };
        let _ = writeln!(text, "  {name}  {}, {state}", printable(&program.runs.to_string()));
        for (option, value) in &program.options {
            let _ = writeln!(text, "    {}  {}", printable(option), printable(value));
        }
    }
    for (name, unit) in &about.units {
        let (name, active, enabled) =
            (printable(name), printable(&unit.active), printable(&unit.enabled));
        let _ = writeln!(text, "  unit {name}  {active}, {enabled}");
    }
    let bytes = index.state.files.iter().fold(0u64, |sum, file| sum.saturating_add(file.size));
    let _ = writeln!(text, "  {} files, {}", count(index.state.files.len() as i128), size(bytes));
    for note in index.state.notes.iter().chain(&about.unseen) {
        let _ = writeln!(text, "  note: {}", printable(note));
    }
    if files {
        index.state.files.iter().for_each(|file| file_line(text, file));
    }
}

/// `-rw-r--r-- root:root 1.2 kB /etc/x`, as `tar -tv` has it.
fn file_line(text: &mut String, file: &File) {
    let kind = match file.kind {
        Kind::File | Kind::HardLink => '-',
        Kind::Directory => 'd',
        Kind::Symlink => 'l',
    };
    let owner =
        |name: &str, id: u32| if name.is_empty() { id.to_string() } else { printable(name) };
    let _ = write!(
        text,
        "  {kind}{:04o} {}:{}  {:>8}  {}",
        file.mode,
        owner(&file.owner, file.uid),
        owner(&file.group, file.gid),
        size(file.size),
        printable(&file.path)
    );
    if let Some(target) = &file.target {
        let _ = write!(text, " → {}", printable(target));
    }
    text.push_str(if file.changed { "  CHANGED while read\n" } else { "\n" });
}

pub(crate) async fn diff_command(
    args: StateDiffArgs,
    output: &Output,
    setup: &Setup,
) -> Result<Exit, Failure> {
    let choice = setup.choose(args.cluster.as_deref())?;
    let node = args.node.as_deref().map(parse_node).transpose()?;
    let settings = reach(choice.connection(&args.connection.raw()).await?, output).await?;
    let repository = open_vault(&args.vault, Some(&args.keys), &choice, output).await?;
    let from = find_state(&repository, &choice, &args.from).await?;
    let options = SaveOptions {
        extra: state_paths(&choice, &args.paths),
        places: Places::default(),
        allow_unencrypted: false,
        data: false,
        write: WriteOptions::default(),
    };
    let (other, live);
    let to = match &args.to {
        Some(to) => {
            other = find_state(&repository, &choice, to).await?;
            Side::Stored(&other)
        }
        None => {
            live = nodes::each(&choice, args.node.as_slice()).await?;
            let connector = connector(&settings, &live, output).await?;
            let cluster = output.waiting("looking", observe_cluster(&connector, &settings)).await;
            Side::Now { nodes: &live, options: &options, cluster }
        }
    };
    let from = Side::Stored(&from);
    let comparing = diff(&repository, &from, &to, node.as_ref());
    let report = output.waiting("comparing", comparing).await?;
    output.result(&report, || differences(&report));
    Ok(match (report.complete(), report.equal || !args.exit_code) {
        (true, true) => Exit::Ok,
        _ => Exit::Partial,
    })
}

fn differences(report: &DiffReport) -> String {
    let mut text = String::new();
    for Drift { node, what, was, is } in &report.topology {
        let of = node.as_ref().map_or_else(|| "cluster".to_owned(), |node| printable(node));
        let shown = |value: &Option<String>| value.as_deref().map_or("nothing".into(), printable);
        let _ = writeln!(text, "{of}: {}: {} → {}", printable(what), shown(was), shown(is));
    }
    for node in &report.nodes {
        node_differences(&mut text, node);
    }
    if report.equal {
        text.push_str("no differences\n");
    }
    text
}

fn node_differences(text: &mut String, node: &NodeDiff) {
    let name = printable(&node.node);
    if let Some(error) = &node.error {
        let _ = writeln!(text, "{name}: NOT COMPARED: {}", printable(error));
    }
    match node.only {
        Some(Change::Added) => drop(writeln!(text, "{name}: only in the later state")),
        Some(_) => drop(writeln!(text, "{name}: only in the earlier state")),
        None => {}
    }
    for file in &node.files {
        let change = match file.change {
            Change::Added => "added",
            Change::Removed => "removed",
            Change::Changed => "changed",
            Change::Attributes => "owner, mode or attributes",
        };
        let _ = writeln!(text, "{name}: {}: {change}", printable(&file.path));
        for line in file.attributes.iter().chain(&file.no_text) {
            let _ = writeln!(text, "  {}", printable(line));
        }
        for line in file.text.iter().flat_map(|text| text.lines()) {
            // Tabs are part of many a configuration, and harmless.
            let parts: Vec<String> = line.split('\t').map(printable).collect();
            let _ = writeln!(text, "{}", parts.join("\t"));
        }
    }
}
