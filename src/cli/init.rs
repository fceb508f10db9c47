//! `etcdvault init`.

use vault::encryption::{EncryptionChoice, WORK_FACTOR, parse_recipients};

use super::args::InitArgs;
use super::exit_code::Exit;
use super::output::Output;
use super::settings;
use crate::config::{Env, place};
use crate::operation::vaults::{self, InitReport};
use crate::operation::{Failure, FailureKind};

pub(crate) async fn run(args: InitArgs, output: &Output, env: &Env) -> Result<Exit, Failure> {
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
    let place = place::resolve(&raw, env)?;
    let encryption = encryption(&args, env).await?;
    if matches!(encryption, EncryptionChoice::None) {
        output.note(
            "warning: this vault is not encrypted: whoever can read it can read every Kubernetes \
             Secret in its backups",
        );
    }
    let report = vaults::init(&place, encryption).await?;
    output.result(&report, || text(&report));
    Ok(Exit::Ok)
}

async fn encryption(args: &InitArgs, env: &Env) -> Result<EncryptionChoice, Failure> {
    if args.no_encryption {
        return Ok(EncryptionChoice::None);
    }
    if !args.recipients.is_empty() {
        let recipients = parse_recipients(&args.recipients).map_err(|error| {
            Failure::new(FailureKind::Key, error.to_string())
                .hint("age-keygen -o identity.txt makes a pair and prints the public key, age1…")
        })?;
        return Ok(EncryptionChoice::Recipients(recipients));
    }
    if let Some(passphrase) = settings::passphrase(&args.keys, env).await? {
        return Ok(EncryptionChoice::Passphrase { passphrase, work_factor: WORK_FACTOR });
    }
    Err(Failure::new(FailureKind::Usage, "it is not said who may read this vault").hint(
        "--recipient age1… (age-keygen -o identity.txt makes a key pair), --passphrase-file FILE, \
         or --no-encryption where everybody who can read the store may read every Secret",
    ))
}

fn text(report: &InitReport) -> String {
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
    if let Some(facts) = report.store.as_object() {
        text.push_str("  the store:");
        for (name, value) in facts {
            text.push_str(&format!(" {name}={value}"));
        }
        text.push('\n');
    }
    text.push_str("next: etcdvault backup --vault ");
    text.push_str(&super::hints::shell_word(&report.location));
    text.push('\n');
    text
}
