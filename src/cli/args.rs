//! The raw flags. What they mean is decided in `config`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::connection::RawConnection;
use crate::config::keys::RawKeys;
use crate::config::place::RawPlace;
use crate::config::setup::WriteSettings;

/// Backs up and restores etcd clusters, and proves what it did
#[derive(Debug, Parser)]
#[command(
    name = "etcdvault",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = "A first backup:\n  \
    etcdvault init /srv/etcd-vault --no-encryption\n  \
    etcdvault backup --vault /srv/etcd-vault --endpoints 10.0.0.11:2379\n  \
    etcdvault list --vault /srv/etcd-vault\n\n\
    Settings come from flags, else from variables, else from etcdvault.toml: a flag says which \
    variable in [env: …]. Where etcdctl has the same setting its variable is honoured too, after \
    our own: ETCDVAULT_ENDPOINTS, then ETCDCTL_ENDPOINTS. etcdvault config show prints what \
    holds and why.\n\n\
    Exit codes: 0 done, 1 error, 2 usage, 3 partial or not proven, 10 no vault, 11 busy, \
    12 key, 20 corrupt, 30 etcd, 40 storage, 130 Ctrl-C, 143 SIGTERM."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags of every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// Print one JSON object instead of text, errors included
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// How to print the result; the same as --json with `json`
    #[arg(short = 'w', long, global = true, value_enum, value_name = "FORMAT")]
    pub(crate) write_out: Option<Format>,
    /// The configuration [default: /etc/etcdvault/etcdvault.toml, else
    /// ~/.config/etcdvault/etcdvault.toml] [env: ETCDVAULT_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Print only results and errors: no progress, no notes; a proven backup says nothing
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

/// A format of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Text and tables for people
    Table,
    /// One JSON object
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Init(InitArgs),
    Backup(BackupArgs),
    List(ListArgs),
    Show(ShowArgs),
    Verify(VerifyArgs),
    Export(ExportArgs),
    Import(ImportArgs),
    Inspect(InspectArgs),
    Status(StatusArgs),
    #[command(subcommand)]
    Member(super::member::MemberCommand),
    Defrag(Box<super::defrag::DefragArgs>),
    MoveLeader(Box<super::defrag::MoveLeaderArgs>),
    Discover(Box<super::discover::DiscoverArgs>),
    #[command(subcommand)]
    Restore(RestoreCommand),
    Preflight(Box<super::preflight::PreflightArgs>),
    #[command(subcommand)]
    Recover(super::recover::RecoverCommand),
    #[command(subcommand)]
    Config(ConfigCommand),
    #[command(subcommand)]
    State(super::state::StateCommand),
    #[command(subcommand)]
    Journal(super::journal::JournalCommand),
    Resume(Box<super::journal::ResumeArgs>),
    Rollback(super::journal::RollbackArgs),
    Completions(CompletionsArgs),
    Man(ManArgs),
    #[command(hide = true)]
    NodeAgent(super::node_agent::NodeAgentArgs),
}

/// Create a vault in an empty directory or S3 prefix
///
/// Probes what the store honours and records it. Who may read the backups is decided
/// here: everybody with access to the store (--no-encryption), the holders of age
/// identities (--recipient), or those who know a passphrase (--passphrase-file).
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    etcdvault init /srv/etcd-vault --recipient age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p\n  \
    etcdvault init s3://backups/prod --s3-region eu-central-1 --passphrase-file /root/passphrase\n  \
    etcdvault init /tmp/test --no-encryption\n  \
    etcdvault init s3://backups/prod --print-policy prod > policy.json")]
pub(crate) struct InitArgs {
    /// Where: a directory or s3://bucket/prefix; also --vault or ETCDVAULT_VAULT
    #[arg(value_name = "VAULT")]
    pub(crate) place: Option<String>,
    /// Encrypt to this age public key; give several for several holders
    #[arg(long = "recipient", value_name = "AGE1…", conflicts_with = "no_encryption")]
    pub(crate) recipients: Vec<String>,
    /// Store everything readable, Kubernetes Secrets included
    #[arg(long)]
    pub(crate) no_encryption: bool,
    /// Only print the policy of a node that backs up CLUSTER to this bucket: it may add
    /// backups and read them, and delete none. Asks nothing of the store
    #[arg(long, value_name = "CLUSTER", conflicts_with_all = ["no_encryption", "recipients", "print_lifecycle"])]
    pub(crate) print_policy: Option<String>,
    /// Only print the bucket's lifecycle rule that clears away interrupted uploads
    #[arg(long, conflicts_with_all = ["no_encryption", "recipients"])]
    pub(crate) print_lifecycle: bool,
    #[command(flatten)]
    pub(crate) vault: VaultArgs,
    #[command(flatten)]
    pub(crate) keys: KeyArgs,
}

/// Stream a snapshot of a cluster into the vault and prove it
///
/// One pass from a healthy follower: checked against etcd's own SHA-256, compressed,
/// encrypted where the vault is, stored, and compared by HashKV with every voting
/// member, one at a time, the leader last. Exit code 0 means proven, 3 stored but not
/// proven (the reason is said), 20 stored but different from what a member holds.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    etcdvault backup --vault /srv/etcd-vault --endpoints https://10.0.0.11:2379 \\\n    \
      --cacert /etc/kubernetes/pki/etcd/ca.crt \\\n    \
      --cert /etc/kubernetes/pki/etcd/healthcheck-client.crt \\\n    \
      --key /etc/kubernetes/pki/etcd/healthcheck-client.key\n  \
    ETCDVAULT_VAULT=s3://backups/prod etcdvault backup --cluster prod --quiet")]
pub(crate) struct BackupArgs {
    /// The cluster's name in the vault [default: the name used before for this cluster
    /// id, else etcd-<id>] [env: ETCDVAULT_CLUSTER]
    #[arg(long, value_name = "NAME")]
    pub(crate) cluster: Option<String>,
    /// Which member gives the snapshot
    #[arg(long, value_enum, default_value_t = StrategyArg::Follower, value_name = "WHICH", env = "ETCDVAULT_ENDPOINT_STRATEGY", hide_env_values = true)]
    pub(crate) endpoint_strategy: StrategyArg,
    /// Ask only the given endpoints, not the members they know of
    #[arg(long, env = "ETCDVAULT_LOCAL_ONLY", hide_env_values = true, value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) local_only: bool,
    /// Whose HashKV is compared; a member holds its writes back while it computes
    #[arg(long, value_enum, default_value_t = ProofArg::All, value_name = "WHO", env = "ETCDVAULT_PROOF", hide_env_values = true)]
    pub(crate) proof: ProofArg,
    /// Attach a label to the backup
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label)]
    pub(crate) labels: Vec<(String, String)>,
    /// Store the state of this node with the snapshot, as `etcdvault state save` does; a
    /// node that cannot be saved holds nothing up (exit code 3)
    #[arg(long = "node", value_name = "NAME", conflicts_with = "no_state")]
    pub(crate) nodes: Vec<String>,
    /// Store the snapshot alone
    #[arg(long)]
    pub(crate) no_state: bool,
    /// Store private keys of nodes readable for everybody with access to the vault
    #[arg(long)]
    pub(crate) allow_unencrypted: bool,
    #[command(flatten)]
    pub(crate) vault: VaultArgs,
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
    #[command(flatten)]
    pub(crate) keys: KeyArgs,
    #[command(flatten)]
    pub(crate) write: WriteArgs,
}

/// Which member gives the snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StrategyArg {
    /// A follower that does not lag, else the leader
    Follower,
    /// The leader, else a follower
    Leader,
    /// The first endpoint given that answers
    First,
}

/// Whose HashKV is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProofArg {
    /// Every voting member, one at a time, the leader last
    All,
    /// Only the member that gave the snapshot
    Source,
    /// Nobody: the backup stays unproven (exit code 3)
    None,
}

/// List the backups in a vault, the newest last
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  etcdvault list --vault /srv/etcd-vault --cluster prod")]
pub(crate) struct ListArgs {
    /// Only this cluster [env: ETCDVAULT_CLUSTER]
    #[arg(long, value_name = "NAME")]
    pub(crate) cluster: Option<String>,
    #[command(flatten)]
    pub(crate) vault: VaultArgs,
}

/// Show everything known of one backup
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  etcdvault show latest --vault /srv/etcd-vault")]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    pub(crate) which: WhichArgs,
    #[command(flatten)]
    pub(crate) vault: VaultArgs,
}

/// Check that backups are still what was stored
///
/// Reads the vault, never the cluster, and writes a receipt into the vault. Exit code
/// 20 when anything is damaged.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    etcdvault verify latest --vault /srv/etcd-vault\n  \
    etcdvault verify --all --level stored --vault s3://backups/prod")]
pub(crate) struct VerifyArgs {
    /// Backups: an id or its start, latest, or a time (the newest before it)
    #[arg(value_name = "BACKUP", required_unless_present = "all", conflicts_with = "all")]
    pub(crate) backups: Vec<String>,
    /// Every backup
    #[arg(long)]
    pub(crate) all: bool,
    /// How deep
    #[arg(long, value_enum, default_value_t = LevelArg::Content, value_name = "LEVEL")]
    pub(crate) level: LevelArg,
    /// Only this cluster [env: ETCDVAULT_CLUSTER]
    #[arg(long, value_name = "NAME")]
    pub(crate) cluster: Option<String>,
    #[command(flatten)]
    pub(crate) vault: VaultArgs,
    #[command(flatten)]
    pub(crate) keys: KeyArgs,
}

/// How deep a verification goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LevelArg {
    /// The manifest against its name; objects present with their sizes
    Manifest,
    /// Every stored byte against its SHA-256, every frame where it can be opened
    Stored,
    /// The database inside: pages, schema, trailer, counts, HashKV
    Content,
}

/// Write a backup as a plain snapshot that etcdctl and etcdutl take
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    etcdvault export latest -o snapshot.db --vault /srv/etcd-vault\n  \
    etcdvault export 01JD2Y6Q -o - | sha256sum\n  \
    etcdvault export latest --object node-k1 -o - | tar -tv")]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    pub(crate) which: WhichArgs,
    /// A new file, or - for standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Another object of the backup: node-NAME is the archive of a node's state, a plain
    /// tar file
    #[arg(long, value_name = "ROLE")]
    pub(crate) object: Option<String>,
    #[command(flatten)]
    pub(crate) vault: VaultArgs,
    #[command(flatten)]
    pub(crate) keys: KeyArgs,
}

/// Store plain snapshots, or copied member/snap/db files, in the vault
///
/// Each is checked as `verify` would before it is listed.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  etcdvault import snapshot.db --cluster prod --vault /srv/etcd-vault"
)]
pub(crate) struct ImportArgs {
    /// Files to store
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// The cluster's name in the vault [env: ETCDVAULT_CLUSTER]
    #[arg(long, value_name = "NAME")]
    pub(crate) cluster: Option<String>,
    /// The cluster's id in hexadecimal, where it is known: keeps the snapshot in its
    /// lineage
    #[arg(long, value_name = "HEX")]
    pub(crate) cluster_id: Option<String>,
    /// Attach a label to the backup
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = label)]
    pub(crate) labels: Vec<(String, String)>,
    #[command(flatten)]
    pub(crate) write: WriteArgs,
    #[command(flatten)]
    pub(crate) vault: VaultArgs,
    #[command(flatten)]
    pub(crate) keys: KeyArgs,
}

/// Look inside a snapshot, a database, a stopped data directory or a backup
///
/// Tells what `etcdutl snapshot status` and `etcdutl hashkv` tell, and checks every
/// page, record and bucket. Changes nothing. Exit code 20 when it is damaged.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    etcdvault inspect snapshot.db\n  \
    etcdvault inspect /var/lib/etcd\n  \
    etcdvault inspect latest --vault /srv/etcd-vault --json | jq .hash_kv")]
pub(crate) struct InspectArgs {
    /// A file, a data directory, or a backup (id, latest, time)
    #[arg(value_name = "WHAT")]
    pub(crate) what: OsString,
    /// HashKV at this revision too [default: the last]
    #[arg(long, value_name = "REVISION")]
    pub(crate) revision: Option<i64>,
    /// Leave the trailing SHA-256 of a file unchecked, as `etcdutl snapshot status` does:
    /// faster, and free pages are not read
    #[arg(long)]
    pub(crate) skip_hash_check: bool,
    /// Only this cluster's backups [env: ETCDVAULT_CLUSTER]
    #[arg(long, value_name = "NAME")]
    pub(crate) cluster: Option<String>,
    #[command(flatten)]
    pub(crate) vault: VaultArgs,
    #[command(flatten)]
    pub(crate) keys: KeyArgs,
}

/// Bring data back
#[derive(Debug, Subcommand)]
pub(crate) enum RestoreCommand {
    Cluster(Box<super::cluster::RestoreClusterArgs>),
    DataDir(Box<RestoreDataDirArgs>),
}

/// Build a data directory that etcd boots from, without any etcd program
///
/// Flags and meanings are those of `etcdutl snapshot restore`, except that the
/// revision is bumped by 1,000,000,000 and marked compacted by default (Kubernetes
/// needs that; --bump-revision 0 turns both off), and that the cluster token is random
/// unless given. The directory appears complete or not at all.
///
/// A cluster of several members needs the same token on all: give
/// --initial-cluster-token, or build them all in one run with --all-members.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    etcdvault restore data-dir latest --vault /srv/etcd-vault --data-dir /var/lib/etcd-new \\\n    \
      --name m1 --initial-cluster m1=https://10.0.0.11:2380 \\\n    \
      --initial-advertise-peer-urls https://10.0.0.11:2380\n  \
    etcdvault restore data-dir snapshot.db --data-dir /tmp/members --all-members \\\n    \
      --initial-cluster m1=http://127.0.0.1:2380,m2=http://127.0.0.1:3380\n  \
    zstd -dc snapshot.db.zst | etcdvault restore data-dir - --data-dir /var/lib/etcd-new")]
pub(crate) struct RestoreDataDirArgs {
    /// A backup (id, latest, time), a snapshot file, or - for standard input
    #[arg(value_name = "SOURCE")]
    pub(crate) source: OsString,
    /// The data directory to make; with --all-members the folder for one directory each
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// Name of the member
    #[arg(long, default_value = "default", value_name = "NAME", conflicts_with = "all_members")]
    pub(crate) name: String,
    /// All members as name=peer-url, comma-separated
    #[arg(long, default_value = "default=http://localhost:2380", value_name = "NAME=URL,…")]
    pub(crate) initial_cluster: String,
    /// Token that sets this cluster apart [default: random]
    #[arg(long, value_name = "TOKEN")]
    pub(crate) initial_cluster_token: Option<String>,
    /// Peer URLs of this member
    #[arg(
        long,
        default_value = "http://localhost:2380",
        value_name = "URL,…",
        conflicts_with = "all_members"
    )]
    pub(crate) initial_advertise_peer_urls: String,
    /// Put the write-ahead log here [default: inside the data directory]
    #[arg(long, value_name = "DIR", conflicts_with = "all_members")]
    pub(crate) wal_dir: Option<PathBuf>,
    /// Add this to the revision and mark everything below compacted; 0 turns both off
    #[arg(long, default_value_t = 1_000_000_000, value_name = "N", allow_negative_numbers = true)]
    pub(crate) bump_revision: u64,
    /// Whether to mark everything below the bumped revision compacted
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub(crate) mark_compacted: Option<bool>,
    /// Accept a database without its trailing SHA-256, as copied from a data directory
    #[arg(long)]
    pub(crate) skip_hash_check: bool,
    /// One directory for each name of --initial-cluster, below --data-dir
    #[arg(long)]
    pub(crate) all_members: bool,
    /// Build it although this machine runs a Kubernetes that restores etcd by a command of
    /// its own, such as k3s
    #[arg(long)]
    pub(crate) for_another_machine: bool,
    /// Version of the etcd that will run on it: a store too new for it is refused
    #[arg(long, value_name = "VERSION")]
    pub(crate) etcd_version: Option<String>,
    /// Owner of the files: user[:group], by name or number [default: where you may give
    /// files away, that of a directory that is there already, or of the one that a missing
    /// one will lie in; else yourself]
    #[arg(long, value_name = "USER[:GROUP]")]
    pub(crate) owner: Option<String>,
    /// Mode of the directories, octal; files have it without the execute bits. etcd expects
    /// its data directory to be 0700
    #[arg(long, default_value = "0700", value_name = "MODE", value_parser = mode)]
    pub(crate) mode: u32,
    /// Only this cluster's backups [env: ETCDVAULT_CLUSTER]
    #[arg(long, value_name = "NAME")]
    pub(crate) cluster: Option<String>,
    #[command(flatten)]
    pub(crate) vault: VaultArgs,
    #[command(flatten)]
    pub(crate) keys: KeyArgs,
}

/// Permission bits that leave the owner all that etcd needs.
fn mode(text: &str) -> Result<u32, String> {
    let octal = !text.is_empty() && text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit());
    let mode = if octal { u32::from_str_radix(text, 8).ok() } else { None };
    match mode {
        Some(mode) if mode <= 0o777 && mode & 0o700 == 0o700 => Ok(mode),
        _ => Err("an octal mode from 0700 to 0777 is expected".to_owned()),
    }
}

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  etcdvault completions bash > /etc/bash_completion.d/etcdvault")]
pub(crate) struct CompletionsArgs {
    /// Which shell
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

/// Write the manual pages into a directory
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  etcdvault man /usr/local/share/man/man1")]
pub(crate) struct ManArgs {
    /// An existing directory
    #[arg(value_name = "DIR")]
    pub(crate) directory: PathBuf,
}

/// Which backup.
#[derive(Debug, Clone, Args)]
pub(crate) struct WhichArgs {
    /// An id or its start, latest, or a time (the newest before it)
    #[arg(value_name = "BACKUP")]
    pub(crate) backup: String,
    /// Only this cluster's backups [env: ETCDVAULT_CLUSTER]
    #[arg(long, value_name = "NAME")]
    pub(crate) cluster: Option<String>,
}

/// Where the vault is.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Vault")]
pub(crate) struct VaultArgs {
    /// A directory, s3://bucket/prefix, or a name in etcdvault.toml [env: ETCDVAULT_VAULT]
    #[arg(long, value_name = "VAULT")]
    pub(crate) vault: Option<String>,
    /// URL of a store that is not AWS [env: ETCDVAULT_S3_ENDPOINT_URL]
    #[arg(long, value_name = "URL", hide_short_help = true)]
    s3_endpoint_url: Option<String>,
    /// Region of the bucket [default: found out] [env: ETCDVAULT_S3_REGION]
    #[arg(long, value_name = "REGION", hide_short_help = true)]
    s3_region: Option<String>,
    /// Bucket in the path instead of the host name: auto, on or off [env: ETCDVAULT_S3_PATH_STYLE]
    #[arg(long, value_name = "WHEN", hide_short_help = true)]
    s3_path_style: Option<String>,
    /// PEM file with the only certificate authorities to trust for the store [env: ETCDVAULT_S3_CA_FILE]
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    s3_ca_file: Option<String>,
    /// Checksum of uploads: auto, crc64nvme, crc32c, sha256 or none [env: ETCDVAULT_S3_CHECKSUM]
    #[arg(long, value_name = "KIND", hide_short_help = true)]
    s3_checksum: Option<String>,
    /// Encryption by the store: none, s3, kms or kms:KEY-ID [env: ETCDVAULT_S3_SSE]
    #[arg(long, value_name = "KIND", hide_short_help = true)]
    s3_sse: Option<String>,
    /// Profile of the AWS configuration files [env: ETCDVAULT_S3_PROFILE]
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    s3_profile: Option<String>,
    /// Size of the parts of an upload in MiB [env: ETCDVAULT_S3_PART_SIZE]
    #[arg(long, value_name = "MIB", hide_short_help = true)]
    s3_part_size: Option<String>,
    /// How often a request is tried in all [env: ETCDVAULT_S3_ATTEMPTS]
    #[arg(long, value_name = "N", hide_short_help = true)]
    s3_attempts: Option<String>,
    /// Seconds until a connection must stand [env: ETCDVAULT_S3_CONNECT_TIMEOUT]
    #[arg(long, value_name = "SECONDS", hide_short_help = true)]
    s3_connect_timeout: Option<String>,
    /// Seconds of silence after which an attempt is given up [env: ETCDVAULT_S3_READ_TIMEOUT]
    #[arg(long, value_name = "SECONDS", hide_short_help = true)]
    s3_read_timeout: Option<String>,
    /// Seconds for one request with all of its attempts [env: ETCDVAULT_S3_TOTAL_TIMEOUT]
    #[arg(long, value_name = "SECONDS", hide_short_help = true)]
    s3_total_timeout: Option<String>,
}

impl VaultArgs {
    pub(crate) fn raw(&self) -> RawPlace {
        let s3 = [
            ("endpoint-url", &self.s3_endpoint_url),
            ("region", &self.s3_region),
            ("path-style", &self.s3_path_style),
            ("ca-file", &self.s3_ca_file),
            ("checksum", &self.s3_checksum),
            ("sse", &self.s3_sse),
            ("profile", &self.s3_profile),
            ("part-size", &self.s3_part_size),
            ("attempts", &self.s3_attempts),
            ("connect-timeout", &self.s3_connect_timeout),
            ("read-timeout", &self.s3_read_timeout),
            ("total-timeout", &self.s3_total_timeout),
        ];
        RawPlace {
            vault: self.vault.clone(),
            s3: s3.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))).collect(),
        }
    }
}

/// What opens an encrypted vault.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Keys")]
pub(crate) struct KeyArgs {
    /// File with age identities [env: ETCDVAULT_IDENTITY_FILE; the text itself:
    /// ETCDVAULT_IDENTITY]
    #[arg(long, value_name = "FILE")]
    identity_file: Option<PathBuf>,
    /// Command that prints age identities [env: ETCDVAULT_IDENTITY_COMMAND]
    #[arg(long, value_name = "COMMAND")]
    identity_command: Option<String>,
    /// File with the passphrase [env: ETCDVAULT_PASSPHRASE_FILE; the text itself:
    /// ETCDVAULT_PASSPHRASE]
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Command that prints the passphrase [env: ETCDVAULT_PASSPHRASE_COMMAND]
    #[arg(long, value_name = "COMMAND")]
    passphrase_command: Option<String>,
}

impl KeyArgs {
    /// Whether a flag gives a passphrase.
    pub(crate) fn has_passphrase(&self) -> bool {
        self.passphrase_file.is_some() || self.passphrase_command.is_some()
    }

    pub(crate) fn raw(&self) -> RawKeys {
        RawKeys {
            identity_file: self.identity_file.clone(),
            identity_command: self.identity_command.clone(),
            passphrase_file: self.passphrase_file.clone(),
            passphrase_command: self.passphrase_command.clone(),
        }
    }
}

/// How objects are written.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Writing")]
pub(crate) struct WriteArgs {
    /// zstd level, 1 to 19 [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=19), env = "ETCDVAULT_COMPRESSION_LEVEL", hide_env_values = true)]
    compression_level: Option<i32>,
    /// Threads that compress [default: one for each processor, at most 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64), env = "ETCDVAULT_WORKERS", hide_env_values = true)]
    workers: Option<u16>,
    /// Where compressed output waits for a slow store, in a file without a name
    /// [default: TMPDIR, else /var/tmp]
    #[arg(
        long,
        value_name = "DIR",
        hide_short_help = true,
        env = "ETCDVAULT_SPOOL_DIR",
        hide_env_values = true
    )]
    spool_dir: Option<PathBuf>,
    /// The most MiB that may wait there before the backup is given up [default: 4096]
    #[arg(
        long,
        value_name = "MIB",
        hide_short_help = true,
        env = "ETCDVAULT_SPOOL_LIMIT",
        hide_env_values = true
    )]
    spool_limit: Option<u32>,
}

impl WriteArgs {
    pub(crate) fn raw(&self) -> WriteSettings {
        WriteSettings {
            compression_level: self.compression_level,
            workers: self.workers,
            spool_dir: self.spool_dir.clone(),
            spool_limit: self.spool_limit,
        }
    }
}

/// Look at the configuration
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    Check(ConfigCheckArgs),
    Show(Box<ConfigShowArgs>),
}

/// Check etcdvault.toml: every key, and every file that it names
///
/// Says what was looked at. Changes nothing, runs none of its commands and connects to
/// nothing. Exit code 2 when something cannot work.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    etcdvault config check\n  \
    etcdvault config check ./etcdvault.toml --json")]
pub(crate) struct ConfigCheckArgs {
    /// The file [default: the one that commands use]
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
}

/// Print each setting that holds, and who says so
///
/// Flag, environment variable, line of etcdvault.toml, or default. Of passwords and keys
/// only the source is shown.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    etcdvault config show --cluster prod\n  \
    etcdvault config show --json | jq -r '.vault[] | [.name, .value, .origin] | @tsv'")]
pub(crate) struct ConfigShowArgs {
    /// The cluster [default: the only one of the file] [env: ETCDVAULT_CLUSTER]
    #[arg(long, value_name = "NAME")]
    pub(crate) cluster: Option<String>,
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
    #[command(flatten)]
    pub(crate) vault: VaultArgs,
    #[command(flatten)]
    pub(crate) keys: KeyArgs,
}

/// The most bytes that a manifest takes.
const MAX_LABEL: usize = 1_000;

pub(crate) fn label(text: &str) -> Result<(String, String), String> {
    if crate::operation::vocabulary::printable(text) != text {
        return Err("a label holds no control characters".to_owned());
    }
    match text.split_once('=') {
        Some((name, value)) if name.len() > MAX_LABEL || value.len() > MAX_LABEL => {
            Err(format!("a label's name and its value have at most {MAX_LABEL} bytes"))
        }
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("a label is NAME=VALUE".to_owned()),
    }
}

/// Show every member of the live cluster
///
/// A member that does not answer is a row with its error (exit code 3); when no
/// member answers the exit code is 30.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    etcdvault status --endpoints https://10.0.0.11:2379 --cacert ca.crt --cert c.crt --key c.key\n  \
    etcdvault status --json | jq '.members[].status.raft_index'")]
pub(crate) struct StatusArgs {
    /// The cluster, as etcdvault.toml names it [env: ETCDVAULT_CLUSTER]
    #[arg(long, value_name = "NAME")]
    pub(crate) cluster: Option<String>,
    #[command(flatten)]
    pub(crate) connection: ConnectionArgs,
}

/// How to reach etcd, as etcdctl has it.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ConnectionArgs {
    /// Members to ask, comma-separated [default: 127.0.0.1:2379] [env: ETCDCTL_ENDPOINTS]
    #[arg(long, value_name = "URL,…")]
    endpoints: Option<String>,
    /// Find the members by the SRV records of this domain: _etcd-client-ssl._tcp, then
    /// _etcd-client._tcp [env: ETCDCTL_DISCOVERY_SRV]
    #[arg(long, value_name = "DOMAIN")]
    discovery_srv: Option<String>,
    /// Suffix of the service in these records: _etcd-client-ssl-NAME._tcp
    /// [env: ETCDCTL_DISCOVERY_SRV_NAME]
    #[arg(long, value_name = "NAME")]
    discovery_srv_name: Option<String>,
    /// Name server to ask for these records, where those of /etc/resolv.conf do not know
    /// them [env: ETCDVAULT_DISCOVERY_SRV_NAMESERVER]
    #[arg(long, value_name = "IP[:PORT]", hide_short_help = true)]
    discovery_srv_nameserver: Option<String>,
    /// CA that signed the members' certificates (PEM) [env: ETCDCTL_CACERT]
    #[arg(long, value_name = "FILE")]
    cacert: Option<PathBuf>,
    /// Client certificate (PEM) [env: ETCDCTL_CERT]
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// Key of the client certificate (PEM) [env: ETCDCTL_KEY]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// etcd user; the password comes from --password-file or ETCDCTL_PASSWORD [env: ETCDCTL_USER]
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// File with the etcd user's password [env: ETCDVAULT_PASSWORD_FILE]
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Bound on connecting [default: 5s] [env: ETCDCTL_DIAL_TIMEOUT]
    #[arg(long, value_name = "TIME")]
    dial_timeout: Option<String>,
    /// Bound on a short call [default: 10s] [env: ETCDCTL_COMMAND_TIMEOUT]
    #[arg(long, value_name = "TIME")]
    command_timeout: Option<String>,
}

impl ConnectionArgs {
    pub(crate) fn raw(&self) -> RawConnection {
        RawConnection {
            endpoints: self.endpoints.clone(),
            discovery_srv: self.discovery_srv.clone(),
            discovery_srv_name: self.discovery_srv_name.clone(),
            discovery_srv_nameserver: self.discovery_srv_nameserver.clone(),
            cacert: self.cacert.clone(),
            cert: self.cert.clone(),
            key: self.key.clone(),
            user: self.user.clone(),
            password_file: self.password_file.clone(),
            dial_timeout: self.dial_timeout.clone(),
            command_timeout: self.command_timeout.clone(),
        }
    }
}
