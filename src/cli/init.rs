//! `etcdvault init`.

use super::args::InitArgs;
use super::exit_code::Exit;
use super::human::{plural, printable};
use super::output::Output;
use crate::config::place::RawPlace;
use crate::config::{Choice, Setup};
use crate::operation::vaults::{self, InitReport};
use crate::operation::vocabulary::{EncryptionChoice, WORK_FACTOR, parse_recipients};
use crate::operation::{Failure, FailureKind};

pub(crate) async fn run(args: InitArgs, output: &Output, setup: &Setup) -> Result<Exit, Failure> {
    let mut raw = args.vault.raw();
    if let (Some(positional), Some(flag)) = (&args.place, &raw.vault)
        && positional != flag
    {
        return Err(Failure::new(
            FailureKind::Usage,
            format!("two vaults are named: {positional} and --vault {flag}"),
        ));
    }
    raw.vault = args.place.clone().or(raw.vault);
    let choice = setup.choose(None)?;
    let place = choice.place(&raw)?;
    if let Some(cluster) = &args.print_policy {
        output.text(&vaults::writer_policy(&place, cluster)?);
        return Ok(Exit::Ok);
    }
    if args.print_lifecycle {
        output.text(&vaults::lifecycle(&place)?);
        return Ok(Exit::Ok);
    }
    let encryption = encryption(&args, &raw, &choice).await?;
    let readable = matches!(encryption, EncryptionChoice::None);
    let report = output.waiting("making the vault", vaults::init(&place, encryption)).await?;
    if readable {
        output.note(
            "warning: this vault is not encrypted: whoever can read it can read every Kubernetes \
             Secret in its backups",
        );
    }
    output.result(&report, || text(&report, &raw));
    Ok(Exit::Ok)
}

async fn encryption(
    args: &InitArgs,
    place: &RawPlace,
    choice: &Choice<'_>,
) -> Result<EncryptionChoice, Failure> {
    if args.no_encryption {
        return Ok(EncryptionChoice::None);
    }
    let named = match args.recipients.is_empty() {
        // A passphrase that is given goes before what the configuration says.
        true if !args.keys.has_passphrase() => choice.recipients(place),
        _ => args.recipients.clone(),
    };
    if !named.is_empty() {
        let recipients = parse_recipients(&named).map_err(|error| {
            Failure::new(FailureKind::Key, error.to_string())
                .hint("age-keygen -o identity.txt makes a pair and prints the public key, age1…")
        })?;
        return Ok(EncryptionChoice::Recipients(recipients));
    }
    if let Some(passphrase) =
        choice.passphrase(place, &args.keys.raw()).await.map_err(Failure::of_key)?
    {
        return Ok(EncryptionChoice::Passphrase { passphrase, work_factor: WORK_FACTOR });
    }
    Err(Failure::new(FailureKind::Usage, "it is not said who may read this vault").hint(
        "--recipient age1… (age-keygen -o identity.txt makes a key pair), --passphrase-file FILE, \
         or --no-encryption where everybody who can read the store may read every Secret",
    ))
}

fn text(report: &InitReport, place: &RawPlace) -> String {
    let mut text = format!("vault {} created at {}\n", report.id, report.location);
    match report.encryption {
        "none" => text.push_str("  not encrypted\n"),
        "passphrase" => {
            text.push_str("  encrypted to a passphrase: without it nothing can be read\n")
        }
        _ => {
            text.push_str("  encrypted to\n");
            for recipient in &report.recipients {
                text.push_str(&format!("    {recipient}\n"));
            }
            text.push_str(
                "  keep an identity (AGE-SECRET-KEY-…) outside this machine: without one nothing can be read\n",
            );
        }
    }
    for line in store_lines(&report.store) {
        text.push_str(&format!("  {}\n", printable(&line)));
    }
    let location = super::hints::shell_word(&report.location);
    if report.store["kind"] == "s3" {
        // The policy's language depends on whose store it is.
        let endpoint = place.s3.iter().find(|(name, _)| *name == "endpoint-url");
        let endpoint = endpoint.map_or_else(String::new, |(name, url)| {
            format!(" --s3-{name} {}", super::hints::shell_word(url))
        });
        text.push_str(&format!(
            "  rights for a node that can only add backups:\n    \
             etcdvault init {location}{endpoint} --print-policy CLUSTER\n"
        ));
    }
    text.push_str(&format!("next: etcdvault backup --vault {location}\n"));
    text
}

/// What the store honours, in words; `docs/s3.md` says how it was found out.
fn store_lines(store: &serde_json::Value) -> Vec<String> {
    if store["kind"] == "directory" {
        return vec!["in a directory; nothing in it is ever overwritten".to_owned()];
    }
    let mut lines = Vec::new();
    let region = store["region"].as_str().unwrap_or("unknown");
    lines.push(match store["server"].as_str() {
        Some(server) => format!("on S3 ({server}), region {region}"),
        None => format!("on S3, region {region}"),
    });
    lines.push(match (store["put_new"].as_bool(), store["complete_new"].as_bool()) {
        (Some(true), Some(true)) => "the store refuses to overwrite".to_owned(),
        (Some(true), _) => {
            "the store refuses to overwrite small objects; large ones are looked for first"
                .to_owned()
        }
        _ => "the store would overwrite: names are looked for first, and are unique".to_owned(),
    });
    lines.push(match store["checksum"].as_str() {
        Some(kind) => format!("the store checks uploads against {kind}"),
        None => {
            "the store checks no uploads; the vault's own SHA-256 does, when it is read".to_owned()
        }
    });
    if let Some(skew) = store["clock_skew_seconds"].as_i64().filter(|skew| skew.abs() >= 60) {
        lines.push(format!("warning: the store's clock and this one are {} s apart", skew.abs()));
    }
    let left = store["left"].as_array().map_or(0, Vec::len);
    if left > 0 {
        lines.push(format!(
            "{} of the probe could not be deleted, and may be at any time",
            plural(left, "object")
        ));
    }
    lines
}
